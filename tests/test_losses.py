"""Every backup with every head against slow float64 loops over rows, and the losses that have a name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from slow_losses import (
    ALPHA,
    ATOMS,
    BACKUPS,
    EDGES,
    FLOOR,
    HEADS,
    KAPPA,
    SIGMA,
    TEMPERATURE,
    batch,
    fast_loss,
    look_up,
    slow_loss,
    table,
    to_jax,
)

from jaxql import bellman, distributional, losses
from jaxql.losses import heads

pytestmark = pytest.mark.float64


@pytest.mark.often(
    "categorical-greedy",
    "categorical-double",
    "full_quantile-munchausen",
    "full_quantile-clipped_double",
    "implicit_quantile-soft",
    "implicit_quantile-persistent",
    "quantile-expected_sarsa",
    "quantile-advantage",
    "hl_gauss-greedy",
    "hl_gauss-soft",
    "two_hot-double",
    "two_hot-persistent",
    "l2-clipped_double",
    "l2-advantage",
    "huber-munchausen",
    "huber-expected_sarsa",
)
@pytest.mark.parametrize("backup", BACKUPS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.trust(1)
def test_the_loss_its_report_and_its_gradient_are_the_equations(head, backup):
    rows, tables = batch(1, masked=True), [table(head, seed) for seed in (2, 3, 4)]
    (loss, info), (gradient, *others) = fast_loss(head, backup, rows)(*to_jax(tables))
    want = slow_loss(head, backup, *tables, rows)
    np.testing.assert_allclose(loss, want.loss, rtol=1e-5)
    counts = np.asarray(rows.weight) != 0
    assert not counts.all() and np.any(np.asarray(rows.discount)[counts] == 0)
    close = dict(rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(info.td_errors, want.td_errors, **close)
    np.testing.assert_allclose(info.q_values[counts], want.q_values[counts], **close)
    np.testing.assert_allclose(info.priorities, want.priorities, **close)
    for name, slope in want.gradient.items():
        if name != "taus":
            np.testing.assert_allclose(gradient[name], slope, **close, err_msg=name)
    assert not any(np.any(x) for x in jax.tree.leaves(others)), "a gradient flows into a target network"


NAMED = {  # a loss by its name: the head and the backup that it is short for
    "dqn": (losses.dqn_loss, {}, "huber", "greedy"),
    "squared dqn": (losses.dqn_loss, dict(penalty=optax.l2_loss), "l2", "greedy"),
    "double dqn": (losses.double_dqn_loss, {}, "huber", "double"),
    "munchausen": (
        losses.munchausen_loss,
        dict(temperature=TEMPERATURE, alpha=ALPHA, floor=FLOOR),
        "huber",
        "munchausen",
    ),
    "c51": (losses.c51_loss, dict(atoms=ATOMS), "categorical", "greedy"),
    "quantile": (losses.quantile_loss, dict(kappa=KAPPA), "quantile", "greedy"),
    "implicit quantile": (losses.implicit_quantile_loss, dict(kappa=KAPPA), "implicit_quantile", "greedy"),
    "full quantile": (losses.full_quantile_loss, dict(kappa=KAPPA), "full_quantile", "greedy"),
    "hl-gauss": (losses.hl_gauss_loss, dict(edges=EDGES, sigma=SIGMA), "hl_gauss", "greedy"),
    "two-hot": (losses.two_hot_loss, dict(atoms=ATOMS), "two_hot", "greedy"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_loss_is_its_pair(name):
    loss, options, head, backup = NAMED[name]
    online, target = (table(head, seed) for seed in (5, 6))
    rows = batch(7)
    value, info = jax.jit(lambda *args: loss(*args, rows, look_up, **options))(*to_jax((online, target)))
    want = slow_loss(head, backup, online, target, target, rows)
    np.testing.assert_allclose(value, want.loss, rtol=1e-5)
    np.testing.assert_allclose(info.priorities, want.priorities, rtol=1e-4, atol=1e-5)


def test_munchausen_loss_is_the_equation_of_one_transition():
    online, target = (to_jax(table("huber", seed)) for seed in (8, 9))
    rows, options = batch(10, strange=False), dict(temperature=TEMPERATURE, alpha=ALPHA, floor=FLOOR)
    loss, info = losses.munchausen_loss(online, target, rows, look_up, **options)
    q, q_target = online["values"], target["values"]
    want = bellman.munchausen_q_learning(
        q[rows.obs], rows.action, rows.reward, rows.discount, q_target[rows.next_obs], q_target[rows.obs], **options
    )
    np.testing.assert_allclose(info.td_errors, np.where(rows.weight != 0, want, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loss, np.average(optax.huber_loss(want), weights=rows.weight), rtol=1e-5)


@pytest.mark.slow
def test_uneven_atoms_and_edges_are_taken_as_given():
    rows = batch(11)
    tables = to_jax([table("categorical", seed) for seed in (12, 13)])
    atoms = jnp.array([-2.0, -1.5, 0.0, 3.0])
    loss = jax.jit(lambda *tables: losses.c51_loss(*tables, rows, look_up, atoms=atoms)[0])(*tables)
    counts = np.asarray(rows.weight) != 0
    rows = jax.tree.map(lambda x: x[counts], rows)
    online, target = (x["values"] for x in tables)
    logits = jnp.where((rows.discount == 0)[:, None, None], 0, target[jnp.minimum(rows.next_obs, 5)])
    means = distributional.categorical_mean(logits, atoms)
    goal = distributional.c51_target(rows.reward, rows.discount, logits, means, atoms)
    costs = distributional.cross_entropy(online[rows.obs, rows.action], goal)
    np.testing.assert_allclose(loss, np.average(costs, weights=rows.weight), rtol=1e-5)
    edges = jnp.array([-2.0, -1.5, 0.0, 3.0, 3.5])
    q = heads.hl_gauss(edges=edges).q_values(online)
    np.testing.assert_allclose(q, jax.nn.softmax(online) @ jnp.array([-1.75, -0.75, 1.5, 3.25]), rtol=1e-4, atol=1e-5)


def test_a_weighted_mean_overlooks_what_has_no_weight():
    x, weight = jnp.array([1.0, 3.0, jnp.nan]), jnp.array([1.0, 1.0, 0.0])
    value, slope = jax.value_and_grad(losses.weighted_mean)(x, weight)
    assert value == 2
    np.testing.assert_array_equal(slope, [0.5, 0.5, 0])
    assert losses.weighted_mean(x, jnp.zeros(3)) == 0
    assert losses.weighted_mean(jnp.array([1.0, 3.0]), jnp.array([True, False])) == 1
    with pytest.raises(ValueError, match="weight has shape"):
        losses.weighted_mean(x, weight[:2])
