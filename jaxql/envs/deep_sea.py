"""Deep Sea, where a dithering agent finds the one good path with probability 2**-N."""

import jax.numpy as jnp
import numpy as np

from jaxql.envs.worlds import World, to_mdp
from jaxql.errors import UserError
from jaxql.types import MDP


def deep_sea(size: int = 10, seed: int = 0) -> World:
    """A diver sinks N rows, each step to the left or, for 0.01 / N, to the right; right from the last column: +1.

    Only to go right N times ends there: the best return is 0.99. Which of the two actions is right in a cell was drawn
    with `seed`, once. A state is the index row * N + column, S = N * (N + 1); an episode has N steps from state 0.
    After Osband et al. (2020), "Behaviour Suite for Reinforcement Learning", arXiv:1908.03568, section "deep sea".

    >>> world = deep_sea(size=1)
    >>> sorted(round(float(world.step(None, world.reset(None), action)[1]), 2) for action in (0, 1))
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

    return World(reset=reset, step=step, num_actions=2, num_states=(size + 1) * size)


def deep_sea_mdp(size: int = 10, seed: int = 0) -> MDP:
    """`deep_sea` as a model, for exact solutions; the last row, where episodes are over, loops onto itself unrewarded.

    >>> from jaxql import planning
    >>> round(float(planning.best_return(deep_sea_mdp(size=4))), 4)
    0.99
    """
    world = deep_sea(size, seed)
    return to_mdp(world, np.arange(world.num_states) == 0, num_over=size)
