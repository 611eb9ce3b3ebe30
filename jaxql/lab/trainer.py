"""The loop of a run: the envs of all seeds are played together, and every seed has a recorder of its own."""

import contextlib
import math
import operator
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxql import loop
from jaxql.agents.state import State, hyper_of
from jaxql.envs.host import EnvCheckpoint, HostEnv
from jaxql.envs.jax import DeviceEnv
from jaxql.errors import UserError
from jaxql.lab.clock import Stopwatch
from jaxql.lab.devices import any_process, gather_episodes, local_copy
from jaxql.lab.environments import Env, EnvMaker
from jaxql.lab.evaluation import Evaluator
from jaxql.lab.exact import compare_with_model
from jaxql.lab.files import RunFiles
from jaxql.lab.health import Signs, signs_of
from jaxql.lab.players import Carry, Part, make_player
from jaxql.lab.progress import Progress
from jaxql.lab.recorder import SeedRecorder
from jaxql.lab.runs import Run
from jaxql.lab.settings import RunSettings
from jaxql.lab.signals import catching_signals
from jaxql.lab.snapshots import Snapshots
from jaxql.mesh import jit_on_mesh, replicated, tree_shardings
from jaxql.replay import end_episodes, zero_step
from jaxql.types import Agent

Callback = Callable[[dict[str, Any]], Any]
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
      snapshots: where the whole state is saved; None: nowhere.
      mesh: that of the envs. Where several processes share it, all of them do the same at every point of the run.
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
        snapshots: Snapshots | None = None,
        mesh: Mesh | None = None,
    ):
        self.config, self.settings, self.env, self.progress, self.seeds = config, settings, env, progress, seeds
        self.many, self.interrupted, self.clock = len(seeds) > 1, 0, Stopwatch()
        self.vector_steps = 0  # played since the last row
        self.shown_at = 0.0  # seconds
        self.snapshots, self.saved_at, self.next_snapshot = snapshots, 0.0, settings.checkpoint_every
        self.mesh, self.several_processes = mesh, mesh is not None and jax.process_count() > 1
        self.program = loop.vmap_agent(agent) if self.many else agent
        alone = loop.jit_agent(agent)
        self.signs = self.compiled(jax.vmap(signs_of) if self.many else signs_of)
        evaluator = Evaluator(alone, stop=lambda: self.keep_watch(0) and not self.several_processes)
        comparison = compare_with_model(alone, env.mdp, config, env.spec)
        self.recorders = [
            SeedRecorder(
                alone,
                evaluator,
                config,
                settings,
                env.spec,
                comparison,
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
            mesh=mesh,
            whole=self.several_processes,
        )
        self.newest: dict[int, dict[str, Any]] = {}  # the newest row of every seed, by its index
        self.runs: dict[int, Run] = {}
        self.errors: dict[int, UserError] = {}
        self.shown: dict[int, dict[str, Any]] | None = None  # the rows that were shown last

    def compiled(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """Returns f compiled, on the mesh if there is one: its results are agents' states, or the same everywhere."""
        if (mesh := self.mesh) is None:
            return jax.jit(f)
        return jit_on_mesh(f, mesh, lambda results: tree_shardings(results, mesh))

    def _callback(self, callback: Callback | None, seed: int) -> Callback | None:
        return (lambda row: callback({"seed": seed, **row})) if self.many and callback else callback

    def _show(self, i: int) -> Callable[[dict[str, Any], float], Any]:
        def show(row: dict[str, Any], seconds: float) -> None:
            self.newest[i], self.shown_at = row, self.clock.seconds()
            if not self.many:
                self.progress.update(row, seconds)

        return show

    def run(self, initial: Any = None, resume: bool = False) -> list[Run]:
        """Trains until every seed is solved, out of steps or stopped, and returns their Runs.

        Args:
          initial: the parameters to start from; None: the agent's own.
          resume: go on from the newest snapshot.

        Raises:
          UserError: numbers are not finite, values diverge, or the last checkpoint cannot be written. Of many seeds,
            the others end first.
        """
        with catching_signals(self.interrupt):
            carry, warmup = self.resume() if resume else self.start(initial)
            while not self.interrupted and (going := self.going()):
                part = self.play(carry, warmup, min(self.recorders[i].rounds for i in going))
                carry, warmup = part.carry, warmup - part.warmup
                self.share_out(going, part)
                if self.several_processes:
                    self.interrupted = any_process(self.interrupted)
                self.close_chunks([i for i in going if self.recorders[i].rounds == 0], carry[0])
                self.show_mean()
                if self.snapshot_is_due():
                    self.save(carry, warmup)
            if self.interrupted:
                self.progress.note(f"interrupted by {signal.Signals(self.interrupted).name}: saving")
            if self.interrupted or self.settings.keep_state:
                self.save(carry, warmup)
            self.close_chunks(self.going(), carry[0], last=True)
            self.close_snapshots()
            return self.finish()

    def going(self) -> list[int]:
        """Returns the seeds, by index, whose runs are not over."""
        return [i for i, each in enumerate(self.recorders) if not each.over]

    def start(self, initial: Any) -> tuple[Carry, int]:
        """Returns the carry and the warm-up, in vector steps, with which a new run begins."""
        obs = self.env.reset()
        carry = self.begin(obs, initial), self.env.state, obs
        self.note_beginning(carry[0])
        return carry, self.warmup

    def note_beginning(self, state: State) -> None:
        """Tells the recorders of the state in which the run begins."""
        signs = jax.device_get(self.signs(state))
        for i, recorder in enumerate(self.recorders):
            recorder.begin(self._signs_of_seed(signs, i))

    # ----------------------------------------------------------------------------------------------------- snapshots
    def snapshot_is_due(self) -> bool:
        """Returns whether the whole state is to be saved now."""
        minutes = self.settings.checkpoint_minutes
        late = minutes and self.clock.seconds() - self.saved_at >= 60 * minutes
        return bool(late) or max(each.env_steps for each in self.recorders) >= self.next_snapshot

    def save(self, carry: Carry, warmup: int) -> None:
        """Saves the whole state, in the background; warns if the save before has failed.

        A state with parameters that are not finite is not saved: the run ends with this chunk.
        """
        every, steps = self.settings.checkpoint_every, max(each.env_steps for each in self.recorders)
        self.next_snapshot, self.saved_at = (steps // every + 1) * every, self.clock.seconds()
        failed = np.array([each.over for each in self.recorders])
        if self.snapshots is None or not np.all(np.asarray(self.signs(carry[0]).finite) | failed):
            return
        arrays: dict[str, np.ndarray] = {}
        recorders = []
        for i, recorder in enumerate(self.recorders):
            its_arrays, values = recorder.snapshot()
            arrays |= {f"{i}/{name}": x for name, x in its_arrays.items()}
            recorders.append(values)
        values = {"warmup": warmup, "unfinished": self.play.unfinished, "steps": self.settings.steps}
        if isinstance(self.env, DeviceEnv):
            values["resets"] = self.env.num_resets
        else:
            assert isinstance(self.env, HostEnv)
            arrays |= {f"env/{name}": x for name, x in self.env.checkpoint()._asdict().items()}
        errors = {str(i): str(error) for i, error in self.errors.items()}
        state, env_state, obs = carry
        tree = {"agent": self.stored_part(state), "env": env_state, "obs": obs}
        try:
            self.snapshots.save(tree, arrays, values | {"recorders": recorders, "errors": errors})
        except UserError as error:
            warnings.warn(f"{error}; it is tried again later", RuntimeWarning, stacklevel=2)

    def stored_part(self, state: State) -> State:
        """Returns what a snapshot holds of the agents' state."""
        return state if self.settings.save_replay else state._replace(data=())

    def close_snapshots(self) -> None:
        """Waits for the last snapshot, and removes it if the run is finished."""
        if self.snapshots is None:
            return
        try:
            self.snapshots.wait()
        except UserError as error:
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        if not self.interrupted and not self.settings.keep_state:
            self.snapshots.remove()

    def resume(self) -> tuple[Carry, int]:
        """Returns the carry and the warm-up of the newest snapshot, and brings the recorders back.

        Raises:
          UserError: there is none, or it is damaged or of other settings.
        """
        assert self.snapshots is not None
        try:
            carry, warmup = self.restored()
        except UserError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # forged values
            path = self.snapshots.folder / "last.json"
            raise UserError(f"{path} is not the snapshot of this run: {type(error).__name__}: {error}") from error
        self.close_chunks([i for i in self.going() if self.recorders[i].rounds == 0], carry[0])  # a stopped evaluation
        return carry, warmup

    def restored(self) -> tuple[Carry, int]:
        """Returns the carry and the warm-up of the newest snapshot; every value in it is as yet unchecked."""
        assert self.snapshots is not None
        obs = self.env.reset()
        key, hyper = self.keys_and_hyper()
        shapes = self.stored_part(jax.eval_shape(self.program.init, key, obs, hyper))
        tree, arrays, values = self.snapshots.load({"agent": shapes, "env": self.env.state, "obs": obs})
        state, warmup = tree["agent"], operator.index(values["warmup"])
        self.play.unfinished = operator.index(values["unfinished"])
        env_state: Any = ()
        if isinstance(self.env, DeviceEnv):
            self.env.skip_resets(values["resets"] - self.env.num_resets)
            env_state, obs = self.env.place(tree["env"], tree["obs"])
        else:
            assert isinstance(self.env, HostEnv)
            obs = self.env.restore(EnvCheckpoint(*(arrays[f"env/{x}"] for x in EnvCheckpoint._fields)))
        if self.mesh:
            state = jax.device_put(state, tree_shardings(state, self.mesh))
        if not self.settings.save_replay:
            state, warmup = state._replace(data=self.compiled(self.program.init)(key, obs, hyper).data), self.warmup
        elif not _are_equal(obs, tree["obs"]):
            self.progress.note(f"{self.env.id} does not repeat its episodes: the run goes on with fresh ones")
            state, obs = self.with_fresh_episodes(state, tree["obs"])
        self.note_beginning(state)
        for i, recorder in enumerate(self.recorders):
            own = {name.removeprefix(f"{i}/"): x for name, x in arrays.items() if name.startswith(f"{i}/")}
            recorder.restore(own, values["recorders"][i])
            recorder.files.rewind(recorder.env_steps)
            if str(i) in values["errors"]:
                self.errors[i] = UserError(values["errors"][str(i)])
            elif recorder.over:
                self.runs[i] = recorder.as_run(_of_seed(state.params, i) if self.many else state.params)
        self.clock = Stopwatch(max(each.watch.seconds() for each in self.recorders))
        steps, every = max(each.env_steps for each in self.recorders), self.settings.checkpoint_every
        self.next_snapshot, self.saved_at = (steps // every + 1) * every, self.clock.seconds()
        return (state, env_state, obs), warmup

    def with_fresh_episodes(self, state: State, obs: Any) -> tuple[State, Any]:
        """Returns the state after an end of every episode at `obs`, and the first observations of new ones."""
        new_obs = self.env.reset()
        _, extra = jax.eval_shape(self.program.act, state, new_obs)
        reset = jax.vmap(zero_step) if self.many else zero_step
        row = reset(obs)._replace(next_obs=new_obs, extra=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), extra))
        return self.compiled(self.program.observe)(end_episodes(state, self.many), row), new_obs

    def keys_and_hyper(self) -> tuple[Any, Any]:
        """Returns the keys and the hyperparameters with which the agents begin."""
        keys, hyper = [jax.random.key(seed) for seed in self.seeds], hyper_of(self.config)
        if not self.many:
            return keys[0], hyper
        return jnp.stack(keys), jax.tree.map(lambda x: np.full(len(keys), x, jnp.result_type(x)), hyper)

    def begin(self, obs: Any, initial: Any) -> State:
        """Returns the first state, of all seeds, built by one compiled program."""
        key, hyper = self.keys_and_hyper()
        state = self.compiled(self.program.init)(key, obs, hyper)
        if initial is None:
            return state
        if self.many:
            initial = jax.tree.map(lambda x: jnp.repeat(x[None], len(self.seeds), axis=0), initial)
        if self.mesh:
            initial = jax.device_put(jax.device_get(initial), replicated(self.mesh))
        target = jax.tree.map(jnp.copy, initial) if state.target != () else ()
        return state._replace(params=initial, target=target)

    def interrupt(self, number: int) -> None:
        """Ends the run after the present vector step, for a signal with this number."""
        self.interrupted = number

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
        if self.several_processes and isinstance(self.env, HostEnv):  # a compiled program gives those of all
            episodes = gather_episodes(episodes)
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
        """Records the chunks of some seeds, and finishes those whose run is over; all of them if `last`.

        A chunk that was left unfinished at the end is recorded only if no snapshot holds it.
        """
        if not seeds:
            return
        all_signs = jax.device_get(self.signs(state))
        if self.many or self.mesh:
            state = state._replace(data=())
        if self.mesh:
            state = local_copy(state)
        for i in seeds:
            recorder, its_state = self.recorders[i], _of_seed(state, i) if self.many else state
            with self.failing_alone(i):
                if not last or (self.snapshots is None and recorder.parts):
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


def _are_equal(one: Any, other: Any) -> bool:
    """Returns whether two trees of arrays hold the same numbers."""
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the mean of rows of metrics without their NaNs, and the env steps of the seed that is furthest."""
    known = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in rows[0]}
    means = {name: float(np.mean(values)) if values else math.nan for name, values in known.items()}
    return means | {"env_steps": max(row["env_steps"] for row in rows)}
