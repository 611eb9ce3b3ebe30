"""Small envs of our own: CartPole as Gymnasium has it, Deep Sea to explore in, and one that takes a memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.envs.worlds import JaxEnv, to_mdp
from jaxql.errors import UserError
from jaxql.types import MDP

GRAVITY, FORCE, SECONDS = 9.8, 10.0, 0.02
CART, POLE, HALF_LENGTH = 1.0, 0.1, 0.5  # masses, and half the pole
POSITION_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360


def cartpole() -> JaxEnv:
    """A cart is pushed left (0) or right (1) under a pole; +1 a step, until the cart or the pole is out of bounds.

    A state is [position, velocity, angle, angular velocity] in the default float; the first is uniform in +-0.05. The
    limit of 500 steps truncates. Steps are Euler's, of Barto, Sutton & Anderson (1983), appendix, without friction,
    https://doi.org/10.1109/TSMC.1983.6313077, as in Gymnasium's CartPole-v1, whose observations are rounded to float32.

    >>> env = cartpole()
    >>> state, reward, terminated = env.step(None, jnp.zeros(4), 1)
    >>> print([round(float(x), 3) for x in state], reward, terminated)
    [0.0, 0.195, 0.0, -0.293] 1.0 False
    """

    def reset(key):
        return jax.random.uniform(key, (4,), float, -0.05, 0.05)

    def step(key, state, action):
        position, velocity, angle, turning = state
        mass, cos, sin = CART + POLE, jnp.cos(angle), jnp.sin(angle)
        push = (jnp.where(action == 1, FORCE, -FORCE) + POLE * HALF_LENGTH * turning**2 * sin) / mass
        angular = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4 / 3 - POLE * cos**2 / mass))
        linear = push - POLE * HALF_LENGTH * angular * cos / mass
        state = state + SECONDS * jnp.stack([velocity, linear, turning, angular])
        return state, 1.0, (jnp.abs(state[0]) > POSITION_LIMIT) | (jnp.abs(state[2]) > ANGLE_LIMIT)

    return JaxEnv(reset=reset, step=step, num_actions=2, step_limit=500)


def deep_sea(size: int = 10, seed: int = 0) -> JaxEnv:
    """A diver sinks N rows, each step to the left or, for 0.01 / N, to the right; right from the last column: +1.

    Only to go right N times ends there: the best return is 0.99. Which of the two actions is right in a cell was drawn
    with `seed`, once. A state is the index row * N + column, S = N * (N + 1); an episode has N steps from state 0.
    After Osband et al. (2020), "Behaviour Suite for Reinforcement Learning", arXiv:1908.03568, section "deep sea".

    >>> env = deep_sea(size=1)
    >>> sorted(round(float(env.step(None, env.reset(None), action)[1]), 2) for action in (0, 1))
    [0.0, 0.99]
    """
    if size < 1:
        raise UserError(f"deep_sea: size={size}; it needs 1 row at least")
    rightward = jnp.asarray(np.random.default_rng(seed).integers(0, 2, (size + 1) * size), jnp.int32)

    def reset(key):
        return jnp.int32(0)

    def step(key, state, action):
        row, column, right = state // size + 1, state % size, action == rightward[state]
        reward = jnp.where(right, (column == size - 1) - 0.01 / size, 0.0)
        column = jnp.clip(column + jnp.where(right, 1, -1), 0, size - 1)
        return row * size + column, reward, row == size

    return JaxEnv(reset=reset, step=step, num_actions=2, num_states=(size + 1) * size)


def deep_sea_mdp(size: int = 10, seed: int = 0) -> MDP:
    """`deep_sea` as a model, for exact solutions; the last row, where episodes are over, loops onto itself unrewarded.

    >>> from jaxql import planning
    >>> round(float(planning.best_return(deep_sea_mdp(size=4))), 4)
    0.99
    """
    jax_env = deep_sea(size, seed)
    return to_mdp(jax_env, np.arange(jax_env.num_states) == 0, num_over=size)


def memory(length: int = 10) -> JaxEnv:
    """A cue of -1 or 1 is shown at the start of a corridor of `length` cells, in whose last an action must match it.

    An episode has length + 1 steps: one at the cue, one in each cell. Action 1 matches the cue 1, action 0 the cue -1;
    the last action is rewarded with 1 if it matches, else -1, and no other matters. The agent sees [cue, or 0 in the
    corridor; the part of the corridor that lies ahead; 1 in the last cell, else 0]. After Osband et al. (2020),
    "Behaviour Suite for Reinforcement Learning", arXiv:1908.03568, experiment "memory_len".

    >>> env = memory(length=2)
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
        raise UserError(f"memory: length={length}; the corridor needs 1 cell at least")

    def reset(key):
        return jnp.stack([2 * jax.random.bernoulli(key).astype(jnp.int32) - 1, 0])  # cue, steps taken

    def step(key, state, action):
        cue, steps = state
        last = steps == length
        reward = jnp.where(last, jnp.where(2 * action - 1 == cue, 1.0, -1.0), 0.0)
        return jnp.stack([cue, steps + 1]), reward, last

    def observe(state):
        cue, steps = state
        return jnp.stack([jnp.where(steps == 0, cue, 0), 1 - steps / length, steps == length]).astype(float)

    return JaxEnv(reset=reset, step=step, num_actions=2, observe=observe)
