"""JAX envs are found by their ids; wrong ids and arguments are refused in one line."""

import pytest

from jaxql.envs.jax import JaxEnv, named
from jaxql.errors import UserError


@pytest.mark.parametrize(
    ("env", "env_args", "message"),
    [
        ("jax:catsh", {}, 'did you mean "jax:catch"'),
        ("jax:deep-sea", {"sise": 4}, "its arguments are size, seed"),
        ("jax:deep-sea", {"size": 0}, "size=0"),
        ("jax:memory-chain", {"length": 2.5}, "whole numbers"),
        ("jax:memory-chain", {"length": 0}, "1 cell"),
        ("jax:minatar-braekout", {}, 'did you mean "jax:minatar-breakout"'),
        ("jax:minatar-breakout", {"game": "asterix"}, "its arguments are sticky_action_probability"),
        ("jax:minatar-breakout", {"sticky_action_probability": "0.1"}, "sticky_action_probability, a number"),
        ("jax:minatar-breakout", {"sticky_action_probability": 2}, "from 0 to 1"),
        (JaxEnv(None, None, 2), {"a": 1}, "brings its own"),
    ],
)
def test_nonsense_is_refused(env, env_args, message):
    with pytest.raises(UserError, match=message):
        named.device_env(env, 2, env_args=env_args, render=False)


@pytest.mark.parametrize("probability", [0, 0.25])
def test_an_argument_may_be_a_fraction_where_its_type_is(probability):
    env_args = {"sticky_action_probability": probability}
    env = named.device_env("jax:minatar-freeway", 3, env_args=env_args, render=False)
    assert env.spec.obs.shape == (3, 10, 10, 7) and env.spec.num_actions == 6
