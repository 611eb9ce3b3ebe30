"""The tree of sums against a plain array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.replay import sum_tree

pytestmark = pytest.mark.float64


@pytest.mark.parametrize("size", [1, 128, 129, 40_000])
@pytest.mark.trust(7)
def test_it_is_an_array_with_a_total(size):
    rng, tree, array = np.random.default_rng(size), sum_tree.zeros(size), np.zeros(size)
    write = jax.jit(sum_tree.write, donate_argnums=0)
    for _ in range(200):  # rounding must not drift
        index = rng.choice(size, min(size, 16), replace=False)
        array[index] = 10.0 ** rng.uniform(-4, 4, len(index)) * (rng.random(len(index)) < 0.8)
        tree = write(tree, index, array[index])
    np.testing.assert_allclose(sum_tree.read(tree, np.arange(size)), array, rtol=1e-6)
    np.testing.assert_allclose(sum_tree.total(tree), array.sum(), rtol=1e-5)
    below = tree[0]
    for level in tree[1:]:
        np.testing.assert_allclose(level.ravel()[: len(below)], np.asarray(below).sum(-1), rtol=1e-5)
        below = level


@pytest.mark.trust(7)
def test_draws_are_in_proportion_and_never_of_nothing():
    rng, draws = np.random.default_rng(0), 200_000
    weights = rng.uniform(0, 1, 40_000) ** 4 * (rng.random(40_000) < 0.5)
    tree = sum_tree.write(sum_tree.zeros(len(weights)), np.arange(len(weights)), weights)
    drawn = np.bincount(jax.jit(sum_tree.draw, static_argnums=2)(tree, jax.random.key(0), draws), minlength=40_000)
    assert not drawn[weights == 0].any()
    groups = (weights / weights.sum() * draws).reshape(-1, 100).sum(-1)
    chi_squared = np.sum((drawn.reshape(-1, 100).sum(-1) - groups) ** 2 / groups)
    assert chi_squared < len(groups) + 4 * np.sqrt(2 * len(groups))


@pytest.mark.float32
@pytest.mark.slow
def test_a_speck_among_giants_is_drawn_as_often_as_it_should_be():
    weights = np.full(100_000, 1e-7)
    weights[::1_000] = 1.0
    tree = sum_tree.write(sum_tree.zeros(len(weights)), np.arange(len(weights)), weights)
    drawn = jax.jit(sum_tree.draw, static_argnums=2)(tree, jax.random.key(0), 1_000_000)
    specks = np.sum(np.asarray(drawn) % 1_000 != 0)
    assert abs(specks - 1_000_000 * 1e-4) < 50  # five standard deviations


def test_the_mass_is_cut_into_equal_parts():
    tree = sum_tree.write(sum_tree.zeros(100), np.arange(100), jnp.ones(100))
    drawn = np.asarray(sum_tree.draw(tree, jax.random.key(0), 100))
    np.testing.assert_array_equal(drawn, np.arange(100))


def test_of_nothing_the_draw_is_nothing():
    tree = sum_tree.zeros(1_000)
    assert not sum_tree.read(tree, sum_tree.draw(tree, jax.random.key(0), 8)).any()
