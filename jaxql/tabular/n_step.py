"""n-step table updates over T rows of B envs, applied in the order of time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.core import safe_multiply, td_target
from jaxql.bellman.windows import n_step_windows
from jaxql.tabular.arguments import compiled
from jaxql.tabular.updates import q_learning_update, sarsa_update
from jaxql.types import Array, Scalar


@compiled(n=1)
def n_step_q_learning_update(
    q: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    valid: ArrayLike,
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
    Raises: ValueError for n that is no Python int of at least 1, for rows of another shape or dtype, for a table of
      integers, and for a concrete value out of range.

    Source: Sutton & Barto (2018), equations 7.4 and 7.5 with the maximum as bootstrap,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> no, rewards = jnp.zeros((1, 2), bool), jnp.array([[1.0, 2.0]])
    >>> rows = jnp.array([[0, 1, 2]]), jnp.zeros((1, 2), int), rewards, no, no, ~no
    >>> q, errors = n_step_q_learning_update(jnp.array([[0.0], [0.0], [4.0]]), *rows, n=2, gamma=0.5, learning_rate=1.0)
    >>> print(errors)
    [[3. 4.]]
    """
    columns = dict(reward=reward, terminated=terminated, truncated=truncated, valid=valid)
    s, a, r, over, cut, real = rows_of(dict(state=state, action=action) | columns, longer=("state",))
    windows = n_step_windows(r, over, cut, real, n, gamma)
    arrive = jnp.take_along_axis(s, windows.bootstrap_index, axis=-1)
    rows = s[:, :-1], a, windows.reward, windows.discount, arrive, windows.valid
    return apply_by_time(q_learning_update, q, (*rows, learning_rate))


@compiled(n=1)
def n_step_sarsa_update(
    q: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    valid: ArrayLike,
    n: int,
    gamma: Scalar,
    learning_rate: ArrayLike,
    *,
    ratio: ArrayLike = 1.0,
) -> tuple[Array, Array]:
    """n-step SARSA over T rows of B envs: the target is r_t + ... + gamma**m q[s_{t+m}, a_{t+m}], m <= n.

    As `n_step_q_learning_update`, except that `action` is [B, T + 1]: the last one is taken in the last state. Past a
    truncation the bootstrap takes the action chosen in the final state, that of the row that resets the env.

    With the `ratio` [B, T + 1] of each action's probability under a target policy to that under the behaviour, this is
    off-policy n-step SARSA: the step is learning_rate * ratio_{t+1} * ... * ratio_{t+m} * error. The last factor is
    left out where the episode terminates.

    Source: Sutton & Barto (2018), equation 7.4; with ratios, equations 7.10 and 7.11,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> no, rewards = jnp.zeros((1, 2), bool), jnp.array([[1.0, 2.0]])
    >>> rows = jnp.array([[0, 1, 2]]), jnp.array([[0, 0, 1]]), rewards, no, no, ~no
    >>> table = jnp.array([[0.0, 0.0], [0.0, 0.0], [8.0, 4.0]])
    >>> q, errors = n_step_sarsa_update(table, *rows, n=2, gamma=0.5, learning_rate=1.0)
    >>> print(errors)
    [[3. 4.]]
    """
    columns = dict(reward=reward, terminated=terminated, truncated=truncated, valid=valid)
    columns = dict(state=state, action=action, ratio=ratio) | columns
    s, a, factor, r, over, cut, real = rows_of(columns, longer=("state", "action", "ratio"))
    windows = n_step_windows(r, over, cut, real, n, gamma)
    arrive, act = (jnp.take_along_axis(x, windows.bootstrap_index, axis=-1) for x in (s, a))
    last = jnp.maximum(windows.bootstrap_index - 1, 0)
    factors = windows.bootstrap_index - windows.start - jnp.take_along_axis(over.astype(bool), last, axis=-1)
    product = jnp.ones_like(factor[:, :-1])
    for i in range(1, n + 1):
        later = jnp.minimum(windows.start + i, factor.shape[1] - 1)
        product = product * jnp.where(i <= factors, jnp.take_along_axis(factor, later, axis=-1), 1)
    transitions = s[:, :-1], a[:, :-1], windows.reward, windows.discount, arrive, act, windows.valid
    return apply_by_time(sarsa_update, q, (*transitions, learning_rate * product))


@compiled(n=1, control_variates=(True, False))
def n_step_q_sigma_update(
    q: ArrayLike,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    truncated: ArrayLike,
    valid: ArrayLike,
    policy: ArrayLike,
    sigma: ArrayLike,
    n: int,
    gamma: Scalar,
    learning_rate: ArrayLike,
    *,
    ratio: ArrayLike = 1.0,
    control_variates: bool = True,
) -> tuple[Array, Array]:
    """n-step Q(sigma) over T rows of B envs: each step samples the next action (sigma 1) or takes its mean (sigma 0).

    G_t = r_t + gamma * (V(s') + (sigma' ratio' + (1 - sigma') pi(a'|s')) * (G_{t+1} - q[s', a'])). Here s', a', sigma'
    and ratio' are those of t + 1, and V(s') = sum_b pi(b|s') q[s', b]. A window ends as in `n_step_q_learning_update`.
    Its last G is q[s', a'].

    With sigma 0 it is n-step tree backup. With sigma 1 it is n-step SARSA with control variates, which has the mean of
    n-step SARSA and less variance. Without control variates V(s') becomes sigma' ratio' q[s', a'] + (1 - sigma') V(s'):
    then sigma 1 is n-step SARSA itself, corrected step by step.

    Args:
      q: [S, A].
      state, action: [B, T + 1]; the last action is taken in the last state.
      reward, terminated, truncated, valid: [B, T].
      policy: [S, A] probabilities pi of the target policy.
      sigma: a number in [0, 1] or [B, T + 1], of each action.
      n: a positive Python integer.
      gamma: a number.
      learning_rate: a number or [B, T].
      ratio: [B, T + 1] pi over the probability with which the action was taken; 1 on-policy.
      control_variates: False for the original form.

    Returns: the new q, and the TD errors [B, T], 0 where not `valid`.
    Raises: ValueError as `n_step_q_learning_update`.

    Source: Sutton & Barto (2018), equation 7.17 and the algorithm of section 7.6,
    http://incompleteideas.net/book/the-book-2nd.html; the original form: De Asis et al. (2018),
    https://arxiv.org/abs/1703.01327

    >>> no, rewards = jnp.zeros((1, 2), bool), jnp.array([[1.0, 2.0]])
    >>> rows = jnp.array([[0, 1, 2]]), jnp.array([[0, 0, 1]]), rewards, no, no, ~no
    >>> table, policy = jnp.array([[0.0, 0.0], [0.0, 0.0], [8.0, 4.0]]), jnp.full((3, 2), 0.5)
    >>> q, errors = n_step_q_sigma_update(table, *rows, policy, 0.0, n=2, gamma=0.5, learning_rate=1.0)
    >>> print(errors)  # tree backup: 2 + 0.5 * 6 = 5, and 1 + 0.5 * 0.5 * 5
    [[2.25 5.  ]]
    """
    table, pi = jnp.asarray(q), jnp.asarray(policy)
    if pi.shape != table.shape:
        raise ValueError(f"policy has shape {pi.shape}; it needs {table.shape}, as q")
    columns = dict(reward=reward, terminated=terminated, truncated=truncated, valid=valid)
    columns = dict(state=state, action=action, ratio=ratio, sigma=sigma) | columns
    s, a, rho, sigmas, r, over, cut, real = rows_of(columns, longer=("state", "action", "ratio", "sigma"))
    windows, last = n_step_windows(r, over, cut, real, n, gamma), r.shape[1] - 1
    discount = jnp.where(over.astype(bool), 0, gamma)

    def target_of(q, env, start, length):
        now = jnp.minimum(start + jnp.arange(n), last)
        s2, a2 = s[env, now + 1], a[env, now + 1]
        weight, ahead = sigmas[env, now + 1], q[s2, a2]
        sampled, mean = weight * rho[env, now + 1], jnp.sum(safe_multiply(pi[s2], q[s2]), axis=-1)
        base = mean if control_variates else safe_multiply(sampled, ahead) + safe_multiply(1 - weight, mean)
        trace = sampled + (1 - weight) * pi[s2, a2]

        def one_step(later, step):
            i, r, discount, base, trace, ahead = step
            correction = jnp.where(i < length - 1, safe_multiply(trace, later - ahead), 0)
            target = td_target(r, discount, base + correction).astype(q.dtype)
            return jnp.where(i < length, target, later), None

        steps = jnp.arange(n), r[env, now], discount[env, now], base, trace, ahead
        return jax.lax.scan(one_step, jnp.zeros((), q.dtype), steps, reverse=True)[0]

    def one_row(q, row):
        env, start, length, valid, rate = row
        pair = s[env, start], a[env, start]
        error = jnp.where(valid, target_of(q, env, start, length) - q[pair], 0)
        return q.at[pair].add(jnp.where(valid, rate * error, 0).astype(q.dtype)), error

    def update(q, *rows):
        return jax.lax.scan(one_row, q, rows)

    env = jnp.broadcast_to(jnp.arange(len(s))[:, None], windows.start.shape)
    length = windows.bootstrap_index - windows.start
    return apply_by_time(update, table, (env, windows.start, length, windows.valid, learning_rate))


def rows_of(columns: dict[str, ArrayLike], longer: tuple[str, ...] = ()) -> list[Array]:
    """The columns as arrays [B, T], as `reward` is; those named in `longer` are [B, T + 1]. Numbers are spread.

    Raises: ValueError unless the reward is [B, T] and each other column a number or of its own shape.
    """
    rows = jnp.shape(columns["reward"])
    if len(rows) != 2 or 0 in rows:
        raise ValueError(f"reward has shape {rows}; it needs [B, T], the rows of each env")
    arrays = []
    for name, x in columns.items():
        want = rows[0], rows[1] + (name in longer)
        if jnp.shape(x) != want and (jnp.ndim(x) or name in ("state", "action")):
            raise ValueError(f"{name} has shape {jnp.shape(x)}; it needs {want}, for rows {rows}")
        arrays.append(jnp.broadcast_to(jnp.asarray(x), want))
    return arrays


def apply_by_time(
    update: Callable[..., tuple[Array, Array]], table: ArrayLike, rows: tuple[ArrayLike, ...]
) -> tuple[Array, Array]:
    """The table after rows [B, T], applied in the order of time, and the second results [B, T] of the update."""
    shape = jnp.shape(rows[0])
    flat = [jnp.broadcast_to(jnp.asarray(x), shape).T.reshape(-1) for x in rows]
    table, errors = update(table, *flat)
    return table, errors.reshape(shape[::-1]).T
