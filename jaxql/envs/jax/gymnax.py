"""gymnax's environments as `JaxEnv`s: an optional extra."""

import importlib

import jax
import jax.numpy as jnp

from jaxql.envs.worlds import JaxEnv
from jaxql.errors import UserError, nearest


def from_gymnax(name_or_env, params=None) -> JaxEnv:
    """A gymnax 1.x environment as a `JaxEnv`, its MinAtar games included.

    It steps and resets through `step_env` and `reset_env`, which do not reset by themselves, so that what follows a
    terminal step is the true last observation. Termination is what `step_env` reports. gymnax truncates where
    `state.time`, which counts steps, reaches `params.max_steps_in_episode`: that is the step limit of the JaxEnv, and a
    termination at the limit is a termination.

    Args:
      name_or_env: an id in `gymnax.registered_envs`, or an environment of `gymnax.make`.
      params: its parameters; None for `default_params`.

    Raises:
      UserError: gymnax is missing, it has no such environment, or its actions are not Discrete.
    """
    gymnax = _gymnax(name_or_env)
    env = _make(gymnax, name_or_env) if isinstance(name_or_env, str) else name_or_env
    params = env.default_params if params is None else params
    actions, seen = env.action_space(params), env.observation_space(params)
    if not isinstance(actions, gymnax.environments.spaces.Discrete):
        raise UserError(f"{env.name}: its action space is {type(actions).__name__}, and Q-learning needs Discrete")

    def reset(key):
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), env.reset_env(key, params))  # no weak types

    like = jax.eval_shape(reset, jax.random.key(0))

    def step(key, state, action):
        obs, state, reward, terminated, _ = env.step_env(key, state[1], action, params)
        state = jax.tree.map(lambda x, as_reset: jnp.asarray(x, as_reset.dtype), (obs, state), like)
        return state, reward, jnp.asarray(terminated, bool)

    num_states = int(seen.n) if isinstance(seen, gymnax.environments.spaces.Discrete) else None
    limit = int(params.max_steps_in_episode)
    return JaxEnv(reset, step, int(actions.n), num_states, limit, observe=lambda state: state[0])


def with_params(name: str, **changes) -> JaxEnv:
    """`from_gymnax(name)` with some of its parameters changed."""
    env = _make(_gymnax(name), name)
    params = env.default_params
    for wrong in changes.keys() - vars(params).keys():
        raise UserError(f"gymnax:{name} has no parameter {wrong}; it has {', '.join(sorted(vars(params)))}")
    return from_gymnax(env, params.replace(**changes))


def _gymnax(wanted):
    try:
        return importlib.import_module("gymnax")
    except ImportError as error:
        raise UserError(f'{wanted}: gymnax is not here ({error}); pip install "jaxql[gymnax]"') from None


def _make(gymnax, name: str):
    known = gymnax.registered_envs
    if name not in known:
        raise UserError(f'gymnax has no environment "{name}"{nearest(name, known)}; it has {", ".join(known)}')
    return gymnax.make(name)[0]
