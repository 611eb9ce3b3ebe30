"""Counts of transitions, and the empirical model of the counts.

Shapes: B envs, S states, A actions; states and actions are indices.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.tabular.rows import check_indices
from jaxql.types import MDP, Array, Scalar


class Counts(NamedTuple):
    """Counts of the transitions of an env, by (state, action, next state)."""

    transitions: Array  # [S, A, S] int32, number of transitions
    rewards: Array  # [S, A, S] sum of their rewards
    ends: Array  # [S, A, S] int32, number that terminated


def empty_counts(num_states: int, num_actions: int) -> Counts:
    """Counts of zero, [S, A, S] each.

    Source: Jaksch, Ortner & Auer (2010), figure 1, step 2, https://jmlr.org/papers/v11/jaksch10a.html

    >>> empty_counts(2, 3).transitions.shape
    (2, 3, 2)
    """
    shape = num_states, num_actions, num_states
    return Counts(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.result_type(float)), jnp.zeros(shape, jnp.int32))


def count(
    counts: Counts,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    next_state: ArrayLike,
    valid: ArrayLike,
) -> Counts:
    """The counts plus the transitions of B envs, [B] each or scalars.

    Rows that are not `valid` (an env resetting itself) are ignored. Only `terminated` counts as an end: a truncated
    episode would have gone on.

    Source: Jaksch, Ortner & Auer (2010), figure 1, steps 2 and 3, https://jmlr.org/papers/v11/jaksch10a.html

    >>> seen = count(empty_counts(2, 1), state=0, action=0, reward=3.0, terminated=True, next_state=1, valid=True)
    >>> int(seen.transitions[0, 0, 1]), float(seen.rewards[0, 0, 1]), int(seen.ends[0, 0, 1])
    (1, 3.0, 1)
    """
    row, valid = tuple(map(jnp.asarray, (state, action, next_state))), jnp.asarray(valid, bool)
    check_indices(counts.transitions.shape[:2], valid, state=row[0], action=row[1], next_state=row[2])
    earned = jnp.where(valid, jnp.asarray(reward), 0).astype(counts.rewards.dtype)
    return Counts(
        transitions=counts.transitions.at[row].add(valid.astype(jnp.int32)),
        rewards=counts.rewards.at[row].add(earned),
        ends=counts.ends.at[row].add((valid & jnp.asarray(terminated, bool)).astype(jnp.int32)),
    )


def empirical_mdp(
    counts: Counts,
    *,
    unvisited: str = "zero",
    value: Scalar = 0.0,
    start: ArrayLike | None = None,
    step_limit: int | None = None,
) -> MDP:
    """The maximum-likelihood model of the counts: p(s' | s, a) = n(s, a, s') / n(s, a), with the mean rewards.

    K is 2 S. Successor k = s' moves to s' and goes on; k = S + s' moves to s' and ends. They are kept apart because the
    same transition may end only sometimes. Both have the mean reward from (s, a) to s', so that sum p r is exactly the
    mean reward.

    A pair (s, a) that was never visited has no frequencies. `unvisited` chooses its model:
      "zero"        ends at once with reward 0: its value is 0, as in a table that started at 0
      "self"        stays in s with reward 0: its value is discount * V(s), never better than the visited actions of s
      "optimistic"  ends at once with reward `value`: its value is that at any discount; R-max takes
                    r_max / (1 - discount)

    Args:
      counts: the counts.
      unvisited: the model of unvisited pairs.
      value: the reward of "optimistic".
      start: [S] distribution of the first state; None is uniform, since counts hold no first states.
      step_limit: of the episodes, or None.

    Raises: UserError for another `unvisited`.

    Source: Sutton & Barto (2018), equations 3.4 and 3.6, by frequencies,
    http://incompleteideas.net/book/the-book-2nd.html; Jaksch, Ortner & Auer (2010), figure 1, step 3,
    https://jmlr.org/papers/v11/jaksch10a.html; the optimistic model: Brafman & Tennenholtz (2002),
    https://jmlr.org/papers/v3/brafman02a.html

    >>> seen = count(empty_counts(2, 1), state=0, action=0, reward=3.0, terminated=True, next_state=1, valid=True)
    >>> empirical_mdp(seen).probability[0, 0].tolist()
    [0.0, 0.0, 0.0, 1.0]
    """
    if unvisited not in ("zero", "self", "optimistic"):
        raise UserError(f'unvisited is {unvisited!r}; it must be "zero", "self" or "optimistic"')
    num_states, num_actions, _ = counts.transitions.shape
    dtype, states = counts.rewards.dtype, jnp.arange(num_states, dtype=jnp.int32)
    seen = jnp.concatenate([counts.transitions - counts.ends, counts.ends], axis=-1)
    total = jnp.sum(seen, axis=-1, keepdims=True)
    mean = counts.rewards / jnp.maximum(counts.transitions, 1).astype(dtype)

    column = states[:, None, None] + (0 if unvisited == "self" else num_states)
    assumed = (jnp.arange(2 * num_states)[None, None] == column).astype(dtype)
    frequency = seen.astype(dtype) / jnp.maximum(total, 1).astype(dtype)
    invented = jnp.asarray(value if unvisited == "optimistic" else 0, dtype)
    shape = num_states, num_actions, 2 * num_states
    return MDP(
        next_state=jnp.broadcast_to(jnp.concatenate([states, states]), shape),
        probability=jnp.where(total == 0, assumed, frequency),
        reward=jnp.where(total == 0, assumed * invented, jnp.concatenate([mean, mean], axis=-1)),
        ends=jnp.broadcast_to(jnp.arange(2 * num_states) >= num_states, shape),
        start=jnp.full(num_states, 1 / num_states, dtype) if start is None else jnp.asarray(start, dtype),
        step_limit=step_limit,
    )
