"""Q(lambda) with eligibility traces: each step updates all pairs that the episode has visited."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql import bellman
from jaxql.tabular.rows import broadcast_rows
from jaxql.types import Array


def watkins_q_lambda_update(
    q: ArrayLike,
    traces: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    next_state: ArrayLike,
    next_action: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
    lambda_: ArrayLike,
    *,
    replacing: bool = False,
) -> tuple[Array, Array, Array]:
    """One step of Watkins' Q(lambda) from each of B envs: the trace ends at an exploratory action.

    error = r + discount * max q[s'] - q[s, a];  e[s, a] += 1 (`replacing`: = 1);  q += learning_rate * error * e;
    e *= discount * lambda_ if q[s', a'] was maximal, else 0.

    Each env has its own trace, and the envs are applied one after another. A trace ends at a termination, by its
    discount of 0, and at a row that is not `valid`, which follows a truncation.

    Args:
      q: [S, A].
      traces: [B, S, A], 0 at first.
      state, action, reward, next_state, valid: [B].
      next_action: [B] the action that will be taken in s'.
      discount, learning_rate, lambda_: [B] or scalar.
      replacing: True sets e[s, a] to 1 in place of adding 1.

    Returns: the new q and traces, and the TD errors [B], 0 where not `valid`.
    Raises: ValueError for a column or traces of another shape, and for a table of integers.

    Source: Sutton & Barto (2018), equations 12.5 and 12.7 for action values, with the maximum as bootstrap,
    http://incompleteideas.net/book/the-book-2nd.html; where the trace ends: Sutton & Barto (1998), figure 7.14,
    http://incompleteideas.net/book/ebook/node78.html

    >>> table, row = jnp.array([[0.0, 0.0], [2.0, 4.0]]), list(map(jnp.array, ([0], [0], [1.0], 0.5, [1], [1], [True])))
    >>> q, traces, errors = watkins_q_lambda_update(table, jnp.zeros((1, 2, 2)), *row, 0.5, 0.5)
    >>> errors.tolist(), q.tolist(), traces[0, 0].tolist()
    ([3.0], [[1.5, 0.0], [2.0, 4.0]], [0.25, 0.0])
    """
    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    rows |= dict(next_action=next_action, learning_rate=learning_rate, lambda_=lambda_)
    return _update_traces(q, traces, valid, rows, replacing, cut=True)


def naive_q_lambda_update(
    q: ArrayLike,
    traces: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    next_state: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
    lambda_: ArrayLike,
    *,
    replacing: bool = False,
) -> tuple[Array, Array, Array]:
    """One step of naive Q(lambda) from each of B envs: as Watkins', but an exploratory action does not end the trace.

    It is not off-policy: rewards after an exploratory action count. With a single action it is TD(lambda). Arguments,
    results and errors are as in `watkins_q_lambda_update`, without `next_action`.

    Source: Sutton & Barto (2018), equations 12.5 and 12.7 for action values, with the maximum as bootstrap,
    http://incompleteideas.net/book/the-book-2nd.html; Sutton & Barto (1998), section 7.6,
    http://incompleteideas.net/book/ebook/node78.html

    >>> row = list(map(jnp.array, ([0], [0], [1.0], 0.5, [1], [True])))
    >>> q, traces, errors = naive_q_lambda_update(jnp.zeros((2, 1)), jnp.zeros((1, 2, 1)), *row, 0.5, 0.5)
    >>> errors.tolist(), q.tolist(), traces.tolist()
    ([1.0], [[0.5], [0.0]], [[[0.25], [0.0]]])
    """
    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    rows |= dict(next_action=action, learning_rate=learning_rate, lambda_=lambda_)  # the next action is not used
    return _update_traces(q, traces, valid, rows, replacing, cut=False)


def _update_traces(q, traces, valid, rows, replacing, cut):
    q, traces = jnp.asarray(q), jnp.asarray(traces)
    rows = broadcast_rows(q, valid, **rows)
    if traces.shape != (len(rows[0]), *q.shape) or traces.dtype != q.dtype:
        raise ValueError(f"traces is {traces.dtype} {traces.shape}; it needs {q.dtype} {(len(rows[0]), *q.shape)}")

    def one_env(q, carried):
        trace, (valid, s, a, r, discount, s2, a2, rate, lambda_) = carried
        error = jnp.where(valid, bellman.q_learning(q[s], a, r, discount, q[s2]), 0)
        trace = trace.at[s, a].set(1 if replacing else trace[s, a] + 1)
        moved = q + (jnp.where(valid, rate * error, 0) * trace).astype(q.dtype)
        goes_on = valid & (q[s2, a2] == jnp.max(q[s2])) if cut else valid  # by the values with which a' was chosen
        trace = jnp.where(goes_on, discount * lambda_ * trace, 0).astype(traces.dtype)
        return jnp.where(valid, moved, q), (trace, error.astype(q.dtype))

    q, (traces, errors) = jax.lax.scan(one_env, q, (traces, rows))
    return q, traces, errors
