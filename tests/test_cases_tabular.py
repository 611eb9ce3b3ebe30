"""Tables on inputs that once failed: long sums, eager loops, wrong arguments; the textbook's algorithms as loops."""

import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import write_tables
from numpy.testing import assert_allclose, assert_array_equal

from jaxql import bellman, distributional, planning, tabular
from jaxql.planning import regret
from jaxql.types import MDP

pytestmark = pytest.mark.cases
S, A, B, T = 5, 3, 2, 12

# ---------------------------------------------------------------------------------------------------- eager calls

MODEL = planning.from_gymnasium("FrozenLake-v1", map_name="4x4")
ACTIONS, TABLE = np.zeros(16, int), np.zeros((16, 4))
COIN = MODEL._replace(reward=(np.asarray(MODEL.reward) > 0).astype(np.float32))
Q, KEY = jnp.zeros((S, A)), jax.random.key(0)
ROW = dict(state=jnp.array([0, 1]), action=jnp.array([1, 2]), reward=jnp.ones(2), next_state=jnp.array([1, 0]))
ROW |= dict(valid=jnp.ones(2, bool), learning_rate=0.1)
STEP, NEXT = ROW | dict(discount=0.9), dict(next_action=jnp.array([0, 1]))
NO, ROWS = jnp.zeros((B, T), bool), dict(state=jnp.zeros((B, T + 1), int), reward=jnp.ones((B, T)))
ROWS |= dict(terminated=NO.at[:, -1].set(True), truncated=NO, valid=~NO, gamma=0.9)
LONG, SHORT = ROWS | dict(action=ROWS["state"]), ROWS | dict(action=ROWS["state"][:, :-1])
EPISODES = SHORT | dict(state=SHORT["action"])
SEEN = tabular.count(tabular.empty_counts(S, A), 0, 1, 1.0, False, 2, True)
RATE = dict(learning_rate=0.1)


EAGER = {
    "count": lambda: tabular.count(SEEN, 0, 1, 1.0, False, 2, True),
    "constant": lambda: tabular.constant(0.1)(jnp.arange(1, 4)),
    "differential_q_learning_update": lambda: tabular.differential_q_learning_update(Q, 0.0, **ROW),
    "differential_sarsa_update": lambda: tabular.differential_sarsa_update(Q, 0.0, **ROW, **NEXT),
    "double_q_learning_update": lambda: tabular.double_q_learning_update(jnp.zeros((2, S, A)), KEY, **STEP),
    "dyna_q_plus_update": lambda: tabular.dyna_q_plus_update(Q, SEEN, Q, KEY, 0.9, 0.1, 0.01, 5),
    "dyna_q_update": lambda: tabular.dyna_q_update(Q, SEEN, KEY, 0.9, 0.1, 5),
    "elapsed_since_visit": lambda: tabular.elapsed_since_visit(Q, 0, 1, True),
    "empirical_mdp": lambda: tabular.empirical_mdp(SEEN),
    "empty_counts": lambda: tabular.empty_counts(S, A),
    "empty_sparse_counts": lambda: tabular.empty_sparse_counts(S, A, 2),
    "epsilon_greedy_probabilities": lambda: tabular.epsilon_greedy_probabilities(Q, 0.1),
    "expected_sarsa_update": lambda: tabular.expected_sarsa_update(Q, **STEP, epsilon=0.1),
    "monte_carlo_update": lambda: tabular.monte_carlo_update(Q, Q.astype(int), **EPISODES),
    "n_step_q_learning_update": lambda: tabular.n_step_q_learning_update(Q, **SHORT, **RATE, n=3),
    "n_step_q_sigma_update": lambda: tabular.n_step_q_sigma_update(
        Q, **LONG, **RATE, n=3, policy=jnp.full((S, A), 1 / A), sigma=0.5
    ),
    "n_step_sarsa_update": lambda: tabular.n_step_sarsa_update(Q, **LONG, **RATE, n=3),
    "naive_q_lambda_update": lambda: tabular.naive_q_lambda_update(Q, jnp.zeros((2, S, A)), **STEP, lambda_=0.5),
    "off_policy_monte_carlo_update": lambda: tabular.off_policy_monte_carlo_update(Q, Q, **EPISODES, behaviour=0.5),
    "one_over_n": lambda: tabular.one_over_n()(jnp.arange(1, 4)),
    "q_learning_update": lambda: tabular.q_learning_update(Q, **STEP),
    "robbins_monro": lambda: tabular.robbins_monro(0.7)(jnp.arange(1, 4)),
    "sarsa_lambda_update": lambda: tabular.sarsa_lambda_update(
        Q, jnp.zeros((2, S, A)), **STEP, **NEXT, lambda_=0.5, trace="dutch"
    ),
    "sarsa_update": lambda: tabular.sarsa_update(Q, **STEP, **NEXT),
    "true_online_sarsa_lambda_update": lambda: tabular.true_online_sarsa_lambda_update(
        Q, jnp.zeros((2, S, A)), jnp.zeros(2), **STEP, **NEXT, lambda_=0.5
    ),
    "true_online_td_lambda_update": lambda: tabular.true_online_td_lambda_update(
        Q[:, 0], jnp.zeros((2, S)), jnp.zeros(2), **{k: x for k, x in STEP.items() if k != "action"}, lambda_=0.5
    ),
    "visit": lambda: tabular.visit(Q.astype(int), ROW["state"], ROW["action"], ROW["valid"]),
    "watkins_q_lambda_update": lambda: tabular.watkins_q_lambda_update(
        Q, jnp.zeros((2, S, A)), **STEP, **NEXT, lambda_=0.5
    ),
    "action_gap": lambda: regret.action_gap(TABLE),
    "action_values": lambda: planning.action_values(MODEL, ACTIONS, 0.9),
    "bellman_expectation": lambda: planning.bellman_expectation(MODEL, ACTIONS, TABLE[:, 0], 0.9),
    "bellman_expectation_q": lambda: planning.bellman_expectation_q(MODEL, ACTIONS, TABLE, 0.9),
    "bellman_optimality": lambda: planning.bellman_optimality(MODEL, TABLE[:, 0], 0.9),
    "bellman_optimality_q": lambda: planning.bellman_optimality_q(MODEL, TABLE, 0.9),
    "best_return": lambda: planning.best_return(MODEL, 0.9),
    "check_mdp": lambda: planning.check_mdp(MODEL),
    "compare_with_optimum": lambda: regret.compare_with_optimum(MODEL, TABLE, 0.9, OPTIMUM),
    "discounted_occupancy": lambda: planning.discounted_occupancy(MODEL, ACTIONS, 0.9),
    "epsilon_soft_policy": lambda: planning.epsilon_soft_policy(TABLE, 0.1),
    "expected_return": lambda: planning.expected_return(MODEL, ACTIONS, 0.9),
    "finite_horizon": lambda: planning.finite_horizon(MODEL, 5, 0.9),
    "from_matrices": lambda: planning.from_matrices(np.full((2, 3, 3), 1 / 3), np.ones((3, 2))),
    "from_state_action_pairs": lambda: planning.from_state_action_pairs(np.ones(2), np.eye(2), [0, 1], [0, 0]),
    "from_table": lambda: planning.from_table({0: {0: [(1.0, 0, 1.0, False)]}}),
    "linear_programming": lambda: planning.linear_programming(MODEL, 0.9),
    "from_gymnasium": lambda: planning.from_gymnasium("FrozenLake-v1"),
    "gauss_seidel_value_iteration": lambda: planning.gauss_seidel_value_iteration(MODEL, 0.9, 1e-3),
    "greedy_policy": lambda: planning.greedy_policy(TABLE),
    "loss_bounds": lambda: planning.loss_bounds(MODEL, TABLE[:, 0], 0.9),
    "modified_policy_iteration": lambda: planning.modified_policy_iteration(MODEL, 0.9, 1e-3),
    "policy_average": lambda: planning.policy_average(ACTIONS, TABLE),
    "policy_evaluation": lambda: planning.policy_evaluation(MODEL, ACTIONS, 0.9),
    "policy_iteration": lambda: planning.policy_iteration(MODEL, 0.9, 1e-3),
    "policy_regret": lambda: regret.policy_regret(MODEL, ACTIONS, 0.9, OPTIMUM),
    "prioritised_sweeping": lambda: planning.prioritised_sweeping(MODEL, 0.9, 1e-3),
    "q_iteration": lambda: planning.q_iteration(MODEL, 0.9, 1e-3),
    "relative_value_iteration": lambda: planning.relative_value_iteration(MODEL, 1e-3),
    "softmax_policy": lambda: planning.softmax_policy(TABLE),
    "start_returns": lambda: planning.start_returns(MODEL, ACTIONS, 0.9),
    "stationary_distribution": lambda: planning.stationary_distribution(MODEL, ACTIONS),
    "success_probability": lambda: planning.success_probability(MODEL, ACTIONS),
    "tabulate": lambda: regret.tabulate(lambda params, obs: params[obs], jnp.zeros((16, 4)), 16),
    "value_iteration": lambda: planning.value_iteration(MODEL, 0.9, 1e-3),
    "value_iteration undiscounted": lambda: planning.value_iteration(MODEL, 1.0, 1e-3),
    "policy_evaluation by sweeps": lambda: planning.policy_evaluation(MODEL, ACTIONS, 0.9, method="sweeps"),
    "start_returns without limit": lambda: planning.start_returns(MODEL, ACTIONS, 0.9, None),
    "count lists": lambda: tabular.count(SEEN, [0, 1], [1, 1], [1.0, 2.0], [False, True], [2, 0], [True, True]),
    "count sparsely": lambda: tabular.count(SPARSE, 0, 1, 1.0, False, 2, True),
    "q_learning_update of lists": lambda: tabular.q_learning_update(Q, [0], [1], [1.0], 0.9, [2], [True], 0.1),
    "distorted_mean": lambda: distributional.distorted_mean(jnp.arange(4.0), distortion=lambda tau: tau**0.5),
}
OPTIMUM, SPARSE = planning.q_iteration(MODEL, 0.9), tabular.empty_sparse_counts(S, A, 2)


def resident_mb():
    """Memory of this process, in MB."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.fixture
def compiles():
    """A list to which every compilation of a program adds an entry."""
    found = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.often(
    "epsilon_greedy_probabilities",
    "best_return",
    "dyna_q_update",
    "n_step_q_sigma_update",
    "monte_carlo_update",
    "value_iteration undiscounted",
    "from_matrices",
    "true_online_sarsa_lambda_update",
    "double_q_learning_update",
    "policy_regret",
    "q_iteration",
)
@pytest.mark.parametrize("name", EAGER)
def test_m7_an_eager_loop_compiles_nothing_new(name, compiles):
    """300 calls: before, some functions compiled at each, for 55 to 475 ms and 2 MB that were never freed."""
    for _ in range(3):
        jax.block_until_ready(EAGER[name]())
    compiles.clear()
    before = resident_mb()
    for i in range(300):
        EAGER[name]()
        assert len(compiles) == 0, f"call {i} compiled a program"
    assert resident_mb() - before < 16


def test_m7_the_eager_test_calls_every_public_function():
    packages = tabular, planning, regret
    names = {name for package in packages for name, _ in write_tables.functions(package)}
    assert names <= EAGER.keys()


def test_m7_ten_thousand_eager_updates_with_flat_memory(compiles):
    q, row = jnp.zeros((S, A)), (jnp.array([0]), jnp.array([1]), jnp.array([1.0]), 0.5, jnp.array([0]), True)
    q, _ = tabular.q_learning_update(q, *row, 0.1)
    compiles.clear()
    before = resident_mb()
    for _ in range(10_000):
        q, _ = tabular.q_learning_update(q, *row, 0.1)
    assert not compiles and resident_mb() - before < 16
    assert_allclose(q[0, 1], 2.0, rtol=1e-5)  # 1 + 0.5 * 2


# ---------------------------------------------------------------------------------------------------- long sums


@jax.jit
def count_often(counts, reward, times):
    return jax.lax.fori_loop(0, times, lambda _, c: tabular.count(c, 0, 0, reward, False, 1, True), counts)


def mean_of(counts, place=1):
    return float(tabular.empirical_mdp(counts).reward[0, 0, place])


def empty(sparse, states=2, actions=1):
    return tabular.empty_sparse_counts(states, actions, 2) if sparse else tabular.empty_counts(states, actions)


@pytest.mark.parametrize("sparse", [False, True])
def test_m4_a_mean_reward_stays_exact(sparse):
    counts = count_often(empty(sparse), 0.1, 300_000)
    place = 0 if sparse else 1
    assert counts.transitions[0, 0, place] == 300_000
    assert_allclose(mean_of(counts, place), 0.1, rtol=1e-6)


@pytest.mark.slow
def test_m4_three_million_visits():
    counts = count_often(tabular.empty_counts(2, 1), 0.1, 3_000_000)
    assert counts.transitions[0, 0, 1] == 3_000_000
    assert_allclose(mean_of(counts), 0.1, rtol=1e-6)


@pytest.mark.slow
def test_m4_forty_million_visits():
    counts = count_often(tabular.empty_counts(2, 1), 1.0, 40_000_000)
    assert counts.transitions[0, 0, 1] == 40_000_000 and mean_of(counts) == 1


def test_m4_counts_go_on_beyond_2_to_the_24():
    counts = tabular.empty_counts(2, 1)
    many = counts._replace(
        transitions=counts.transitions.at[0, 0, 1].set(2**24), rewards=counts.rewards.at[0, 0, 1].set(2.0**24)
    )
    counts = count_often(many, 1.0, 1001)
    assert counts.transitions[0, 0, 1] == 2**24 + 1001
    assert float(counts.rewards[0, 0, 1]) + float(counts.rounding[0, 0, 1]) == 2**24 + 1001
    zeros, n = jnp.zeros(1001, int), 1001
    batch = tabular.count(many, zeros, zeros, jnp.ones(n), zeros, zeros + 1, True)  # the same rows at once
    for found, want in zip(batch, counts, strict=True):
        assert_array_equal(found, want)


def test_m4_a_full_count_stays_full():
    counts = tabular.empty_counts(2, 1)
    counts = counts._replace(transitions=counts.transitions.at[0, 0, 1].set(2**31 - 3))
    counts = count_often(counts, 1.0, 10)
    assert 2**31 - 4 <= int(counts.transitions[0, 0, 1]) < 2**31
    mdp = tabular.empirical_mdp(counts)
    assert_allclose(mdp.probability[0, 0], [0, 1, 0, 0])
    visits, n = tabular.visit(jnp.full((1, 1), 2**31 - 2, jnp.int32), [0, 0, 0], [0, 0, 0], [True] * 3)
    assert n.tolist() == [2**31 - 1] * 3 and visits[0, 0] == 2**31 - 1


@pytest.mark.parametrize("sparse", [False, True])
def test_m4_sums_of_any_rewards_are_those_of_float64(sparse):
    rng = np.random.default_rng(0)
    n = 4096
    state, action, later = rng.integers(2, size=n), rng.integers(2, size=n), rng.integers(2, size=n)
    reward = (rng.normal(size=n) * 10.0 ** rng.integers(-3, 5, n)).astype(np.float32)
    counts, want = empty(sparse, 2, 2), np.zeros((2, 2, 2))
    for part in np.split(np.arange(n), 4):
        rows = (x[part] for x in (state, action, reward, np.zeros(n, bool), later, np.ones(n, bool)))
        counts = tabular.count(counts, *rows)
    np.add.at(want, (state, action, later), reward.astype(float))
    found = np.asarray(counts.rewards, float) + np.asarray(counts.rounding, float)
    if sparse:
        found = np.take_along_axis(found, np.argsort(counts.next_state, axis=-1), axis=-1)
    assert_allclose(found, want, rtol=1e-11, atol=1e-9)


def test_m4_dyna_and_the_model_take_the_exact_mean():
    counts = count_often(tabular.empty_counts(2, 1), 0.1, 300_000)
    _, errors = tabular.dyna_q_update(jnp.zeros((2, 1)), counts, jax.random.key(0), 0.0, 0.0, 4)
    assert_allclose(errors, 0.1, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------- wrong arguments

ONE = dict(state=[0], action=[1], reward=[1.0], discount=0.9, next_state=[2], valid=[True], learning_rate=0.1)
EPISODE = dict(state=[[0, 1]], action=[[0, 1]], reward=[[1.0, 1.0]], terminated=[[False, True]])
EPISODE |= dict(truncated=[[False, False]], valid=[[True, True]], gamma=0.9)
WINDOW = EPISODE | dict(state=[[0, 1, 2]], learning_rate=0.1, n=2)


def q_learning(**change):
    return tabular.q_learning_update(**(dict(q=Q) | ONE | change))


def counted(**change):
    row = {name: x for name, x in ONE.items() if name not in ("discount", "learning_rate")}
    return tabular.count(**(dict(counts=SEEN, terminated=False) | row | change))


def windowed(**change):
    return tabular.n_step_q_learning_update(**(dict(q=Q) | WINDOW | change))


def monte_carlo(**change):
    return tabular.monte_carlo_update(**(dict(q=Q, visits=jnp.zeros((S, A), int)) | EPISODE | change))


def off_policy(**change):
    return tabular.off_policy_monte_carlo_update(**(dict(q=Q, weights=Q, behaviour=0.5) | EPISODE | change))


def traced(**change):
    return tabular.sarsa_lambda_update(
        **(dict(q=Q, traces=jnp.zeros((1, S, A)), next_action=[0], lambda_=0.5) | ONE | change)
    )


def sigma(**change):
    rows = WINDOW | dict(action=[[0, 1, 2]], policy=jnp.full((S, A), 1 / A), sigma=0.5)
    return tabular.n_step_q_sigma_update(**(dict(q=Q) | rows | change))


def dyna(**change):
    return tabular.dyna_q_update(**(dict(q=Q, counts=SEEN, key=KEY, discount=0.9, learning_rate=0.1, steps=2) | change))


WRONG = [  # a call, its wrong arguments, and what its one line says
    (q_learning, dict(action=[1.0]), "action is float32; it must hold whole numbers"),
    (q_learning, dict(action=np.array([1.0])), "action is float64; it must hold whole numbers"),
    (q_learning, dict(action=[True]), "action is bool; it must hold whole numbers"),
    (q_learning, dict(state=[0.0]), "state is float32"),
    (q_learning, dict(next_state=[jnp.nan]), "next_state is float32"),
    (q_learning, dict(action=[A]), "action is 3; it must lie in 0..2"),
    (q_learning, dict(action=[-1]), "action is -1; it must lie in 0..2"),
    (q_learning, dict(state=jnp.array([S])), "state is 5; it must lie in 0..4"),
    (q_learning, dict(next_state=np.array([2**32])), "next_state is 4294967296; it must lie in 0..4"),
    (q_learning, dict(discount="0.9"), "discount is '0.9'; it must be a number"),
    (q_learning, dict(discount=None), "discount is None; it must be a number"),
    (q_learning, dict(discount=1.5), r"discount is 1.5; it must lie in \[0, 1\]"),
    (q_learning, dict(discount=[np.nan]), "discount is nan"),
    (q_learning, dict(learning_rate=-0.1), "learning_rate is -0.1"),
    (q_learning, dict(learning_rate=2), "learning_rate is 2"),
    (q_learning, dict(learning_rate=1j), "learning_rate is 1j; it must be a number"),
    (q_learning, dict(reward=[np.inf]), "reward is inf; it must be finite in float"),
    (q_learning, dict(reward=[jnp.nan]), "reward is nan; it must be finite"),
    (q_learning, dict(reward=["1"]), "reward is .*; it must be a number or an array"),
    (q_learning, dict(valid="yes"), "valid is 'yes'"),
    (q_learning, dict(q=jnp.zeros(3)), r"q has shape \(3,\); it needs \[S, A\]"),
    (q_learning, dict(q=[[0, 0, 0]] * S), "the table is int.* holds floats"),
    (q_learning, dict(q="table"), "q is 'table'"),
    (counted, dict(action=[1.0]), "action is float32"),
    (counted, dict(action=[7]), "action is 7; it must lie in 0..2"),
    (counted, dict(next_state=[9]), "next_state is 9; it must lie in 0..4"),
    (counted, dict(reward=[np.nan]), "reward is nan"),
    (counted, dict(reward=[[1.0]]), r"reward has shape \(1, 1\); it needs \(1,\)"),
    (counted, dict(counts=[1]), "counts is .*; it must come from empty_counts"),
    (windowed, dict(n="2"), "n is '2'; it must be a whole number, at least 1"),
    (windowed, dict(n=2.5), "n is 2.5; it must be a whole number"),
    (windowed, dict(n=0), "n is 0; it must be a whole number, at least 1"),
    (windowed, dict(n=True), "n is True"),
    (windowed, dict(gamma="0.9"), "gamma is '0.9'"),
    (windowed, dict(gamma=-1), "gamma is -1"),
    (windowed, dict(action=[[0, 1.5]]), "action is float32"),
    (windowed, dict(action=[[0, 9]]), "action is 9"),
    (windowed, dict(state=[[0, 1, 9]]), "state is 9"),
    (windowed, dict(reward=[1.0, 1.0]), r"reward has shape \(2,\); it needs \[B, T\]"),
    (windowed, dict(reward=jnp.zeros((1, 0))), "reward has shape .1, 0.; it needs"),
    (monte_carlo, dict(first_visit="yes"), "first_visit is 'yes'; it must be True or False"),
    (monte_carlo, dict(visits=Q), "visits is float32; it must hold whole numbers"),
    (monte_carlo, dict(state=[[0, 1, 2]]), "state has shape"),
    (off_policy, dict(behaviour=0.0), r"behaviour is 0.0; it must lie in \(0, 1\]"),
    (off_policy, dict(policy=jnp.ones((S, A))), "policy is .*; it must hold probabilities"),
    (off_policy, dict(weights=jnp.zeros(S)), "weights has shape"),
    (traced, dict(trace="fast"), "trace is 'fast'; it must be 'accumulating' or 'replacing' or 'dutch'"),
    (traced, dict(lambda_=1.1), "lambda_ is 1.1"),
    (traced, dict(next_action=[3]), "next_action is 3; it must lie in 0..2"),
    (sigma, dict(sigma=2.0), "sigma is 2.0"),
    (sigma, dict(ratio=-1.0), "ratio is -1.0; it must be finite and at least 0"),
    (sigma, dict(policy=jnp.ones(S)), "policy"),
    (dyna, dict(steps=2.5), "steps is 2.5; it must be a whole number"),
    (dyna, dict(key=0), "key is 0; it must be a key"),
    (dyna, dict(q=jnp.zeros((S, A + 1))), r"q has shape \(5, 4\); it needs \(5, 3\), as the counts"),
    (lambda: tabular.empty_counts(2.0, 1), {}, "num_states is 2.0; it must be a whole number, at least 1"),
    (lambda: tabular.empty_counts(2, 0), {}, "num_actions is 0"),
    (lambda: tabular.empty_sparse_counts(2, 1, "3"), {}, "max_successors is '3'"),
    (lambda: tabular.empirical_mdp(SEEN, start=[1.0]), {}, r"start has shape \(1,\)"),
    (lambda: tabular.empirical_mdp(SEEN, value="1"), {}, "value is '1'"),
    (lambda: tabular.constant("0.1"), {}, "rate is '0.1'"),
    (lambda: tabular.constant(1.5), {}, "rate is 1.5"),
    (lambda: tabular.robbins_monro("0.7"), {}, "omega is '0.7'"),
    (lambda: tabular.epsilon_greedy_probabilities(Q, 1.5), {}, "epsilon is 1.5"),
    (lambda: tabular.visit(Q, 0, 0, True), {}, "visits is float32"),
    (lambda: tabular.visit(Q.astype(int), 0, 5, True), {}, "action is 5"),
]


@pytest.mark.parametrize(("call", "change", "message"), WRONG)
def test_m9_a_wrong_argument_is_named_in_one_line(call, change, message):
    with pytest.raises(ValueError, match=message) as raised:
        call(**change)
    assert "\n" not in str(raised.value)


def test_m9_a_traced_n_is_refused_by_name():
    for name, call in dict(n=windowed, steps=dyna).items():
        with pytest.raises(ValueError, match=f"{name} is traced; it must be a Python int"):
            jax.jit(lambda x, name=name, call=call: call(**{name: x}))(2)


def test_m9_traced_actions_are_checked_by_dtype():
    with pytest.raises(ValueError, match="action is float32"):
        jax.jit(lambda action: q_learning(action=action))(jnp.array([1.0]))


def test_m9_numbers_of_numpy_and_large_integers_are_taken():
    windowed(n=np.int64(2), gamma=np.float64(0.5))
    q, errors = q_learning(reward=10**12, state=np.array([0], np.uint8), valid=np.array([1]))
    assert_allclose(errors, [1e12], rtol=1e-6)


def test_m9_rows_that_are_not_valid_may_hold_anything():
    q, errors = q_learning(state=[99], action=[-5], reward=[np.nan], valid=[False])
    assert_array_equal(q, Q)
    assert_array_equal(errors, [0])


# ---------------------------------------------------------------------------------------------------- oracles


def random_mdp(seed, ending=0.2, deterministic=False):
    """A model of S states and A actions with two successors each, the second of which ends with odds `ending`."""
    rng = np.random.default_rng(seed)
    shape = S, A, 2
    p = rng.uniform(0.2, 0.8, (S, A))
    p = np.ones((S, A)) if deterministic else p
    return MDP(
        next_state=rng.integers(0, S, shape),
        probability=np.stack([p, 1 - p], axis=-1),
        reward=rng.normal(size=shape).astype(np.float32),
        ends=np.broadcast_to(np.array([False, ending > 0]), shape),
        start=np.full(S, 1 / S),
    )


def random_policy(seed):
    return np.random.default_rng(seed).dirichlet(np.full(A, 2.0), S)


def play(mdp, behaviour, envs, length, seed, odds_of_truncation=0.05):
    """state, action [envs, length + 1] and rows [envs, length] of episodes under NEXT_STEP autoreset."""
    rng, columns = np.random.default_rng(seed), []
    s, over = rng.integers(0, S, envs), np.zeros(envs, bool)
    upto = np.cumsum(behaviour, axis=1)
    for _ in range(length + 1):
        valid, a = ~over, np.minimum((rng.random(envs)[:, None] > upto[s]).sum(1), A - 1)
        k = (rng.random(envs) > np.asarray(mdp.probability)[s, a, 0]).astype(int)
        reward, after, ends = (np.asarray(x)[s, a, k] for x in (mdp.reward, mdp.next_state, mdp.ends))
        terminated = ends & valid
        truncated = ~terminated & valid & (rng.random(envs) < odds_of_truncation)
        columns.append((s, a, np.where(valid, reward, np.nan), terminated, truncated, valid))
        s, over = np.where(valid, after, rng.integers(0, S, envs)), terminated | truncated
    state, action, *rows = (np.stack(x, axis=1) for x in zip(*columns, strict=True))
    return state, action, *(x[:, :-1] for x in rows)


def episodes_of(rows):
    """For each env, the complete episodes: lists of rows (t, s, a, r)."""
    state, action, reward, terminated, truncated, valid = rows
    for b in range(len(reward)):
        episode = []
        for t in range(reward.shape[1]):
            if not valid[b, t]:
                episode = []
                continue
            episode.append((t, state[b, t], action[b, t], float(reward[b, t])))
            if terminated[b, t]:
                yield b, episode
            if terminated[b, t] or truncated[b, t]:
                episode = []


def close(found, want):
    assert_allclose(np.asarray(found), np.asarray(want), rtol=1e-3, atol=1e-4)


def transitions(rows, t):
    """The columns [B] of row t, as the one-step updates take them."""
    state, action, reward, terminated, truncated, valid = rows
    row = dict(state=state[:, t], action=action[:, t], reward=reward[:, t], next_state=state[:, t + 1])
    return row | dict(discount=np.where(terminated[:, t], 0, 0.9), next_action=action[:, t + 1], valid=valid[:, t])


@pytest.mark.parametrize("trace", ["accumulating", "replacing", "dutch"])
def test_m16_sarsa_lambda_equals_the_book(trace):
    rows = play(random_mdp(0), random_policy(0), B, 30, seed=0)
    start = np.random.default_rng(0).normal(size=(S, A))
    q, z, table, traces = start.copy(), np.zeros((B, S, A)), jnp.asarray(start, float), jnp.zeros((B, S, A))
    for t in range(30):
        x = transitions(rows, t)
        table, traces, errors = tabular.sarsa_lambda_update(
            table, traces, **x, learning_rate=0.3, lambda_=0.8, trace=trace
        )
        for b in range(B):
            if not x["valid"][b]:
                z[b] = 0
                continue
            pair, ahead = (x["state"][b], x["action"][b]), (x["next_state"][b], x["next_action"][b])
            delta = x["reward"][b] + x["discount"][b] * q[ahead] - q[pair]
            z[b][pair] = {"accumulating": z[b][pair] + 1, "replacing": 1, "dutch": 0.7 * z[b][pair] + 1}[trace]
            q += 0.3 * delta * z[b]
            z[b] *= x["discount"][b] * 0.8
            close(errors[b], delta)
    close(table, q)
    close(traces, z)


def test_m16_lambda_0_is_one_step():
    rows = play(random_mdp(1), random_policy(1), B, 10, seed=1)
    q = other = true = jnp.asarray(np.random.default_rng(1).normal(size=(S, A)), float)
    traces, fresh, old = jnp.zeros((B, S, A)), jnp.zeros((B, S, A)), jnp.zeros(B)
    for t in range(10):
        x = transitions(rows, t) | dict(learning_rate=0.3)
        q, _ = tabular.sarsa_update(q, **x)
        other, traces, _ = tabular.sarsa_lambda_update(other, traces, **x, lambda_=0.0)
        true, fresh, old, _ = tabular.true_online_sarsa_lambda_update(true, fresh, old, **x, lambda_=0.0)
    close(other, q)
    close(true, q)


def online_lambda_return(x, r, discount, w, rate, lambda_):
    """The online lambda-return algorithm, for features that are indices: all updates are redone at every horizon."""
    kept = [w.copy()]  # kept[h] is w after horizon h
    for h in range(1, len(r) + 1):
        new = w.copy()
        for t in range(h):
            target, weight, total, factor = 0.0, 1.0, 0.0, 1.0
            for n in range(
                1, h - t + 1
            ):  # G = sum of (1 - lambda) lambda**(n - 1) n-step returns, the rest to the last
                total += factor * r[t + n - 1]
                factor *= discount[t + n - 1]
                n_step = total + factor * kept[t + n - 1][x[t + n]]
                target += (weight * (1 - lambda_) if n < h - t else weight) * n_step
                weight *= lambda_
            new[x[t]] += rate * (target - new[x[t]])
        kept.append(new)
    return kept[1:]


def test_m16_true_online_td_lambda_is_the_online_lambda_return_algorithm():
    rng = np.random.default_rng(0)
    x, r, discount = rng.integers(0, S, 13), rng.normal(size=12), np.full(12, 0.9)
    discount[-1] = 0
    w = rng.normal(size=S)
    values, traces, old = jnp.asarray(w, float), jnp.zeros((1, S)), jnp.zeros(1)
    for t, want in enumerate(online_lambda_return(x, r, discount, w, 0.4, 0.7)):
        row = dict(state=x[t, None], reward=r[t, None], discount=discount[t], next_state=x[t + 1, None], valid=True)
        values, traces, old, _ = tabular.true_online_td_lambda_update(
            values, traces, old, **row, learning_rate=0.4, lambda_=0.7
        )
        close(values, want)
    assert not traces.any()


def test_m16_true_online_sarsa_is_the_online_lambda_return_algorithm_of_pairs():
    rng = np.random.default_rng(1)
    s, a, r, discount = rng.integers(0, S, 13), rng.integers(0, A, 13), rng.normal(size=12), np.full(12, 0.9)
    w = rng.normal(size=(S, A))
    q, traces, old = jnp.asarray(w, float), jnp.zeros((1, S, A)), jnp.zeros(1)
    for t, want in enumerate(online_lambda_return(s * A + a, r, discount, w.reshape(-1), 0.4, 0.7)):
        row = dict(state=s[t, None], action=a[t, None], reward=r[t, None], discount=discount[t], valid=True)
        row |= dict(next_state=s[t + 1, None], next_action=a[t + 1, None])
        q, traces, old, _ = tabular.true_online_sarsa_lambda_update(
            q, traces, old, **row, learning_rate=0.4, lambda_=0.7
        )
        close(q, want.reshape(S, A))


@pytest.mark.parametrize("pairs", [False, True])
def test_m16_true_online_updates_equal_the_book_over_many_episodes(pairs):
    rows, rate = play(random_mdp(2), random_policy(2), 1, 60, seed=2), 0.3
    shape = (S, A) if pairs else (S,)
    w = np.random.default_rng(2).normal(size=shape)
    table, traces, old = jnp.asarray(w, float), jnp.zeros((1, *shape)), jnp.zeros(1)
    z, v_old = np.zeros(shape), 0.0
    for t in range(60):
        x = transitions(rows, t)
        update = tabular.true_online_sarsa_lambda_update if pairs else tabular.true_online_td_lambda_update
        row = x if pairs else {name: x[name] for name in x if "action" not in name}
        table, traces, old, errors = update(table, traces, old, **row, learning_rate=rate, lambda_=0.8)
        if not x["valid"][0]:
            z, v_old = np.zeros(shape), 0.0
            assert errors[0] == 0
            continue
        here, ahead = (x["state"][0], x["action"][0]), (x["next_state"][0], x["next_action"][0])
        here, ahead = (here, ahead) if pairs else (here[:1], ahead[:1])
        gamma, v, later = x["discount"][0], w[here], w[ahead]
        delta = x["reward"][0] + gamma * later - v
        z[here] = (1 - rate) * z[here] + 1
        w += rate * (delta + v - v_old) * z
        w[here] -= rate * (v - v_old)
        z, v_old = gamma * 0.8 * z, later if gamma else 0.0
        close(errors[0], delta)
    close(table, w)


@pytest.mark.parametrize("first_visit", [True, False])
def test_m16_monte_carlo_averages_the_returns(first_visit):
    rows = play(random_mdp(3), random_policy(3), 3, 80, seed=3)
    rows = rows[0][:, :-1], rows[1][:, :-1], *rows[2:]
    returns = {pair: [] for pair in np.ndindex(S, A)}
    for _, episode in episodes_of(rows):
        g = 0.0
        for i in reversed(range(len(episode))):
            _, s, a, r = episode[i]
            g = r + 0.9 * g
            if not first_visit or (s, a) not in [(x[1], x[2]) for x in episode[:i]]:
                returns[s, a].append(g)
    start = jnp.full((S, A), 7.0)
    q, visits, errors = tabular.monte_carlo_update(
        start, jnp.zeros((S, A), int), *rows, gamma=0.9, first_visit=first_visit
    )
    for pair, seen in returns.items():
        assert visits[pair] == len(seen)
        close(q[pair], np.mean(seen) if seen else 7.0)
    assert np.isfinite(errors).all()


def test_m16_true_online_lambda_1_is_every_visit_monte_carlo():
    """Within one episode; Sutton & Barto, section 12.4: at its end the last pass is made with complete returns."""
    rng = np.random.default_rng(4)
    s, a, r = rng.integers(0, S, 11), rng.integers(0, A, 11), rng.normal(size=10)
    start = jnp.asarray(rng.normal(size=(S, A)), float)
    no = np.zeros((1, 10), bool)
    over = no.copy()
    over[0, -1] = True
    rows = s[None, :-1], a[None, :-1], r[None], over, no, ~no
    visits = jnp.zeros((S, A), int)
    want, *_ = tabular.monte_carlo_update(start, visits, *rows, gamma=0.9, learning_rate=0.2, first_visit=False)
    q, traces, old = start, jnp.zeros((1, S, A)), jnp.zeros(1)
    for t in range(10):
        row = dict(state=s[t, None], action=a[t, None], reward=r[t, None], discount=0.0 if t == 9 else 0.9, valid=True)
        row |= dict(next_state=s[t + 1, None], next_action=a[t + 1, None])
        q, traces, old, _ = tabular.true_online_sarsa_lambda_update(
            q, traces, old, **row, learning_rate=0.2, lambda_=1.0
        )
    close(q, want)


@pytest.mark.parametrize("control", [False, True])
def test_m16_off_policy_monte_carlo_equals_the_book(control):
    behaviour, target = random_policy(5), None if control else random_policy(6)
    rows = play(random_mdp(5), behaviour, 3, 80, seed=5)
    rows = rows[0][:, :-1], rows[1][:, :-1], *rows[2:]
    chance = behaviour[rows[0], rows[1]]
    start = np.random.default_rng(5).normal(size=(S, A))
    q, c = start.copy(), np.zeros((S, A))
    by_env = {b: [] for b in range(3)}
    for b, episode in episodes_of(rows):
        by_env[b].append(episode)
    for b, episodes in by_env.items():
        for episode in reversed(episodes):
            g, w = 0.0, 1.0
            for t, s, a, r in reversed(episode):
                g = 0.9 * g + r
                c[s, a] += w
                q[s, a] += w / c[s, a] * (g - q[s, a])
                w *= (a == np.argmax(q[s]) if control else target[s, a]) / chance[b, t]
                if w == 0:
                    break
    found, weights, _ = tabular.off_policy_monte_carlo_update(
        jnp.asarray(start, float), jnp.zeros((S, A)), *rows, behaviour=chance, gamma=0.9, policy=target
    )
    close(found, q)
    close(weights, c)


def test_m16_off_policy_monte_carlo_finds_the_values_of_the_target():
    mdp, behaviour, target = random_mdp(7), np.full((S, A), 1 / A), random_policy(7)
    rows = play(mdp, behaviour, 200, 200, seed=7, odds_of_truncation=0.0)
    rows = rows[0][:, :-1], rows[1][:, :-1], *rows[2:]
    q, *_ = tabular.off_policy_monte_carlo_update(Q, Q, *rows, behaviour=1 / A, gamma=0.9, policy=target)
    values = planning.policy_evaluation(mdp, target, 0.9)
    want = planning.action_values(mdp, np.asarray(values), 0.9)
    assert np.abs(q - want).max() < 0.2  # about 1000 returns of a spread near 1.5 to each pair


def slow_window(rows, b, t, n):
    """The rows t, t + 1, ... of a window: (r, discount, s', a', index of a', whether it ends)."""
    state, action, reward, terminated, truncated, _ = rows
    for m in range(n):
        i = t + m
        stops = terminated[b, i] or truncated[b, i] or m == n - 1 or i + 1 == reward.shape[1]
        yield reward[b, i], 0 if terminated[b, i] else 0.9, state[b, i + 1], action[b, i + 1], i + 1, terminated[b, i]
        if stops:
            return


@pytest.mark.parametrize("control_variates", [True, False])
@pytest.mark.parametrize("n", [1, 4])
def test_m16_q_sigma_equals_the_book(n, control_variates):
    behaviour, pi = random_policy(8), random_policy(9)
    rows = play(random_mdp(8), behaviour, B, 25, seed=8)
    state, action, reward, terminated, truncated, valid = rows
    rng = np.random.default_rng(8)
    sigma, ratio = rng.random((B, 26)), (pi / behaviour)[state, action]
    q = rng.normal(size=(S, A))
    found, errors = tabular.n_step_q_sigma_update(
        jnp.asarray(q, float), *rows, pi, sigma, n, 0.9, 0.3, ratio=ratio, control_variates=control_variates
    )
    for t, b in np.ndindex(25, B):
        if not valid[b, t]:
            assert errors[b, t] == 0
            continue
        window = list(slow_window(rows, b, t, n))
        _, _, s, a, *_ = window[-1]
        g = q[s, a]
        for r, gamma, s, a, i, _ in reversed(window):
            sampled, mean = sigma[b, i] * ratio[b, i], pi[s] @ q[s]
            if control_variates:
                g = r + gamma * ((sampled + (1 - sigma[b, i]) * pi[s, a]) * (g - q[s, a]) + mean)
            else:  # the sampled part is the return; the other part a tree backup
                g = r + gamma * (sampled * g + (1 - sigma[b, i]) * (mean + pi[s, a] * (g - q[s, a])))
        pair = state[b, t], action[b, t]
        close(errors[b, t], g - q[pair])
        q[pair] += 0.3 * (g - q[pair])
    close(found, q)


def test_m16_q_sigma_between_sarsa_and_tree_backup():
    rows, pi = play(random_mdp(10), random_policy(10), B, 20, seed=10), random_policy(10)
    q = jnp.asarray(np.random.default_rng(10).normal(size=(S, A)), float)
    settings = dict(n=3, gamma=0.9, learning_rate=0.3)
    plain = tabular.n_step_q_sigma_update(q, *rows, policy=pi, sigma=1.0, **settings, control_variates=False)
    for found, want in zip(plain, tabular.n_step_sarsa_update(q, *rows, **settings), strict=True):
        close(found, want)
    state, action, reward, *_ = play(random_mdp(10, ending=0), random_policy(10), 1, 8, 11, odds_of_truncation=0.0)
    no = np.zeros((1, 8), bool)
    _, errors = tabular.n_step_q_sigma_update(q, state, action, reward, no, no, ~no, pi, 0.0, 8, 0.9, 0.0)
    tree = bellman.tree_backup(
        q[state[0, :-1]], action[0, :-1], reward[0], np.full(8, 0.9), q[state[0, 1:]], action[0, 1:], pi[state[0, 1:]]
    )
    close(errors[0], tree)


def test_m16_one_step_of_q_sigma_with_control_variates_is_expected_sarsa():
    rows, q = play(random_mdp(12), random_policy(12), 1, 20, seed=12), np.random.default_rng(12).normal(size=(S, A))
    pi = tabular.epsilon_greedy_probabilities(jnp.asarray(q, float), 0.3)
    _, errors = tabular.n_step_q_sigma_update(jnp.asarray(q, float), *rows, pi, 1.0, 1, 0.9, 0.0)
    for t in range(20):
        x = {name: y for name, y in transitions(rows, t).items() if name != "next_action"}
        _, want = tabular.expected_sarsa_update(jnp.asarray(q, float), **x, learning_rate=0.0, epsilon=0.3)
        close(errors[0, t], want[0])


@pytest.mark.parametrize("control_variates", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
def test_m16_q_sigma_off_policy_does_not_move_the_right_values(sigma, control_variates):
    """At the values of the target policy the errors have mean 0, whatever the behaviour."""
    mdp, behaviour, pi = random_mdp(13), random_policy(13), random_policy(14)
    q = planning.action_values(mdp, np.asarray(planning.policy_evaluation(mdp, pi, 0.9)), 0.9)
    rows = play(mdp, behaviour, 400, 40, seed=13, odds_of_truncation=0.0)
    ratio = (pi / behaviour)[rows[0], rows[1]]
    _, errors = tabular.n_step_q_sigma_update(
        q, *rows, pi, sigma, 3, 0.9, 0.0, ratio=ratio, control_variates=control_variates
    )
    by_env = np.where(rows[-1], errors, 0).sum(axis=1)  # envs are independent
    assert abs(by_env.mean()) < 5 * by_env.std() / np.sqrt(len(by_env))


@pytest.mark.parametrize("n", [1, 3])
def test_m16_n_step_sarsa_with_ratios_equals_the_book(n):
    behaviour, pi = random_policy(15), random_policy(16)
    rows = play(random_mdp(15), behaviour, B, 25, seed=15)
    state, action, reward, terminated, truncated, valid = rows
    ratio, q = (pi / behaviour)[state, action], np.random.default_rng(15).normal(size=(S, A))
    found, errors = tabular.n_step_sarsa_update(jnp.asarray(q, float), *rows, n, 0.9, 0.2, ratio=ratio)
    for t, b in np.ndindex(25, B):
        if not valid[b, t]:
            continue
        g, factor, rho = 0.0, 1.0, 1.0
        window = list(slow_window(rows, b, t, n))
        for r, gamma, *_, i, over in window:
            g, factor, rho = g + factor * r, factor * gamma, rho if over else rho * ratio[b, i]
        g += factor * q[window[-1][2:4]]
        pair = state[b, t], action[b, t]
        close(errors[b, t], g - q[pair])
        q[pair] += 0.2 * rho * (g - q[pair])
    close(found, q)


def test_m16_dyna_q_plus_plans_with_a_bonus_for_what_was_not_tried():
    rows = play(random_mdp(17), random_policy(17), 1, 12, seed=17)
    state, action, reward, terminated, truncated, valid = (x[0] for x in rows)
    counts = tabular.count(tabular.empty_counts(S, A), state[:-1], action[:-1], reward, terminated, state[1:], valid)
    tau, elapsed = np.zeros((S, A)), jnp.zeros((S, A))
    for t in range(12):
        elapsed = tabular.elapsed_since_visit(elapsed, state[t], action[t], valid[t])
        if valid[t]:
            tau += 1
            tau[state[t], action[t]] = 0
    assert_array_equal(elapsed, tau)
    q = np.random.default_rng(17).normal(size=(S, A)).astype(np.float32)
    kappa, n = 0.1, 20_000
    still, errors = tabular.dyna_q_plus_update(q, counts, elapsed, jax.random.key(0), 0.9, 0.0, kappa, n)
    assert_array_equal(still, q)
    want = []
    for s, a in np.ndindex(S, A):
        if not (valid & (state[:-1] == s)).any():
            continue  # a state that was never visited is not planned in
        tried = valid & (state[:-1] == s) & (action[:-1] == a)
        outcomes = [(reward[t], 0 if terminated[t] else 0.9, state[t + 1]) for t in np.flatnonzero(tried)]
        targets = [r + gamma * q[s2].max() for r, gamma, s2 in outcomes or [(0.0, 0.9, s)]]
        want.append(np.mean(targets) + kappa * np.sqrt(tau[s, a]) - q[s, a])
    assert abs(errors.mean() - np.mean(want)) < 5 * errors.std() / np.sqrt(n)
    plain, _ = tabular.dyna_q_update(q, counts, jax.random.key(0), 0.9, 0.5, 10)
    assert np.isfinite(plain).all()


@pytest.mark.parametrize("sarsa", [False, True])
def test_m16_differential_updates_equal_the_book(sarsa):
    rows = play(random_mdp(18, ending=0), random_policy(18), B, 40, seed=18, odds_of_truncation=0.1)
    q, average = np.random.default_rng(18).normal(size=(S, A)), 0.3
    table, mean = jnp.asarray(q, float), 0.3
    update = tabular.differential_sarsa_update if sarsa else tabular.differential_q_learning_update
    for t in range(40):
        x = {name: y for name, y in transitions(rows, t).items() if name != "discount"}
        row = x if sarsa else {name: y for name, y in x.items() if name != "next_action"}
        table, mean, errors = update(table, mean, **row, learning_rate=0.2, eta=0.5)
        for b in np.flatnonzero(x["valid"]):
            pair, s2, a2 = (x["state"][b], x["action"][b]), x["next_state"][b], x["next_action"][b]
            error = x["reward"][b] - average + (q[s2, a2] if sarsa else q[s2].max()) - q[pair]
            q[pair] += 0.2 * error
            average += 0.5 * 0.2 * error
            close(errors[b], error)
    close(table, q)
    close(mean, average)


def test_m16_differential_q_learning_finds_the_best_average_reward():
    mdp = random_mdp(19, ending=0, deterministic=True)
    chain = mdp._replace(next_state=np.stack([(np.arange(S)[:, None] + np.arange(1, A + 1)) % S] * 2, axis=-1))
    best = planning.relative_value_iteration(chain, 1e-5)
    state, action = (x.reshape(-1) for x in np.indices((S, A)))
    reward, after = np.asarray(chain.reward)[..., 0].reshape(-1), np.asarray(chain.next_state)[..., 0].reshape(-1)
    _, _, errors = tabular.differential_q_learning_update(
        best.q_values, best.gain, state, action, reward, after, True, 0.0
    )
    assert_allclose(errors, 0, atol=1e-4)  # the optimum is a fixed point
    q, average = jnp.zeros((S, A)), 0.0
    for _ in range(500):
        q, average, _ = tabular.differential_q_learning_update(
            q, average, state, action, reward, after, True, 0.3, eta=0.1
        )
    assert_allclose(average, best.gain, atol=1e-3)
    assert_allclose(q - q.max(), best.q_values - best.q_values.max(), atol=1e-2)


def test_m16_sparse_counts_give_the_dense_model():
    rows = play(random_mdp(20), random_policy(20), 4, 60, seed=20)
    state, action, reward, terminated, _, valid = rows
    columns = [x.reshape(-1) for x in (state[:, :-1], action[:, :-1], reward, terminated, state[:, 1:], valid)]
    dense = tabular.count(tabular.empty_counts(S, A), *columns)
    sparse = tabular.count(tabular.empty_sparse_counts(S, A, 2), *columns)
    assert sparse.overflow == 0 and sparse.transitions.sum() == valid.sum() == dense.transitions.sum()
    values = np.random.default_rng(20).normal(size=S).astype(np.float32)
    for unvisited in ("zero", "self", "optimistic"):
        models = [tabular.empirical_mdp(counts, unvisited=unvisited, value=3.0) for counts in (dense, sparse)]
        for model in models:
            planning.check_mdp(model)
        close(*(planning.action_values(model, values, 0.9) for model in models))
    q, errors = tabular.dyna_q_update(Q, sparse, KEY, 0.9, 0.5, 200)
    assert np.isfinite(q).all() and np.abs(errors).max() > 0


def test_m16_sparse_counts_say_what_found_no_place():
    counts = tabular.empty_sparse_counts(4, 1, 2)
    counts = tabular.count(counts, [0] * 4, [0] * 4, [1.0, 2.0, 3.0, 4.0], [False] * 4, [1, 2, 3, 1], [True] * 4)
    assert counts.overflow == 1 and counts.next_state[0, 0].tolist() == [1, 2]
    assert counts.transitions[0, 0].tolist() == [2, 1] and counts.rewards[0, 0].tolist() == [5.0, 2.0]
    with pytest.raises(ValueError, match="1 transitions found no place; make the counts with more max_successors"):
        tabular.empirical_mdp(counts)


def test_m16_sparse_counts_of_a_large_state_space():
    """Dense counts of 100,000 states would need 640 GB."""
    n = 100_000
    state = np.arange(n - 1)
    counts = tabular.empty_sparse_counts(n, 4, 1)
    counts = tabular.count(counts, state, state % 4, np.ones(n - 1), state == n - 2, state + 1, True)
    assert sum(x.nbytes for x in counts) < 10e6 and counts.transitions.sum() == n - 1
    mdp = tabular.empirical_mdp(counts)
    assert mdp.next_state.shape == (n, 4, 2)
    values = planning.bellman_optimality(mdp, jnp.zeros(n), 0.9)
    assert_array_equal(values, [1.0] * (n - 1) + [0.0])
