"""A training run: the loop in chunks, and between them rows of metrics, tests, checkpoints and the stop rule."""

import contextlib
import dataclasses
import math
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import VectorEnv

from jaxql import agents, loop
from jaxql.agents.base import RunConfig, hyper_of, within
from jaxql.errors import UserError
from jaxql.lab import checkpoint, evaluation
from jaxql.lab.files import RunFiles, default_folder
from jaxql.lab.progress import Progress
from jaxql.lab.runs import EnvMaker, Run, load_params
from jaxql.types import Agent, Network

COLUMNS = {"episodes": "episodes", "return_mean": "return (last 100)", "epsilon": "epsilon", "loss": "loss"}


@dataclasses.dataclass(frozen=True)
class OutsideConfig(RunConfig):
    """Settings of a run whose agent was made outside the package."""

    learning_rate: float = within(1e-3, 0)
    epsilon: float = within(0.05, 0, 1)
    exploration_steps: int = within(10_000, 1)
    target_period_updates: int = within(500, 1)


def train(
    agent: str | Agent | agents.Entry,
    env: Any,
    *,
    seed: int = 0,
    out: str | os.PathLike | None = None,
    preset: str | None = None,
    env_args: dict[str, Any] | None = None,
    init_from: str | os.PathLike | None = None,
    network: Network | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    quiet: bool = False,
    **settings,
) -> Run:
    """Trains an agent on an environment and writes a run folder, as `jaxql train` does.

    Args:
      agent: a name in `jaxql.agents.REGISTRY`, an `Entry` like those there, or an `Agent` made elsewhere.
      env: an env id, a callable that makes a Gymnasium env, or a vector env in NEXT_STEP mode.
      seed: of everything random. The same seed gives the same metrics.csv on a CPU.
      out: the run folder, which must not exist or be empty; runs/AGENT-ENV-seedK where it is None.
      preset: named settings of the agent; None takes those tuned for this agent and env.
      env_args: keyword arguments of the env.
      init_from: a run folder whose best parameters this run starts from.
      network: replaces the one that the settings name.
      callback: called with every row of metrics; the run stops when it returns something true.
      quiet: print nothing.
      **settings: change single settings (`steps=50_000`, `learning_rate=1e-3`); see the agent's Config.

    Raises:
      UserError: bad input, or a loss that is not finite; one line.
    """
    entry, name = _entry(agent)
    make_env = EnvMaker(env, env_args or {})
    if isinstance(env, VectorEnv):
        settings["num_envs"] = env.num_envs
    config = agents.settings(entry, make_env.id, preset, **settings)
    given, env = env, make_env(config.num_envs, seed=seed, purpose="train", life_loss=config.life_loss)
    try:
        agent = loop.compiled(entry.make(config, env.spec, network))
        key = jax.random.key(seed)
        shapes = jax.eval_shape(agent.init, key, env.spec.obs, hyper_of(config))
        memory = _memory_line(shapes)
        initial = load_params(init_from, shapes.params) if init_from else None
        folder = Path(out) if out else default_folder(name, make_env.id, seed)
        record = {
            "agent": name,
            "env": make_env.id,
            "env_args": env_args or {},
            "seed": seed,
            "preset": preset,
            "init_from": str(init_from) if init_from else None,
            "network": "passed in" if network else None,
            "settings": dataclasses.asdict(config),
        }
        with RunFiles(folder, record) as files, Progress(config.steps, columns=COLUMNS, quiet=quiet) as progress:
            for line in (*make_env.notes, _settings_line(config), memory):
                progress.note(line)
            training = Training(agent, config, env, make_env, files, progress, callback, seed)
            return training.run(key, initial)
    finally:
        if not isinstance(given, VectorEnv):  # who made it closes it
            env.close()


def _entry(agent) -> tuple[agents.Entry, str]:
    if isinstance(agent, Agent):
        return agents.Entry(OutsideConfig, lambda config, spec, network=None: agent, {}, {}), "agent"
    if isinstance(agent, agents.Entry):
        return agent, next((name for name, known in agents.REGISTRY.items() if known is agent), "agent")
    return agents.entry_of(agent), agent


def _settings_line(config) -> str:
    return "settings: " + " ".join(f"{name}={value}" for name, value in dataclasses.asdict(config).items())


def _memory_line(shapes) -> str:
    """What the agent's state will take; one that cannot fit is refused before any of it is allocated."""
    needed, stored = (_bytes(x) / 1e9 for x in (shapes, shapes.data))
    free = _free_memory()
    if free is not None and needed > free / 1e9:
        raise UserError(f"this needs {needed:.1f} GB and {free / 1e9:.1f} GB are free; lower capacity")
    said = f"memory: {needed:.2f} GB for the agent's state, {stored:.2f} GB of it for stored rows"
    return said if free is None else f"{said}; {free / 1e9:.1f} GB are free"


def _bytes(shapes) -> int:
    arrays = [x for x in jax.tree.leaves(shapes) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)


def _free_memory() -> int | None:
    """Bytes free on the device, or None where nobody says."""
    if jax.default_backend() == "cpu":
        meminfo = Path("/proc/meminfo")
        found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
        return 1024 * int(found[1]) if found else None
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in statistics:
        return None
    return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)


class Training:
    """One run in progress: the mutable side of it, all on the host."""

    def __init__(self, agent, config, env, make_env, files, progress, callback, seed):
        self.agent, self.config, self.env, self.make_env = agent, config, env, make_env
        self.files, self.progress, self.callback, self.seed = files, progress, callback, seed
        self.began = time.perf_counter()
        self.recent = deque(maxlen=100)  # returns of the last training episodes
        self.fresh = []  # returns of those since the last row
        self.episodes = self.env_steps = self.tests = 0
        self.next_log, self.next_test, self.next_save = config.log_every, config.test_every, config.checkpoint_every
        self.testing = config.test_from == -math.inf
        self.best, self.tested, self.solved, self.interrupted = None, False, False, False
        self.test_env, self.test_mean = None, math.nan
        self.chunks = []  # metrics since the last row

    def run(self, key, initial) -> Run:
        """Trains until it is solved, out of steps, or stopped by the callback or from the keyboard."""
        config, obs = self.config, self.env.reset()
        state = self.agent.init(key, obs, hyper_of(config))
        if initial is not None:
            target = jax.tree.map(jnp.copy, initial) if state.target != () else ()
            state = state._replace(params=initial, target=target)
        carry, warmup, stop = (state, (), obs), math.ceil(config.warmup_steps / config.num_envs), False
        per_round = config.num_envs * config.ticks
        with self.stopping_on_interrupt():
            while not stop and not self.interrupted and self.env_steps < config.steps:
                ahead = config.steps - self.env_steps - warmup * config.num_envs
                carry, metrics = loop.train(
                    self.agent,
                    self.env.step,
                    carry,
                    warmup=warmup,
                    rounds=max(1, min(config.log_every, config.test_every, ahead) // per_round),
                    ticks=config.ticks,
                    updates=config.updates,
                    scan=loop.host_scan,
                )
                warmup = 0
                stop = self.after_chunk(carry[0], metrics)
        return self.finish(carry[0])

    @contextlib.contextmanager
    def stopping_on_interrupt(self):
        """Ctrl-C ends the run after the rounds under way, whose state is whole; a second one ends it at once."""

        def stop(*_):
            self.interrupted = True
            self.progress.note("interrupted: stopping")
            signal.signal(signal.SIGINT, before)

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def after_chunk(self, state, metrics) -> bool:
        """Keeps the books after some rounds; returns whether the run is over."""
        self.env_steps = int(state.env_steps)
        self.chunks.append(jax.tree.map(np.asarray, metrics))
        if not np.all(np.isfinite(self.chunks[-1]["loss"])):
            raise UserError(
                f"the loss is not finite after {self.env_steps} env steps; lower learning_rate or set "
                f"max_gradient_norm; the checkpoints in {self.files.folder} are from before"
            )
        for episode in self.env.take_episodes():
            self.episodes += 1
            self.recent.append(episode.ret)
            self.fresh.append(episode.ret)
        config, due = self.config, self.env_steps >= self.next_test
        if not self.testing and len(self.recent) >= 10 and np.mean(list(self.recent)[-10:]) > config.test_from:
            self.testing = due = True
        if due:
            self.next_test = (self.env_steps // config.test_every + 1) * config.test_every
            self.test(state) if self.testing else self.keep_best(state, self.return_mean)
        if self.env_steps >= self.next_save:
            self.next_save = (self.env_steps // config.checkpoint_every + 1) * config.checkpoint_every
            self.save("last", state, self.return_mean)
        if config.solved_by == "training" and len(self.recent) == self.recent.maxlen:
            self.solved |= self.passes(self.return_mean)
        stop = self.solved and config.stop_when_solved
        if due or stop or self.env_steps >= min(self.next_log, config.steps):
            self.next_log = (self.env_steps // config.log_every + 1) * config.log_every
            stop = bool(self.row(state)) or stop
        return stop

    @property
    def return_mean(self) -> float:
        """Of the last 100 training episodes."""
        return float(np.mean(self.recent)) if self.recent else math.nan

    def passes(self, mean: float) -> bool:
        return mean > self.config.solved_at if self.config.solved_strictly else mean >= self.config.solved_at

    def test(self, state) -> None:
        """Plays full episodes with epsilon 0 in worlds of their own, and keeps the parameters if they are the best."""
        if self.test_env is None:
            self.test_env = self.make_env(self.config.test_episodes, seed=self.seed, purpose="test")
        key = jax.random.fold_in(jax.random.key(self.seed), 0x7E57 + self.tests)
        self.tests += 1
        result = evaluation.evaluate(self.agent, state.params, self.test_env, key)
        self.test_mean = float(np.mean(result.returns))
        if not self.tested:
            self.tested, self.best = True, None  # a test counts for more than any training episodes
        self.keep_best(state, self.test_mean)
        if self.config.solved_by == "test":
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
            "test_return": self.test_mean,
        }
        self.files.append(row)
        speed = self.files.timing(self.env_steps, seconds)
        fresh = float(np.mean(self.fresh)) if self.fresh else math.nan
        for name, value in {"reward": fresh, "reward_100": self.return_mean, "speed": speed}.items():
            self.files.scalar(name, value, self.env_steps)
        self.progress.update(row, seconds)
        self.chunks, self.fresh, self.test_mean = [], [], math.nan
        return self.callback(row) if self.callback else False

    def finish(self, state) -> Run:
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
            interrupted=self.interrupted,
            env_steps=self.env_steps,
            seconds=seconds,
            best_score=self.best,
        )
        if self.env.mdp is not None and isinstance(state.params, dict) and "q_values" in state.params:
            self.progress.note(evaluation.exact_report(self.env.mdp, run.best_params()["q_values"]))
        self.progress.note(self.verdict(seconds))
        return run

    def verdict(self, seconds: float) -> str:
        """The last line."""
        config = self.config
        rule = f"{'>' if config.solved_strictly else '>='} {config.solved_at:g}"
        of = f"{config.test_episodes} test episodes" if config.solved_by == "test" else "the last 100 training episodes"
        best = "none" if self.best is None or math.isnan(self.best) else f"{self.best:.2f}"
        scored = "test" if self.tested else "training"
        said = "solved" if self.solved else "not solved"
        if config.solved_at == math.inf:
            said = "finished"
            rule = "none"
        return (
            f"{said} after {self.env_steps} env steps and {seconds:.1f} s: best mean {scored} return {best} "
            f"(rule: mean of {of} {rule}); run folder {self.files.folder}"
        )
