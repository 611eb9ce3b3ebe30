"""Envs that are JAX programs: they run inside `jit`, `vmap` and `lax.scan`, and everything about them is known."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.keys import address
from jaxql.types import MDP, EnvSpec


class JaxEnv(NamedTuple):
    """One episode, as pure functions."""

    reset: Callable  # (key) -> state
    step: Callable  # (key, state, action) -> (state, reward, terminated)
    num_actions: int
    num_states: int | None = None  # where observations are indices
    step_limit: int | None = None  # the episode is truncated after so many steps
    observe: Callable = lambda state: state  # what the agent sees of a state

    def spec(self, num_envs: int) -> EnvSpec:
        """What an agent must know of `num_envs` of these.

        >>> catch().spec(8).obs
        ShapeDtypeStruct(shape=(8,), dtype=int32)
        """
        obs = jax.eval_shape(lambda key: self.observe(self.reset(key)), jax.random.key(0))
        obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_envs, *x.shape), x.dtype), obs)
        return EnvSpec(obs=obs, num_actions=self.num_actions, num_envs=num_envs, num_states=self.num_states)


def catch(rows: int = 6, columns: int = 5) -> JaxEnv:
    """A ball falls, one row a step, onto a paddle that moves left, stays or moves right; +1 if it is caught, else -1.

    A state is the index (row * columns + column of the ball) * columns + paddle, S = rows * columns**2. An episode has
    rows - 1 steps: the ball starts in row 0 of a random column, the paddle in the middle. After Osband et al. (2020),
    "Behaviour Suite for Reinforcement Learning", arXiv:1908.03568, section "catch".
    """
    if rows < 2 or columns < 1:
        raise UserError(f"catch: rows={rows}, columns={columns}; it needs 2 rows and 1 column at least")

    def reset(key):
        return columns * jax.random.randint(key, (), 0, columns, jnp.int32) + columns // 2

    def step(key, state, action):
        ball, column, paddle = state // columns**2 + 1, state // columns % columns, state % columns
        paddle, landed = jnp.clip(paddle + action - 1, 0, columns - 1), ball == rows - 1
        reward = jnp.where(landed, jnp.where(paddle == column, 1.0, -1.0), 0.0)
        return (ball * columns + column) * columns + paddle, reward, landed

    return JaxEnv(reset=reset, step=step, num_actions=3, num_states=rows * columns**2)


def catch_mdp(rows: int = 6, columns: int = 5) -> MDP:
    """`catch` as a model, for exact solutions; the last row, where episodes are over, loops onto itself unrewarded."""
    jax_env = catch(rows, columns)
    start = np.zeros(jax_env.num_states)
    start[np.arange(columns) * columns + columns // 2] = 1 / columns
    return to_mdp(jax_env, start, num_over=columns**2)


def to_mdp(jax_env: JaxEnv, start, num_over: int) -> MDP:
    """An env of indices that draws nothing but its start, as a model; the last `num_over` states loop unrewarded.

    Args:
      start: [S] distribution of the first state.
      num_over: so many of the last states are where episodes are over.
    """
    states, actions = np.indices((jax_env.num_states, jax_env.num_actions), dtype=np.int32)
    successor, reward, ends = (np.array(x) for x in jax_env.step(jax.random.key(0), states, actions))
    over = states >= jax_env.num_states - num_over
    return MDP(
        next_state=jnp.asarray(np.where(over, states, successor)[..., None], jnp.int32),
        probability=jnp.ones((*states.shape, 1)),
        reward=jnp.asarray(np.where(over, 0, reward)[..., None], float),
        ends=jnp.asarray((over | ends)[..., None]),
        start=jnp.asarray(start, float),
    )


def from_mdp(mdp: MDP) -> JaxEnv:
    """The env that draws its first state from `mdp.start` and its transitions from `mdp.probability`.

    >>> env = from_mdp(catch_mdp(rows=2, columns=3))
    >>> state, reward, terminated = env.step(jax.random.key(0), jnp.int32(4), jnp.int32(1))
    >>> int(state), float(reward), bool(terminated)  # state 4: ball and paddle in the middle; 1: stay
    (13, 1.0, True)
    """
    first, successor = _alias(mdp.start), _cumulative(mdp.probability)
    num_states, num_actions, _ = mdp.next_state.shape

    def reset(key):
        return _draw_alias(key, *first)

    def step(key, state, action):
        drawn = (state, action, _draw(key, successor[state, action]))
        next_state, reward, ends = (jnp.asarray(x)[drawn] for x in (mdp.next_state, mdp.reward, mdp.ends))
        return next_state.astype(jnp.int32), reward.astype(float), ends.astype(bool)

    return JaxEnv(reset, step, num_actions=num_actions, num_states=num_states, step_limit=mdp.step_limit)


def _distribution(probability):
    probability = np.asarray(probability, np.float64)
    total = probability.sum(axis=-1, keepdims=True)
    if not np.allclose(total, 1, atol=1e-5):
        raise UserError("from_mdp: start, and the probability of each state and action, must sum to 1")
    return probability / total


def _cumulative(probability):
    total = np.cumsum(_distribution(probability), axis=-1)
    return jnp.asarray(total / total[..., -1:], float)


def _draw(key, cumulative):
    """An index drawn from cumulative probabilities [K]: one of probability 0 never is, for it adds nothing."""
    if cumulative.size == 1:  # a number would be drawn in vain
        return jnp.int32(0)
    method = "compare_all" if cumulative.size <= 16 else "scan"  # a few are compared faster than searched
    return jnp.searchsorted(cumulative, jax.random.uniform(key), side="right", method=method)


def _alias(probability):
    """(threshold [K], other [K]): of K equal cells, k stands for k up to its threshold and for other[k] beyond.

    A draw then costs the same however many states there are. Source: Vose (1991), https://doi.org/10.1109/32.92917
    """
    left = _distribution(probability) * len(probability)
    threshold, other, order = np.ones(len(left)), np.arange(len(left)), np.argsort(-left)
    small, large = list(order[left[order] < 1]), list(order[left[order] >= 1])  # the least is served first
    while small and large:
        cell, giver = small.pop(), large[-1]
        threshold[cell], other[cell] = left[cell], giver
        left[giver] -= 1 - left[cell]
        if left[giver] < 1:
            small.append(large.pop())
    return jnp.asarray(threshold, float), jnp.asarray(other, jnp.int32)


def _draw_alias(key, threshold, other):
    place = jax.random.uniform(key) * len(threshold)
    cell = jnp.minimum(place.astype(jnp.int32), len(threshold) - 1)
    return jnp.where(place - cell < threshold[cell], cell, other[cell])


class AutoresetState(NamedTuple):
    """B envs under way, leaves [B, ...]."""

    state: jax.Array
    over: jax.Array  # resets itself at the next tick
    clock: jax.Array  # steps taken in this episode
    episode: jax.Array
    key: jax.Array


def autoreset(jax_env: JaxEnv, num_envs: int, step_limit: int | None = None, limit_terminates: bool = False):
    """NEXT_STEP autoreset around `num_envs` copies of an env, in the form that the loop drives.

    Args:
      env: one episode.
      num_envs: B.
      step_limit: an episode is truncated after so many steps; None: the env's own limit; 0: never.
      limit_terminates: the limit counts as a termination instead: no value beyond it.

    Returns:
      (begin, env_step): begin(key) -> (env, obs [B, ...]); env_step(env, action [B]) -> (env, (next_obs, reward,
      terminated, truncated, valid)). A row is a function of the env's key, the episode's number and its actions.

    >>> begin, env_step = autoreset(catch(rows=3), num_envs=2)
    >>> env, obs = begin(jax.random.key(0))
    >>> for _ in range(3):
    ...     env, (obs, reward, terminated, truncated, valid) = env_step(env, jnp.array([1, 1]))
    ...     print(terminated, valid)
    [False False] [ True  True]
    [ True  True] [ True  True]
    [False False] [False False]
    """
    limit = jax_env.step_limit if step_limit is None else step_limit
    if num_envs < 1 or (limit or 0) < 0:
        raise UserError(f"autoreset: num_envs={num_envs} must be at least 1, step_limit={limit} at least 0")

    def begin(key):
        state = jax_env.reset(address(key, 0, 0))
        return AutoresetState(state, jnp.bool_(False), jnp.int32(0), jnp.int32(0), key), jax_env.observe(state)

    def step(env, action):
        episode, clock = env.episode + env.over, jnp.where(env.over, 0, env.clock + 1)
        key = address(env.key, episode, clock)  # clock is 0 where an env resets itself, and only there
        played, reward, terminated = jax_env.step(key, env.state, action)
        fresh = jax_env.reset(key)
        state = jax.tree.map(lambda new, old: jnp.where(env.over, new, old), fresh, played)
        late = (clock == limit) & ~env.over if limit else jnp.bool_(False)
        terminated = ~env.over & terminated | late & limit_terminates
        truncated = late & ~terminated
        reward = jnp.where(env.over, 0, reward).astype(float)
        after = AutoresetState(state, terminated | truncated, clock, episode, env.key)
        return after, (jax_env.observe(state), reward, terminated, truncated, ~env.over)

    return lambda key: jax.vmap(begin)(jax.random.split(key, num_envs)), jax.vmap(step)


def on_host(env_step, env):
    """The same envs as an emulator has them: mutable, and NumPy. An `env_step` whose own `env` is ()."""
    env_step = jax.jit(env_step)

    def step(_, action):
        nonlocal env
        env, outcome = env_step(env, np.asarray(action))
        return (), jax.tree.map(lambda x: jnp.array(np.asarray(x)), outcome)

    return step
