"""Envs: Gymnasium and Atari vector envs for the host, and envs that are JAX programs themselves."""

import importlib
import re

from jaxql.errors import UserError, nearest

_HOMES = {
    "device": ("DeviceEnv",),
    "gymnax": ("from_gymnax",),
    "host": ("Episode", "HostEnv"),
    "seeding": ("episode_seed",),
    "small_worlds": ("cartpole", "deep_sea", "deep_sea_mdp", "memory"),
    "worlds": ("JaxEnv", "catch", "catch_mdp", "autoreset", "from_mdp", "on_host"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["make", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def make(
    env,
    num_envs: int,
    *,
    seed=0,
    purpose: str = "train",
    env_args: dict | None = None,
    render: bool = False,
    life_loss: bool = False,
    first_env: int = 0,
    mesh=None,
    **atari_settings,
):
    """B envs: a `jaxql.envs.host.HostEnv` of a Gymnasium or Atari env, a `jaxql.envs.device.DeviceEnv` of a JAX one.

    Args:
      env: an id (`CartPole-v1`, `PongNoFrameskip-v4`, `ALE/Pong-v5`, `module:Id-v0`; `jax:cartpole`, `jax:catch`,
        `jax:deep-sea`, `jax:memory`, `gymnax:NAME`), a function () -> gymnasium.Env, a gymnasium.vector.VectorEnv in
        NEXT_STEP mode that accepts options={"reset_mask": ...}, or a `JaxEnv`.
      num_envs: B, the number of envs.
      seed, purpose: every episode has the seed `episode_seed(seed, purpose, env, episode)`. A sequence of S seeds
        gives each B / S of the envs, numbered from 0; arrays are then [S, B / S, ...].
      env_args: keyword arguments of `gymnasium.make`; for Atari the settings in `jaxql.envs.atari.SETTINGS`; of ours
        those of the function that makes the JaxEnv; of gymnax parameters of the environment.
      render: frames for `render()`.
      life_loss: (Atari) `terminated` also where a life is lost; the game goes on.
      first_env: global number of the first env, where several processes share a batch.
      mesh: the `jax.sharding.Mesh` whose devices share the envs, those of other processes too; see `HostEnv`.
      **atari_settings: the same as env_args, for Atari.

    Raises:
      UserError: one line, for an unknown id, a space that is not supported, a wrong setting.

    >>> envs = make("CartPole-v1", 2)
    >>> envs.reset().shape, envs.spec.num_actions
    ((2, 4), 2)
    >>> _, (obs, reward, terminated, truncated, valid) = envs.step((), [0, 1])
    >>> reward.tolist(), valid.tolist()
    ([1.0, 1.0], [True, True])
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise UserError(f"num_envs={num_envs!r}: the number of envs is a whole number, 1 or greater")
    seeding = dict(seed=seed, purpose=purpose, first_env=first_env, mesh=mesh)
    settings = {**(env_args or {}), **atari_settings}
    if _is_atari(env):
        return _atari(env, num_envs, render=render, life_loss=life_loss, settings=settings, **seeding)
    if atari_settings or life_loss:
        names = ", ".join([*atari_settings, *["life_loss"] * life_loss])
        raise UserError(f"{env}: {names} is for Atari games only; arguments of other envs go into env_args")
    from jaxql.envs import classic, named

    if named.is_jax(env):
        return named.device_env(env, num_envs, env_args=env_args or {}, render=render, **seeding)
    return classic.host_env(env, num_envs, env_args=env_args or {}, render=render, **seeding)


def _atari(id, num_envs, **options):
    from jaxql.envs import atari

    if id not in atari.games():
        raise UserError(atari.legacy_hint(id) or f"{id}: there is no such game{nearest(id, atari.games())}")
    return atari.AtariEnv(id, num_envs, **options)


def identify(env) -> tuple[str, list[str]]:
    """(id, notes) of what `make` accepts: the id that is run, and lines for the person who asked for another version.

    >>> identify("PongNoFrameskip-v4")
    ('PongNoFrameskip-v4', [])
    """
    from jaxql.envs import classic, named

    if named.is_jax(env):
        return named.name_of(env), []
    if isinstance(env, str):
        return (env, []) if _is_atari(env) else classic.current_id(env)
    if isinstance(env, classic.VectorEnv):
        return classic.name_of(env), []
    if not callable(env):
        raise UserError(
            f"env={env!r}: it is an id, a function () -> gymnasium.Env, a gymnasium.vector.VectorEnv or a JaxEnv"
        )
    probe = env()
    probe.close()
    return classic.name_of(probe), []


def _is_atari(env) -> bool:
    return isinstance(env, str) and re.match(r"ALE/|.*NoFrameskip-v\d+$", env) is not None
