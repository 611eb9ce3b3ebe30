"""Counts and table updates against loops in NumPy float64, and the empirical model against the true one."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal

from jaxql import bellman, planning, tabular
from jaxql.bellman.windows import lambda_windows
from jaxql.errors import UserError
from jaxql.explore import epsilon_greedy
from jaxql.tabular import Counts, count, empirical_mdp, empty_counts, q_learning_update

pytestmark = pytest.mark.float64
S, A, B = 4, 2, 32
compiled_count, compiled_update = jax.jit(count), jax.jit(q_learning_update)
few = settings(max_examples=20, deadline=None, derandomize=True)


def rows(seed):
    """(state, action, reward, terminated, next_state, valid), [B] each; rows that are not valid hold rubbish."""
    rng = np.random.default_rng(seed)
    valid = rng.random(B) < 0.8
    reward = np.where(valid, rng.integers(-3, 4, B), np.nan)
    state, next_state, action = rng.integers(0, S, B), rng.integers(0, S, B), rng.integers(0, A, B)
    return state, action, reward.astype(np.float32), rng.random(B) < 0.4, next_state, valid


def slow_count(batches):
    transitions, rewards, ends = np.zeros((S, A, S), int), np.zeros((S, A, S)), np.zeros((S, A, S), int)
    for batch in batches:
        for s, a, r, over, s2, valid in zip(*batch, strict=True):
            if valid:
                transitions[s, a, s2] += 1
                rewards[s, a, s2] += r
                ends[s, a, s2] += over
    return Counts(transitions, rewards, ends, np.zeros((S, A, S)))


@few
@given(st.integers(0, 10**6))
def test_counts_equal_a_loop(seed):
    batches = [rows(seed), rows(seed + 1)]
    counts = empty_counts(S, A)
    for batch in batches:
        counts = compiled_count(counts, *batch)
    for found, expected in zip(counts, slow_count(batches), strict=True):
        assert_array_equal(found, expected)


def test_counting_a_batch_is_counting_its_rows_one_by_one():
    batch, counts = rows(5), empty_counts(S, A)
    for row in zip(*batch, strict=True):
        counts = compiled_count(counts, *row)
    for found, expected in zip(counts, count(empty_counts(S, A), *batch), strict=True):
        assert_array_equal(found, expected)


def test_a_truncated_row_is_not_an_end():
    """There is no argument for it: a time limit reaches the counts as terminated=False, and the model goes on."""
    counts = count(empty_counts(2, 1), [0, 0], [0, 0], [1.0, 1.0], [False, True], [1, 1], [True, True])
    mdp = empirical_mdp(counts)
    assert_allclose(mdp.probability[0, 0], [0, 0.5, 0, 0.5])
    assert_array_equal(mdp.ends[0, 0], [False, False, True, True])
    assert_array_equal(mdp.next_state[0, 0], [0, 1, 0, 1])


@few
@given(st.integers(0, 10**6))
def test_the_empirical_model_is_made_of_frequencies_and_mean_rewards(seed):
    batch = rows(seed)
    counts, slow = count(empty_counts(S, A), *batch), slow_count([batch])
    mdp = jax.jit(empirical_mdp)(counts)
    planning.check_mdp(mdp)
    values = np.random.default_rng(seed).normal(size=S)
    found = jax.jit(planning.action_values)(mdp, jnp.asarray(values, mdp.reward.dtype), 0.9)
    for s, a in np.ndindex(S, A):
        n = slow.transitions[s, a].sum()
        going_on = slow.transitions[s, a] - slow.ends[s, a]
        expected = (slow.rewards[s, a].sum() + 0.9 * going_on @ values) / n if n else 0.0
        assert_allclose(found[s, a], expected, rtol=1e-5, atol=1e-5)


def test_enough_counts_give_the_true_model():
    """Cliff walking is deterministic, so every pair once will do: the optimum of the counts is that of the env."""
    cliff = planning.from_gymnasium("CliffWalking-v1")
    state, action = (x.reshape(-1) for x in np.indices(cliff.probability.shape[:2]))
    outcome = [np.asarray(x)[..., 0].reshape(-1) for x in (cliff.reward, cliff.ends, cliff.next_state)]
    counts = count(empty_counts(48, 4), state, action, *outcome, np.ones(len(state), bool))
    learned = empirical_mdp(counts, start=cliff.start, step_limit=100)
    assert_allclose(planning.best_return(learned), -13, rtol=1e-6)


def test_counts_of_a_random_env_approach_its_model():
    """Hoeffding and a union bound: after n draws of each pair no frequency is off by eps, but for odds of 1e-9."""
    lake, rng, n = planning.from_gymnasium("FrozenLake-v1"), np.random.default_rng(0), 4000
    p = np.asarray(lake.probability, float)
    p = p / p.sum(-1, keepdims=True)
    counts = empty_counts(16, 4)
    for s, a in np.ndindex(16, 4):
        k = rng.choice(3, n, p=p[s, a])
        seen = [np.asarray(x)[s, a][k] for x in (lake.reward, lake.ends, lake.next_state)]
        counts = compiled_count(counts, np.full(n, s), np.full(n, a), *seen, np.ones(n, bool))
    learned = empirical_mdp(counts)
    truth = np.zeros((16, 4, 32))
    for s, a, k in np.ndindex(16, 4, 3):
        truth[s, a, lake.next_state[s, a, k] + 16 * bool(lake.ends[s, a, k])] += p[s, a, k]
    eps = np.sqrt(np.log(2 * 64 * 32 / 1e-9) / (2 * n))
    assert np.abs(learned.probability - truth).max() < eps
    assert not np.asarray(learned.probability)[truth == 0].any()


def test_pairs_never_visited_are_what_was_asked_for():
    counts = count(empty_counts(2, 2), 0, 0, 1.0, False, 0, True)  # staying in 0 pays 1; nothing else is known
    zero = planning.value_iteration(empirical_mdp(counts), 0.5, 1e-4)
    assert_allclose(zero.q_values, [[2, 0], [0, 0]], atol=1e-4)
    stay = planning.value_iteration(empirical_mdp(counts, unvisited="self"), 0.5, 1e-4)
    assert_allclose(stay.q_values, [[2, 1], [0, 0]], atol=1e-4)
    bold = planning.value_iteration(empirical_mdp(counts, unvisited="optimistic", value=6.0), 0.5, 1e-4)
    assert_allclose(bold.q_values, [[4, 6], [6, 6]], atol=1e-4)
    with pytest.raises(UserError, match="unvisited is 'best'"):
        empirical_mdp(counts, unvisited="best")


def test_the_start_is_uniform_unless_given():
    counts = empty_counts(2, 1)
    assert_array_equal(empirical_mdp(counts).start, [0.5, 0.5])
    given_start = empirical_mdp(counts, start=np.array([1, 0]), step_limit=9)
    assert_array_equal(given_start.start, [1, 0])
    assert given_start.step_limit == 9


def slow_update(q, batch, discount, learning_rate):
    q, errors = np.array(q, float), []
    for (s, a, r, over, s2, valid), rate in zip(zip(*batch, strict=True), learning_rate, strict=True):
        error = r + (0 if over else discount * q[s2].max()) - q[s, a] if valid else 0.0
        q[s, a] += rate * error
        errors.append(error)
    return q, errors


@few
@given(st.integers(0, 10**6))
def test_the_update_equals_a_loop_over_the_envs(seed):
    batch, rng = rows(seed), np.random.default_rng(seed)
    state, action, reward, terminated, next_state, valid = batch
    q, rate = rng.normal(size=(S, A)), rng.random(B)
    table = jnp.asarray(q, float)
    discount = np.where(terminated, 0, 0.9)
    arguments = table, state, action, reward, discount, next_state, valid
    found, errors = compiled_update(*arguments, rate)
    for result, expected in zip((found, errors), slow_update(q, batch, 0.9, rate), strict=True):
        assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert found.dtype == errors.dtype == table.dtype
    shared, _ = compiled_update(*arguments, 0.25)
    assert_allclose(shared, slow_update(q, batch, 0.9, np.full(B, 0.25))[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.ones((B, 1))}, "reward has shape"),
        ({"valid": np.ones(1, bool)}, "valid has shape"),
        ({"learning_rate": np.ones(B - 1)}, "learning_rate has shape"),
        ({"state": 0}, "state has shape"),
        ({"q": np.zeros((S, A), int)}, "the table is int.* holds floats"),
    ],
)
def test_columns_that_would_broadcast_are_refused_by_name(change, message):
    state, action, reward, _, next_state, valid = rows(0)
    row = dict(q=jnp.zeros((S, A)), state=state, action=action, reward=reward, discount=0.9)
    row |= dict(next_state=next_state, valid=valid, learning_rate=0.1) | change
    with pytest.raises(ValueError, match=message):
        q_learning_update(**row)
    if "q" not in change:
        with pytest.raises(ValueError, match=message):
            tabular.naive_q_lambda_update(**row, traces=jnp.zeros((B, S, A)), lambda_=0.5)


def test_traces_are_of_each_env():
    with pytest.raises(ValueError, match="traces is float32 .*; it needs"):
        row = map(jnp.array, ([0], [0], [1.0], 0.5, [1], [True]))
        tabular.naive_q_lambda_update(jnp.zeros((S, A)), jnp.zeros((S, A), jnp.float32), *row, 0.5, 0.5)


def test_checked_reports_states_and_actions_that_are_none():
    row = dict(reward=jnp.ones(2), next_state=jnp.zeros(2, int), valid=jnp.array([True, False]))

    def learn(state, action):
        return q_learning_update(jnp.zeros((S, A)), state, action, discount=0.9, learning_rate=0.1, **row)

    def counted(state, action):
        return count(empty_counts(S, A), state, action, terminated=jnp.zeros(2, bool), **row)

    def visited(state, action):
        return tabular.visit(jnp.zeros((S, A), int), state, action, row["valid"])

    for f in learn, counted, visited:
        bellman.checked(f)(jnp.array([S - 1, S]), jnp.array([A - 1, 0]))  # the second row is not valid
        with pytest.raises(ValueError, match=f"state: an index is not in 0 .. {S - 1}"):
            bellman.checked(f)(jnp.array([S, 0]), jnp.array([0, 0]))
        with pytest.raises(ValueError, match=f"is not in 0 .. {A - 1}"):
            bellman.checked(f)(jnp.array([0, 0]), jnp.array([-1, 0]))


def test_a_row_that_is_not_valid_may_hold_anything():
    good, rubbish = jnp.array([1.0, 2.0]), jnp.array([1.0, jnp.nan])
    state, action = jnp.array([0, 0]), jnp.array([0, 0])
    valid, table = jnp.array([True, False]), jnp.zeros((S, A))
    want = q_learning_update(table, state, action, good, 0.5, state, valid, 0.1)
    run = bellman.checked(lambda *row: q_learning_update(table, *row, valid, 0.1))
    for got, expected in zip(run(state, action.at[1].set(99), rubbish, good, state), want, strict=True):
        assert_allclose(got[0], expected[0])
        assert jnp.all(jnp.isfinite(got))
    traces = jnp.zeros((2, S, A))
    run = bellman.checked(
        lambda a: tabular.naive_q_lambda_update(table, traces, state, a, good, 0.5, state, valid, 0.1, 1)
    )
    run(action.at[1].set(99))


def test_lists_and_small_integers_are_taken():
    small = jnp.array([3], jnp.int8)
    _, errors = q_learning_update(jnp.zeros((300, 2)), small, small % 2, [1.0], 0.5, small, [True], 0.5)
    assert errors.tolist() == [1.0]
    visits, n = tabular.visit(np.zeros((1, 2), int), [0], [1], [True])
    assert visits.tolist() == [[0, 1]] and n.tolist() == [1]


@pytest.mark.parametrize("sarsa", [False, True])
def test_rows_of_n_step_updates_are_refused_by_name(sarsa):
    update = tabular.n_step_sarsa_update if sarsa else tabular.n_step_q_learning_update
    no, table, states = jnp.zeros((1, 2), bool), jnp.zeros((3, 2)), jnp.array([[0, 1, 2]])
    rows = jnp.ones((1, 2)), no, no, ~no, 2, 0.5, 0.5
    actions = jnp.zeros((1, 2 + sarsa), int)
    update(table, states, actions, *rows)
    for wrong, message in (
        ((states[:, :2], actions), r"state has shape \(1, 2\); it needs \(1, 3\)"),
        ((states, jnp.zeros((1, 3 - sarsa), int)), r"action has shape .*; it needs \(1, "),
    ):
        with pytest.raises(ValueError, match=message):
            update(table, *wrong, *rows)
    with pytest.raises(ValueError, match=r"it needs \[B, T\]"):
        update(table, states[0], actions[0], *(x[0] for x in rows[:4]), *rows[4:])


def test_envs_that_meet_do_not_add_up():
    """64 envs in one pair at rate 0.5: in turn they approach the reward; summed, they would overshoot it 32-fold."""
    same, zeros = np.ones(64), np.zeros(64, int)
    q, _ = q_learning_update(jnp.zeros((1, 1)), zeros, zeros, same, 0.0, zeros, same.astype(bool), 0.5)
    assert_allclose(q, [[1.0]], rtol=1e-6)


def test_the_optimum_is_a_fixed_point_of_expected_updates():
    """On a deterministic env every TD error at Q* is 0, so nothing moves whatever the rate."""
    lake = planning.from_gymnasium("FrozenLake-v1", is_slippery=False)
    q = planning.value_iteration(lake, 0.9, 1e-6).q_values
    state, action = (x.reshape(-1) for x in np.indices(q.shape))
    reward, ends, next_state = (np.asarray(x)[..., 0].reshape(-1) for x in (lake.reward, lake.ends, lake.next_state))
    moved, errors = q_learning_update(q, state, action, reward, 0.9 * ~ends, next_state, np.ones(64, bool), 1.0)
    assert_allclose(errors, 0, atol=1e-6)
    assert_allclose(moved, q, atol=1e-6)


def test_agents_are_vmapped_over_tables_and_rates():
    batch = rows(3)
    state, action, reward, terminated, next_state, valid = batch
    tables, rates = jnp.zeros((3, S, A)), jnp.array([0.1, 0.5, 0.9])
    discount = jnp.where(terminated, 0.0, 0.9)

    def update(q, rate):
        return q_learning_update(q, state, action, reward, discount, next_state, valid, rate)

    many, errors = jax.jit(jax.vmap(update))(tables, rates)
    assert errors.shape == (3, B)
    for table, rate, found in zip(tables, rates, many, strict=True):
        assert_allclose(found, update(table, rate)[0], rtol=1e-5, atol=1e-6)


def more_rows(seed):
    """Arguments of the updates by name: B envs that often meet, some rows not valid, which hold rubbish."""
    state, action, reward, terminated, next_state, valid = rows(seed)
    rng = np.random.default_rng(seed + 1)
    names = "state action reward discount next_state next_action valid learning_rate epsilon lambda_"
    values = state, action, reward, np.where(terminated, 0, 0.9), next_state, rng.integers(0, A, B), valid
    return dict(zip(names.split(), (*values, *rng.random((3, B)).astype(np.float32)), strict=True))


def slow_probabilities(q, epsilon):
    best = q == q.max()
    return (1 - epsilon) * best / best.sum() + epsilon / len(q)


SLOW_TARGETS = {
    tabular.sarsa_update: ("next_action", lambda q, a2: q[a2]),
    tabular.expected_sarsa_update: ("epsilon", lambda q, epsilon: slow_probabilities(q, epsilon) @ q),
}


@pytest.mark.parametrize("update", SLOW_TARGETS, ids=lambda f: f.__name__)
def test_sarsa_updates_equal_a_loop_over_the_envs(update):
    name, bootstrap = SLOW_TARGETS[update]
    compiled = jax.jit(update)
    for seed in range(5):
        x = more_rows(seed)
        q = np.random.default_rng(seed).integers(-2, 3, (S, A)) / 2  # many ties
        arguments = {key: x[key] for key in "state action reward discount next_state valid learning_rate".split()}
        found, errors = compiled(jnp.asarray(q, float), **arguments, **{name: x[name]})
        for i in np.flatnonzero(x["valid"]):
            pair = x["state"][i], x["action"][i]
            target = x["reward"][i] + x["discount"][i] * bootstrap(q[x["next_state"][i]], x[name][i])
            assert_allclose(errors[i], target - q[pair], rtol=1e-4, atol=1e-5)
            q[pair] += x["learning_rate"][i] * (target - q[pair])
        assert_allclose(found, q, rtol=1e-4, atol=1e-5)
        assert_array_equal(np.asarray(errors)[~x["valid"]], 0)


def test_expected_sarsa_without_exploration_is_q_learning():
    x = more_rows(1)
    q = jnp.asarray(np.random.default_rng(1).normal(size=(S, A)), float)
    arguments = [x[key] for key in "state action reward discount next_state valid learning_rate".split()]
    for found, want in zip(
        tabular.expected_sarsa_update(q, *arguments, epsilon=0.0), compiled_update(q, *arguments), strict=True
    ):
        assert_allclose(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_the_odds_are_those_with_which_the_agent_explores(epsilon):
    q = jnp.array([[1.0, 1.0, -jnp.inf, 0.0], [0.0, 2.0, 1.0, 1.0]])
    odds = tabular.epsilon_greedy_probabilities(q, jnp.array([epsilon, epsilon]))
    assert_allclose(jnp.sum(odds, axis=-1), 1, rtol=1e-6)
    n = 20_000
    actions = epsilon_greedy(jax.random.key(0), jnp.broadcast_to(q[:, None], (2, n, 4)), epsilon)
    frequency = np.stack([np.bincount(row, minlength=4) / n for row in np.asarray(actions)])
    assert np.abs(frequency - odds).max() < 5 * np.sqrt(0.25 / n)


def test_double_q_learning_equals_a_loop_with_the_same_coins():
    compiled, sides = jax.jit(tabular.double_q_learning_update), []
    for seed in range(5):
        x = more_rows(seed)
        q, key = np.random.default_rng(seed).normal(size=(2, S, A)), jax.random.key(seed)
        names = "state action reward discount next_state valid learning_rate".split()
        found, errors = compiled(jnp.asarray(q, float), key, *(x[name] for name in names))
        for i in np.flatnonzero(x["valid"]):
            s, a, s2 = x["state"][i], x["action"][i], x["next_state"][i]
            target = [x["reward"][i] + x["discount"][i] * q[1 - k][s2, q[k][s2].argmax()] - q[k][s, a] for k in (0, 1)]
            k = int(np.argmin(np.abs(np.array(target) - errors[i])))  # the coin shows in which error was made
            sides.append(k)
            assert_allclose(errors[i], target[k], rtol=1e-4, atol=1e-4)
            q[k, s, a] += x["learning_rate"][i] * target[k]
        assert_allclose(found, q, rtol=1e-3, atol=1e-4)
    assert abs(np.mean(sides) - 0.5) < 5 * np.sqrt(0.25 / len(sides)), "the coin is not fair"


def segment(seed, batch=3, length=12):
    """state, action [batch, T + 1] and the rows [batch, T], with every boundary; reset rows hold rubbish."""
    rng, over, columns = np.random.default_rng(seed), np.zeros(batch, bool), []
    for _ in range(length):
        valid = ~over
        terminated, truncated = (rng.random((2, batch)) < 0.15) & valid
        over = truncated | terminated & (rng.random(batch) < 0.5)
        columns.append((np.where(valid, rng.normal(size=batch), np.nan), terminated, truncated, valid))
    state, action = rng.integers(0, S, (batch, length + 1)), rng.integers(0, A, (batch, length + 1))
    return state, action, *(np.stack(x, axis=1) for x in zip(*columns, strict=True))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("sarsa", [False, True])
def test_n_step_updates_equal_a_loop_over_time_and_envs(n, sarsa):
    state, action, reward, terminated, truncated, valid = segment(n)
    q = np.random.default_rng(n).normal(size=(S, A))
    update = tabular.n_step_sarsa_update if sarsa else tabular.n_step_q_learning_update
    given_actions = action if sarsa else action[:, :-1]
    flags = terminated, truncated, valid
    found, errors = update(
        jnp.asarray(q, float), state, given_actions, reward, *flags, n=n, gamma=0.9, learning_rate=0.5
    )
    for t, b in np.ndindex(reward.shape[::-1]):
        if not valid[b, t]:
            assert errors[b, t] == 0
            continue
        target, m = 0.0, 0
        while True:
            target += 0.9**m * reward[b, t + m]
            m += 1
            if terminated[b, t + m - 1]:
                break
            if truncated[b, t + m - 1] or m == n or t + m == reward.shape[1]:
                later = q[state[b, t + m]]
                target += 0.9**m * (later[action[b, t + m]] if sarsa else later.max())
                break
        pair = state[b, t], action[b, t]
        assert_allclose(errors[b, t], target - q[pair], rtol=1e-4, atol=1e-5)
        q[pair] += 0.5 * (target - q[pair])
    assert_allclose(found, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trace", ["accumulating", "replacing"])
@pytest.mark.parametrize("watkins", [False, True])
def test_q_lambda_equals_a_loop_with_traces(watkins, trace):
    q, envs = np.random.default_rng(0).normal(size=(S, A)), 3
    table, traces, slow = jnp.asarray(q, float), jnp.zeros((envs, S, A)), np.zeros((envs, S, A))
    state, action, reward, terminated, truncated, valid = segment(5, envs)
    update = tabular.watkins_q_lambda_update if watkins else tabular.naive_q_lambda_update
    for t in range(reward.shape[1]):
        discount = np.where(terminated[:, t], 0, 0.9)
        chosen = (action[:, t + 1],) if watkins else ()
        row = state[:, t], action[:, t], reward[:, t], discount, state[:, t + 1], *chosen, valid[:, t]
        table, traces, errors = update(table, traces, *row, 0.3, 0.8, trace=trace)
        for b in range(envs):
            if not valid[b, t]:
                slow[b] = 0
                continue
            pair, later, a2 = (state[b, t], action[b, t]), q[state[b, t + 1]].copy(), action[b, t + 1]
            error = reward[b, t] + discount[b] * later.max() - q[pair]
            slow[b][pair] = 1 if trace == "replacing" else slow[b][pair] + 1
            q += 0.3 * error * slow[b]
            slow[b] *= discount[b] * 0.8 if not watkins or later[a2] == later.max() else 0
            assert_allclose(errors[b], error, rtol=1e-4, atol=1e-4)
        assert_allclose(table, q, rtol=1e-3, atol=1e-4)
        assert_allclose(traces, slow, rtol=1e-4, atol=1e-5)


def test_backward_view_is_the_forward_view():
    """In the limit of small rates the traces' updates are those of the lambda-returns: Sutton & Barto, section 12.5."""
    state, action, reward, terminated, truncated, valid = segment(9, batch=1, length=10)
    never = np.zeros_like(terminated)
    terminated, truncated, valid = never.copy(), never, ~never
    terminated[0, -1], reward, rate, lambda_ = True, np.nan_to_num(reward), 2.0**-20, 0.7
    q = jnp.zeros((S, A))  # the values stay those of the start, so sums of updates are exact to first order
    windows = lambda_windows(reward, terminated, truncated, valid, 0.9, lambda_)
    returns = bellman.lambda_returns(windows.reward[0], windows.discount[0], jnp.zeros(10), windows.trace[0])
    want = np.zeros((S, A))
    np.add.at(want, (state[0, :-1], action[0, :-1]), np.asarray(returns))
    traces, update = jnp.zeros((1, S, A)), jax.jit(tabular.naive_q_lambda_update)
    for t in range(10):
        discount = np.where(terminated[:, t], 0, 0.9)
        row = state[:, t], action[:, t], reward[:, t], discount, state[:, t + 1], valid[:, t]
        q, traces, _ = update(q, traces, *row, rate, lambda_)
    assert_allclose(q / rate, want, rtol=1e-3, atol=1e-3)
    assert not jnp.any(traces)


def test_dyna_in_expectation_is_a_backup_in_the_empirical_model():
    counts = count(empty_counts(S, A), *rows(7))
    seen = np.asarray(counts.transitions.sum(-1)) > 0
    q = jnp.asarray(np.random.default_rng(7).normal(size=(S, A)), float)
    n = 5_000
    still, errors = jax.jit(tabular.dyna_q_update, static_argnums=5)(q, counts, jax.random.key(0), 0.9, 0.0, n)
    assert_array_equal(still, q)  # a rate of 0: every error is one at q
    backup = planning.action_values(empirical_mdp(counts), jnp.max(q, axis=-1), 0.9) - q
    assert abs(jnp.mean(errors) - np.mean(np.asarray(backup)[seen])) < 5 * jnp.std(errors) / np.sqrt(n)
    blank, nothing = tabular.dyna_q_update(q, empty_counts(S, A), jax.random.key(0), 0.9, 0.5, 4)
    assert_array_equal(blank, q)
    assert_array_equal(nothing, 0)


def test_dyna_solves_the_model_it_has_counted():
    """On a deterministic model with rates of 1 every simulated step is exact, so the table gets to its optimum."""
    cliff = planning.from_gymnasium("CliffWalking-v1")
    state, action = (x.reshape(-1) for x in np.indices(cliff.probability.shape[:2]))
    outcome = [np.asarray(x)[..., 0].reshape(-1) for x in (cliff.reward, cliff.ends, cliff.next_state)]
    counts = count(empty_counts(48, 4), state, action, *outcome, np.ones(len(state), bool))
    q, errors = jax.jit(tabular.dyna_q_update, static_argnums=5)(
        jnp.zeros((48, 4)), counts, jax.random.key(1), 0.9, 1.0, 20_000
    )
    assert_allclose(q, planning.q_iteration(empirical_mdp(counts), 0.9).q_values, atol=1e-3)
    assert_allclose(errors[-100:], 0, atol=1e-5)


@few
@given(st.integers(0, 10**6))
def test_visits_are_counted_in_turn(seed):
    state, action, *_, valid = rows(seed)
    visits, nth = jax.jit(tabular.visit)(jnp.ones((S, A), jnp.int32), state, action, valid)
    slow = np.ones((S, A), int)
    for i in range(B):
        slow[state[i], action[i]] += valid[i]
        assert nth[i] == (slow[state[i], action[i]] if valid[i] else 1)
    assert_array_equal(visits, slow)


def test_with_rate_one_over_n_a_value_is_the_mean_of_its_targets():
    rng = np.random.default_rng(0)
    state, action = rng.integers(S, size=200), rng.integers(A, size=200)
    reward, valid = rng.normal(size=200), rng.random(200) < 0.8
    _, nth = tabular.visit(jnp.zeros((S, A), jnp.int32), state, action, valid)
    q, _ = compiled_update(jnp.full((S, A), 9.0), state, action, reward, 0.0, state, valid, tabular.one_over_n()(nth))
    for s, a in np.ndindex(S, A):
        assert_allclose(q[s, a], reward[valid & (state == s) & (action == a)].mean(), rtol=1e-4, atol=1e-5)


def test_rates():
    n = jnp.array([1, 4, 100])
    assert_allclose(tabular.constant(0.3)(n), [0.3] * 3, rtol=1e-6)
    assert_allclose(tabular.one_over_n()(n), [1, 1 / 4, 1 / 100], rtol=1e-6)
    swept = jax.jit(jax.vmap(lambda omega: tabular.robbins_monro(omega)(n)))(jnp.array([0.6, 1.0]))
    assert_allclose(swept, [[1, 4**-0.6, 100**-0.6], [1, 1 / 4, 1 / 100]], rtol=1e-5)
    for omega in (0.5, 0.0, 1.1):
        with pytest.raises(UserError, match="omega is"):
            tabular.robbins_monro(omega)
