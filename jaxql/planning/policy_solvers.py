"""Solvers that evaluate policies: a sweep over one action a state is A times cheaper than one over all actions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.planning import sweeps
from jaxql.planning.arguments import BELOW_1, check_discount, check_number, is_one, whole_number
from jaxql.planning.methods import Method, Solution, resume_from_proof, solve, start_below, unchanged
from jaxql.types import MDP, Array, Scalar

MEMORY = 8  # policy iteration accepts values whose residual beats the worst of this many accepted before


def modified_policy_iteration(
    mdp: MDP,
    discount: Scalar = 0.9,
    tolerance: Scalar | None = None,
    max_iterations: int = 1_000_000,
    *,
    evaluation_sweeps: int = 50,
    stopping: str = "error",
    initial_values: ArrayLike | None = None,
) -> Solution:
    """Optimal values by V <- T_pi^m T V, with pi greedy in V and m = `evaluation_sweeps`; m = 0 is value iteration.

    It starts from a constant V <= T V, from which V rises to V* for every m, or from `initial_values` [S]. Promises,
    arguments and errors are those of `value_iteration` below discount 1. `iterations` counts the sweeps over all
    actions.

    Source: Puterman (1994), the algorithm of section 6.5.1, https://doi.org/10.1002/9780470316887; its sweeps: Sutton &
    Barto (2018), equations 4.5 and 4.10, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(modified_policy_iteration(loop, 0.5).values[0]), 5)
    2.0
    """
    check_discounted(discount)
    settings = jnp.int32(whole_number("evaluation_sweeps", evaluation_sweeps, 0))
    return solve(
        MODIFIED_POLICY_ITERATION, mdp, discount, tolerance, max_iterations, stopping, settings, initial_values
    )


def policy_iteration(
    mdp: MDP,
    discount: Scalar = 0.9,
    tolerance: Scalar | None = None,
    max_iterations: int = 1_000_000,
    *,
    forcing: float = 0.1,
    krylov_steps: int = 200,
    stopping: str = "error",
    initial_values: ArrayLike | None = None,
) -> Solution:
    """Optimal values by V <- V^pi, pi greedy in V, solved by BiCGSTAB to a relative residual of `forcing`.

    A small `forcing` gives Howard's algorithm. (I - discount P_pi) V = r_pi is solved without being formed, in the
    memory of the model, by up to `krylov_steps` steps of two T_pi each. The new V is accepted if max|T V - V| is at
    most b times the worst of the last eight accepted. Otherwise V is the sweep of the last one accepted. So the
    residual falls at worst eight times as slowly as in value iteration, whatever BiCGSTAB does. Usually it falls as
    fast as in Newton's method.

    It starts from a constant V <= T V, or from `initial_values` [S]. Promises, arguments and errors are those of
    `value_iteration` below discount 1. `iterations` counts policies.

    Source: Puterman (1994), the algorithm of section 6.4.1, https://doi.org/10.1002/9780470316887; its steps: Sutton &
    Barto (2018), equations 4.4 and 4.9, http://incompleteideas.net/book/the-book-2nd.html; inexactly: Gargiani et al.
    (2022), https://arxiv.org/abs/2211.04299; BiCGSTAB: van der Vorst (1992), https://doi.org/10.1137/0913035

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(policy_iteration(loop, 0.5).values[0]), 5)
    2.0
    """
    check_discounted(discount)
    check_number("forcing", forcing, 0, BELOW_1, "a number in [0, 1)")
    krylov_steps = whole_number("krylov_steps", krylov_steps, 1)
    with jax.enable_x64(True):
        settings = jax.lax.convert_element_type(forcing, np.float64), jnp.int32(krylov_steps)
    return solve(POLICY_ITERATION, mdp, discount, tolerance, max_iterations, stopping, settings, initial_values)


def check_discounted(discount: Scalar) -> None:
    """Raises UserError at discount 1."""
    check_discount(discount)
    if is_one(discount):
        raise UserError("discount is 1; only value_iteration and q_iteration find a best total reward")


def _improve_by_sweeps(table, evaluation_sweeps, values, extra):
    q = sweeps.backup(table, values)
    best, rows = jnp.max(q, axis=0), sweeps.select_policy(table, sweeps.greedy(q))
    low, high = sweeps.min_max(best - values)

    def evaluate(_, values):
        return rows.reward_mean + sweeps.expected_next_value(rows, values)

    return jax.lax.fori_loop(jnp.int32(0), evaluation_sweeps, evaluate, best), extra, low, high


def _improve_by_krylov(table, settings, values, extra):
    forcing, steps = settings
    safe, history = extra
    q = sweeps.backup(table, values)
    best, rows = jnp.max(q, axis=0), sweeps.select_policy(table, sweeps.greedy(q))
    low, high = sweeps.min_max(best - values)
    residual = jnp.maximum(high, -low)
    good = residual <= table.max_discount * jnp.max(history)  # False where the residual is NaN
    target = jnp.where(good, forcing * residual, jnp.inf)
    new = jnp.where(good, bicgstab(rows, jnp.where(good, best, 0), target, steps), safe)
    history = jnp.where(good, jnp.concatenate([history[1:], residual[None]]), history)
    return new, (jnp.where(good, best, safe), history), low, high


def bicgstab(rows: sweeps.PolicyTable, values: Array, target: Scalar, steps: Scalar) -> Array:
    """Solution v of v - W v = reward_mean, from `values` on.

    It stops once max|residual| <= target, after `steps` steps, or where BiCGSTAB breaks down.
    """

    def apply(x):
        return x - sweeps.expected_next_value(rows, x)

    def unfinished(carry):
        x, r, p, v, rho, alpha, omega, made = carry
        return (jnp.max(jnp.abs(r)) > target) & (made < steps)  # False where the residual is NaN

    def go_on(carry):
        x, r, p, v, rho, alpha, omega, made = carry
        new_rho = jnp.dot(shadow, r)
        turn = (new_rho / rho) * (alpha / omega)
        p = r + turn * (p - omega * v)
        v = apply(p)
        alpha = new_rho / jnp.dot(shadow, v)
        s = r - alpha * v
        t = apply(s)
        size = jnp.dot(t, t)
        omega = jnp.where(size > 0, jnp.dot(t, s) / jnp.where(size > 0, size, 1), 0)
        sound = jnp.isfinite(turn) & jnp.isfinite(alpha)  # False where it breaks down: then x stays
        x, r = jnp.where(sound, x + alpha * p + omega * s, x), jnp.where(sound, s - omega * t, jnp.nan)
        return x, r, p, v, new_rho, alpha, omega, made + 1

    shadow = rows.reward_mean - apply(values)
    one, nothing = jnp.float64(1), jnp.zeros_like(values)
    return jax.lax.while_loop(
        unfinished, go_on, (values, shadow, nothing, nothing, one, one, one, jnp.int32(0))
    )[0]  # fmt: skip


def _begin(table, initial):
    values, _ = start_below(table, initial)
    return values, (values, jnp.full(MEMORY, jnp.inf, jnp.float64))


def _last_sweep(values, extra):
    return extra[0]


MODIFIED_POLICY_ITERATION = Method(start_below, _improve_by_sweeps, unchanged, resume_from_proof, 50)
POLICY_ITERATION = Method(_begin, _improve_by_krylov, _last_sweep, resume_from_proof, 50)
