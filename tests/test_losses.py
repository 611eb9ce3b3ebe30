"""The DQN loss against a loop over its rows, and where its gradient may not go."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxql import losses
from jaxql.networks import masked
from jaxql.types import Network, Transition

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
    for obs, action, reward, discount, next_obs, weight in zip(*rows, strict=True):
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
    with pytest.raises(ValueError, match="r_t has shape"):
        losses.dqn_loss(params, target, rows._replace(reward=rows.reward[:, None]), apply)
