"""JAX envs for the training program: rounds are compiled, env and agent in one program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxql import loop
from jaxql.envs.jax.autoreset import AutoresetState, autoreset
from jaxql.envs.jax.protocol import JaxEnv
from jaxql.envs.seeding import episode_seed, split_among_seeds
from jaxql.errors import EnvError, UserError
from jaxql.mesh import env_sharding, jit_on_mesh, replicated, tree_shardings
from jaxql.types import MDP, Agent, Array, Episode, StepResult


class EpisodeStats(NamedTuple):
    """Envs in progress, with the returns and lengths of their current episodes."""

    envs: AutoresetState
    returns: Array  # [..., B]
    lengths: Array  # [..., B]
    num_steps: Array  # [] vector steps since the reset
    fault: Array  # [3] int32: 1 + the first step with a value that is not allowed, its env, its field; 0 if none


class StepLog(NamedTuple):
    """The first `size` of T steps: which episodes ended, and the scores of all episodes by then."""

    size: Array  # []
    ends: Array  # [T, ..., B]
    returns: Array  # [T, ..., B]
    lengths: Array  # [T, ..., B]


Carry = tuple[Any, EpisodeStats, Any]  # (agent's state, env.state, obs)
PlayRounds = Callable[[Carry, int, int], tuple[Carry, Any]]  # (carry, warmup, rounds) -> (carry, metrics)


class DeviceEnv:
    """B copies of a `JaxEnv` as a `jaxql.types.Env`; `compile_rounds` plays many rounds in one program.

    A row is a function of the seed, the purpose, the number of calls of `reset`, the env, the episode and its actions.

    Args:
      jax_env: one episode.
      num_envs: B, over all seeds.
      id: its name in messages.
      seed, purpose: see `jaxql.envs.make`. With S seeds arrays are [S, B / S, ...].
      mdp: the env as a model, if it has one.
      mesh: its devices, of all processes, share the B envs.

    Raises:
      UserError: a wrong seed or purpose, B is not a multiple of S or of the devices, or many seeds on a mesh.

    >>> from jaxql.envs.jax import catch
    >>> env = DeviceEnv(catch(rows=2), 3, "catch")
    >>> obs = env.reset()
    >>> result = env.tick(np.ones(3, int))
    >>> result.terminated.tolist(), [episode.length for episode in env.take_episodes()]
    ([True, True, True], [1, 1, 1])
    """

    notes = ()
    render_fps: float | None = None
    step_limit: int | None = None

    def __init__(
        self,
        jax_env: JaxEnv,
        num_envs: int,
        id: str,
        *,
        seed: int | Sequence[int] = 0,
        purpose: str = "train",
        mdp: MDP | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        self.id, self.mdp, self._mesh = id, mdp, mesh
        self._finished: list[Episode] = []
        self._num_resets = 0
        seeds, shape = split_among_seeds(seed, num_envs, id)
        self._many_seeds = len(shape) == 2
        self._seeds = [episode_seed(each, purpose, 0, 0) for each in seeds]
        self.spec = jax_env.spec(shape[-1])
        if mesh is not None and self._many_seeds:
            raise UserError(f"{id}: many seeds cannot share a mesh; give one seed, or no mesh")
        if mesh is not None and num_envs % mesh.size:
            raise UserError(f"{id}: {mesh.size} devices cannot share {num_envs} envs equally")
        begin, step = autoreset(jax_env, shape[-1])
        self._begin = jax.vmap(begin) if self._many_seeds else begin
        self._compiled_start: Callable[..., Any] = jax.jit(self._start)
        if mesh is not None:
            self._compiled_start = jit_on_mesh(self._start, mesh, lambda _: self._placement())
        self._step = jax.vmap(step) if self._many_seeds else step
        self._compiled_step = jax.jit(self.step)
        named = jax.tree_util.tree_leaves_with_path(self.spec.obs)
        parts = [f"observation{jax.tree_util.keystr(path)}" for path, _ in named]
        self._fields = ("reward", *parts)
        self._indices = {i for i, (_, x) in enumerate(named, start=1) if x.dtype.kind in "iu" and self.spec.num_states}
        self.state: Any = None  # an EpisodeStats after `reset`

    def reset(self) -> Any:
        """Starts new episodes in every env and returns the observations [B, ...]."""
        keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), self._num_resets) for seed in self._seeds])
        self._num_resets += 1
        self.state, obs = self._compiled_start(keys if self._many_seeds else keys[0])
        self.check(self.state)
        return obs

    def _start(self, keys: Array) -> tuple[EpisodeStats, Any]:
        """Returns the envs at the beginning of their first episodes, and the observations."""
        envs, obs = self._begin(keys)
        returns = jnp.zeros(envs.needs_reset.shape)
        fault = self._find_fault(jnp.zeros(returns.shape), obs, jnp.int32(0))
        return EpisodeStats(envs, returns, returns.astype(jnp.int32), jnp.int32(0), fault), obs

    def _placement(self) -> tuple[EpisodeStats, Any]:
        """Returns the shardings on the mesh of the EpisodeStats and of the observations."""
        assert self._mesh is not None
        by_env: Any = env_sharding(self._mesh)
        whole: Any = replicated(self._mesh)
        return EpisodeStats(by_env, by_env, by_env, whole, whole), by_env

    def place(self, env_state: EpisodeStats, obs: Any) -> tuple[EpisodeStats, Any]:
        """Returns both where this env's programs expect them: on its mesh, if it has one."""
        return (env_state, obs) if self._mesh is None else jax.device_put((env_state, obs), self._placement())

    @property
    def num_resets(self) -> int:
        """The number of calls of `reset` so far."""
        return self._num_resets

    def skip_resets(self, count: int) -> None:
        """Leaves out the episodes of the next `count` calls of `reset`."""
        self._num_resets += count

    def step(self, env_state: EpisodeStats, action: Any, /) -> tuple[EpisodeStats, StepResult[Array]]:
        """Steps every env, as a pure function: see `jaxql.types.Env.step`."""
        envs, result = self._step(env_state.envs, action)
        keep = jnp.where(result.valid, 1, 0)  # a reset drops the scores of the episode before
        returns, lengths = keep * env_state.returns + result.reward, keep * (env_state.lengths + 1)
        num_steps = env_state.num_steps + 1
        found = self._find_fault(result.reward, result.next_obs, num_steps)
        fault = jnp.where(env_state.fault[0] > 0, env_state.fault, found)
        return EpisodeStats(envs, returns, lengths, num_steps, fault), result

    def check(self, env_state: EpisodeStats) -> None:
        """Raises EnvError if a reward or an observation was not finite, or an index was no state, by then."""
        tick, env_index, field = np.asarray(env_state.fault).tolist()
        if tick:
            name = self._fields[field]
            why = (
                "is not finite" if field not in self._indices else f"is not one of 0..{(self.spec.num_states or 0) - 1}"
            )
            raise EnvError(f"{self.id}: at tick {tick - 1} the {name} of env {env_index} {why}")

    def _find_fault(self, reward: Array, obs: Any, tick: Array) -> Array:
        """Returns [1 + tick, env, field] of the first value that is not allowed, or zeros."""
        num_envs = reward.size
        bad = [~jnp.isfinite(reward).reshape(num_envs)]
        for i, x in enumerate(jax.tree.leaves(obs), start=1):
            x = x.reshape(num_envs, -1)
            wrong = ~jnp.isfinite(x) if i not in self._indices else (x < 0) | (x >= (self.spec.num_states or 0))
            bad.append(jnp.any(wrong, axis=1))
        place = jnp.argmax(jnp.stack(bad))
        found = jnp.stack([tick + 1, place % num_envs, place // num_envs]).astype(jnp.int32)
        return jnp.where(jnp.any(jnp.stack(bad)), found, 0)

    def tick(self, action: Any, idle: np.ndarray | None = None) -> StepResult[np.ndarray]:
        """Steps every env and returns NumPy arrays, except for the observations. `idle` changes nothing here."""
        if self.state is None:
            raise UserError(f"{self.id}: call reset() before tick()")
        self.state, result = self._compiled_step(self.state, np.asarray(action, np.int32))
        self.check(self.state)
        returns, lengths, arrays = jax.device_get((self.state.returns, self.state.lengths, result[1:]))
        result = StepResult(result.next_obs, *arrays)
        self._add_finished(result.terminated | result.truncated, returns, lengths)
        return result

    def take_episodes(self) -> list[Episode]:
        """Returns the episodes that finished since the last call, in order."""
        finished, self._finished = self._finished, []
        return finished

    def compile_rounds(self, agent: Agent, *, max_warmup: int, max_rounds: int, rollout_length: int) -> PlayRounds:
        """Returns play(carry, warmup, rounds) -> (carry, metrics): `loop.train` as one compiled program.

        The same program serves every `warmup` up to `max_warmup` and every `rounds` up to `max_rounds`. The carry is
        (agent's state, `state`, observations); the agent's state in it is donated. EnvError is raised if a reward or an
        observation was not finite. Leaves of the metrics are
        [rounds, ...] NumPy arrays. Finished episodes are there for `take_episodes`.

        Args:
          agent: its pure functions, not compiled.
          max_warmup: the most steps without learning.
          max_rounds: the most rounds of one call.
          rollout_length: steps a round.
        """
        counts = dict(max_warmup=max_warmup, max_rounds=max_rounds, rollout_length=rollout_length)
        program, mesh = self.rounds_program(agent, **counts), self._mesh
        compiled: Callable[..., Any] = jax.jit(program, donate_argnums=0)
        if mesh is not None:

            def shardings_of(results: Any) -> Any:
                (state, _, _), _, _ = results
                return (tree_shardings(state, mesh), *self._placement()), replicated(mesh), replicated(mesh)

            compiled = jit_on_mesh(program, mesh, shardings_of, donate_argnums=0)

        def play(carry: Carry, warmup: int, rounds: int) -> tuple[Carry, Any]:
            carry, metrics, log = compiled(*carry, warmup, rounds)
            self.check(carry[1])
            metrics, log = jax.device_get((metrics, log))
            for t in np.flatnonzero(log.ends.reshape(len(log.ends), -1).any(axis=1)):
                self._add_finished(log.ends[t], log.returns[t], log.lengths[t])
            return carry, jax.tree.map(lambda x: x[:rounds], metrics)

        return play

    def rounds_program(
        self, agent: Agent, *, max_warmup: int, max_rounds: int, rollout_length: int
    ) -> Callable[[Any, EpisodeStats, Any, Array, Array], tuple[Carry, Any, StepLog]]:
        """Returns the pure function that `compile_rounds` compiles: (state, env, obs, warmup, rounds) -> its results.

        The results are the carry, the metrics and the log of episode ends.
        """
        num_steps = max_warmup + max_rounds * rollout_length

        def logged_step(env_and_log: tuple[EpisodeStats, StepLog], action: Array) -> Any:
            (env, result), log = self.step(env_and_log[0], action), env_and_log[1]
            entry = result.terminated | result.truncated, env.returns, env.lengths
            columns = (column.at[log.size].set(x) for column, x in zip(log[1:], entry, strict=True))
            return (env, StepLog(log.size + 1, *columns)), result

        def train(state: Any, env: EpisodeStats, obs: Any, warmup: Array, rounds: Array) -> tuple[Carry, Any, StepLog]:
            columns = (env.envs.needs_reset, env.returns, env.lengths)
            log = StepLog(jnp.int32(0), *(jnp.zeros((num_steps, *x.shape), x.dtype) for x in columns))
            counts: Any = dict(warmup=warmup, rounds=rounds, rollout_length=rollout_length)
            scan: Any = loop.bounded_scan(max_rounds)
            carry, metrics = loop.train(agent, logged_step, (state, (env, log), obs), **counts, scan=scan)
            state, (env, log), obs = carry
            return (state, env, obs), metrics, log

        return train

    def render(self) -> list[np.ndarray]:
        """Raises UserError: JAX envs draw no frames."""
        raise UserError(f"{self.id} draws no frames; record a run of a Gymnasium or Atari env")

    def close(self) -> None:
        """Does nothing: there is nothing to release."""

    def _add_finished(self, ends: np.ndarray, returns: np.ndarray, lengths: np.ndarray) -> None:
        returns, lengths = returns.reshape(-1), lengths.reshape(-1)
        for i in np.flatnonzero(ends):
            self._finished.append(Episode(int(i), float(returns[i]), int(lengths[i])))
