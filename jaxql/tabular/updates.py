"""Table updates of B envs, applied one after another."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql import bellman
from jaxql.bellman.windows import n_step_windows
from jaxql.tabular.rows import rows_of
from jaxql.types import Array, Scalar


def _in_turn(table, error_of, pair_of, valid, learning_rate, **columns) -> tuple[Array, Array]:
    """The table after table[pair] += rate * error, row by row, and the errors; a row not valid may hold anything."""
    table = jnp.asarray(table)

    def one_world(table, carried):
        valid, *row, rate = carried
        error = jnp.where(valid, error_of(table, *row), 0)
        step = jnp.where(valid, rate * error, 0)  # without it XLA may fuse product and sum, which rounds differently
        return table.at[pair_of(*row)].add(step.astype(table.dtype)), error.astype(table.dtype)

    return jax.lax.scan(one_world, table, rows_of(table, valid, **columns, learning_rate=learning_rate))


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

    The envs are applied one after another, each to the table that the last one left: errors of envs that meet in
    one (s, a), if summed, multiply the learning rate by their number and diverge.

    Args: `q` [S, A]; `state`, `action`, `reward`, `next_state`, `valid` [B]; `discount` [B] or scalar: gamma, or 0 past
    a termination; `learning_rate` [B] or scalar. Rows that are not `valid` change nothing.
    Returns: the new q, and the TD errors [B], 0 where not `valid`.
    Raises: ValueError for a column of another shape, and for a table of integers.

    Source: Sutton & Barto (2018), equation 6.8, http://incompleteideas.net/book/the-book-2nd.html; Watkins & Dayan
    (1992), https://doi.org/10.1007/BF00992698

    >>> q, errors = q_learning_update(jnp.zeros((2, 1)), *map(jnp.array, ([0], [0], [1.0], 0.5, [1], [True])), 0.1)
    >>> errors.tolist(), round(float(q[0, 0]), 6)
    ([1.0], 0.1)
    """

    def error_of(q, s, a, r, d, s2):
        return bellman.q_learning(q[s], a, r, d, q[s2])

    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    return _in_turn(q, error_of, _pair, valid, learning_rate, **rows)


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

    Arguments, results and errors as in `q_learning_update`; `next_action` [B] is the action that will be taken in s'.

    Source: Sutton & Barto (2018), equation 6.7, http://incompleteideas.net/book/the-book-2nd.html

    >>> row = map(jnp.array, ([0], [0], [1.0], 0.5, [1], [1], [True]))
    >>> q, errors = sarsa_update(jnp.array([[0.0, 0.0], [8.0, 4.0]]), *row, 0.5)
    >>> errors.tolist(), float(q[0, 0])
    ([3.0], 1.5)
    """

    def error_of(q, s, a, r, d, s2, a2):
        return bellman.sarsa(q[s], a, r, d, q[s2], a2)

    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    return _in_turn(q, error_of, _pair, valid, learning_rate, **rows, next_action=next_action)


def epsilon_greedy_probabilities(q: ArrayLike, epsilon: ArrayLike) -> Array:
    """Odds [..., A] with which `explore.epsilon_greedy` acts on values [..., A]: an illegal action has -inf, odds 0.

    With probability epsilon [...] any legal action, else one of the best, in equal parts.

    Source: Sutton & Barto (2018), the weights in equation 5.2, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(epsilon_greedy_probabilities(jnp.array([1.0, 1.0, 0.0, -jnp.inf]), 0.375))
    [0.4375 0.4375 0.125  0.    ]
    """
    q = jnp.asarray(q)
    epsilon = jnp.asarray(epsilon, jnp.result_type(q, 1.0))
    epsilon = jnp.broadcast_to(epsilon, q.shape[:-1])[..., None]
    best, legal = q == jnp.max(q, axis=-1, keepdims=True), q > -jnp.inf
    share = [x / jnp.maximum(jnp.sum(x, axis=-1, keepdims=True), 1).astype(epsilon.dtype) for x in (best, legal)]
    return (1 - epsilon) * share[0] + epsilon * share[1]


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

    pi is epsilon-greedy on q as it stands, ties shared equally; `epsilon` [B] or scalar, 0 gives Q-learning. Other
    arguments, results and errors as in `q_learning_update`.

    Source: Sutton & Barto (2018), equation 6.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> row = map(jnp.array, ([0], [0], [1.0], 0.5, [1], [True]))
    >>> q, errors = expected_sarsa_update(jnp.array([[0.0, 0.0], [8.0, 4.0]]), *row, 0.5, epsilon=0.5)
    >>> errors.tolist()
    [4.5]
    """

    def error_of(q, s, a, r, d, s2, epsilon):
        return bellman.expected_sarsa(q[s], a, r, d, q[s2], epsilon_greedy_probabilities(q[s2], epsilon))

    rows = dict(state=state, action=action, reward=reward, discount=discount, next_state=next_state)
    return _in_turn(q, error_of, _pair, valid, learning_rate, **rows, epsilon=epsilon)


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

    A coin for each env chooses the table i that learns; the other, j, evaluates its choice. Act on q[0] + q[1].

    Args: `q` [2, S, A]; `key` of the B coins; the rest, and errors, as in `q_learning_update`.
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
    return _in_turn(q, error_of, learner, valid, learning_rate, **rows, coin=coin)


def n_step_q_learning_update(
    q: ArrayLike,
    state: Array,
    action: Array,
    reward: Array,
    terminated: Array,
    truncated: Array,
    valid: Array,
    n: int,
    gamma: Scalar,
    learning_rate: ArrayLike,
) -> tuple[Array, Array]:
    """n-step Q-learning over T rows of B envs: the target is r_t + ... + gamma**m max q[s_{t+m}], m <= n.

    Windows stop at every boundary that `n_step_windows` knows, the end of the rows included, and do not correct for
    exploration within. Rows are applied in the order of time, the envs of a row one after another.

    Args: `q` [S, A]; `state` [B, T + 1], the last being the successor of the last row; `action`, `reward`,
    `terminated`, `truncated`, `valid` [B, T]; `n` a positive Python integer; `gamma` a number; `learning_rate` a number
    or [B, T].
    Returns: the new q, and the TD errors [B, T], 0 where not `valid`.
    Raises: ValueError for n below 1, for rows, states or actions of another shape, and for a table of integers.

    Source: Sutton & Barto (2018), equations 7.4 and 7.5 with the maximum as bootstrap,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> no, rewards = jnp.zeros((1, 2), bool), jnp.array([[1.0, 2.0]])
    >>> rows = jnp.array([[0, 1, 2]]), jnp.zeros((1, 2), int), rewards, no, no, ~no
    >>> q, errors = n_step_q_learning_update(jnp.array([[0.0], [0.0], [4.0]]), *rows, n=2, gamma=0.5, learning_rate=1.0)
    >>> print(errors)
    [[3. 4.]]
    """
    windows = n_step_windows(reward, terminated, truncated, valid, n, gamma)
    state, action = _columns(windows.valid, state=(state, 1), action=(action, 0))
    arrive = jnp.take_along_axis(state, windows.bootstrap_index, axis=-1)
    rows = state[:, :-1], action, windows.reward, windows.discount, arrive, windows.valid
    return _by_time(q_learning_update, q, rows, learning_rate)


def n_step_sarsa_update(
    q: ArrayLike,
    state: Array,
    action: Array,
    reward: Array,
    terminated: Array,
    truncated: Array,
    valid: Array,
    n: int,
    gamma: Scalar,
    learning_rate: ArrayLike,
) -> tuple[Array, Array]:
    """n-step SARSA over T rows of B envs: the target is r_t + ... + gamma**m q[s_{t+m}, a_{t+m}], m <= n.

    As `n_step_q_learning_update`, but `action` is [B, T + 1]: the last one is what will be done in the last state. Past
    a truncation the action counts that was chosen in the final state, the one of the row that resets the env.

    Source: Sutton & Barto (2018), equation 7.4, http://incompleteideas.net/book/the-book-2nd.html

    >>> no, rewards = jnp.zeros((1, 2), bool), jnp.array([[1.0, 2.0]])
    >>> rows = jnp.array([[0, 1, 2]]), jnp.array([[0, 0, 1]]), rewards, no, no, ~no
    >>> table = jnp.array([[0.0, 0.0], [0.0, 0.0], [8.0, 4.0]])
    >>> q, errors = n_step_sarsa_update(table, *rows, n=2, gamma=0.5, learning_rate=1.0)
    >>> print(errors)
    [[3. 4.]]
    """
    windows = n_step_windows(reward, terminated, truncated, valid, n, gamma)
    state, action = _columns(windows.valid, state=(state, 1), action=(action, 1))
    arrive, act = (jnp.take_along_axis(x, windows.bootstrap_index, axis=-1) for x in (state, action))
    rows = state[:, :-1], action[:, :-1], windows.reward, windows.discount, arrive, act, windows.valid
    return _by_time(sarsa_update, q, rows, learning_rate)


def _columns(rows, **columns):
    """Arrays of columns given as (values, how many they have more than the rows [B, T]); others raise ValueError."""
    if rows.ndim != 2:
        raise ValueError(f"reward has shape {rows.shape}; it needs [B, T], the rows of each env")
    for name, (x, more) in columns.items():
        want = rows.shape[0], rows.shape[1] + more
        if np.shape(x) != want:
            raise ValueError(f"{name} has shape {np.shape(x)}; it needs {want}, for rows {rows.shape}")
    return [jnp.asarray(x) for x, _ in columns.values()]


def _by_time(update, q, rows, learning_rate):
    """Applies rows [B, T] in the order of time, and gives the errors back as [B, T]."""
    shape = jnp.shape(rows[0])
    rows = [jnp.broadcast_to(jnp.asarray(x), shape).T.reshape(-1) for x in (*rows, learning_rate)]
    q, errors = update(q, *rows)
    return q, errors.reshape(shape[::-1]).T


def _pair(state, action, *_):
    return state, action
