"""Errors and regrets against exact evaluations, and the bounds that tie them together."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose

from jaxql import planning
from jaxql.errors import UserError
from jaxql.planning import regret
from jaxql.types import MDP

S, A, K, GAMMA = 6, 3, 2, 0.8
few = settings(max_examples=10, deadline=None, derandomize=True)


def env(seed):
    rng = np.random.default_rng(seed)
    shape, dtype = (S, A, K), jnp.result_type(float)
    reward, probability, start = rng.normal(size=shape), rng.dirichlet(np.ones(K), (S, A)), rng.dirichlet(np.ones(S))
    floats = (jnp.asarray(x, dtype) for x in (probability, reward))
    return MDP(rng.integers(S, size=shape), *floats, rng.random(shape) < 0.1, jnp.asarray(start, dtype)), rng


def values_of(mdp, policy):
    """V [S] of a deterministic policy by its definition, solved in NumPy float64."""
    p, goes = np.asarray(mdp.probability, float), np.zeros((S, S))
    p = p / p.sum(-1, keepdims=True)
    reward = np.array([p[s, a] @ np.asarray(mdp.reward, float)[s, a] for s, a in enumerate(policy)])
    for s, a in enumerate(policy):
        for k in range(K):
            goes[s, mdp.next_state[s, a, k]] += p[s, a, k] * (not mdp.ends[s, a, k])
    return np.linalg.solve(np.eye(S) - GAMMA * goes, reward)


@few
@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.3, 3.0]))
def test_regret_is_the_exact_loss_and_within_its_bounds(seed, noise):
    mdp, rng = env(seed)
    optimum = planning.q_iteration(mdp, GAMMA)
    q = np.asarray(optimum.q_values) + noise * rng.uniform(-1, 1, (S, A))
    found = regret.compare_with_optimum(mdp, q, GAMMA, optimum)
    best = max((values_of(mdp, policy) for policy in [np.asarray(optimum.policy)]), key=np.sum)
    loss = best - values_of(mdp, q.argmax(-1))
    assert_allclose(found.regret, np.asarray(mdp.start, float) @ loss, atol=1e-5)
    assert_allclose(found.worst_regret, loss.max(), atol=1e-5)
    assert_allclose(loss[found.worst_state], loss.max(), atol=1e-5)
    off = np.abs(q - np.asarray(optimum.q_values))
    assert_allclose(found.error, off.max(), atol=1e-6)
    assert_allclose(off[found.error_state, found.error_action], off.max(), atol=1e-6)
    assert -1e-5 <= found.regret <= found.worst_regret + 1e-6
    assert found.worst_regret <= 2 * found.error / (1 - GAMMA) + 1e-5
    if found.error < jnp.min(found.optimal_gap) / 2:
        assert abs(found.worst_regret) < 1e-5


def test_the_optimum_has_no_error_and_no_regret():
    mdp, _ = env(0)
    optimum = planning.q_iteration(mdp, GAMMA, 1e-6)
    found = regret.compare_with_optimum(mdp, optimum.q_values, GAMMA)
    assert_allclose([found.error, found.regret, found.worst_regret], 0, atol=1e-5)
    assert_allclose(found.action_gap, found.optimal_gap, atol=1e-5)
    assert jnp.all(found.optimal_gap > 0)


def test_a_constant_costs_nothing_and_a_sign_costs_all():
    """Adding 5 everywhere leaves the greedy policy; acting on -Q* is the greediest way to be wrong in one state."""
    mdp, _ = env(1)
    optimum = planning.q_iteration(mdp, GAMMA)
    shifted = regret.compare_with_optimum(mdp, optimum.q_values + 5, GAMMA, optimum)
    assert_allclose([shifted.error, shifted.regret], [5, 0], atol=1e-4)
    assert regret.compare_with_optimum(mdp, -optimum.q_values, GAMMA, optimum).regret > 0.1


def test_regrets_of_any_policy_are_differences_of_its_evaluation():
    mdp, rng = env(2)
    optimum = planning.q_iteration(mdp, GAMMA, 1e-6)
    odds = jnp.asarray(rng.dirichlet(np.ones(A), S), jnp.result_type(float))
    want = optimum.values - planning.policy_evaluation(mdp, odds, GAMMA)
    assert_allclose(regret.policy_regret(mdp, odds, GAMMA, optimum), want, atol=1e-5)
    assert jnp.all(want > 0)


def test_states_in_which_no_episode_starts_do_not_count_even_as_nan():
    """Undiscounted, action 1 of state 1 goes round for ever: its value is NaN, and nobody starts there."""
    shape = (2, 2, 1)
    ends = np.array([[[True], [True]], [[True], [False]]])
    reward = np.array([[[1.0], [0.0]], [[5.0], [1.0]]])
    mdp = MDP(np.array([[[0], [0]], [[1], [1]]]), np.ones(shape), reward, ends, np.array([1.0, 0.0]))
    solution = planning.value_iteration(mdp._replace(ends=ends | True), 1.0)
    found = regret.compare_with_optimum(mdp, np.array([[0.0, 1.0], [0.0, 1.0]]), 1.0, solution)
    assert_allclose(found.regret, 1, atol=1e-6)
    assert jnp.isnan(found.worst_regret)


def test_it_compiles_and_maps_over_learners():
    mdp, rng = env(3)
    optimum = planning.q_iteration(mdp, GAMMA)
    tables = jnp.asarray(rng.normal(size=(3, S, A)), jnp.result_type(float))
    many = jax.jit(jax.vmap(lambda q: regret.compare_with_optimum(mdp, q, GAMMA, optimum)))(tables)
    for i, q in enumerate(tables):
        for x, y in zip(regret.compare_with_optimum(mdp, q, GAMMA, optimum), many, strict=True):
            assert_allclose(x, y[i], atol=1e-5)


def test_an_optimum_that_cannot_be_proven_is_refused():
    """A state that may stay for ever and earn 1 each time: undiscounted, it is worth more than any number."""
    shape = 1, 2, 1
    ends = np.array([[[False], [True]]])
    mdp = MDP(np.zeros(shape, int), np.ones(shape), np.array([[[1.0], [0.0]]]), ends, np.ones(1))
    with pytest.raises(UserError, match="at discount 1 its value is not finite"):
        regret.compare_with_optimum(mdp, np.zeros((1, 2)), discount=1, optimum=None)


def test_gaps():
    q = np.random.default_rng(0).normal(size=(4, 5, A))
    want = [[sorted(row)[-1] - sorted(row)[-2] for row in rows] for rows in q]
    assert_allclose(regret.action_gap(q), want, rtol=1e-5)
    assert jnp.all(jnp.isinf(regret.action_gap(np.ones((2, 1)))))


def test_networks_become_tables():
    weights = jnp.arange(S * A, dtype=float).reshape(S, A)
    by_index = regret.tabulate(lambda params, obs: (params[obs], ()), weights, S)
    by_features = regret.tabulate(lambda params, obs: obs @ params, weights, S, obs=jnp.eye(S))
    assert_allclose(by_index, weights)
    assert_allclose(by_features, weights)
    with pytest.raises(UserError, match="must be \\[6, actions\\]"):
        regret.tabulate(lambda params, obs: params[0], weights, S)
    with pytest.raises(UserError, match="needs \\(6, 3\\)"):
        regret.compare_with_optimum(env(0)[0], weights.T, GAMMA)
