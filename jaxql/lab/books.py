"""The books of one seed of a run: rows of metrics, tests, checkpoints and the stop rule, between chunks of rounds."""

import math
import time
from collections import deque

import jax
import numpy as np

from jaxql.errors import UserError
from jaxql.lab import checkpoint, evaluation
from jaxql.lab.runs import Run


class Books:
    """What is known of one seed, and written down: the same whether it is trained alone or with others.

    A chunk is so many rounds that nothing falls due within it but at its end, as far as env steps can be foretold. It
    depends on this seed alone, and may be played in parts: `take` each of them, then `close_chunk`.

    Args:
      agent: of one seed, compiled.
      config: its settings.
      settings: the RunSettings.
      env: the envs, for their `mdp`.
      make_env: makes the test envs.
      files: the RunFiles of its folder.
      callback: called with every row of metrics; what it says may end the run.
      show: called with (row, seconds), to show them to a person.
      seed: the seed.
    """

    def __init__(self, agent, config, settings, env, make_env, files, callback, show, seed):
        self.agent, self.config, self.settings, self.env, self.make_env = agent, config, settings, env, make_env
        self.files, self.callback, self.show, self.seed = files, callback, show, seed
        self.began = time.perf_counter()
        self.recent = deque(maxlen=100)  # returns of the last training episodes
        self.fresh = []  # returns of those since the last row
        self.episodes = self.env_steps = self.tests = 0
        self.next_log, self.next_test = settings.log_every, settings.eval_every
        self.next_save = settings.checkpoint_every
        self.testing = settings.eval_from == -math.inf
        self.best, self.tested, self.solved, self.over = None, False, False, False
        self.test_env, self.test_mean = None, math.nan
        self.chunks = []  # metrics since the last row
        self.parts, self.played = [], []  # metrics and episodes of the chunk under way
        self.rounds = self.chunk(math.ceil(config.warmup_steps / config.num_envs))  # left of it
        self.closing = []  # lines for the person who runs this, at the end

    def chunk(self, warmup: int = 0) -> int:
        """The rounds of the next chunk, before which there are so many ticks of warmup."""
        config, settings = self.config, self.settings
        ahead = settings.steps - self.env_steps - warmup * config.num_envs
        return max(1, min(settings.log_every, settings.eval_every, ahead) // (config.num_envs * config.rollout_length))

    def take(self, rounds: int, metrics, episodes) -> None:
        """Some rounds of the chunk: their metrics, leaves [rounds, updates], and the episodes that finished in them."""
        self.rounds -= rounds
        self.parts.append(metrics)
        self.played += episodes

    def close_chunk(self, state) -> None:
        """Keeps the books after a chunk, at whose end `state` is the agent's; `over` says whether the run is."""
        self.env_steps = int(state.env_steps)
        self.chunks.append(jax.tree.map(lambda *x: np.concatenate(x), *self.parts))
        if not np.all(np.isfinite(self.chunks[-1]["loss"])):
            raise UserError(
                f"the loss is not finite after {self.env_steps} env steps; lower learning_rate or set "
                f"max_gradient_norm; the checkpoints in {self.files.folder} are from before"
            )
        for episode in self.played:
            self.episodes += 1
            self.recent.append(episode.return_)
            self.fresh.append(episode.return_)
        self.parts, self.played = [], []
        self.over = self.settle(state) or self.env_steps >= self.settings.steps
        self.rounds = self.chunk()

    def settle(self, state) -> bool:
        """Does what is due; returns whether the run is to stop."""
        settings, due = self.settings, self.env_steps >= self.next_test
        if not self.testing and len(self.recent) >= 10 and np.mean(list(self.recent)[-10:]) > settings.eval_from:
            self.testing = due = True
        if due:
            self.next_test = (self.env_steps // settings.eval_every + 1) * settings.eval_every
            self.test(state) if self.testing else self.keep_best(state, self.return_mean)
        if self.env_steps >= self.next_save:
            self.next_save = (self.env_steps // settings.checkpoint_every + 1) * settings.checkpoint_every
            self.save("last", state, self.return_mean)
        if settings.solved_by == "training" and len(self.recent) == self.recent.maxlen:
            self.solved |= self.passes(self.return_mean)
        stop = self.solved and settings.stop_when_solved
        if due or stop or self.env_steps >= min(self.next_log, settings.steps):
            self.next_log = (self.env_steps // settings.log_every + 1) * settings.log_every
            stop = bool(self.row(state)) or stop
        return stop

    @property
    def return_mean(self) -> float:
        """Of the last 100 training episodes."""
        return float(np.mean(self.recent)) if self.recent else math.nan

    def passes(self, mean: float) -> bool:
        return mean > self.settings.solved_at if self.settings.solved_strictly else mean >= self.settings.solved_at

    def test(self, state) -> None:
        """Plays full episodes with epsilon 0 in envs of their own, and keeps the parameters if they are the best."""
        if self.test_env is None:
            self.test_env = self.make_env(self.settings.eval_episodes, seed=self.seed, purpose="test")
        key = jax.random.fold_in(jax.random.key(self.seed), 0x7E57 + self.tests)
        self.tests += 1
        result = evaluation.evaluate(self.agent, state.params, self.test_env, key)
        self.test_mean = float(np.mean(result.returns))
        if not self.tested:
            self.tested, self.best = True, None  # a test counts for more than any training episodes
        self.keep_best(state, self.test_mean)
        if self.settings.solved_by == "evaluation":
            self.solved |= self.passes(self.test_mean)

    def keep_best(self, state, score: float) -> None:
        """Writes the best checkpoint if the score is higher than before."""
        if self.best is None or score > self.best or math.isnan(self.best):
            self.best = score
            self.save("best", state, score)

    def save(self, name: str, state, score: float) -> None:
        metadata = {"env_steps": self.env_steps, "score": score, "scored_by": "test" if self.tested else "training"}
        checkpoint.save(self.files.folder / "checkpoints" / name, state.params, metadata)

    def row(self, state):
        """A row of metrics; returns what the callback says."""
        seconds = time.perf_counter() - self.began
        means = {name: float(np.mean([np.mean(chunk[name]) for chunk in self.chunks])) for name in self.chunks[0]}
        if "epsilon" in means:
            means["epsilon"] = float(self.chunks[-1]["epsilon"].flat[-1])
        row = {
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "return_mean": self.return_mean,
            **means,
            "updates": int(state.updates),
            "eval_return": self.test_mean,
        }
        self.files.append(row)
        speed = self.files.timing(self.env_steps, seconds)
        fresh = float(np.mean(self.fresh)) if self.fresh else math.nan
        for name, value in {"reward": fresh, "reward_100": self.return_mean, "speed": speed}.items():
            self.files.scalar(name, value, self.env_steps)
        self.show(row, seconds)
        self.chunks, self.fresh, self.test_mean = [], [], math.nan
        return self.callback(row) if self.callback else False

    def finish(self, state, interrupted: bool) -> Run:
        """The last checkpoint, the closing lines and the Run."""
        if self.best is None:
            self.keep_best(state, self.return_mean)
        self.save("last", state, self.return_mean)
        if self.test_env is not None:
            self.test_env.close()
        seconds = time.perf_counter() - self.began
        run = Run(
            self.files.folder,
            self.agent,
            self.make_env,
            self.config,
            jax.eval_shape(lambda: state.params),
            state,
            solved=self.solved,
            interrupted=interrupted,
            env_steps=self.env_steps,
            seconds=seconds,
            best_score=self.best,
        )
        if self.env.mdp is not None and isinstance(state.params, dict) and "q_values" in state.params:
            self.closing.append(evaluation.exact_report(self.env.mdp, run.best_params()["q_values"]))
        self.closing.append(self.verdict(seconds))
        return run

    def verdict(self, seconds: float) -> str:
        """The last line."""
        settings = self.settings
        rule = f"{'>' if settings.solved_strictly else '>='} {settings.solved_at:g}"
        of = (
            f"{settings.eval_episodes} evaluation episodes"
            if settings.solved_by == "evaluation"
            else "the last 100 training episodes"
        )
        best = "none" if self.best is None or math.isnan(self.best) else f"{self.best:.2f}"
        scored = "test" if self.tested else "training"
        said = "solved" if self.solved else "not solved"
        if settings.solved_at == math.inf:
            said = "finished"
            rule = "none"
        return (
            f"{said} after {self.env_steps} env steps and {seconds:.1f} s: best mean {scored} return {best} "
            f"(rule: mean of {of} {rule}); run folder {self.files.folder}"
        )
