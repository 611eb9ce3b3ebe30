"""Monte Carlo control: updates towards the returns of complete episodes, over T rows of B envs."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.tabular.arguments import compiled
from jaxql.tabular.n_step import apply_by_time, rows_of
from jaxql.tabular.rates import visit
from jaxql.tabular.updates import q_learning_update
from jaxql.types import Array, Scalar


@compiled(first_visit=(True, False))
def monte_carlo_update(
    q: ArrayLike,
    visits: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    valid: ArrayLike,
    gamma: Scalar,
    learning_rate: ArrayLike | None = None,
    *,
    first_visit: bool = True,
) -> tuple[Array, Array, Array]:
    """On-policy Monte Carlo: q[s, a] moves to the mean of the returns G_t = r_t + gamma * G_{t+1} that followed (s, a).

    Only episodes that terminate within the rows count. The return of a row that a truncation or the end of the rows
    cuts short is unknown, so these rows change nothing. For control, act epsilon-greedily on q between the updates.

    Args:
      q: [S, A].
      visits: [S, A] integers, the returns that were averaged so far; 0 at first.
      state, action, reward, terminated, truncated, valid: [B, T] rows, oldest first.
      gamma: a number.
      learning_rate: a number, or [B, T]; None is 1 / visits, the mean of all returns.
      first_visit: True takes the first visit to (s, a) of each episode, False every visit.

    Returns: the new q and visits, and the errors G - q [B, T], 0 where a row does not count.
    Raises: ValueError for rows of another shape or dtype, for a table of integers, and for a concrete value out of
      range.

    Source: Sutton & Barto (2018), the algorithm of section 5.4, http://incompleteideas.net/book/the-book-2nd.html;
    with a rate, equation 6.1

    >>> no, rewards = jnp.zeros((1, 3), bool), jnp.array([[1.0, 2.0, 3.0]])
    >>> rows = jnp.array([[0, 1, 0]]), jnp.zeros((1, 3), int), rewards, no.at[0, 2].set(True), no, ~no
    >>> q, visits, errors = monte_carlo_update(jnp.zeros((2, 1)), jnp.zeros((2, 1), int), *rows, gamma=0.5)
    >>> q.tolist(), visits.tolist()
    ([[2.75], [3.5]], [[1], [1]])
    """
    columns = dict(state=state, action=action, reward=reward, terminated=terminated, truncated=truncated, valid=valid)
    s, a, r, *flags = rows_of(columns)
    over, cut, real = (x.astype(bool) for x in flags)

    def one_row(after, row):
        later, known = after
        r, over, cut, real = row
        later = jnp.where(real, r, 0) + jnp.where(over, 0, gamma * later)
        known = real & (over | ~cut & known)
        return (later, known), (later, known)

    nothing = jnp.zeros(len(s), jnp.result_type(r, gamma, 1.0)), jnp.zeros(len(s), bool)
    returns, known = jax.lax.scan(one_row, nothing, tuple(x.T for x in (r, over, cut, real)), reverse=True)[1]
    counted = known.T & _first_visits(jnp.shape(q), s, a, over | cut, real) if first_visit else known.T
    new_visits, number = apply_by_time(visit, visits, (s, a, counted))
    rate = 1 / number if learning_rate is None else learning_rate
    new_q, errors = apply_by_time(q_learning_update, q, (s, a, returns.T, 0.0, s, counted, rate))
    return new_q, new_visits, errors


def _first_visits(shape, state, action, over, valid):
    """The rows [B, T] that are the first of their episode with their pair."""

    def one_env(state, action, over, valid):
        def one_row(carry, row):
            last, episode = carry  # [S, A] the episode that visited a pair last
            s, a, over, valid = row
            first = valid & (last[s, a] != episode)
            last = last.at[s, a].set(jnp.where(valid, episode, last[s, a]))
            return (last, episode + over.astype(jnp.int32)), first

        start = jnp.zeros(shape, jnp.int32), jnp.int32(1)
        return jax.lax.scan(one_row, start, (state, action, over, valid))[1]

    return jax.vmap(one_env)(state, action, over, valid)


@compiled()
def off_policy_monte_carlo_update(
    q: ArrayLike,
    weights: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    valid: ArrayLike,
    behaviour: ArrayLike,
    gamma: Scalar,
    policy: ArrayLike | None = None,
) -> tuple[Array, Array, Array]:
    """Off-policy Monte Carlo by weighted importance sampling, every visit, from the last row of each episode back.

    weights[s, a] += w;  q[s, a] += w / weights[s, a] * (G - q[s, a]);  w *= pi(a|s) / behaviour(a|s). An episode is
    left where w is 0. As in `monte_carlo_update`, only episodes that terminate within the rows count. Envs are applied
    one after another.

    Args:
      q: [S, A].
      weights: [S, A] floats, the sums of importance weights so far; 0 at first.
      state, action, reward, terminated, truncated, valid: [B, T] rows, oldest first.
      behaviour: [B, T] the probability with which each action was taken, or a number.
      gamma: a number.
      policy: [S, A] probabilities of the target policy pi. None is control: pi is greedy in the changing q, lowest
        index on ties.

    Returns: the new q and weights, and the errors G - q [B, T], 0 where a row does not count.
    Raises: ValueError as `monte_carlo_update`.

    Source: Sutton & Barto (2018), the algorithms of sections 5.6 (a policy) and 5.7 (control),
    http://incompleteideas.net/book/the-book-2nd.html

    >>> no, rewards = jnp.zeros((1, 2), bool), jnp.array([[1.0, 2.0]])
    >>> rows = jnp.array([[0, 1]]), jnp.array([[0, 1]]), rewards, no.at[0, 1].set(True), no, ~no
    >>> q, weights, errors = off_policy_monte_carlo_update(
    ...     jnp.zeros((2, 2)), jnp.zeros((2, 2)), *rows, behaviour=0.5, gamma=0.5)
    >>> q.tolist(), weights.tolist()
    ([[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 1.0]])
    """
    table, sums = jnp.asarray(q), jnp.asarray(weights)
    for name, x in dict(weights=sums, policy=table if policy is None else policy).items():
        if jnp.shape(x) != table.shape:
            raise ValueError(f"{name} has shape {jnp.shape(x)}; it needs {table.shape}, as q")
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in (table, sums)):
        raise ValueError(f"q is {table.dtype} and weights {sums.dtype}; tables that learn hold floats")
    columns = dict(state=state, action=action, reward=reward, terminated=terminated, truncated=truncated, valid=valid)
    s, a, r, over, cut, real, chance = rows_of(columns | dict(behaviour=behaviour))

    def one_row(carry, row):
        q, sums, later, weight = carry
        s, a, r, over, cut, real, chance = row
        weight = jnp.where(real, jnp.where(over, 1, jnp.where(cut, 0, weight)), 0)
        later = (jnp.where(real, r, 0) + jnp.where(over, 0, gamma * later)).astype(q.dtype)
        counted, total = weight > 0, sums[s, a] + weight
        error = jnp.where(counted, later - q[s, a], 0)
        q = q.at[s, a].add(jnp.where(counted, weight / total * error, 0).astype(q.dtype))
        odds = a == jnp.argmax(q[s]) if policy is None else jnp.asarray(policy)[s, a]
        sums = sums.at[s, a].set(jnp.where(counted, total, sums[s, a]))
        return (q, sums, later, jnp.where(counted, weight * odds / chance, 0).astype(sums.dtype)), error

    def one_env(tables, rows):
        zeros = jnp.zeros((), table.dtype), jnp.zeros((), sums.dtype)
        (*tables, _, _), errors = jax.lax.scan(one_row, (*tables, *zeros), rows, reverse=True)
        return tuple(tables), errors

    flags = over.astype(bool), cut.astype(bool), real.astype(bool)
    (table, sums), errors = jax.lax.scan(one_env, (table, sums), (s, a, r, *flags, chance))
    return table, sums, errors
