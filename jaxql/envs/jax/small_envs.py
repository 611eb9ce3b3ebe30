"""Small JAX envs: Catch, CartPole, Deep Sea (which needs exploration) and Memory Chain (which needs a memory)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.envs.jax.mdp import to_mdp
from jaxql.envs.jax.protocol import JaxEnv
from jaxql.errors import UserError
from jaxql.types import MDP, Array

GRAVITY, FORCE, TIME_STEP = 9.8, 10.0, 0.02
CART_MASS, POLE_MASS, POLE_HALF_LENGTH = 1.0, 0.1, 0.5
POSITION_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360


def catch(rows: int = 6, columns: int = 5) -> JaxEnv:
    """Makes Catch: a ball falls one row a step onto a paddle. The reward is +1 if it is caught, else -1.

    Actions move the paddle left, not at all, or right. A state is the index (row * columns + column of the ball) *
    columns + paddle, S = rows * columns**2. An episode has rows - 1 steps. The ball starts in row 0 of a random column,
    the paddle in the middle. After Osband et al. (2020), "Behaviour Suite for Reinforcement Learning",
    arXiv:1908.03568, section "catch".

    Raises:
      UserError: fewer than 2 rows or 1 column.

    >>> env = catch(rows=2, columns=3)
    >>> state, reward, terminated = env.step(jax.random.key(0), jnp.int32(4), jnp.int32(1))  # from the middle: stay
    >>> print(state, reward, terminated)
    13 1.0 True
    """
    if rows < 2 or columns < 1:
        raise UserError(f"catch: rows={rows}, columns={columns}; it needs 2 rows and 1 column at least")

    def reset(key: Array, /) -> Array:
        return columns * jax.random.randint(key, (), 0, columns, jnp.int32) + columns // 2

    def step(key: Array, state: Any, action: Array, /) -> tuple[Array, Array, Array]:
        row, column, paddle = state // columns**2 + 1, state // columns % columns, state % columns
        paddle, landed = jnp.clip(paddle + action - 1, 0, columns - 1), row == rows - 1
        reward = jnp.where(landed, jnp.where(paddle == column, 1.0, -1.0), 0.0)
        return (row * columns + column) * columns + paddle, reward, landed

    return JaxEnv(reset=reset, step=step, num_actions=3, num_states=rows * columns**2)


def catch_mdp(rows: int = 6, columns: int = 5) -> MDP:
    """Returns `catch` as a model, for exact solutions. The terminal states of the last row loop with reward 0."""
    num_states = rows * columns**2
    start = np.zeros(num_states)
    start[np.arange(columns) * columns + columns // 2] = 1 / columns
    return to_mdp(catch(rows, columns), start, num_terminal=columns**2)


def cartpole() -> JaxEnv:
    """Makes CartPole: push a cart left (0) or right (1) to balance a pole. The reward is +1 a step.

    An episode terminates when the cart or the pole is out of bounds, and is truncated after 500 steps. A state is
    [position, velocity, angle, angular velocity] in the default float. Each entry of the first state is uniform in
    +-0.05. Steps are Euler steps of Barto, Sutton & Anderson (1983), appendix, without friction,
    https://doi.org/10.1109/TSMC.1983.6313077. Gymnasium's CartPole-v1 is the same, but rounds what it shows to float32.

    >>> env = cartpole()
    >>> state, reward, terminated = env.step(None, jnp.zeros(4), 1)
    >>> print([round(float(x), 3) for x in state], reward, terminated)
    [0.0, 0.195, 0.0, -0.293] 1.0 False
    """

    def reset(key: Array, /) -> Array:
        return jax.random.uniform(key, (4,), float, -0.05, 0.05)

    def step(key: Array, state: Any, action: Array, /) -> tuple[Array, float, Array]:
        _, velocity, angle, angular_velocity = state
        mass, cos, sin = CART_MASS + POLE_MASS, jnp.cos(angle), jnp.sin(angle)
        force = jnp.where(action == 1, FORCE, -FORCE)
        push = (force + POLE_MASS * POLE_HALF_LENGTH * angular_velocity**2 * sin) / mass
        angular = (GRAVITY * sin - cos * push) / (POLE_HALF_LENGTH * (4 / 3 - POLE_MASS * cos**2 / mass))
        linear = push - POLE_MASS * POLE_HALF_LENGTH * angular * cos / mass
        state = state + TIME_STEP * jnp.stack([velocity, linear, angular_velocity, angular])
        return state, 1.0, (jnp.abs(state[0]) > POSITION_LIMIT) | (jnp.abs(state[2]) > ANGLE_LIMIT)

    return JaxEnv(reset=reset, step=step, num_actions=2, step_limit=500)


def deep_sea(size: int = 10, seed: int = 0) -> JaxEnv:
    """Makes Deep Sea: a diver sinks N = size rows, one a step, and moves left or right at each.

    A move right costs 0.01 / N. A move right from the last column, reached only by N - 1 moves right, pays +1. So the
    best return is 0.99, and random play rarely finds it. Which action means right in a cell is drawn once, with `seed`.
    A state is the index row * N + column, S = N * (N + 1). An episode has N steps from state 0. After Osband et al.
    (2020), "Behaviour Suite for Reinforcement Learning", arXiv:1908.03568, section "deep sea".

    Raises:
      UserError: size below 1.

    >>> env = deep_sea(size=1)
    >>> sorted(round(float(env.step(None, env.reset(None), action)[1]), 2) for action in (0, 1))
    [0.0, 0.99]
    """
    if size < 1:
        raise UserError(f"deep_sea: size={size}; it needs 1 row at least")
    right_action = jnp.asarray(np.random.default_rng(seed).integers(0, 2, (size + 1) * size), jnp.int32)

    def reset(key: Array, /) -> Array:
        return jnp.int32(0)

    def step(key: Array, state: Any, action: Array, /) -> tuple[Array, Array, Array]:
        row, column, right = state // size + 1, state % size, action == right_action[state]
        reward = jnp.where(right, (column == size - 1) - 0.01 / size, 0.0)
        column = jnp.clip(column + jnp.where(right, 1, -1), 0, size - 1)
        return row * size + column, reward, row == size

    return JaxEnv(reset=reset, step=step, num_actions=2, num_states=(size + 1) * size)


def deep_sea_mdp(size: int = 10, seed: int = 0) -> MDP:
    """Returns `deep_sea` as a model, for exact solutions. The terminal states below the last row loop with reward 0.

    >>> from jaxql import planning
    >>> round(float(planning.best_return(deep_sea_mdp(size=4))), 4)
    0.99
    """
    return to_mdp(deep_sea(size, seed), np.arange(size * (size + 1)) == 0, num_terminal=size)


def memory_chain(length: int = 10) -> JaxEnv:
    """Makes Memory Chain: a cue of -1 or 1 is shown at the first step, and the last action must match it.

    Between the two lies a corridor of `length` cells. An episode has length + 1 steps: one at the cue, one in each
    cell. Action 1 matches the cue 1, action 0 the cue -1. The last action is rewarded with 1 if it matches, else -1;
    the other actions change nothing. An observation is [the cue at the first step, then 0; the fraction of the corridor
    that lies ahead; 1 in the last cell, else 0]. After Osband et al. (2020), "Behaviour Suite for Reinforcement
    Learning", arXiv:1908.03568, experiment "memory_len".

    Raises:
      UserError: length below 1.

    >>> env = memory_chain(length=2)
    >>> state = jnp.array([1, 0])  # the cue 1, at the first step
    >>> for _ in range(3):
    ...     print(env.observe(state))
    ...     state, reward, terminated = env.step(None, state, 1)
    [1. 1. 0.]
    [0.  0.5 0. ]
    [0. 0. 1.]
    >>> print(reward, terminated)
    1.0 True
    """
    if length < 1:
        raise UserError(f"memory_chain: length={length}; the corridor needs 1 cell at least")

    def reset(key: Array, /) -> Array:
        return jnp.stack([2 * jax.random.bernoulli(key).astype(jnp.int32) - 1, 0])  # cue, steps taken

    def step(key: Array, state: Any, action: Array, /) -> tuple[Array, Array, Array]:
        cue, steps = state
        last = steps == length
        reward = jnp.where(last, jnp.where(2 * action - 1 == cue, 1.0, -1.0), 0.0)
        return jnp.stack([cue, steps + 1]), reward, last

    def observe(state: Any, /) -> Array:
        cue, steps = state
        return jnp.stack([jnp.where(steps == 0, cue, 0), 1 - steps / length, steps == length]).astype(float)

    return JaxEnv(reset=reset, step=step, num_actions=2, observe=observe)
