"""The loop that all solvers below discount 1 share.

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
from jaxql.planning import sweeps
from jaxql.planning.arguments import (
    check_discount,
    check_tolerance,
    is_one,
    whole_number,
)
from jaxql.planning.evaluation import policy_values
from jaxql.planning.model import check_initial_values, check_mdp
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
    where_legal,
)
from jaxql.planning.operators import backup
from jaxql.types import MDP, Array, Scalar

STOPPING = ("error", "loss", "span_loss")
TOLERANCE = 1e-6  # where none is given, times max(1, max|V|)
WEAKEST = 1e-3  # a bound at the floor of the dtype, above so much of max(1, max|V|), is not called converged


class Solution(NamedTuple):
    """An optimum with its bounds: `values == max(q_values)` and, below discount 1, `policy == argmax(q_values)`."""

    values: Array  # [S]
    q_values: Array  # [S, A]
    policy: Array  # [S] int32 greedy, lowest index on ties; at discount 1 a greedy policy that also reaches an end
    iterations: Array  # number of sweeps; of solvers that evaluate policies, number of policies
    residual: Array  # largest change of the last sweep
    converged: Array  # bool: the bound named by `stopping` is as small as was asked; see `value_iteration`
    error_bound: Array  # proven bound on max|q_values - Q*| and max|values - V*|; inf where nothing is proven
    loss_bound: ArrayLike = np.inf  # proven bound on max(V* - V^policy), from the maximum norm of the residual
    span_loss_bound: ArrayLike = np.inf  # proven bound on max(V* - V^policy), from its span; never above loss_bound


class Method(NamedTuple):
    """The functions of a solver; x is values [S] or action values [A, S], `extra` is any other state."""

    init: Callable[..., tuple[Array, Any]]  # (table, initial values [S], or q [A, S], or None) -> (x, extra)
    step: Callable[..., tuple[Array, Any, Array, Array]]  # (table, settings, x, extra) -> (x, extra, bounds on T v - v)
    finalise: Callable[[Array, Any], Array]  # (x, extra) -> the x to prove; its T v - v lies within those of `step`
    resume: Callable[[Array, Any, sweeps.Proof], tuple[Array, Any]]  # (x, extra, proof too weak) -> (x, extra)
    proof_interval: int  # most steps between proofs; a proof measures the rounding error


def solve(
    method: Method,
    mdp: MDP,
    discount: Scalar,
    tolerance: Scalar | None,
    max_iterations: int | Array,
    stopping: str = "error",
    settings: Any = (),
    initial_values: ArrayLike | None = None,
    of_pairs: bool = False,
) -> Solution:
    """Runs a method until its proof. Promises, arguments and errors are those of `value_iteration` below discount 1."""
    mdp = check_mdp(mdp)
    check_discount(discount)
    check_tolerance(tolerance)
    max_iterations = whole_number("max_iterations", max_iterations, 1)
    if stopping not in STOPPING:
        raise UserError(f"stopping is {stopping!r}; it must be one of {', '.join(STOPPING)}")
    initial_values = check_initial_values(mdp, initial_values, of_pairs=of_pairs)
    dtype = answer_dtype(mdp)
    static: Any = dict(stopping=stopping, relative=tolerance is None, dtype=dtype)

    def found(mdp, gamma, tolerance, max_iterations, settings, initial):
        table, tolerance = table_of(mdp, gamma if exact is None else exact, dtype), to_float64(tolerance)
        initial = None if initial is None else to_float64(initial).T
        proof, iterations = _run(table, tolerance, max_iterations, settings, initial, method=method, **static)
        return cast_floats(_solution(table, proof, iterations, tolerance, **static), dtype)

    def slope(solution, mdp, gamma, *_):
        return differentiable(solution, mdp, gamma, dtype)

    tolerance = TOLERANCE if tolerance is None else tolerance
    arguments = mdp._replace(step_limit=None), discount, tolerance, max_iterations, settings, initial_values
    exact = discount if type(discount) in (int, float) else None  # a Python number is exact, and constant
    return in_float64(found, *arguments, slope=slope)


def differentiable(solution: Solution, mdp: MDP, discount: Scalar, dtype: Any) -> Solution:
    """The solution with its values recomputed as those of its policy, which have the same gradient in the model."""
    mdp = normalise(to_float64(mdp))
    values = policy_values(mdp, solution.policy, discount)
    q = backup(mdp, values, discount)
    return cast_floats(solution._replace(values=values, q_values=q), dtype)


def table_of(mdp: MDP, discount: Scalar, dtype: Any) -> sweeps.Table:
    """The table of a model whose rewards and probabilities were rounded to `dtype`."""
    exact = type(discount) in (int, float)  # a Python number is float64 already; an array was rounded to its dtype
    relative, absolute = dtype_rounding(jnp.float64 if is_one(discount) else dtype)
    return _to_table(to_float64(mdp), to_float64(discount), relative, absolute, relative * (not exact))


_to_table = jax.jit(sweeps.to_table)


class _Progress(NamedTuple):
    x: Array
    extra: Any
    iterations: Array
    proof: sweeps.Proof


@functools.partial(jax.jit, static_argnames=("method", "stopping", "relative", "dtype"))
def _run(table, tolerance, max_iterations, settings, initial, *, method, stopping, relative, dtype):
    prove = functools.partial(sweeps.prove, table, dtype=dtype)

    def enough(bounds, output_rounding, x):
        bound = getattr(bounds, stopping) + (output_rounding if stopping == "error" else 0)
        return bound <= (tolerance * scale_of(table, x) if relative else tolerance)

    def at_rounding_floor(low, high, sweep_rounding):
        return _at_rounding_floor(table, jnp.maximum(high, -low), sweep_rounding)

    def step_until_provable(progress):
        """Steps until the bounds look small enough, by the rounding errors of the last proof; then proves them."""
        sweep_rounding, output_rounding = progress.proof.sweep_rounding, progress.proof.output_rounding

        def unfinished(carry):
            x, _, low, high, iterations, made = carry
            bounds = sweeps.bounds(table, low, high, sweep_rounding, output_rounding)
            done = enough(bounds, output_rounding, x) | at_rounding_floor(low, high, sweep_rounding)
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
        floor = _at_rounding_floor(table, proof.residual, proof.sweep_rounding)
        done = enough(proof.bounds, proof.output_rounding, proof.values) | floor
        return ~(done | (progress.iterations >= max_iterations))

    unknown, zero = jnp.float64(jnp.inf), jnp.float64(0)
    bounds = sweeps.Bounds(-unknown, unknown, unknown, unknown, unknown)
    proof = sweeps.Proof(
        jnp.zeros_like(table.reward_mean), jnp.zeros_like(table.reward_mean[0]), unknown, zero, zero, bounds
    )
    x, extra = method.init(table, initial)
    progress = _Progress(x, extra, jnp.int32(0), proof)
    progress = jax.lax.while_loop(unproven, step_until_provable, progress)
    return progress.proof, progress.iterations


def _at_rounding_floor(table, residual, sweep_rounding):
    """Whether more sweeps cannot improve the bounds."""
    return table.max_discount * residual <= sweep_rounding / 4


def scale_of(table: sweeps.Table, x: Array) -> Array:
    """max(1, max|x|) of values [S] or action values [A, S]."""
    return jnp.maximum(1, jnp.max(jnp.abs(x if x.ndim == 1 else where_legal(table.legal, x, 0))))


@functools.partial(jax.jit, static_argnames=("stopping", "relative", "dtype"))
def _solution(table, proof, iterations, tolerance, *, stopping, relative, dtype) -> Solution:
    bounds, q, error = proof.bounds, proof.q.T, proof.bounds.error
    legal = None if table.legal is None else table.legal.T
    if stopping == "span_loss":
        proven = jnp.isfinite(error)
        q = q + jnp.where(proven, (bounds.below + bounds.above) / 2, 0)
        moved = 2 * jnp.finfo(jnp.float64).eps * jnp.max(jnp.abs(where_legal(legal, q, 0)))
        error = jnp.where(proven, (bounds.above - bounds.below) / 2 + moved, error)
    output_rounding = rounding_error(where_legal(legal, q, 0), dtype)
    extra = 2 * jnp.maximum(output_rounding - proof.output_rounding, 0) / (1 - table.max_discount)
    bounds = bounds._replace(
        error=error + output_rounding, loss=bounds.loss + extra, span_loss=bounds.span_loss + extra
    )
    bound, scale = getattr(bounds, stopping), scale_of(table, proof.values) if relative else 1
    converged = bound <= tolerance * scale
    if relative:
        floor = _at_rounding_floor(table, proof.residual, proof.sweep_rounding)
        converged = converged | (floor & (bound <= WEAKEST * scale))
    return Solution(
        values=jnp.max(q, axis=-1),
        q_values=q,
        policy=lowest_argmax(rounded(q, dtype)),
        iterations=iterations,
        residual=proof.residual,
        converged=converged,
        error_bound=bounds.error,
        loss_bound=bounds.loss,
        span_loss_bound=jnp.minimum(bounds.loss, bounds.span_loss),
    )


def start_at_zero(table: sweeps.Table, initial: Array | None) -> tuple[Array, Any]:
    return jnp.zeros(table.reward_mean.shape[1:], jnp.float64) if initial is None else initial, ()


def start_below(table: sweeps.Table, initial: Array | None) -> tuple[Array, Any]:
    """A constant v with v <= T v, if none is given: from it values only rise."""
    if initial is not None:
        return initial, ()
    lowest = jnp.minimum(jnp.min(where_legal(table.legal, table.reward_mean, 0)), 0)
    return jnp.full(table.reward_mean.shape[1:], lowest / (1 - jnp.minimum(table.max_discount, 0.999999))), ()


def unchanged(x: Array, extra: Any) -> Array:
    return x


def resume_from_proof(x: Array, extra: Any, proof: sweeps.Proof) -> tuple[Array, Any]:
    return (proof.values if x.ndim == 1 else proof.q), extra
