"""Exact planning on an `MDP`: operators, optimal values, policies and their values.

Shapes: S states, A actions, K successors. The operators keep the dtype of their arguments. The solvers compute in
float64, whatever JAX's default, and round once on return: a planner that rounds at every sweep cannot bound its error.
Concrete arguments are checked; under `jit` and `vmap` the caller must check them. Reverse mode differentiates values,
action values and distributions in the model, the discount and the policy. For an optimum it takes [S, S] memory, for
the linear solve of the greedy policy.

>>> lake = from_gymnasium("FrozenLake-v1")
>>> solution = value_iteration(lake, discount=0.9)
>>> bool(solution.converged), solution.policy.shape
(True, (16,))
"""

from jaxql.planning import regret as regret
from jaxql.planning.asynchronous import (
    gauss_seidel_value_iteration as gauss_seidel_value_iteration,
    prioritised_sweeping as prioritised_sweeping,
)
from jaxql.planning.average_reward import (
    AverageSolution as AverageSolution,
    relative_value_iteration as relative_value_iteration,
)
from jaxql.planning.evaluation import (
    policy_evaluation as policy_evaluation,
)
from jaxql.planning.linear_programme import (
    LinearProgrammeSolution as LinearProgrammeSolution,
    linear_programming as linear_programming,
)
from jaxql.planning.matrices import (
    from_matrices as from_matrices,
    from_state_action_pairs as from_state_action_pairs,
)
from jaxql.planning.model import (
    check_mdp as check_mdp,
    from_gymnasium as from_gymnasium,
    from_table as from_table,
)
from jaxql.planning.operators import (
    action_values as action_values,
    bellman_expectation as bellman_expectation,
    bellman_expectation_q as bellman_expectation_q,
    bellman_optimality as bellman_optimality,
    bellman_optimality_q as bellman_optimality_q,
    greedy_policy as greedy_policy,
    policy_average as policy_average,
)
from jaxql.planning.policies import (
    discounted_occupancy as discounted_occupancy,
    epsilon_soft_policy as epsilon_soft_policy,
    softmax_policy as softmax_policy,
    stationary_distribution as stationary_distribution,
)
from jaxql.planning.policy_solvers import (
    modified_policy_iteration as modified_policy_iteration,
    policy_iteration as policy_iteration,
)
from jaxql.planning.returns import (
    best_return as best_return,
    expected_return as expected_return,
    finite_horizon as finite_horizon,
    start_returns as start_returns,
    success_probability as success_probability,
)
from jaxql.planning.solvers import (
    Solution as Solution,
    loss_bounds as loss_bounds,
    q_iteration as q_iteration,
    value_iteration as value_iteration,
)
from jaxql.planning.sweeps import (
    Bounds as Bounds,
)
