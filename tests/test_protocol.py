"""A JaxEnv states what agents are made for."""

import jax
import jax.numpy as jnp

from jaxql.envs.jax import JaxEnv, memory_chain


def test_spec_is_of_observations_not_of_states():
    assert memory_chain(3).spec(5).obs == jax.ShapeDtypeStruct((5, 3), jnp.result_type(float))
    env = JaxEnv(
        reset=lambda key: {"place": jnp.zeros(2, jnp.int32), "key": key},
        step=lambda key, state, action: (state, 0.0, False),
        num_actions=4,
        observe=lambda state: (state["place"], state["place"][0] > 0),
    )
    spec = env.spec(3)
    assert spec.obs == (jax.ShapeDtypeStruct((3, 2), jnp.int32), jax.ShapeDtypeStruct((3,), bool))
    assert (spec.num_actions, spec.num_envs, spec.num_states, spec.stack) == (4, 3, None, 1)


def test_the_agent_sees_the_state_unless_the_env_observes():
    env = JaxEnv(lambda key: jnp.int32(0), lambda key, state, action: (state, 0.0, False), num_actions=1)
    assert env.observe(7) == 7
