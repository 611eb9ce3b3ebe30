"""Sequences of rows for recurrent networks: what a ring keeps of memory, and how a sequence is read from it.

The `extra` of a stored row is the memory after its observation. A sequence may start at any row that follows a stored
one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxql import bellman
from jaxql.replay.transitions import stacked
from jaxql.types import Array, Sequence, Step


def reset_memory(memory: Any, valid: Array) -> Any:
    """Returns the memory [B, ...] after rows: zeros where a row is not `valid` [B].

    >>> print(reset_memory(jnp.array([1.0, 2.0]), jnp.array([True, False])))
    [1. 0.]
    """
    return jax.tree.map(lambda x: jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim)), x, 0), memory)


def memory_before(rows: Step, t: Array, env: Array) -> Any:
    """Returns the memory of an env before its observation of tick t; rows [T, B] are a ring's.

    Before tick 0 it is zeros, for the slot of the row before is still blank, hence not valid.
    """
    last = (t - 1) % len(rows.valid)
    return reset_memory(jax.tree.map(lambda x: x[last, env], rows.extra), rows.valid[last, env])


def sample_sequence(
    rows: Step, t: Array, env: Array, weight: Array, gamma: Array, length: int, stack: int, *, n: int
) -> Sequence:
    """Returns the rows t .. t + length - 1 of one env, with n-step returns; a `view` whose n_step is `length`.

    Returns stop at each end of either kind, and at the end of the sequence; see `bellman.n_step_windows`.
    """
    ticks = t + jnp.arange(length + 1)
    window = jax.tree.map(lambda x: x[ticks[:-1] % len(x), env], rows._replace(obs=(), extra=()))
    steps = bellman.n_step_windows(window.reward, window.terminated, window.truncated, window.valid, n, gamma)
    return Sequence(
        obs=jax.vmap(lambda tick: stacked(rows, tick, env, stack))(ticks),
        action=window.action,
        reward=steps.reward,
        discount=steps.discount,
        bootstrap_index=steps.bootstrap_index,
        valid=window.valid,
        memory=memory_before(rows, t, env),
        weight=weight,
    )
