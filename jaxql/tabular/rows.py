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
    if jnp.ndim(state) != 1:
        raise ValueError(f"state has shape {jnp.shape(state)}; it needs [B], an index for each env")
    names = "state", "valid", *others
    columns = columns_of(state=state, valid=jnp.asarray(valid, bool), **others)
    rows = {name: jnp.broadcast_to(x, columns[0].shape) for name, x in zip(names, columns, strict=True)}
    if checking():
        rows = {name: jnp.where(rows["valid"], x, jnp.zeros_like(x)) for name, x in rows.items()}
    indices = {x: rows[x] for x in ("state", "next_state") if x in rows}
    check_indices(table.shape[-2:] if table.ndim > 1 else table.shape, rows["valid"], **indices)
    return rows["valid"], rows["state"], *(rows[name] for name in others)


def columns_of(*, state: ArrayLike, **others: ArrayLike) -> tuple[Array, ...]:
    """The columns as arrays. Raises ValueError unless each has the shape of `state`, or is one number for all."""
    first = _indexing(state)
    arrays = {name: _indexing(x) for name, x in others.items()}
    for name, x in arrays.items():
        if x.shape not in ((), first.shape):
            raise ValueError(f"{name} has shape {x.shape}; it needs {first.shape}, as state, or one number for all")
    return first, *arrays.values()


def _indexing(x: ArrayLike) -> Array:
    """x as an array; integers of less than 32 bits, which may not reach all states, become int32."""
    array = jnp.asarray(x)
    small = jnp.issubdtype(array.dtype, jnp.integer) and array.dtype.itemsize < 4
    return array.astype(jnp.int32) if small else array


def check_indices(shape: tuple[int, ...], valid: ArrayLike, **indices: ArrayLike) -> None:
    """Raises, under `jaxql.bellman.checked` only, unless states and actions of valid rows exist in [S, A] = `shape`."""
    for name, x in indices.items():
        check_index(f"{name}: an index", jnp.where(valid, x, 0), shape[name.endswith("action")])
