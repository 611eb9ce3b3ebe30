"""The optimal average reward, by relative value iteration."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.planning import sweeps
from jaxql.planning.arguments import BELOW_1, check_number, check_tolerance, whole_number
from jaxql.planning.methods import TOLERANCE, WEAKEST
from jaxql.planning.model import check_initial_values, check_mdp
from jaxql.planning.numbers import (
    answer_dtype,
    cast_floats,
    dtype_rounding,
    in_float64,
    lowest_argmax,
    normalise,
    pairwise_sum,
    rounded,
    rounding_error,
    to_float64,
    where_legal,
)
from jaxql.types import MDP, Array, Scalar


class AverageSolution(NamedTuple):
    """An optimal policy by its average reward, with a proven bound."""

    gain: Array  # scalar: reward per step of the optimal policy
    bias: Array  # [S] relative values, 0 in state 0: gain + bias = max(q_values), up to the residual
    q_values: Array  # [S, A] r + P bias
    policy: Array  # [S] int32 greedy in q_values, lowest index on ties
    iterations: Array  # number of sweeps
    residual: Array  # span of the last change: the largest minus the smallest
    converged: Array  # bool: error_bound is as small as was asked; see `relative_value_iteration`
    error_bound: Array  # proven bound on |gain - g*| and on g* - gain of `policy`, whatever the first state


def relative_value_iteration(
    mdp: MDP,
    tolerance: Scalar | None = None,
    max_iterations: int = 1_000_000,
    *,
    laziness: float = 0.5,
    initial_values: ArrayLike | None = None,
) -> AverageSolution:
    """The optimal average reward of a unichain model, by h <- h + (1 - laziness) (T h - h) - its value in state 0.

    An episode that ends is followed by another, from `start`. T has discount 1. The smallest and the largest entry of
    T h - h enclose the optimal gain g* of every state, and the gain of the policy greedy in h. When they are within
    `tolerance`, rounding included, both are known. A `laziness` above 0 makes periodic chains aperiodic, so that the
    span shrinks. Where states have different optimal gains (multichain) it does not shrink: `converged` is False.

    Args:
      mdp: the model.
      tolerance: above 0, in the unit of the reward. None asks for 1e-6 max(1, |gain|), or else for what the dtype can
        reach, if that is at most 1e-3 of the same scale.
      max_iterations: at least 1.
      laziness: in [0, 1).
      initial_values: [S], the h of the first sweep; None is 0.

    Returns: `AverageSolution` in the dtype of the rewards.
    Raises: UserError for an invalid model or setting.

    Source: Puterman (1994), the algorithm of section 8.5.5, the bounds of equations 8.4.4 and 8.4.5, and (for laziness)
    section 8.5.4, https://doi.org/10.1002/9780470316887

    >>> import numpy as np
    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[3.0]]], [[[False]]], [1.0])))
    >>> float(relative_value_iteration(loop).gain)
    3.0
    """
    mdp = check_mdp(mdp)
    check_tolerance(tolerance)
    max_iterations = whole_number("max_iterations", max_iterations, 1)
    check_number("laziness", laziness, 0, BELOW_1, "a number in [0, 1)")
    initial_values = check_initial_values(mdp, initial_values)
    dtype, relative = answer_dtype(mdp), tolerance is None

    def found(mdp, tolerance, max_iterations, laziness, initial):
        settings = to_float64(tolerance), max_iterations, to_float64(laziness)
        initial = None if initial is None else to_float64(initial)
        return cast_floats(_solve(to_float64(mdp), *settings, initial, relative=relative, dtype=dtype), dtype)

    def slope(solution, mdp, *_):
        return cast_floats(_differentiable(solution, normalise(to_float64(mdp))), dtype)

    tolerance = TOLERANCE if tolerance is None else tolerance
    arguments = mdp._replace(step_limit=None), tolerance, max_iterations, laziness, initial_values
    return in_float64(found, *arguments, slope=slope)


def _differentiable(solution, mdp):
    """The solution with its numbers recomputed as those of its policy: g + h = r_pi + P_pi h, h(0) = 0."""
    states = jnp.arange(len(mdp.start), dtype=jnp.int32)
    own = jax.tree.map(lambda x: x[states, solution.policy], (mdp.next_state, mdp.probability, mdp.reward, mdp.ends))
    next_state, probability, reward, ends = own
    start = mdp.start / jnp.sum(mdp.start)
    chain = pairwise_sum(jnp.where(ends, probability, 0))[:, None] * start[None]
    chain = chain.at[states[:, None], next_state].add(jnp.where(ends, 0, probability))
    found = jnp.linalg.solve(
        (jnp.eye(len(states)) - chain).at[:, 0].set(1),
        pairwise_sum(probability * reward),  # column 0 multiplies g in place of h(0)
    )
    bias = found.at[0].set(0)
    ahead = jnp.where(mdp.ends, jnp.sum(start * bias), bias[mdp.next_state])
    q = where_legal(mdp.legal, pairwise_sum(mdp.probability * (mdp.reward + ahead)), -jnp.inf)
    return solution._replace(gain=found[0], bias=bias, q_values=q)


def _restarting_table(mdp, relative, absolute):
    """The table, the probability [A, S] of an end, and the start distribution that follows an end."""
    table = sweeps.to_table(mdp, jnp.float64(1), relative, absolute)
    ends = jnp.transpose(mdp.ends, (1, 2, 0))
    ending = sweeps.sum_over_successors(lambda p, over: jnp.where(over, p, 0), table.probability, ends)
    return table, ending, mdp.start / jnp.sum(mdp.start)


def _sweep_rounding(table, values):
    """A rough bound on the rounding error of a sweep: all that is added up, times its relative error."""
    operations = 8 + 2 * math.ceil(math.log2(table.weight.shape[1])) + math.ceil(math.log2(values.shape[0]))
    relative = 2 * table.rel_rounding + operations * jnp.finfo(jnp.float64).eps
    size = sweeps.sum_over_successors(lambda p, r: p * jnp.abs(r), table.probability, table.reward)
    values, reward = jnp.max(jnp.abs(values)), jnp.max(jnp.abs(table.reward))
    smallest = 2 * table.weight.shape[1] * table.abs_rounding * (1 + reward + values)
    return jnp.max((relative + table.sum_error) * (size + values)) + smallest


@functools.partial(jax.jit, static_argnames=("relative", "dtype"))
def _solve(mdp, tolerance, max_iterations, laziness, initial, *, relative, dtype) -> AverageSolution:
    table, ending, start = _restarting_table(mdp, *dtype_rounding(dtype))

    def backup(values):
        return sweeps.backup(table, values) + ending * jnp.sum(start * values)

    def measure(values):
        q = backup(values)
        change = jnp.max(q, axis=0) - values
        low, high = sweeps.min_max(change)
        sweep_rounding = _sweep_rounding(table, values)
        output_rounding = rounding_error(where_legal(table.legal, q, 0), dtype)
        error = high - low + 2 * (sweep_rounding + output_rounding) + rounding_error((low + high) / 2, dtype)
        return q, change, low, high, sweep_rounding, error

    def verdict(found, weakest):
        """Whether the error is small enough, and whether more sweeps cannot make it smaller."""
        _, _, low, high, sweep_rounding, error = found
        scale = jnp.maximum(1, jnp.abs(low + high) / 2) if relative else 1
        floor = high - low <= sweep_rounding / 4
        return error <= tolerance * scale, floor & (error <= weakest * scale)

    def unfinished(carry):
        _, iterations, found = carry
        enough, floor = verdict(found, jnp.inf)
        return ~(enough | floor | (iterations >= max_iterations))

    def go_on(carry):
        values, iterations, (_, change, _, _, _, _) = carry
        values = values + (1 - laziness) * change
        values = values - values[0]
        return values, iterations + 1, measure(values)

    first = jnp.zeros_like(start) if initial is None else initial - initial[0]
    values, iterations, found = jax.lax.while_loop(unfinished, go_on, (first, jnp.int32(1), measure(first)))
    q, _, low, high, _, error = found
    enough, floor = verdict(found, WEAKEST)
    return AverageSolution(
        gain=(low + high) / 2,
        bias=values,
        q_values=q.T,
        policy=lowest_argmax(rounded(q.T, dtype)),
        iterations=iterations,
        residual=high - low,
        converged=(enough | floor) if relative else enough,
        error_bound=error,
    )
