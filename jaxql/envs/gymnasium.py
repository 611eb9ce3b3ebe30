"""Gymnasium ids, functions and vector envs as `HostEnv`s."""

import importlib
import re
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from jaxql.envs.host import HostEnv, check_autoreset_mode
from jaxql.errors import UserError, nearest


def host_env(
    env: str | VectorEnv | Callable[[], gymnasium.Env],
    num_envs: int,
    *,
    env_args: dict[str, Any],
    render: bool,
    **host_options: Any,
) -> HostEnv:
    """Makes the HostEnv of a Gymnasium id, function or vector env.

    Args:
      env, num_envs, env_args, render: see `jaxql.envs.make`.
      **host_options: seed, purpose, first_env and mesh of `HostEnv`.

    Raises:
      UserError: one line, for what cannot be made or is not supported.
    """
    vector: VectorEnv
    if isinstance(env, str):
        id, notes = current_id(env)
        vector = _make_by_id(id, num_envs, env_args, render, notes)
    elif env_args:
        raise UserError(f"env_args {sorted(env_args)} are for ids; a function or a vector env brings its own")
    elif isinstance(env, VectorEnv):
        id, notes, vector = env_id(env), [], env
        _check_vector_env(vector, id, num_envs)
    elif callable(env):
        vector, notes = SyncVectorEnv([env] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP), []
        id = env_id(vector.envs[0])
    else:
        raise UserError(f"env={env!r}: it is an id, a function () -> gymnasium.Env, or a gymnasium.vector.VectorEnv")
    if render and getattr(vector, "render_mode", None) != "rgb_array":
        raise UserError(f'{id}: render=True needs an env of render_mode="rgb_array", not {vector.render_mode!r}')
    return HostEnv(vector, id, notes=notes, **host_options)


def env_id(env: gymnasium.Env | VectorEnv) -> str:
    """Returns the id of an env, or the name of its class if it has none."""
    base = getattr(env.unwrapped, "envs", [env])[0].unwrapped
    return base.spec.id if base.spec else type(base).__name__


def current_id(id: str) -> tuple[str, list[str]]:
    """Returns (id, notes). A version that Gymnasium has replaced gives the new id and a line that says so.

    Raises:
      UserError: there is no such id; one line with the nearest one.

    >>> current_id("FrozenLake-v0")
    ('FrozenLake-v1', ['FrozenLake-v0 is no longer in Gymnasium: running FrozenLake-v1'])
    """
    module, _, name = id.rpartition(":")
    if name.startswith("MinAtar/"):
        _register_minatar(id)
    try:
        if module:
            importlib.import_module(module)
        space, base, version = parse_env_id(name)
    except (ImportError, gymnasium.error.Error) as error:
        raise UserError(f"{id}: {_first_line(error)}") from None
    known = gymnasium.registry.get(name)
    if known is not None and "ale_py" not in str(known.entry_point):
        return name, []
    newest = find_highest_version(space, base)
    if known is None and newest is not None and (version is None or version < newest):
        newer = get_env_id(space, base, newest)
        return newer, [
            f"{name} is no longer in Gymnasium: running {newer}" if version is not None else f"{name} is {newer}"
        ]
    from jaxql.envs import atari  # imported here, for most envs do not need ALE

    valid = [*gymnasium.registry, *atari.games()]
    raise UserError(atari.hint_for_unsupported_id(name) or f"{id}: there is no such env{nearest(name, valid)}")


def _register_minatar(id: str) -> None:
    """Registers the games of the package minatar, once, for Gymnasium no longer loads plugins."""
    try:
        register = importlib.import_module("minatar.gym").register_envs
    except ImportError as error:
        raise UserError(f'{id}: minatar is not here ({error}); pip install "jaxql[minatar]"') from None
    if not any(known.startswith("MinAtar/") for known in gymnasium.registry):
        register()


def _make_by_id(id: str, num_envs: int, env_args: dict[str, Any], render: bool, notes: list[str]) -> SyncVectorEnv:
    """Makes a SyncVectorEnv; Gymnasium's warnings are added to `notes`."""
    arguments = {"disable_env_checker": True, **env_args, **({"render_mode": "rgb_array"} if render else {})}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            makers = [lambda: gymnasium.make(id, **arguments)] * num_envs
            vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
        except Exception as error:  # the env's constructor may raise anything
            given = f" with env_args={env_args}" if env_args else ""
            raise UserError(f"{id} cannot be made{given}: {type(error).__name__}: {_first_line(error)}") from error
    warned = [re.sub(r"\x1b\[\d+m|WARN: ", "", _first_line(warning.message)) for warning in caught]
    notes.extend(dict.fromkeys(warned))
    return vector


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_vector_env(env: VectorEnv, id: str, num_envs: int) -> None:
    """Refuses a vector env of another size, and one that cannot reset some envs without the others."""
    if type(env.unwrapped).__module__.startswith("ale_py"):
        raise UserError(f"{id}: give an Atari game by its id, such as ALE/Pong-v5, and its settings in env_args")
    if env.num_envs != num_envs:
        raise UserError(f"{id}: the vector env has {env.num_envs} envs, but num_envs={num_envs}")
    check_autoreset_mode(env, id)
    if num_envs > 1 and not isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv) and not _resets_by_mask(env):
        raise UserError(
            f'{id}: {type(env.unwrapped).__name__}.reset ignores or refuses options={{"reset_mask": ...}}; '
            "use gymnasium.vector.SyncVectorEnv or AsyncVectorEnv"
        )


def _resets_by_mask(env: VectorEnv) -> bool:
    """Tries whether a masked reset of env 0 leaves the other envs as they were after one step."""
    mask = np.arange(env.num_envs) == 0
    seeds: Any = list(range(env.num_envs))  # Gymnasium's annotation is of one seed only
    only_first: Any = [0] + [None] * (env.num_envs - 1)
    try:
        env.reset(seed=seeds)
        env.action_space.seed(0)
        before = env.step(env.action_space.sample())[0]
        before = [np.array(x[1:]) for x in _leaves(before)]
        after = env.reset(seed=only_first, options={"reset_mask": mask})[0]
    except Exception:  # an env that does not know the option may raise anything
        return False
    return all(np.array_equal(x, y[1:]) for x, y in zip(before, _leaves(after), strict=True))


def _leaves(obs: Any) -> list[Any]:
    parts = obs.values() if isinstance(obs, dict) else obs if isinstance(obs, tuple) else None
    return [obs] if parts is None else [leaf for part in parts for leaf in _leaves(part)]
