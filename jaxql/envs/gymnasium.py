"""Gymnasium ids, functions and vector envs as `HostEnv`s."""

import contextlib
import functools
import importlib
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from jaxql.envs.adapter import MASK_NAMES, AdaptedEnv, AdaptedVectorEnv, Fault, checked_reset, make_plan
from jaxql.envs.host import HostEnv, check_autoreset_mode, env_error
from jaxql.envs.options import EnvOptions
from jaxql.envs.packages import prefix_hint
from jaxql.errors import EnvError, UserError, nearest

Maker = Callable[[], Any]  # of one env


def host_env(
    env: str | VectorEnv | Maker,
    num_envs: int,
    *,
    env_args: dict[str, Any],
    render: bool,
    options: EnvOptions = EnvOptions(),  # noqa: B008
    id: str | None = None,
    **host_options: Any,
) -> HostEnv:
    """Makes the HostEnv of a Gymnasium id, function or vector env.

    Args:
      env, num_envs, env_args, render: see `jaxql.envs.make`.
      options: see `EnvOptions`.
      id: the name in messages of a function's env; None: its own.
      **host_options: seed, purpose, first_env and mesh of `HostEnv`.

    Raises:
      UserError: one line, for what cannot be made or is not supported.
    """
    notes: list[str] = []
    if isinstance(env, str):
        id, notes = current_id(env)
        made = _made_by_id(id, num_envs, env_args, render, notes)
    elif env_args:
        raise UserError(f"env_args {sorted(env_args)} are for ids; a function or a vector env brings its own")
    elif isinstance(env, VectorEnv):
        id = env_id(env)
        _check_vector_env(env, id, num_envs)
        made = list(env.envs) if type(env) is SyncVectorEnv else []
    elif callable(env):
        made = _made_by_function(env, num_envs)
        id = id or env_id(made[0])
    else:
        raise UserError(f"env={env!r}: it is an id, a function () -> gymnasium.Env, or a gymnasium.vector.VectorEnv")
    try:
        if render:
            _check_frames(made[0] if made else env, id)
        vector, said = _adapted(made, id, options) if made else _adapted_vector(env, id, options)
        return HostEnv(vector, id, notes=[*notes, *said], watchdog_seconds=options.watchdog_seconds, **host_options)
    except BaseException:
        if not isinstance(env, VectorEnv):  # who made it closes it
            _close(made)
        raise


def env_id(env: gymnasium.Env | VectorEnv) -> str:
    """Returns the id of an env, or the name of its class if it has none."""
    base: Any = env.unwrapped
    base = base.envs[0].unwrapped if getattr(base, "envs", None) else base
    spec = getattr(base, "spec", None)
    return spec.id if spec else type(base).__name__


def function_id(function: Maker) -> str:
    """Returns the id of the envs that a function makes. Raises UserError if it makes none."""
    made = _made_by_function(function, 1)
    id = env_id(made[0])
    _close(made)
    return id


def current_id(id: str) -> tuple[str, list[str]]:
    """Returns (id, notes). A version that Gymnasium has replaced gives the new id and a line that says so.

    An id with a module, `module:Name-v0`, keeps it: the module is imported, and registers the env.

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
            _import_envs(module, name)
        space, base, version = parse_env_id(name)
    except (Exception, SystemExit) as error:  # a module may raise anything
        raise UserError(f"{id}: {_first_line(error)}") from error
    prefix = f"{module}:" if module else ""
    known = gymnasium.registry.get(name)
    if known is not None and "ale_py" not in str(known.entry_point):
        return prefix + name, []
    newest = find_highest_version(space, base)
    if known is None and newest is not None and (version is None or version < newest):
        newer = get_env_id(space, base, newest)
        return prefix + newer, [
            f"{name} is no longer in Gymnasium: running {newer}" if version is not None else f"{name} is {newer}"
        ]
    from jaxql.envs import atari  # imported here, for most envs do not need ALE

    hint = prefix_hint(name) or _nearest_id(name, [*gymnasium.registry, *atari.games()])
    raise UserError(atari.hint_for_unsupported_id(name) or f"{id}: there is no such env{hint}")


def _import_envs(module: str, name: str) -> None:
    """Imports a module, and calls its `register_envs()` or `register()` if the import alone registers no such env."""
    imported = importlib.import_module(module)
    register = getattr(imported, "register_envs", None) or getattr(imported, "register", None)
    if name not in gymnasium.registry and callable(register) and register is not gymnasium.register:
        register()


def _nearest_id(name: str, valid: Sequence[str]) -> str:
    """Returns a hint at an id whose name without a version is close to this one, or nothing."""
    names = {re.sub(r"-v\d+$", "", each): each for each in valid}
    hint = nearest(re.sub(r"-v\d+$", "", name), names, cutoff=0.7)
    return re.sub(r'"(.*)"', lambda found: f'"{names[found[1]]}"', hint)


def _register_minatar(id: str) -> None:
    """Registers the games of the package minatar, once, for Gymnasium no longer loads plugins."""
    try:
        register = importlib.import_module("minatar.gym").register_envs
    except ImportError as error:
        raise UserError(f'{id}: minatar is not here ({error}); pip install "jaxql[minatar]"') from None
    if not any(known.startswith("MinAtar/") for known in gymnasium.registry):
        register()


# ------------------------------------------------------------------------------------------------------ making envs
def _made_by_id(
    id: str, num_envs: int, env_args: dict[str, Any], render: bool, notes: list[str]
) -> list[gymnasium.Env]:
    """Returns envs of an id; Gymnasium's warnings are added to `notes`."""
    arguments = {"disable_env_checker": True, **env_args, **({"render_mode": "rgb_array"} if render else {})}
    made: list[gymnasium.Env] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for _ in range(num_envs):
                made.append(gymnasium.make(id, **arguments))
        except (Exception, SystemExit) as error:  # the env's constructor may raise anything
            _close(made)
            if render:
                _check_modes(id, env_args)
            given = f" with env_args={env_args}" if env_args else ""
            which = f" a second time: env {len(made)}" if made else ""
            raise UserError(
                f"{id} cannot be made{which}{given}: {type(error).__name__}: {_first_line(error)}"
            ) from error
    warned = [re.sub(r"\x1b\[\d+m|WARN: ", "", _first_line(warning.message)) for warning in caught]
    notes.extend(dict.fromkeys(warned))
    return made


def _made_by_function(function: Maker, num_envs: int) -> list[gymnasium.Env]:
    """Returns envs that a function makes. Raises UserError unless each is an env of its own."""
    name = f"env={getattr(function, '__name__', None) or function!r}"
    made: list[gymnasium.Env] = []
    for i in range(num_envs):
        try:
            env = function()
        except (Exception, SystemExit) as error:
            _close(made)
            again = " when it is called again" if made else ""
            raise EnvError(f"{name} raised{again}: {type(error).__name__}: {_first_line(error)}") from error
        if not isinstance(env, gymnasium.Env):
            _close(made)
            raise UserError(f"{name} returned {type(env).__name__}; it must return a new gymnasium.Env at every call")
        if any(env.unwrapped is other.unwrapped for other in made):
            raise UserError(f"{name} returned env {i - 1} again; it must return a new env at every call")
        made.append(env)
    return made


def _close(made: Sequence[gymnasium.Env]) -> None:
    for env in made:
        with contextlib.suppress(Exception, SystemExit):
            env.close()


def _check_modes(id: str, env_args: dict[str, Any]) -> None:
    """Raises UserError if an env that cannot be made with frames can be made without, and draws none."""
    try:
        env = gymnasium.make(id, **env_args)
    except Exception:  # then frames are not the reason
        return
    _close([env])
    if "rgb_array" not in (env.metadata.get("render_modes") or ()):
        _check_frames(env, id)


def _check_frames(env: Any, id: str) -> None:
    """Raises UserError unless the env draws frames."""
    if getattr(env, "render_mode", None) == "rgb_array":
        return
    modes = [str(mode) for mode in env.metadata.get("render_modes") or () if mode]
    if "rgb_array" not in modes:
        raise UserError(f"{id} draws no frames: it has no render_mode rgb_array, but {', '.join(modes) or 'none'}")
    raise UserError(f'{id}: frames need an env of render_mode="rgb_array", not {env.render_mode!r}')


def _first_line(error: object) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# ----------------------------------------------------------------------------------------------------- adapting envs
def _adapted(made: Sequence[gymnasium.Env], id: str, options: EnvOptions) -> tuple[VectorEnv, tuple[str, ...]]:
    """Returns a vector env of these envs, each adapted and checked, and lines for the person who runs it."""
    spaces = [_spaces_of(env, id) for env in made]
    try:
        _, info = checked_reset(made[0], 0, 0, None)
    except Fault as fault:
        raise env_error(id, 0, fault) from fault.__cause__
    has_method = callable(_attribute(made[0], "action_masks"))
    plan = make_plan(*spaces[0], id, options, info, has_method)
    for i, pair in enumerate(spaces):
        if pair != spaces[0]:
            raise UserError(f"{id}: env {i} has spaces {pair}, and env 0 has {spaces[0]}; all must be alike")
    makers = [functools.partial(AdaptedEnv, env, plan, i) for i, env in enumerate(made)]
    return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP), plan.notes


def _spaces_of(env: gymnasium.Env, id: str) -> tuple[Any, Any]:
    pair = getattr(env, "observation_space", None), getattr(env, "action_space", None)
    for name, space in zip(("observation_space", "action_space"), pair, strict=True):
        if not isinstance(space, gymnasium.Space):
            raise UserError(f"{id}: its {name} is {space!r}; it must be a gymnasium.Space")
    return pair


def _attribute(env: gymnasium.Env, name: str) -> Any:
    try:
        return env.get_wrapper_attr(name)
    except AttributeError:
        return None


def _adapted_vector(env: Any, id: str, options: EnvOptions) -> tuple[VectorEnv, tuple[str, ...]]:
    """Returns a vector env that was given, adapted and checked, and lines for the person who runs it."""
    if isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv):
        _batch_only_masks(env.unwrapped)
    try:
        _, info = env.reset(seed=0)
    except (Exception, SystemExit) as error:
        raise EnvError(
            f"{id}: the reset of the vector env raised {type(error).__name__}: {_first_line(error)}"
        ) from error
    spaces = env.single_observation_space, env.single_action_space
    plan = make_plan(*spaces, id, options, info, has_method=False)
    return AdaptedVectorEnv(env, plan), plan.notes


def _batch_only_masks(base: Any) -> None:
    """Lets a vector env leave out infos, which it cannot batch if their shapes vary, except for action masks."""
    batch_info = type(base)._add_info

    def add_info(infos: dict[str, Any], info: dict[str, Any], i: int) -> dict[str, Any]:
        return batch_info(base, infos, {name: info[name] for name in MASK_NAMES if name in info}, i)

    base._add_info = add_info


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
    except (Exception, SystemExit):  # an env that does not know the option may raise anything
        return False
    return all(np.array_equal(x, y[1:]) for x, y in zip(before, _leaves(after), strict=True))


def _leaves(obs: Any) -> list[Any]:
    parts = obs.values() if isinstance(obs, dict) else obs if isinstance(obs, tuple) else None
    return [obs] if parts is None else [leaf for part in parts for leaf in _leaves(part)]
