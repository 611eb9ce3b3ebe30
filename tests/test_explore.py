"""Epsilon-greedy: fair ties, a coin for every row, and nothing illegal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import explore

KEYS = jax.random.split(jax.random.key(0), 10_000)


def draws(q, epsilon):
    return np.asarray(jax.vmap(lambda key: explore.epsilon_greedy(key, jnp.asarray(q), epsilon))(KEYS))


def frequencies(actions, num_actions):
    return np.bincount(actions, minlength=num_actions) / len(actions)


@pytest.mark.trust(11)
def test_ties_are_fair():
    actions = draws([1.0, 3.0, 3.0, 0.0, 3.0], 0.0)
    np.testing.assert_allclose(frequencies(actions, 5), [0, 1 / 3, 1 / 3, 0, 1 / 3], atol=0.02)


@pytest.mark.trust(9)
def test_frequencies_are_epsilon_greedy():
    actions = draws([0.0, 5.0, 1.0, 1.0], 0.4)
    np.testing.assert_allclose(frequencies(actions, 4), [0.1, 0.7, 0.1, 0.1], atol=0.02)


@pytest.mark.trust(9)
def test_zero_never_explores_and_one_always_does():
    assert set(draws([0.0, 1.0, 0.0], 0.0)) == {1}
    np.testing.assert_allclose(frequencies(draws([0.0, 1.0, 0.0], 1.0), 3), 1 / 3, atol=0.02)


@pytest.mark.trust(9)
def test_every_row_has_a_coin_of_its_own():
    explored = draws(np.tile([0.0, 1.0] + [0.0] * 98, (8, 1)), 0.5) != 1
    correlations = np.corrcoef(explored.T)[~np.eye(8, dtype=bool)]
    assert np.abs(correlations).max() < 0.05


@pytest.mark.trust(12)
def test_illegal_actions_are_never_taken():
    for epsilon in 0.0, 0.5, 1.0:
        assert set(draws([-np.inf, 2.0, -np.inf, 2.0], epsilon)) == {1, 3}


@pytest.mark.trust(11)
def test_the_same_key_gives_the_same_actions():
    q = jnp.zeros((64, 6))
    first, again = (explore.epsilon_greedy(jax.random.key(7), q, 0.5) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.trust(9)
def test_epsilon_follows_its_line():
    at = explore.linear_epsilon(np.array([0, 1, 500, 999, 1000, 1001]), 0.1, 1000)
    np.testing.assert_allclose(at, [1, 0.9991, 0.55, 0.1009, 0.1, 0.1], rtol=1e-6)
