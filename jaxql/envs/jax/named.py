"""The JAX envs that have a name: jax:NAME for ours, gymnax:NAME for gymnax's."""

import inspect

from jaxql.envs import gymnax
from jaxql.envs.device import DeviceEnv
from jaxql.envs.small_worlds import cartpole, deep_sea, deep_sea_mdp, memory
from jaxql.envs.worlds import JaxEnv, catch, catch_mdp
from jaxql.errors import UserError, nearest

NAMES = {  # name: the JaxEnv, and the same as a model where it has one
    "jax:cartpole": (cartpole, None),
    "jax:catch": (catch, catch_mdp),
    "jax:deep-sea": (deep_sea, deep_sea_mdp),
    "jax:memory": (memory, None),
}


def is_jax(env) -> bool:
    """Whether an env is a `JaxEnv`, or an id that stands for one."""
    return isinstance(env, JaxEnv) or isinstance(env, str) and env.startswith(("jax:", "gymnax:"))


def name_of(env) -> str:
    """The id of a JAX env, or one line with the nearest one.

    >>> name_of("jax:catsh")
    Traceback (most recent call last):
    jaxql.errors.UserError: jax:catsh: there is no such env (did you mean "jax:catch"?)
    """
    if isinstance(env, JaxEnv):
        return "env"
    if env.startswith("jax:") and env not in NAMES:
        raise UserError(f"{env}: there is no such env{nearest(env, NAMES)}")
    return env


def device_env(env, num_envs: int, *, env_args: dict, render: bool, first_env=0, mesh=None, **seeding) -> DeviceEnv:
    """See `jaxql.envs.make`."""
    id = name_of(env)
    if mesh is not None or first_env:
        raise UserError(f"{id}: a JAX env takes no mesh and no first_env; give env_step of envs.autoreset to a loop")
    if render:
        raise UserError(f"{id} draws no frames; record a run of a Gymnasium or Atari env")
    jax_env, mdp = _jax_env(env, env_args)
    return DeviceEnv(jax_env, num_envs, id, mdp=mdp, **seeding)


def _jax_env(env, env_args):
    if isinstance(env, JaxEnv):
        if env_args:
            raise UserError(f"env_args {sorted(env_args)} are for ids; a JaxEnv brings its own")
        return env, None
    if env.startswith("gymnax:"):
        return gymnax.with_params(env.removeprefix("gymnax:"), **env_args), None
    make, model = NAMES[env]
    known = inspect.signature(make).parameters
    for name, value in env_args.items():
        if name not in known or isinstance(value, bool) or not isinstance(value, int):
            raise UserError(f"{env}: {name}={value!r}; its arguments are {', '.join(known) or 'none'}, whole numbers")
    return make(**env_args), model and model(**env_args)
