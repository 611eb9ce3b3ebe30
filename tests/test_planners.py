"""All planners against one another, a linear programme, enumeration and NumPy; and the bounds against the truth."""

import itertools

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

S, A, K = 5, 3, 3
DOUBLE = jax.config.jax_enable_x64
ONES = np.ones(S, int)
few = settings(max_examples=8, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
discounts = st.sampled_from([0.0, 0.5, 0.9, 0.98])
SOLVERS = {
    "value": planning.value_iteration,
    "q": planning.q_iteration,
    "modified": planning.modified_policy_iteration,
    "policy": planning.policy_iteration,
    "gauss-seidel": planning.gauss_seidel_value_iteration,
    "blocks": lambda *args, **kwargs: planning.gauss_seidel_value_iteration(*args, blocks=2, **kwargs),
    "prioritised": planning.prioritised_sweeping,
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def random_mdp(seed, ending=0.2, k=K) -> MDP:
    """NumPy, in the default dtype, with padding, repeated successors and ends; every state can follow every other."""
    rng = np.random.default_rng(seed)
    probability = rng.random((S, A, k)) * (rng.random((S, A, k)) < 0.7)
    probability[..., 0] += 0.1
    next_state = rng.integers(0, S, (S, A, k)).astype(np.int32)
    next_state[..., 0] = ((np.arange(S) + 1) % S)[:, None]
    dtype = np.float64 if DOUBLE else np.float32
    return MDP(
        next_state=next_state,
        probability=(probability / probability.sum(-1, keepdims=True)).astype(dtype),
        reward=rng.normal(size=(S, A, k)).astype(dtype),
        ends=rng.random((S, A, k)) < ending,
        start=rng.dirichlet(np.ones(S)).astype(dtype),
    )


def dense(mdp, restart=False):
    """P [S, A, S] without what ends (or with episodes that follow one another) and r [S, A], in float64."""
    probability = np.asarray(mdp.probability, float)
    probability = probability / probability.sum(-1, keepdims=True)
    matrix = np.zeros(probability.shape[:2] + probability.shape[:1])
    start = np.asarray(mdp.start, float) / np.asarray(mdp.start, float).sum()
    for s, a, k in np.argwhere(probability > 0):
        if not mdp.ends[s, a, k]:
            matrix[s, a, mdp.next_state[s, a, k]] += probability[s, a, k]
        elif restart:
            matrix[s, a] += probability[s, a, k] * start
    return matrix, (probability * np.asarray(mdp.reward, float)).sum(-1)


def worth(matrix, reward, policy, discount):
    rows = np.arange(len(policy))
    return np.linalg.solve(np.eye(len(policy)) - discount * matrix[rows, policy], reward[rows, policy])


def optimum(mdp, discount):
    """V* of the model as stored, from a linear programme, then made exact by its policy's linear system."""
    matrix, reward = dense(mdp)
    states, actions = reward.shape
    rows = (discount * matrix - np.eye(states)[:, None]).reshape(-1, states)
    answer = linprog(np.ones(states), A_ub=rows, b_ub=-reward.reshape(-1), bounds=(None, None)).x
    values = worth(matrix, reward, (reward + discount * matrix @ answer).argmax(-1), discount)
    assert_allclose(values, answer, atol=1e-6)
    return values


# ----------------------------------------------------------------------------------------------------------- agreement
@pytest.mark.often("value", "gauss-seidel", "modified")
@every_solver
@few
@given(seeds, discounts)
def test_every_planner_finds_the_linear_programme_s_optimum(solver, seed, discount):
    mdp, tolerance = random_mdp(seed), 1e-9 if DOUBLE else 3e-3
    solution, values = solver(mdp, discount, tolerance), optimum(mdp, discount)
    matrix, reward = dense(mdp)
    q = reward + discount * matrix @ values
    assert solution.converged and solution.error_bound <= tolerance
    error = max(abs(solution.values - values).max(), abs(solution.q_values - q).max())
    assert error <= solution.error_bound + 1e-12
    assert_array_equal(solution.values, solution.q_values.max(-1))
    assert_array_equal(solution.policy, solution.q_values.argmax(-1))


@pytest.mark.parametrize(
    ("solver", "stopping"),
    [
        (SOLVERS["value"], "error"),
        (SOLVERS["value"], "loss"),
        (SOLVERS["value"], "span_loss"),
        (SOLVERS["policy"], "loss"),
        (SOLVERS["prioritised"], "span_loss"),
    ],
)
@few
@given(seeds, discounts, st.sampled_from([0.0, 0.2]), st.sampled_from([1.0, 1e-1, 1e-2]))
def test_the_policy_loses_no_more_than_is_proven(solver, stopping, seed, discount, ending, tolerance):
    """The bounds cover the optimum of the model as it is stored; so does whatever stopped the solver."""
    mdp = random_mdp(seed, ending)
    solution, values = solver(mdp, discount, tolerance, stopping=stopping), optimum(mdp, discount)
    loss = (values - worth(*dense(mdp), np.asarray(solution.policy), discount)).max()
    assert loss <= min(solution.loss_bound, solution.span_loss_bound) + 1e-12
    assert solution.span_loss_bound <= solution.loss_bound
    assert abs(solution.values - values).max() <= solution.error_bound + 1e-12
    proven = {"error": "error_bound", "loss": "loss_bound", "span_loss": "span_loss_bound"}[stopping]
    assert solution.converged and getattr(solution, proven) <= tolerance


@few
@given(seeds, discounts, st.sampled_from([0.0, 0.5]))
def test_one_sweep_bounds_the_optimum_from_both_sides(seed, discount, ending):
    mdp, rng = random_mdp(seed, ending), np.random.default_rng(seed)
    guess = (10 * rng.normal(size=S)).astype(mdp.reward.dtype)
    found, values = planning.loss_bounds(mdp, guess, discount), optimum(mdp, discount)
    matrix, reward = dense(mdp)
    q = reward + discount * matrix @ guess
    gap, slack = values - q.max(-1), 1e-12 if DOUBLE else 1e-4
    assert found.below - slack <= gap.min() and gap.max() <= found.above + slack
    assert abs(gap).max() <= found.error + slack
    loss = (values - worth(matrix, reward, q.argmax(-1), discount)).max()
    assert loss <= found.span_loss + slack and found.span_loss <= found.loss * (1 + 1e-6) + slack


def test_the_span_sees_what_the_maximum_norm_does_not():
    """One reward for all: after a sweep the values differ from V* by a constant, and the policy is optimal."""
    mdp = random_mdp(0, ending=0)._replace(reward=np.ones((S, A, K)))
    by_span = planning.value_iteration(mdp, 0.99, 1e-2, stopping="span_loss")
    by_norm = planning.value_iteration(mdp, 0.99, 1e-2, stopping="loss")
    assert by_span.converged and by_span.iterations < 3 < 500 < by_norm.iterations
    assert_allclose(by_span.values, 100, atol=1e-2)  # moved into the middle of the bounds


def test_bounds_are_infinite_where_nothing_contracts():
    found = planning.loss_bounds(random_mdp(0, ending=0), np.zeros(S), 1.0)
    assert all(np.isinf(x) for x in found)


@few
@given(seeds, st.floats(0, 1))
def test_operators_are_monotone_contractions(seed, discount):
    mdp, rng = jax.tree.map(jnp.asarray, random_mdp(seed, ending=0)), np.random.default_rng(seed)
    v, w = jnp.asarray(rng.normal(size=(2, S)), mdp.reward.dtype)
    policy = jnp.asarray(rng.dirichlet(np.ones(A), S), mdp.reward.dtype)
    for operator in (
        planning.bellman_optimality,
        lambda *args: planning.bellman_expectation(args[0], policy, *args[1:]),
    ):
        below, at, above = (np.asarray(operator(mdp, x, discount)) for x in (jnp.minimum(v, w), v, v + 1))
        assert np.abs(at - operator(mdp, w, discount)).max() <= discount * np.abs(v - w).max() + 1e-5
        assert (below <= at + 1e-5).all()
        assert_allclose(above, at + discount, atol=1e-5)  # nothing ends: constants are kept, discounted
    p, q = jnp.asarray(rng.normal(size=(2, S, A)), mdp.reward.dtype)
    for operator in (
        planning.bellman_optimality_q,
        lambda *args: planning.bellman_expectation_q(args[0], policy, *args[1:]),
    ):
        below, at, above = (np.asarray(operator(mdp, x, discount)) for x in (jnp.minimum(p, q), p, p + 1))
        assert np.abs(at - operator(mdp, q, discount)).max() <= discount * np.abs(p - q).max() + 1e-5
        assert (below <= at + 1e-5).all()
        assert_allclose(above, at + discount, atol=1e-5)


# --------------------------------------------------------------------------------------------------------------- envs
@pytest.mark.often("FrozenLake-v1-options2-names2", "Taxi-v4-options4-names4", "CliffWalking-v1-options5-names5")
@pytest.mark.parametrize(
    ("env", "options", "names"),
    [
        ("FrozenLake-v1", {}, ["value"]),
        ("FrozenLake-v1", dict(is_slippery=False), ["modified"]),
        ("FrozenLake-v1", dict(map_name="8x8", is_slippery=False), ["policy"]),
        ("FrozenLake-v1", dict(map_name="8x8"), SOLVERS),
        ("Taxi-v4", {}, ["q", "policy"]),
        ("CliffWalking-v1", {}, ["gauss-seidel", "prioritised"]),
    ],
)
def test_planners_agree_on_gymnasium_s_envs(env, options, names):
    made = gymnasium.make(env, **options)
    mdp = planning.from_gymnasium(made)
    made.close()
    values = optimum(jax.tree.map(np.asarray, mdp), 0.95)
    for name in names:
        solution = SOLVERS[name](mdp, 0.95, 5e-4)
        assert solution.converged
        assert_allclose(solution.values, values, atol=5e-4)


def gridworld() -> MDP:
    """Sutton & Barto, example 3.5: 5 x 5, A pays 10 and leads to A', B pays 5 and leads to B', walls cost 1."""
    next_state, reward = np.zeros((25, 4, 1), np.int32), np.zeros((25, 4, 1))
    for s, (a, (down, right)) in itertools.product(range(25), enumerate([(-1, 0), (1, 0), (0, 1), (0, -1)])):
        row, column = s // 5 + down, s % 5 + right
        inside = 0 <= row < 5 and 0 <= column < 5
        next_state[s, a], reward[s, a] = (5 * row + column, 0) if inside else (s, -1)
    for s, successor, paid in ((1, 21, 10), (3, 13, 5)):
        next_state[s], reward[s] = successor, paid
    return MDP(next_state, np.ones((25, 4, 1)), reward, np.zeros((25, 4, 1), bool), np.full(25, 1 / 25))


def test_sutton_and_barto_s_gridworld():
    """Figures 3.2 (the uniform policy) and 3.5 (the optimum, example 3.8), discount 0.9, to the digit they print."""
    uniform = [
        [3.3, 8.8, 4.4, 5.3, 1.5],
        [1.5, 3.0, 2.3, 1.9, 0.5],
        [0.1, 0.7, 0.7, 0.4, -0.4],
        [-1.0, -0.4, -0.4, -0.6, -1.2],
        [-1.9, -1.3, -1.2, -1.4, -2.0],
    ]
    best = [
        [22.0, 24.4, 22.0, 19.4, 17.5],
        [19.8, 22.0, 19.8, 17.8, 16.0],
        [17.8, 19.8, 17.8, 16.0, 14.4],
        [16.0, 17.8, 16.0, 14.4, 13.0],
        [14.4, 16.0, 14.4, 13.0, 11.7],
    ]
    mdp = gridworld()
    for method in ("solve", "sweeps"):
        values = planning.policy_evaluation(mdp, np.full((25, 4), 0.25), 0.9, method=method, tolerance=1e-4)
        assert_allclose(values.reshape(5, 5), uniform, atol=0.051)
    for name in ("value", "policy", "blocks"):
        assert_allclose(SOLVERS[name](mdp, 0.9, 1e-3).values.reshape(5, 5), best, atol=0.051)


def test_sutton_and_barto_s_random_walk_to_a_corner():
    """Example 4.1: 4 x 4, two corners end, -1 a step, discount 1: the uniform policy's values, exactly."""
    next_state, ends = np.zeros((16, 4, 1), np.int32), np.zeros((16, 4, 1), bool)
    for s, (a, (down, right)) in itertools.product(range(16), enumerate([(-1, 0), (1, 0), (0, 1), (0, -1)])):
        row, column = s // 4 + down, s % 4 + right
        next_state[s, a] = 4 * row + column if 0 <= row < 4 and 0 <= column < 4 else s
    reward = np.full((16, 4, 1), -1.0)
    for corner in (0, 15):
        next_state[corner], reward[corner], ends[corner] = corner, 0, True
        ends[next_state == corner] = True
    mdp = MDP(next_state, np.ones((16, 4, 1)), reward, ends, np.full(16, 1 / 16))
    values = planning.policy_evaluation(mdp, np.full((16, 4), 0.25), 1)
    expected = [[0, -14, -20, -22], [-14, -18, -20, -20], [-20, -20, -18, -14], [-22, -20, -14, 0]]
    assert_allclose(values.reshape(4, 4), expected, rtol=1e-6, atol=1e-5)
    optimal = planning.value_iteration(mdp, 1)
    assert optimal.converged
    assert_array_equal(
        optimal.values.reshape(4, 4), [[0, -1, -2, -3], [-1, -2, -3, -2], [-2, -3, -2, -1], [-3, -2, -1, 0]]
    )


def test_large_models_take_another_path_to_the_same_values():
    """From 4096 states on a sweep is written out; here against SciPy-free NumPy sweeps of a ring that slips."""
    states, rng = 5000, np.random.default_rng(0)
    here = np.arange(states)[:, None, None]
    next_state = ((here + np.array([[[0, 1]], [[2, -1]]]).reshape(1, 2, 2)) % states).astype(np.int32)
    reward = rng.integers(-3, 4, (states, 2, 2)).astype(float)
    probability = np.broadcast_to([0.75, 0.25], next_state.shape)
    mdp = MDP(next_state, probability, reward, rng.random(reward.shape) < 0.1, np.full(states, 1 / states))
    values = np.zeros(states)
    for _ in range(200):
        values = (probability * (reward + 0.9 * np.where(mdp.ends, 0, values[next_state]))).sum(-1).max(-1)
    for name in ("value", "modified", "policy"):
        solution = SOLVERS[name](mdp, 0.9, 1e-4)
        assert solution.converged
        assert_allclose(solution.values, values, atol=1e-4)
    evaluated = planning.policy_evaluation(mdp, solution.policy, 0.9, method="sweeps", tolerance=1e-4)
    assert_allclose(evaluated, values, atol=2e-4)


# ------------------------------------------------------------------------------------------------------------- policies
@few
@given(seeds, st.sampled_from([0.0, 0.9]))
def test_evaluation_by_sweeps_equals_the_solve(seed, discount):
    mdp, rng = random_mdp(seed), np.random.default_rng(seed)
    for policy in (rng.dirichlet(np.ones(A), S), rng.integers(0, A, S)):
        swept = planning.policy_evaluation(mdp, policy, discount, method="sweeps", tolerance=1e-7)
        assert_allclose(swept, planning.policy_evaluation(mdp, policy, discount), atol=3e-7 if DOUBLE else 1e-5)


def test_evaluation_that_runs_out_of_sweeps_is_nan():
    mdp = random_mdp(0, ending=0)
    assert np.isnan(planning.policy_evaluation(mdp, ONES, 0.99, method="sweeps", max_iterations=3)).all()
    traced = jax.jit(
        lambda discount: planning.policy_evaluation(mdp, ONES, discount, method="sweeps", max_iterations=9)
    )
    assert np.isnan(traced(1.0)).all()


@few
@given(seeds, st.booleans())
def test_stationary_distribution_is_where_power_iteration_goes(seed, deterministic):
    mdp, rng = random_mdp(seed), np.random.default_rng(seed)
    policy = rng.integers(0, A, S) if deterministic else rng.dirichlet(np.ones(A), S)
    odds = np.eye(A)[policy] if deterministic else policy
    chain = np.einsum("sa,sat->st", odds, dense(mdp, restart=True)[0])
    expected = np.ones(S) / S
    for _ in range(3000):
        expected = (expected + expected @ chain) / 2  # lazily: a chain may be periodic
    assert_allclose(planning.stationary_distribution(mdp, policy), expected, atol=1e-9 if DOUBLE else 2e-6)


def test_two_places_to_settle_have_no_one_stationary_distribution():
    stays = MDP(np.array([[[0]], [[1]]]), *(np.ones((2, 1, 1)),) * 2, np.zeros((2, 1, 1), bool), np.array([0.5, 0.5]))
    assert np.isnan(planning.stationary_distribution(stays, np.zeros(2, int))).all()
    assert np.isnan(planning.discounted_occupancy(stays, np.zeros(2, int), 1.0)).all()


def test_an_island_that_no_episode_reaches_need_not_end():
    ends = np.array([[[True]], [[False]]])
    mdp = MDP(np.array([[[0]], [[1]]]), *(np.ones((2, 1, 1)),) * 2, ends, np.array([1.0, 0.0]))
    assert_array_equal(planning.discounted_occupancy(mdp, np.zeros(2, int), 1.0), [1.0, 0.0])


@few
@given(seeds, st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_occupancy_is_the_discounted_sum_of_visits_and_prices_the_reward(seed, discount):
    mdp, rng = random_mdp(seed), np.random.default_rng(seed)
    mdp.ends[0] = True  # so that every policy ends: each state may lead to the next
    policy = rng.dirichlet(np.ones(A), S)
    matrix, reward = dense(mdp)
    chain, here, visits = np.einsum("sa,sat->st", policy, matrix), np.asarray(mdp.start, float), np.zeros(S)
    for _ in range(4000):
        visits, here = visits + here, discount * here @ chain
    near = dict(rtol=1e-7 if DOUBLE else 1e-4, atol=1e-7 if DOUBLE else 1e-4)
    found = planning.discounted_occupancy(mdp, policy, discount)
    assert_allclose(found, visits, **near)
    assert_allclose(found @ (policy * reward).sum(-1), planning.expected_return(mdp, policy, discount), **near)
    elsewhere = planning.discounted_occupancy(mdp, policy, discount, start=np.eye(S)[2])
    assert_allclose(elsewhere @ (policy * reward).sum(-1), planning.policy_evaluation(mdp, policy, discount)[2], **near)


@few
@given(seeds, st.floats(0.01, 100), st.floats(0, 1))
def test_soft_policies_are_distributions_in_the_order_of_q(seed, temperature, epsilon):
    q = np.random.default_rng(seed).normal(size=(S, A))
    soft, mixed = planning.softmax_policy(q, temperature), planning.epsilon_soft_policy(q, epsilon)
    weights = np.exp((q - q.max(-1, keepdims=True)) / temperature)
    assert_allclose(soft, weights / weights.sum(-1, keepdims=True), rtol=2e-4, atol=1e-6)
    assert_allclose(mixed, epsilon / A + (1 - epsilon) * np.eye(A)[q.argmax(-1)], atol=1e-6)


@pytest.mark.slow
def test_soft_policies_of_masked_and_tied_values():
    first = lambda temperature: planning.softmax_policy(jnp.array([[1.0, 2.0, -jnp.inf]]), temperature)[0, 0]  # noqa: E731
    assert_allclose(jax.grad(first)(1.0), (first(1.01) - first(0.99)) / 0.02, rtol=1e-3)
    assert planning.greedy_policy(jnp.ones((1, 2), jnp.bfloat16), "uniform").dtype == jnp.bfloat16
    q = np.array([[1.0, 1.0, -np.inf], [0.0, 2.0, 1.0]])
    assert_allclose(planning.softmax_policy(q)[0], [0.5, 0.5, 0])
    assert_allclose(planning.epsilon_soft_policy(q, 0.3, tie="uniform"), [[0.5, 0.5, 0], [0.1, 0.8, 0.1]], rtol=1e-6)
    assert_array_equal(planning.epsilon_soft_policy(np.array([[1, 2]]), 0.5), [[0.25, 0.75]])


# ------------------------------------------------------------------------------------------------------- average reward
def stationary_gain(mdp, policy):
    """Average rewards [S] of a policy, from each state, by the limit of the lazy chain."""
    matrix, reward = dense(mdp, restart=True)
    rows = np.arange(len(policy))
    chain = np.linalg.matrix_power((np.eye(len(policy)) + matrix[rows, policy]) / 2, 2**20)
    return chain @ reward[rows, policy]


@few
@given(seeds)
def test_the_gain_is_its_policy_s_and_the_best_of_all_deterministic_policies(seed):
    mdp, tolerance = random_mdp(seed, ending=0.1), 1e-8 if DOUBLE else 1e-4
    solution = planning.relative_value_iteration(mdp, tolerance)
    assert solution.converged and solution.error_bound <= tolerance
    gains = [stationary_gain(mdp, policy).max() for policy in itertools.product(range(A), repeat=S)]
    own = stationary_gain(mdp, np.asarray(solution.policy))
    slack = solution.error_bound + 1e-9
    assert abs(solution.gain - max(gains)) <= slack and (own >= max(gains) - slack).all()
    matrix, reward = dense(mdp, restart=True)
    q = reward + matrix @ np.asarray(solution.bias, float)
    assert_allclose(solution.q_values, q, atol=1e-5)
    assert_allclose(q.max(-1), solution.gain + solution.bias, atol=2 * tolerance + 1e-9)
    share = planning.stationary_distribution(mdp, solution.policy)
    assert_allclose(share @ reward[np.arange(S), solution.policy], solution.gain, atol=2 * tolerance)


def test_a_cycle_needs_laziness_and_two_islands_never_converge():
    moves, ones, never = np.array([[[1]], [[0]]]), np.ones((2, 1, 1)), np.zeros((2, 1, 1), bool)
    pays = np.array([[[0.0]], [[1.0]]])
    cycle = MDP(moves, ones, pays, never, np.array([1.0, 0.0]))
    assert_allclose(planning.relative_value_iteration(cycle).gain, 0.5, atol=1e-6)
    assert not planning.relative_value_iteration(cycle, laziness=0.0, max_iterations=200).converged
    islands = cycle._replace(next_state=np.array([[[0]], [[1]]]))
    assert not planning.relative_value_iteration(islands, max_iterations=200).converged


# --------------------------------------------------------------------------------------------------- programs, refusals
@pytest.mark.often("prioritised_sweeping", "<lambda>2", "<lambda>5")
@pytest.mark.parametrize(
    "solver",
    [
        SOLVERS["policy"],
        SOLVERS["blocks"],
        SOLVERS["prioritised"],
        lambda mdp, discount: planning.modified_policy_iteration(mdp, discount, stopping="span_loss"),
        lambda mdp, discount: planning.policy_evaluation(mdp, ONES, discount, method="sweeps"),
        lambda mdp, discount: planning.discounted_occupancy(mdp, ONES, discount),
        lambda mdp, discount: planning.relative_value_iteration(mdp, discount * 1e-3),
        lambda mdp, discount: planning.stationary_distribution(mdp, ONES),
    ],
)
def test_solvers_give_under_jit_and_vmap_what_they_give_alone(solver):
    model, several = jax.tree.map(jnp.asarray, random_mdp(3)), jnp.array([0.5, 0.9])
    mapped = jax.jit(jax.vmap(solver, (None, 0)))(model, several)
    for i, discount in enumerate(several):
        for one, alone in zip(*map(jax.tree.leaves, (mapped, solver(model, discount))), strict=True):
            assert_allclose(one[i], alone, rtol=1e-4, atol=1e-5)
            assert one.dtype == alone.dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: planning.policy_iteration(m, 1), "discount is 1; only value_iteration"),
        (lambda m: planning.prioritised_sweeping(m, 1.0), "discount is 1; only value_iteration"),
        (lambda m: planning.value_iteration(m, 0.9, stopping="span"), "stopping is 'span'"),
        (lambda m: planning.value_iteration(m, 1, stopping="loss"), "at discount 1 nothing bounds the loss"),
        (lambda m: planning.policy_iteration(m, forcing=1.0), "forcing is 1.0"),
        (lambda m: planning.policy_iteration(m, krylov_steps=0), "krylov_steps is 0"),
        (lambda m: planning.modified_policy_iteration(m, evaluation_sweeps=-1), "evaluation_sweeps is -1"),
        (lambda m: planning.gauss_seidel_value_iteration(m, blocks=0), "blocks is 0"),
        (lambda m: planning.relative_value_iteration(m, laziness=1.0), "laziness is 1.0"),
        (lambda m: planning.policy_evaluation(m, ONES, 1, method="sweeps"), "sweeps prove nothing at discount 1"),
        (lambda m: planning.policy_evaluation(m, ONES, 0.9, method="guess"), "method is 'guess'"),
        (lambda m: planning.softmax_policy(np.ones((1, 2)), 0), "temperature is 0"),
        (lambda m: planning.epsilon_soft_policy(np.ones((1, 2)), 1.5), "epsilon is 1.5"),
        (lambda m: planning.loss_bounds(m, np.ones(S + 1), 0.9), "values has shape"),
        (lambda m: planning.discounted_occupancy(m, ONES, 0.9, start=np.ones(S)), "start sums to"),
        (lambda m: planning.policy_iteration(m._replace(reward=m.reward * np.nan)), "state 0, action 0 has a reward"),
        (
            lambda m: planning.relative_value_iteration(m._replace(next_state=m.next_state + S)),
            "state 0, action 0 leads",
        ),
        (lambda m: planning.stationary_distribution(m, ONES * A), "policy"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call(random_mdp(0))
    assert "\n" not in str(error.value)
