"""Eligibility traces: each step updates all pairs, or states, that the episode has visited."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql import bellman
from jaxql.tabular.arguments import compiled
from jaxql.tabular.rows import broadcast_rows
from jaxql.types import Array

TRACES = "accumulating", "replacing", "dutch"


@compiled(trace=TRACES)
def sarsa_lambda_update(
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
    trace: str = "accumulating",
) -> tuple[Array, Array, Array]:
    """One step of SARSA(lambda) from each of B envs.

    error = r + discount * q[s', a'] - q[s, a];  e[s, a] grows by `trace`;  q += learning_rate * error * e;
    e *= discount * lambda_. The trace e[s, a] becomes
      "accumulating"  e + 1
      "replacing"     1
      "dutch"         (1 - learning_rate) * e + 1

    Each env has its own trace, and the envs are applied one after another. A trace ends at a termination, by its
    discount of 0, and at a row that is not `valid`, which follows a truncation.

    Args:
      q: [S, A].
      traces: [B, S, A], 0 at first.
      state, action, reward, next_state, valid: [B].
      next_action: [B] the action that will be taken in s'.
      discount, learning_rate, lambda_: [B] or scalar.
      trace: "accumulating", "replacing" or "dutch".

    Returns: the new q and traces, and the TD errors [B], 0 where not `valid`.
    Raises: ValueError for a column or traces of another shape or dtype, for a table of integers, for another `trace`,
      and for a concrete value out of range.

    Source: Sutton & Barto (2018), section 12.7 with equations 12.5 and 12.7 for action values; replacing and dutch
    traces: equations 12.12 and 12.11, http://incompleteideas.net/book/the-book-2nd.html

    >>> table, row = jnp.array([[0.0, 0.0], [2.0, 4.0]]), list(map(jnp.array, ([0], [0], [1.0], 0.5, [1], [0], [True])))
    >>> q, traces, errors = sarsa_lambda_update(table, jnp.zeros((1, 2, 2)), *row, 0.5, 0.5)
    >>> errors.tolist(), q.tolist(), traces[0, 0].tolist()
    ([2.0], [[1.0, 0.0], [2.0, 4.0]], [0.25, 0.0])
    """

    def error_of(q, s, a, r, d, s2, a2):
        return bellman.sarsa(q[s], a, r, d, q[s2], a2)

    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    rows |= dict(next_action=next_action, learning_rate=learning_rate, lambda_=lambda_)
    return _update_traces(q, traces, valid, rows, trace, error_of)


@compiled(trace=TRACES)
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
    trace: str = "accumulating",
) -> tuple[Array, Array, Array]:
    """One step of Watkins' Q(lambda) from each of B envs: the trace ends at an exploratory action.

    error = r + discount * max q[s'] - q[s, a];  e[s, a] grows by `trace`;  q += learning_rate * error * e;
    e *= discount * lambda_ if q[s', a'] was maximal, else 0.

    Arguments, results and errors are as in `sarsa_lambda_update`.

    Source: Sutton & Barto (2018), equations 12.5 and 12.7 for action values, with the maximum as bootstrap,
    http://incompleteideas.net/book/the-book-2nd.html; where the trace ends: Sutton & Barto (1998), figure 7.14,
    http://incompleteideas.net/book/ebook/node78.html

    >>> table, row = jnp.array([[0.0, 0.0], [2.0, 4.0]]), list(map(jnp.array, ([0], [0], [1.0], 0.5, [1], [1], [True])))
    >>> q, traces, errors = watkins_q_lambda_update(table, jnp.zeros((1, 2, 2)), *row, 0.5, 0.5)
    >>> errors.tolist(), q.tolist(), traces[0, 0].tolist()
    ([3.0], [[1.5, 0.0], [2.0, 4.0]], [0.25, 0.0])
    """

    def goes_on(q, s2, a2):
        return q[s2, a2] == jnp.max(q[s2])

    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    rows |= dict(next_action=next_action, learning_rate=learning_rate, lambda_=lambda_)
    return _update_traces(q, traces, valid, rows, trace, _greedy_error, goes_on)


@compiled(trace=TRACES)
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
    trace: str = "accumulating",
) -> tuple[Array, Array, Array]:
    """One step of naive Q(lambda) from each of B envs: as Watkins', but an exploratory action does not end the trace.

    It is not off-policy: rewards after an exploratory action count. With a single action it is TD(lambda). Arguments,
    results and errors are as in `sarsa_lambda_update`, without `next_action`.

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
    return _update_traces(q, traces, valid, rows, trace, _greedy_error)


@compiled(rank=1)
def true_online_td_lambda_update(
    values: ArrayLike,
    traces: ArrayLike,
    old_values: ArrayLike,
    state: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    next_state: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
    lambda_: ArrayLike,
) -> tuple[Array, Array, Array, Array]:
    """One step of true online TD(lambda) from each of B envs, which equals the online lambda-return algorithm exactly.

    error = r + discount * v[s'] - v[s];  e[s] = (1 - learning_rate) * e[s] + 1;  change = v[s] - old value;
    v += learning_rate * (error + change) * e;  v[s] -= learning_rate * change;  e *= discount * lambda_.
    The old value becomes v[s'] from before the update.

    Each env has its own trace and old value, and the envs are applied one after another. The equality is that of a
    single env. A trace ends at a termination, by its discount of 0, and at a row that is not `valid`.

    Args:
      values: [S].
      traces: [B, S], 0 at first.
      old_values: [B], 0 at first.
      state, reward, next_state, valid: [B].
      discount, learning_rate, lambda_: [B] or scalar.

    Returns: the new values, traces and old values, and the TD errors [B], 0 where not `valid`.
    Raises: ValueError for a column or traces of another shape or dtype, for a table of integers, and for a concrete
      value out of range.

    Source: Sutton & Barto (2018), the algorithm of section 12.5, http://incompleteideas.net/book/the-book-2nd.html;
    van Seijen et al. (2016), https://jmlr.org/papers/v17/15-599.html

    >>> row = list(map(jnp.array, ([0], [1.0], 0.5, [1], [True])))
    >>> values, traces, old, errors = true_online_td_lambda_update(
    ...     jnp.array([0.0, 4.0]), jnp.zeros((1, 2)), jnp.zeros(1), *row, 0.5, 0.5)
    >>> values.tolist(), traces.tolist(), old.tolist(), errors.tolist()
    ([1.5, 4.0], [[0.25, 0.0]], [4.0], [3.0])
    """
    rows = dict(state=state, reward=reward, discount=discount, next_state=next_state)
    rows |= dict(learning_rate=learning_rate, lambda_=lambda_, old_values=old_values)
    return _update_true_online(values, traces, valid, rows, lambda row: (row["state"], row["next_state"]))


@compiled()
def true_online_sarsa_lambda_update(
    q: ArrayLike,
    traces: ArrayLike,
    old_values: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    next_state: ArrayLike,
    next_action: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
    lambda_: ArrayLike,
) -> tuple[Array, Array, Array, Array]:
    """One step of true online SARSA(lambda) from each of B envs: `true_online_td_lambda_update` for pairs (s, a).

    Args:
      q: [S, A].
      traces: [B, S, A], 0 at first.
      old_values: [B], 0 at first.
      next_action: [B] the action that will be taken in s'.
      The rest, the results and errors are as in `true_online_td_lambda_update`.

    Source: Sutton & Barto (2018), the algorithm of section 12.7, http://incompleteideas.net/book/the-book-2nd.html;
    van Seijen et al. (2016), https://jmlr.org/papers/v17/15-599.html

    >>> table, row = jnp.array([[0.0, 0.0], [2.0, 4.0]]), list(map(jnp.array, ([0], [0], [1.0], 0.5, [1], [1], [True])))
    >>> q, traces, old, errors = true_online_sarsa_lambda_update(
    ...     table, jnp.zeros((1, 2, 2)), jnp.zeros(1), *row, 0.5, 0.5)
    >>> q.tolist(), traces[0, 0].tolist(), old.tolist(), errors.tolist()
    ([[1.5, 0.0], [2.0, 4.0]], [0.25, 0.0], [4.0], [3.0])
    """
    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    rows |= dict(next_action=next_action, learning_rate=learning_rate, lambda_=lambda_, old_values=old_values)

    def places(row):
        return (row["state"], row["action"]), (row["next_state"], row["next_action"])

    return _update_true_online(q, traces, valid, rows, places)


def _greedy_error(q, s, a, r, d, s2, a2):
    return bellman.q_learning(q[s], a, r, d, q[s2])


def _with_traces(table, traces, valid, rows):
    table, traces = jnp.asarray(table), jnp.asarray(traces)
    columns = broadcast_rows(table, valid, **rows)
    want = len(columns[0]), *table.shape
    if traces.shape != want or traces.dtype != table.dtype:
        raise ValueError(f"traces is {traces.dtype} {traces.shape}; it needs {table.dtype} {want}")
    return table, traces, columns


def _grown(trace, old, rate):
    return {"accumulating": old + 1, "replacing": jnp.ones_like(old), "dutch": (1 - rate) * old + 1}[trace]


def _update_traces(q, traces, valid, rows, trace, error_of, goes_on=None):
    q, traces, columns = _with_traces(q, traces, valid, rows)

    def one_env(q, carried):
        e, (valid, s, a, r, discount, s2, a2, rate, lambda_) = carried
        error = jnp.where(valid, error_of(q, s, a, r, discount, s2, a2), 0)
        e = e.at[s, a].set(_grown(trace, e[s, a], rate).astype(e.dtype))
        moved = q + (jnp.where(valid, rate * error, 0) * e).astype(q.dtype)
        kept = valid if goes_on is None else valid & goes_on(q, s2, a2)  # by the values with which a' was chosen
        e = jnp.where(kept, discount * lambda_ * e, 0).astype(e.dtype)
        return jnp.where(valid, moved, q), (e, error.astype(q.dtype))

    q, (traces, errors) = jax.lax.scan(one_env, q, (traces, columns))
    return q, traces, errors


def _update_true_online(table, traces, valid, rows, places):
    table, traces, columns = _with_traces(table, traces, valid, rows)

    def one_env(table, carried):
        e, valid, row = carried
        here, ahead = places(row)
        rate, value, later = row["learning_rate"], table[here], table[ahead]
        error = jnp.where(valid, bellman.td_learning(value, row["reward"], row["discount"], later), 0)
        change = value - row["old_values"]
        e = e.at[here].set(((1 - rate) * e[here] + 1).astype(e.dtype))
        moved = table + (rate * (error + change) * e).astype(table.dtype)
        moved = moved.at[here].add((-rate * change).astype(table.dtype))
        e = jnp.where(valid, row["discount"] * row["lambda_"] * e, 0).astype(e.dtype)
        old = jnp.where(valid, later, 0)
        return jnp.where(valid, moved, table), (e, old, error.astype(table.dtype))

    valid, *columns = columns
    columns = dict(zip(rows, columns, strict=True))
    table, (traces, old_values, errors) = jax.lax.scan(one_env, table, (traces, valid, columns))
    return table, traces, old_values, errors
