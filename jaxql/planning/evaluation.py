"""What a policy is worth for ever: by a linear solve, or by sweeps where [S, S] would not fit."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.planning import sweeps
from jaxql.planning.arguments import check_discount, check_policy, check_stopping, is_one
from jaxql.planning.model import check
from jaxql.planning.numbers import (
    double,
    double_policy,
    dtype_of,
    in_float64,
    normalised,
    probabilities,
    round_to,
    tree_sum,
)
from jaxql.planning.operators import average
from jaxql.types import MDP, Array


def policy_evaluation(
    mdp: MDP, policy: Array, discount, *, method: str = "solve", tolerance=1e-6, max_iterations: int = 1_000_000
) -> Array:
    """Values [S] of a policy: the exact solution of v = T_pi v, by a linear solve of [S, S] in float64.

    At discount 1 the value is the expected total reward: 0 where nothing is earned ever after, NaN where with positive
    probability the policy goes round for ever and its rewards do not stop.

    `method="sweeps"` repeats v <- T_pi v from 0, in the memory of the model, until b rho / (1 - b) <= tolerance, with
    rho the largest change and b < 1 the largest weight of a state's successors: then max|v - v^pi| <= tolerance, up to
    float64 round-off and the rounding of the answer. The values are NaN if max_iterations did not suffice or b is 1.

    Args: `policy` [S] of action indices or [S, A] of probabilities; `discount` in [0, 1]; `tolerance` and
      `max_iterations` are for sweeps.
    Raises: UserError for a model, policy, discount or method that makes no sense, and for sweeps at discount 1.

    Source: Sutton & Barto (2018), equation 4.4, solved as linear equations,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> policy_evaluation(loop, np.array([0]), 0.75).tolist()
    [4.0]
    >>> round(float(policy_evaluation(loop, np.array([0]), 0.75, method="sweeps")[0]), 5)
    4.0
    """
    check(mdp)
    check_discount(discount)
    check_policy(mdp, policy)
    if method not in ("solve", "sweeps"):
        raise UserError(f'method is {method!r}; it must be "solve" or "sweeps"')
    dtype = dtype_of(mdp)

    def solved(mdp, policy, discount):
        return round_to(_evaluate(normalised(double(mdp)), double_policy(policy), double(discount)), dtype)

    def swept(mdp, policy, discount, tolerance, max_iterations):
        settings = double(tolerance), max_iterations
        return round_to(_evaluate_by_sweeps(double(mdp), double_policy(policy), double(discount), *settings), dtype)

    arguments = mdp._replace(step_limit=None), policy, discount
    if method == "solve":
        return in_float64(solved, *arguments)
    check_stopping(tolerance, max_iterations)
    if is_one(discount):
        raise UserError('sweeps prove nothing at discount 1; use method="solve"')
    slope = lambda values, mdp, policy, discount, *_: solved(mdp, policy, discount)  # noqa: E731
    return in_float64(swept, *arguments, tolerance, max_iterations, slope=slope)


@jax.jit
def _evaluate_by_sweeps(mdp, policy, discount, tolerance, max_iterations):
    rows = policy_rows(sweeps.lay_out(mdp, discount), policy)
    modulus = jnp.max(jnp.sum(rows.weight, axis=0))

    def unfinished(carry):
        _, bound, iterations = carry
        return (bound > tolerance) & (iterations < max_iterations)

    def go_on(carry):
        values, _, iterations = carry
        new = rows.gain + sweeps.step(rows, values)
        return new, modulus * jnp.max(jnp.abs(new - values)) / (1 - modulus), iterations + 1

    first = jnp.zeros_like(rows.gain), jnp.float64(jnp.inf), jnp.int32(0)
    values, bound, _ = jax.lax.while_loop(unfinished, go_on, first)
    return jnp.where((bound <= tolerance) & (modulus < 1), values, jnp.nan)


def policy_rows(table, policy) -> sweeps.Rows:
    """The rows of a policy, [S] or [S, A]; one that mixes has A K successors."""
    if policy.ndim == 1:
        return sweeps.rows_of(table, policy.astype(jnp.int32))
    states = table.gain.shape[1]
    return sweeps.Rows(
        next_state=table.next_state.reshape(-1, states),
        weight=(table.weight * policy.T[:, None]).reshape(-1, states),
        gain=jnp.sum(jnp.where(policy.T == 0, 0, policy.T * table.gain), axis=0),
    )


def policy_values(mdp, policy, discount):
    states = jnp.arange(mdp.probability.shape[0], dtype=jnp.int32)
    goes_on = jnp.where(mdp.ends, 0, mdp.probability)
    weight = goes_on * probabilities(policy, goes_on.shape[1])[..., None]
    matrix = jnp.zeros((len(states), len(states))).at[states[:, None, None], mdp.next_state].add(weight)
    reward = average(policy, tree_sum(mdp.probability * mdp.reward))

    def may_reach(goal):
        def back_one_step(_, reached):
            return reached | jnp.any((matrix > 0) & reached[None, :], axis=1)

        return jax.lax.fori_loop(np.int32(0), np.int32(len(states)), back_one_step, goal)

    stirs = average(policy, tree_sum(mdp.probability * (mdp.reward != 0))) > 0
    quiet = ~may_reach(stirs)
    ending = average(policy, tree_sum(jnp.where(mdp.ends, mdp.probability, 0))) > 0
    autoreset = ~may_reach(ending | quiet)
    settled = (discount == 1) & (quiet | autoreset)  # their rows of I - P would be singular
    system = jnp.eye(len(states)) - jnp.where(settled[:, None], 0, discount * matrix)
    values = jnp.linalg.solve(system, jnp.where(settled, 0, reward))
    return jnp.where((discount == 1) & (may_reach(autoreset)), jnp.nan, values)


_evaluate = jax.jit(policy_values)
