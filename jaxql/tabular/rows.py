"""Checks of the rows of B envs that update a table."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.core import check_index, checking
from jaxql.types import Array


def broadcast_rows(table: Array, valid: ArrayLike, state: ArrayLike, **others: ArrayLike) -> tuple[Array, ...]:
    """`valid`, `state` and the other columns in their order, as [B] each.

    A column other than `state` may be one number for all envs. A row that is not valid may hold anything: under
    `jaxql.bellman.checked` it is replaced by zeros, which pass the checks.

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
    rows = {name: jnp.broadcast_to(x, shape) for name, x in columns.items()}
    if checking():
        rows = {name: jnp.where(rows["valid"], x, jnp.zeros_like(x)) for name, x in rows.items()}
    check_indices(table.shape[-2:], rows["valid"], **{x: rows[x] for x in ("state", "next_state") if x in rows})
    return tuple(rows.values())


def _indexing(x):
    """x as an array; integers of less than 32 bits, which may not reach all states, become int32."""
    x = jnp.asarray(x)
    return x.astype(jnp.int32) if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype.itemsize < 4 else x


def check_indices(shape: tuple[int, ...], valid: ArrayLike, **indices: ArrayLike) -> None:
    """Raises, under `jaxql.bellman.checked` only, unless states and actions of valid rows exist in [S, A] = `shape`."""
    for name, x in indices.items():
        check_index(f"{name}: an index", jnp.where(valid, x, 0), shape[name.endswith("action")])
