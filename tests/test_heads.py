"""Heads: what their outputs are worth, and that each is learned by the loss that bears its name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import heads, losses
from jaxql.types import Transition

ATOMS = np.linspace(-2.0, 3.0, 6)
EDGES = np.linspace(-2.0, 3.0, 7)
RNG = np.random.default_rng(0)
BATCH = Transition(
    obs=jnp.arange(5),
    action=jnp.array([0, 1, 2, 0, 1]),
    reward=jnp.asarray(RNG.normal(size=5)),
    discount=jnp.array([0.9, 0.9, 0.0, 0.8, 0.9]),
    next_obs=jnp.array([1, 2, 3, 4, 0]),
    weight=jnp.array([1.0, 0.5, 1.0, 0.0, 2.0]),
)


def softmax(x):
    odds = np.exp(x - x.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


DIVERGENCE = dict(atoms=ATOMS, divergence=True)  # Rainbow's priority; the others' is the TD error of the mean
HEADS = {  # head, its q_values by definition, its loss by name
    "scalar": (heads.scalar(), lambda x: x, losses.dqn_loss, {}),
    "munchausen": (heads.munchausen(0.1, 0.5), lambda x: x, losses.munchausen_loss, dict(temperature=0.1, alpha=0.5)),
    "categorical": (heads.categorical(-2.0, 3.0, 6), lambda x: softmax(x) @ ATOMS, losses.c51_loss, DIVERGENCE),
    "hl-gauss": (
        heads.hl_gauss(-2.0, 3.0, 6),
        lambda x: softmax(x) @ (EDGES[1:] + EDGES[:-1]) * 0.5,
        losses.hl_gauss_loss,
        dict(edges=EDGES),
    ),
    "quantile": (heads.quantile(6), lambda x: x.mean(-1), losses.quantile_loss, {}),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_its_loss_and_its_values(name):
    head, q_values, loss, options = HEADS[name]
    shape = (5, 3) if head.outputs is None else (5, 3, head.outputs)
    params, target = (jnp.asarray(RNG.normal(size=shape)) for _ in range(2))
    np.testing.assert_allclose(head.q_values(params), q_values(np.asarray(params)), rtol=1e-5, atol=1e-6)

    def apply(params, obs, key=None):
        return params[obs], ()

    options = {key: x if key == "divergence" else jnp.asarray(x) for key, x in options.items()}
    got = head.loss(params, target, BATCH, apply, double=False, penalty=jnp.square)
    squared = dict(penalty=jnp.square) if name in ("scalar", "munchausen") else {}
    want = loss(params, target, BATCH, apply, **options, **squared)
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_implicit_quantiles_are_worth_their_mean_and_learned_at_their_fractions():
    head, quantiles = heads.implicit_quantile(4), jnp.asarray(RNG.normal(size=(5, 3, 4)))
    taus = jnp.asarray(RNG.uniform(size=(5, 4)))
    np.testing.assert_allclose(head.q_values((quantiles, taus)), quantiles.mean(-1), rtol=1e-6)

    def apply(params, obs, key=None):
        return (params[obs], taus), ()

    got = head.loss(quantiles, quantiles, BATCH, apply, double=True, penalty=None)
    want = losses.quantile_loss(quantiles, quantiles, BATCH, apply, double=True)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    head = heads.munchausen_implicit_quantile(4, 0.1, 0.5)
    got = head.loss(quantiles, quantiles, BATCH, apply, double=False, penalty=None)
    want = losses.munchausen_quantile_loss(quantiles, quantiles, BATCH, apply, temperature=0.1, alpha=0.5)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
