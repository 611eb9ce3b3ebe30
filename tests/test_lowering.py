"""Every agent's functions lower for CPUs, CUDA and TPUs from any machine, and call nothing a platform does not have.

Each program is traced once, so that whatever was decided when it was traced would show on the other platforms.
"""

import re

import jax
import jax.numpy as jnp
import pytest
from test_laws import ENVS, SMALL, settings_of

from jaxql import agents
from jaxql.agents.state import hyper_of
from jaxql.envs.jax import DeviceEnv, catch
from jaxql.kernels import onednn
from jaxql.replay import zero_step
from jaxql.types import EnvSpec

KNOWN = {  # what a program of each platform may call outside StableHLO; the second set is of orthogonal matrices
    "cpu": {"__onednn$convolution"} | {f"lapack_{x}_ffi" for x in ("sgeqrf", "sorgqr", "dgeqrf", "dorgqr")},
    "cuda": {"cu_threefry2x32_ffi"} | {"cusolver_geqrf_ffi", "cusolver_orgqr_ffi"},
    "tpu": {"Qr", "ProductOfElementaryHouseholderReflectors"},
}
FRAMES = EnvSpec(jax.ShapeDtypeStruct((ENVS, 4, 84, 84), jnp.uint8), num_actions=6, num_envs=ENVS, stack=4)
SMALL_IMAGES = EnvSpec(jax.ShapeDtypeStruct((ENVS, 10, 10, 4), bool), num_actions=3, num_envs=ENVS)
IMAGES = {
    "dqn nature-cnn": ("dqn", FRAMES, SMALL | dict(network="nature-cnn", bfloat16=True)),
    "dqn nips-cnn": ("dqn", FRAMES, SMALL | dict(network="nips-cnn")),
    "dqn der-cnn": ("dqn", FRAMES, SMALL | dict(network="der-cnn")),
    "dqn impala-cnn": ("dqn", FRAMES, SMALL | dict(network="impala-cnn")),
    "dqn minatar-cnn": ("dqn", SMALL_IMAGES, SMALL | dict(network="minatar-cnn")),
    "pqn minatar-cnn": (
        "pqn",
        SMALL_IMAGES,
        dict(rollout_length=8, gradient_steps=4, minibatches=4, network="minatar-cnn"),
    ),
    "r2d2 nips-cnn": ("r2d2", FRAMES, dict(capacity=400, batch_size=16, burn_in=2, length=6, network="nips-cnn")),
}


def agent_program(entry, spec, config):
    """(a function that calls every function of an agent, shapes of its arguments)."""
    agent = entry.make(config, spec)

    def program(key, obs):
        state = agent.init(key, obs, hyper_of(config))
        chosen, _ = agent.policy(state.params, obs, (), key)
        action, extra = agent.act(state, obs)
        state = agent.observe(state, zero_step(obs)._replace(action=action, extra=extra))
        return agent.learn(state), chosen

    return program, (jax.eval_shape(lambda: jax.random.key(0)), spec.obs)


def calls(program, shapes) -> dict[str, set[str]]:
    """The custom calls of a program, by the platform that it is lowered for."""
    traced = jax.jit(program).trace(*shapes)
    lowered = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in KNOWN}
    return {platform: set(re.findall(r"custom_call @([\w.$]+)", text)) for platform, text in lowered.items()}


def assert_known(found):
    for platform, names in found.items():
        assert names <= KNOWN[platform], f"lowered for {platform}: {names - KNOWN[platform]}"


@pytest.mark.often("dqn", "noisy-dqn", "iqn", "rainbow", "bbf", "r2d2", "pqn", "q-learning", "q-iteration")
@pytest.mark.parametrize("name", agents.REGISTRY)
def test_every_agent_lowers_for_every_platform(name):
    assert_known(calls(*agent_program(agents.REGISTRY[name], catch().spec(ENVS), settings_of(name))))


@pytest.mark.often("dqn nature-cnn", "pqn minatar-cnn", "r2d2 nips-cnn")
@pytest.mark.parametrize("name", IMAGES)
def test_every_convolutional_network_lowers_for_every_platform(name):
    agent, spec, settings = IMAGES[name]
    found = calls(*agent_program(agents.REGISTRY[agent], spec, agents.REGISTRY[agent].config(**settings)))
    assert_known(found)
    multiplied = jnp.float32 if settings.get("bfloat16") else jnp.result_type(float)
    assert ("__onednn$convolution" in found["cpu"]) == onednn.is_available(multiplied)


def test_a_chunk_of_a_jax_env_lowers_for_every_platform():
    entry, env = agents.REGISTRY["q-learning"], DeviceEnv(catch(), ENVS, "catch")
    config = entry.config()
    agent, obs = entry.make(config, env.spec), env.reset()
    chunk = env.rounds_program(agent, max_warmup=5, max_rounds=3, rollout_length=1)
    state = agent.init(jax.random.key(0), obs, hyper_of(config))
    assert_known(calls(chunk, (state, env.state, obs, 5, 3)))


@pytest.mark.skipif(not onednn.is_available(jnp.result_type(float)), reason="needs oneDNN")
def test_a_choice_made_when_traced_is_caught():
    found = calls(lambda x, w: onednn.convolve(x, w, 1), (jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1))))
    with pytest.raises(AssertionError, match="lowered for cuda: {'__onednn\\$convolution'}"):
        assert_known(found)
