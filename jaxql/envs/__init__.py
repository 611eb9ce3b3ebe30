"""Envs: Gymnasium and Atari vector envs on the host, and envs that are JAX programs.

The names below load what they need when first used, so that JAX envs do without Gymnasium, and most envs without ALE.
"""

import importlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jax.sharding import Mesh

from jaxql.errors import UserError, nearest
from jaxql.types import Env

if TYPE_CHECKING:
    from jaxql.envs.host import EnvCheckpoint as EnvCheckpoint, HostEnv as HostEnv
    from jaxql.envs.jax.autoreset import autoreset as autoreset, on_host as on_host
    from jaxql.envs.jax.device import DeviceEnv as DeviceEnv
    from jaxql.envs.jax.gymnax import from_gymnax as from_gymnax
    from jaxql.envs.jax.mdp import from_mdp as from_mdp, to_mdp as to_mdp
    from jaxql.envs.jax.protocol import JaxEnv as JaxEnv
    from jaxql.envs.jax.small_envs import (
        cartpole as cartpole,
        catch as catch,
        catch_mdp as catch_mdp,
        deep_sea as deep_sea,
        deep_sea_mdp as deep_sea_mdp,
        memory_chain as memory_chain,
    )
    from jaxql.envs.options import EnvOptions as EnvOptions
    from jaxql.envs.seeding import episode_seed as episode_seed
    from jaxql.types import Episode as Episode

_HOMES = {
    "jaxql.envs.host": "EnvCheckpoint HostEnv",
    "jaxql.envs.jax": "DeviceEnv JaxEnv autoreset cartpole catch catch_mdp deep_sea deep_sea_mdp from_gymnax from_mdp"
    " memory_chain on_host to_mdp",
    "jaxql.envs.options": "EnvOptions",
    "jaxql.envs.seeding": "episode_seed",
    "jaxql.types": "Episode",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = ["Env", "identify", "make", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__


def make(
    env: Any,
    num_envs: int,
    *,
    seed: int | Sequence[int] = 0,
    purpose: str = "train",
    env_args: dict[str, Any] | None = None,
    render: bool = False,
    life_loss: bool = False,
    first_env: int = 0,
    mesh: Mesh | None = None,
    obs_keys: Sequence[str] = (),
    channels: str = "auto",
    table: bool | None = None,
    watchdog_seconds: float = 300.0,
    **atari_settings: Any,
) -> Env:
    """Makes B envs: a `HostEnv` of a Gymnasium or Atari env, a `DeviceEnv` of a JAX env.

    Args:
      env: one of
        - an id: `CartPole-v1`, `PongNoFrameskip-v4`, `ALE/Pong-v5`, `module:Id-v0`, `jax:cartpole`, `jax:catch`,
          `jax:deep-sea`, `jax:memory-chain`, `gymnax:NAME`;
        - a function () -> gymnasium.Env, which makes a new one at every call;
        - a gymnasium.vector.VectorEnv in NEXT_STEP mode that accepts options={"reset_mask": ...};
        - a `JaxEnv`.
      num_envs: B.
      seed: of the run. A sequence of S seeds gives each B / S of the envs, numbered from 0; arrays are then
        [S, B / S, ...].
      purpose: one of `jaxql.envs.seeding.PURPOSES`. Episodes of different purposes have different seeds.
      env_args: keyword arguments of `gymnasium.make`. For Atari, the settings in `jaxql.envs.atari.SETTINGS`, or
        those of single emulators: obs_type="ram" (or "grayscale", "rgb"), mode, difficulty. For `jax:NAME`, the
        arguments of the function that makes the env. For `gymnax:NAME`, the env's parameters.
      render: draw frames, for `render()`.
      life_loss: (Atari) `terminated` is also true where a life is lost; the game goes on.
      first_env: index of the first env, if several processes share a batch.
      mesh: the mesh whose devices share the envs of all processes; see `HostEnv`.
      obs_keys: (Gymnasium) the parts of Dict or Tuple observations to use, as in ("image",); a dot goes into nested
        parts. Several become one vector. Empty: see `jaxql.envs.observations.adapt_observations`.
      channels: (Gymnasium) the axis of images that holds their channels: "first", "last", or "auto", by its size.
      table: (Gymnasium) True: finite observations of several parts, as in Blackjack, become one index of a state.
        False: a mask of actions in `info` is used beside an index too, as in Taxi; else it is left out.
      watchdog_seconds: (not JAX envs) the process ends with every thread's stack if a reset or a step takes longer.
      **atari_settings: (Atari) the same as env_args.

    Raises:
      UserError: one line, for an unknown id, an unsupported space or a wrong setting.

    >>> envs = make("CartPole-v1", 2)
    >>> envs.reset().shape, envs.spec.num_actions
    ((2, 4), 2)
    >>> _, (obs, reward, terminated, truncated, valid) = envs.step((), [0, 1])
    >>> reward.tolist(), valid.tolist()
    ([1.0, 1.0], [True, True])
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise UserError(f"num_envs={num_envs!r}: the number of envs is a whole number, 1 or greater")
    from jaxql.envs.options import EnvOptions

    shown = EnvOptions(obs_keys, channels, table, watchdog_seconds)
    options: dict[str, Any] = dict(seed=seed, purpose=purpose, first_env=first_env, mesh=mesh)
    if _is_atari(env):
        settings = {**(env_args or {}), **atari_settings}
        return _make_atari(
            env.removeprefix("ale_py:"),
            num_envs,
            shown,
            render=render,
            life_loss=life_loss,
            settings=settings,
            **options,
        )
    if atari_settings or life_loss:
        names = ", ".join([*atari_settings, *["life_loss"] * life_loss])
        raise UserError(f"{env}: {names} is for Atari games only; arguments of other envs go into env_args")
    from jaxql.envs import gymnasium
    from jaxql.envs.jax import named

    if named.is_jax(env):
        if obs_keys or channels != "auto":
            raise UserError(f"{named.jax_env_id(env)}: obs_keys and channels are for Gymnasium envs")
        return named.device_env(env, num_envs, env_args=env_args or {}, render=render, **options)
    return gymnasium.host_env(env, num_envs, env_args=env_args or {}, render=render, options=shown, **options)


def _make_atari(
    id: str,
    num_envs: int,
    shown: "EnvOptions",
    *,
    render: bool,
    life_loss: bool,
    settings: dict[str, Any],
    **options: Any,
) -> Env:
    from jaxql.envs import atari

    if id not in atari.games():
        known = atari.games()
        raise UserError(atari.hint_for_unsupported_id(id) or f"{id}: there is no such game{nearest(id, known)}")
    if not atari.is_single(settings):
        if shown.obs_keys or shown.channels != "auto":
            raise UserError(f"{id}: obs_keys and channels are for other envs; the layout of Atari games is fixed")
        options["watchdog_seconds"] = shown.watchdog_seconds
        return atari.AtariEnv(id, num_envs, render=render, life_loss=life_loss, settings=settings, **options)
    from jaxql.envs import gymnasium

    if life_loss:
        raise UserError(f"{id}: life_loss goes with no obs_type, mode or difficulty; set life_loss to False")
    maker = atari.single_emulators(id, settings, render)
    return gymnasium.host_env(maker, num_envs, env_args={}, render=render, options=shown, id=id, **options)


def identify(env: Any) -> tuple[str, list[str]]:
    """Returns (id, notes) of an env that `make` accepts.

    The id is the one that `make` runs. If that is another version than the one asked for, a note says so. A function
    is called once, and its env is closed.

    Raises:
      UserError: one line, for what `make` does not accept.

    >>> identify("PongNoFrameskip-v4")
    ('PongNoFrameskip-v4', [])
    """
    from jaxql.envs import gymnasium
    from jaxql.envs.jax import named

    if named.is_jax(env):
        return named.jax_env_id(env), []
    if isinstance(env, str):
        return (env.removeprefix("ale_py:"), []) if _is_atari(env) else gymnasium.current_id(env)
    if isinstance(env, gymnasium.VectorEnv):
        return gymnasium.env_id(env), []
    if not callable(env):
        raise UserError(
            f"env={env!r}: it is an id, a function () -> gymnasium.Env, a gymnasium.vector.VectorEnv or a JaxEnv"
        )
    return gymnasium.function_id(env), []


def _is_atari(env: Any) -> bool:
    if not isinstance(env, str):
        return False
    name = env.removeprefix("ale_py:")
    if re.match(r"ALE/|.*NoFrameskip-v\d+$", name):
        return True
    if not re.match(r"\w+Deterministic-v[04]$", name):
        return False
    from jaxql.envs import atari

    return name in atari.games()
