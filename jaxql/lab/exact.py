"""The exact error of an agent's action values, and the exact worth of its greedy policy, where the env has a model."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql import planning
from jaxql.agents.state import hyper_of
from jaxql.errors import UserError
from jaxql.planning.solvers import Q_ITERATION, solve_any_discount
from jaxql.types import MDP, Agent, Array, EnvSpec

MOST_STATES = 5_000  # of a model that is compared: a policy is evaluated by a linear solve of [S, S]
MEASURES = ("q_error", "exact_return", "regret")  # what `ModelComparison` measures; columns of metrics.csv


class ModelComparison:
    """Compares an agent's action values with the optimum of the env's model. The model is solved at the first need.

    Args:
      agent: whose `q_values` are compared.
      mdp: the model.
      discount: of the agent, and so of the optimum.
      spec: the envs as the agent sees them.
      reward_scale: the agent's; its action values are divided by it.
    """

    def __init__(self, agent: Agent, mdp: MDP, discount: float, spec: EnvSpec, reward_scale: float = 1.0):
        self.mdp, self.discount = planning.check_mdp(mdp), discount
        legal = np.ones(self.mdp.probability.shape[:2], bool) if self.mdp.legal is None else self.mdp.legal
        self.legal = np.asarray(legal)  # [S, A] the actions that the states have
        self.reached = reachable_states(self.mdp, self.legal)  # [S] the states in which an agent can act
        self._obs = _observations(self.legal, spec)
        self._table = jax.jit(lambda params, obs: agent.q_values(params, obs, ())[0] / reward_scale)  # type: ignore[misc]

    @functools.cached_property
    def optimum(self) -> Array | None:
        """The action values Q* [S, A]; None where no optimum can be proven, as for an endless reward at discount 1."""
        try:
            solution = solve_any_discount(Q_ITERATION, self.mdp, self.discount, 1.0 if self.discount == 1 else None)
        except UserError:
            return None
        return solution.q_values if bool(solution.converged) else None

    def table(self, params: Any) -> Array:
        """Returns the agent's action values [S, A] of all states; illegal actions are worth -inf."""
        return jnp.where(self.legal, self._table(params, self._obs), -jnp.inf)

    def policy(self, params: Any) -> Array:
        """Returns the probabilities [S, A] of the greedy policy, which shares ties equally."""
        return planning.greedy_policy(self.table(params), tie="uniform")

    def errors(self, params: Any) -> np.ndarray:
        """Returns |Q - Q*| [S, A]; 0 where an agent cannot act, NaN where Q* is not known."""
        if self.optimum is None:
            return np.full(self.legal.shape, np.nan)
        return np.asarray(jnp.where(self.legal & self.reached[:, None], jnp.abs(self.table(params) - self.optimum), 0))

    def measure(self, params: Any) -> dict[str, float]:
        """Returns the numbers of `MEASURES`; NaN is what is not known, or a greedy policy without a finite value.

        - q_error: max |Q - Q*| over the states that can be reached and their legal actions, at the agent's discount;
        - exact_return: the expected return of an episode of the greedy policy, undiscounted, within the step limit;
        - regret: the mean of V* - V over first states, V of the greedy policy, discounted, without a step limit.
        """
        policy = self.policy(params)
        regret = np.nan
        if self.optimum is not None:
            start, best = np.asarray(self.mdp.start, float), np.asarray(self.optimum).max(axis=-1)
            lost = best - np.asarray(planning.policy_evaluation(self.mdp, policy, self.discount), float)
            regret = float(np.sum(np.where(start > 0, start * lost, 0)) / start.sum())
        numbers = float(np.max(self.errors(params))), float(planning.expected_return(self.mdp, policy)), regret
        return dict(zip(MEASURES, numbers, strict=True))

    def report(self, params: Any) -> str:
        """Returns one line: the exact worth of the greedy policy, beside the best possible."""
        return exact_report(self.mdp, self.table(params))


def compare_with_model(agent: Agent, mdp: MDP | None, config: Any, spec: EnvSpec) -> ModelComparison | None:
    """Returns the comparison of an agent with the model of its env; None where there is nothing to compare.

    There is nothing without a model, for a model of more than MOST_STATES states, and for an agent whose settings have
    no discount, that has no `q_values`, or whose values depend on more than the state, as with a recurrent network.

    Args:
      agent: with `q_values`.
      mdp: the model, or None.
      config: the settings of the agent. Where gamma is annealed, its end counts.
      spec: the envs as the agent sees them.
    """
    annealed = getattr(config, "horizon_anneal_updates", 0) > 0
    discount = getattr(config, "discount_end" if annealed else "discount", None)
    if mdp is None or agent.q_values is None or discount is None:
        return None
    if spec.num_states != len(mdp.start) or spec.num_states > MOST_STATES:
        return None
    params = jax.eval_shape(agent.init, jax.random.key(0), spec.obs, hyper_of(config)).params
    _, memory = jax.eval_shape(agent.q_values, params, spec.obs, ())
    scale = getattr(config, "reward_scale", 1.0)
    return None if jax.tree.leaves(memory) else ModelComparison(agent, mdp, float(discount), spec, scale)


def reachable_states(mdp: MDP, legal: np.ndarray) -> np.ndarray:
    """Returns the states [S] bool in which an episode starts, or to which legal actions lead without ending it."""
    goes_on = (np.asarray(mdp.probability) > 0) & ~np.asarray(mdp.ends) & legal[..., None]
    reached, before = np.asarray(mdp.start) > 0, np.zeros(len(legal), bool)
    while not np.array_equal(reached, before):
        before, reached = reached, reached.copy()
        reached[np.asarray(mdp.next_state)[before][goes_on[before]]] = True
    return reached


def _observations(legal: np.ndarray, spec: EnvSpec) -> Any:
    """Returns the observations of all states: their indices, with the masks of their actions where envs show these."""
    named = {"observation": np.arange(len(legal)), "action_mask": legal}
    if isinstance(spec.obs, dict):
        return {name: named[name].astype(shape.dtype) for name, shape in spec.obs.items()}
    return named["observation"].astype(spec.obs.dtype)


def exact_report(mdp: MDP, q_values: Array) -> str:
    """Returns one line: the exact worth of the greedy policy of a table, beside the best possible."""
    mdp = planning.check_mdp(mdp)
    legal = True if mdp.legal is None else mdp.legal
    policy = planning.greedy_policy(jnp.where(legal, q_values, -jnp.inf), tie="uniform")
    try:
        name, worth = "success probability", planning.success_probability(mdp, policy)
    except UserError:  # not a model of success and failure
        name = f"mean return over all {int(np.sum(np.asarray(mdp.start) > 0))} starts"
        worth = planning.expected_return(mdp, policy)
    best = planning.best_return(mdp)
    return f"exact {name} of the greedy policy: {float(worth):.3f}; best possible: {float(best):.3f}"
