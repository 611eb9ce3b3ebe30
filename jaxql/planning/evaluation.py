"""The values of a policy: by a linear solve, or by sweeps where [S, S] would not fit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.planning import sweeps
from jaxql.planning.arguments import check_discount, check_policy, check_tolerance, is_one, whole_number
from jaxql.planning.model import check_initial_values, check_mdp
from jaxql.planning.numbers import (
    answer_dtype,
    cast_floats,
    in_float64,
    normalise,
    pairwise_sum,
    policy_probabilities,
    policy_to_float64,
    to_float64,
)
from jaxql.planning.operators import policy_average
from jaxql.types import MDP, Array, Scalar


def policy_evaluation(
    mdp: MDP,
    policy: ArrayLike,
    discount: Scalar,
    *,
    method: str = "solve",
    tolerance: Scalar | None = None,
    max_iterations: int = 1_000_000,
    initial_values: ArrayLike | None = None,
) -> Array:
    """Values [S] of a policy: the exact solution of v = T_pi v, by a linear solve of [S, S] in float64.

    At discount 1 the value is the expected total reward. It is 0 where nothing more is earned. It is NaN where, with
    positive probability, the policy never ends and its rewards do not stop.

    `method="sweeps"` repeats v <- T_pi v, in the memory of the model, until b rho / (1 - b) <= tolerance. Here
    rho is the largest change, and b < 1 the largest sum of the weights of a state's successors. Then
    max|v - v^pi| <= tolerance, up to float64 round-off and the rounding of the answer. The values are NaN if
    `max_iterations` did not suffice or b is 1.

    Args:
      mdp: the model.
      policy: [S] of action indices or [S, A] of probabilities.
      discount: in [0, 1].
      method: "solve" or "sweeps".
      tolerance: of the sweeps only; None is 1e-6 max(1, max|v|).
      max_iterations: of the sweeps only.
      initial_values: [S], the v of the first sweep; None is 0.

    Raises: UserError for an invalid model, policy, discount or method, and for sweeps at discount 1.

    Source: Sutton & Barto (2018), equation 4.4, solved as linear equations,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> policy_evaluation(loop, np.array([0]), 0.75).tolist()
    [4.0]
    >>> round(float(policy_evaluation(loop, np.array([0]), 0.75, method="sweeps")[0]), 5)
    4.0
    """
    mdp = check_mdp(mdp)
    check_discount(discount)
    policy = check_policy(mdp, policy)
    if method not in ("solve", "sweeps"):
        raise UserError(f'method is {method!r}; it must be "solve" or "sweeps"')
    check_tolerance(tolerance)
    max_iterations = whole_number("max_iterations", max_iterations, 1)
    initial_values = check_initial_values(mdp, initial_values)
    dtype, relative = answer_dtype(mdp), tolerance is None

    solved = functools.partial(_solved, dtype=dtype)

    def swept(mdp, policy, discount, tolerance, max_iterations, initial):
        arguments = to_float64(mdp), policy_to_float64(policy), to_float64(discount), to_float64(tolerance)
        initial = None if initial is None else to_float64(initial)
        return cast_floats(_evaluate_by_sweeps(*arguments, max_iterations, initial, relative=relative), dtype)

    arguments = mdp._replace(step_limit=None), policy, discount
    if method == "solve":
        return in_float64(solved, *arguments)
    if is_one(discount):
        raise UserError('sweeps prove nothing at discount 1; use method="solve"')
    slope = lambda values, mdp, policy, discount, *_: solved(mdp, policy, discount)  # noqa: E731
    tolerance = 1e-6 if tolerance is None else tolerance
    return in_float64(swept, *arguments, tolerance, max_iterations, initial_values, slope=slope)


@functools.partial(jax.jit, static_argnames="relative")
def _evaluate_by_sweeps(mdp, policy, discount, tolerance, max_iterations, initial, *, relative):
    rows = policy_table(sweeps.to_table(mdp, discount), policy)
    modulus = jnp.max(jnp.sum(rows.weight, axis=0))

    def enough(values, bound):
        return bound <= tolerance * (jnp.maximum(1, jnp.max(jnp.abs(values))) if relative else 1)

    def unfinished(carry):
        values, bound, iterations = carry
        return ~enough(values, bound) & (iterations < max_iterations)

    def go_on(carry):
        values, _, iterations = carry
        new = rows.reward_mean + sweeps.expected_next_value(rows, values)
        return new, modulus * jnp.max(jnp.abs(new - values)) / (1 - modulus), iterations + 1

    initial = jnp.zeros_like(rows.reward_mean) if initial is None else initial
    first = initial, jnp.float64(jnp.inf), jnp.int32(0)
    values, bound, _ = jax.lax.while_loop(unfinished, go_on, first)
    return jnp.where(enough(values, bound) & (modulus < 1), values, jnp.nan)


def policy_table(table: sweeps.Table, policy: Array) -> sweeps.PolicyTable:
    """The transitions of a policy [S] or [S, A]; a mixed policy has A K successors."""
    if policy.ndim == 1:
        return sweeps.select_policy(table, policy.astype(jnp.int32))
    states = table.reward_mean.shape[1]
    return sweeps.PolicyTable(
        next_state=table.next_state.reshape(-1, states),
        weight=(table.weight * policy.T[:, None]).reshape(-1, states),
        reward_mean=jnp.sum(jnp.where(policy.T == 0, 0, policy.T * table.reward_mean), axis=0),
    )


def policy_values(mdp: MDP, policy: Array, discount: Scalar) -> Array:
    """Values [S] of a policy in a float64 model whose probabilities sum to 1."""
    states = jnp.arange(mdp.probability.shape[0], dtype=jnp.int32)
    goes_on = jnp.where(mdp.ends, 0, mdp.probability)
    weight = goes_on * policy_probabilities(policy, goes_on.shape[1])[..., None]
    matrix = jnp.zeros((len(states), len(states))).at[states[:, None, None], mdp.next_state].add(weight)
    reward = policy_average(policy, pairwise_sum(mdp.probability * mdp.reward))

    def may_reach(goal):
        def back_one_step(_, reached):
            return reached | jnp.any((matrix > 0) & reached[None, :], axis=1)

        return jax.lax.fori_loop(np.int32(0), np.int32(len(states)), back_one_step, goal)

    earns = policy_average(policy, pairwise_sum(mdp.probability * (mdp.reward != 0))) > 0
    earned_out = ~may_reach(earns)
    may_end = policy_average(policy, pairwise_sum(jnp.where(mdp.ends, mdp.probability, 0))) > 0
    never_ends = ~may_reach(may_end | earned_out)
    known = (jnp.asarray(discount) == 1) & (earned_out | never_ends)  # their rows of I - P would be singular
    system = jnp.eye(len(states)) - jnp.where(known[:, None], 0, discount * matrix)
    values = jnp.linalg.solve(system, jnp.where(known, 0, reward))
    return jnp.where((jnp.asarray(discount) == 1) & may_reach(never_ends), jnp.nan, values)


@functools.partial(jax.jit, static_argnames="dtype")
def _solved(mdp, policy, discount, *, dtype):
    mdp = normalise(to_float64(mdp))
    return cast_floats(policy_values(mdp, policy_to_float64(policy), to_float64(discount)), dtype)
