"""Optimal values below discount 1: what all solvers share, and the synchronous ones.

A solver is a `Method`: how to go on from values. When it may be done, one sweep proves what is true of the values it
has (`sweeps.prove`), whichever way it came by them; a method that goes wrong is slow, and never wrongly believed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.planning import sweeps, undiscounted
from jaxql.planning.arguments import check_discount, check_stopping, is_one
from jaxql.planning.evaluation import policy_values
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
    unit_of,
)
from jaxql.planning.operators import action_values
from jaxql.types import MDP, Array

STOPPING = ("error", "loss", "span_loss")


class Solution(NamedTuple):
    """What a solver found: `values == max(q_values)` and, below discount 1, `policy == argmax(q_values)`."""

    values: Array  # [S]
    q_values: Array  # [S, A]
    policy: Array  # [S] int32 greedy, lowest index on ties; at discount 1 a greedy one that also gets to the end
    iterations: Array  # sweeps made; for solvers that evaluate policies, policies looked at
    residual: Array  # largest change of the last sweep
    converged: Array  # bool: see `value_iteration` for what it promises
    error_bound: Array  # proven bound on max|q_values - Q*| and max|values - V*|; inf where nothing is proven
    loss_bound: Array = np.inf  # proven bound on max(V* - V^policy), from the residual in the maximum norm
    span_loss_bound: Array = np.inf  # the same from its span; never larger, and often far smaller


class Method(NamedTuple):
    """How a solver goes on; x is values [S] or action values [A, S], `extra` whatever else it must remember."""

    begin: Callable  # (table) -> (x, extra)
    advance: Callable  # (table, settings, x, extra) -> (x, extra, low, high): bounds on T v - v at some v on the way
    settle: Callable  # (x, extra) -> x whose sweep proves no less than low and high did
    absorb: Callable  # (x, extra, proof) -> (x, extra): goes on from the sweep that proved too little
    patience: int  # advances between proofs, at most: by them the rounding is known, and whether to give up


def value_iteration(
    mdp: MDP, discount=0.9, tolerance=1e-6, max_iterations: int = 1_000_000, *, stopping: str = "error"
) -> Solution:
    """Repeats V <- T V from 0 until max|V - V*| <= tolerance is proven, or cannot be.

    Below discount 1, `converged` promises |values - V*| <= tolerance and |q_values - Q*| <= tolerance everywhere. V*
    belongs to the model as it was before its numbers were rounded to their dtype; rewards that are whole, and below the
    least whole number that the dtype lacks, are taken as exact.

    Proof: let b be discount times the largest probability of going on, rho = max|V_n - V_(n-1)|, and d bound the
    rounding of one sweep, that of the data and of float64 arithmetic (see `sweeps.noise`). T contracts by b and
    |V_n - T V_(n-1)| <= d, so e = |V_n - V*| <= d + b |V_(n-1) - V*| <= d + b (rho + e): e <= (b rho + d) / (1 - b).
    Rounding the result adds what it adds. Once b rho <= d / 4 more sweeps cannot help: if the bound (returned as
    `error_bound`) is still above `tolerance`, the dtype cannot reach it, and `converged` is False.

    `stopping` names the bound that must be below `tolerance`, and that `converged` then promises: "error"; or, for the
    policy only, "loss", max(V* - V^policy) <= 2 b rho / (1 - b), or "span_loss", from the least and the largest change,
    b (largest - least) / (1 - b) where nothing ends (`sweeps.bounds` has the general case, and the rounding). With
    "span_loss" the values are moved into the middle of their bounds.

    At discount 1 there is no contraction, and only "error" can stop. `converged` then promises that `values` is the
    value of `policy` (by a linear solve, to its round-off; rounded to the dtype within `tolerance`) and that no action
    improves on it by more than float64 round-off e = 64 eps (1 + max|q|): then v >= T_pi v - e for every pi, so no
    policy that ends with probability 1, after N steps on average, is better by more than e N. The solve takes [S, S]
    memory. A *traced* discount of 1 is not checked, and `converged` is False.

    Args: `discount` in [0, 1] and `tolerance` > 0, in the unit of the reward, may be traced or mapped;
      `max_iterations` >= 1.
    Returns: `Solution` in the dtype of the rewards.
    Raises: UserError for a model, discount or tolerance that makes no sense, and at discount 1 for a model with a state
      from which no actions lead to an end, nor to where nothing more is earned.

    Source: Sutton & Barto (2018), equation 4.10, http://incompleteideas.net/book/the-book-2nd.html; its bounds:
    Puterman (1994), section 6.6, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(value_iteration(loop, 0.5).values[0]), 5)
    2.0
    """
    return _optimum(VALUE_ITERATION, mdp, discount, tolerance, max_iterations, stopping)


def q_iteration(
    mdp: MDP, discount=0.9, tolerance=1e-6, max_iterations: int = 1_000_000, *, stopping: str = "error"
) -> Solution:
    """`value_iteration` on action values, Q <- sum p (r + discount max Q): the residual is the largest change of any q.

    Arguments, promises and errors are those of `value_iteration`, and the sweeps too, but it may take more to stop.

    Source: Sutton & Barto (2018), equation 3.20, as an update, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(q_iteration(loop, 0.5).q_values[0, 0]), 5)
    2.0
    """
    return _optimum(Q_ITERATION, mdp, discount, tolerance, max_iterations, stopping)


def _optimum(method, mdp, discount, tolerance, max_iterations, stopping):
    check_discount(discount)
    if not is_one(discount):
        return solve(method, mdp, discount, tolerance, max_iterations, stopping)
    check(mdp)
    check_stopping(tolerance, max_iterations)
    if stopping != "error":
        raise UserError(f'stopping is {stopping!r}; at discount 1 nothing bounds the loss, so it must be "error"')
    undiscounted.check_ends(mdp)
    dtype = dtype_of(mdp)

    def found(mdp, tolerance, max_iterations):
        table = _table(mdp, discount, dtype)
        found = undiscounted.solve(double(mdp), table, double(tolerance), max_iterations, dtype, method)
        return round_to(Solution(**found), dtype)

    def slope(solution, mdp, *_):
        return _attached(solution, mdp, np.float64(1), dtype)

    return in_float64(found, mdp._replace(step_limit=None), tolerance, max_iterations, slope=slope)


def solve(method, mdp, discount, tolerance, max_iterations, stopping="error", settings=()) -> Solution:
    """Runs a method to its proof; the promises, arguments and errors of `value_iteration` below discount 1."""
    check(mdp)
    check_discount(discount)
    check_stopping(tolerance, max_iterations)
    if stopping not in STOPPING:
        raise UserError(f"stopping is {stopping!r}; it must be one of {', '.join(STOPPING)}")
    dtype = dtype_of(mdp)

    def found(mdp, gamma, tolerance, max_iterations, settings):
        table, tolerance = _table(mdp, gamma if discount is None else discount, dtype), double(tolerance)
        proof, iterations = _run(
            table, tolerance, max_iterations, settings, method=method, stopping=stopping, dtype=dtype
        )
        return round_to(_solution(table, proof, iterations, tolerance, stopping=stopping, dtype=dtype), dtype)

    def slope(solution, mdp, gamma, *_):
        return _attached(solution, mdp, gamma, dtype)

    arguments = mdp._replace(step_limit=None), discount, tolerance, max_iterations, settings
    discount = discount if type(discount) in (int, float) else None  # Python's are exact, and constant
    return in_float64(found, *arguments, slope=slope)


def _attached(solution, mdp, discount, dtype):
    """The solution with values that depend on the model as those of its policy do: to first order V* does not know."""
    mdp = normalised(double(mdp))
    values = policy_values(mdp, solution.policy, discount)
    q = action_values(mdp, values, discount)
    return round_to(solution._replace(values=values, q_values=q), dtype)


def loss_bounds(mdp: MDP, values: Array, discount) -> sweeps.Bounds:
    """What one sweep from any `values` [S] proves: bounds on max|V* - T values| and on the loss of the greedy policy.

    Returns: `Bounds`, floats of the dtype of the rewards: `error`, `loss` and `span_loss` as `value_iteration` has
    them, and `below` <= V* - T values <= `above`; all infinite where no contraction is proven.
    Raises: UserError for a model or discount that makes no sense.

    Source: Puterman (1994), section 6.6 and proposition 6.6.5, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(loss_bounds(loop, np.zeros(1), 0.5).error), 5)
    1.0
    """
    check(mdp)
    check_discount(discount)
    if np.shape(values) != np.shape(mdp.start):
        raise UserError(f"values has shape {np.shape(values)}; it must be {np.shape(mdp.start)}, one for each state")
    dtype = dtype_of(mdp)

    def found(mdp, values, gamma):
        table = _table(mdp, gamma if discount is None else discount, dtype)
        return round_to(_prove(table, double(values), dtype).bounds, dtype)

    arguments = mdp._replace(step_limit=None), values, discount
    discount = discount if type(discount) in (int, float) else None  # Python's are exact, and constant
    return in_float64(found, *arguments)


_prove = jax.jit(sweeps.prove, static_argnums=2)


def _table(mdp, discount, dtype):
    exact = type(discount) in (int, float)  # Python's are float64 already; an array's was rounded to its dtype
    unit, grain = unit_of(jnp.float64 if is_one(discount) else dtype)
    return _lay_out(double(mdp), double(discount), unit, grain, unit * (not exact))


_lay_out = jax.jit(sweeps.lay_out)


class _Progress(NamedTuple):
    x: Array
    extra: Any
    iterations: Array
    proof: sweeps.Proof


@functools.partial(jax.jit, static_argnames=("method", "stopping", "dtype"))
def _run(table, tolerance, max_iterations, settings, *, method, stopping, dtype):
    prove = functools.partial(sweeps.prove, table, dtype=dtype)

    def enough(bounds, cast):
        return (getattr(bounds, stopping) + (cast if stopping == "error" else 0)) <= tolerance

    def stuck(low, high, noise):
        return table.most * jnp.maximum(high, -low) <= noise / 4

    def advances(progress):
        """Goes on until it looks as if all were proven, by the rounding known so far."""
        noise, cast = progress.proof.noise, progress.proof.cast

        def unfinished(carry):
            _, _, low, high, iterations, made = carry
            done = enough(sweeps.bounds(table, low, high, noise, cast), cast) | stuck(low, high, noise)
            return ~done & (iterations < max_iterations - 1) & (made < method.patience)

        def go_on(carry):
            x, extra, _, _, iterations, made = carry
            return *method.advance(table, settings, x, extra), iterations + 1, made + 1

        first = progress.x, progress.extra, -unknown, unknown, progress.iterations, jnp.int32(0)
        x, extra, _, _, iterations, _ = jax.lax.while_loop(unfinished, go_on, first)
        x = method.settle(x, extra)
        proof = prove(x)
        return _Progress(*method.absorb(x, extra, proof), iterations + 1, proof)

    def unproven(progress):
        proof = progress.proof
        floor = stuck(-proof.residual, proof.residual, proof.noise)
        return ~(enough(proof.bounds, proof.cast) | floor | (progress.iterations >= max_iterations))

    unknown, zero = jnp.float64(jnp.inf), jnp.float64(0)
    bounds = sweeps.Bounds(-unknown, unknown, unknown, unknown, unknown)
    proof = sweeps.Proof(jnp.zeros_like(table.gain), jnp.zeros_like(table.gain[0]), unknown, zero, zero, bounds)
    progress = _Progress(*method.begin(table), jnp.int32(0), proof)
    progress = jax.lax.while_loop(unproven, advances, progress)
    return progress.proof, progress.iterations


@functools.partial(jax.jit, static_argnames=("stopping", "dtype"))
def _solution(table, proof, iterations, tolerance, *, stopping, dtype) -> Solution:
    bounds, q, error = proof.bounds, proof.q.T, proof.bounds.error
    if stopping == "span_loss":
        proven = jnp.isfinite(error)
        q = q + jnp.where(proven, (bounds.below + bounds.above) / 2, 0)
        moved = 2 * jnp.finfo(jnp.float64).eps * jnp.max(jnp.abs(q))
        error = jnp.where(proven, (bounds.above - bounds.below) / 2 + moved, error)
    cast = rounding(q, dtype)
    extra = 2 * jnp.maximum(cast - proof.cast, 0) / (1 - table.most)
    bounds = bounds._replace(error=error + cast, loss=bounds.loss + extra, span_loss=bounds.span_loss + extra)
    return Solution(
        values=jnp.max(q, axis=-1),
        q_values=q,
        policy=lowest_argmax(rounded(q, dtype)),
        iterations=iterations,
        residual=proof.residual,
        converged=getattr(bounds, stopping) <= tolerance,
        error_bound=bounds.error,
        loss_bound=bounds.loss,
        span_loss_bound=jnp.minimum(bounds.loss, bounds.span_loss),
    )


def from_zero(table):
    return jnp.zeros(table.gain.shape[1:], jnp.float64), ()


def from_below(table):
    """A constant v <= T v, from which policies only get better and values only rise."""
    lowest = jnp.minimum(jnp.min(table.gain), 0)
    return jnp.full(table.gain.shape[1:], lowest / (1 - jnp.minimum(table.most, 0.999999))), ()


def as_is(x, extra):
    return x


def onwards(x, extra, proof):
    return (proof.values if x.ndim == 1 else proof.q), extra


def _sweep_values(table, settings, values, extra):
    new = sweeps.backup_best(table, values)
    return new, extra, *sweeps.spread(new - values)


def _sweep_q(table, settings, q, extra):
    new = sweeps.backup(table, jnp.max(q, axis=0))
    return new, extra, *sweeps.spread(new - q)


VALUE_ITERATION = Method(from_zero, _sweep_values, as_is, onwards, 1000)
Q_ITERATION = Method(lambda table: (jnp.zeros_like(table.gain), ()), _sweep_q, as_is, onwards, 1000)
