"""Sweeps over all states, and what one sweep proves. Everything here is float64 and traced; solvers check arguments.

States are the last axis, so that a sweep is one fused loop over contiguous memory: [A, K, S], not
the model's [S, A, K].
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxql.planning.numbers import rounding
from jaxql.types import Array

UNROLLED = 24  # up to so many successors of a state are written out one by one, which fuses into one loop over states
LARGE = 4096  # from so many states on; below, what is written out costs more to compile than it saves


class Table(NamedTuple):
    """A model and a discount, laid out for sweeps; probabilities sum to 1."""

    next_state: Array  # [A, K, S] int32
    weight: Array  # [A, K, S] discount times probability, 0 where the transition ends
    gain: Array  # [A, S] mean reward
    probability: Array  # [A, K, S]
    reward: Array  # [A, K, S]
    slack: Array  # [A, S] how far the probabilities missed 1 before they were divided by their sum
    discount: Array  # scalar
    least: Array  # scalar: a step keeps at least so much of a constant added to all values
    most: Array  # scalar: and at most so much; below 1 it is the modulus of contraction
    unit: Array  # scalar: relative error of the probabilities and of rewards that are not whole
    grain: Array  # scalar: and their absolute error, which is what counts of the smallest
    discount_unit: Array  # scalar: and of the discount


class Rows(NamedTuple):
    """What one policy makes of a table: T_pi v = gain + sum_k weight v[next]."""

    next_state: Array  # [K, S]
    weight: Array  # [K, S]
    gain: Array  # [S]


class Proof(NamedTuple):
    """One sweep from some values v, and what follows from T v - v."""

    q: Array  # [A, S] backup of v
    values: Array  # [S] its maxima, T v
    residual: Array  # the largest change
    noise: Array  # bound on the rounding of the sweep
    cast: Array  # largest error of rounding q to the dtype of the answer
    bounds: "Bounds"


class Bounds(NamedTuple):
    """Proven bounds; infinite where nothing is proven. V is T v, pi is greedy in the rounded backup of v."""

    below: Array  # V* - V >= below, and Q* - q >= below
    above: Array  # V* - V <= above, and Q* - q <= above
    error: Array  # max|V* - V|, from max|T v - v|
    loss: Array  # max(V* - V^pi), from max|T v - v|
    span_loss: Array  # max(V* - V^pi), from the least and the largest entry of T v - v


def lay_out(mdp, discount, unit=0.0, grain=0.0, discount_unit=0.0) -> Table:
    """The table of a float64 model. Its numbers were rounded by `unit` and `grain`, the discount by `discount_unit`."""
    unit, grain, discount_unit = (jnp.float64(x) for x in (unit, grain, discount_unit))
    next_state, probability, reward, ends = (jnp.transpose(x, (1, 2, 0)) for x in mdp[:4])
    total = over_successors(lambda p: p, probability)
    probability = probability / total[:, None]
    ending = over_successors(lambda p, over: jnp.where(over, p, 0), probability, ends)
    relative = 2 * (unit + 4 * jnp.finfo(jnp.float64).eps)
    return Table(
        next_state=next_state,
        weight=jnp.where(ends, 0, discount * probability),
        gain=over_successors(lambda p, r: p * r, probability, reward),
        probability=probability,
        reward=reward,
        slack=jnp.abs(total - 1),
        discount=discount,
        least=discount * (1 - discount_unit) * jnp.maximum(0, 1 - jnp.max(ending) * (1 + relative)),
        most=discount * (1 + discount_unit) * (1 - jnp.min(ending) * (1 - relative)),
        unit=unit,
        grain=grain,
        discount_unit=discount_unit,
    )


def pairwise_sum(terms):
    """Sum of a list by halves, as `numbers.tree_sum`."""
    while len(terms) > 1:
        odd = terms[len(terms) & ~1 :]
        terms = [x + y for x, y in zip(terms[::2], terms[1::2], strict=False)] + odd
    return terms[0]


def over_successors(term, *arrays) -> Array:
    """Sum over k of term(x[:, k], ...), [A, S], for arrays [A, K, S]."""
    successors = arrays[0].shape[1]
    if successors <= UNROLLED and arrays[0].shape[-1] >= LARGE:
        return pairwise_sum([term(*(x[:, k] for x in arrays)) for k in range(successors)])
    terms = jax.vmap(term, in_axes=1, out_axes=0)(*arrays)
    while len(terms) > 1:
        half = len(terms) // 2
        terms = jnp.concatenate([terms[:half] + terms[half : 2 * half], terms[2 * half :]])
    return terms[0]


def take(values, states):
    return values.at[states].get(mode="promise_in_bounds", wrap_negative_indices=False)


def backup(table, values) -> Array:
    """q [A, S] of values [S]."""
    return table.gain + over_successors(lambda w, s: w * take(values, s), table.weight, table.next_state)


def backup_best(table, values) -> Array:
    """T v [S] of values [S]."""
    actions, successors, states = table.weight.shape
    if actions * successors > UNROLLED or states < LARGE:
        return jnp.max(backup(table, values), axis=0)
    ahead = [
        [table.weight[a, k] * take(values, table.next_state[a, k]) for k in range(successors)] for a in range(actions)
    ]
    return functools.reduce(jnp.maximum, [table.gain[a] + pairwise_sum(ahead[a]) for a in range(actions)])


def greedy(q) -> Array:
    """Lowest index [S] int32 of the largest of q [A, S]."""
    action = jax.lax.broadcasted_iota(jnp.int32, q.shape, 0)
    return jnp.min(jnp.where(q == jnp.max(q, axis=0)[None], action, jnp.int32(len(q) - 1)), axis=0)


def rows_of(table, policy) -> Rows:
    """The rows of a deterministic policy [S]."""
    pick = functools.partial(jnp.take_along_axis, axis=0, mode="promise_in_bounds")
    return Rows(
        next_state=pick(table.next_state, policy[None, None])[0],
        weight=pick(table.weight, policy[None, None])[0],
        gain=pick(table.gain, policy[None])[0],
    )


def step(rows: Rows, values) -> Array:
    """sum_k weight v[next], [S]: T_pi v without the reward."""
    return over_successors(lambda w, s: w * take(values, s), rows.weight[None], rows.next_state[None])[0]


def noise(table, values, q) -> Array:
    """How far a backup of `values` may be off the exact model's, the numbers of which were rounded by `unit`.

    Rewards, unless whole and small enough for all whole numbers of their size to be at hand, and discount: unit * sum p
    (|r| + discount |v|). Probabilities, divided by their sum: unit * the mean absolute deviation of what they weigh;
    undivided: `slack`, by which they miss 1; those too small to be rounded relatively: by `grain`. Arithmetic: log2(K)
    sums.
    """
    operations = 6 + 2 * math.ceil(math.log2(table.weight.shape[1]))  # of the backup, and of the probabilities' sum
    factor = table.slack + operations * jnp.finfo(jnp.float64).eps / 2

    reward = table.reward
    ahead = jnp.where(table.weight != 0, table.discount * take(values, table.next_state), 0)
    whole = (reward == jnp.round(reward)) & (jnp.abs(reward) * table.unit < 1)
    deviation = jnp.abs(reward + ahead - q[:, None])
    inexact = table.unit * (jnp.where(whole, 0, jnp.abs(reward)) + deviation) + table.discount_unit * jnp.abs(ahead)
    total = inexact + factor[:, None] * (jnp.abs(reward) + jnp.abs(ahead))
    return jnp.max(jnp.sum(table.probability * total + table.grain * (table.probability + deviation), axis=1))


def bounds(table, low, high, noise, cast) -> Bounds:
    """What low <= T v - v <= high proves, if T v is known up to `noise` and q is then rounded by `cast`.

    A constant c added to all values raises T v by between least c and most c, so that V* - T v <= most high /
    (1 - most) for high >= 0, or least high / (1 - least) below; likewise from below, and for V^pi, since T_pi v = T v
    up to rounding. Where no transition ends, least = most = discount: the classical bounds, whose width is the span
    high - low. The others follow from max(high, -low).

    Source: Puterman (1994), theorem 6.3.1, section 6.6 and proposition 6.6.5, there for rows that sum to the discount
    """

    def ever_after(change):
        modulus = jnp.where(change >= 0, table.most, table.least)
        return modulus * change / (1 - modulus)

    worst, blur = jnp.maximum(high, -low), 2 * (noise + cast)
    found = Bounds(
        below=-noise - ever_after(noise - low),
        above=noise + ever_after(high + noise),
        error=(table.most * worst + noise) / (1 - table.most),
        loss=blur + table.most * (2 * worst + blur) / (1 - table.most),
        span_loss=blur + ever_after(high + noise) + ever_after(noise + 2 * cast - low),
    )
    nothing = Bounds(*(jnp.float64(x) for x in (-math.inf, math.inf, math.inf, math.inf, math.inf)))
    return jax.tree.map(lambda x, unknown: jnp.where(table.most < 1, x, unknown), found, nothing)


def prove(table, x, dtype) -> Proof:
    """A sweep from x, values [S] or action values [A, S], for an answer in `dtype`."""
    values = x if x.ndim == 1 else jnp.max(x, axis=0)
    q = backup(table, values)
    best = jnp.max(q, axis=0)
    low, high = spread((best if x.ndim == 1 else q) - x)
    error, cast = noise(table, values, q), rounding(q, dtype)
    return Proof(q, best, jnp.maximum(high, -low), error, cast, bounds(table, low, high, error, cast))


def spread(change):
    return jnp.min(change), jnp.max(change)
