"""Training runs: one seed, or many in one compiled program, each with a run folder and books of its own."""

import contextlib
import dataclasses
import functools
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import VectorEnv

from jaxql import agents, kernels, loop
from jaxql.agents.config import AgentConfig, bounded
from jaxql.agents.state import hyper_of
from jaxql.envs.jax import DeviceEnv
from jaxql.envs.seeding import check_seed
from jaxql.errors import UserError
from jaxql.lab import memory
from jaxql.lab.books import Books
from jaxql.lab.files import RunFiles, check_free, default_folder
from jaxql.lab.progress import Progress
from jaxql.lab.runs import EnvMaker, Run, load_params
from jaxql.lab.settings import settings as resolve
from jaxql.types import Agent, Network

COLUMNS = {"episodes": "episodes", "return_mean": "return (last 100)", "epsilon": "epsilon", "loss": "loss"}


@dataclasses.dataclass(frozen=True)
class OutsideConfig(AgentConfig):
    """Settings of a run whose agent was made outside the package."""

    learning_rate: float = bounded(1e-3, 0)
    epsilon: float = bounded(0.05, 0, 1)
    exploration_steps: int = bounded(10_000, 1)
    target_period_updates: int = bounded(500, 1)


def train(
    agent: str | Agent | agents.AgentEntry,
    env: Any,
    *,
    seed: int = 0,
    seeds: int = 1,
    out: str | os.PathLike | None = None,
    preset: str | None = None,
    env_args: dict[str, Any] | None = None,
    init_from: str | os.PathLike | None = None,
    network: Network | str | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    quiet: bool = False,
    **settings,
) -> Run | list[Run]:
    """Trains an agent on an environment and writes a run folder, as `jaxql train` does.

    Args:
      agent: a name in `jaxql.agents.REGISTRY`, the "module:name" of an `Entry` elsewhere, an `Entry`, or an `Agent`.
      env: an env id, a callable that makes a Gymnasium env, a `JaxEnv`, or a vector env in NEXT_STEP mode, whose envs
        are split evenly among the seeds. Rounds with JAX envs are compiled whole.
      seed: of everything random. The same seed gives the same metrics.csv on a CPU.
      seeds: above 1, the seeds `seed`, `seed` + 1, ... are trained in one compiled program, each as if alone, and their
        Runs are returned as a list. A seed that is solved stops being written about; the others go on.
      out: the run folder, which must not exist or be empty; runs/AGENT-ENV-seedK where it is None. Of many seeds, the
        folder of the run folders seedK.
      preset: named settings of the agent; None takes those tuned for this agent and env.
      env_args: keyword arguments of the env.
      init_from: a run folder whose best parameters this run starts from.
      network: replaces the one that the settings name, or is another name.
      callback: called with every row of metrics, of many seeds with the key "seed" too; the run (of that seed) stops
        when it returns something true.
      quiet: print nothing.
      **settings: change single settings (`steps=50_000`, `learning_rate=1e-3`); see the agent's Config.

    Raises:
      UserError: bad input, or a loss that is not finite; one line. With many seeds the latter ends its own seed at once
        and is raised when the others have ended.
    """
    every = _every(seed, seeds)
    entry, name = _entry(agent)
    if isinstance(network, str):
        settings["network"], network = network, None
    make_env = EnvMaker(env, env_args or {})
    if isinstance(env, VectorEnv):
        if env.num_envs % seeds:
            raise UserError(f"{make_env.id}: its {env.num_envs} envs cannot be split evenly among {seeds} seeds")
        settings["num_envs"] = env.num_envs // seeds
    config, run_settings = resolve(entry, make_env.id, preset, **settings)
    layout = dict(seed=every if seeds > 1 else seed, purpose="train", life_loss=config.life_loss)
    given, env = env, make_env(seeds * config.num_envs, **layout)
    try:
        one = entry.make(config, env.spec, network)
        kernels.forget_notes()
        shapes = jax.eval_shape(one.init, jax.random.key(seed), env.spec.obs, hyper_of(config))
        needed = memory.line(shapes, seeds)
        initial = load_params(init_from, shapes.params) if init_from else None
        folders = _folders(out, name, make_env.id, every)
        records = [
            {
                "agent": name,
                "env": make_env.id,
                "env_args": env_args or {},
                "seed": each,
                "preset": preset,
                "init_from": str(init_from) if init_from else None,
                "network": "passed in" if network else None,
                "settings": dataclasses.asdict(config) | dataclasses.asdict(run_settings),
            }
            for each in every
        ]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(RunFiles(*each)) for each in zip(folders, records, strict=True)]
            progress = stack.enter_context(Progress(run_settings.steps, columns=COLUMNS, quiet=quiet))
            for line in (*make_env.notes, *kernels.notes(), _settings_line(config, run_settings), needed):
                progress.note(line)
            runs = Training(one, config, run_settings, env, make_env, files, progress, callback, every).run(initial)
            return runs if seeds > 1 else runs[0]
    finally:
        if not isinstance(given, VectorEnv):  # who made it closes it
            env.close()


def _every(seed: int, seeds: int) -> tuple[int, ...]:
    """seed, seed + 1, ..., so many."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise UserError(f"seeds={seeds!r}: the number of seeds is a whole number, 1 or greater")
    return tuple(range(check_seed(seed), seed + seeds))


def _folders(out, name: str, env_id: str, every) -> list[Path]:
    """The run folder of every seed; one that is not free is refused before any is made."""
    if len(every) == 1:
        return [Path(out) if out else default_folder(name, env_id, every[0])]
    folders = [Path(out) / f"seed{each}" if out else default_folder(name, env_id, each) for each in every]
    for folder in folders:
        check_free(folder)
    return folders


def _entry(agent) -> tuple[agents.AgentEntry, str]:
    if isinstance(agent, Agent):
        return agents.AgentEntry(OutsideConfig, lambda config, spec, network=None: agent, {}, {}), "agent"
    if isinstance(agent, agents.AgentEntry):
        return agent, next((name for name, known in agents.REGISTRY.items() if known is agent), "agent")
    return agents.entry_of(agent), agent


def _settings_line(*settings) -> str:
    return "settings: " + " ".join(
        f"{name}={value}" for part in settings for name, value in dataclasses.asdict(part).items()
    )


class Training:
    """Runs in progress: one loop over the envs of all seeds, and the books of each seed, all on the host.

    Chunks of different seeds end at different rounds, for resets differ, and rows that are not valid do not count. The
    loop stops wherever a chunk of any seed ends, so that every seed's books are kept where they are kept alone.
    """

    def __init__(self, agent, config, settings, env, make_env, files, progress, callback, every):
        self.config, self.settings, self.env, self.progress, self.every = config, settings, env, progress, every
        self.many, self.interrupted, self.began = len(every) > 1, False, time.perf_counter()
        self.program = loop.vmap_agent(agent) if self.many else agent
        alone = loop.jit_agent(agent)
        self.books = [
            Books(
                alone, config, settings, env, make_env, its_files, self._callback(callback, seed), self._show(i), seed
            )
            for i, (seed, its_files) in enumerate(zip(every, files, strict=True))
        ]
        self.warmup = math.ceil(config.warmup_steps / config.num_envs)  # ticks
        self.play = self.player()
        self.newest, self.runs, self.errors = {}, {}, {}  # by the index of a seed: row, Run, UserError
        self.shown = None  # the rows that were shown last

    def _callback(self, callback, seed):
        return (lambda row: callback({"seed": seed, **row})) if self.many and callback else callback

    def _show(self, i):
        return (lambda row, seconds: self.newest.update({i: row})) if self.many else self.progress.update

    def player(self):
        """play(carry, warmup, rounds) -> (carry, metrics): compiled whole for JAX envs, turn by turn for others."""
        plan = dict(rollout_length=self.config.rollout_length)
        if isinstance(self.env, DeviceEnv):
            most = self.books[0].chunk()  # the rounds of a chunk without warmup while there are steps enough
            return self.env.compile_rounds(self.program, max_warmup=self.warmup, max_rounds=most, **plan)
        train = functools.partial(loop.train, loop.jit_agent(self.program), self.env.step, scan=loop.host_scan, **plan)
        return lambda carry, warmup, rounds: train(carry, warmup=warmup, rounds=rounds)

    def run(self, initial) -> list[Run]:
        """Trains until each seed is solved, out of steps or stopped by the callback, or all are from the keyboard."""
        obs, warmup = self.env.reset(), self.warmup
        carry = self.begin(obs, initial), self.env.state, obs
        with self.stopping_on_interrupt():
            while not self.interrupted and (going := [i for i, books in enumerate(self.books) if not books.over]):
                rounds = min(self.books[i].rounds for i in going)
                carry, metrics = self.play(carry, warmup, rounds)
                warmup = 0
                self.share_out(going, rounds, metrics)
                for i in going:
                    if self.books[i].rounds == 0:
                        self.close_chunk(i, carry[0])
                self.show_mean()
        for i, books in enumerate(self.books):
            if not books.over:  # interrupted
                self.close_chunk(i, carry[0], last=True)
        return self.finish()

    def begin(self, obs, initial):
        """The first state, of all seeds."""
        keys, hyper = [jax.random.key(seed) for seed in self.every], hyper_of(self.config)
        if not self.many:
            key = keys[0]
        else:
            size = len(keys)
            key, hyper = jnp.stack(keys), jax.tree.map(lambda x: jnp.full(size, x), hyper)
            initial = jax.tree.map(lambda x: jnp.repeat(x[None], size, axis=0), initial)
        state = self.program.init(key, obs, hyper)
        if initial is None:
            return state
        target = jax.tree.map(jnp.copy, initial) if state.target != () else ()
        return state._replace(params=initial, target=target)

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

    def share_out(self, going, rounds: int, metrics) -> None:
        """Hands every seed that goes on its part of what happened in some rounds."""
        metrics, episodes = jax.tree.map(np.asarray, metrics), self.env.take_episodes()
        for i in going:
            its_metrics, its_episodes = metrics, episodes
            if self.many:
                its_metrics = jax.tree.map(lambda x, i=i: x[:, i], metrics)
                its_episodes = [episode for episode in episodes if episode.env_index // self.config.num_envs == i]
            self.books[i].take(rounds, its_metrics, its_episodes)

    def close_chunk(self, i: int, state, last: bool = False) -> None:
        """Keeps the books of a seed after its chunk, and closes them if its run is over or this chunk is the last."""
        books = self.books[i]
        try:
            state = _of_seed(state._replace(data=()), i) if self.many else state
            if books.parts:
                books.close_chunk(state)
            if books.over or last:
                self.runs[i] = books.finish(state, self.interrupted)
        except UserError as error:
            if not self.many:
                raise
            books.over, self.errors[i] = True, error

    def show_mean(self) -> None:
        """Shows the mean of the seeds' newest rows, if there is a new one."""
        if self.newest and self.newest != self.shown:
            self.shown = dict(self.newest)
            self.progress.update(_mean_row(self.newest.values()), time.perf_counter() - self.began)

    def finish(self) -> list[Run]:
        """The closing lines, and the Runs in order of their seeds."""
        for seed, books in zip(self.every, self.books, strict=True):
            for line in books.closing:
                self.progress.note(f"seed {seed}: {line}" if self.many else line)
        if self.many:
            self.progress.note(self.summary())
        if self.errors:
            raise UserError("; ".join(f"seed {self.every[i]}: {error}" for i, error in self.errors.items()))
        return [self.runs[i] for i in range(len(self.every))]

    def summary(self) -> str:
        """One line on all seeds."""
        runs, seconds = self.runs.values(), time.perf_counter() - self.began
        solved = "" if self.settings.solved_at == math.inf else f"{sum(run.solved for run in runs)} solved, "
        failed = f"{len(self.errors)} failed, " if self.errors else ""
        steps = np.median([books.env_steps for books in self.books])
        return f"{len(self.every)} seeds: {solved}{failed}median env steps {steps:.0f}, {seconds:.1f} s"


@jax.jit
def _of_seed(state, i):
    """One seed's part of what has a leading axis of seeds."""
    return jax.tree.map(lambda x: x[i], state)


def _mean_row(rows) -> dict[str, float]:
    """The mean of rows of metrics without what is NaN; the steps of the seed that is furthest."""
    rows = list(rows)
    known = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in rows[0]}
    means = {name: float(np.mean(values)) if values else math.nan for name, values in known.items()}
    return means | {"env_steps": max(row["env_steps"] for row in rows)}
