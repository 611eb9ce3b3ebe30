"""Planning against slow float64 oracles: loops, policy iteration, a linear programme; and the facts of known envs."""

import subprocess
import sys

import gymnasium
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog

from jaxql import planning
from jaxql.errors import UserError
from jaxql.types import MDP

pytestmark = pytest.mark.float64
S, A, K = 6, 3, 4
FLOATS = [np.float32, np.float64] if jax.config.jax_enable_x64 else [np.float32]
few = settings(max_examples=15, deadline=None, derandomize=True)


def random_mdp(seed, ending=0.3, scale=1.0, step_limit=None) -> MDP:
    """Float64 NumPy, with padding, repeated successors and ends."""
    rng = np.random.default_rng(seed)
    probability = rng.random((S, A, K)) * (rng.random((S, A, K)) < 0.7)
    probability[..., 0] += 0.1
    return MDP(
        next_state=rng.integers(0, S, (S, A, K)).astype(np.int32),
        probability=probability / probability.sum(-1, keepdims=True),
        reward=scale * rng.normal(size=(S, A, K)),
        ends=rng.random((S, A, K)) < ending,
        start=rng.dirichlet(np.ones(S)),
        step_limit=step_limit,
    )


def stored(mdp: MDP, dtype) -> MDP:
    floats = {name: jnp.asarray(getattr(mdp, name), dtype) for name in ("probability", "reward", "start")}
    return mdp._replace(next_state=jnp.asarray(mdp.next_state), ends=jnp.asarray(mdp.ends), **floats)


def slow_q(mdp, values, discount):
    q = np.zeros((S, A))
    for s, a, k in np.ndindex(S, A, K):
        ahead = 0.0 if mdp.ends[s, a, k] else values[mdp.next_state[s, a, k]]
        q[s, a] += mdp.probability[s, a, k] * (mdp.reward[s, a, k] + discount * ahead)
    return q


def slow_evaluation(mdp, policy, discount):
    """v = (I - discount P)^-1 r, policy [S, A]."""
    matrix, reward = np.eye(S), np.zeros(S)
    for s, a, k in np.ndindex(S, A, K):
        weight = policy[s, a] * mdp.probability[s, a, k]
        reward[s] += weight * mdp.reward[s, a, k]
        if not mdp.ends[s, a, k]:
            matrix[s, mdp.next_state[s, a, k]] -= discount * weight
    return np.linalg.solve(matrix, reward)


def policy_iteration(mdp, discount):
    """Howard's algorithm; V* and Q* to float64 round-off."""
    policy = np.zeros(S, int)
    for _ in range(100):
        values = slow_evaluation(mdp, np.eye(A)[policy], discount)
        q = slow_q(mdp, values, discount)
        better = q.max(-1) > q[np.arange(S), policy] + 1e-12 * (1 + abs(values).max())
        if not better.any():
            return values, q
        policy = np.where(better, q.argmax(-1), policy)
    raise AssertionError("the oracle did not finish")


@few
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_operators_equal_loops(seed, discount):
    mdp, rng = random_mdp(seed), np.random.default_rng(seed)
    values, policy = rng.normal(size=S), rng.dirichlet(np.ones(A), S)
    expected, model = slow_q(mdp, values, discount), stored(mdp, FLOATS[-1])
    expectation = jax.jit(planning.bellman_expectation)
    near = dict(rtol=0, atol=1e-5 if FLOATS[-1] == np.float32 else 1e-13)
    values = jnp.asarray(values, FLOATS[-1])
    assert_allclose(jax.jit(planning.action_values)(model, values, discount), expected, **near)
    assert_allclose(jax.jit(planning.bellman_optimality)(model, values, discount), expected.max(-1), **near)
    mixed = expectation(model, jnp.asarray(policy, FLOATS[-1]), values, discount)
    assert_allclose(mixed, (policy * expected).sum(-1), **near)
    first = expectation(model, jnp.zeros(S, int), values, discount)
    assert_allclose(first, expected[:, 0], **near)
    q = rng.normal(size=(2, S, A))
    of_q = np.array([slow_q(mdp, x.max(-1), discount) for x in q])
    assert_allclose(planning.bellman_optimality_q(model, jnp.asarray(q, FLOATS[-1]), discount), of_q, **near)
    of_q = np.array([slow_q(mdp, (policy * x).sum(-1), discount) for x in q])
    odds = jnp.asarray(policy, FLOATS[-1])
    assert_allclose(planning.bellman_expectation_q(model, odds, jnp.asarray(q, FLOATS[-1]), discount), of_q, **near)
    of_q = np.array([slow_q(mdp, x[:, 1], discount) for x in q])
    ones = jnp.ones(S, int)
    assert_allclose(planning.bellman_expectation_q(model, ones, jnp.asarray(q, FLOATS[-1]), discount), of_q, **near)


@few
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_the_optimality_operator_contracts_and_is_monotone(seed, discount):
    model, rng = stored(random_mdp(seed), FLOATS[-1]), np.random.default_rng(seed)
    v, w = (jnp.asarray(rng.normal(size=S), FLOATS[-1]) for _ in range(2))
    operator = jax.jit(planning.bellman_optimality)
    gap = np.abs(operator(model, v, discount) - operator(model, w, discount)).max()
    assert gap <= discount * np.abs(v - w).max() + 1e-5
    assert (operator(model, jnp.maximum(v, w), discount) >= operator(model, v, discount) - 1e-5).all()


@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        (lambda m: planning.bellman_optimality(m, jnp.zeros(S - 1), 0.5), "values"),
        (lambda m: planning.action_values(m, jnp.zeros((S, A)), 0.5), "values"),
        (lambda m: planning.bellman_optimality_q(m, jnp.zeros((S, A + 1)), 0.5), "q_values"),
        (lambda m: planning.bellman_optimality_q(m, jnp.zeros(S), 0.5), "q_values"),
        (lambda m: planning.bellman_expectation(m, jnp.ones((S, 1)), jnp.zeros(S), 0.5), "policy"),
        (lambda m: planning.bellman_expectation_q(m, jnp.ones((1, A)), jnp.zeros((S, A)), 0.5), "policy"),
    ],
)
def test_operators_refuse_what_would_broadcast_or_be_clipped(call, culprit):
    with pytest.raises(ValueError, match=f"{culprit} has shape"):
        jax.jit(lambda: call(stored(random_mdp(0), FLOATS[-1])))()


def test_an_ended_transition_ignores_what_follows_even_infinity():
    mdp = random_mdp(0)._replace(ends=np.ones((S, A, K), bool))
    assert np.isfinite(planning.action_values(mdp, np.full(S, np.inf), 0.9)).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("solver", [planning.value_iteration, planning.q_iteration])
@few
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 0.9, 0.99]), st.sampled_from([1e-2, 1e-4, 1e-6, 1e-9]))
def test_tolerance_bounds_the_distance_to_the_optimum(solver, dtype, seed, discount, tolerance):
    """The optimum of the model before it was rounded, and that of the rounded one: the promise covers both."""
    mdp = random_mdp(seed, ending=0.1)
    solution = solver(stored(mdp, dtype), discount, tolerance)
    rounded = jax.tree.map(np.asarray, stored(mdp, dtype))
    rounded = rounded._replace(probability=rounded.probability.astype(float), reward=rounded.reward.astype(float))
    for model in (mdp, rounded):
        values, q = policy_iteration(model, discount)
        error = max(abs(solution.values - values).max(), abs(solution.q_values - q).max())
        assert error <= solution.error_bound + 1e-13
        assert not solution.converged or error <= tolerance
    assert solution.values.dtype == solution.q_values.dtype == dtype
    assert solution.converged == (solution.error_bound <= tolerance)
    assert solution.converged or tolerance < 1e-3  # a bound that never certifies anything would pass the rest
    assert_array_equal(solution.values, solution.q_values.max(-1))
    assert_array_equal(solution.policy, solution.q_values.argmax(-1))


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_solves_the_linear_programme(seed):
    """min sum v subject to v >= r + discount P v for every action (Puterman, 1994, section 6.9)."""
    mdp = random_mdp(seed)
    zero = slow_q(mdp, np.zeros(S), 0.9)
    rows = np.stack([slow_q(mdp, unit, 0.9) - zero for unit in np.eye(S)], axis=-1) - np.eye(S)[:, None]
    answer = linprog(np.ones(S), A_ub=rows.reshape(-1, S), b_ub=-zero.reshape(-1), bounds=(None, None))
    assert_allclose(planning.value_iteration(stored(mdp, FLOATS[-1]), 0.9, 1e-5).values, answer.x, atol=2e-5)


def test_a_tolerance_below_the_dtype_stops_at_its_floor_and_says_so():
    mdp = random_mdp(1, ending=0)
    single = planning.value_iteration(stored(mdp, np.float32), 0.9, 1e-12)
    assert not single.converged and single.iterations < 1000
    assert 1e-12 < single.error_bound < 1e-3
    if np.float64 in FLOATS:
        double = planning.value_iteration(stored(mdp, np.float64), 0.9, 1e-12)
        assert double.converged and abs(double.values - policy_iteration(mdp, 0.9)[0]).max() <= 1e-12


def test_a_model_in_bfloat16_is_solved_as_closely_as_it_says():
    lake = planning.from_gymnasium("FrozenLake-v1")
    half = {name: getattr(lake, name).astype(jnp.bfloat16) for name in ("probability", "reward", "start")}
    solution, exact = (planning.value_iteration(mdp, 0.9) for mdp in (lake._replace(**half), lake))
    assert solution.values.dtype == jnp.bfloat16
    assert_allclose(solution.values.astype(float), exact.values, rtol=0, atol=float(solution.error_bound))
    assert 0 < solution.error_bound < 0.1


@pytest.mark.parametrize(
    ("dtype", "reward"),
    [(np.float32, 2**24 + 1), (np.float32, 1e8 + 3), (jnp.bfloat16, 259), (jnp.bfloat16, 1000.7), (np.float16, 3001)],
)
def test_a_reward_too_large_to_be_exact_counts_as_rounded(dtype, reward):
    """The model is the one from before its numbers were rounded: in bfloat16 259 is stored as 260."""
    numbers = (np.full((1, 1, 1), x, dtype) for x in (1, reward))
    loop = MDP(np.zeros((1, 1, 1), np.int32), *numbers, np.zeros((1, 1, 1), bool), np.ones(1, dtype))
    solution = planning.value_iteration(loop, 0.5, 1.0)
    assert 0 < abs(float(solution.values[0]) - 2 * reward) <= solution.error_bound
    assert not solution.converged
    small = loop._replace(reward=np.full((1, 1, 1), 200, dtype))
    assert planning.value_iteration(small, 0.5, 1.0).converged


def test_a_probability_too_small_for_its_dtype_counts_as_rounded():
    chances = [1 - 2.7e-7, 2.7e-7]
    rare = MDP(
        np.zeros((1, 1, 2), np.int32), np.array([[chances]], np.float16), np.array([[[0, 60000]]], np.float16),
        np.zeros((1, 1, 2), bool), np.ones(1, np.float16))  # fmt: skip
    solution = planning.value_iteration(rare, 0.5, 1e-3)
    assert 1e-3 < abs(float(solution.values[0]) - 2 * 2.7e-7 * 60000) <= solution.error_bound
    assert not solution.converged


def test_a_successor_of_probability_0_does_not_count_even_as_nan():
    mdp = chain([1.0, 1.0])
    padded = mdp._replace(
        **{
            name: np.concatenate([getattr(mdp, name), 0 * getattr(mdp, name)], -1) for name in ("probability", "reward")
        },
        next_state=np.concatenate([mdp.next_state, 0 * mdp.next_state + 1], -1),
        ends=np.concatenate([mdp.ends, mdp.ends & False], -1),
    )
    values = np.array([1.0, np.nan])
    assert_allclose(planning.action_values(padded, values, 1.0), planning.action_values(mdp, values, 1.0))


def test_sweeps_that_run_out_do_not_count_as_converged():
    solution = planning.value_iteration(stored(random_mdp(1, ending=0), FLOATS[-1]), 0.99, 1e-4, max_iterations=5)
    assert solution.iterations == 5 and not solution.converged


def test_one_program_under_jit_and_vmap():
    model, discounts = stored(random_mdp(2), FLOATS[-1]), jnp.array([0.0, 0.5, 0.95], FLOATS[-1])
    many = jax.jit(jax.vmap(lambda discount: planning.value_iteration(model, discount, 1e-4)))(discounts)
    assert many.converged.all() and many.values.dtype == FLOATS[-1]
    for i, discount in enumerate(discounts):
        alone = planning.value_iteration(model, discount, 1e-4)
        assert_allclose(many.values[i], alone.values, rtol=0, atol=1e-6)
        assert many.iterations[i] == alone.iterations


@pytest.mark.often("<lambda>1", "<lambda>3", "best_return")
@pytest.mark.parametrize(
    "solver",
    [
        planning.q_iteration,
        lambda model, discount: planning.policy_evaluation(model, np.ones(S, int), discount),
        lambda model, discount: planning.policy_evaluation(model, np.full((S, A), 1 / A), discount),
        lambda model, discount: planning.expected_return(model, np.ones(S, int), discount),
        lambda model, discount: planning.start_returns(model, np.full((S, A), 1 / A), discount),
        lambda model, discount: planning.finite_horizon(model, 4, discount),
        planning.best_return,
    ],
)
def test_solvers_give_under_jit_and_vmap_what_they_give_alone(solver):
    """Their float64 is their own: neither it nor int64 may leak into a program that lacks them. The model is traced."""
    model = stored(random_mdp(3, step_limit=7), FLOATS[-1])
    discounts = jnp.array([0.5, 0.9], FLOATS[-1])
    mapped = jax.jit(jax.vmap(solver, (None, 0)))(model, discounts)
    for i, discount in enumerate(discounts):
        for one, alone in zip(*map(jax.tree.leaves, (mapped, solver(model, discount))), strict=True):
            assert_allclose(one[i], alone, rtol=1e-5, atol=1e-7)
            assert one.dtype == alone.dtype in (FLOATS[-1], np.int32, bool)


@few
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.9, 1.0]))
def test_policy_evaluation_equals_a_linear_solve(seed, discount):
    mdp, rng = random_mdp(seed), np.random.default_rng(seed)
    mdp.ends[..., 0] = True  # so that every policy ends
    policy = rng.dirichlet(np.ones(A), S)
    model = stored(mdp, FLOATS[-1])
    found = planning.policy_evaluation(model, jnp.asarray(policy, FLOATS[-1]), discount)
    expected = slow_evaluation(mdp, policy, discount)
    tight = 1e-4 if FLOATS[-1] == np.float32 else 1e-11
    assert_allclose(found, expected, rtol=tight, atol=tight)
    chosen = planning.policy_evaluation(model, policy.argmax(-1), discount)
    expected = slow_evaluation(mdp, np.eye(A)[policy.argmax(-1)], discount)
    assert_allclose(chosen, expected, rtol=tight, atol=tight)


@few
@given(st.integers(0, 10**6), st.integers(0, 5), st.sampled_from([0.9, 1.0]))
def test_returns_within_a_step_limit_equal_a_backward_loop(seed, limit, discount):
    mdp, rng = random_mdp(seed, step_limit=limit), np.random.default_rng(seed)
    policy, model = rng.dirichlet(np.ones(A), S), stored(mdp, FLOATS[-1])
    best, mean = [np.zeros(S)], np.zeros(S)
    for _ in range(limit):
        best.append(slow_q(mdp, best[-1], discount).max(-1))
        mean = (policy * slow_q(mdp, mean, discount)).sum(-1)
    near = dict(rtol=0, atol=1e-5)
    assert_allclose(planning.finite_horizon(model, limit, discount), best, **near)
    assert_allclose(planning.best_return(model, discount), best[-1] @ mdp.start, **near)
    policy = jnp.asarray(policy, FLOATS[-1])
    assert_allclose(planning.start_returns(model, policy, discount), mean, **near)
    assert_allclose(planning.expected_return(model, policy, discount), mean @ mdp.start, **near)


def chain(rewards, stay=0.0, ends=True, start=0) -> MDP:
    """Action 0 stays for `stay`; action 1 moves on for rewards[s] and ends (or stays put for nothing) at the last."""
    n = len(rewards)
    successor = np.stack([np.arange(n), np.minimum(np.arange(n) + 1, n - 1)], -1)[..., None].astype(np.int32)
    reward = np.stack([np.full(n, stay), np.asarray(rewards, float)], -1)[..., None]
    over = np.zeros((n, 2, 1), bool)
    over[-1, 1] = ends
    return MDP(successor, np.ones((n, 2, 1)), reward, over, np.eye(n)[start], None)


def test_undiscounted_optimum_comes_with_a_policy_that_attains_it():
    """Staying ties with walking at discount 1, so the lowest greedy action would stay for ever."""
    mdp = chain([0, 0, 0, 1])
    solution = planning.value_iteration(mdp, 1)
    assert solution.converged and np.isinf(solution.error_bound)
    assert_array_equal(solution.values, [1, 1, 1, 1])
    assert_array_equal(solution.policy, [1, 1, 1, 1])
    assert_array_equal(planning.policy_evaluation(mdp, solution.policy, 1), solution.values)


def test_undiscounted_costs_are_paid_only_if_they_must_be():
    assert_array_equal(planning.value_iteration(chain([-1] * 4, stay=-1), 1).values, [-4, -3, -2, -1])
    assert_array_equal(planning.value_iteration(chain([-1] * 4), 1).values, [0] * 4)  # staying is free


@pytest.mark.parametrize("stay", [1.0, 1e-3])
def test_an_unbounded_total_is_refused_or_if_traced_never_called_converged(stay):
    mdp = chain([-1, -1, -1, -1], stay=stay)
    for one in (1, jnp.float32(1)):
        with pytest.raises(UserError, match="from state 0 a positive reward .* relative_value_iteration"):
            planning.value_iteration(mdp, one)
    traced = jax.jit(lambda one: planning.value_iteration(mdp, one, 1e-2, max_iterations=2000).converged)
    assert not traced(1.0)


def test_a_state_that_must_earn_for_ever_is_refused_by_its_number():
    mdp = chain([-1, -1, -1, -1])
    trapped = mdp._replace(reward=mdp.reward.copy(), next_state=mdp.next_state.copy())
    trapped.next_state[2, 1], trapped.reward[2, 0] = 2, -1  # state 2 stays, whatever it does, and pays
    with pytest.raises(UserError, match="from state 2 no actions lead to an end"):
        planning.value_iteration(trapped, 1)
    free = trapped._replace(reward=trapped.reward * 0)
    assert_array_equal(planning.q_iteration(free, 1).values, 0)
    with pytest.raises(UserError, match="from state 0 no actions lead"):
        planning.best_return(random_mdp(0, ending=0.0))


def test_undiscounted_evaluation_of_policies_that_never_end():
    stays, walks = np.zeros(4, int), np.ones(4, int)
    assert_array_equal(planning.policy_evaluation(chain([1, 2, 3, 4]), stays, 1), [0, 0, 0, 0])
    assert_array_equal(planning.policy_evaluation(chain([1, 2, 3, 0], ends=False), walks, 1), [6, 5, 3, 0])
    assert np.isnan(planning.policy_evaluation(chain([1, 2, 3, 4], ends=False), walks, 1)).all()
    looping = planning.policy_evaluation(chain([1, 2, 3, 4], stay=1), np.array([1, 0, 1, 1]), 1)
    assert_array_equal(looping, [np.nan, np.nan, 7, 4])  # the first two stay in the loop that pays 1 for ever
    lucky = chain([1, 2, 3, 4], stay=1, start=3)
    assert planning.expected_return(lucky, np.array([0, 0, 0, 1])) == 4  # no episode starts where the value is NaN


def test_uniform_ties_and_lowest_ties():
    q = jnp.array([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]])
    assert_array_equal(planning.greedy_policy(q), [0, 1])
    assert_array_equal(planning.greedy_policy(q, tie="uniform"), [[0.5, 0.5, 0], [0, 1, 0]])
    with pytest.raises(UserError, match="tie"):
        planning.greedy_policy(q, tie="random")


# ------------------------------------------------------------------------------------------------------- known envs
def test_frozen_lake_can_be_crossed_three_times_in_four_within_its_limit():
    lake = planning.from_gymnasium("FrozenLake-v1")
    assert lake.step_limit == 100 and lake.probability.shape == (16, 4, 3)
    assert_allclose(planning.best_return(lake), 0.7442, atol=5e-5)
    assert_allclose(planning.best_return(lake, step_limit=None), 14 / 17, atol=1e-6)  # without the clock
    solution = planning.value_iteration(lake)
    assert solution.converged
    for policy in (solution.policy, planning.greedy_policy(solution.q_values, tie="uniform")):
        assert 0.7 < planning.success_probability(lake, policy) <= planning.best_return(lake)
    uniform = np.full((16, 4), 0.25)
    assert_allclose(planning.success_probability(lake, uniform), 0.014, atol=1e-3)


def test_taxi_averages_7_93_over_its_300_starts():
    taxi = planning.from_gymnasium("Taxi-v4")
    assert (np.asarray(taxi.start) > 0).sum() == 300
    assert_allclose(planning.best_return(taxi), 7.93, rtol=1e-5)
    solution = planning.value_iteration(taxi)
    assert solution.converged
    assert_allclose(planning.expected_return(taxi, solution.policy), 7.93, atol=1e-5)
    undiscounted = planning.value_iteration(taxi, 1)
    assert undiscounted.converged
    assert_allclose(undiscounted.values @ taxi.start, 7.93, atol=1e-5)


def test_cliff_walking_takes_thirteen_steps():
    cliff = planning.from_gymnasium("CliffWalking-v1")
    assert cliff.step_limit is None and np.asarray(cliff.start).argmax() == 36
    assert_allclose(planning.best_return(cliff), -13)
    assert_allclose(planning.value_iteration(cliff, 1).values[36], -13)


@pytest.mark.parametrize("env", ["FrozenLake-v1", "CliffWalkingSlippery-v1"])
def test_the_model_is_the_env_s_own(env):
    made = gymnasium.make(env)
    mdp = planning.from_gymnasium(made)
    made.close()
    for s, a in np.ndindex(*mdp.probability.shape[:2]):
        expected, found = {}, {}
        for p, successor, reward, ended in made.unwrapped.P[s][a]:
            key = int(successor), float(reward), bool(ended)
            expected[key] = expected.get(key, 0) + p
        for k in range(mdp.probability.shape[-1]):
            key = int(mdp.next_state[s, a, k]), float(mdp.reward[s, a, k]), bool(mdp.ends[s, a, k])
            if mdp.probability[s, a, k] > 0:
                assert key not in found
                found[key] = float(mdp.probability[s, a, k])
            else:
                assert key == (s, 0.0, False)
        assert found == pytest.approx(expected, rel=1e-6)


def test_settings_and_limits_come_from_the_env():
    assert planning.from_gymnasium("FrozenLake-v1", is_slippery=False).probability.shape[-1] == 1
    assert planning.from_gymnasium("CliffWalking-v1", max_episode_steps=50).step_limit == 50
    limited = gymnasium.wrappers.TimeLimit(gymnasium.make("CliffWalking-v1"), 60)
    assert planning.from_gymnasium(limited).step_limit == 60


def test_returns_match_episodes_of_the_env():
    """3000 episodes of the optimal policy: the exact mean lies within 4.5 standard errors of theirs."""
    lake = planning.from_gymnasium("FrozenLake-v1", max_episode_steps=20)
    env = gymnasium.make("FrozenLake-v1", max_episode_steps=20)
    policy, returns = np.asarray(planning.value_iteration(lake).policy), []
    for episode in range(3000):
        state, _ = env.reset(seed=episode)
        over = False
        while not over:
            state, reward, terminated, truncated, _ = env.step(policy[state])
            over = terminated or truncated
        returns.append(reward)
    env.close()
    exact = float(planning.expected_return(lake, policy))
    assert abs(np.mean(returns) - exact) < 4.5 * np.sqrt(exact * (1 - exact) / 3000)


def test_importing_planning_does_not_import_gymnasium():
    code = "import sys, jaxql.planning; sys.exit('gymnasium' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ----------------------------------------------------------------------------------------------------------- refusals
def broken(**fields):
    mdp = random_mdp(0)
    for name, (where, value) in fields.items():
        getattr(mdp, name)[where] = value
    return mdp


@pytest.mark.parametrize(
    ("mdp", "message"),
    [
        (broken(probability=((2, 1), 0.2)), "state 2, action 1 has probabilities that do not sum to 1"),
        (broken(probability=((2, 1, 0), np.nan)), "state 2, action 1 has probabilities that do not sum to 1"),
        (broken(probability=((3, 0), [1.5, -0.5, 0, 0])), "state 3, action 0 has a negative probability"),
        (broken(next_state=((4, 2, 1), S)), r"state 4, action 2 leads to a state outside 0\.\.5"),
        (broken(next_state=((4, 2, 1), -1)), r"state 4, action 2 leads to a state outside 0\.\.5"),
        (broken(reward=((0, 1, 2), np.nan)), "state 0, action 1 has a reward that is not finite"),
        (random_mdp(0)._replace(start=np.ones(S)), "start sums to 6"),
        (random_mdp(0)._replace(start=np.eye(S)[0] * 3 - np.eye(S)[2] * 2), r"start is -2\.0 in state 2"),
        (random_mdp(0)._replace(next_state=np.zeros((S, A, K))), "next_state is float64; it must hold states"),
        (random_mdp(0)._replace(start=np.ones(S + 1)), "start has shape"),
        (random_mdp(0)._replace(reward=np.zeros((S, A))), r"four arrays \[S, A, K\]"),
    ],
)
def test_models_that_make_no_sense_are_refused(mdp, message):
    for solver in (
        planning.value_iteration,
        planning.q_iteration,
        planning.best_return,
        lambda m: planning.finite_horizon(m, 3),
        lambda m: planning.policy_evaluation(m, np.zeros(S, int), 0.9),
        lambda m: planning.expected_return(m, np.zeros(S, int), step_limit=3),
    ):
        with pytest.raises(UserError, match=message) as error:
            solver(mdp)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(discount=1.01), "discount is 1.01"),
        (dict(discount=-0.1), "discount is -0.1"),
        (dict(discount=float("nan")), "discount is nan"),
        (dict(discount=np.array([0.5, 0.9])), "vmap"),
        (dict(tolerance=0), "tolerance is 0"),
        (dict(tolerance=-1e-3), "tolerance is -0.001"),
        (dict(tolerance=float("nan")), "tolerance is nan"),
        (dict(tolerance=float("inf")), "tolerance is inf"),
        (dict(max_iterations=0), "max_iterations is 0"),
        (dict(max_iterations=2**31), r"max_iterations is 2147483648; it must be a whole number in 1\.\.2147483647"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        planning.value_iteration(random_mdp(0), **options)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.full(S, A), r"0\.\.2"),
        (np.full(S, -1), r"0\.\.2"),
        (np.zeros(S), "whole numbers"),
        (np.zeros(S + 1, int), "policy has shape"),
        (np.full((S, A), 0.5), "in state 0"),
        (np.tile([1.5, -0.5, 0.0], (S, 1)), "in state 0"),
    ],
)
def test_policies_that_make_no_sense_are_refused(policy, message):
    for solver in (planning.policy_evaluation, planning.expected_return):
        with pytest.raises(UserError, match=message):
            solver(random_mdp(0, step_limit=3), policy, 0.9)


def test_a_horizon_is_a_number():
    for horizon in None, "mdp", -1, 2.5:  # this model has no step limit
        with pytest.raises(UserError, match=f"horizon is {horizon!r}; it must be a whole number"):
            planning.finite_horizon(chain([1, 1]), horizon)


@pytest.mark.parametrize("limit", [-1, 2.5, "env", True, 2**31, float("inf"), float("nan")])
def test_step_limits_that_make_no_sense_are_refused(limit):
    with pytest.raises(UserError, match="step_limit is"):
        planning.best_return(random_mdp(0), step_limit=limit)


def test_success_is_refused_where_it_is_not_defined():
    with pytest.raises(UserError, match="expected_return"):
        planning.success_probability(chain([-1, -1]), np.ones(2, int))


def test_an_infinite_best_return_is_refused():
    with pytest.raises(UserError, match="step_limit"):
        planning.best_return(chain([0, 0, 0, 0], stay=1.0))


def test_envs_without_a_table_are_refused():
    with pytest.raises(UserError, match="CartPole-v1 has no transition table.*FrozenLake, CliffWalking and Taxi"):
        planning.from_gymnasium("CartPole-v1")
    with pytest.raises(UserError, match="NoSuchEnv"):
        planning.from_gymnasium("NoSuchEnv-v0")
    with pytest.raises(UserError, match="is_slipery"):
        planning.from_gymnasium("FrozenLake-v1", is_slipery=False)
    with pytest.raises(UserError, match="fickle"):
        planning.from_gymnasium("Taxi-v4", fickle_passenger=True)
    env = gymnasium.make("FrozenLake-v1")
    with pytest.raises(UserError, match="is_slippery: settings go with an id"):
        planning.from_gymnasium(env, is_slippery=False)
    env.close()
