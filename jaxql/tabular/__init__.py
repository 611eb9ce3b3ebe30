"""Learning in tables: counts of transitions, the empirical model of the counts, and table updates.

Shapes: B envs, S states, A actions, T rows. States and actions are indices. All functions are pure and run under `jit`
and `vmap`. Envs are applied one after another, each to the table that the last one left. Summing the errors
of envs that meet in one (s, a) would multiply the learning rate by their number, and the table could diverge. Rows
that are not `valid` (an env resetting itself) may hold anything and change no value.

Updates are compiled once for each shape, so a Python loop may call them. Concrete arguments are checked by value:
indices, rates and discounts in their ranges, finite rewards. Under `jit` only shapes and dtypes are.

>>> import jax.numpy as jnp
>>> q, n = jnp.zeros((2, 1)), jnp.zeros((2, 1), int)  # rate 1/n: the value is the mean of the rewards
>>> state, action, reward, valid = jnp.array([0, 0]), jnp.array([0, 0]), jnp.array([1.0, 2.0]), jnp.array([True, True])
>>> n, nth = visit(n, state, action, valid)
>>> q, errors = q_learning_update(q, state, action, reward, 0.0, state, valid, one_over_n()(nth))
>>> q.tolist(), errors.tolist()
([[1.5], [0.0]], [1.0, 1.0])
"""

from jaxql.explore import epsilon_greedy_probabilities as epsilon_greedy_probabilities
from jaxql.tabular.average_reward import (
    differential_q_learning_update as differential_q_learning_update,
    differential_sarsa_update as differential_sarsa_update,
)
from jaxql.tabular.counts import (
    Counts as Counts,
    SparseCounts as SparseCounts,
    count as count,
    empirical_mdp as empirical_mdp,
    empty_counts as empty_counts,
    empty_sparse_counts as empty_sparse_counts,
)
from jaxql.tabular.dyna import (
    dyna_q_plus_update as dyna_q_plus_update,
    dyna_q_update as dyna_q_update,
    elapsed_since_visit as elapsed_since_visit,
)
from jaxql.tabular.monte_carlo import (
    monte_carlo_update as monte_carlo_update,
    off_policy_monte_carlo_update as off_policy_monte_carlo_update,
)
from jaxql.tabular.n_step import (
    n_step_q_learning_update as n_step_q_learning_update,
    n_step_q_sigma_update as n_step_q_sigma_update,
    n_step_sarsa_update as n_step_sarsa_update,
)
from jaxql.tabular.rates import (
    constant as constant,
    one_over_n as one_over_n,
    robbins_monro as robbins_monro,
    visit as visit,
)
from jaxql.tabular.traces import (
    naive_q_lambda_update as naive_q_lambda_update,
    sarsa_lambda_update as sarsa_lambda_update,
    true_online_sarsa_lambda_update as true_online_sarsa_lambda_update,
    true_online_td_lambda_update as true_online_td_lambda_update,
    watkins_q_lambda_update as watkins_q_lambda_update,
)
from jaxql.tabular.updates import (
    double_q_learning_update as double_q_learning_update,
    expected_sarsa_update as expected_sarsa_update,
    q_learning_update as q_learning_update,
    sarsa_update as sarsa_update,
)
