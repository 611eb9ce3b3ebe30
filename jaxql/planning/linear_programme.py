"""Optimal values and visits by the linear programme of an `MDP`."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.planning.arguments import as_array, check_discount, is_concrete
from jaxql.planning.model import check_mdp
from jaxql.planning.numbers import answer_dtype
from jaxql.planning.policy_solvers import check_discounted
from jaxql.planning.solvers import value_iteration
from jaxql.types import MDP, Array


class LinearProgrammeSolution(NamedTuple):
    """The solutions of the primal and of the dual programme."""

    values: Array  # [S] the primal solution, after one sweep of value iteration
    q_values: Array  # [S, A] its backup; -inf for illegal actions
    policy: Array  # [S] int32 greedy in q_values, lowest index on ties
    occupancy: Array  # [S, A] the dual solution: discounted visits of an optimal policy from the states' weights
    error_bound: Array  # proven bound on max|q_values - Q*| and max|values - V*|


def linear_programming(mdp: MDP, discount: float = 0.9, *, weights: ArrayLike | None = None) -> LinearProgrammeSolution:
    """Optimal values by min sum_s w(s) v(s), subject to v(s) >= sum_k p (r + discount v(next_state)) for every action.

    The dual is max sum_s,a x(s, a) r(s, a), subject to sum_a x(s, a) = w(s) + discount sum_s',a' p(s|s', a') x(s', a')
    and x >= 0. HiGHS solves both on the host, on sparse matrices of S A rows. The model must not be traced.

    Args:
      mdp: the model.
      discount: in [0, 1).
      weights: [S], above 0, w of the programmes; None is 1 / S.

    Returns: `LinearProgrammeSolution` in the dtype of the rewards.
    Raises: UserError for an invalid model, discount or weights.

    Source: Puterman (1994), section 6.9, https://doi.org/10.1002/9780470316887

    >>> loop = MDP([[[0], [0]]], [[[1.0], [1.0]]], [[[1.0], [2.0]]], [[[False], [False]]], [1.0])
    >>> found = linear_programming(loop, 0.75)
    >>> found.values.tolist(), found.occupancy.tolist()
    ([8.0], [[0.0, 4.0]])
    """
    from scipy import sparse
    from scipy.optimize import linprog

    check_discount(discount)
    mdp = check_mdp(mdp)
    if not is_concrete((mdp, discount, weights)):
        raise UserError("linear_programming runs on the host and cannot be traced; use value_iteration under jit")
    check_discounted(discount)
    states, actions, _ = mdp.probability.shape
    weight = np.full(states, 1 / states) if weights is None else np.asarray(as_array("weights", weights), np.float64)
    if weight.shape != (states,) or not (np.isfinite(weight) & (weight > 0)).all():
        raise UserError(f"weights must be [{states}], finite numbers above 0, one for each state")

    next_state, probability, reward, ends = (np.asarray(x) for x in mdp[:4])
    probability = probability.astype(np.float64)
    probability = probability / probability.sum(-1, keepdims=True)
    legal = np.ones((states, actions), bool) if mdp.legal is None else np.asarray(mdp.legal)
    state, action = np.nonzero(legal)
    chosen = np.where(ends, 0, float(discount) * probability)[legal]  # [L, K]
    row = np.broadcast_to(np.arange(len(state))[:, None], chosen.shape)
    moves = sparse.csr_array((chosen.ravel(), (row.ravel(), next_state[legal].ravel())), (len(state), states))
    here = sparse.csr_array((np.ones(len(state)), (np.arange(len(state)), state)), moves.shape)
    earned = (probability * reward).sum(-1)[legal]
    answer = linprog(weight, A_ub=moves - here, b_ub=-earned, bounds=(None, None), method="highs")
    if answer.status != 0:
        raise UserError(f"HiGHS found no solution: {' '.join(answer.message.split())}; use policy_iteration")
    occupancy = np.zeros((states, actions))
    occupancy[state, action] = np.maximum(-answer.ineqlin.marginals, 0)
    solution = value_iteration(mdp, discount, max_iterations=1, initial_values=answer.x)
    return LinearProgrammeSolution(
        solution.values,
        solution.q_values,
        solution.policy,
        jnp.asarray(occupancy, answer_dtype(mdp)),
        solution.error_bound,
    )
