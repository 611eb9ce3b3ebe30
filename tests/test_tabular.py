"""Counts and table updates against loops in NumPy float64, and the empirical model against the true one."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal

from jaxql import planning
from jaxql.errors import UserError
from jaxql.tabular import Counts, count, empirical_mdp, empty_counts, q_learning_update

S, A, B = 4, 2, 32
compiled_count, compiled_update = jax.jit(count), jax.jit(q_learning_update)
few = settings(max_examples=20, deadline=None, derandomize=True)


def rows(seed):
    """(state, action, reward, terminated, next_state, real), [B] each; rows that are not real hold rubbish."""
    rng = np.random.default_rng(seed)
    real = rng.random(B) < 0.8
    reward = np.where(real, rng.integers(-3, 4, B), np.nan)
    state, next_state, action = rng.integers(0, S, B), rng.integers(0, S, B), rng.integers(0, A, B)
    return state, action, reward.astype(np.float32), rng.random(B) < 0.4, next_state, real


def slow_count(batches):
    transitions, rewards, ends = np.zeros((S, A, S), int), np.zeros((S, A, S)), np.zeros((S, A, S), int)
    for batch in batches:
        for s, a, r, over, s2, real in zip(*batch, strict=True):
            if real:
                transitions[s, a, s2] += 1
                rewards[s, a, s2] += r
                ends[s, a, s2] += over
    return Counts(transitions, rewards, ends)


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
    planning.check(mdp)
    values = np.random.default_rng(seed).normal(size=S)
    found = jax.jit(planning.action_values)(mdp, jnp.asarray(values, mdp.reward.dtype), 0.9)
    for s, a in np.ndindex(S, A):
        n = slow.transitions[s, a].sum()
        going_on = slow.transitions[s, a] - slow.ends[s, a]
        expected = (slow.rewards[s, a].sum() + 0.9 * going_on @ values) / n if n else 0.0
        assert_allclose(found[s, a], expected, rtol=1e-5, atol=1e-5)


def test_enough_counts_give_the_true_model():
    """Cliff walking is deterministic, so every pair once will do: the optimum of the counts is that of the world."""
    cliff = planning.from_gymnasium("CliffWalking-v1")
    state, action = (x.reshape(-1) for x in np.indices(cliff.probability.shape[:2]))
    outcome = [np.asarray(x)[..., 0].reshape(-1) for x in (cliff.reward, cliff.ends, cliff.next_state)]
    counts = count(empty_counts(48, 4), state, action, *outcome, np.ones(len(state), bool))
    learned = empirical_mdp(counts, start=cliff.start, step_limit=100)
    assert_allclose(planning.best_return(learned), -13, rtol=1e-6)


def test_counts_of_a_random_world_approach_its_model():
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
    for (s, a, r, over, s2, real), rate in zip(zip(*batch, strict=True), learning_rate, strict=True):
        error = r + (0 if over else discount * q[s2].max()) - q[s, a] if real else 0.0
        q[s, a] += rate * error
        errors.append(error)
    return q, errors


@few
@given(st.integers(0, 10**6))
def test_the_update_equals_a_loop_over_the_worlds(seed):
    batch, rng = rows(seed), np.random.default_rng(seed)
    state, action, reward, terminated, next_state, real = batch
    q, rate = rng.normal(size=(S, A)), rng.random(B)
    table = jnp.asarray(q, float)
    discount = np.where(terminated, 0, 0.9)
    arguments = table, state, action, reward, discount, next_state, real
    found, errors = compiled_update(*arguments, rate)
    for result, expected in zip((found, errors), slow_update(q, batch, 0.9, rate), strict=True):
        assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert found.dtype == errors.dtype == table.dtype
    shared, _ = compiled_update(*arguments, 0.25)
    assert_allclose(shared, slow_update(q, batch, 0.9, np.full(B, 0.25))[0], rtol=1e-4, atol=1e-5)


def test_worlds_that_meet_do_not_add_up():
    """64 worlds in one pair at rate 0.5: in turn they approach the reward; summed, they would overshoot it 32-fold."""
    same, zeros = np.ones(64), np.zeros(64, int)
    q, _ = q_learning_update(jnp.zeros((1, 1)), zeros, zeros, same, 0.0, zeros, same.astype(bool), 0.5)
    assert_allclose(q, [[1.0]], rtol=1e-6)


def test_the_optimum_is_a_fixed_point_of_expected_updates():
    """On a deterministic world every TD error at Q* is 0, so nothing moves whatever the rate."""
    lake = planning.from_gymnasium("FrozenLake-v1", is_slippery=False)
    q = planning.value_iteration(lake, 0.9, 1e-6).q_values
    state, action = (x.reshape(-1) for x in np.indices(q.shape))
    reward, ends, next_state = (np.asarray(x)[..., 0].reshape(-1) for x in (lake.reward, lake.ends, lake.next_state))
    moved, errors = q_learning_update(q, state, action, reward, 0.9 * ~ends, next_state, np.ones(64, bool), 1.0)
    assert_allclose(errors, 0, atol=1e-6)
    assert_allclose(moved, q, atol=1e-6)


def test_agents_are_vmapped_over_tables_and_rates():
    batch = rows(3)
    state, action, reward, terminated, next_state, real = batch
    tables, rates = jnp.zeros((3, S, A)), jnp.array([0.1, 0.5, 0.9])
    discount = jnp.where(terminated, 0.0, 0.9)

    def update(q, rate):
        return q_learning_update(q, state, action, reward, discount, next_state, real, rate)

    many, errors = jax.jit(jax.vmap(update))(tables, rates)
    assert errors.shape == (3, B)
    for table, rate, found in zip(tables, rates, many, strict=True):
        assert_allclose(found, update(table, rate)[0], rtol=1e-5, atol=1e-6)
