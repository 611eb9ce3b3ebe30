"""The loop of a run: the envs of all seeds are played together, and every seed has a recorder of its own."""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql import loop
from jaxql.agents.state import State, hyper_of
from jaxql.errors import UserError
from jaxql.lab.environments import Env, EnvMaker, make_player
from jaxql.lab.evaluation import Evaluator
from jaxql.lab.files import RunFiles
from jaxql.lab.progress import Progress
from jaxql.lab.recorder import SeedRecorder
from jaxql.lab.runs import Run
from jaxql.lab.settings import RunSettings
from jaxql.types import Agent

Callback = Callable[[dict[str, Any]], Any]


class Trainer:
    """Trains the seeds of a run.

    Chunks of different seeds end at different rounds, for envs reset at different steps, and rows that are not valid
    do not count. The loop stops wherever a chunk of any seed ends, so that every seed is recorded as if alone.

    Args:
      agent: of one seed.
      config, settings: of the agent and of the run.
      env: the envs of all seeds; make_env makes those for evaluation.
      files: the folder of every seed.
      progress: shows rows and lines to a person.
      callback: called with every row of metrics; a true result stops that seed.
      seeds: one or more.
    """

    def __init__(
        self,
        agent: Agent,
        config: Any,
        settings: RunSettings,
        env: Env,
        make_env: EnvMaker,
        files: Sequence[RunFiles],
        progress: Progress,
        callback: Callback | None,
        seeds: Sequence[int],
    ):
        self.config, self.settings, self.env, self.progress, self.seeds = config, settings, env, progress, seeds
        self.many, self.interrupted, self.began = len(seeds) > 1, False, time.perf_counter()
        self.program = loop.vmap_agent(agent) if self.many else agent
        alone = loop.jit_agent(agent)
        evaluator = Evaluator(alone)
        self.recorders = [
            SeedRecorder(
                alone,
                evaluator,
                config,
                settings,
                env.mdp,
                make_env,
                its_files,
                self._callback(callback, seed),
                self._show(i),
                seed,
            )
            for i, (seed, its_files) in enumerate(zip(seeds, files, strict=True))
        ]
        self.warmup = math.ceil(config.warmup_steps / config.num_envs)  # vector steps
        self.play = make_player(
            env,
            self.program,
            rollout_length=config.rollout_length,
            most_warmup=self.warmup,
            most_rounds=self.recorders[0].chunk(),  # of a chunk without warmup while there are steps enough
        )
        self.newest: dict[int, dict[str, Any]] = {}  # the newest row of every seed, by its index
        self.runs: dict[int, Run] = {}
        self.errors: dict[int, UserError] = {}
        self.shown: dict[int, dict[str, Any]] | None = None  # the rows that were shown last

    def _callback(self, callback: Callback | None, seed: int) -> Callback | None:
        return (lambda row: callback({"seed": seed, **row})) if self.many and callback else callback

    def _show(self, i: int) -> Callable[[dict[str, Any], float], Any]:
        return (lambda row, seconds: self.newest.update({i: row})) if self.many else self.progress.update

    def run(self, initial: Any) -> list[Run]:
        """Trains until every seed is solved, out of steps or stopped, and returns their Runs.

        Args:
          initial: the parameters to start from; None: the agent's own.

        Raises:
          UserError: a loss is not finite. Of many seeds, the others end first.
        """
        obs, warmup = self.env.reset(), self.warmup
        carry = self.begin(obs, initial), self.env.state, obs
        with self.stopping_on_interrupt():
            while not self.interrupted and (going := [i for i, each in enumerate(self.recorders) if not each.over]):
                rounds = min(self.recorders[i].rounds for i in going)
                carry, metrics = self.play(carry, warmup, rounds)
                warmup = 0
                self.share_out(going, rounds, metrics)
                for i in going:
                    if self.recorders[i].rounds == 0:
                        self.close_chunk(i, carry[0])
                self.show_mean()
        for i, recorder in enumerate(self.recorders):
            if not recorder.over:  # interrupted
                self.close_chunk(i, carry[0], last=True)
        return self.finish()

    def begin(self, obs: Any, initial: Any) -> State:
        """Returns the first state, of all seeds, built by one compiled program."""
        keys, hyper = [jax.random.key(seed) for seed in self.seeds], hyper_of(self.config)
        if not self.many:
            key = keys[0]
        else:
            size = len(keys)
            key, hyper = jnp.stack(keys), jax.tree.map(lambda x: np.full(size, x, jnp.result_type(x)), hyper)
            initial = jax.tree.map(lambda x: jnp.repeat(x[None], size, axis=0), initial)
        state = jax.jit(self.program.init)(key, obs, hyper)
        if initial is None:
            return state
        target = jax.tree.map(jnp.copy, initial) if state.target != () else ()
        return state._replace(params=initial, target=target)

    @contextlib.contextmanager
    def stopping_on_interrupt(self) -> Iterator[None]:
        """Ctrl-C ends the run after the present rounds, whose state is whole; a second one ends it at once."""

        def stop(*_: Any) -> None:
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

    def share_out(self, going: Sequence[int], rounds: int, metrics: Any) -> None:
        """Gives every seed that goes on its part of the metrics and episodes of some rounds."""
        metrics, episodes = jax.tree.map(np.asarray, metrics), self.env.take_episodes()
        for i in going:
            its_metrics, its_episodes = metrics, episodes
            if self.many:
                its_metrics = jax.tree.map(lambda x, i=i: x[:, i], metrics)
                its_episodes = [episode for episode in episodes if episode.env_index // self.config.num_envs == i]
            self.recorders[i].add_rounds(rounds, its_metrics, its_episodes)

    def close_chunk(self, i: int, state: State, last: bool = False) -> None:
        """Records the chunk of a seed, and finishes the seed if its run is over or this chunk is the last."""
        recorder = self.recorders[i]
        try:
            state = _of_seed(state._replace(data=()), i) if self.many else state
            if recorder.parts:
                recorder.close_chunk(state)
            if recorder.over or last:
                self.runs[i] = recorder.finish(state, self.interrupted)
        except UserError as error:
            if not self.many:
                raise
            recorder.over, self.errors[i] = True, error

    def show_mean(self) -> None:
        """Shows the mean of the seeds' newest rows, if there is a new row."""
        if self.newest and self.newest != self.shown:
            self.shown = dict(self.newest)
            self.progress.update(_mean_row(list(self.newest.values())), time.perf_counter() - self.began)

    def finish(self) -> list[Run]:
        """Shows the closing lines and returns the Runs in order of their seeds."""
        self.progress.end()
        for seed, recorder in zip(self.seeds, self.recorders, strict=True):
            for line in recorder.closing_lines:
                self.progress.note(f"seed {seed}: {line}" if self.many else line)
        if self.many:
            self.progress.note(self.summary())
        if self.errors:
            raise UserError("; ".join(f"seed {self.seeds[i]}: {error}" for i, error in self.errors.items()))
        return [self.runs[i] for i in range(len(self.seeds))]

    def summary(self) -> str:
        """Returns one line on all seeds."""
        runs, seconds = self.runs.values(), time.perf_counter() - self.began
        solved = "" if self.settings.solved_at == math.inf else f"{sum(bool(run.solved) for run in runs)} solved, "
        failed = f"{len(self.errors)} failed, " if self.errors else ""
        steps = np.median([recorder.env_steps for recorder in self.recorders])
        return f"{len(self.seeds)} seeds: {solved}{failed}median env steps {steps:.0f}, {seconds:.1f} s"


@jax.jit
def _of_seed(state: State, i: int) -> State:
    """Returns one seed's part of a state with a leading axis of seeds."""
    return jax.tree.map(lambda x: x[i], state)


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the mean of rows of metrics without their NaNs, and the env steps of the seed that is furthest."""
    known = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in rows[0]}
    means = {name: float(np.mean(values)) if values else math.nan for name, values in known.items()}
    return means | {"env_steps": max(row["env_steps"] for row in rows)}
