"""`reward_scale` equals an env whose rewards are multiplied by it; centred RMSprop equals its loop."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import agents, loop
from jaxql.agents.dqn import OPTIMIZERS
from jaxql.agents.state import hyper_of
from jaxql.envs.jax import autoreset, catch, catch_mdp
from jaxql.errors import UserError
from jaxql.lab.exact import compare_with_model
from jaxql.lab.settings import settings
from jaxql.replay import zero_step
from jaxql.types import EnvSpec

TABLE = EnvSpec(jax.ShapeDtypeStruct((2,), jnp.int32), num_actions=3, num_envs=2, num_states=5)
SMALL = {
    "dqn": dict(num_envs=2, capacity=64, batch_size=8, hidden=(8,)),
    "rainbow": dict(num_envs=2, capacity=64, batch_size=8, hidden=(8,), num_atoms=7),
    "pqn": dict(num_envs=2, rollout_length=8, gradient_steps=4, minibatches=2, hidden=(8,)),
    "r2d2": dict(num_envs=2, capacity=64, batch_size=4, hidden=(8,), core_width=8, burn_in=1, length=4),
}


def multiplied(env, factor):
    """The env with its rewards multiplied."""

    def step(key, state, action):
        state, reward, terminated = env.step(key, state, action)
        return state, reward * factor, terminated

    return env._replace(step=step)


@pytest.mark.parametrize(
    "name", ["dqn", "pqn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rainbow", "r2d2"))]
)
def test_a_scale_is_an_env_with_other_rewards(name):
    """One program with both factors, so that the parameters agree bit for bit."""
    config, _ = settings(agents.REGISTRY[name], "anything", **SMALL[name])
    agent = agents.REGISTRY[name].make(config, catch().spec(config.num_envs))

    @jax.jit
    def learned(scale, factor):
        begin, env_step = autoreset(multiplied(catch(), factor), config.num_envs)
        env_state, obs = begin(jax.random.key(1))
        state = agent.init(jax.random.key(0), obs, hyper_of(config)._replace(reward_scale=scale))
        counts = dict(warmup=20, rounds=30, rollout_length=config.rollout_length)
        return loop.train(agent, env_step, (state, env_state, obs), **counts)[0][0].params

    scaled, other, plain = learned(0.3, 1.0), learned(1.0, 0.3), learned(1.0, 1.0)
    jax.tree.map(np.testing.assert_array_equal, scaled, other)
    assert any(jnp.any(x != y) for x, y in zip(*map(jax.tree.leaves, (scaled, plain)), strict=True))


def test_signs_are_scaled():
    config, _ = settings(agents.REGISTRY["dqn"], "anything", clip_rewards=True, reward_scale=0.5, capacity=8)
    agent, obs = agents.REGISTRY["dqn"].make(config, TABLE), jnp.zeros(2, jnp.int32)
    state = jax.jit(agent.init)(jax.random.key(0), obs, hyper_of(config))
    state = agent.observe(state, zero_step(obs)._replace(reward=jnp.array([7.0, -3.0]), valid=jnp.ones(2, bool)))
    np.testing.assert_array_equal(state.data.rows.reward[0], [0.5, -0.5])


def test_values_learned_from_scaled_rewards_are_compared_in_raw_units():
    tables = []
    for scale in (1.0, 0.25):
        config, _ = settings(agents.REGISTRY["dqn"], "anything", reward_scale=scale)
        spec = catch().spec(2)
        agent = agents.REGISTRY["dqn"].make(config, spec)
        params = jax.jit(agent.init)(jax.random.key(0), jnp.zeros(2, jnp.int32), hyper_of(config)).params
        tables.append(compare_with_model(agent, catch_mdp(), config, spec).table(params))
    np.testing.assert_allclose(tables[1], 4 * tables[0], rtol=1e-6)


def test_a_scale_of_nothing_is_refused():
    with pytest.raises(UserError, match="reward_scale is 0.0; it must be at least 1e-09"):
        settings(agents.REGISTRY["pqn"], "CartPole-v1", reward_scale=0.0)


@pytest.mark.parametrize("name", ["rmsprop-centred", "rmsprop-momentum"])
def test_centred_rmsprop_is_its_loop(name, rate=0.5):
    """Averages of g and g^2 with decay 0.95; 0.01 is under the root, or beside it and the steps have momentum."""
    optimizer = OPTIMIZERS[name](agents.REGISTRY["dqn"].config())
    rng = np.random.default_rng(0)
    params, state = np.zeros(5), optimizer.init(jnp.zeros(5))
    ours, mean, square, momentum = jnp.zeros(5), np.zeros(5), np.zeros(5), np.zeros(5)
    update = jax.jit(optimizer.update)
    for _ in range(40):
        gradient = rng.normal(size=5) * [0.01, 0.1, 1, 10, 1]
        direction, state = update(jnp.asarray(gradient), state)
        ours = ours - rate * direction
        for i, g in enumerate(gradient):
            mean[i] = 0.95 * mean[i] + 0.05 * g
            square[i] = 0.95 * square[i] + 0.05 * g * g
            variance = square[i] - mean[i] ** 2
            if name == "rmsprop-centred":
                params[i] -= rate * g / math.sqrt(variance + 0.01)
            else:
                momentum[i] = 0.95 * momentum[i] + g / (math.sqrt(variance) + 0.01)
                params[i] -= rate * momentum[i]
    np.testing.assert_allclose(ours, params, rtol=1e-3, atol=1e-3)


def test_the_optimizer_is_a_setting():
    for name in OPTIMIZERS:
        config, _ = settings(agents.REGISTRY["c51"], "anything", optimizer=name)
        agent = agents.REGISTRY["dqn"].make(config, TABLE)
        state = jax.eval_shape(agent.init, jax.random.key(0), jnp.zeros(2, jnp.int32), hyper_of(config)).opt_state
        assert ("ScaleByRStdDevState" in str(state)) == (name != "adam")
    with pytest.raises(
        UserError, match="optimizer is 'rmsprop'; it must be one of adam, rmsprop-centred, rmsprop-momentum"
    ):
        settings(agents.REGISTRY["dqn"], "CartPole-v1", optimizer="rmsprop")
