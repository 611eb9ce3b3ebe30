"""A world that only an agent with a memory can do well in."""

import jax
import jax.numpy as jnp

from jaxql.envs.worlds import World
from jaxql.errors import UserError


def memory(length: int = 10) -> World:
    """A cue of -1 or 1 is shown at the start of a corridor of `length` cells, in whose last an action must match it.

    An episode has length + 1 steps: one at the cue, one in each cell. Action 1 matches the cue 1, action 0 the cue -1;
    the last action is rewarded with 1 if it matches, else -1, and no other matters. The agent sees [cue, or 0 in the
    corridor; the part of the corridor that lies ahead; 1 in the last cell, else 0]. After Osband et al. (2020),
    "Behaviour Suite for Reinforcement Learning", arXiv:1908.03568, experiment "memory_len".

    >>> world = memory(length=2)
    >>> state = jnp.array([1, 0])  # the cue 1, at the first step
    >>> for _ in range(3):
    ...     print(world.observe(state))
    ...     state, reward, terminated = world.step(None, state, 1)
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

    return World(reset=reset, step=step, num_actions=2, observe=observe)
