"""The record of one seed of a run: metrics, evaluations, checkpoints, and the rule that ends it."""

import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxql.agents.state import State
from jaxql.envs.host import Episode
from jaxql.errors import UserError
from jaxql.lab import checkpoint
from jaxql.lab.clock import Stopwatch
from jaxql.lab.environments import Env, EnvMaker
from jaxql.lab.evaluation import EvaluationStopped, Evaluator
from jaxql.lab.exact import MEASURES, ModelComparison
from jaxql.lab.files import RunFiles
from jaxql.lab.health import Health, Signs, failure
from jaxql.lab.runs import Run
from jaxql.lab.settings import RunSettings
from jaxql.types import Agent, EnvSpec

FINAL_PAUSES = (0.1, 1.0, 3.0)  # seconds after each failed write of the last checkpoint
EVALUATION_KEYS = 0x7E57  # folded into the seed's key, together with the number of the evaluation
COLUMNS = {  # of metrics.csv: those of every agent; its learner's own metrics follow `return_mean`
    "env_steps": "valid steps of all envs together since the start",
    "episodes": "finished training episodes since the start",
    "return_mean": "mean raw return of the last 100 training episodes; empty before the first",
    "loss": "mean loss of the updates since the last row",
    "epsilon": "exploration rate of the last update",
    "gradient_norm": "mean global norm of the gradient since the last row, before it is limited (networks)",
    "q_mean": "mean action value of the sampled states and actions since the last row (networks)",
    "updates": "gradient steps or table updates since the start",
    "eval_return": "mean raw return of the evaluation made at this row; empty where none was made",
    "q_error": "max abs(Q - Q*) over reachable states and legal actions, at an evaluation (envs with a model)",
    "exact_return": "expected raw return of the greedy policy, computed from the model, at an evaluation",
    "regret": "mean of V* - V over first states, V of the greedy policy, computed from the model, at an evaluation",
}

OUTSIDE = {  # quantities that TensorBoard and trackers get beside those columns
    "reward": "mean raw return of the training episodes that finished since the last row",
    "reward_100": "`return_mean`, by the name that other libraries give it",
    "speed": "env steps a second since the last row",
}

COUNTERS = (  # of a SeedRecorder: values that a snapshot holds
    "episodes",
    "env_steps",
    "evaluations",
    "next_log",
    "next_eval",
    "next_save",
    "evaluating",
    "solved",
    "over",
    "rounds",
)


class SeedRecorder:
    """Records the run of one seed, the same way whether it is trained alone or together with others.

    A chunk is the number of rounds until the next log, evaluation or checkpoint, if all env steps count. It depends on
    this seed alone. It may be played in parts: `add_rounds` for each of them, then `close_chunk`.

    Args:
      agent: of one seed, its functions compiled.
      evaluator: of the agent.
      config: settings of the agent.
      settings: settings of the run.
      spec: what the envs show to the agent.
      comparison: of the agent with the env's model, where there is one.
      make_env: makes the evaluation envs.
      files: the folder of this seed's run.
      callback: called with every row of metrics; a true result ends the run.
      show: called with (row, seconds), to show them to a person.
      seed: the seed.

    Attributes:
      rounds: rounds left of the present chunk.
      over: whether the run of this seed has ended.
      closing_lines: what to tell the person at the end.
    """

    def __init__(
        self,
        agent: Agent,
        evaluator: Evaluator,
        config: Any,
        settings: RunSettings,
        spec: EnvSpec,
        comparison: ModelComparison | None,
        make_env: EnvMaker,
        files: RunFiles,
        callback: Callable[[dict[str, Any]], Any] | None,
        show: Callable[[dict[str, Any], float], Any],
        seed: int,
    ):
        self.agent, self.evaluator, self.config, self.settings = agent, evaluator, config, settings
        self.spec, self.comparison, self.make_env, self.files, self.seed = spec, comparison, make_env, files, seed
        self.callback, self.show = callback, show
        self.watch = Stopwatch()
        self.health: Health | None = None
        self.recent: deque[float] = deque(maxlen=100)  # returns of the last training episodes
        self.fresh: list[float] = []  # returns of those since the last row
        self.episodes = self.env_steps = self.evaluations = 0
        self.next_log, self.next_eval = settings.log_every, settings.eval_every
        self.next_save = settings.checkpoint_every
        self.evaluating = settings.eval_from == -math.inf
        self.best: float | None = None  # the score of the best checkpoint
        self.solved = self.over = False
        self.eval_env: Env | None = None
        self.eval_mean = math.nan  # of an evaluation that has no row yet
        self.measures = dict.fromkeys(MEASURES, math.nan) if comparison else {}  # of the same evaluation
        self.chunks: list[Any] = []  # metrics since the last row
        self.parts: list[Any] = []  # metrics of the present chunk
        self.finished: list[Episode] = []  # episodes that finished in the present chunk
        self.rounds = self.chunk(math.ceil(config.warmup_steps / config.num_envs))
        self.closing_lines: list[str] = []

    def begin(self, signs: Signs) -> None:
        """Takes note of the state in which the run begins."""
        discounts = [getattr(self.config, name) for name in ("discount", "discount_end") if hasattr(self.config, name)]
        self.health = Health(discounts, signs)

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns all that `restore` needs, but parameters: arrays by name, and values that JSON can hold."""
        health = self.health.numbers() if self.health else []
        best = math.nan if self.best is None else self.best
        arrays = {
            "recent": np.array(self.recent, float),
            "fresh": np.array(self.fresh, float),
            "finished": np.array(self.finished, float).reshape(-1, 3),
            "numbers": np.array([best, self.eval_mean, self.watch.seconds(), *health], float),
        }
        for kind, items in (("chunks", self.chunks), ("parts", self.parts)):
            arrays |= {f"{kind}/{i}/{name}": x for i, item in enumerate(items) for name, x in item.items()}
        values = {name: getattr(self, name) for name in COUNTERS}
        values["metrics"] = list((self.chunks + self.parts or [{}])[0])
        return arrays, values | {"has_best": self.best is not None}

    def restore(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        """Goes on from the `snapshot` of another recorder, after `begin`; more steps than that had reopen its run.

        Args:
          arrays, values: of the snapshot.
        """
        for name in COUNTERS:
            if type(values[name]) is not type(getattr(self, name)):
                raise TypeError(f"{name} is {values[name]!r:.60}")
            setattr(self, name, values[name])
        self.recent.extend(arrays["recent"].tolist())
        self.fresh = arrays["fresh"].tolist()
        self.finished = [Episode(int(i), return_, int(length)) for i, return_, length in arrays["finished"].tolist()]
        best, self.eval_mean, seconds, *health = arrays["numbers"].tolist()
        self.best = best if values["has_best"] else None
        self.watch = Stopwatch(seconds)
        if self.health and health:
            self.health.restore(health)
        for kind in ("chunks", "parts"):
            count = len({name.split("/")[1] for name in arrays if name.startswith(f"{kind}/")})
            items = [{name: arrays[f"{kind}/{i}/{name}"] for name in values["metrics"]} for i in range(count)]
            setattr(self, kind, items)
        if self.over and not (self.solved and self.settings.stop_when_solved):
            self.over = self.env_steps >= self.settings.steps
            self.rounds = self.chunk()

    def chunk(self, warmup: int = 0) -> int:
        """Returns the rounds of the next chunk, which begins with `warmup` vector steps without learning."""
        config, played = self.config, self.env_steps + warmup * self.config.num_envs
        due = min(self.next_log, self.next_eval, self.next_save, self.settings.steps)
        return max(1, math.ceil((due - played) / (config.num_envs * config.rollout_length)))

    def add_rounds(self, rounds: int, metrics: Any, episodes: Sequence[Episode]) -> None:
        """Adds part of the chunk: metrics, leaves [rounds, gradient_steps] or None, and the episodes that finished.

        Raises:
          UserError: the run folder is gone.
        """
        self.files.check_present()
        self.rounds -= rounds
        self.finished += episodes
        if metrics is not None:
            self.parts.append(metrics)

    def close_chunk(self, state: State, signs: Signs) -> None:
        """Does what is due at the end of a chunk, where the agent's state is `state`, and begins the next chunk.

        Where its evaluation is stopped, the chunk stays open, with no rounds left; called again it does what is due.

        Raises:
          UserError: a number is not finite, or action values diverge; no checkpoint has such parameters.
        """
        if self.parts:
            self.absorb_parts(state, signs)
        try:
            self.over = self.run_due_work(state) or self.env_steps >= self.settings.steps
        except EvaluationStopped:
            return
        self.rounds = self.chunk()

    def absorb_parts(self, state: State, signs: Signs) -> None:
        """Takes the parts of the present chunk into the metrics. Raises UserError as `close_chunk` does."""
        self.env_steps = int(state.env_steps)
        metrics, episodes = jax.tree.map(lambda *x: np.concatenate(x), *self.parts), self.finished
        if self.health and (problem := self.health.problem(metrics, episodes, signs)):
            raise failure(problem, self.env_steps, self.checkpoints if self.checkpoints.exists() else None)
        self.chunks.append(metrics)
        returns = [episode.return_ for episode in episodes]
        self.episodes += len(returns)
        self.recent.extend(returns)
        self.fresh.extend(returns)
        self.parts, self.finished = [], []

    def run_due_work(self, state: State) -> bool:
        """Evaluates, saves and logs where due; returns whether the run is to stop.

        Raises:
          EvaluationStopped: nothing was done.
        """
        settings = self.settings
        if not self.evaluating and len(self.recent) >= 10 and np.mean(list(self.recent)[-10:]) > settings.eval_from:
            self.evaluating, self.next_eval = True, self.env_steps
        due = self.env_steps >= self.next_eval
        if due:
            if self.evaluating:
                self.evaluate(state)
            else:
                self.keep_best(state, self.return_mean)
            self.next_eval = self._next_multiple(settings.eval_every)
        if self.env_steps >= self.next_save:
            self.next_save = self._next_multiple(settings.checkpoint_every)
            self.save("last", state, self.return_mean)
        if settings.solved_by == "training" and len(self.recent) == self.recent.maxlen:
            self.solved |= self.passes(self.return_mean)
        stop = self.solved and settings.stop_when_solved
        if due or stop or self.env_steps >= min(self.next_log, settings.steps):
            self.next_log = self._next_multiple(settings.log_every)
            stop = self.log(state) or stop
        return stop

    def _next_multiple(self, period: int) -> int:
        return (self.env_steps // period + 1) * period

    @property
    def return_mean(self) -> float:
        """The mean return of the last 100 training episodes; NaN before the first."""
        return float(np.mean(self.recent)) if self.recent else math.nan

    def passes(self, mean: float) -> bool:
        """Returns whether a mean return counts as solved."""
        return mean > self.settings.solved_at if self.settings.solved_strictly else mean >= self.settings.solved_at

    def evaluate(self, state: State) -> None:
        """Plays full episodes with epsilon 0 in envs of their own, and keeps the parameters if they are the best."""
        if self.eval_env is None:
            self.eval_env = self.make_env(self.settings.eval_episodes, seed=self.seed, purpose="eval")
            self.eval_env.skip_resets(self.evaluations)  # those of a run that is resumed
        key = jax.random.fold_in(jax.random.key(self.seed), EVALUATION_KEYS + self.evaluations)
        mean = float(np.mean(self.evaluator(state.params, self.eval_env, key).returns))
        if not math.isfinite(mean):
            raise failure("the mean return of an evaluation is not finite", self.env_steps, self.checkpoints)
        if self.evaluations == 0:
            self.best = None  # an evaluation counts for more than any training episodes
        self.evaluations += 1
        self.eval_mean = mean
        if self.comparison:
            self.measures = self.comparison.measure(state.params)
        self.keep_best(state, mean)
        if self.settings.solved_by == "evaluation":
            self.solved |= self.passes(mean)

    @property
    def scored_by(self) -> str:
        """The episodes that give a checkpoint its score: "evaluation" or "training"."""
        return "evaluation" if self.evaluations else "training"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.files.folder / "checkpoints"

    def keep_best(self, state: State, score: float) -> None:
        """Writes the best checkpoint if the score is higher than that of the one before."""
        if self.best is None or score > self.best or math.isnan(self.best):
            if self.save("best", state, score):
                self.best = score

    def save(self, name: str, state: State, score: float) -> bool:
        """Writes the checkpoint `name`; where that fails, warns, keeps the one before and returns False."""
        metadata = {"env_steps": self.env_steps, "score": score, "scored_by": self.scored_by}
        self.files.check_present()
        try:
            checkpoint.save(self.checkpoints / name, state.params, metadata)
        except UserError as error:
            warnings.warn(f"{error}; it is tried again later", RuntimeWarning, stacklevel=2)
            return False
        return True

    def save_last(self, state: State) -> None:
        """Writes the last checkpoint of the run, after a pause if it fails.

        Raises:
          UserError: it failed again and again.
        """
        for seconds in FINAL_PAUSES:
            if self.save("last", state, self.return_mean):
                return
            time.sleep(seconds)
        raise UserError(f"the last checkpoint of {self.files.folder} could not be written; see the warnings before")

    def log(self, state: State) -> bool:
        """Writes and shows a row of metrics; returns whether the callback wants the run to stop."""
        seconds = self.watch.seconds()
        means = {name: float(np.mean([np.mean(chunk[name]) for chunk in self.chunks])) for name in self.chunks[0]}
        if "epsilon" in means:
            means["epsilon"] = float(self.chunks[-1]["epsilon"].flat[-1])
        row = {
            "env_steps": self.env_steps,
            "episodes": self.episodes,
            "return_mean": self.return_mean,
            **means,
            "updates": int(state.updates),
            "eval_return": self.eval_mean,
            **self.measures,
        }
        self.files.append(row)
        speed = self.files.timing(self.env_steps, seconds)
        fresh = float(np.mean(self.fresh)) if self.fresh else math.nan
        for name, value in {"reward": fresh, "reward_100": self.return_mean, "speed": speed}.items():
            self.files.scalar(name, value, self.env_steps)
        self.show(row, seconds)
        self.chunks, self.fresh, self.eval_mean = [], [], math.nan
        self.measures = dict.fromkeys(self.measures, math.nan)
        return bool(self.callback(row)) if self.callback else False

    def finish(self, state: State, interrupted: int) -> Run:
        """Writes the last checkpoint and the closing lines, and returns the Run.

        Raises:
          UserError: the checkpoint cannot be written.
        """
        self.env_steps = int(state.env_steps)
        if self.best is None:
            self.keep_best(state, self.return_mean)
        self.save_last(state)
        if self.eval_env is not None:
            self.eval_env.close()
        seconds = self.watch.seconds()
        run = self.as_run(state.params, state, interrupted)
        if not interrupted:
            self.write_result(seconds, int(state.updates))
        if self.comparison:
            best = run.best_params() if os.path.exists(self.checkpoints / "best.json") else state.params
            self.closing_lines.append(self.comparison.report(best))
        self.closing_lines.append(self.closing_line(seconds))
        return run

    def as_run(self, params: Any, state: State | None = None, interrupted: int = 0) -> Run:
        """Returns the Run of this seed.

        Args:
          params: the parameters, or their shapes.
          state: after the last step, where it is known.
          interrupted: the signal that ended the run, or 0.
        """
        return Run(
            self.files.folder,
            self.agent,
            self.make_env,
            self.config,
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params),
            self.spec,
            state,
            settings=self.settings,
            solved=self.solved,
            interrupted=interrupted,
            env_steps=self.env_steps,
            seconds=self.watch.seconds(),
            best_score=self.best,
        )

    def write_result(self, seconds: float, updates: int) -> None:
        """Writes result.json, by which a finished run is known; warns if it cannot be written."""
        best = None if self.best is None or math.isnan(self.best) else self.best
        try:
            self.files.write_result(
                {
                    "finished": True,
                    "solved": None if self.settings.solved_at == math.inf else self.solved,
                    "env_steps": self.env_steps,
                    "episodes": self.episodes,
                    "updates": updates,
                    "best_score": best,
                    "scored_by": self.scored_by,
                    "seconds": round(seconds, 3),
                }
            )
        except OSError as error:
            warnings.warn(f"cannot write result.json in {self.files.folder}: {error}", RuntimeWarning, stacklevel=2)

    def closing_line(self, seconds: float) -> str:
        """Returns the last line of the run: solved or not, after how long, and by which rule."""
        settings = self.settings
        if settings.solved_at == math.inf:
            outcome, rule = "finished", "none"
        else:
            outcome = "solved" if self.solved else "not solved"
            episodes = "the last 100 training episodes"
            if settings.solved_by == "evaluation":
                episodes = f"{settings.eval_episodes} evaluation episodes"
            rule = f"mean of {episodes} {'>' if settings.solved_strictly else '>='} {settings.solved_at:g}"
        best = "none" if self.best is None or math.isnan(self.best) else f"{self.best:.2f}"
        return (
            f"{outcome} after {self.env_steps} env steps and {seconds:.1f} s: best mean {self.scored_by} return {best} "
            f"(rule: {rule}); run folder {self.files.folder}"
        )
