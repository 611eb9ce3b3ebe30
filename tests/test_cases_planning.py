"""Models as their users have them: actions that states lack, matrices, infinite totals, float32, odd arguments."""

import itertools
import math
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal

from jaxql import agents, loop, planning
from jaxql.envs.jax import autoreset, from_mdp
from jaxql.errors import UserError
from jaxql.planning import regret
from jaxql.types import MDP

pytestmark = pytest.mark.cases
SOLVERS = {
    "value": planning.value_iteration,
    "q": planning.q_iteration,
    "gauss-seidel": planning.gauss_seidel_value_iteration,
    "prioritised": planning.prioritised_sweeping,
    "modified": planning.modified_policy_iteration,
    "policy": planning.policy_iteration,
}
TWO_STATES = {0: {0: [(1, 1, 0, False)]}, 1: {0: [(1, 1, 0, True)], 1: [(1, 1, 10, True)]}}


class TableEnv(gymnasium.Env):
    """An env with a transition table and nothing else."""

    def __init__(self, table, start):
        self.P, self.initial_state_distrib = table, start
        self.observation_space, self.action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(2)


# ------------------------------------------------------------------------------------------------------------- oracles
def random_model(seed, states=4, actions=3, missing=0.4):
    """(P [A, S, S], R [S, A], legal [S, A]) in float64; each state keeps at least one action."""
    rng = np.random.default_rng(seed)
    transitions = rng.dirichlet(np.full(states, 0.5), (actions, states))
    legal = rng.random((states, actions)) > missing
    legal[np.arange(states), rng.integers(0, actions, states)] = True
    return transitions, rng.normal(size=(states, actions)) * 3 - 5, legal


def best_of_all_policies(transitions, rewards, legal, discount):
    """V* [S]: the best values of all deterministic policies of legal actions, each by a linear solve."""
    states, best = len(legal), None
    for policy in itertools.product(*(np.flatnonzero(row) for row in legal)):
        rows = np.arange(states)
        values = np.linalg.solve(np.eye(states) - discount * transitions[policy, rows], rewards[rows, policy])
        best = values if best is None else np.maximum(best, values)
    return best


def forms_of_illegal(transitions, rewards, legal):
    """The same model three times: by a mask, by rewards of -inf, by rows of zeros."""
    yield planning.from_matrices(transitions, rewards, legal=legal)
    yield planning.from_matrices(transitions, np.where(legal, rewards, -np.inf))
    yield planning.from_matrices(np.where(legal.T[..., None], transitions, 0), rewards)


# ------------------------------------------------------------------------------------------------------ M1, M12: legal
def test_m1_a_table_with_fewer_actions_in_some_states_keeps_them_all():
    mdp = planning.from_gymnasium(TableEnv(TWO_STATES, [1.0, 0.0]))
    assert_array_equal(mdp.legal, [[True, False], [True, True]])
    assert_array_equal(planning.value_iteration(mdp, 0.9).values, [9, 10])
    gap = planning.from_table({0: {2: [(1, 0, 3, True)]}, 1: []})  # actions 0 and 1 are missing, and state 1 has none
    assert_array_equal(gap.legal, [[False, False, True], [True, False, False]])
    assert_array_equal(planning.value_iteration(gap, 0.9).values, [3, 0])


@pytest.mark.parametrize("name", SOLVERS)
def test_m12_planners_take_legal_actions_only(name):
    for seed in range(2):
        transitions, rewards, legal = random_model(seed)
        best = best_of_all_policies(transitions, rewards, legal, 0.9)
        assert (best_of_all_policies(transitions, rewards, legal | True, 0.9) > best + 0.1).any()
        for mdp in forms_of_illegal(transitions, rewards, legal):
            assert_array_equal(mdp.legal, legal)
            solution = SOLVERS[name](mdp, 0.9)
            assert solution.converged
            assert_allclose(solution.values, best, rtol=0, atol=float(solution.error_bound) + 1e-12)
            assert solution.error_bound < 1e-4
            assert_array_equal(np.isneginf(solution.q_values), ~legal)
            assert legal[np.arange(4), solution.policy].all()


def test_m12_the_operators_read_illegal_actions_in_every_form():
    transitions, rewards, legal = random_model(3)
    values = np.random.default_rng(0).normal(size=4)
    q = np.where(legal, rewards + 0.9 * np.einsum("ast,t->sa", transitions, values), -np.inf)
    padded = dict(probability=np.moveaxis(transitions, 0, 1), start=np.full(4, 0.25))
    padded |= dict(next_state=np.tile(np.arange(4), (4, 3, 1)), ends=np.zeros((4, 3, 4), bool))
    reward = np.broadcast_to(rewards[..., None], (4, 3, 4))
    for mdp in (
        MDP(**padded, reward=reward, legal=legal),
        MDP(**padded, reward=np.where(legal[..., None], reward, -np.inf)),
        MDP(**padded | dict(probability=padded["probability"] * legal[..., None]), reward=reward),
    ):
        for backup in (planning.action_values, jax.jit(planning.action_values)):
            assert_allclose(backup(mdp, values, 0.9), q, rtol=1e-5)
        assert_allclose(planning.bellman_optimality(mdp, values, 0.9), q.max(-1), rtol=1e-5)
        wild = np.where(legal, q, 1e9)  # what a table may hold of actions that nobody took
        ahead = planning.action_values(mdp, q.max(-1), 0.9)
        assert_allclose(planning.bellman_optimality_q(mdp, wild, 0.9), ahead, rtol=1e-5)


def test_m12_horizons_averages_and_regrets_count_legal_actions_only():
    transitions, rewards, legal = random_model(5)
    mdp = planning.from_matrices(transitions, rewards, legal=legal, step_limit=5)
    values = np.zeros(4)
    for _ in range(5):
        values = np.where(legal, rewards + np.einsum("ast,t->sa", transitions, values), -np.inf).max(-1)
    assert_allclose(planning.finite_horizon(mdp, 5)[5], values, rtol=1e-5)
    assert_allclose(planning.best_return(mdp), values.mean(), rtol=1e-5)

    gains = []
    for policy in itertools.product(*(np.flatnonzero(row) for row in legal)):
        chain, rows = transitions[policy, np.arange(4)], np.arange(4)
        balance = np.vstack([chain.T - np.eye(4), np.ones(4)])
        share = np.linalg.lstsq(balance, np.eye(5)[4], rcond=None)[0]
        gains.append(share @ rewards[rows, policy])
    average = planning.relative_value_iteration(mdp)
    assert average.converged
    assert_allclose(average.gain, max(gains), atol=1e-4)
    assert legal[np.arange(4), average.policy].all()

    solution = planning.value_iteration(mdp, 0.9)
    found = regret.compare_with_optimum(mdp, jnp.where(legal, solution.q_values, 1e9), 0.9)
    assert found.error < 1e-4 and abs(found.regret) < 1e-4


def test_m12_policies_share_among_legal_actions_and_others_are_refused():
    transitions, rewards, legal = random_model(1)
    mdp = planning.from_matrices(transitions, rewards, legal=legal)
    q = planning.value_iteration(mdp, 0.9).q_values
    for policy in (
        planning.epsilon_soft_policy(q, 1.0),
        planning.softmax_policy(q, 1e9),
        legal / legal.sum(-1, keepdims=True),
    ):
        assert_allclose(policy, legal / legal.sum(-1, keepdims=True), atol=1e-6)
        assert np.isfinite(planning.policy_evaluation(mdp, policy, 0.9)).all()
    state, action = np.argwhere(~legal)[0]
    chosen = legal.argmax(-1)
    chosen[state] = action
    for policy in (chosen, np.full((4, 3), 1 / 3)):
        with pytest.raises(UserError, match=f"action {action} in state {state}, whose legal actions are"):
            planning.policy_evaluation(mdp, policy, 0.9)


def test_m12_a_state_without_actions_is_terminal_and_without_any_but_minus_inf_refused():
    transitions = np.array([[[0, 1.0], [0, 0]], [[1.0, 0], [0, 0]]])
    mdp = planning.from_matrices(transitions, [[2.0, 1.0], [0, 0]])
    assert_array_equal(planning.value_iteration(mdp, 0.5).values, [2, 0])  # 1 again and again is worth as much
    assert bool(mdp.ends[0, 0, 0]) and not bool(mdp.ends[0, 1, 0])
    with pytest.raises(UserError, match="state 1 has a reward of 7, and all its rows of transitions are zero"):
        planning.from_matrices(transitions, [2.0, 7.0])
    with pytest.raises(UserError, match="every action of state 1 has the reward -inf"):
        planning.from_matrices(np.ones((2, 2, 2)) / 2, [[2.0, 1.0], [-np.inf, -np.inf]])


@pytest.mark.slow
def test_m12_illegal_actions_under_jit_vmap_and_grad():
    transitions, rewards, legal = random_model(2)
    mdp = planning.from_matrices(transitions, rewards, legal=legal)
    hidden = mdp._replace(legal=None, reward=jnp.where(legal[..., None], mdp.reward, -jnp.inf))
    solve = jax.jit(jax.vmap(lambda reward, gamma: planning.value_iteration(hidden._replace(reward=reward), gamma)))
    found = solve(jnp.stack([hidden.reward, 2 * hidden.reward]), jnp.array([0.9, 0.5]))
    assert found.converged.all()
    best = best_of_all_policies(transitions, rewards, legal, 0.9)
    assert_allclose(found.values[0], best, atol=1e-4)
    assert_allclose(found.values[1], best_of_all_policies(transitions, 2 * rewards, legal, 0.5), atol=1e-4)

    def total(reward):
        return planning.value_iteration(mdp._replace(reward=reward), 0.9).values.sum()

    slope = np.asarray(jax.grad(total)(mdp.reward))
    assert np.isfinite(slope).all() and not slope[~legal].any()
    assert_allclose(slope.sum(), 4 / (1 - 0.9), rtol=1e-4)  # all visits of four discounted walks


def test_m12_undiscounted_costs_with_illegal_actions_are_shortest_paths():
    """Bellman-Ford on a random graph whose missing edges are illegal actions."""
    rng, nodes = np.random.default_rng(0), 7
    cost = np.where(rng.random((nodes, nodes)) < 0.5, rng.integers(1, 9, (nodes, nodes)), np.inf)
    cost[np.arange(nodes), (np.arange(nodes) + 1) % nodes] = 9  # so that every node reaches the last
    distance = np.where(np.arange(nodes) == nodes - 1, 0, np.inf)
    for _ in range(nodes):
        distance[:-1] = (cost + distance).min(-1)[:-1]
    transitions = np.zeros((nodes, nodes, nodes))
    transitions[np.arange(nodes), :, np.arange(nodes)] = 1  # action a moves to a
    transitions[:, -1] = 0
    rewards = np.where(np.arange(nodes)[:, None] == nodes - 1, 0, -cost)
    solution = planning.value_iteration(planning.from_matrices(transitions, rewards), 1)
    assert solution.converged
    assert_array_equal(solution.values, -distance)


@pytest.mark.parametrize("name", ["q-learning", "q-iteration", "value-iteration"])
def test_m12_tables_learn_from_legal_actions_only(name):
    """The legal actions cost and the illegal ones would be worth 0, in the table and in its targets."""
    legal = np.array([[True, False], [True, False], [True, True]])
    transitions = np.array([[[0, 1, 0], [0, 0, 1], [0, 0, 0]], [[1, 0, 0], [1, 0, 0], [1, 0, 0]]], float)
    mdp = planning.from_matrices(transitions, [[-1, 0], [-2, 0], [0, -1]], legal=legal & [[True], [True], [False]])
    jax_env = from_mdp(mdp._replace(start=jnp.array([1.0, 0, 0])))
    assert_array_equal(jax_env.observe(jnp.int32(0))["action_mask"], [True, False])
    assert math.isnan(jax_env.step(jax.random.key(0), jnp.int32(0), jnp.int32(1))[1])
    begin, step = autoreset(jax_env, 4)
    entry = agents.REGISTRY[name]
    config = entry.config(discount=0.5)
    agent = entry.make(config, jax_env.spec(4))
    env_state, obs = begin(jax.random.key(0))
    hyper = agents.state.hyper_of(config)
    carry = agent.init(jax.random.key(1), obs, hyper), env_state, obs
    carry, _ = loop.train(agent, step, carry, warmup=0, rounds=60, rollout_length=4, scan=jax.lax.scan)
    q = carry[0].params["q_values"]
    assert np.isfinite(q).all()
    assert_allclose(q[:2, 0], [-2, -2], atol=1e-3)
    found = regret.compare_with_optimum(mdp, q, 0.5)
    assert found.error < 1e-3 and abs(found.regret) < 1e-6


# ------------------------------------------------------------------------------------------------ M10: float32 defaults
def forest() -> MDP:
    """pymdptoolbox's forest(S=3, r1=4, r2=2, p=0.1): wait or cut."""
    transitions = np.zeros((2, 3, 3))
    transitions[0] = [[0.1, 0.9, 0], [0.1, 0, 0.9], [0.1, 0, 0.9]]
    transitions[1, :, 0] = 1
    return planning.from_matrices(transitions, [[0, 0], [0, 1], [4, 2]])


def machine() -> MDP:
    """A good machine earns 10 and breaks with probability 0.1; a broken one costs 2, or 7 to replace it."""
    return planning.from_matrices([[[0.9, 0.1], [0, 1]], [[1.0, 0], [1, 0]]], [[10, 3], [-2, -7]])


def gambler(goal=100, head=0.4) -> MDP:
    """Sutton & Barto, example 4.3: a stake of at most the capital and of what is missing."""
    table = {capital: {} for capital in range(goal + 1)}
    for capital in range(1, goal):
        for stake in range(1, min(capital, goal - capital) + 1):
            won = capital + stake
            outcomes = [(head, won, float(won == goal), False), (1 - head, capital - stake, 0, False)]
            table[capital][stake] = outcomes
    return planning.from_table(table)


ORDINARY = {
    "lake": (lambda: planning.from_gymnasium("FrozenLake-v1"), 0.99),
    "large-lake": (lambda: planning.from_gymnasium("FrozenLake-v1", map_name="8x8"), 0.999),
    "cliff": (lambda: planning.from_gymnasium("CliffWalkingSlippery-v1"), 0.99),
    "taxi": (lambda: planning.from_gymnasium("Taxi-v4"), 0.99),
    "forest": (forest, 0.9),
    "forest-0.99": (forest, 0.99),
    "machine": (machine, 0.95),
    "gambler": (gambler, 0.999),
}


def exact_values(mdp, policy, discount):
    """Values [S] of a policy by a linear solve in NumPy's float64."""
    next_state, probability, reward, ends = (np.asarray(x)[np.arange(len(policy)), policy] for x in mdp[:4])
    probability = probability.astype(float) / probability.astype(float).sum(-1, keepdims=True)
    matrix = np.eye(len(policy))
    for k in range(next_state.shape[-1]):
        np.subtract.at(matrix, (np.arange(len(policy)), next_state[:, k]), discount * probability[:, k] * ~ends[:, k])
    return np.linalg.solve(matrix, (probability * reward).sum(-1))


@pytest.mark.parametrize("model", ORDINARY)
def test_m10_ordinary_models_converge_by_default_and_within_their_bound(model):
    make, discount = ORDINARY[model]
    mdp = make()
    solution = planning.value_iteration(mdp, discount)
    assert solution.converged
    values = exact_values(mdp, np.asarray(solution.policy), discount)
    scale = max(1, abs(values).max())
    assert abs(solution.values - values).max() <= 2 * solution.error_bound <= 2e-3 * scale
    assert solution.error_bound <= 1e-4 * scale
    again = planning.policy_iteration(mdp, discount)
    assert again.converged
    assert_allclose(again.values, values, rtol=0, atol=2 * float(again.error_bound))


def test_m10_known_values():
    assert_allclose(planning.value_iteration(forest(), 0.9).values, [26.244, 29.484, 33.484], atol=1e-4)
    coin = planning.value_iteration(gambler(), 1)
    assert coin.converged
    bold = [0.4**2, 0.4, 0.4 + 0.6 * 0.4]  # all or nothing
    assert_allclose(np.asarray(coin.values)[[25, 50, 75]], bold, atol=1e-6)
    assert planning.relative_value_iteration(machine()).converged


def test_m10_too_few_sweeps_are_still_a_failure():
    assert not planning.value_iteration(forest(), 0.9, max_iterations=5).converged
    assert not planning.relative_value_iteration(machine(), max_iterations=2).converged
    assert not planning.value_iteration(forest(), 1 - 1e-7).converged  # float32 cannot tell a useful bound


# ------------------------------------------------------------------------------------------------ M11: infinite totals
def two_rooms(rewards, back=True) -> MDP:
    """Action 0 goes to the other room, action 1 leaves for good; `rewards` are those of the two moves."""
    table = {s: {0: [(1, 1 - s, rewards[s], False)], 1: [(1, s, 0, True)]} for s in (0, 1)}
    if not back:
        table[1].pop(0)
    return planning.from_table(table)


@pytest.mark.parametrize("rewards", [(1, 0), (1e-3, 1e-3), (3, -1), (-1, 1.01)])
def test_m11_an_endless_positive_reward_is_refused_by_name(rewards):
    mdp = two_rooms(rewards)
    for call in (
        planning.value_iteration,
        planning.q_iteration,
        lambda mdp, discount: planning.best_return(mdp, discount, step_limit=None),
        lambda mdp, discount: regret.compare_with_optimum(mdp, np.zeros((2, 2)), discount),
    ):
        with pytest.raises(UserError, match="from state 0 a positive reward .*relative_value_iteration") as error:
            call(mdp, 1)
        assert "\n" not in str(error.value)


def test_m11_a_positive_reward_that_stops_or_is_paid_back_is_no_fault():
    assert_array_equal(planning.value_iteration(two_rooms((1, -1)), 1).values, [1, 0])
    assert_array_equal(planning.value_iteration(two_rooms((1, -3)), 1).values, [1, 0])
    assert_array_equal(planning.value_iteration(two_rooms((5, 7), back=False), 1).values, [5, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert planning.value_iteration(planning.from_gymnasium("FrozenLake-v1"), 1).converged


def test_m11_every_endless_model_is_told_of_the_average_reward():
    for reward in (1.0, -1.0):  # one state, one action: QuantEcon's beta 1
        loop_ = planning.from_state_action_pairs([reward], [[1.0]], [0], [0])
        with pytest.raises(UserError, match="discount below 1.*relative_value_iteration"):
            planning.value_iteration(loop_, 1)
        assert planning.relative_value_iteration(loop_).gain == reward


def test_m11_what_was_not_proven_is_warned_of():
    with pytest.warns(RuntimeWarning, match="proved no optimum at discount 1.*relative_value_iteration"):
        solution = planning.value_iteration(planning.from_gymnasium("FrozenLake-v1"), 1, max_iterations=3)
    assert not solution.converged


# ----------------------------------------------------------------------------------------------------- M13: matrices
def quantecon_pairs():
    """The worked example of QuantEcon's DiscreteDP: two states, three pairs, beta 0.95: v = [-8.57142857, -20]."""
    return [5.0, 10.0, -1.0], [[0.5, 0.5], [0.0, 1.0], [0.0, 1.0]], [0, 0, 1], [0, 1, 0]


def test_m13_every_form_of_p_and_r_is_the_same_model():
    transitions, rewards, _ = random_model(0, states=5, actions=2)
    transitions[transitions < 0.1] = 0
    transitions /= transitions.sum(-1, keepdims=True)
    of_moves = np.random.default_rng(1).normal(size=transitions.shape)
    mean = np.einsum("ast,ast->sa", transitions, of_moves)
    expected = best_of_all_policies(transitions, mean, np.ones((5, 2), bool), 0.8)
    csr = scipy.sparse.csr_matrix
    objects = np.empty(2, object)
    objects[:] = [csr(p) for p in transitions]
    for p, r, options in (
        (transitions, of_moves, {}),
        (list(transitions), tuple(of_moves), {}),
        (transitions.tolist(), of_moves.tolist(), {}),
        (objects, of_moves, {}),
        ([csr(p) for p in transitions], [csr(r) for r in of_moves], {}),
        (tuple(scipy.sparse.coo_array(p) for p in transitions), mean, {}),
        (jnp.asarray(transitions), csr(mean), {}),
        (np.moveaxis(transitions, 0, 1), mean, dict(action_axis=1)),
        (np.moveaxis(transitions, 0, 1), np.moveaxis(of_moves, 0, 1), dict(action_axis=1)),
    ):
        mdp = planning.from_matrices(p, r, **options)
        assert mdp.probability.shape == (5, 2, np.count_nonzero(transitions, -1).max()) and mdp.legal is None
        assert_allclose(planning.value_iteration(mdp, 0.8).values, expected, atol=1e-4)
    by_state = planning.from_matrices(transitions, mean[:, 0])
    same = np.repeat(mean[:, :1], 2, 1)
    expected = best_of_all_policies(transitions, same, np.ones((5, 2), bool), 0.8)
    assert_allclose(planning.value_iteration(by_state, 0.8).values, expected, atol=1e-4)


def test_m13_quantecon_s_pairs():
    mdp = planning.from_state_action_pairs(*quantecon_pairs())
    solution = planning.value_iteration(mdp, 0.95)
    assert solution.converged and solution.policy.tolist() == [0, 0]
    assert_allclose(solution.values, [-8.57142857, -20], atol=1e-4)
    rewards, transitions, states, actions = quantecon_pairs()
    sparse = planning.from_state_action_pairs(rewards, scipy.sparse.lil_matrix(transitions), states, actions)
    assert all(np.array_equal(x, y) for x, y in zip(sparse[:5], mdp[:5], strict=True))
    product = np.array([[[0.5, 0.5], [0, 1]], [[0, 1], [0.5, 0.5]]])
    dense = planning.from_matrices(product, [[5, 10], [-1, -np.inf]], action_axis=1)
    assert_allclose(planning.value_iteration(dense, 0.95).values, [-8.57142857, -20], atol=1e-4)


def test_m13_a_large_sparse_model_stays_sparse():
    states = 20_000
    here = np.arange(states)
    walks = [
        scipy.sparse.csr_array((np.ones(states), (here, np.clip(here + step, 0, states - 1))), (states, states))
        for step in (-1, 1)
    ]
    mdp = planning.from_matrices(walks, np.where(here == 0, 1.0, 0.0))
    assert mdp.next_state.shape == (states, 2, 1)
    values = planning.value_iteration(mdp, 0.5).values
    assert_allclose(values[:8], 2.0 ** (1 - np.arange(8)), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, r: planning.from_matrices(p[0], r), r"transitions has shape \(3, 3\)"),
        (lambda p, r: planning.from_matrices(p[:, :2], r), r"transitions has matrices of shape .*action_axis=1"),
        (lambda p, r: planning.from_matrices(p, r.T), "rewards has shape .*transpose it"),
        (lambda p, r: planning.from_matrices(p, p[:1]), "rewards has 1 matrices"),
        (lambda p, r: planning.from_matrices(2 * p, r), "state 0, action 0 has probabilities that do not sum to 1"),
        (lambda p, r: planning.from_matrices("P", r), "transitions has dtype"),
        (lambda p, r: planning.from_matrices(p, r, action_axis=2), "action_axis is 2"),
        (lambda p, r: planning.from_matrices(p, r, start=[1, 1, 1]), "start sums to 3"),
        (lambda p, r: planning.from_matrices(p, r, legal=[[1, 1]]), "legal has shape"),
        (lambda p, r: planning.from_matrices(p, r, step_limit=2.5), "step_limit is 2.5"),
        (lambda p, r: planning.from_state_action_pairs([1], [[1.0]], [0], [0.5]), "actions must hold whole numbers"),
        (lambda p, r: planning.from_state_action_pairs([1], [[1.0]], [1], [0]), "states must hold .* below 1"),
        (lambda p, r: planning.from_state_action_pairs([1] * 2, [[1.0]] * 2, [0, 0], [0, 0]), "listed twice"),
    ],
)
def test_m13_other_forms_are_refused_by_the_argument_s_name(call, message):
    with pytest.raises(UserError, match=message) as error:
        call(np.stack([np.eye(3)] * 2), np.zeros((3, 2)))
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- M8, M9: odd arguments
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: planning.value_iteration(m, max_iterations=10.5),
            "max_iterations is 10.5; it must be a whole",
        ),
        (lambda m: planning.value_iteration(m, max_iterations="10"), "max_iterations is '10'"),
        (lambda m: planning.prioritised_sweeping(m, max_iterations=0.5), "max_iterations is 0.5"),
        (lambda m: planning.relative_value_iteration(m, max_iterations=True), "max_iterations is True"),
        (lambda m: planning.gauss_seidel_value_iteration(m, blocks=2.5), "blocks is 2.5; it must be a whole number in"),
        (lambda m: planning.gauss_seidel_value_iteration(m, blocks="2"), "blocks is '2'"),
        (lambda m: planning.modified_policy_iteration(m, evaluation_sweeps=2.5), "evaluation_sweeps is 2.5"),
        (lambda m: planning.policy_iteration(m, krylov_steps=0), "krylov_steps is 0"),
        (lambda m: planning.policy_iteration(m, forcing=1), "forcing is 1"),
        (lambda m: planning.softmax_policy(np.zeros((3, 2)), 0), "temperature is 0"),
        (lambda m: planning.softmax_policy(np.zeros((3, 2)), math.nan), "temperature is nan"),
        (lambda m: planning.epsilon_soft_policy(np.zeros((3, 2)), 1.5), "epsilon is 1.5"),
        (lambda m: planning.finite_horizon(m, 2.5), "horizon is 2.5"),
    ],
)
def test_m8_numbers_out_of_range_are_refused_by_name(call, message):
    with pytest.raises(UserError, match=message) as error:
        call(forest())
    assert "\n" not in str(error.value)


def test_m9_a_model_of_python_lists_is_a_model():
    listed = MDP(*(x.tolist() for x in forest()[:5]))
    expected = planning.value_iteration(forest(), 0.9).values
    for name in ("value", "gauss-seidel", "prioritised"):
        assert_allclose(SOLVERS[name](listed, 0.9).values, expected, atol=1e-4)
    assert_allclose(planning.bellman_optimality(listed, [0, 0, 0], 0.9), [0, 1, 4])
    assert_allclose(planning.policy_evaluation(listed, [0, 0, 0], 0.9), expected, atol=1e-4)
    assert_allclose(planning.policy_evaluation(listed, [[1.0, 0.0]] * 3, 0.9), expected, atol=1e-4)
    assert planning.relative_value_iteration(listed).converged
    assert from_mdp(listed).num_states == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: planning.value_iteration(m, discount="0.9"), "discount is '0.9'; it must be a number in"),
        (lambda m: planning.policy_iteration(m, discount=None), "discount is None"),
        (lambda m: planning.best_return(m, [0.9]), "discount is"),
        (lambda m: planning.value_iteration(m, tolerance="small"), "tolerance is 'small'"),
        (lambda m: planning.softmax_policy(np.zeros((3, 2)), "1"), "temperature is '1'"),
        (lambda m: planning.finite_horizon(m, "2"), "horizon is '2'"),
        (lambda m: planning.start_returns(m, [0, 0, 0], step_limit="2"), "step_limit is '2'"),
        (
            lambda m: planning.policy_evaluation(m, [0.0, 1.0, 0.0], 0.9),
            r"policy \[S\] must hold actions",
        ),
        (lambda m: planning.policy_evaluation(m, [True, False, True], 0.9), r"policy \[S\] must hold actions"),
        (lambda m: planning.policy_evaluation(m, "best", 0.9), "policy has dtype"),
        (lambda m: planning.value_iteration(m._replace(reward="x"), 0.9), "reward has dtype"),
        (lambda m: planning.value_iteration(m._replace(reward=[[1], [1, 2]]), 0.9), "reward is no array"),
        (lambda m: planning.value_iteration(m._replace(ends=m.reward), 0.9), "ends is float"),
        (lambda m: planning.value_iteration("FrozenLake-v1"), "the model is a str; it must be a jaxql.MDP.*gymnasium"),
        (lambda m: planning.value_iteration((m.probability, m.reward)), "the model is a tuple.*from_matrices"),
        (lambda m: planning.from_table({1: {0: []}, 2: {0: []}}), "states 1, 2; they must be 0, 1"),
        (lambda m: planning.from_table({0: {0: [(1.0, 0, 1.0)]}}), "state 0, action 0 of the .*terminated"),
        (lambda m: planning.from_table({0: {"up": []}}), "keys 'up'; they must be whole numbers"),
        (lambda m: planning.from_table({0: {0: [(1.0, 0.5, 1.0, True)]}}), "state 0, action 0 of the"),
        (lambda m: planning.from_table({0: {0: 1.0}}), "state 0, action 0 of the"),
        (lambda m: planning.from_table(None), "the transition table is a NoneType"),
        (
            lambda m: planning.from_gymnasium(TableEnv({1: {0: []}}, [1.0])),
            "TableEnv: the transition table has",
        ),
    ],
)
def test_m9_strange_arguments_are_refused_by_name(call, message):
    with pytest.raises(UserError, match=message) as error:
        call(forest())
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------- M16: linear programme, initial values
def test_m16_the_linear_programme_finds_the_values_and_the_visits():
    for seed in range(3):
        transitions, rewards, legal = random_model(seed)
        mdp = planning.from_matrices(transitions, rewards, legal=legal)
        weights = np.random.default_rng(seed).dirichlet(np.ones(4))
        found = planning.linear_programming(mdp, 0.9, weights=weights)
        assert_allclose(found.values, best_of_all_policies(transitions, rewards, legal, 0.9), atol=1e-4)
        assert found.error_bound < 1e-4 and not np.asarray(found.occupancy)[~legal].any()
        visits = planning.discounted_occupancy(mdp, found.policy, 0.9, start=weights)
        assert_allclose(found.occupancy.sum(-1), visits, rtol=1e-4)
        assert_allclose((found.occupancy * np.where(legal, rewards, 0)).sum(), weights @ found.values, rtol=1e-4)
    for options, message in ((dict(discount=1), "discount is 1"), (dict(weights=[0, 1, 1, 1]), "weights must be")):
        with pytest.raises(UserError, match=message):
            planning.linear_programming(mdp, **options)


@pytest.mark.parametrize("name", SOLVERS)
def test_m16_initial_values_save_sweeps_and_change_nothing(name):
    mdp, solver = forest(), SOLVERS[name]
    cold = solver(mdp, 0.9)
    warm = solver(mdp, 0.9, initial_values=cold.values)
    wild = solver(mdp, 0.9, initial_values=np.array([1e4, -1e4, 0.0]))
    assert warm.iterations < cold.iterations or cold.iterations <= 3
    for solution in (warm, wild):
        assert solution.converged
        assert_allclose(solution.values, cold.values, atol=1e-4)
    for bad in ([0.0], [0.0, 1.0, math.nan]):
        with pytest.raises(UserError, match="initial_values has"):
            solver(mdp, 0.9, initial_values=bad)


def test_m16_initial_values_of_the_other_planners():
    mdp = forest()
    q = planning.q_iteration(mdp, 0.9).q_values
    assert planning.q_iteration(mdp, 0.9, initial_values=q).iterations <= 5
    average = planning.relative_value_iteration(mdp)
    warm = planning.relative_value_iteration(mdp, initial_values=average.bias)
    assert warm.iterations < average.iterations
    assert_allclose(warm.gain, average.gain, atol=1e-5)
    sweeps = dict(method="sweeps", initial_values=[26.0, 29.0, 33.0], max_iterations=150)
    assert_allclose(planning.policy_evaluation(mdp, [0, 0, 0], 0.9, **sweeps), [26.244, 29.484, 33.484], atol=1e-4)
    lake = planning.from_gymnasium("FrozenLake-v1")
    best = planning.value_iteration(lake, 1)
    warm = planning.value_iteration(lake, 1, initial_values=best.values)
    assert warm.converged and warm.iterations < best.iterations
    assert_allclose(warm.values, best.values, atol=1e-6)
