"""Learning rates: counts of visits, and functions from a count to a rate."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.tabular.arguments import check_range, compiled
from jaxql.tabular.rows import check_indices, columns_of
from jaxql.types import Array, Scalar


@compiled()
def visit(visits: ArrayLike, state: ArrayLike, action: ArrayLike, valid: ArrayLike) -> tuple[Array, Array]:
    """The visits [S, A] after those of B envs, and the number n [B] of each visit to its pair.

    The envs are counted one after another: two that meet in one pair are its n-th and (n+1)-th visit. A number stays
    at the largest of its dtype.

    Args:
      visits: [S, A] integers.
      state, action, valid: [B] or scalars.

    Returns: the new visits, and n [B] int32 of each row, its own visit included; 1 where not `valid`.
    Raises: ValueError for visits that are no integers [S, A], for a column of another shape or dtype, and for a
      concrete value out of range.

    Source: Sutton & Barto (2018), the n of equation 2.7, http://incompleteideas.net/book/the-book-2nd.html

    >>> visits, n = visit(jnp.zeros((1, 2), int), jnp.array([0, 0, 0]), jnp.array([1, 1, 0]), jnp.ones(3, bool))
    >>> visits.tolist(), n.tolist()
    ([[1, 2]], [1, 2, 1])
    """

    visits = jnp.asarray(visits)
    if not jnp.issubdtype(visits.dtype, jnp.integer):
        raise ValueError(f"visits is {visits.dtype}; it must hold whole numbers, such as int32")
    largest = jnp.iinfo(visits.dtype).max

    def one_env(visits, row):
        state, action, valid = row
        visits = visits.at[state, action].add((valid & (visits[state, action] < largest)).astype(visits.dtype))
        return visits, jnp.where(valid, visits[state, action], 1).astype(jnp.int32)

    rows = jnp.broadcast_arrays(*columns_of(state=state, action=action, valid=jnp.asarray(valid, bool)))
    check_indices(jnp.shape(visits), rows[2], state=rows[0], action=rows[1])
    if rows[0].ndim == 0:
        return one_env(visits, rows)
    return jax.lax.scan(one_env, visits, tuple(rows))


def constant(rate: Scalar) -> Callable[[ArrayLike], Array]:
    """Returns n [...] -> the same rate [...] at every visit. It tracks changes; with noisy rewards it never converges.

    Raises: UserError for a rate outside [0, 1]. A traced rate is not checked.

    Source: Sutton & Barto (2018), equation 2.5, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(constant(0.25)(jnp.array([1, 2])))
    [0.25 0.25]
    """
    check_range("rate", rate, lambda x: 0 <= x <= 1, "lie in [0, 1]")
    return lambda n: jnp.full(jnp.shape(n), rate, jnp.result_type(rate, 1.0))


def one_over_n() -> Callable[[ArrayLike], Array]:
    """Returns n [...] -> the rate 1 / n [...]: the value is the mean of its targets.

    Source: Sutton & Barto (2018), equation 2.3, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(one_over_n()(jnp.array([1, 2, 4])))
    [1.   0.5  0.25]
    """
    return robbins_monro(1.0)


def robbins_monro(omega: Scalar) -> Callable[[ArrayLike], Array]:
    """Returns n [...] -> the rate n**-omega [...], with which Q-learning converges.

    The rates sum to infinity, their squares do not.

    Args:
      omega: in (0.5, 1]; near 0.5 the first errors are forgotten fastest. A traced omega is not checked.

    Raises: UserError for another omega.

    Source: Sutton & Barto (2018), the conditions of equation 2.7, http://incompleteideas.net/book/the-book-2nd.html;
    this rate: Even-Dar & Mansour (2003), section 3, https://www.jmlr.org/papers/v5/evendar03a.html

    >>> print(robbins_monro(0.75)(jnp.array([1, 16])))
    [1.    0.125]
    """
    check_range("omega", omega, lambda x: 0.5 < x <= 1, "lie in (0.5, 1], or rates shrink too slowly or too fast")
    return lambda n: jnp.power(jnp.asarray(n, jnp.result_type(float)), -omega)
