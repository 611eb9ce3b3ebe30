"""gymnax's environments as `JaxEnv`s: an optional extra."""

import importlib
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from jaxql.envs.jax.protocol import JaxEnv
from jaxql.errors import UserError, nearest


def from_gymnax(name_or_env: Any, params: Any = None) -> JaxEnv:
    """Returns a gymnax 1.x environment, its MinAtar games included, as a `JaxEnv`.

    It calls `step_env` and `reset_env`, which do not reset by themselves, so a terminal step shows the true last
    observation. Terminations are those of `step_env`. gymnax truncates where `state.time`, which counts steps, reaches
    `params.max_steps_in_episode`; this is the step limit of the JaxEnv. A termination at the limit is a termination.

    Args:
      name_or_env: an id in `gymnax.registered_envs`, or an environment of `gymnax.make`.
      params: its parameters; None for `default_params`.

    Raises:
      UserError: gymnax is missing, it has no such environment, or its actions are not Discrete.
    """
    gymnax = _import_gymnax(name_or_env)
    env = _make(gymnax, name_or_env) if isinstance(name_or_env, str) else name_or_env
    params = env.default_params if params is None else params
    actions, observations = env.action_space(params), env.observation_space(params)
    if not isinstance(actions, gymnax.environments.spaces.Discrete):
        raise UserError(f"{env.name}: its action space is {type(actions).__name__}, and Q-learning needs Discrete")

    def reset(key: jax.Array, /) -> Any:
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), env.reset_env(key, params))  # no weak types

    shapes = jax.eval_shape(reset, jax.random.key(0))

    def step(key: jax.Array, state: Any, action: jax.Array, /) -> tuple[Any, Any, Any]:
        obs, state, reward, terminated, _ = env.step_env(key, state[1], action, params)
        state = jax.tree.map(lambda x, shape: jnp.asarray(x, shape.dtype), (obs, state), shapes)
        return state, reward, jnp.asarray(terminated, bool)

    num_states = int(observations.n) if isinstance(observations, gymnax.environments.spaces.Discrete) else None
    limit = int(params.max_steps_in_episode)
    return JaxEnv(reset, step, int(actions.n), num_states, limit, observe=lambda state: state[0])


def with_params(name: str, **changes: Any) -> JaxEnv:
    """Returns `from_gymnax(name)` with some of its parameters changed. Raises UserError for an unknown parameter."""
    env = _make(_import_gymnax(name), name)
    params = env.default_params
    for wrong in changes.keys() - vars(params).keys():
        raise UserError(f"gymnax:{name} has no parameter {wrong}; it has {', '.join(sorted(vars(params)))}")
    return from_gymnax(env, params.replace(**changes))


def _import_gymnax(wanted: Any) -> ModuleType:
    try:
        return importlib.import_module("gymnax")
    except ImportError as error:
        raise UserError(f'{wanted}: gymnax is not here ({error}); pip install "jaxql[gymnax]"') from None


def _make(gymnax: ModuleType, name: str) -> Any:
    known = gymnax.registered_envs
    if name not in known:
        raise UserError(f'gymnax has no environment "{name}"{nearest(name, known)}; it has {", ".join(known)}')
    return gymnax.make(name)[0]
