"""n-step transitions and lambda traces of stored rows, across every kind of episode boundary.

Row t of T holds the result of acting on observation t, and observation t + 1 is its true successor. So T rows have
T + 1 observations. Rows under NEXT_STEP autoreset meet four boundaries:

  terminated            stop; do not bootstrap. If the next row is valid a life was lost: that row starts afresh.
  truncated             stop; bootstrap from observation t + 1.
  the end of the rows   stop; bootstrap from observation T.
  a row that is not valid (an env resetting itself)   starts no window and extends none; its contents never count.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.arguments import TRACE, UNIT
from jaxql.bellman.core import batched, check_steps
from jaxql.types import Array, Scalar


class NStep(NamedTuple):
    """One n-step transition for each row. Where not valid, reward and discount are 0."""

    start: Array  # [..., T] int32, index of the first observation and action: the row itself
    reward: Array  # [..., T] discounted sum over the m <= n rows taken
    discount: Array  # [..., T] gamma**m, or 0 past a termination
    bootstrap_index: Array  # [..., T] int32 in 0 .. T, index of the observation m steps later, which bootstraps
    valid: Array  # [..., T] bool


class LambdaStep(NamedTuple):
    """Rewards, discounts and traces for a recursion over the rows. Where not valid, all are 0."""

    reward: Array  # [..., T]
    discount: Array  # [..., T] gamma, or 0 past a termination
    trace: Array  # [..., T] lambda, or 0 where the next row does not continue this one
    valid: Array  # [..., T] bool


@batched("T", "T", "T", "T", gamma=UNIT)
def n_step_windows(
    reward: Array, terminated: Array, truncated: Array, valid: Array, n: int, gamma: Scalar, partial: bool = True
) -> NStep:
    """n-step transitions [..., T]: sum_{i < m} gamma**i r_{t+i}, then gamma**m times the value of observation t + m.

    m is n, or less if the window meets a boundary first (see the module). With values v [T + 1] of the observations the
    n-step returns are `reward + discount * v[bootstrap_index]`.

    Args:
      reward, terminated, truncated, valid: [..., T] rows, oldest first; the last three are boolean.
      n: the largest number of rows of a window, a positive Python integer.
      gamma: discount of one step, a number; it may be traced.
      partial: True keeps windows that only the end of the rows cuts short.

    Raises:
      ValueError: n is not positive, there are no rows, or lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 7.4, http://incompleteideas.net/book/the-book-2nd.html; for time limits,
    Pardo et al. (2018), equation 6, https://arxiv.org/abs/1712.00378

    >>> no = jnp.zeros(5, bool)  # truncated after row 1; row 2 resets; the rows end after row 4
    >>> rows = jnp.array([1.0, 2, 99, 3, 4]), no, no.at[1].set(True), ~no.at[2].set(True)
    >>> windows = n_step_windows(*rows, n=3, gamma=0.5)
    >>> print(windows.reward, windows.discount, windows.bootstrap_index, windows.valid)
    [2. 2. 0. 5. 4.] [0.25 0.5  0.   0.25 0.5 ] [2 2 2 5 5] [ True  True False  True  True]
    """
    check_steps("n_step_windows", n)
    reward, terminated, truncated, valid = _rows(reward, terminated, truncated, valid)
    length, dtype = len(reward), jnp.result_type(reward, gamma, 1.0)  # the weak 1.0 turns integers into floats
    start = jnp.arange(length, dtype=jnp.int32)
    step = jnp.arange(n, dtype=jnp.int32)[None]
    row = start[:, None] + step
    stored, row = row < length, jnp.minimum(row, length - 1)
    over = (terminated | truncated)[row]
    follows = jnp.concatenate([jnp.ones_like(over[:, :1]), ~over[:, :-1]], axis=1)
    within = jnp.cumprod(valid[row] & stored & follows, axis=1).astype(bool)
    m = jnp.sum(within, axis=1, dtype=jnp.int32)
    cut_short = (m < n) & (start + m == length) & ~jnp.any(within & over, axis=1)
    valid = valid if partial else valid & ~cut_short
    gamma = jnp.asarray(gamma, dtype)
    total = jnp.sum(jnp.where(within, gamma**step * reward[row], 0), axis=1)
    ended = jnp.any(within & terminated[row], axis=1)
    return NStep(
        start=start,
        reward=jnp.where(valid, total, 0).astype(dtype),
        discount=jnp.where(ended | ~valid, 0, gamma**m).astype(dtype),
        bootstrap_index=start + m,
        valid=valid,
    )


@batched("T", "T", "T", "T", None, "T?", gamma=UNIT, lambda_=TRACE)
def lambda_windows(
    reward: Array, terminated: Array, truncated: Array, valid: Array, gamma: Scalar, lambda_: ArrayLike = 1.0
) -> LambdaStep:
    """Rewards, discounts and traces [..., T] with which recursions respect every boundary.

    With v_t [T], the values of observations 1 .. T, `lambda_returns(w.reward, w.discount, v_t, w.trace)` are the
    lambda-returns. At lambda 1, `n_step_bootstrapped_returns(w.reward, w.discount, v_t, n, w.trace)` are the n-step
    returns, also with truncations inside a window. Any function that takes a trace [T] will do, rlax's too.

    Args:
      reward, terminated, truncated, valid: [..., T] rows, oldest first; the last three are boolean.
      gamma: discount of one step, a number; it may be traced.
      lambda_: the trace, a number or [..., T]; entry t is the weight of the return from row t + 1.

    Raises:
      ValueError: there are no rows, or lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> no = jnp.zeros(5, bool)  # truncated after row 1; row 2 resets; terminated after row 4
    >>> rows = jnp.array([1.0, 2, 99, 3, 4]), no.at[4].set(True), no.at[1].set(True), ~no.at[2].set(True)
    >>> windows = lambda_windows(*rows, gamma=0.5, lambda_=0.75)
    >>> print(windows.reward, windows.discount, windows.trace)
    [1. 2. 0. 3. 4.] [0.5 0.5 0.  0.5 0. ] [0.75 0.   0.   0.75 0.  ]
    """
    reward, terminated, truncated, valid = _rows(reward, terminated, truncated, valid)
    dtype = jnp.result_type(reward, gamma, lambda_, 1.0)
    continued = valid & ~(terminated | truncated) & jnp.concatenate([valid[1:], jnp.zeros_like(valid[:1])])
    return LambdaStep(
        reward=reward.astype(dtype),
        discount=jnp.where(terminated | ~valid, 0, jnp.asarray(gamma, dtype)),
        trace=jnp.where(continued, jnp.asarray(lambda_, dtype), 0),
        valid=valid,
    )


def _rows(reward, terminated, truncated, valid):
    """The rows with boolean flags, and reward 0 where a row is not valid: there it may be anything, even NaN."""
    terminated, truncated, valid = (x.astype(bool) for x in (terminated, truncated, valid))
    return jnp.where(valid, reward, 0), terminated, truncated, valid
