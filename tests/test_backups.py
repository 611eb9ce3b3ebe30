"""Backups: the scalar equations and rlax, limits of one another, and what each reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_losses import ACTIONS, BACKUPS, EPSILON, FLOOR, GAP, SHARE, TEMPERATURE

from jaxql.losses import ActionValues, backups, q_loss
from jaxql.losses.backups import expected_target
from jaxql.types import Transition

pytestmark = pytest.mark.float64
N = 30
NETWORKS = ("target_now", "target_next", "online_next", "second_next")


def case(seed=0):
    """Action values of a batch, and (action, reward, discount)."""
    rng = np.random.default_rng(seed)
    values = {name: jnp.asarray(rng.normal(size=(N, ACTIONS))) for name in NETWORKS}
    action, reward, discount = rng.integers(ACTIONS, size=N), rng.normal(size=N), rng.choice([0, 0.9], N)
    return values, *map(jnp.asarray, (action, reward, discount))


def target_of(backup, values, action, reward, discount):
    return expected_target(values["target_next"], backup(ActionValues(action, **values)), reward, discount)


def assert_same(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def value_at_next(name, values, action):
    """What is discounted, by its closed form."""
    q = np.asarray(values["target_next"], np.float64)
    rows, chosen = np.arange(N), np.argmax(values["online_next"], axis=-1)
    if name == "double":
        return q[rows, chosen]
    if name == "clipped_double":
        return np.minimum(q, values["second_next"])[rows, chosen]
    if name == "expected_sarsa":
        return (1 - EPSILON) * q.max(-1) + EPSILON * q.mean(-1)
    if name == "persistent":
        return (1 - SHARE) * q.max(-1) + SHARE * q[rows, action]
    if name in ("soft", "munchausen"):
        return TEMPERATURE * np.log(np.sum(np.exp(q / TEMPERATURE), axis=-1))
    return q.max(-1)


@pytest.mark.parametrize("name", BACKUPS)
def test_targets_of_values_are_the_closed_forms(name):
    values, action, reward, discount = case()
    now, rows = np.asarray(values["target_now"], np.float64), np.arange(N)
    want = np.asarray(reward) + np.asarray(discount) * value_at_next(name, values, action)
    if name == "advantage":
        want = want - GAP * (now.max(-1) - now[rows, action])
    if name == "munchausen":
        policy = np.exp(now / TEMPERATURE) / np.exp(now / TEMPERATURE).sum(-1, keepdims=True)
        want = want + 0.7 * np.clip(TEMPERATURE * np.log(policy[rows, action]), FLOOR, 0)
    assert_same(target_of(BACKUPS[name], values, action, reward, discount), want)


def test_scalar_backups_are_those_of_rlax():
    rlax = pytest.importorskip("rlax", reason="rlax is not installed")
    values, action, reward, discount = case(1)
    q_next, q, rows = values["target_next"], values["target_now"], np.arange(N)  # any q: it is taken off again
    taken = q[rows, action]
    policy = EPSILON / ACTIONS + (1 - EPSILON) * jax.nn.one_hot(jnp.argmax(q_next, axis=-1), ACTIONS)
    given = q, action, reward, discount, q_next

    def share(f):
        return jax.vmap(f, (0, 0, 0, 0, 0, None))

    errors = {
        "greedy": jax.vmap(rlax.q_learning)(*given),
        "double": jax.vmap(rlax.double_q_learning)(*given, values["online_next"]),
        "expected_sarsa": jax.vmap(rlax.expected_sarsa)(*given, policy),
        "persistent": share(rlax.persistent_q_learning)(*given, SHARE),
    }
    for name, error in errors.items():
        assert_same(target_of(BACKUPS[name], values, action, reward, discount), error + taken)


TWIN = {"second_next": "target_next"}
LIMITS = {  # a backup at the end of its range, and what it then is
    "expected_sarsa(0)": (backups.expected_sarsa(0.0), backups.greedy, {}),
    "persistent(0)": (backups.persistent(0.0), backups.greedy, {}),
    "advantage(0)": (backups.advantage(0.0), backups.greedy, {}),
    "soft(0)": (backups.soft(1e-6), backups.greedy, {}),
    "munchausen(alpha=0)": (backups.munchausen(0.3, 0.0), backups.soft(0.3), {}),
    "clipped_double of twins": (backups.clipped_double, backups.double, TWIN),
    "double of one network": (backups.double, backups.greedy, {"online_next": "target_next"}),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_backup_at_the_end_of_its_range_is_a_simpler_one(name):
    backup, simpler, same = LIMITS[name]
    values, *rest = case(2)
    values |= {a: values[b] for a, b in same.items()}
    assert_same(target_of(backup, values, *rest), target_of(simpler, values, *rest))


@pytest.mark.parametrize("name", BACKUPS)
def test_policies_are_distributions_over_legal_actions(name):
    values, action, *_ = case(3)
    legal = np.random.default_rng(4).random((N, ACTIONS)) < 0.5
    legal[np.arange(N), np.random.default_rng(5).integers(ACTIONS, size=N)] = True
    values = {x: jnp.where(legal, v, -jnp.inf) if x.endswith("next") else v for x, v in values.items()}
    answer = BACKUPS[name](ActionValues(action, **values))
    np.testing.assert_allclose(jnp.sum(answer.policy, axis=-1), 1, rtol=1e-5)
    assert not np.any(np.asarray(answer.policy)[~legal]) and np.all(np.asarray(answer.policy) >= 0)
    for x in (answer.shift, answer.bonus):
        assert x is None or np.all(np.isfinite(np.asarray(x)[legal if x.ndim == 2 else ...]))


def test_a_second_critic_that_says_nan_is_not_hidden():
    values, *rest = case(6)
    values["second_next"] = jnp.full((N, ACTIONS), jnp.nan)
    assert np.all(np.isnan(target_of(backups.clipped_double, values, *rest))[np.asarray(rest[2]) != 0])


TRACED = {
    "expected_sarsa": (backups.expected_sarsa, (EPSILON,)),
    "persistent": (backups.persistent, (SHARE,)),
    "advantage": (backups.advantage, (GAP,)),
    "soft": (backups.soft, (TEMPERATURE,)),
    "munchausen": (backups.munchausen, (TEMPERATURE, 0.7, FLOOR)),
}


@pytest.mark.parametrize("name", TRACED)
def test_numbers_of_a_backup_may_be_traced_and_mapped(name):
    make, numbers = TRACED[name]
    f = jax.jit(jax.vmap(lambda numbers: target_of(make(*numbers), *case(7))))
    many = jnp.asarray([numbers, [0.5 * x for x in numbers]])
    for got, alone in zip(f(many), many.tolist(), strict=True):
        assert_same(got, target_of(make(*alone), *case(7)))


def test_values_are_computed_when_first_read_and_once():
    asked = []

    def said(name):
        asked.append(name)
        return jnp.zeros((1, 2))

    values = ActionValues(jnp.array([0]), **{name: lambda name=name: said(name) for name in NETWORKS})
    assert asked == []
    backups.munchausen()(values)
    backups.advantage()(values)
    assert asked == ["target_now", "target_next"]
    with pytest.raises(ValueError, match="reads second_next, which was not given; .*: target_next"):
        backups.clipped_double(ActionValues(jnp.array([0]), target_next=jnp.zeros((1, 2))))
    with pytest.raises(AttributeError, match="no attribute target_then; it may have target_now"):
        values.target_then  # noqa: B018
    assert not hasattr(values, "__deepcopy__")


PASSES = dict(greedy=2, double=3, clipped_double=4, expected_sarsa=2, persistent=2, advantage=3, soft=2, munchausen=3)


@pytest.mark.parametrize("name", BACKUPS)
def test_what_a_backup_does_not_read_is_not_computed(name):
    """A linear network multiplies once a pass; its gradient once more."""
    rng = np.random.default_rng(8)
    obs, next_obs = jnp.asarray(rng.normal(size=(2, N, 50)))
    _, action, reward, discount = case(9)
    rows = Transition(obs, action, reward, discount, next_obs, jnp.ones(N))
    weights = [jnp.asarray(rng.normal(size=(50, ACTIONS))) for _ in range(3)]

    def loss(params, target, second):
        options = dict(backup=BACKUPS[name], second_target_params=second)
        return q_loss(params, target, rows, lambda w, x: (x @ w, ()), **options)

    for f, more in ((loss, 0), (jax.value_and_grad(loss, has_aux=True), 1)):
        lowered = jax.jit(f).lower(*weights)
        assert lowered.as_text().count("stablehlo.dot_general") == PASSES[name] + more
        assert lowered.compile().as_text().count(" dot(") <= PASSES[name] + more
