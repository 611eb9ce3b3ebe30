"""The rows that B envs hand to a table, checked."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.core import check_index, checking
from jaxql.types import Array


def rows_of(table: Array, valid: ArrayLike, state: ArrayLike, **others) -> tuple:
    """`valid`, `state` and the others in their order, as [B] each; all but `state` may be one number for all envs.

    A row that is not valid may hold anything; under `jaxql.bellman.checked` it is handed on as zeros, which pass.

    Raises: ValueError for a column of another shape, and for a table of integers, which would round every step to 0.
    """
    if not jnp.issubdtype(table.dtype, jnp.inexact):
        raise ValueError(f"the table is {table.dtype}; one that learns holds floats")
    columns = {name: _indexing(x) for name, x in (dict(valid=jnp.asarray(valid, bool), state=state) | others).items()}
    shape = columns["state"].shape
    if len(shape) != 1:
        raise ValueError(f"state has shape {shape}; it needs [B], an index for each env")
    for name, x in columns.items():
        if x.shape not in ((), shape):
            raise ValueError(f"{name} has shape {x.shape}; it needs {shape}, as state, or one number for all")
    spread = {name: jnp.broadcast_to(x, shape) for name, x in columns.items()}
    if checking():
        spread = {name: jnp.where(spread["valid"], x, jnp.zeros_like(x)) for name, x in spread.items()}
    check_places(table.shape[-2:], spread["valid"], **{x: spread[x] for x in ("state", "next_state") if x in spread})
    return tuple(spread.values())


def _indexing(x):
    """x, as int32 if its integers may be too small to count the states with."""
    x = jnp.asarray(x)
    return x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype.itemsize < 4 else x


def check_places(shape, valid: ArrayLike, **indices) -> None:
    """Under `jaxql.bellman.checked`: states, and actions, of valid rows must be some of the [S, A] = `shape`."""
    for name, x in indices.items():
        check_index(f"{name}: an index", jnp.where(valid, x, 0), shape[name.endswith("action")])
