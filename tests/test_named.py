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
        (JaxEnv(None, None, 2), {"a": 1}, "brings its own"),
    ],
)
def test_nonsense_is_refused(env, env_args, message):
    with pytest.raises(UserError, match=message):
        named.device_env(env, 2, env_args=env_args, render=False)
