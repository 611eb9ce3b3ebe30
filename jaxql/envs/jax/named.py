"""JAX envs by id: jax:NAME for ours, gymnax:NAME for gymnax's."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jax.sharding import Mesh

from jaxql.envs.jax import gymnax
from jaxql.envs.jax.device import DeviceEnv
from jaxql.envs.jax.minatar import GAMES, make_minatar
from jaxql.envs.jax.protocol import JaxEnv
from jaxql.envs.jax.small_envs import cartpole, catch, catch_mdp, deep_sea, deep_sea_mdp, memory_chain
from jaxql.errors import UserError, nearest
from jaxql.types import MDP

NAMES: dict[
    str, tuple[Callable[..., JaxEnv], Callable[..., MDP] | None]
] = {  # id: the env, and its model if it has one
    "jax:cartpole": (cartpole, None),
    "jax:catch": (catch, catch_mdp),
    "jax:deep-sea": (deep_sea, deep_sea_mdp),
    "jax:memory-chain": (memory_chain, None),
    **{f"jax:minatar-{game}": (partial(make_minatar, game), None) for game in GAMES},
}


def is_jax(env: Any) -> bool:
    """Returns whether `env` is a `JaxEnv`, or an id that begins as those of JAX envs do."""
    return isinstance(env, JaxEnv) or isinstance(env, str) and env.startswith(("jax:", "gymnax:"))


def jax_env_id(env: str | JaxEnv) -> str:
    """Returns the id of a JAX env; "env" for a JaxEnv, which has none.

    Raises:
      UserError: an unknown jax:NAME; one line with the nearest one.

    >>> jax_env_id("jax:catsh")
    Traceback (most recent call last):
    jaxql.errors.UserError: jax:catsh: there is no such env (did you mean "jax:catch"?)
    """
    if isinstance(env, JaxEnv):
        return "env"
    if env.startswith("jax:") and env not in NAMES:
        raise UserError(f"{env}: there is no such env{nearest(env, NAMES)}")
    return env


def device_env(
    env: str | JaxEnv,
    num_envs: int,
    *,
    env_args: dict[str, Any],
    render: bool,
    seed: int | Sequence[int] = 0,
    purpose: str = "train",
    first_env: int = 0,
    mesh: Mesh | None = None,
) -> DeviceEnv:
    """Makes the DeviceEnv of a JAX env or of its id. Arguments are those of `jaxql.envs.make`.

    Raises:
      UserError: an unknown id or argument; `first_env` or `render`, which JAX envs do not support.
    """
    id = jax_env_id(env)
    if first_env:
        raise UserError(f"{id}: a JAX env takes no first_env; give env_step of envs.autoreset to a loop")
    if render:
        raise UserError(f"{id} draws no frames; record a run of a Gymnasium or Atari env")
    jax_env, mdp = _jax_env_and_model(env, env_args)
    return DeviceEnv(jax_env, num_envs, id, seed=seed, purpose=purpose, mdp=mdp, mesh=mesh)


def _jax_env_and_model(env: str | JaxEnv, env_args: dict[str, Any]) -> tuple[JaxEnv, MDP | None]:
    if isinstance(env, JaxEnv):
        if env_args:
            raise UserError(f"env_args {sorted(env_args)} are for ids; a JaxEnv brings its own")
        return env, env.mdp
    if env.startswith("gymnax:"):
        return gymnax.with_params(env.removeprefix("gymnax:"), **env_args), None
    make_env, make_model = NAMES[env]
    known = inspect.signature(make_env).parameters
    for name, value in env_args.items():
        fractions = name in known and known[name].annotation is float
        if name not in known or isinstance(value, bool) or not isinstance(value, (int, float) if fractions else int):
            kind = "a number" if fractions else "whole numbers"
            raise UserError(f"{env}: {name}={value!r}; its arguments are {', '.join(known) or 'none'}, {kind}")
    return make_env(**env_args), make_model(**env_args) if make_model else None
