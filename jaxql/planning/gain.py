"""The best average reward: relative value iteration."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxql.errors import UserError
from jaxql.planning import sweeps
from jaxql.planning.arguments import check_stopping, known
from jaxql.planning.model import check
from jaxql.planning.numbers import (
    double,
    dtype_of,
    in_float64,
    lowest_argmax,
    normalised,
    round_to,
    rounded,
    rounding,
    tree_sum,
    unit_of,
)
from jaxql.types import MDP, Array


class AverageSolution(NamedTuple):
    """What relative value iteration found."""

    gain: Array  # scalar: reward per step of the best policy
    bias: Array  # [S] relative values, 0 in state 0: gain + bias = max(q_values), up to the residual
    q_values: Array  # [S, A] r + P bias
    policy: Array  # [S] int32 greedy in q_values, lowest index on ties
    iterations: Array  # sweeps made
    residual: Array  # span of the last change, largest less least
    converged: Array  # bool: error_bound <= tolerance
    error_bound: Array  # proven bound on |gain - g*| and on g* less the gain of `policy`, from wherever it starts


def relative_value_iteration(
    mdp: MDP, tolerance=1e-6, max_iterations: int = 1_000_000, *, laziness: float = 0.5
) -> AverageSolution:
    """The best average reward of a unichain model: h <- h + (1 - laziness) (T h - h), less its value in state 0.

    An episode that ends is followed by another, from `start`. With T at discount 1, the least and the largest entry of
    T h - h enclose the best gain g* of every state, and the gain of the policy greedy in h: when they are within
    `tolerance` (and the rounding), both are known. A `laziness` above 0 makes periodic chains aperiodic, so that the
    span shrinks. Where different states have different best gains (multichain) it does not: `converged` is False.

    Args: `tolerance` > 0, in the unit of the reward; `max_iterations` >= 1; `laziness` in [0, 1).
    Returns: `AverageSolution` in the dtype of the rewards.
    Raises: UserError for a model or setting that makes no sense.

    Source: Puterman (1994), the algorithm of section 8.5.5, the bounds of equations 8.4.4 and 8.4.5, and (for laziness)
    section 8.5.4, https://doi.org/10.1002/9780470316887

    >>> import numpy as np
    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[3.0]]], [[[False]]], [1.0])))
    >>> float(relative_value_iteration(loop).gain)
    3.0
    """
    check(mdp)
    check_stopping(tolerance, max_iterations)
    if known(laziness) and not 0 <= laziness < 1:
        raise UserError(f"laziness is {laziness}; it must lie in [0, 1)")
    dtype = dtype_of(mdp)

    def found(mdp, tolerance, max_iterations, laziness):
        settings = double(tolerance), max_iterations, double(laziness)
        return round_to(_solve(double(mdp), *settings, dtype=dtype), dtype)

    def slope(solution, mdp, *_):
        return round_to(_attached(solution, normalised(double(mdp))), dtype)

    return in_float64(found, mdp._replace(step_limit=None), tolerance, max_iterations, laziness, slope=slope)


def _attached(solution, mdp):
    """The solution with numbers that depend on the model as those of its policy do: g + h = r_pi + P_pi h, h(0) = 0."""
    states = jnp.arange(len(mdp.start), dtype=jnp.int32)
    own = jax.tree.map(lambda x: x[states, solution.policy], (mdp.next_state, mdp.probability, mdp.reward, mdp.ends))
    next_state, probability, reward, ends = own
    start = mdp.start / jnp.sum(mdp.start)
    chain = tree_sum(jnp.where(ends, probability, 0))[:, None] * start[None]
    chain = chain.at[states[:, None], next_state].add(jnp.where(ends, 0, probability))
    found = jnp.linalg.solve(
        (jnp.eye(len(states)) - chain).at[:, 0].set(1),
        tree_sum(probability * reward),  # in place of h(0): g
    )
    bias = found.at[0].set(0)
    ahead = jnp.where(mdp.ends, jnp.sum(start * bias), bias[mdp.next_state])
    return solution._replace(gain=found[0], bias=bias, q_values=tree_sum(mdp.probability * (mdp.reward + ahead)))


def _lay_out(mdp, unit, grain):
    """The model that restarts: what comes after an end, [A, S], is worth the mean of h over the start."""
    table = sweeps.lay_out(mdp, jnp.float64(1), unit, grain)
    ends = jnp.transpose(mdp.ends, (1, 2, 0))
    ending = sweeps.over_successors(lambda p, over: jnp.where(over, p, 0), table.probability, ends)
    return table, ending, mdp.start / jnp.sum(mdp.start)


def _noise(table, values):
    """A rough bound on what rounding does to a sweep: all that is added up, times its relative error."""
    operations = 8 + 2 * math.ceil(math.log2(table.weight.shape[1])) + math.ceil(math.log2(values.shape[0]))
    relative = 2 * table.unit + operations * jnp.finfo(jnp.float64).eps
    size = sweeps.over_successors(lambda p, r: p * jnp.abs(r), table.probability, table.reward)
    values, reward = jnp.max(jnp.abs(values)), jnp.max(jnp.abs(table.reward))
    smallest = 2 * table.weight.shape[1] * table.grain * (1 + reward + values)
    return jnp.max((relative + table.slack) * (size + values)) + smallest


@functools.partial(jax.jit, static_argnames="dtype")
def _solve(mdp, tolerance, max_iterations, laziness, *, dtype) -> AverageSolution:
    table, ending, start = _lay_out(mdp, *unit_of(dtype))

    def backup(values):
        return sweeps.backup(table, values) + ending * jnp.sum(start * values)

    def measure(values):
        q = backup(values)
        change = jnp.max(q, axis=0) - values
        low, high = sweeps.spread(change)
        blur = _noise(table, values)
        cast = rounding(q, dtype)
        error = high - low + 2 * (blur + cast) + rounding((low + high) / 2, dtype)
        return q, change, low, high, blur, error

    def unfinished(carry):
        values, iterations, (_, _, low, high, blur, error) = carry
        return ~((error <= tolerance) | (high - low <= blur / 4) | (iterations >= max_iterations))

    def go_on(carry):
        values, iterations, (_, change, _, _, _, _) = carry
        values = values + (1 - laziness) * change
        values = values - values[0]
        return values, iterations + 1, measure(values)

    first = jnp.zeros_like(start)
    values, iterations, found = jax.lax.while_loop(unfinished, go_on, (first, jnp.int32(1), measure(first)))
    q, _, low, high, _, error = found
    return AverageSolution(
        gain=(low + high) / 2,
        bias=values,
        q_values=q.T,
        policy=lowest_argmax(rounded(q.T, dtype)),
        iterations=iterations,
        residual=high - low,
        converged=error <= tolerance,
        error_bound=error,
    )
