"""Optimal values below discount 1: the loop that all solvers share, and the two synchronous solvers.

A solver is a `Method`: a step from values to better values. When the values may be good enough, one sweep computes
bounds that hold for any values (`sweeps.prove`). A method that goes wrong is therefore slow, but never believed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.planning import sweeps, undiscounted
from jaxql.planning.arguments import check_discount, check_stopping, is_one
from jaxql.planning.evaluation import policy_values
from jaxql.planning.model import check_mdp
from jaxql.planning.numbers import (
    answer_dtype,
    cast_floats,
    dtype_rounding,
    in_float64,
    lowest_argmax,
    normalise,
    rounded,
    rounding_error,
    to_float64,
)
from jaxql.planning.operators import action_values
from jaxql.types import MDP, Array, Scalar

STOPPING = ("error", "loss", "span_loss")


class Solution(NamedTuple):
    """An optimum with its bounds: `values == max(q_values)` and, below discount 1, `policy == argmax(q_values)`."""

    values: Array  # [S]
    q_values: Array  # [S, A]
    policy: Array  # [S] int32 greedy, lowest index on ties; at discount 1 a greedy policy that also reaches an end
    iterations: Array  # number of sweeps; of solvers that evaluate policies, number of policies
    residual: Array  # largest change of the last sweep
    converged: Array  # bool: the bound named by `stopping` is <= tolerance; see `value_iteration`
    error_bound: Array  # proven bound on max|q_values - Q*| and max|values - V*|; inf where nothing is proven
    loss_bound: ArrayLike = np.inf  # proven bound on max(V* - V^policy), from the maximum norm of the residual
    span_loss_bound: ArrayLike = np.inf  # proven bound on max(V* - V^policy), from its span; never above loss_bound


class Method(NamedTuple):
    """The functions of a solver; x is values [S] or action values [A, S], `extra` is any other state."""

    init: Callable[[sweeps.Table], tuple[Array, Any]]  # table -> (x, extra)
    step: Callable[
        ..., tuple[Array, Any, Array, Array]
    ]  # (table, settings, x, extra) -> (x, extra, min and max of Tv-v)
    finalise: Callable[[Array, Any], Array]  # (x, extra) -> the x to prove; its T v - v lies within those of `step`
    resume: Callable[[Array, Any, sweeps.Proof], tuple[Array, Any]]  # (x, extra, proof too weak) -> (x, extra)
    proof_interval: int  # most steps between proofs; a proof measures the rounding error


def value_iteration(
    mdp: MDP,
    discount: Scalar = 0.9,
    tolerance: Scalar = 1e-6,
    max_iterations: int = 1_000_000,
    *,
    stopping: str = "error",
) -> Solution:
    """Optimal values by V <- T V from 0, repeated until max|V - V*| <= tolerance is proven, or cannot be.

    Below discount 1, `converged` promises |values - V*| <= tolerance and |q_values - Q*| <= tolerance everywhere. V*
    belongs to the model as it was before its numbers were rounded to their dtype. A whole reward is taken as exact if
    the dtype holds all whole numbers up to it.

    Proof. Let b be discount times the largest probability of going on, and rho = max|V_n - V_(n-1)|. Let d bound the
    rounding of one sweep: that of the data and of float64 arithmetic (see `sweeps.sweep_rounding`). T contracts by b
    and |V_n - T V_(n-1)| <= d. So e = |V_n - V*| <= d + b |V_(n-1) - V*| <= d + b (rho + e), and
    e <= (b rho + d) / (1 - b). The rounding of the result is added. Once b rho <= d / 4 more sweeps cannot help. If
    the bound (`error_bound`) is then still above `tolerance`, the dtype cannot reach it, and `converged` is False.

    `stopping` names the bound that must be below `tolerance`, and that `converged` then promises:
      "error"       max|V - V*|, as above
      "loss"        of the policy only: max(V* - V^policy) <= 2 b rho / (1 - b)
      "span_loss"   of the policy only, from the smallest and the largest change: b (largest - smallest) / (1 - b)
                    where nothing ends. `sweeps.bounds` has the general case, and the rounding. The values are moved
                    into the middle of their bounds.

    At discount 1 there is no contraction, and only "error" can stop. `converged` then promises two things. `values` is
    the value of `policy`, by a linear solve in [S, S] memory, to its round-off and rounded to the dtype within
    `tolerance`. No action improves on it by more than float64 round-off e = 64 eps (1 + max|q|). Then v >= T_pi v - e
    for every pi, so a policy that ends with probability 1, after N steps on average, is better by at most e N. A
    *traced* discount of 1 is not checked, and `converged` is False.

    Args:
      mdp: the model.
      discount: in [0, 1]; it may be traced or mapped.
      tolerance: above 0, in the unit of the reward; it may be traced or mapped.
      max_iterations: at least 1.
      stopping: "error", "loss" or "span_loss".

    Returns: `Solution` in the dtype of the rewards.
    Raises: UserError for an invalid model, discount or tolerance. At discount 1 also for a model with a state from
      which no actions lead to an end, nor to states where nothing more is earned.

    Source: Sutton & Barto (2018), equation 4.10, http://incompleteideas.net/book/the-book-2nd.html; its bounds:
    Puterman (1994), section 6.6, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(value_iteration(loop, 0.5).values[0]), 5)
    2.0
    """
    return _solve_any_discount(VALUE_ITERATION, mdp, discount, tolerance, max_iterations, stopping)


def q_iteration(
    mdp: MDP,
    discount: Scalar = 0.9,
    tolerance: Scalar = 1e-6,
    max_iterations: int = 1_000_000,
    *,
    stopping: str = "error",
) -> Solution:
    """Optimal action values by Q <- sum p (r + discount max Q), repeated as in `value_iteration`.

    Arguments, promises and errors are those of `value_iteration`. The residual is the largest change of any q, so it
    may take more sweeps.

    Source: Sutton & Barto (2018), equation 3.20, as an update, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(q_iteration(loop, 0.5).q_values[0, 0]), 5)
    2.0
    """
    return _solve_any_discount(Q_ITERATION, mdp, discount, tolerance, max_iterations, stopping)


def _solve_any_discount(method, mdp, discount, tolerance, max_iterations, stopping):
    check_discount(discount)
    if not is_one(discount):
        return solve(method, mdp, discount, tolerance, max_iterations, stopping)
    check_mdp(mdp)
    check_stopping(tolerance, max_iterations)
    if stopping != "error":
        raise UserError(f'stopping is {stopping!r}; at discount 1 nothing bounds the loss, so it must be "error"')
    undiscounted.check_ends(mdp)
    dtype = answer_dtype(mdp)

    def found(mdp, tolerance, max_iterations):
        table = _table(mdp, discount, dtype)
        found = undiscounted.solve(to_float64(mdp), table, to_float64(tolerance), max_iterations, dtype, method)
        return cast_floats(Solution(**found), dtype)

    def slope(solution, mdp, *_):
        return _differentiable(solution, mdp, np.float64(1), dtype)

    return in_float64(found, mdp._replace(step_limit=None), tolerance, max_iterations, slope=slope)


def solve(
    method: Method,
    mdp: MDP,
    discount: Scalar,
    tolerance: Scalar,
    max_iterations: int | Array,
    stopping: str = "error",
    settings: Any = (),
) -> Solution:
    """Runs a method until its proof. Promises, arguments and errors are those of `value_iteration` below discount 1."""
    check_mdp(mdp)
    check_discount(discount)
    check_stopping(tolerance, max_iterations)
    if stopping not in STOPPING:
        raise UserError(f"stopping is {stopping!r}; it must be one of {', '.join(STOPPING)}")
    dtype = answer_dtype(mdp)

    def found(mdp, gamma, tolerance, max_iterations, settings):
        table, tolerance = _table(mdp, gamma if exact is None else exact, dtype), to_float64(tolerance)
        proof, iterations = _run(
            table, tolerance, max_iterations, settings, method=method, stopping=stopping, dtype=dtype
        )
        return cast_floats(_solution(table, proof, iterations, tolerance, stopping=stopping, dtype=dtype), dtype)

    def slope(solution, mdp, gamma, *_):
        return _differentiable(solution, mdp, gamma, dtype)

    arguments = mdp._replace(step_limit=None), discount, tolerance, max_iterations, settings
    exact = discount if type(discount) in (int, float) else None  # a Python number is exact, and constant
    return in_float64(found, *arguments, slope=slope)


def _differentiable(solution, mdp, discount, dtype):
    """The solution with its values recomputed as those of its policy, which have the same gradient in the model."""
    mdp = normalise(to_float64(mdp))
    values = policy_values(mdp, solution.policy, discount)
    q = action_values(mdp, values, discount)
    return cast_floats(solution._replace(values=values, q_values=q), dtype)


def loss_bounds(mdp: MDP, values: ArrayLike, discount: Scalar) -> sweeps.Bounds:
    """Bounds on max|V* - T values| and on the loss of the greedy policy, from one sweep from any `values` [S].

    Returns: `Bounds`, scalars of the dtype of the rewards. `error`, `loss` and `span_loss` are those of
      `value_iteration`, and `below` <= V* - T values <= `above`. All are infinite where no contraction is proven.
    Raises: UserError for an invalid model or discount, or values of another shape.

    Source: Puterman (1994), section 6.6 and proposition 6.6.5, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(loss_bounds(loop, np.zeros(1), 0.5).error), 5)
    1.0
    """
    check_mdp(mdp)
    check_discount(discount)
    if np.shape(values) != np.shape(mdp.start):
        raise UserError(f"values has shape {np.shape(values)}; it must be {np.shape(mdp.start)}, one for each state")
    dtype = answer_dtype(mdp)

    def found(mdp, values, gamma):
        table = _table(mdp, gamma if exact is None else exact, dtype)
        return cast_floats(_prove(table, to_float64(values), dtype).bounds, dtype)

    arguments = mdp._replace(step_limit=None), values, discount
    exact = discount if type(discount) in (int, float) else None  # a Python number is exact, and constant
    return in_float64(found, *arguments)


_prove = jax.jit(sweeps.prove, static_argnums=2)


def _table(mdp, discount, dtype):
    exact = type(discount) in (int, float)  # a Python number is float64 already; an array was rounded to its dtype
    relative, absolute = dtype_rounding(jnp.float64 if is_one(discount) else dtype)
    return _to_table(to_float64(mdp), to_float64(discount), relative, absolute, relative * (not exact))


_to_table = jax.jit(sweeps.to_table)


class _Progress(NamedTuple):
    x: Array
    extra: Any
    iterations: Array
    proof: sweeps.Proof


@functools.partial(jax.jit, static_argnames=("method", "stopping", "dtype"))
def _run(table, tolerance, max_iterations, settings, *, method, stopping, dtype):
    prove = functools.partial(sweeps.prove, table, dtype=dtype)

    def enough(bounds, output_rounding):
        return (getattr(bounds, stopping) + (output_rounding if stopping == "error" else 0)) <= tolerance

    def at_rounding_floor(low, high, sweep_rounding):
        return table.max_discount * jnp.maximum(high, -low) <= sweep_rounding / 4

    def step_until_provable(progress):
        """Steps until the bounds look small enough, by the rounding errors of the last proof; then proves them."""
        sweep_rounding, output_rounding = progress.proof.sweep_rounding, progress.proof.output_rounding

        def unfinished(carry):
            _, _, low, high, iterations, made = carry
            bounds = sweeps.bounds(table, low, high, sweep_rounding, output_rounding)
            done = enough(bounds, output_rounding) | at_rounding_floor(low, high, sweep_rounding)
            return ~done & (iterations < max_iterations - 1) & (made < method.proof_interval)

        def go_on(carry):
            x, extra, _, _, iterations, made = carry
            return *method.step(table, settings, x, extra), iterations + 1, made + 1

        first = progress.x, progress.extra, -unknown, unknown, progress.iterations, jnp.int32(0)
        x, extra, _, _, iterations, _ = jax.lax.while_loop(unfinished, go_on, first)
        x = method.finalise(x, extra)
        proof = prove(x)
        x, extra = method.resume(x, extra, proof)
        return _Progress(x, extra, iterations + 1, proof)

    def unproven(progress):
        proof = progress.proof
        floor = at_rounding_floor(-proof.residual, proof.residual, proof.sweep_rounding)
        return ~(enough(proof.bounds, proof.output_rounding) | floor | (progress.iterations >= max_iterations))

    unknown, zero = jnp.float64(jnp.inf), jnp.float64(0)
    bounds = sweeps.Bounds(-unknown, unknown, unknown, unknown, unknown)
    proof = sweeps.Proof(
        jnp.zeros_like(table.reward_mean), jnp.zeros_like(table.reward_mean[0]), unknown, zero, zero, bounds
    )
    x, extra = method.init(table)
    progress = _Progress(x, extra, jnp.int32(0), proof)
    progress = jax.lax.while_loop(unproven, step_until_provable, progress)
    return progress.proof, progress.iterations


@functools.partial(jax.jit, static_argnames=("stopping", "dtype"))
def _solution(table, proof, iterations, tolerance, *, stopping, dtype) -> Solution:
    bounds, q, error = proof.bounds, proof.q.T, proof.bounds.error
    if stopping == "span_loss":
        proven = jnp.isfinite(error)
        q = q + jnp.where(proven, (bounds.below + bounds.above) / 2, 0)
        moved = 2 * jnp.finfo(jnp.float64).eps * jnp.max(jnp.abs(q))
        error = jnp.where(proven, (bounds.above - bounds.below) / 2 + moved, error)
    output_rounding = rounding_error(q, dtype)
    extra = 2 * jnp.maximum(output_rounding - proof.output_rounding, 0) / (1 - table.max_discount)
    bounds = bounds._replace(
        error=error + output_rounding, loss=bounds.loss + extra, span_loss=bounds.span_loss + extra
    )
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


def start_at_zero(table: sweeps.Table) -> tuple[Array, Any]:
    return jnp.zeros(table.reward_mean.shape[1:], jnp.float64), ()


def start_below(table: sweeps.Table) -> tuple[Array, Any]:
    """A constant v with v <= T v: from it values only rise."""
    lowest = jnp.minimum(jnp.min(table.reward_mean), 0)
    return jnp.full(table.reward_mean.shape[1:], lowest / (1 - jnp.minimum(table.max_discount, 0.999999))), ()


def unchanged(x: Array, extra: Any) -> Array:
    return x


def resume_from_proof(x: Array, extra: Any, proof: sweeps.Proof) -> tuple[Array, Any]:
    return (proof.values if x.ndim == 1 else proof.q), extra


def _sweep_values(table, settings, values, extra):
    new = sweeps.backup_best(table, values)
    return new, extra, *sweeps.min_max(new - values)


def _sweep_q(table, settings, q, extra):
    new = sweeps.backup(table, jnp.max(q, axis=0))
    return new, extra, *sweeps.min_max(new - q)


VALUE_ITERATION = Method(start_at_zero, _sweep_values, unchanged, resume_from_proof, 1000)
Q_ITERATION = Method(
    lambda table: (jnp.zeros_like(table.reward_mean), ()), _sweep_q, unchanged, resume_from_proof, 1000
)
