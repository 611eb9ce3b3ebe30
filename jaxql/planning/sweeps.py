"""Sweeps over all states, and the bounds that one sweep proves.

Everything here is float64 and traced; the solvers check arguments. States are the last axis, [A, K, S] in place of the
model's [S, A, K], so that a sweep is one fused loop over contiguous memory.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxql.planning.numbers import rounding_error, where_legal
from jaxql.types import MDP, Array, Scalar

UNROLLED = 24  # up to this many successors a state are written out one by one; XLA fuses them into one loop over states
LARGE = 4096  # only from this many states on: smaller models lose more compiling time than they save


class Table(NamedTuple):
    """A model and a discount with the states last; probabilities sum to 1."""

    next_state: Array  # [A, K, S] int32
    weight: Array  # [A, K, S] discount times probability, 0 where the transition ends
    reward_mean: Array  # [A, S] sum_k probability reward, -inf for illegal actions; so their q is -inf
    probability: Array  # [A, K, S]
    reward: Array  # [A, K, S]
    sum_error: Array  # [A, S] distance of the probabilities' sum from 1 before they were divided by it
    discount: Array  # scalar
    min_discount: Array  # scalar: smallest factor by which a step shrinks a constant added to all values
    max_discount: Array  # scalar: largest such factor; below 1 it is the modulus of contraction
    rel_rounding: Array  # scalar: relative error of the probabilities and of rewards that are not whole
    abs_rounding: Array  # scalar: absolute error of the probabilities and rewards that are too small for a relative one
    discount_rounding: Array  # scalar: relative error of the discount
    legal: Array | None  # [A, S] bool; None: all actions


class PolicyTable(NamedTuple):
    """The transitions of one policy: T_pi v = reward_mean + sum_k weight v[next_state]."""

    next_state: Array  # [K, S]
    weight: Array  # [K, S]
    reward_mean: Array  # [S]


class Proof(NamedTuple):
    """One sweep from values v, and the bounds that follow from T v - v."""

    q: Array  # [A, S] backup of v
    values: Array  # [S] its maxima, T v
    residual: Array  # the largest change
    sweep_rounding: Array  # bound on the rounding error of the sweep
    output_rounding: Array  # largest error of rounding q to the dtype of the answer
    bounds: "Bounds"


class Bounds(NamedTuple):
    """Proven bounds; infinite where nothing is proven. V is T v, pi is greedy in the rounded backup of v."""

    below: Array  # V* - V >= below, and Q* - q >= below
    above: Array  # V* - V <= above, and Q* - q <= above
    error: Array  # max|V* - V|, from max|T v - v|
    loss: Array  # max(V* - V^pi), from max|T v - v|
    span_loss: Array  # max(V* - V^pi), from the smallest and the largest entry of T v - v


def to_table(
    mdp: MDP,
    discount: Scalar,
    rel_rounding: Scalar = 0.0,
    abs_rounding: Scalar = 0.0,
    discount_rounding: Scalar = 0.0,
) -> Table:
    """The table of a float64 model. The last three arguments say how its numbers and its discount were rounded."""
    gamma, relative, absolute = jnp.float64(discount), jnp.float64(rel_rounding), jnp.float64(abs_rounding)
    discount_error = jnp.float64(discount_rounding)
    next_state, probability, reward, ends = (jnp.transpose(x, (1, 2, 0)) for x in mdp[:4])
    total = sum_over_successors(lambda p: p, probability)
    probability = probability / total[:, None]
    ending = sum_over_successors(lambda p, over: jnp.where(over, p, 0), probability, ends)
    legal = None if mdp.legal is None else mdp.legal.T
    reward_mean = sum_over_successors(lambda p, r: p * r, probability, reward)
    most_ending, least_ending = jnp.max(where_legal(legal, ending, 0)), jnp.min(where_legal(legal, ending, 1))
    ending_error = 2 * (relative + 4 * jnp.finfo(jnp.float64).eps)
    return Table(
        next_state=next_state,
        weight=jnp.where(ends, 0, gamma * probability),
        reward_mean=where_legal(legal, reward_mean, -jnp.inf),
        probability=probability,
        reward=reward,
        sum_error=jnp.abs(total - 1),
        discount=gamma,
        min_discount=gamma * (1 - discount_error) * jnp.maximum(0, 1 - most_ending * (1 + ending_error)),
        max_discount=gamma * (1 + discount_error) * (1 - least_ending * (1 - ending_error)),
        rel_rounding=relative,
        abs_rounding=absolute,
        discount_rounding=discount_error,
        legal=legal,
    )


def pairwise_sum_of_list(terms: list[Array]) -> Array:
    """Sum of a list by halves, as `numbers.pairwise_sum`."""
    while len(terms) > 1:
        odd = terms[len(terms) & ~1 :]
        terms = [x + y for x, y in zip(terms[::2], terms[1::2], strict=False)] + odd
    return terms[0]


def sum_over_successors(term: Callable[..., Array], *arrays: Array) -> Array:
    """Sum over k of term(x[:, k], ...), [A, S], for arrays [A, K, S]."""
    successors = arrays[0].shape[1]
    if successors <= UNROLLED and arrays[0].shape[-1] >= LARGE:
        return pairwise_sum_of_list([term(*(x[:, k] for x in arrays)) for k in range(successors)])
    terms = jax.vmap(term, in_axes=1, out_axes=0)(*arrays)
    while len(terms) > 1:
        half = len(terms) // 2
        terms = jnp.concatenate([terms[:half] + terms[half : 2 * half], terms[2 * half :]])
    return terms[0]


def gather(values: Array, states: Array) -> Array:
    """values[states], for states known to be in range."""
    return values.at[states].get(mode="promise_in_bounds", wrap_negative_indices=False)


def backup(table: Table, values: Array) -> Array:
    """Action values q [A, S], one step ahead of values [S]."""
    return table.reward_mean + sum_over_successors(lambda w, s: w * gather(values, s), table.weight, table.next_state)


def backup_best(table: Table, values: Array) -> Array:
    """T v [S] of values v [S]: the maximum over actions of `backup`."""
    actions, successors, states = table.weight.shape
    if actions * successors > UNROLLED or states < LARGE:
        return jnp.max(backup(table, values), axis=0)
    ahead = [
        [table.weight[a, k] * gather(values, table.next_state[a, k]) for k in range(successors)] for a in range(actions)
    ]
    return functools.reduce(
        jnp.maximum, [table.reward_mean[a] + pairwise_sum_of_list(ahead[a]) for a in range(actions)]
    )


def greedy(q: Array) -> Array:
    """Greedy actions [S] int32 of q [A, S], the lowest index on ties."""
    action = jax.lax.broadcasted_iota(jnp.int32, q.shape, 0)
    return jnp.min(jnp.where(q == jnp.max(q, axis=0)[None], action, jnp.int32(len(q) - 1)), axis=0)


def select_policy(table: Table, policy: Array) -> PolicyTable:
    """The transitions of a deterministic policy [S]."""
    pick = functools.partial(jnp.take_along_axis, axis=0, mode="promise_in_bounds")
    return PolicyTable(
        next_state=pick(table.next_state, policy[None, None])[0],
        weight=pick(table.weight, policy[None, None])[0],
        reward_mean=pick(table.reward_mean, policy[None])[0],
    )


def expected_next_value(rows: PolicyTable, values: Array) -> Array:
    """sum_k weight v[next], [S]: T_pi v without the reward."""
    return sum_over_successors(lambda w, s: w * gather(values, s), rows.weight[None], rows.next_state[None])[0]


def sweep_rounding(table: Table, values: Array, q: Array) -> Array:
    """Bound on the distance between a backup q of `values` and the same backup in the model before it was rounded.

    Four errors add up:
      rewards and discount    rel_rounding * sum p (|r| + discount |v|). A whole reward is exact if its dtype holds
                              all whole numbers of its size.
      probabilities           rel_rounding * the mean absolute deviation of r + discount v, since they are divided by
                              their sum; `sum_error` for the division itself
      tiny numbers            abs_rounding, where rounding is not relative
      arithmetic              log2(K) sums
    """
    operations = 6 + 2 * math.ceil(math.log2(table.weight.shape[1]))  # of the backup, and of the probabilities' sum
    factor = table.sum_error + operations * jnp.finfo(jnp.float64).eps / 2

    reward = table.reward
    ahead = jnp.where(table.weight != 0, table.discount * gather(values, table.next_state), 0)
    whole = (reward == jnp.round(reward)) & (jnp.abs(reward) * table.rel_rounding < 1)
    deviation = jnp.abs(reward + ahead - where_legal(table.legal, q, 0)[:, None])
    inexact = table.rel_rounding * (jnp.where(whole, 0, jnp.abs(reward)) + deviation)
    inexact = inexact + table.discount_rounding * jnp.abs(ahead)
    total = inexact + factor[:, None] * (jnp.abs(reward) + jnp.abs(ahead))
    return jnp.max(jnp.sum(table.probability * total + table.abs_rounding * (table.probability + deviation), axis=1))


def bounds(table: Table, low: Array, high: Array, sweep_error: Scalar, output_rounding: Scalar) -> Bounds:
    """Bounds that follow from low <= T v - v <= high.

    T v is known up to `sweep_error`, and q is then rounded by `output_rounding`. Let a and b be the table's
    `min_discount` and `max_discount`. A constant c added to all values raises T v by between a c and b c. Hence
    V* - T v <= b high / (1 - b) if high >= 0, and <= a high / (1 - a) otherwise. The lower bound is alike. So is the
    bound for V^pi, since T_pi v = T v up to rounding. Where no transition ends, a = b = discount: these are the
    classical bounds, whose width is the span high - low. `error` and `loss` follow from max(high, -low).

    Source: Puterman (1994), theorem 6.3.1, section 6.6 and proposition 6.6.5, there for rows that sum to the discount
    """

    def sum_of_all_changes(change):
        modulus = jnp.where(change >= 0, table.max_discount, table.min_discount)
        return modulus * change / (1 - modulus)

    worst, rounding = jnp.maximum(high, -low), 2 * (sweep_error + output_rounding)
    upper = sum_of_all_changes(high + sweep_error)
    found = Bounds(
        below=-sweep_error - sum_of_all_changes(sweep_error - low),
        above=sweep_error + upper,
        error=(table.max_discount * worst + sweep_error) / (1 - table.max_discount),
        loss=rounding + table.max_discount * (2 * worst + rounding) / (1 - table.max_discount),
        span_loss=rounding + upper + sum_of_all_changes(sweep_error + 2 * output_rounding - low),
    )
    nothing = Bounds(*(jnp.float64(x) for x in (-math.inf, math.inf, math.inf, math.inf, math.inf)))
    return jax.tree.map(lambda x, unknown: jnp.where(table.max_discount < 1, x, unknown), found, nothing)


def prove(table: Table, x: Array, dtype: jnp.dtype) -> Proof:
    """One sweep from x, and its bounds for an answer in `dtype`; x is values [S] or action values [A, S]."""
    values = x if x.ndim == 1 else jnp.max(x, axis=0)
    q = backup(table, values)
    best = jnp.max(q, axis=0)
    low, high = min_max(best - x if x.ndim == 1 else change_of_q(table, q, x))
    error, output_rounding = sweep_rounding(table, values, q), rounding_error(where_legal(table.legal, q, 0), dtype)
    return Proof(
        q, best, jnp.maximum(high, -low), error, output_rounding, bounds(table, low, high, error, output_rounding)
    )


def change_of_q(table: Table, new: Array, q: Array) -> Array:
    """new - q [A, S], 0 for illegal actions."""
    return where_legal(table.legal, new - q, 0)


def min_max(change: Array) -> tuple[Array, Array]:
    return jnp.min(change), jnp.max(change)
