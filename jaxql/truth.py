"""Ground truth for any learner: how far its action values are from the optimum, and what acting on them costs.

On a known `MDP` both have exact answers, whatever learned the values: a table, or a network asked about every state.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxql import planning
from jaxql.errors import UserError
from jaxql.planning import Solution
from jaxql.planning.arguments import is_one, known
from jaxql.types import MDP, Array


class Truth(NamedTuple):
    """Action values against the optimum."""

    error: Array  # max |q - Q*|
    error_state: Array  # int32, the state and action in which it is
    error_action: Array  # int32
    regret: Array  # V* - V_greedy, averaged over the start distribution: the return that acting on q gives away
    worst_regret: Array  # the same in the worst state
    worst_state: Array  # int32
    action_gap: Array  # [S] of q: best value minus the second best
    optimal_gap: Array  # [S] of Q*: an error below half of it leaves the greedy action optimal


def compare(mdp: MDP, q, discount, optimum: Solution | None = None) -> Truth:
    """What is wrong with action values q [S, A] on `mdp`: their error, and the regret of acting greedily on them.

    The values of the greedy policies of q (lowest index on ties) and of the optimum are exact (`policy_evaluation`),
    so that a regret is a difference of two linear solves, at least 0 up to their rounding. It is at most
    2 error / (1 - discount), and 0 where the error is below half of every gap. At discount 1 a greedy policy that never
    gets to the end is worth NaN, and so is its regret.

    Args:
      q: [S, A] action values.
      discount: in [0, 1].
      optimum: from `planning.value_iteration` or `q_iteration` at the same discount; None solves the model here. Give
        it when comparing often; with it the function can be compiled and mapped over q.

    Returns: `Truth`.
    Raises: UserError for a q of another shape, or a model that makes no sense.

    Source: Agarwal, Jiang, Kakade & Sun (2022), lemma 1.11, https://rltheorybook.github.io; for state values: Singh &
    Yee (1994), https://doi.org/10.1007/BF00993308; gaps: as `action_gap`

    >>> import numpy as np
    >>> shape = (1, 2, 1)  # one state that never ends, and pays 1 or 2
    >>> mdp = MDP(np.zeros(shape, int), np.ones(shape), np.array([[[1.0], [2.0]]]), np.zeros(shape, bool), np.ones(1))
    >>> truth = compare(mdp, np.array([[4.0, 2.5]]), discount=0.5)
    >>> [round(float(x), 3) for x in (truth.error, truth.regret, truth.action_gap[0], truth.optimal_gap[0])]
    [1.5, 2.0, 1.5, 1.0]
    """
    q, shape = jnp.asarray(q), jnp.shape(mdp.probability)[:2]
    if q.shape != shape:
        raise UserError(f"q has shape {q.shape}; this model needs {shape}, a value for each state and action")
    if optimum is None:
        undiscounted = is_one(discount)  # where the tolerance is only where to start asking for a proof
        optimum = planning.q_iteration(mdp, discount, 1.0 if undiscounted else 1e-6)
        if undiscounted and known(optimum.converged) and not optimum.converged:
            raise UserError("no optimum could be proven at discount 1; give a discount below 1")
    off = jnp.abs(q - optimum.q_values)
    worst = jnp.argmax(off).astype(jnp.int32)
    regret = regrets(mdp, planning.greedy_policy(q), discount, optimum)
    start = jnp.asarray(mdp.start, regret.dtype)
    return Truth(
        error=jnp.max(off),
        error_state=worst // shape[1],
        error_action=worst % shape[1],
        regret=jnp.sum(start * jnp.where(start > 0, regret, 0)) / jnp.sum(start),
        worst_regret=jnp.max(regret),
        worst_state=jnp.argmax(regret).astype(jnp.int32),
        action_gap=action_gap(q),
        optimal_gap=action_gap(optimum.q_values),
    )


def regrets(mdp: MDP, policy, discount, optimum: Solution) -> Array:
    """What a policy gives away in each state, [S]: V* - V_policy, both exact.

    Args: `policy` [S] of action indices or [S, A] of probabilities; the rest as in `compare`.
    Raises: UserError for a model, policy or discount that makes no sense.

    Source: Agarwal, Jiang, Kakade & Sun (2022), lemma 1.11, https://rltheorybook.github.io; for state values: Singh &
    Yee (1994), https://doi.org/10.1007/BF00993308

    >>> import numpy as np
    >>> shape = (1, 2, 1)
    >>> mdp = MDP(np.zeros(shape, int), np.ones(shape), np.array([[[1.0], [2.0]]]), np.zeros(shape, bool), np.ones(1))
    >>> print(regrets(mdp, np.array([[0.5, 0.5]]), 0.5, planning.q_iteration(mdp, 0.5)))
    [1.]
    """
    best = planning.policy_evaluation(mdp, optimum.policy, discount)
    return best - planning.policy_evaluation(mdp, policy, discount)


def action_gap(q) -> Array:
    """How much better the best action is than the second best, [..., A] -> [...]; inf where there is no second.

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


def of_network(apply, params, num_states: int, obs=None) -> Array:
    """The table [S, A] of a network: its action values in every state.

    Args:
      apply: (params, obs) -> q [S, A], or (q, memory) as `Network.apply` gives; bind other arguments beforehand.
      params: its parameters.
      num_states: S.
      obs: [S, ...] the observation of each state, a pytree; None is the index of the state.

    Raises: UserError unless it gives one row of action values for each state.

    Source: Sutton & Barto (2018), the v-hat of equation 9.1, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(of_network(lambda params, obs: (params[obs], ()), jnp.array([[1.0, 2.0], [3.0, 4.0]]), 2))
    [[1. 2.]
     [3. 4.]]
    """
    output = apply(params, jnp.arange(num_states, dtype=jnp.int32) if obs is None else obs)
    q = output[0] if isinstance(output, tuple) else output
    if jnp.ndim(q) != 2 or len(q) != num_states:
        raise UserError(f"the network gave values of shape {jnp.shape(q)}; they must be [{num_states}, actions]")
    return q
