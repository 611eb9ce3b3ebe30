"""Gymnasium envs as agents see them: adapted spaces, action masks, and results that are checked one by one."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import Space, spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from jaxql.envs.actions import Actions, adapt_actions
from jaxql.envs.observations import Adaptation, adapt_observations
from jaxql.envs.options import EnvOptions
from jaxql.errors import UserError

MASK_NAMES = ("action_mask", "action_masks")  # in observations and in `info`
STEP_FIELDS = "(observation, reward, terminated, truncated, info)"


class Fault(Exception):
    """An env's fault: its `field` `text`. `__cause__` is the exception that the env raised, if it did."""

    def __init__(self, env_index: int | None, field: str, text: str) -> None:
        super().__init__(f"{field} {text}")
        self.env_index, self.field, self.text = env_index, field, text


class Plan(NamedTuple):
    """How one env is adapted; all envs of a batch share a plan."""

    observation: Adaptation
    actions: Actions
    space: spaces.Box | spaces.Discrete | spaces.Dict  # of the adapted observations
    mask_from: str  # "", "observation", "info" or "method"
    mask_name: str
    notes: tuple[str, ...]  # lines for the person who runs this

    def adapt(self, raw: Any, mask: Any) -> Any:
        """Returns the adapted observation. Raises ValueError that says what is wrong."""
        obs = self.observation.convert(raw)
        return obs if not self.mask_from else {"observation": obs, "action_mask": self._legal(mask)}

    def _legal(self, raw: Any) -> np.ndarray:
        """Returns a mask [A]; for parts of actions, that of the joint actions."""
        mask, sizes = np.asarray(raw), self.actions.sizes
        if mask.dtype.kind not in "biuf":
            raise ValueError(f"has an {self.mask_name} of {mask.dtype}")
        if mask.shape == (self.actions.num_actions,):
            return mask.astype(np.int8)
        if mask.shape == (sum(sizes),):
            parts = np.split(mask.astype(np.int8), np.cumsum(sizes)[:-1])
            return functools.reduce(np.multiply.outer, parts).ravel()
        raise ValueError(
            f"has an {self.mask_name} of shape {list(mask.shape)}, and there are {self.actions.num_actions} actions"
        )

    def all_legal(self) -> np.ndarray:
        """Returns a mask that allows every action."""
        return np.ones(self.actions.num_actions, np.int8)


def make_plan(
    observation_space: Space, action_space: Space, id: str, options: EnvOptions, info: Any, has_method: bool
) -> Plan:
    """Returns the plan for envs with these spaces.

    Action masks are found, in this order, in a Dict observation, in the `info` of a reset, and by a method
    `action_masks()`. Beside the index of a state, masks of the latter two are used only if `table` is False: those of
    Taxi mark actions that change nothing.

    Args:
      observation_space, action_space: of one env.
      id: the env's name in messages.
      options: see `EnvOptions`.
      info: of a reset.
      has_method: whether the env has a method `action_masks()`.

    Raises:
      UserError: one line, if a space is not supported.
    """
    actions = adapt_actions(action_space, id)
    mask_from, mask_name, notes = "", "action_mask", []
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    named = [name for name in MASK_NAMES if name in parts]
    given = [name for name in MASK_NAMES if isinstance(info, dict) and name in info]
    if named:
        mask_from, mask_name = "observation", named[0]
        _check_mask_space(parts[mask_name], mask_name, actions, id)
        observation_space = spaces.Dict({name: space for name, space in parts.items() if name != mask_name})
    elif given:
        mask_from, mask_name = "info", given[0]
    elif has_method:
        mask_from, mask_name = "method", "action_masks"
    observation = adapt_observations(observation_space, id, options)
    is_index = isinstance(observation.space, spaces.Discrete)
    if mask_from in ("info", "method") and options.table is not False and is_index:
        notes.append(f"{mask_name}: left out beside the index of a state")
        mask_from = ""
    space: Any = observation.space
    if mask_from:
        space = spaces.Dict(observation=space, action_mask=spaces.MultiBinary(actions.num_actions))
    notes += [note for note in (observation.note, actions.note) if note]
    return Plan(observation, actions, space, mask_from, mask_name, tuple(notes))


def _check_mask_space(space: Space, name: str, actions: Actions, id: str) -> None:
    if space.shape not in ((actions.num_actions,), (sum(actions.sizes),)):
        shape = None if space.shape is None else list(space.shape)
        raise UserError(f"{id}: its {name} has shape {shape}, and there are {actions.num_actions} actions")


# ----------------------------------------------------------------------------------------------------- a single env
def checked_reset(
    env: gymnasium.Env, env_index: int | None, seed: int | None, options: dict[str, Any] | None
) -> tuple[Any, dict[str, Any]]:
    """Returns (observation, info) of a reset. Raises Fault if the env raises or returns something else."""
    try:
        result = env.reset(seed=seed, options=options)
    except (Exception, SystemExit) as error:
        hint = "; write reset(self, *, seed=None, options=None)" if "unexpected keyword" in str(error) else ""
        raise _raised(env_index, "reset", error, hint) from error
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Fault(env_index, "reset", f"returned {_kind(result)}; return (observation, info)")
    return result[0], _checked_info(result[1], env_index)


class AdaptedEnv(gymnasium.Wrapper):
    """One env with adapted spaces; every result is checked, and a fault is raised as `Fault`. Its info is empty.

    A reset without a seed is the vector env's own, which a reset with a seed follows if the env is to play again. It
    only puts the env to sleep: it is not reset twice, and steps of an env that sleeps cost nothing.

    Args:
      env: the env.
      plan: of all envs of the batch.
      env_index: of this one.
    """

    def __init__(self, env: gymnasium.Env, plan: Plan, env_index: int) -> None:
        super().__init__(env)
        self.observation_space, self.action_space = plan.space, spaces.Discrete(plan.actions.num_actions)
        self._plan, self._env_index = plan, env_index
        self._last: Any = None  # observation
        self._asleep = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode, or with seed=None puts the env to sleep."""
        self._asleep = seed is None and self._last is not None
        if not self._asleep:
            raw, info = checked_reset(self.env, self._env_index, seed, options or None)
            self._last = self._adapted(raw, info, False)
        return self._last, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes a step, unless the env sleeps."""
        if self._asleep:
            return self._last, 0.0, False, False, {}
        try:
            result: Any = self.env.step(self._plan.actions.convert(action))
        except (Exception, SystemExit) as error:
            raise _raised(self._env_index, "step", error) from error
        if not isinstance(result, tuple | list) or len(result) != 5:
            raise Fault(self._env_index, "step", f"returned {_kind(result)}; return {STEP_FIELDS}")
        raw, reward, terminated, truncated, info = result
        info = _checked_info(info, self._env_index)
        reward = _checked_reward(reward, self._env_index)
        terminated = _checked_flag("terminated", terminated, self._env_index)
        truncated = _checked_flag("truncated", truncated, self._env_index)
        self._last = self._adapted(raw, info, terminated or truncated)
        return self._last, reward, terminated, truncated, {}

    def _adapted(self, raw: Any, info: dict[str, Any], ends: bool) -> Any:
        try:
            mask = self._mask(raw, info, ends)
            obs = self._plan.adapt(raw, mask)
        except (ValueError, TypeError, OverflowError) as error:
            raise Fault(self._env_index, "observation", str(error)) from None
        if ends and self._plan.mask_from and not obs["action_mask"].any():  # nothing is played after the end
            obs["action_mask"] = self._plan.all_legal()
        return obs

    def _mask(self, raw: Any, info: dict[str, Any], ends: bool) -> Any:
        source, name = self._plan.mask_from, self._plan.mask_name
        if source == "method":
            try:
                return self.env.get_wrapper_attr("action_masks")()
            except (Exception, SystemExit) as error:
                raise _raised(self._env_index, "action_masks()", error) from error
        if source == "info" and ends and name not in info:
            return self._plan.all_legal()
        holder = raw if source == "observation" else info
        if source and (not isinstance(holder, dict) or name not in holder):
            raise Fault(self._env_index, source, f"has no {name!r}, and others had one")
        return holder[name] if source else None


# ----------------------------------------------------------------------------------------------------- a vector env
class AdaptedVectorEnv(VectorWrapper):
    """A vector env with adapted spaces; every result is checked, and a fault is raised as `Fault`.

    Args:
      env: the vector env.
      plan: of its envs.
    """

    def __init__(self, env: VectorEnv, plan: Plan) -> None:
        super().__init__(env)
        self._plan = plan
        self.single_observation_space = plan.space
        self.observation_space = batch_space(plan.space, env.num_envs)
        self.single_action_space = spaces.Discrete(plan.actions.num_actions)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the envs, with `reset_mask` in the options some of them."""
        try:
            raw, info = self.env.reset(seed=seed, options=options)
        except (Exception, SystemExit) as error:
            raise _raised(None, "reset", error) from error
        return self._adapted(raw, info, np.zeros(self.num_envs, bool)), {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Steps every env."""
        own = self.env.single_action_space
        converted = [self._plan.actions.convert(int(action)) for action in actions]
        try:
            result: Any = self.env.step(_batched(own, converted))
        except (Exception, SystemExit) as error:
            raise _raised(None, "step", error) from error
        if not isinstance(result, tuple | list) or len(result) != 5:
            raise Fault(None, "step", f"returned {_kind(result)}; return {STEP_FIELDS}")
        raw, reward, terminated, truncated, info = result
        for field, x in dict(reward=reward, terminated=terminated, truncated=truncated).items():
            if np.shape(x) != (self.num_envs,) or np.asarray(x).dtype.kind not in "biuf":
                raise Fault(None, field, f"is {_kind(x)}; it must be {self.num_envs} numbers, one an env")
        terminated, truncated = np.asarray(terminated, bool), np.asarray(truncated, bool)
        return self._adapted(raw, info, terminated | truncated), np.asarray(reward), terminated, truncated, {}

    def _adapted(self, raw: Any, info: Any, ends: np.ndarray) -> Any:
        source, name = self._plan.mask_from, self._plan.mask_name
        try:
            rows: Iterable[Any] = list(iterate(self.env.observation_space, raw))
            masks = raw[name] if source == "observation" else info[name] if source else [None] * self.num_envs
        except (Exception, SystemExit) as error:
            raise _raised(None, "observation", error) from error
        adapted = []
        for env_index, (row, mask, end) in enumerate(zip(rows, masks, ends, strict=True)):
            legal = self._plan.all_legal() if source and end and not np.any(mask) else mask
            try:
                adapted.append(self._plan.adapt(row, legal))
            except (ValueError, TypeError, OverflowError) as error:
                raise Fault(env_index, "observation", str(error)) from None
        return _batched(self.single_observation_space, adapted)


def _batched(space: Space, items: Sequence[Any]) -> Any:
    """Returns a batch of items of a space."""
    out: Any = create_empty_array(space, n=len(items))
    return concatenate(space, items, out)


# ----------------------------------------------------------------------------------------------------------- checks
def _raised(env_index: int | None, field: str, error: BaseException, hint: str = "") -> Fault:
    traceback = error.__traceback__
    if traceback and traceback.tb_next:  # without the frame here: what is shown begins in the env
        error.__traceback__ = traceback.tb_next
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return Fault(env_index, field, f"raised {type(error).__name__}: {first_line}{hint}")


def _kind(result: Any) -> str:
    """Returns a few words on a result that is not as it should be."""
    if isinstance(result, tuple | list):
        old = " of Gym before 0.26 (obs, reward, done, info)" if len(result) == 4 else ""
        return f"a {type(result).__name__} of {len(result)} values{old}"
    shape = f" of shape {list(result.shape)}" if isinstance(result, np.ndarray) else ""
    return f"{type(result).__name__}{shape}"


def _checked_info(info: Any, env_index: int | None) -> dict[str, Any]:
    if not isinstance(info, dict):
        raise Fault(env_index, "info", f"is {_kind(info)}; it must be a dict, and may be empty")
    return info


def _checked_reward(reward: Any, env_index: int | None) -> float:
    if type(reward) is float:
        return reward
    try:
        x = np.asarray(reward)
        if x.ndim == 0 and x.dtype.kind in "biuf":
            return float(x)
        if isinstance(reward, int):  # beyond 64 bits
            return float(reward)
    except (ValueError, TypeError):
        raise Fault(env_index, "reward", f"is {_kind(reward)}; it must be one number") from None
    except OverflowError:
        return float("inf")
    try:
        shown = " ".join(str(x.tolist()).split())[:60]
    except ValueError:
        shown = _kind(reward)
    hint = "; a vector of rewards needs a wrapper that weighs them" if x.size > 1 else ""
    raise Fault(env_index, "reward", f"is {shown} ({_kind(reward)}); it must be one number{hint}")


def _checked_flag(field: str, flag: Any, env_index: int | None) -> bool:
    if type(flag) is bool:
        return flag
    try:
        x = np.asarray(flag)
    except ValueError:
        x = np.empty(1, object)
    if x.ndim == 0 and (x.dtype.kind == "b" or x.dtype.kind in "iu" and x in (0, 1)):
        return bool(x)
    raise Fault(env_index, field, f"is {_kind(flag)} {' '.join(str(flag).split())[:60]}; it must be True or False")
