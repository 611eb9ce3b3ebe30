"""Heads: what outputs are worth, rlax's losses, and what heads owe each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_losses import (
    ACTIONS,
    ATOMS,
    HEADS,
    KAPPA,
    OUTPUTS,
    ROWS,
    STATES,
    batch,
    fast_loss,
    look_up,
    output_of,
    slow_loss,
    table,
    to_jax,
    value_of,
)

from jaxql import distributional, losses
from jaxql.losses import backups, heads
from jaxql.types import FullQuantiles, Transition

pytestmark = pytest.mark.float64


def assert_same(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


@pytest.mark.parametrize("name", HEADS)
def test_outputs_are_worth_their_mean_and_illegal_ones_nothing(name):
    params = table(name, 0)
    output = look_up(to_jax(params), jnp.arange(STATES))[0]
    want = [[value_of(name, output_of(params, s, a)) for a in range(ACTIONS)] for s in range(STATES)]
    q_values = HEADS[name].q_values
    np.testing.assert_allclose(q_values(output), want, rtol=1e-5, atol=1e-6)

    def block(x):
        return x if "quantile" in name and x.ndim < 3 else x.at[:, 1].set(-jnp.inf)

    blocked = q_values(jax.tree.map(block, output))
    assert np.all(np.asarray(blocked[:, 1]) == -np.inf)
    np.testing.assert_array_equal(blocked[:, 0], q_values(output)[:, 0])


def test_every_head_by_name_says_what_it_needs_of_a_network():
    needs = {name: (make(), heads.HEADS[name]()) for name, make in heads.HEADS.items()}
    assert {name: head.outputs for name, (head, _) in needs.items()} == {
        "scalar": None,
        "categorical": 51,
        "quantile": 51,
        "implicit-quantile": None,
        "full-quantile": None,
        "hl-gauss": 51,
        "two-hot": 51,
    }
    asks = {name for name, (head, _) in needs.items() if head.fractions}
    assert asks == {"implicit-quantile", "full-quantile"}
    assert needs["full-quantile"][0].proposes and not needs["implicit-quantile"][0].proposes


@pytest.mark.filterwarnings("ignore:Rlax:PendingDeprecationWarning")
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", ["categorical", "quantile"])
def test_losses_and_gradients_are_those_of_rlax(name, double):
    rlax = pytest.importorskip("rlax", reason="rlax is not installed")
    online, target = (to_jax(table(name, seed))["values"] for seed in (1, 2))
    rows = batch(3, strange=False)
    head = HEADS[name] if name == "categorical" else heads.quantile(OUTPUTS)  # rlax does not divide by kappa
    taus = distributional.midpoints(OUTPUTS)

    def ours(params):
        backup = backups.double if double else backups.greedy
        say = lambda params, obs: (params[obs], ())  # noqa: E731
        return losses.q_loss(params, target, rows, say, head=head, backup=backup)[0]

    def theirs(params):
        now, then = params[rows.obs], target[rows.next_obs]
        chooser = jax.lax.stop_gradient(params[rows.next_obs]) if double else then
        a, r, d = rows.action, rows.reward, rows.discount
        if name == "categorical":
            f = jax.vmap(rlax.categorical_double_q_learning, (None, 0, 0, 0, 0, None, 0, 0))
            atoms = jnp.asarray(ATOMS, now.dtype)
            costs = f(atoms, now, a, r, d, atoms, then, jnp.sum(jax.nn.softmax(chooser) * atoms[None, None], axis=-1))
        else:
            now, chooser, then = (jnp.swapaxes(x, 1, 2) for x in (now, chooser, then))
            costs = jax.vmap(rlax.quantile_q_learning, (0, None, 0, 0, 0, 0, 0, None))(
                now, taus, a, r, d, chooser, then, 1.0
            )
        return jnp.average(costs, weights=rows.weight)

    with jax.numpy_rank_promotion("allow"):
        want = jax.jit(jax.value_and_grad(theirs))(online)
    assert_same(jax.jit(jax.value_and_grad(ours))(online), want)


def test_quantile_expected_sarsa_of_rlax_is_another_mixture():
    """rlax averages losses over next actions, we average quantile functions: equal where the policy is sure."""
    rlax = pytest.importorskip("rlax", reason="rlax is not installed")
    online, target = (to_jax(table("quantile", seed))["values"] for seed in (4, 5))
    rows, taus = batch(6, strange=False), distributional.midpoints(OUTPUTS)

    def theirs(epsilon):
        q = jnp.mean(target[rows.next_obs], axis=-1)
        policy = epsilon / ACTIONS + (1 - epsilon) * jax.nn.one_hot(jnp.argmax(q, axis=-1), ACTIONS)
        now, then = (jnp.swapaxes(x, 1, 2) for x in (online[rows.obs], target[rows.next_obs]))
        f = jax.vmap(rlax.quantile_expected_sarsa, (0, None, 0, 0, 0, 0, 0, None))
        costs = f(now, taus, rows.action, rows.reward, rows.discount, then, policy, 1.0)
        return jnp.average(costs, weights=rows.weight)

    def ours(epsilon):
        say = lambda params, obs: (params[obs], ())  # noqa: E731
        return losses.quantile_loss(online, target, rows, say, backup=backups.expected_sarsa(epsilon))[0]

    with jax.numpy_rank_promotion("allow"):
        sure, mixed = jax.jit(theirs)(0.0), jax.jit(theirs)(0.5)
    np.testing.assert_allclose(jax.jit(ours)(0.0), sure, rtol=1e-5)
    assert abs(jax.jit(ours)(0.5) - mixed) > 1e-3


@pytest.mark.parametrize("backup", ["double", "munchausen"])
def test_one_quantile_is_half_of_the_scalar_loss(backup):
    """At the median a quantile Huber loss is half of Huber's, over kappa."""
    params, rows = [to_jax(table("huber", seed)) for seed in (7, 8, 9)], batch(10)
    one = [{"values": x["values"][..., None]} for x in params]
    (loss, info), (gradient, *_) = fast_loss("huber", backup, rows)(*params)

    def quantile(online, target, second):
        rule = backups.double if backup == "double" else BACKUP
        return losses.q_loss(online, target, rows, look_up, head=heads.quantile(1), backup=rule)

    BACKUP = backups.munchausen(0.4, 0.7, -0.5)
    (half, again), slope = jax.jit(jax.value_and_grad(quantile, has_aux=True))(*one)
    np.testing.assert_allclose(half, loss / 2, rtol=1e-5)
    np.testing.assert_allclose(slope["values"][..., 0], gradient["values"] / 2, rtol=1e-5, atol=1e-6)
    assert_same(again, info)


def test_two_hot_is_categorical_where_all_is_on_atoms():
    """Sure outputs on atoms, rewards and discounts that lead from atom to atom: both targets are one atom."""
    atoms = jnp.arange(5.0)
    logits = jnp.where(jnp.arange(5)[None, None] == jnp.array([[1, 3], [2, 0]])[..., None], 0.0, -1e4)
    rng = np.random.default_rng(11)
    online = jnp.asarray(rng.normal(size=(2, 2, 5)))
    rows = Transition(
        jnp.array([0, 1, 0]),
        jnp.array([1, 0, 1]),
        jnp.array([1.0, -1.0, 2.0]),
        jnp.array([1.0, 1.0, 0.0]),
        jnp.array([0, 1, 1]),
        jnp.ones(3),
    )
    say = lambda params, obs: (params[obs], ())  # noqa: E731
    first, second = (
        jax.jit(jax.value_and_grad(lambda p, f=f: f(p, logits, rows, say, atoms=atoms)[0]))(online)
        for f in (losses.c51_loss, losses.two_hot_loss)
    )
    assert_same(first, second)


def sigmoid_quantiles(params, obs, taus):
    """A quantile function for which more than its values at some fractions is known: logistic distributions."""
    location, scale = params["values"][obs][:, :, :1], jnp.exp(params["values"][obs][:, :, 1:2])
    return location + scale * jnp.log(taus / (1 - taus))[:, None, :]


@pytest.mark.often("double", "munchausen", "clipped_double")
@pytest.mark.parametrize("backup", ["greedy", "double", "munchausen", "clipped_double"])
def test_implicit_quantiles_draw_afresh_for_each_pass(backup):
    """At obs, for the target and to choose; critics that are compared share their fractions."""
    online, target, second = (to_jax(table("quantile", seed)) for seed in (12, 13, 14))
    rows, key, draws = batch(15, strange=False), jax.random.key(0), []

    names = {"online": jnp.zeros(1), "target": jnp.ones(1), "second": jnp.full(1, 2.0)}
    online, target, second = (x | {"name": names[n]} for x, n in zip((online, target, second), names, strict=True))

    def implicit(params, obs, memory=(), key=None):
        taus = jax.random.uniform(key, (ROWS, OUTPUTS))
        draws.append((("online", "target", "second")[int(params["name"][0])], np.asarray(taus)))
        return (sigmoid_quantiles(params, obs, taus), taus), memory

    head = heads.implicit_quantile(OUTPUTS, kappa=KAPPA)
    rule = {"greedy": backups.greedy, "double": backups.double, "munchausen": backups.munchausen(0.4, 0.7)}.get(
        backup, backups.clipped_double
    )
    loss, info = losses.q_loss(
        online, target, rows, implicit, head=head, backup=rule, second_target_params=second, key=key
    )
    order = {
        "greedy": ["online", "target", "target"],
        "double": ["online", "target", "online"],
        "munchausen": ["online", "target", "target", "target"],
        "clipped_double": ["online", "target", "target", "second", "online"],
    }[backup]
    assert [who for who, _ in draws] == order
    fresh = {taus.tobytes() for _, taus in draws}
    assert len(fresh) == (3 if backup != "munchausen" else 4)
    if backup in ("greedy", "double"):
        now, then = draws[0][1], draws[1][1]
        chooser = online if backup == "double" else target
        chosen = jnp.argmax(jnp.mean(sigmoid_quantiles(chooser, rows.next_obs, draws[2][1]), axis=-1), axis=-1)
        at = jnp.arange(ROWS)
        goal = (
            rows.reward[:, None] + rows.discount[:, None] * sigmoid_quantiles(target, rows.next_obs, then)[at, chosen]
        )
        values = sigmoid_quantiles(online, rows.obs, now)[at, rows.action]
        costs = distributional.quantile_huber(values, now, goal, kappa=KAPPA)
        np.testing.assert_allclose(loss, jnp.average(costs, weights=rows.weight), rtol=1e-4)
        want = np.where(rows.weight != 0, goal.mean(-1) - values.mean(-1), 0)
        np.testing.assert_allclose(info.td_errors, want, atol=1e-4)


def test_twin_critics_are_one_whatever_a_network_draws():
    """Of noise and of fractions alike: clipped_double with the target network as its own second is double."""
    online, target = (to_jax(table("quantile", seed)) for seed in (16, 17))
    rows, key = batch(18, strange=False), jax.random.key(1)

    def noisy(params, obs, memory=(), key=None):
        return params["values"][obs] + jax.random.normal(key, (ROWS, ACTIONS, OUTPUTS)), memory

    def implicit(params, obs, memory=(), key=None):
        taus = jax.random.uniform(key, (ROWS, OUTPUTS))
        return (sigmoid_quantiles(params, obs, taus), taus), memory

    for head, apply in ((heads.quantile(OUTPUTS), noisy), (heads.implicit_quantile(OUTPUTS), implicit)):
        say = functools.partial(losses.q_loss, online, target, rows, apply, head=head, key=key)
        assert_same(say(backup=backups.double), say(backup=backups.clipped_double, second_target_params=target))


def test_the_two_losses_of_full_quantiles_do_not_meet():
    online, target = (table("full_quantile", seed) for seed in (19, 20))
    rows = batch(21, strange=False)
    want = slow_loss("full_quantile", "double", online, target, target, rows)

    def loss(params):
        return losses.full_quantile_loss(params, to_jax(target), rows, look_up, backup=backups.double, kappa=KAPPA)[0]

    gradient = jax.jit(jax.grad(loss))(to_jax(online))
    # Proposition 1: d W1 / d tau_i = 2 F(tau_i) - F(middle_i) - F(middle_{i-1}), and through the softmax to the logits.
    slopes, total = np.zeros_like(online["logits"]), np.sum(rows.weight)
    for state, action, weight in zip(*map(np.asarray, (rows.obs, rows.action, rows.weight)), strict=True):
        values, at_edges = online["values"][state, action], online["at_edges"][state, action]
        odds = np.exp(online["logits"][state]) / np.sum(np.exp(online["logits"][state]))
        of_edges = 2 * at_edges - values[1:] - values[:-1]
        of_odds = np.append(np.cumsum(of_edges[::-1])[::-1], 0.0)  # edge i is the sum of the odds up to i
        slopes[state] += weight / total * odds * (of_odds - np.sum(odds * of_odds))
    np.testing.assert_allclose(gradient["logits"], slopes, rtol=1e-4, atol=1e-5)
    assert not np.any(gradient["at_edges"])
    np.testing.assert_allclose(gradient["values"], want.gradient["values"], rtol=1e-4, atol=1e-5)


def test_measures_of_risk_choose_the_action_and_errors_stay_those_of_means():
    safe, risky = [1.0, 1.0], [-9.0, 13.0]
    table = jnp.array([[safe, risky]])
    zero = jnp.array([0])
    rows = Transition(zero, zero, jnp.zeros(1), jnp.ones(1), zero, jnp.ones(1))
    atoms, odds = jnp.array([-9.0, 1.0, 13.0]), jnp.array([[[1e-9, 1, 1e-9], [0.5, 1e-9, 0.5]]])
    halves = jnp.array([[0.25, 0.75]]), jnp.array([[0.0, 0.5, 1.0]])
    networks = {  # what a network says, and its parameters
        heads.quantile: (lambda params, obs: (params[obs], ()), table),
        heads.implicit_quantile: (lambda params, obs: ((params[obs], halves[0]), ()), table),
        heads.full_quantile: (
            lambda params, obs: (FullQuantiles(params[obs], halves[1], params[obs][..., :1]), ()),
            table,
        ),
        functools.partial(heads.categorical, atoms=atoms): (lambda params, obs: (params[obs], ()), jnp.log(odds)),
    }

    @functools.partial(jax.jit, static_argnums=0)
    def errors(measure):
        return [
            losses.q_loss(params, params, rows, say, head=head(measure=measure))[1].td_errors[0]
            for head, (say, params) in networks.items()
        ]

    np.testing.assert_allclose(errors(distributional.mean), 1, atol=1e-4)
    np.testing.assert_allclose(errors(functools.partial(distributional.cvar, level=0.5)), 0, atol=1e-4)


@pytest.mark.parametrize("name", ["quantile", "full_quantile", "categorical"])
def test_a_measure_never_chooses_an_illegal_action(name):
    """Not even one for which a distribution of minus infinities is worth NaN."""

    def spread(values, probs=None):
        return distributional.mean(values, probs) - distributional.variance(values, probs)

    head = {
        "quantile": heads.quantile(2, measure=spread),
        "full_quantile": heads.full_quantile(2, measure=spread),
        "categorical": heads.categorical(-1.0, 1.0, 2, measure=spread),
    }[name]
    output = jnp.array([[[-jnp.inf, -jnp.inf], [0.0, 1.0]]])
    if name == "full_quantile":
        output = FullQuantiles(output, jnp.array([[0.0, 0.5, 1.0]]), output[..., :1])
    q = head.q_values(output)[0]
    assert q[0] == -jnp.inf and jnp.isfinite(q[1])


def test_kappa_may_be_traced():
    params, rows = [to_jax(table("quantile", seed)) for seed in (22, 23)], batch(24)
    f = jax.jit(jax.vmap(lambda kappa: losses.quantile_loss(*params, rows, look_up, kappa=kappa)[0]))
    kappas = [0.0, 0.3, 2.0]
    for loss, kappa in zip(f(jnp.array(kappas)), kappas, strict=True):
        np.testing.assert_allclose(loss, losses.quantile_loss(*params, rows, look_up, kappa=kappa)[0], rtol=1e-5)
