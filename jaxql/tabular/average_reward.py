"""Average-reward control: differential values, for tasks that go on for ever."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql import bellman
from jaxql.tabular.arguments import compiled
from jaxql.tabular.rows import broadcast_rows
from jaxql.types import Array


@compiled()
def differential_q_learning_update(
    q: ArrayLike,
    average_reward: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    next_state: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
    eta: ArrayLike = 1.0,
) -> tuple[Array, Array, Array]:
    """One step of differential Q-learning from each of B envs: the average reward is learned with the values.

    error = r - average_reward + max q[s'] - q[s, a];  q[s, a] += learning_rate * error;
    average_reward += eta * learning_rate * error.

    The task goes on for ever: where an episode ends, give as `next_state` the first state of the next one. The values
    converge up to a constant, the average reward to the best one; see `planning.relative_value_iteration`.

    Args:
      q: [S, A].
      average_reward: a number, 0 at first.
      state, action, reward, next_state: [B].
      valid: [B]; rows that are not valid change nothing.
      learning_rate, eta: [B] or scalar.

    Returns: the new q and average reward, and the TD errors [B], 0 where not `valid`.
    Raises: ValueError for a column of another shape or dtype, for a table of integers, and for a concrete value out of
      range.

    Source: Wan, Naik & Sutton (2021), equations 1 to 3, https://proceedings.mlr.press/v139/wan21a.html; in the place
    of R-learning, Schwartz (1993), https://doi.org/10.1016/B978-1-55860-307-3.50045-9

    >>> row = map(jnp.array, ([0], [0], [1.0], [1], [True]))
    >>> q, average, errors = differential_q_learning_update(jnp.zeros((2, 1)), 0.0, *row, 0.5, eta=0.25)
    >>> q.tolist(), float(average), errors.tolist()
    ([[0.5], [0.0]], 0.125, [1.0])
    """

    def error_of(q, average, s, a, r, s2):
        return bellman.q_learning(q[s], a, r - average, jnp.ones_like(r), q[s2])

    rows = dict(state=state, action=action, reward=reward, next_state=next_state)
    return _update_both(q, average_reward, error_of, valid, rows, learning_rate, eta)


@compiled()
def differential_sarsa_update(
    q: ArrayLike,
    average_reward: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    next_state: ArrayLike,
    next_action: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
    eta: ArrayLike = 1.0,
) -> tuple[Array, Array, Array]:
    """One step of differential SARSA from each of B envs: error = r - average_reward + q[s', a'] - q[s, a].

    The average reward, whose rate beta is eta * learning_rate, becomes that of the policy followed. `next_action` [B]
    is the action taken in s'. All else is as in `differential_q_learning_update`.

    Source: Sutton & Barto (2018), the algorithm of section 10.3 for tables,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> row = map(jnp.array, ([0], [0], [1.0], [1], [1], [True]))
    >>> q, average, errors = differential_sarsa_update(jnp.array([[0.0, 0.0], [4.0, 2.0]]), 1.0, *row, 0.5, eta=0.25)
    >>> q.tolist(), float(average), errors.tolist()
    ([[1.0, 0.0], [4.0, 2.0]], 1.25, [2.0])
    """

    def error_of(q, average, s, a, r, s2, a2):
        return bellman.sarsa(q[s], a, r - average, jnp.ones_like(r), q[s2], a2)

    rows = dict(state=state, action=action, reward=reward, next_state=next_state, next_action=next_action)
    return _update_both(q, average_reward, error_of, valid, rows, learning_rate, eta)


def _update_both(q, average, error_of, valid, rows, learning_rate, eta):
    q = jnp.asarray(q)
    if jnp.ndim(average):
        raise ValueError(f"average_reward has shape {jnp.shape(average)}; it must be one number")
    columns = broadcast_rows(q, valid, **rows, learning_rate=learning_rate, eta=eta)

    def one_env(carry, carried):
        q, average = carry
        valid, s, a, r, *ahead, rate, eta = carried
        error = jnp.where(valid, error_of(q, average, s, a, r.astype(q.dtype), *ahead), 0)
        step = jnp.where(valid, rate * error, 0)
        average = average + jnp.where(valid, eta * step, 0).astype(q.dtype)
        return (q.at[s, a].add(step.astype(q.dtype)), average), error.astype(q.dtype)

    (q, average), errors = jax.lax.scan(one_env, (q, jnp.asarray(average, q.dtype)), columns)
    return q, average, errors
