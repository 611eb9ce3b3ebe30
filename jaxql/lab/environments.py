"""The envs of a run, and who steps them: the host, or a compiled program where the env is a JAX env."""

import functools
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from jaxql import envs
from jaxql.envs.jax import DeviceEnv
from jaxql.errors import UserError
from jaxql.types import Env


class EnvMaker:
    """Makes the envs of a run: (num_envs, *, seed, purpose, render=False, life_loss=False) -> Env.

    Args:
      env: what `jaxql.envs.make` accepts.
      env_args: keyword arguments of the env.

    Attributes:
      id: the id that is run.
      notes: lines for the person who asked for another version.
    """

    def __init__(self, env: Any, env_args: dict[str, Any]):
        self.env, self.env_args = env, env_args
        self.id, self.notes = envs.identify(env)

    def __call__(self, num_envs: int, *, purpose: str, **options: Any) -> Env:
        env = self.env
        if isinstance(env, VectorEnv) and purpose != "train":  # the one that was given is busy training
            spec = getattr(env.unwrapped, "envs", [env])[0].spec
            if spec is None:
                raise UserError(f"{self.id}: no spec to make evaluation envs from; pass a callable instead")
            env = functools.partial(gymnasium.make, spec)
        return envs.make(env, num_envs, purpose=purpose, env_args=self.env_args, **options)


def is_compiled(env: Env) -> bool:
    """Returns whether `env.step` is a pure function that can be compiled together with an agent."""
    return isinstance(env, DeviceEnv)
