"""Reverse mode through the planners, against differences of what they give, in whatever dtype the model has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_planning import FLOATS, A, S, random_mdp, stored

from jaxql import planning

MODEL = stored(random_mdp(1), FLOATS[-1])
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(S, A)).astype(FLOATS[-1])
TIGHT = 1e-12 if FLOATS[-1] == np.float64 else 1e-6
WEIGHTS = jnp.asarray(RNG.normal(size=S), FLOATS[-1])


def odds(logits):
    return jax.nn.softmax(logits, axis=-1)


VALUES = {  # of a model, a policy's logits [S, A] and a discount
    "policy_evaluation": lambda mdp, x, g: planning.policy_evaluation(mdp, odds(x), g),
    "policy_evaluation by sweeps": lambda mdp, x, g: planning.policy_evaluation(
        mdp, odds(x), g, method="sweeps", tolerance=TIGHT
    ),
    "start_returns": lambda mdp, x, g: planning.start_returns(mdp, odds(x), g, 7),
    "expected_return": lambda mdp, x, g: planning.expected_return(mdp, odds(x), g, 7) * WEIGHTS,
    "best_return": lambda mdp, x, g: planning.best_return(mdp, g, 7) * WEIGHTS,
    "best_return for ever": lambda mdp, x, g: planning.best_return(mdp, g) * WEIGHTS,
    "finite_horizon": lambda mdp, x, g: planning.finite_horizon(mdp, 5, g)[-1],
    "discounted_occupancy": lambda mdp, x, g: planning.discounted_occupancy(mdp, odds(x), g),
    "stationary_distribution": lambda mdp, x, g: planning.stationary_distribution(mdp, odds(x)),
    "bellman_expectation_q": lambda mdp, x, g: planning.bellman_expectation_q(mdp, odds(x), x, g)[:, 0],
    "undiscounted": lambda mdp, x, g: planning.value_iteration(mdp, 1).values,
    "value_iteration": lambda mdp, x, g: planning.value_iteration(mdp, g, TIGHT).values,
    "value_iteration, q": lambda mdp, x, g: planning.value_iteration(mdp, g, TIGHT).q_values @ jnp.arange(A),
    "prioritised_sweeping": lambda mdp, x, g: planning.prioritised_sweeping(mdp, g, TIGHT).values,
    "relative_value_iteration": lambda mdp, x, g: planning.relative_value_iteration(mdp, TIGHT).gain * WEIGHTS,
    "relative_value_iteration, q": lambda mdp, x, g: (
        planning.relative_value_iteration(mdp, TIGHT).q_values @ jnp.arange(A)
    ),
    "loss_bounds": lambda mdp, x, g: planning.loss_bounds(mdp, x[:, 0], g / 2).error * WEIGHTS,
    "policy_iteration": lambda mdp, x, g: planning.policy_iteration(mdp, g, TIGHT).values,
}


@pytest.mark.often(
    "undiscounted",
    "value_iteration",
    "policy_evaluation",
    "start_returns",
    "relative_value_iteration, q",
    "stationary_distribution",
    "finite_horizon",
)
@pytest.mark.parametrize("name", VALUES)
def test_the_gradient_is_the_slope(name):
    def total(reward, chances, logits, discount):
        probability = chances / jnp.sum(chances, axis=-1, keepdims=True)
        return jnp.sum(WEIGHTS * VALUES[name](MODEL._replace(reward=reward, probability=probability), logits, discount))

    total = jax.jit(total)
    at = MODEL.reward, MODEL.probability, jnp.asarray(LOGITS), jnp.asarray(0.8, FLOATS[-1])
    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(*at)
    small = 1e-2 if FLOATS[-1] == np.float32 else 1e-5
    for place, (x, slope) in enumerate(zip(at, gradient, strict=True)):
        assert slope.dtype == x.dtype
        way = jnp.asarray(np.random.default_rng(place).normal(size=x.shape) * (1 if place != 1 else 0.1), x.dtype)
        way = jnp.where(x == 0, 0, way)
        above, below = (total(*at[:place], x + sign * small * way, *at[place + 1 :]) for sign in (1, -1))
        close = dict(rtol=1e-2, atol=1e-2) if FLOATS[-1] == np.float32 else dict(rtol=1e-5, atol=1e-6)
        assert_allclose(jnp.sum(slope * way), (above - below) / (2 * small), **close)


@pytest.mark.slow
def test_the_gradient_of_the_optimum_in_the_rewards_is_where_its_policy_goes():
    """sum_s start(s) dV*(s) / dr(s, a, k) = x(s) 1{a = pi(s)} p(k): the envelope theorem."""

    def value(reward):
        mdp = MODEL._replace(reward=reward)
        return jnp.sum(mdp.start * planning.value_iteration(mdp, 0.9).values)

    policy = planning.value_iteration(MODEL, 0.9).policy
    visits = planning.discounted_occupancy(MODEL, policy, 0.9)
    expected = visits[:, None, None] * jax.nn.one_hot(policy, A)[..., None] * MODEL.probability
    assert_allclose(jax.grad(value)(MODEL.reward), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_gradients_map_over_models():
    slope = jax.grad(lambda discount: jnp.sum(planning.value_iteration(MODEL, discount).values))
    discounts = jnp.array([0.5, 0.9], FLOATS[-1])
    assert_allclose(jax.vmap(slope)(discounts), [slope(x) for x in discounts], rtol=1e-5)
