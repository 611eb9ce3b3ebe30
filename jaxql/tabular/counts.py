"""Counts of transitions, dense and sparse, and the empirical model of the counts.

Shapes: B envs, S states, A actions; states and actions are indices.
"""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.tabular.arguments import check_range, compiled, whole_number
from jaxql.tabular.rows import check_indices, columns_of
from jaxql.types import MDP, Array, Scalar

FULL = np.iinfo(np.int32).max
CountsT = TypeVar("CountsT", "Counts", "SparseCounts")


class Counts(NamedTuple):
    """Counts of the transitions of an env, by (state, action, next state)."""

    transitions: Array  # [S, A, S] int32, number of transitions
    rewards: Array  # [S, A, S] sum of their rewards, rounded
    ends: Array  # [S, A, S] int32, number that terminated
    rounding: Array  # [S, A, S] sum of their rewards less `rewards`


class SparseCounts(NamedTuple):
    """Counts of the transitions of an env with at most K different next states after each (state, action)."""

    next_state: Array  # [S, A, K] int32, the next states seen, in the order of their first visit; -1 where unused
    transitions: Array  # [S, A, K] int32, number of transitions
    rewards: Array  # [S, A, K] sum of their rewards, rounded
    ends: Array  # [S, A, K] int32, number that terminated
    rounding: Array  # [S, A, K] sum of their rewards less `rewards`
    overflow: Array  # int32, number of transitions not counted, because K other next states were seen before


def empty_counts(num_states: int, num_actions: int) -> Counts:
    """Counts of zero, [S, A, S] each.

    Raises: ValueError unless both are whole numbers of at least 1.

    Source: Jaksch, Ortner & Auer (2010), figure 1, step 2, https://jmlr.org/papers/v11/jaksch10a.html

    >>> empty_counts(2, 3).transitions.shape
    (2, 3, 2)
    """
    num_states = whole_number("num_states", num_states, 1)
    shape = num_states, whole_number("num_actions", num_actions, 1), num_states
    return Counts(*(jnp.zeros(shape, dtype) for dtype in (jnp.int32, float, jnp.int32, float)))


def empty_sparse_counts(num_states: int, num_actions: int, max_successors: int) -> SparseCounts:
    """Counts of zero for large state spaces, [S, A, K] each with K = `max_successors`: memory grows with S, not S * S.

    K is the largest number of different next states after one (state, action). Transitions that find no place are
    counted in `overflow`. `count`, `empirical_mdp` and the Dyna updates take these counts as they take dense ones.

    Raises: ValueError unless all are whole numbers of at least 1.

    Source: Jaksch, Ortner & Auer (2010), figure 1, step 2, https://jmlr.org/papers/v11/jaksch10a.html

    >>> seen = count(empty_sparse_counts(1_000_000, 4, 2), 5, 3, 1.0, False, 999_999, True)
    >>> seen.next_state[5, 3].tolist(), seen.transitions[5, 3].tolist()
    ([999999, -1], [1, 0])
    """
    shape = (
        whole_number("num_states", num_states, 1),
        whole_number("num_actions", num_actions, 1),
        whole_number("max_successors", max_successors, 1),
    )
    numbers, sums, ends, rounding = (jnp.zeros(shape, dtype) for dtype in (jnp.int32, float, jnp.int32, float))
    overflow = jnp.zeros((), jnp.int32)
    return SparseCounts(jnp.full(shape, -1, jnp.int32), numbers, sums, ends, rounding, overflow)


@compiled()
def count(
    counts: CountsT,
    state: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    terminated: ArrayLike,
    next_state: ArrayLike,
    valid: ArrayLike,
) -> CountsT:
    """The counts plus the transitions of B envs, [B] each or scalars.

    Rows that are not `valid` (an env resetting itself) are ignored. Only `terminated` counts as an end: a truncated
    episode would have gone on. Sums of rewards are compensated: their relative error stays near the square of the
    dtype's, however many they are. A transition seen 2**31 - 1 - B times is full: more of it are ignored.

    Args:
      counts: `Counts` or `SparseCounts`.
      state, action, next_state: [B] integers or scalars.
      reward, terminated, valid: [B] or scalars.

    Returns: the new counts, of the type given.
    Raises: ValueError for a column of another shape or dtype, and for a concrete value out of range.

    Source: Jaksch, Ortner & Auer (2010), figure 1, steps 2 and 3, https://jmlr.org/papers/v11/jaksch10a.html; the
    sums: Dekker (1971), https://doi.org/10.1007/BF01397083

    >>> seen = count(empty_counts(2, 1), state=0, action=0, reward=3.0, terminated=True, next_state=1, valid=True)
    >>> int(seen.transitions[0, 0, 1]), float(seen.rewards[0, 0, 1]), int(seen.ends[0, 0, 1])
    (1, 3.0, 1)
    """
    columns = columns_of(
        state=state, action=action, reward=reward, terminated=terminated, next_state=next_state, valid=valid
    )
    s, a, earned, over, s2, counted = jnp.broadcast_arrays(*(jnp.atleast_1d(x) for x in columns))
    counted = counted.astype(bool)
    check_indices(counts.transitions.shape[:2], counted, state=s, action=a, next_state=s2)
    s, a, place = (jnp.where(counted, x, 0) for x in (s, a, s2))
    if isinstance(counts, SparseCounts):
        found, place = _find_places(counts.next_state, s, a, place, counted)
        lost = jnp.sum(counted & (place < 0), dtype=jnp.int32)
        counts = counts._replace(next_state=found, overflow=counts.overflow + lost)
        counted, place = counted & (place >= 0), jnp.maximum(place, 0)
    row = s, a, place
    counted = counted & (counts.transitions[row] < FULL - len(counted))
    rewards, rounding = _add_exactly(counts.rewards, counts.rounding, row, jnp.where(counted, earned, 0))
    return counts._replace(
        transitions=counts.transitions.at[row].add(counted.astype(jnp.int32)),
        rewards=rewards,
        ends=counts.ends.at[row].add((counted & over.astype(bool)).astype(jnp.int32)),
        rounding=rounding,
    )


def _find_places(known, state, action, next_state, valid):
    """The table [S, A, K] of next states with those of the rows [B] in free places, and the place of each or -1."""
    order, pair, first, last = _segments(jnp.where(valid, state, len(known)), action)

    def one_row(after, row):
        before, first, s2, valid = row
        known = jnp.where(first, before, after)
        same, free = known == s2, known < 0
        place = jnp.where(jnp.any(same), jnp.argmax(same), jnp.argmax(free)).astype(jnp.int32)
        found = valid & jnp.any(same | free)
        known = known.at[place].set(jnp.where(found, s2, known[place]))
        return known, (known, jnp.where(found, place, -1))

    rows = known[pair], first, next_state[order].astype(known.dtype), valid[order]
    after, places = jax.lax.scan(one_row, known[0, 0], rows)[1]
    known = known.at[jnp.where(last, pair[0], len(known)), pair[1]].set(after, mode="drop")
    return known, jnp.zeros_like(places).at[order].set(places)


def _add_exactly(high, low, row, x):
    """The compensated sums high + low plus x [B] at the places `row`, three indices [B] each, which may repeat."""
    order, row, first, last = _segments(*row)

    def one_row(after, row):
        *before, first, x = row
        pair = _add_to_pair(*(jnp.where(first, old, new) for old, new in zip(before, after, strict=True)), x)
        return pair, pair

    zero = jnp.zeros((), high.dtype)
    rows = high[row], low[row], first, x[order].astype(high.dtype)
    total, rest = jax.lax.scan(one_row, (zero, zero), rows)[1]
    place = jnp.where(last, row[0], len(high)), *row[1:]
    return high.at[place].set(total, mode="drop"), low.at[place].set(rest, mode="drop")


def _segments(*keys):
    """The order that sorts rows by their keys [B], the sorted keys, and whether a row is first or last of its keys.

    Tables are read and written outside of the loops over rows, in which XLA would copy them.
    """
    order = jnp.lexsort(keys[::-1])
    keys, true = tuple(key[order] for key in keys), jnp.ones(1, bool)
    differs = jnp.any(jnp.stack([key[1:] != key[:-1] for key in keys]), axis=0)
    return order, keys, jnp.concatenate([true, differs]), jnp.concatenate([differs, true])


def _add_to_pair(high, low, x):
    """high + low + x as a rounded sum and its rest; an infinite sum has rest 0."""
    total = high + x
    part = total - high
    rest = (high - (total - part)) + (x - part) + low
    high = total + rest
    return high, jnp.where(jnp.isfinite(high), rest - (high - total), 0)


def mean_rewards(counts: Counts | SparseCounts, row: Any = ...) -> Array:
    """Mean rewards of the transitions, [S, A, K] or those at the indices `row`; 0 where there are none."""
    number = jnp.maximum(counts.transitions[row], 1).astype(counts.rewards.dtype)
    return counts.rewards[row] / number + counts.rounding[row] / number


def successors(counts: Counts | SparseCounts) -> Array:
    """The next state [S, A, K] of each place; an unused place leads back to its own state."""
    own = jnp.arange(len(counts.transitions), dtype=jnp.int32)
    if isinstance(counts, SparseCounts):
        return jnp.where(counts.next_state < 0, own[:, None, None], counts.next_state)
    return jnp.broadcast_to(own, counts.transitions.shape)


def empirical_mdp(
    counts: Counts | SparseCounts,
    *,
    unvisited: str = "zero",
    value: Scalar = 0.0,
    start: ArrayLike | None = None,
    step_limit: int | None = None,
) -> MDP:
    """The maximum-likelihood model of the counts: p(s' | s, a) = n(s, a, s') / n(s, a), with the mean rewards.

    Each place of the counts gives two successors: the first goes on, the second, K places later, ends. They are kept
    apart because the same transition may end only sometimes. Both have the mean reward from (s, a) to s', so that
    sum p r is exactly the mean reward. Dense counts have K = S places, in the order of the states.

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

    Raises: UserError for another `unvisited`, a value that is no finite number, a start of another shape, and sparse
      counts that overflowed.

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
    check_range("value", value, np.isfinite, "be a finite number")
    num_states, _, places = counts.transitions.shape
    if isinstance(counts, SparseCounts) and not isinstance(counts.overflow, Tracer) and counts.overflow > 0:
        raise UserError(f"{counts.overflow} transitions found no place; make the counts with more max_successors")
    if start is not None and np.shape(start) != (num_states,):
        raise UserError(f"start has shape {np.shape(start)}; it must be [{num_states}], a probability for each state")
    dtype, states = counts.rewards.dtype, jnp.arange(num_states, dtype=jnp.int32)
    seen = jnp.concatenate([counts.transitions - counts.ends, counts.ends], axis=-1).astype(dtype)
    total = jnp.sum(seen, axis=-1, keepdims=True)
    mean, after = mean_rewards(counts), successors(counts)

    # A place of a pair never visited that leads back to its own state.
    own = jnp.zeros_like(states) if isinstance(counts, SparseCounts) else states
    column = own[:, None, None] + (0 if unvisited == "self" else places)
    assumed = (jnp.arange(2 * places)[None, None] == column).astype(dtype)
    invented = jnp.asarray(value if unvisited == "optimistic" else 0, dtype)
    return MDP(
        next_state=jnp.concatenate([after, after], axis=-1),
        probability=jnp.where(total == 0, assumed, seen / jnp.maximum(total, 1)),
        reward=jnp.where(total == 0, assumed * invented, jnp.concatenate([mean, mean], axis=-1)),
        ends=jnp.broadcast_to(jnp.arange(2 * places) >= places, seen.shape),
        start=jnp.full(num_states, 1 / num_states, dtype) if start is None else jnp.asarray(start, dtype),
        step_limit=step_limit,
    )
