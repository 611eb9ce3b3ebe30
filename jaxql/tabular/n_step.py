"""n-step table updates over T rows of B envs, applied in the order of time."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.bellman.windows import n_step_windows
from jaxql.tabular.updates import q_learning_update, sarsa_update
from jaxql.types import Array, Scalar


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

    Windows stop at every boundary of `n_step_windows`, the end of the rows included. Exploration within a window is not
    corrected. Rows are applied in the order of time, the envs of a row one after another.

    Args:
      q: [S, A].
      state: [B, T + 1]; the last one is the successor of the last row.
      action, reward, terminated, truncated, valid: [B, T].
      n: a positive Python integer.
      gamma: a number.
      learning_rate: a number or [B, T].

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

    As `n_step_q_learning_update`, except that `action` is [B, T + 1]: the last one is taken in the last state. Past a
    truncation the bootstrap takes the action chosen in the final state, that of the row that resets the env.

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
    """The arrays of columns given as (values, extra steps). Raises ValueError unless [B, T + extra] for rows [B, T]."""
    if rows.ndim != 2:
        raise ValueError(f"reward has shape {rows.shape}; it needs [B, T], the rows of each env")
    for name, (x, more) in columns.items():
        want = rows.shape[0], rows.shape[1] + more
        if np.shape(x) != want:
            raise ValueError(f"{name} has shape {np.shape(x)}; it needs {want}, for rows {rows.shape}")
    return [jnp.asarray(x) for x, _ in columns.values()]


def _by_time(update, q, rows, learning_rate):
    """The table after rows [B, T], applied in the order of time, and the errors [B, T]."""
    shape = jnp.shape(rows[0])
    rows = [jnp.broadcast_to(jnp.asarray(x), shape).T.reshape(-1) for x in (*rows, learning_rate)]
    q, errors = update(q, *rows)
    return q, errors.reshape(shape[::-1]).T
