"""JAX envs as a run drives them: whole chunks of rounds are compiled, env and agent in one program."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql import loop
from jaxql.envs.host import Episode
from jaxql.envs.seeding import check_seed, episode_seed
from jaxql.envs.worlds import AutoresetState, JaxEnv, autoreset
from jaxql.errors import UserError
from jaxql.types import MDP, Agent


class EpisodeStats(NamedTuple):
    """Envs under way and the scores of their current episodes."""

    envs: AutoresetState
    returns: jax.Array  # [..., B]
    lengths: jax.Array  # [..., B]


class Log(NamedTuple):
    """The episodes that finished in a chunk of T ticks."""

    tick: jax.Array
    over: jax.Array  # [T, ..., B]
    returns: jax.Array  # [T, ..., B]
    lengths: jax.Array  # [T, ..., B]


class DeviceEnv:
    """B copies of a `JaxEnv`, with what a run asks of a `HostEnv`; `compiled` plays many rounds at once.

    A row is a function of (seed, purpose, how often `reset` was called, env, episode) and of the actions.

    Args:
      env: one episode.
      num_envs: B, over all seeds.
      id: its name in messages.
      seed, purpose: see `jaxql.envs.make`; of a sequence of S seeds, arrays are [S, B / S, ...].
      mdp: the same env as a model, where there is one.

    >>> from jaxql.envs.worlds import catch
    >>> env = DeviceEnv(catch(rows=2), 3, "catch")
    >>> obs = env.reset()
    >>> _, reward, terminated, *_ = env.tick(np.ones(3, int))
    >>> terminated.tolist(), [episode.length for episode in env.take_episodes()]
    ([True, True, True], [1, 1, 1])
    """

    notes = ()

    def __init__(
        self,
        jax_env: JaxEnv,
        num_envs: int,
        id: str,
        *,
        seed: int | Sequence[int] = 0,
        purpose: str = "train",
        mdp: MDP | None = None,
    ):
        self.id, self.mdp, self._finished, self._resets = id, mdp, [], 0
        groups = isinstance(seed, Sequence) and not isinstance(seed, str)
        self._seeds = [episode_seed(check_seed(each), purpose, 0, 0) for each in (seed if groups else [seed])]
        if not self._seeds or num_envs % len(self._seeds):
            raise UserError(f"{id}: {num_envs} envs cannot be split evenly among {len(self._seeds)} seeds")
        self.spec = jax_env.spec(num_envs // len(self._seeds))
        begin, step = autoreset(jax_env, self.spec.num_envs)
        self._begin, self._step = (jax.vmap(begin), jax.vmap(step)) if groups else (begin, step)
        self._begin, self._tick = jax.jit(self._begin), jax.jit(self.step)
        self._groups, self.state = groups, None

    def reset(self):
        """Begins every env anew and returns the observations; `state` is what `step` takes first."""
        keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), self._resets) for seed in self._seeds])
        self._resets += 1
        envs, obs = self._begin(keys if self._groups else keys[0])
        returns = jnp.zeros(envs.over.shape)
        self.state = EpisodeStats(envs, returns, returns.astype(jnp.int32))
        return obs

    def step(self, env: EpisodeStats, action):
        """One tick, as a pure function: see `jaxql.envs.worlds.autoreset`."""
        envs, row = self._step(env.envs, action)
        _, reward, *_, valid = row
        fresh = jnp.where(valid, 1, 0)  # at a reset the scores of the episode before are dropped
        return EpisodeStats(envs, fresh * env.returns + reward, fresh * (env.lengths + 1)), row

    def tick(self, action, idle=None):
        """One tick in NumPy, observations aside: (next_obs, reward, terminated, truncated, valid)."""
        if self.state is None:
            raise UserError(f"{self.id}: call reset() before tick()")
        self.state, (obs, *rows) = self._tick(self.state, np.asarray(action, np.int32))
        returns, lengths, (reward, terminated, truncated, valid) = jax.device_get((*self.state[1:], rows))
        self._note(terminated | truncated, returns, lengths)
        return obs, reward, terminated, truncated, valid

    def take_episodes(self) -> list[Episode]:
        """The episodes that finished since the last call, in order."""
        finished, self._finished = self._finished, []
        return finished

    def compiled(self, agent: Agent, *, most_warmup: int, most_rounds: int, ticks: int, updates: int):
        """play(carry, warmup, rounds) -> (carry, metrics): `loop.train` as one program for all counts up to the most.

        The carry is (state, env.state, obs) and the state in it is donated.
        """
        size, step = most_warmup + most_rounds * ticks, self.step

        def logged(env_and_log, action):
            (env, row), log = step(env_and_log[0], action), env_and_log[1]
            news = Log(log.tick + 1, row[2] | row[3], env.returns, env.lengths)
            stored = (old.at[log.tick].set(new) for old, new in zip(log[1:], news[1:], strict=True))
            return (env, Log(news.tick, *stored)), row

        @functools.partial(jax.jit, donate_argnums=0)
        def chunk(state, env, obs, warmup, rounds):
            blank = (jnp.zeros((size, *x.shape), x.dtype) for x in (env.envs.over, env.returns, env.lengths))
            carry, plan = (state, (env, Log(jnp.int32(0), *blank)), obs), dict(ticks=ticks, updates=updates)
            scan = loop.bounded_scan(most_rounds)
            carry, metrics = loop.train(agent, logged, carry, warmup=warmup, rounds=rounds, **plan, scan=scan)
            state, (env, log), obs = carry
            return (state, env, obs), metrics, log

        def play(carry, warmup, rounds):
            carry, metrics, log = chunk(*carry, warmup, rounds)
            metrics, log = jax.device_get((metrics, log))
            for t in np.flatnonzero(log.over.reshape(size, -1).any(axis=1)):
                self._note(log.over[t], log.returns[t], log.lengths[t])
            return carry, jax.tree.map(lambda x: x[:rounds], metrics)

        return play

    def close(self) -> None:
        """There is nothing to release."""

    def _note(self, over, returns, lengths):
        returns, lengths = returns.reshape(-1), lengths.reshape(-1)
        for env_index in np.flatnonzero(over):
            self._finished.append(Episode(int(env_index), float(returns[env_index]), int(lengths[env_index])))
