"""The loop of a run: the envs of all seeds are played together, and every seed has a recorder of its own."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql import loop
from jaxql.agents.state import State, hyper_of
from jaxql.errors import UserError
from jaxql.lab.clock import Stopwatch
from jaxql.lab.environments import Env, EnvMaker
from jaxql.lab.evaluation import Evaluator
from jaxql.lab.files import RunFiles
from jaxql.lab.health import Signs, signs_of
from jaxql.lab.players import Part, make_player
from jaxql.lab.progress import Progress
from jaxql.lab.recorder import SeedRecorder
from jaxql.lab.runs import Run
from jaxql.lab.settings import RunSettings
from jaxql.types import Agent

Callback = Callable[[dict[str, Any]], Any]
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # that end a run; not every system has all of them
HEARTBEAT = 1.0  # seconds between signs of progress while no row is due


class Trainer:
    """Trains the seeds of a run.

    Chunks of different seeds end at different rounds, for envs reset at different steps, and rows that are not valid
    do not count. The loop stops wherever a chunk of any seed ends, so that every seed is recorded as if alone. It also
    stops about once a second, which changes nothing that is recorded.

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
        self.many, self.interrupted, self.clock = len(seeds) > 1, 0, Stopwatch()
        self.vector_steps = 0  # played since the last row
        self.shown_at = 0.0  # seconds
        self.program = loop.vmap_agent(agent) if self.many else agent
        alone = loop.jit_agent(agent)
        self.signs = jax.jit(jax.vmap(signs_of) if self.many else signs_of)
        evaluator = Evaluator(alone, stop=lambda: self.keep_watch(0))
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
        batch, shortest = config.num_envs, min(settings.log_every, settings.eval_every, settings.checkpoint_every)
        self.play = make_player(
            env,
            self.program,
            rollout_length=config.rollout_length,
            most_warmup=self.warmup,
            most_rounds=math.ceil(min(shortest, settings.steps) / (batch * config.rollout_length)),
            batch=batch * len(seeds),
            watch=self.keep_watch,
        )
        self.newest: dict[int, dict[str, Any]] = {}  # the newest row of every seed, by its index
        self.runs: dict[int, Run] = {}
        self.errors: dict[int, UserError] = {}
        self.shown: dict[int, dict[str, Any]] | None = None  # the rows that were shown last

    def _callback(self, callback: Callback | None, seed: int) -> Callback | None:
        return (lambda row: callback({"seed": seed, **row})) if self.many and callback else callback

    def _show(self, i: int) -> Callable[[dict[str, Any], float], Any]:
        def show(row: dict[str, Any], seconds: float) -> None:
            self.newest[i], self.shown_at = row, self.clock.seconds()
            if not self.many:
                self.progress.update(row, seconds)

        return show

    def run(self, initial: Any) -> list[Run]:
        """Trains until every seed is solved, out of steps or stopped, and returns their Runs.

        Args:
          initial: the parameters to start from; None: the agent's own.

        Raises:
          UserError: numbers are not finite, values diverge, or the last checkpoint cannot be written. Of many seeds,
            the others end first.
        """
        with self.catching_signals():
            obs, warmup = self.env.reset(), self.warmup
            carry = self.begin(obs, initial), self.env.state, obs
            self.note_beginning(carry[0])
            while not self.interrupted and (going := [i for i, each in enumerate(self.recorders) if not each.over]):
                part = self.play(carry, warmup, min(self.recorders[i].rounds for i in going))
                carry, warmup = part.carry, warmup - part.warmup
                self.share_out(going, part)
                self.close_chunks([i for i in going if self.recorders[i].rounds == 0], carry[0])
                self.show_mean()
            if self.interrupted:
                self.progress.note(f"interrupted by {signal.Signals(self.interrupted).name}: saving")
            self.close_chunks([i for i, each in enumerate(self.recorders) if not each.over], carry[0], last=True)
            return self.finish()

    def note_beginning(self, state: State) -> None:
        """Tells the recorders of the state in which the run begins."""
        signs = jax.device_get(self.signs(state))
        for i, recorder in enumerate(self.recorders):
            recorder.begin(self._signs_of_seed(signs, i))

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
    def catching_signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM or SIGHUP ends the run after the present vector step; a second signal acts at once.

        A signal that was ignored before, as under nohup, stays ignored; Ctrl-C is never ignored.
        """

        def stop(number: int, _: Any) -> None:
            self.interrupted = number
            restore()

        def restore() -> None:
            for each, handler in before.items():
                signal.signal(each, handler)

        before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                handler = signal.getsignal(number)
                if handler is not None and (handler is not signal.SIG_IGN or number == signal.SIGINT):
                    before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            restore()

    def keep_watch(self, vector_steps: int) -> bool:
        """Counts vector steps, shows progress about once a second, and returns whether the run is to stop."""
        self.vector_steps += vector_steps
        seconds = self.clock.seconds()
        if seconds - self.shown_at >= HEARTBEAT and not self.interrupted:
            self.shown_at = seconds
            ahead = min(max(each.env_steps for each in self.recorders) + self.vector_steps * self.config.num_envs,
                        self.settings.steps)  # fmt: skip
            rows = list(self.newest.values())
            self.progress.update({**(_mean_row(rows) if rows else {}), "env_steps": ahead}, seconds)
        return bool(self.interrupted)

    def share_out(self, going: Sequence[int], part: Part) -> None:
        """Gives every seed that goes on its share of the metrics and episodes of a part."""
        episodes = self.env.take_episodes()
        metrics = None if part.metrics is None else jax.tree.map(np.asarray, part.metrics)
        for i in going:
            its_metrics, its_episodes = metrics, episodes
            if self.many:
                its_metrics = jax.tree.map(lambda x, i=i: x[:, i], metrics)
                its_episodes = [episode for episode in episodes if episode.env_index // self.config.num_envs == i]
            with self.failing_alone(i):
                self.recorders[i].add_rounds(part.rounds, its_metrics, its_episodes)

    @contextlib.contextmanager
    def failing_alone(self, i: int) -> Iterator[None]:
        """Of many seeds, keeps an error of this one for the end."""
        try:
            yield
        except UserError as error:
            if not self.many:
                raise
            self.recorders[i].over, self.errors[i] = True, error

    def close_chunks(self, seeds: Sequence[int], state: State, last: bool = False) -> None:
        """Records the chunks of some seeds, and finishes those whose run is over; all of them if `last`."""
        if not seeds:
            return
        all_signs, state = jax.device_get(self.signs(state)), state._replace(data=()) if self.many else state
        for i in seeds:
            recorder, its_state = self.recorders[i], _of_seed(state, i) if self.many else state
            with self.failing_alone(i):
                if recorder.parts:
                    recorder.close_chunk(its_state, self._signs_of_seed(all_signs, i))
                if recorder.over or last:
                    self.runs[i] = recorder.finish(its_state, self.interrupted)
        self.vector_steps = 0

    def _signs_of_seed(self, signs: Signs, i: int) -> Signs:
        return Signs(*(x[i] for x in signs)) if self.many else signs

    def show_mean(self) -> None:
        """Shows the mean of the seeds' newest rows, if there is a new row."""
        if self.many and self.newest and self.newest != self.shown:
            self.shown = dict(self.newest)
            self.progress.update(_mean_row(list(self.newest.values())), self.clock.seconds())

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
        runs, seconds = self.runs.values(), self.clock.seconds()
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
