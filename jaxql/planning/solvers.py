"""Optimal values by synchronous sweeps, and the bounds of any values."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.planning import sweeps, undiscounted
from jaxql.planning.arguments import as_array, check_discount, check_tolerance, is_concrete, is_one, whole_number
from jaxql.planning.methods import (
    Method,
    Solution,
    differentiable,
    resume_from_proof,
    solve,
    start_at_zero,
    table_of,
    unchanged,
)
from jaxql.planning.model import check_initial_values, check_mdp
from jaxql.planning.numbers import answer_dtype, cast_floats, in_float64, to_float64, where_legal
from jaxql.types import MDP, Array, Scalar


def value_iteration(
    mdp: MDP,
    discount: Scalar = 0.9,
    tolerance: Scalar | None = None,
    max_iterations: int = 1_000_000,
    *,
    stopping: str = "error",
    initial_values: ArrayLike | None = None,
) -> Solution:
    """Optimal values by V <- T V, repeated until max|V - V*| <= tolerance is proven, or cannot be.

    Below discount 1, `converged` promises |values - V*| <= tolerance and |q_values - Q*| <= tolerance everywhere. V*
    belongs to the model as it was before its numbers were rounded to their dtype. A whole reward is taken as exact if
    the dtype holds all whole numbers up to it.

    Proof. Let b be discount times the largest probability of going on, and rho = max|V_n - V_(n-1)|. Let d bound the
    rounding of one sweep: that of the data and of float64 arithmetic (see `sweeps.sweep_rounding`). T contracts by b
    and |V_n - T V_(n-1)| <= d. So e = |V_n - V*| <= d + b |V_(n-1) - V*| <= d + b (rho + e), and
    e <= (b rho + d) / (1 - b). The rounding of the result is added. Once b rho <= d / 4 more sweeps cannot help. If
    the bound (`error_bound`) is then still above `tolerance`, the dtype cannot reach it, and `converged` is False.

    `tolerance=None` asks for 1e-6 max(1, max|V|), or else for what the dtype can reach, if that is at most 1e-3 of the
    same scale. In float32 the rounding of the model's numbers alone moves V* by about 1e-7 max|r| / (1 - b), so a fixed
    tolerance may be out of reach. `error_bound` says what was reached.

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
      mdp: the model. Its illegal actions (see `check_mdp`) have the action value -inf.
      discount: in [0, 1]; it may be traced or mapped.
      tolerance: above 0, in the unit of the reward; it may be traced or mapped. None: see above.
      max_iterations: at least 1.
      stopping: "error", "loss" or "span_loss".
      initial_values: [S], the V of the first sweep; None is 0. The optimum does not depend on it, except that at
        discount 1 values above V* may not come down.

    Returns: `Solution` in the dtype of the rewards.
    Raises: UserError for an invalid model or setting. At discount 1 also for a model whose total reward is not finite:
      with a state from which no actions lead to an end, nor to states where nothing more is earned; or with states
      that can be visited for ever at a positive reward a step.
    Warns: RuntimeWarning if nothing was proven at discount 1.

    Source: Sutton & Barto (2018), equation 4.10, http://incompleteideas.net/book/the-book-2nd.html; its bounds:
    Puterman (1994), section 6.6, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(value_iteration(loop, 0.5).values[0]), 5)
    2.0
    """
    arguments = mdp, discount, tolerance, max_iterations, stopping, initial_values
    return _warn_if_unproven("value_iteration", solve_any_discount(VALUE_ITERATION, *arguments), discount)


def q_iteration(
    mdp: MDP,
    discount: Scalar = 0.9,
    tolerance: Scalar | None = None,
    max_iterations: int = 1_000_000,
    *,
    stopping: str = "error",
    initial_values: ArrayLike | None = None,
) -> Solution:
    """Optimal action values by Q <- sum p (r + discount max Q), repeated as in `value_iteration`.

    Arguments, promises and errors are those of `value_iteration`. `initial_values` may also be the Q [S, A] of the
    first sweep. The residual is the largest change of any q, so it may take more sweeps.

    Source: Sutton & Barto (2018), equation 3.20, as an update, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(q_iteration(loop, 0.5).q_values[0, 0]), 5)
    2.0
    """
    arguments = mdp, discount, tolerance, max_iterations, stopping, initial_values
    return _warn_if_unproven("q_iteration", solve_any_discount(Q_ITERATION, *arguments), discount)


def _warn_if_unproven(name: str, solution: Solution, discount: Scalar) -> Solution:
    if is_one(discount) and is_concrete(solution) and not solution.converged:
        warnings.warn(
            f"{name} proved no optimum at discount 1 in {solution.iterations} sweeps: the values need not be right, "
            "nor finite; relative_value_iteration finds the best reward a step",
            RuntimeWarning,
            stacklevel=3,
        )
    return solution


def solve_any_discount(
    method: Method,
    mdp: MDP,
    discount: Scalar,
    tolerance: Scalar | None = None,
    max_iterations: int = 1_000_000,
    stopping: str = "error",
    initial_values: ArrayLike | None = None,
) -> Solution:
    """Runs `VALUE_ITERATION` or `Q_ITERATION`. Arguments, promises and errors are those of `value_iteration`."""
    check_discount(discount)
    mdp = check_mdp(mdp)
    of_pairs = method is Q_ITERATION
    if not is_one(discount):
        return solve(method, mdp, discount, tolerance, max_iterations, stopping, (), initial_values, of_pairs)
    initial_values = check_initial_values(mdp, initial_values, of_pairs=of_pairs)
    check_tolerance(tolerance)
    max_iterations = whole_number("max_iterations", max_iterations, 1)
    if stopping != "error":
        raise UserError(f'stopping is {stopping!r}; at discount 1 nothing bounds the loss, so it must be "error"')
    undiscounted.check_ends(mdp)
    dtype = answer_dtype(mdp)

    def found(mdp, tolerance, max_iterations, initial):
        table, initial = table_of(mdp, discount, dtype), None if initial is None else to_float64(initial).T
        found = undiscounted.solve(
            to_float64(mdp), table, to_float64(tolerance), max_iterations, initial, dtype=dtype, method=method
        )
        return cast_floats(Solution(**found), dtype)

    def slope(solution, mdp, *_):
        return differentiable(solution, mdp, np.float64(1), dtype)

    if tolerance is None:
        tolerance = jnp.inf

    arguments = mdp._replace(step_limit=None), tolerance, max_iterations, initial_values
    return in_float64(found, *arguments, slope=slope)


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
    mdp = check_mdp(mdp)
    check_discount(discount)
    given = as_array("values", values)
    if given.shape != mdp.start.shape:
        raise UserError(f"values has shape {given.shape}; it must be {mdp.start.shape}, one for each state")
    dtype = answer_dtype(mdp)

    def found(mdp, values, gamma):
        table = table_of(mdp, gamma if exact is None else exact, dtype)
        return cast_floats(_prove(table, to_float64(values), dtype).bounds, dtype)

    arguments = mdp._replace(step_limit=None), given, discount
    exact = discount if type(discount) in (int, float) else None  # a Python number is exact, and constant
    return in_float64(found, *arguments)


_prove = jax.jit(sweeps.prove, static_argnums=2)


def _sweep_values(table, settings, values, extra):
    new = sweeps.backup_best(table, values)
    return new, extra, *sweeps.min_max(new - values)


def _sweep_q(table, settings, q, extra):
    new = sweeps.backup(table, jnp.max(q, axis=0))
    return new, extra, *sweeps.min_max(sweeps.change_of_q(table, new, q))


def start_q(table: sweeps.Table, initial: Array | None) -> tuple[Array, Any]:
    """Action values [A, S]: zeros, or initial ones, which may be values [S]."""
    q = jnp.zeros_like(table.reward_mean) if initial is None else jnp.broadcast_to(initial, table.reward_mean.shape)
    return where_legal(table.legal, q, -jnp.inf), ()


VALUE_ITERATION = Method(start_at_zero, _sweep_values, unchanged, resume_from_proof, 1000)


Q_ITERATION = Method(start_q, _sweep_q, unchanged, resume_from_proof, 1000)
