"""Whole-batch losses against loops over their rows, and where their gradients may not go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxql import bellman, distributional, losses
from jaxql.networks import masked
from jaxql.types import Network, Transition

pytestmark = pytest.mark.float64
S, A, N = 6, 3, 32


def apply(params, obs, memory=(), key=None):
    return params[obs], memory


def batch(seed):
    rng = np.random.default_rng(seed)
    return Transition(
        obs=jnp.asarray(rng.integers(S, size=N)),
        action=jnp.asarray(rng.integers(A, size=N)),
        reward=jnp.asarray(rng.normal(size=N)),
        discount=jnp.asarray(rng.choice([0, 0.9, 0.9**3], N)),
        next_obs=jnp.asarray(rng.integers(S, size=N)),
        weight=jnp.asarray(rng.choice([0, 0.5, 1], N)),
    )


def tables(seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(S, A))), jnp.asarray(rng.normal(size=(S, A)))


def by_hand(params, target, rows, double, huber):
    """The loss and its gradient, row by row in float64."""
    params, target, rows = jax.tree.map(lambda x: np.asarray(x, np.float64), (params, target, rows))
    total, weights, gradient = 0.0, 0.0, np.zeros((S, A))
    for obs, action, reward, discount, next_obs, weight in zip(*rows[:6], strict=True):
        obs, action, next_obs = int(obs), int(action), int(next_obs)
        chosen = np.argmax(params[next_obs] if double else target[next_obs])
        error = reward + discount * target[next_obs][chosen] - params[obs][action]
        small = abs(error) <= 1 or not huber
        total += weight * (0.5 * error**2 if small else abs(error) - 0.5)
        gradient[obs, action] -= weight * (error if small else np.sign(error))
        weights += weight
    return total / weights, gradient / weights


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("huber", [False, True])
def test_loss_and_gradient_are_the_definition(double, huber):
    (params, target), rows = tables(0), batch(1)
    options = dict(double=double, penalty=optax.huber_loss if huber else optax.l2_loss)
    want, slope = by_hand(params, target, rows, double, huber)
    f = jax.value_and_grad(lambda p, t: losses.dqn_loss(p, t, rows, apply, **options)[0], argnums=(0, 1))
    for g in f, jax.jit(f):
        loss, (gradient, into_target) = g(params, target)
        np.testing.assert_allclose(loss, want, rtol=1e-5)
        np.testing.assert_allclose(gradient, slope, atol=1e-6)
        assert not jnp.any(into_target)


def test_errors_and_values_are_reported_row_by_row():
    (params, target), rows = tables(2), batch(3)
    _, (errors, values) = losses.dqn_loss(params, target, rows, apply)
    np.testing.assert_allclose(values, params[rows.obs, rows.action])
    want = rows.reward + rows.discount * jnp.max(target[rows.next_obs], axis=-1) - values
    np.testing.assert_allclose(errors, want, rtol=1e-5)


def test_weights_scale_rows_and_not_the_learning_rate():
    (params, target), rows = tables(4), batch(5)
    full = losses.dqn_loss(params, target, rows._replace(weight=jnp.ones(N)), apply)[0]
    half = losses.dqn_loss(params, target, rows._replace(weight=jnp.full(N, 0.5)), apply)[0]
    np.testing.assert_allclose(full, half, rtol=1e-6)
    assert losses.dqn_loss(params, target, rows._replace(weight=jnp.zeros(N)), apply)[0] == 0


def test_order_of_the_batch_does_not_matter():
    (params, target), rows = tables(6), batch(7)
    shuffled = jax.tree.map(lambda x: x[np.random.default_rng(0).permutation(N)], rows)
    first, again = (losses.dqn_loss(params, target, x, apply)[0] for x in (rows, shuffled))
    np.testing.assert_allclose(first, again, rtol=1e-5)


@pytest.mark.parametrize("double", [False, True])
def test_an_illegal_action_of_the_next_state_is_not_bootstrapped(double):
    network = masked(Network(init=None, apply=apply))
    table = jnp.array([[0.0, 0.0], [1.0, 1e9]])
    rows = Transition(
        obs={"observation": jnp.array([0]), "action_mask": jnp.array([[1, 1]])},
        action=jnp.array([0]),
        reward=jnp.array([1.0]),
        discount=jnp.array([0.5]),
        next_obs={"observation": jnp.array([1]), "action_mask": jnp.array([[1, 0]])},
        weight=jnp.ones(1),
    )
    _, (errors, _) = losses.dqn_loss(table, table, rows, network.apply, double=double)
    np.testing.assert_allclose(errors, 1.5)
    ended = rows._replace(discount=jnp.zeros(1), next_obs=rows.next_obs | {"action_mask": jnp.array([[0, 0]])})
    gradient = jax.grad(lambda p: losses.dqn_loss(p, table, ended, network.apply, double=double)[0])(table)
    assert jnp.all(jnp.isfinite(gradient))


def test_mismatched_shapes_are_refused():
    (params, target), rows = tables(8), batch(9)
    for change, message in (
        (dict(reward=rows.reward[:, None]), r"reward has shape \(\d+, 1\); it needs \(\d+,\), as action"),
        (dict(weight=rows.weight[1:]), "weight has shape"),
        (dict(action=0), r"action has shape \(\); it needs \[N\]"),
        (dict(next_obs=rows.next_obs[0]), "next_obs has shape .* rows, as action"),
    ):
        with pytest.raises(ValueError, match=message):
            losses.dqn_loss(params, target, rows._replace(**change), apply)


M = 4
ATOMS, EDGES = np.linspace(-2, 2, M), np.linspace(-2, 2, M + 1)
CENTERS = (EDGES[1:] + EDGES[:-1]) / 2
TAUS = (np.arange(M) + 0.5) / M


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def greedy(values, mask):
    return int(np.argmax(np.where(mask, values, -np.inf)))


# What a row costs: (outputs at obs for the action, the chooser's and the target's outputs at next_obs, reward,
# discount, mask, options) -> (loss, td_error, q_value), in float64.


def cross_entropy(logits, target):
    return -np.sum(target * np.log(softmax(logits)))


def c51_row(now, chooser, then, r, d, mask):
    a = greedy(softmax(chooser) @ ATOMS, mask)
    target = np.asarray(distributional.categorical_l2_project(r + d * ATOMS, softmax(then[a]), ATOMS), np.float64)
    q = softmax(now) @ ATOMS
    return cross_entropy(now, target), target @ ATOMS - q, q


def quantile_row(now, chooser, then, r, d, mask, kappa=1.0):
    target = r + d * then[greedy(chooser.mean(-1), mask)]
    error = target[None, :] - now[:, None]
    huber = np.where(np.abs(error) <= kappa, 0.5 * error**2, kappa * (np.abs(error) - 0.5 * kappa)) / kappa
    loss = np.sum(np.mean(np.abs(TAUS[:, None] - (error < 0)) * huber, axis=-1))
    return loss, target.mean() - now.mean(), now.mean()


def histogram_row(encode, atoms, now, chooser, then, r, d, mask):
    target = r + d * (softmax(then) @ atoms)[greedy(softmax(chooser) @ atoms, mask)]
    q = softmax(now) @ atoms
    return cross_entropy(now, np.asarray(encode(target), np.float64)), target - q, q


LOSSES = {  # name: (the loss, what a row costs)
    "c51": (functools.partial(losses.c51_loss, atoms=ATOMS), c51_row),
    "quantile": (functools.partial(losses.quantile_loss, kappa=0.7), functools.partial(quantile_row, kappa=0.7)),
    "hl_gauss": (
        functools.partial(losses.hl_gauss_loss, edges=EDGES, sigma=0.8),
        functools.partial(histogram_row, lambda x: distributional.hl_gauss(x, EDGES, 0.8), CENTERS),
    ),
    "two_hot": (
        functools.partial(losses.two_hot_loss, atoms=ATOMS),
        functools.partial(histogram_row, lambda x: distributional.two_hot(x, ATOMS), ATOMS),
    ),
}
SCALAR = {"dqn": losses.dqn_loss, "munchausen": losses.munchausen_loss}
ALL = {name: loss for name, (loss, _) in LOSSES.items()} | SCALAR
ALL["munchausen_quantile"] = functools.partial(losses.munchausen_quantile_loss, temperature=0.5)


def heads(name, seed):
    rng = np.random.default_rng(seed)
    shape = (S, A) if name in SCALAR else (S, A, M)
    return jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=shape))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_distributional_loss_is_its_definition_row_by_row(name, double):
    loss, row = LOSSES[name]
    (params, target), rows = heads(name, 10), batch(11)
    rng = np.random.default_rng(12)
    mask = rng.random((N, A)) < 0.6
    mask[np.arange(N), rng.integers(A, size=N)] = True
    online, frozen = np.asarray(params, np.float64), np.asarray(target, np.float64)

    def of_row(i, now):
        chooser, then = (online if double else frozen)[rows.next_obs[i]], frozen[rows.next_obs[i]]
        return row(now, chooser, then, float(rows.reward[i]), float(rows.discount[i]), mask[i])

    want = [of_row(i, online[rows.obs[i], rows.action[i]]) for i in range(N)]
    costs, errors, values = (np.array(x) for x in zip(*want, strict=True))
    f = jax.jit(lambda *args: loss(*args, apply, double=double, mask=jnp.asarray(mask)))
    total, (td_errors, q_values) = f(params, target, rows)
    np.testing.assert_allclose(total, np.average(costs, weights=rows.weight), rtol=1e-4)
    np.testing.assert_allclose(td_errors, errors, atol=1e-5)
    np.testing.assert_allclose(q_values, values, atol=1e-5)

    slope, expected = jax.grad(lambda p: f(p, target, rows)[0])(params), np.zeros_like(online)
    for i, m in np.ndindex(N, M):  # the cost of a row, when one number for the action taken moves a little
        place = rows.obs[i], rows.action[i]
        step = 1e-5 * np.eye(M)[m]
        change = of_row(i, online[place] + step)[0] - of_row(i, online[place] - step)[0]
        expected[(*place, m)] += rows.weight[i] / np.sum(rows.weight) * change / 2e-5
    np.testing.assert_allclose(slope, expected, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_laws_of_every_loss(name):
    (params, target), rows = heads(name, 13), batch(14)
    rng = np.random.default_rng(15)
    f = jax.jit(jax.value_and_grad(lambda p, t, rows: ALL[name](p, t, rows, apply)[0], argnums=(0, 1)))
    value, (slope, into_target) = f(params, target, rows)
    assert jnp.any(slope) and not jnp.any(into_target)

    def same(rows, target=target):
        again, (slope_again, _) = f(params, target, rows)
        np.testing.assert_allclose(again, value, rtol=1e-5)
        np.testing.assert_allclose(slope_again, slope, atol=1e-6)

    same(shuffled(rows, rng))
    same(rows._replace(weight=rows.weight / 2))
    idle = rows.weight == 0  # what such a row holds does not count, whatever it is
    assert jnp.any(idle)
    same(rows._replace(reward=jnp.where(idle, jnp.inf, rows.reward), discount=jnp.where(idle, jnp.nan, rows.discount)))
    same(rows._replace(action=jnp.where(idle, 99, rows.action)))

    def spoilt(shift, rubbish):  # nor what the online network says of it
        def said(params, obs):
            output = params[obs]
            return jnp.where(idle.reshape(N, *[1] * (output.ndim - 1)), rubbish, output), ()

        return ALL[name](params + shift, target, rows, said)[0]

    spoilt = jax.jit(jax.value_and_grad(spoilt))
    for rubbish in -jnp.inf, jnp.inf, jnp.nan:
        np.testing.assert_allclose(spoilt(0.0, rubbish), (value, jnp.sum(slope)), atol=1e-5)
    ended = rows._replace(discount=jnp.zeros(N))
    value, (slope, _) = f(params, target, ended)
    if not name.startswith("munchausen"):  # whose target reads the target network at obs
        same(ended, jnp.full_like(target, jnp.inf))
        same(ended, jnp.full_like(target, jnp.nan))
    with pytest.raises(ValueError, match="shape"):
        ALL[name](params, target, rows._replace(reward=rows.reward[:, None]), apply)
    with pytest.raises(ValueError, match="mask has shape"):
        ALL[name](params, target, rows, apply, mask=jnp.ones((N, 1)))
    with pytest.raises(ValueError, match="weight has shape"):
        ALL[name](params, target, rows._replace(weight=rows.weight[:, None]), apply)


@pytest.mark.parametrize("double", [False, True])
def test_one_quantile_is_the_scalar_loss(double):
    """At the median a quantile Huber loss is half of Huber's, over kappa."""
    (params, target), rows = tables(20), batch(21)
    scalar, (errors, values) = losses.dqn_loss(params, target, rows, apply, double=double)
    one = [x[..., None] for x in (params, target)]
    loss, (td_errors, q_values) = losses.quantile_loss(*one, rows, apply, double=double)
    np.testing.assert_allclose(loss, scalar / 2, rtol=1e-5)
    np.testing.assert_allclose(td_errors, errors, atol=1e-5)
    np.testing.assert_allclose(q_values, values, atol=1e-5)


def shuffled(rows, rng):
    order = rng.permutation(N)
    return jax.tree.map(lambda x: x[order], rows)


@pytest.mark.parametrize("name", ALL)
def test_masks_as_an_argument_in_the_observation_and_as_minus_infinity_agree(name):
    (params, target), rows = heads(name, 16), batch(17)
    legal = jnp.asarray(np.random.default_rng(18).random((N, A)) < 0.5).at[:, 0].set(True)
    loss, best = ALL[name], jnp.asarray(10 * np.arange(M)) if name not in SCALAR else 10.0
    target = target.at[:, A - 1].add(best)  # the action that the mask forbids most often is tempting

    def carried(params, obs, memory=(), key=None):
        return apply(params, obs["observation"] if isinstance(obs, dict) else obs, memory)

    def blocked(params, obs, memory=(), key=None):
        output = params[obs["observation"] if isinstance(obs, dict) else obs]
        mask = obs["action_mask"] if isinstance(obs, dict) else jnp.ones((N, A), bool)
        return jnp.where(mask.reshape(mask.shape + (1,) * (output.ndim - 2)), output, -jnp.inf), memory

    within = rows._replace(next_obs={"observation": rows.next_obs, "action_mask": legal})
    gradients = [
        jax.jit(jax.value_and_grad(lambda p, f=f: f(p)))(params)
        for f in (
            lambda p: loss(p, target, rows, apply, mask=legal)[0],
            lambda p: loss(p, target, within, carried)[0],
            lambda p: loss(p, target, within, blocked)[0],
        )
    ]
    for other in gradients[1:]:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), gradients[0], other)


def test_quantile_loss_is_one_for_fixed_given_and_weighted_fractions():
    (params, target), rows = heads("quantile", 19), batch(20)
    taus = distributional.midpoints(M)
    outputs = (
        lambda values: values,
        lambda values: (values, taus),
        lambda values: (values, jnp.broadcast_to(taus, (N, M))),
        lambda values: distributional.Quantiles(values, taus, jnp.full(M, 1 / M)),
        lambda values: distributional.Quantiles(values, taus, jnp.full((N, M), 1 / M)),
    )
    results = [
        losses.quantile_loss(params, target, rows, lambda p, obs, output=output: (output(p[obs]), ()))
        for output in outputs
    ]
    for other in results[1:]:
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), results[0], other)
    with pytest.raises(ValueError, match="taus has shape"):
        losses.quantile_loss(params, target, rows, lambda p, obs: ((p[obs], taus[:-1]), ()))


@pytest.mark.parametrize("double", [False, True])
def test_sampled_fractions_are_drawn_afresh_each_time(double):
    (params, target), rows = heads("quantile", 21), batch(22)
    key, draws = jax.random.key(0), []

    def implicit(params, obs, memory=(), key=None):
        taus = jax.random.uniform(key, (N, M))
        draws.append((params is target, taus))
        location, scale = params[obs, :, :1], jnp.exp(params[obs, :, 1:2])
        return (location + scale * jnp.log(taus / (1 - taus))[:, None, :], taus), memory

    loss, (errors, _) = losses.quantile_loss(params, target, rows, implicit, double=double, key=key)
    assert [of_target for of_target, _ in draws] == [False, True, not double]
    taus = np.stack([taus for _, taus in draws])
    assert len(np.unique(taus)) == taus.size
    asked = zip((params, target, params if double else target), (rows.obs, rows.next_obs, rows.next_obs), strict=True)
    values = [
        p[obs, :, :1] + jnp.exp(p[obs, :, 1:2]) * jnp.log(t / (1 - t))[:, None, :]
        for (p, obs), t in zip(asked, taus, strict=True)
    ]
    chosen = jnp.argmax(values[2].mean(-1), axis=-1)
    goal = rows.reward[:, None] + rows.discount[:, None] * values[1][jnp.arange(N), chosen]
    now = values[0][jnp.arange(N), rows.action]
    costs = distributional.quantile_huber(now, taus[0], goal)
    np.testing.assert_allclose(loss, jnp.average(costs, weights=rows.weight), rtol=1e-5)
    np.testing.assert_allclose(errors, goal.mean(-1) - now.mean(-1), atol=1e-4)


def test_a_measure_of_risk_may_choose_the_action():
    safe, risky = jnp.array([1.0, 1.0]), jnp.array([-9.0, 13.0])
    table = jnp.stack([safe, risky])[None]
    rows = Transition(
        obs=jnp.array([0]),
        action=jnp.array([0]),
        reward=jnp.zeros(1),
        discount=jnp.ones(1),
        next_obs=jnp.array([0]),
        weight=jnp.ones(1),
    )
    averse = functools.partial(distributional.cvar, level=0.5)
    for value, want in (distributional.mean, 1.0), (averse, 0.0):
        np.testing.assert_allclose(losses.quantile_loss(table, table, rows, apply, value=value)[1][0], want)
    atoms, logits = jnp.array([-9.0, 1.0, 13.0]), jnp.log(jnp.array([[[1e-9, 1, 1e-9], [0.5, 1e-9, 0.5]]]))
    for value, want in (distributional.mean, 1.0), (averse, 0.0):
        result = losses.c51_loss(logits, logits, rows, apply, atoms=atoms, value=value)
        np.testing.assert_allclose(result[1][0], want, atol=1e-5)


def test_munchausen_loss_is_its_equation():
    (params, target), rows = heads("munchausen", 23), batch(24)
    options = dict(temperature=0.2, alpha=0.7, floor=-0.5)
    loss, (errors, values) = losses.munchausen_loss(params, target, rows, apply, **options)
    want = bellman.munchausen_q_learning(
        params[rows.obs], rows.action, rows.reward, rows.discount, target[rows.next_obs], target[rows.obs], **options
    )
    np.testing.assert_allclose(errors, want, rtol=1e-5)
    np.testing.assert_allclose(loss, jnp.average(optax.huber_loss(want), weights=rows.weight), rtol=1e-5)
    np.testing.assert_allclose(values, params[rows.obs, rows.action])


def test_munchausen_quantile_loss_is_its_definition_row_by_row(temperature=0.4, alpha=0.7, floor=-0.5, kappa=0.8):
    (params, target), rows = heads("quantile", 25), batch(26)
    rng = np.random.default_rng(27)
    mask = rng.random((N, A)) < 0.6
    mask[np.arange(N), rng.integers(A, size=N)] = True
    options = dict(temperature=temperature, alpha=alpha, floor=floor, kappa=kappa)
    f = jax.jit(lambda *args: losses.munchausen_quantile_loss(*args, apply, mask=jnp.asarray(mask), **options))
    loss, (errors, values) = f(params, target, rows)
    online, frozen, costs = np.asarray(params, np.float64), np.asarray(target, np.float64), []
    for i, (obs, action, reward, discount, next_obs, _) in enumerate(zip(*rows[:6], strict=True)):
        policy = softmax(frozen[obs].mean(-1) / temperature)
        goal = np.full(M, reward + alpha * np.clip(temperature * np.log(policy[action]), floor, 0))
        legal = np.flatnonzero(mask[i])
        for p, b in zip(softmax(frozen[next_obs].mean(-1)[legal] / temperature), legal, strict=True):
            goal += discount * p * (frozen[next_obs, b] - temperature * np.log(p))
        now = online[obs, action]
        delta = goal[None, :] - now[:, None]
        huber = np.where(np.abs(delta) <= kappa, 0.5 * delta**2, kappa * (np.abs(delta) - 0.5 * kappa)) / kappa
        costs.append(np.sum(np.mean(np.abs(TAUS[:, None] - (delta < 0)) * huber, axis=-1)))
        np.testing.assert_allclose(errors[i], goal.mean() - now.mean(), atol=1e-5)
        np.testing.assert_allclose(values[i], now.mean(), atol=1e-5)
    np.testing.assert_allclose(loss, np.average(costs, weights=rows.weight), rtol=1e-4)


def test_the_divergence_of_c51_is_that_of_kullback_and_leibler():
    (params, target), rows = heads("c51", 28), batch(29)
    _, (divergence, _) = losses.c51_loss(params, target, rows, apply, atoms=ATOMS, divergence=True)
    online, frozen = np.asarray(params, np.float64), np.asarray(target, np.float64)
    for i, (obs, action, reward, discount, next_obs, weight) in enumerate(zip(*rows[:6], strict=True)):
        then = frozen[next_obs][np.argmax(softmax(frozen[next_obs]) @ ATOMS)]
        goal = distributional.categorical_l2_project(reward + discount * ATOMS, softmax(then), ATOMS)
        goal, now = np.asarray(goal, np.float64), softmax(online[obs, action])
        some = goal > 0
        want = np.sum(goal[some] * np.log(goal[some] / now[some])) if weight else 0.0
        np.testing.assert_allclose(divergence[i], want, atol=1e-5)


def test_checked_losses_overlook_rows_that_do_not_count():
    (params, target), rows = tables(26), batch(27)
    idle = rows.weight == 0
    run = bellman.checked(lambda action: losses.dqn_loss(params, target, rows._replace(action=action), apply)[0])
    run(jnp.where(idle, 99, rows.action))
    with pytest.raises(ValueError, match="an action is not in 0 .*: "):
        run(jnp.where(idle, rows.action, 99))
