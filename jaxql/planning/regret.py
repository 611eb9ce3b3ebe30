"""The exact error and regret of learned action values on a known `MDP`.

The values may be a table or a network: `tabulate` makes a table of a network.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.planning.arguments import as_array, is_concrete, is_one, whole_number
from jaxql.planning.evaluation import policy_evaluation
from jaxql.planning.model import check_mdp
from jaxql.planning.numbers import where_legal
from jaxql.planning.operators import greedy_policy
from jaxql.planning.solvers import Q_ITERATION, Solution, solve_any_discount
from jaxql.types import MDP, Array, Scalar


class Comparison(NamedTuple):
    """Action values q compared with the optimum."""

    error: Array  # max |q - Q*|
    error_state: Array  # int32, the state of the largest error
    error_action: Array  # int32, the action of the largest error
    regret: Array  # mean over the start distribution of V* - V_greedy: the return lost by acting greedily on q
    worst_regret: Array  # largest V* - V_greedy of any state
    worst_state: Array  # int32, the state of the largest regret
    action_gap: Array  # [S] of q: best value minus the second best
    optimal_gap: Array  # [S] of Q*: an error below half of it leaves the greedy action optimal


def compare_with_optimum(mdp: MDP, q: ArrayLike, discount: Scalar, optimum: Solution | None = None) -> Comparison:
    """The error max |q - Q*| of action values q [S, A], and the regret V* - V_greedy of acting greedily on them.

    Both are over the legal actions only: values that q has for others are ignored.

    The values of the greedy policies of q (lowest index on ties) and of the optimum are exact (`policy_evaluation`).
    So a regret is a difference of two linear solves, at least 0 up to their rounding. It is at most
    2 error / (1 - discount), and 0 if the error is below half of every gap. At discount 1 a greedy policy that never
    ends has the value NaN, and its regret is NaN.

    Args:
      mdp: the model.
      q: [S, A] action values.
      discount: in [0, 1].
      optimum: from `planning.value_iteration` or `q_iteration` at the same discount; None solves the model here. Pass
        it when comparing often. With it the function can be compiled, and mapped over q.

    Returns: `Comparison`.
    Raises: UserError for a q of another shape, or an invalid model.

    Source: Agarwal, Jiang, Kakade & Sun (2022), lemma 1.11, https://rltheorybook.github.io; for state values: Singh &
    Yee (1994), https://doi.org/10.1007/BF00993308; gaps: as `action_gap`

    >>> import numpy as np
    >>> shape = (1, 2, 1)  # one state that never ends, and pays 1 or 2
    >>> mdp = MDP(np.zeros(shape, int), np.ones(shape), np.array([[[1.0], [2.0]]]), np.zeros(shape, bool), np.ones(1))
    >>> found = compare_with_optimum(mdp, np.array([[4.0, 2.5]]), discount=0.5)
    >>> [round(float(x), 3) for x in (found.error, found.regret, found.action_gap[0], found.optimal_gap[0])]
    [1.5, 2.0, 1.5, 1.0]
    """
    mdp, q = check_mdp(mdp), jnp.asarray(as_array("q", q))
    shape = mdp.probability.shape[:2]
    if q.shape != shape:
        raise UserError(f"q has shape {q.shape}; this model needs {shape}, a value for each state and action")
    if optimum is None:
        undiscounted = is_one(discount)  # then the tolerance only says when the first proof is tried
        optimum = solve_any_discount(Q_ITERATION, mdp, discount, 1.0 if undiscounted else None)
        if undiscounted and is_concrete(optimum.converged) and not optimum.converged:
            raise UserError("no optimum could be proven at discount 1; give a discount below 1")
    q = where_legal(mdp.legal, q, -jnp.inf)
    error = where_legal(mdp.legal, jnp.abs(q - optimum.q_values), 0)
    worst = jnp.argmax(error).astype(jnp.int32)
    regret = policy_regret(mdp, greedy_policy(q), discount, optimum)
    start = jnp.asarray(mdp.start, regret.dtype)
    return Comparison(
        error=jnp.max(error),
        error_state=worst // shape[1],
        error_action=worst % shape[1],
        regret=jnp.sum(start * jnp.where(start > 0, regret, 0)) / jnp.sum(start),
        worst_regret=jnp.max(regret),
        worst_state=jnp.argmax(regret).astype(jnp.int32),
        action_gap=action_gap(q),
        optimal_gap=action_gap(optimum.q_values),
    )


def policy_regret(mdp: MDP, policy: ArrayLike, discount: Scalar, optimum: Solution) -> Array:
    """The regret V* - V_policy of a policy in each state, [S]; both values are exact.

    Args:
      mdp: the model.
      policy: [S] of action indices or [S, A] of probabilities.
      discount: in [0, 1].
      optimum: as in `compare_with_optimum`.

    Raises: UserError for an invalid model, policy or discount.

    Source: Agarwal, Jiang, Kakade & Sun (2022), lemma 1.11, https://rltheorybook.github.io; for state values: Singh &
    Yee (1994), https://doi.org/10.1007/BF00993308

    >>> import numpy as np
    >>> from jaxql import planning
    >>> shape = (1, 2, 1)
    >>> mdp = MDP(np.zeros(shape, int), np.ones(shape), np.array([[[1.0], [2.0]]]), np.zeros(shape, bool), np.ones(1))
    >>> print(policy_regret(mdp, np.array([[0.5, 0.5]]), 0.5, planning.q_iteration(mdp, 0.5)))
    [1.]
    """
    best = policy_evaluation(mdp, optimum.policy, discount)
    return best - policy_evaluation(mdp, policy, discount)


def action_gap(q: ArrayLike) -> Array:
    """The value of the best action less that of the second best, [..., A] -> [...]; inf if there is only one action.

    Source: Bellemare et al. (2016), the gap of theorem 1, https://arxiv.org/abs/1512.04860; named by Farahmand (2011),
    https://papers.nips.cc/paper/4485-action-gap-phenomenon-in-reinforcement-learning

    >>> print(action_gap(jnp.array([[1.0, 4.0, 2.0], [3.0, 3.0, 0.0]])))
    [2. 0.]
    """
    q = jnp.asarray(q)
    if q.shape[-1] == 1:
        return jnp.full(q.shape[:-1], jnp.inf)
    ranked = jnp.sort(q, axis=-1)
    return ranked[..., -1] - ranked[..., -2]


def tabulate(apply: Callable[[Any, Any], Any], params: Any, num_states: int, obs: Any = None) -> Array:
    """The table [S, A] of a network: its action values in every state.

    Args:
      apply: (params, obs) -> q [S, A], or -> (q, memory) as `Network.apply`; bind other arguments beforehand.
      params: the parameters of the network.
      num_states: S.
      obs: [S, ...] the observation of each state, a pytree; None is the index of the state.

    Raises: UserError unless the network returns one row of action values for each state.

    Source: Sutton & Barto (2018), the v-hat of equation 9.1, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(tabulate(lambda params, obs: (params[obs], ()), jnp.array([[1.0, 2.0], [3.0, 4.0]]), 2))
    [[1. 2.]
     [3. 4.]]
    """
    num_states = whole_number("num_states", num_states, 1)
    output = apply(params, jnp.arange(num_states, dtype=jnp.int32) if obs is None else obs)
    q = output[0] if isinstance(output, tuple) else output
    if jnp.ndim(q) != 2 or len(q) != num_states:
        raise UserError(f"the network gave values of shape {jnp.shape(q)}; they must be [{num_states}, actions]")
    return q
