"""Table updates of B envs, applied one after another."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql import bellman
from jaxql.explore import epsilon_greedy_probabilities
from jaxql.tabular.arguments import compiled
from jaxql.tabular.rows import broadcast_rows
from jaxql.types import Array


def _apply_in_order(table, error_of, pair_of, valid, learning_rate, **columns) -> tuple[Array, Array]:
    """The table after table[pair] += rate * error, row by row, and the errors. Rows that are not valid do nothing."""
    table = jnp.asarray(table)

    def one_env(table, carried):
        valid, *row, rate = carried
        error = jnp.where(valid, error_of(table, *row), 0)
        step = jnp.where(valid, rate * error, 0)  # jnp.where keeps XLA from fusing product and sum into one rounding
        return table.at[pair_of(*row)].add(step.astype(table.dtype)), error.astype(table.dtype)

    return jax.lax.scan(one_env, table, broadcast_rows(table, valid, **columns, learning_rate=learning_rate))


@compiled()
def q_learning_update(
    q: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    next_state: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
) -> tuple[Array, Array]:
    """One step of Q-learning from each of B envs: q[s, a] += learning_rate * (r + discount * max q[s'] - q[s, a]).

    The envs are applied one after another, each to the table that the last one left. Summing the errors of envs
    that meet in one (s, a) would multiply the learning rate by their number, and the table could diverge.

    Args:
      q: [S, A].
      state, action, reward, next_state: [B].
      discount: [B] or scalar, gamma, or 0 past a termination.
      valid: [B]; rows that are not valid change nothing.
      learning_rate: [B] or scalar.

    Returns: the new q, and the TD errors [B], 0 where not `valid`.
    Raises: ValueError for a column of another shape or dtype, for a table of integers, and for a concrete value out of
      range: an index that the table lacks, a reward that is not finite, a rate or discount outside [0, 1].

    Source: Sutton & Barto (2018), equation 6.8, http://incompleteideas.net/book/the-book-2nd.html; Watkins & Dayan
    (1992), https://doi.org/10.1007/BF00992698

    >>> q, errors = q_learning_update(jnp.zeros((2, 1)), *map(jnp.array, ([0], [0], [1.0], 0.5, [1], [True])), 0.1)
    >>> errors.tolist(), round(float(q[0, 0]), 6)
    ([1.0], 0.1)
    """

    def error_of(q, s, a, r, d, s2):
        return bellman.q_learning(q[s], a, r, d, q[s2])

    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    return _apply_in_order(q, error_of, _pair, valid, learning_rate, **rows)


@compiled()
def sarsa_update(
    q: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    next_state: ArrayLike,
    next_action: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
) -> tuple[Array, Array]:
    """One step of SARSA from each of B envs: q[s, a] += learning_rate * (r + discount * q[s', a'] - q[s, a]).

    Arguments, results and errors are as in `q_learning_update`. `next_action` [B] is the action taken in s'.

    Source: Sutton & Barto (2018), equation 6.7, http://incompleteideas.net/book/the-book-2nd.html

    >>> row = map(jnp.array, ([0], [0], [1.0], 0.5, [1], [1], [True]))
    >>> q, errors = sarsa_update(jnp.array([[0.0, 0.0], [8.0, 4.0]]), *row, 0.5)
    >>> errors.tolist(), float(q[0, 0])
    ([3.0], 1.5)
    """

    def error_of(q, s, a, r, d, s2, a2):
        return bellman.sarsa(q[s], a, r, d, q[s2], a2)

    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    return _apply_in_order(q, error_of, _pair, valid, learning_rate, **rows, next_action=next_action)


@compiled()
def expected_sarsa_update(
    q: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    next_state: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
    epsilon: ArrayLike,
) -> tuple[Array, Array]:
    """One step of expected SARSA: q[s, a] += learning_rate * (r + discount * sum_b pi(b|s') q[s', b] - q[s, a]).

    pi is epsilon-greedy on the current q, ties shared equally. `epsilon` is [B] or scalar; 0 gives Q-learning. Other
    arguments, results and errors are as in `q_learning_update`.

    Source: Sutton & Barto (2018), equation 6.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> row = map(jnp.array, ([0], [0], [1.0], 0.5, [1], [True]))
    >>> q, errors = expected_sarsa_update(jnp.array([[0.0, 0.0], [8.0, 4.0]]), *row, 0.5, epsilon=0.5)
    >>> errors.tolist()
    [4.5]
    """

    def error_of(q, s, a, r, d, s2, epsilon):
        return bellman.expected_sarsa(q[s], a, r, d, q[s2], epsilon_greedy_probabilities(q[s2], epsilon))

    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    return _apply_in_order(q, error_of, _pair, valid, learning_rate, **rows, epsilon=epsilon)


@compiled(rank=3)
def double_q_learning_update(
    q: ArrayLike,
    key: Array,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    discount: ArrayLike,
    next_state: ArrayLike,
    valid: ArrayLike,
    learning_rate: ArrayLike,
) -> tuple[Array, Array]:
    """One step of double Q-learning on two tables: q_i[s, a] += rate * (r + discount * q_j[s', argmax q_i[s']] - ...).

    A coin for each env chooses the table i that learns. The other table, j, evaluates the action. Act on q[0] + q[1].

    Args:
      q: [2, S, A].
      key: of the B coins.
      The rest, and the errors, are as in `q_learning_update`.

    Returns: the new q [2, S, A], and the TD errors [B], 0 where not `valid`.

    Source: Sutton & Barto (2018), equation 6.10, http://incompleteideas.net/book/the-book-2nd.html; van Hasselt (2010),
    algorithm 1, https://proceedings.neurips.cc/paper/2010/hash/091d584fced301b442654dd8c23b3fc9-Abstract.html

    >>> q, errors = double_q_learning_update(
    ...     jnp.zeros((2, 2, 1)), jax.random.key(0), *map(jnp.array, ([0], [0], [1.0], 0.5, [1], [True])), 0.5)
    >>> sorted(q[:, 0, 0].tolist()), errors.tolist()
    ([0.0, 0.5], [1.0])
    """
    coin = jax.random.bernoulli(key, shape=jnp.shape(state)).astype(jnp.int32)

    def error_of(q, s, a, r, d, s2, coin):
        return bellman.double_q_learning(q[coin, s], a, r, d, q[1 - coin, s2], q[coin, s2])

    def learner(s, a, r, d, s2, coin):
        return coin, s, a

    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    return _apply_in_order(q, error_of, learner, valid, learning_rate, **rows, coin=coin)


def _pair(state, action, *_):
    return state, action
