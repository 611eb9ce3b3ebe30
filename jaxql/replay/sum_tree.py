"""A tree of sums, for draws in proportion to weights that change: a draw or a change costs a few hundred additions.

A tree is a tuple of levels [nodes, FAN], leaves first; an entry of a level is the sum of a node of the level below.
Sums are always taken anew from their parts, so rounding does not drift.
"""

import jax
import jax.numpy as jnp

from jaxql.bellman.arguments import check_count
from jaxql.types import Array

FAN = 128  # entries of a node
Tree = tuple[Array, ...]


def zeros(size: int) -> Tree:
    """Returns a tree of at least `size` leaves, all 0."""
    check_count("size", size)
    levels: list[Array] = []
    while not levels or size > 1:
        size = -(-size // FAN)
        levels.append(jnp.zeros((size, FAN)))
    return tuple(levels)


def read(tree: Tree, index: Array) -> Array:
    """Returns the leaves [N] at index [N]."""
    return tree[0][index // FAN, index % FAN]


def write(tree: Tree, index: Array, value: Array) -> Tree:
    """Returns the tree with leaves index [N] set to value [N]; which of two at one index is not said.

    A value is finite and not negative.

    >>> tree = write(zeros(1000), jnp.array([3, 999]), jnp.array([1.0, 3.0]))
    >>> print(total(tree), read(tree, jnp.array([2, 3])))
    4.0 [0. 1.]
    """
    levels = []
    for level in tree:
        node = index // FAN
        levels.append(level.at[node, index % FAN].set(value))
        index, value = node, jnp.sum(levels[-1][node], axis=-1)
    return tuple(levels)


def total(tree: Tree) -> Array:
    """Returns the sum of all leaves."""
    return jnp.sum(tree[-1])


def draw(tree: Tree, key: Array, size: int) -> Array:
    """Returns indices [N] of leaves, in proportion to them; a leaf of 0 only if all are 0.

    The mass of the tree is cut into N equal parts, and each draw falls into its own, as far as the highest level can
    tell them apart. Every level has random bits of its own, so that no leaf is too small for float32.

    Source: Schaul et al. (2016), appendix B.2.1, https://arxiv.org/abs/1511.05952

    >>> print(draw(write(zeros(1000), jnp.array([3, 999]), jnp.array([1.0, 3.0])), jax.random.key(0), 4))
    [  3 999 999 999]
    """
    check_count("size", size)
    uniform = jax.random.uniform(key, (len(tree), size, 1))
    uniform = uniform.at[0].set((uniform[0] + jnp.arange(size)[:, None]) / size)
    index = jnp.zeros(size, jnp.int32)
    for level, u in zip(reversed(tree), uniform, strict=True):
        entries = level[index]
        sums = jnp.cumsum(entries, axis=-1)
        passed = (sums > u * sums[:, -1:]) & (entries > 0)
        last = FAN - 1 - jnp.argmax(entries[:, ::-1] > 0, axis=-1)  # where rounding let u * sum reach the sum itself
        index = index * FAN + jnp.where(jnp.any(passed, axis=-1), jnp.argmax(passed, axis=-1), last)
    return index
