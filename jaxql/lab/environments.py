"""The envs of a run, and who steps them: the host, or a compiled program where the env is a JAX env."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.envs.registration import EnvSpec as GymnasiumSpec
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from jaxql import envs
from jaxql.envs import EnvOptions
from jaxql.envs.jax import DeviceEnv, JaxEnv
from jaxql.errors import UserError
from jaxql.types import Env

PASSED_IN = "passed in"  # the recorded spec of an env that cannot be made again
TRIAL_STEPS = 30  # in which an env that was made again must play the same


class EnvMaker:
    """Makes the envs of a run: (num_envs, *, seed, purpose, render=False, life_loss=False) -> Env.

    Args:
      env: what `jaxql.envs.make` accepts.
      env_args: keyword arguments of the env.
      options: how it is shown to the agent.
      spec: of an env that is made again; None: found out.

    Attributes:
      id: the id that is run.
      notes: lines for the person who asked for another version.
      spec: of a function or a vector env: Gymnasium's spec as data, wrappers included, if it makes the same env again;
        `PASSED_IN` if it does not. None of an id.

    Raises:
      UserError: one line, for what makes no envs, or none to evaluate in.
    """

    def __init__(
        self,
        env: Any,
        env_args: dict[str, Any],
        options: EnvOptions = EnvOptions(),  # noqa: B008
        spec: dict[str, Any] | None = None,
    ):
        self.env, self.env_args, self.options = env, env_args, options
        self.id, self.notes = envs.identify(env)
        self._one = _single_maker(env, self.id) if not isinstance(env, str) else None
        self.spec: Any = spec if isinstance(env, str) else spec or _recordable(self._one) or PASSED_IN

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "EnvMaker":
        """Returns the maker that `record()` describes. It imports the modules of `jaxql.lab.trust.modules_of`.

        Raises:
          UserError: the env was passed in from Python, or cannot be made.
          KeyError: the record is incomplete.
        """
        options, spec = EnvOptions(**record.get("env_options") or {}), record.get("env_spec")
        if spec == PASSED_IN:
            raise UserError(f"its env {record['env']} came from Python; use the Run that train returned")
        if spec is None:
            return cls(record["env"], record["env_args"], options)
        return cls(functools.partial(_make_again, json.dumps(spec)), {}, options, spec)

    def record(self) -> dict[str, Any]:
        """Returns what config.json holds of the env: all that makes it again."""
        return {
            "env": self.id,
            "env_args": self.env_args,
            "env_spec": self.spec,
            "env_options": dataclasses.asdict(self.options),
        }

    @property
    def is_compiled(self) -> bool:
        """Whether the envs are JAX programs."""
        return isinstance(self.env, JaxEnv) or isinstance(self.env, str) and self.env.startswith(("jax:", "gymnax:"))

    def __call__(self, num_envs: int, *, purpose: str, render: bool = False, **options: Any) -> Env:
        env = self.env
        if isinstance(env, VectorEnv) and purpose != "train":  # the one that was given is busy training
            env = self._one
        if render and isinstance(self.spec, dict):
            env = functools.partial(_make_again, json.dumps(self.spec), render_mode="rgb_array")
        shown = vars(self.options)
        return envs.make(env, num_envs, purpose=purpose, env_args=self.env_args, render=render, **shown, **options)

    def check(self, train: Env) -> None:
        """Checks that evaluation envs can be made beside those that train, and are of the same kind.

        Raises:
          UserError: one line, which says why they cannot.
        """
        if is_compiled(train):
            return
        try:
            probe = self(1, seed=0, purpose="eval")
        except UserError as error:
            raise UserError(f"evaluation needs envs of its own beside those that train: {error}") from error
        try:
            shapes = [
                (jax.tree.map(lambda x: (x.shape[1:], x.dtype), env.spec.obs), env.spec.num_actions)
                for env in (train, probe)
            ]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"{self.id}: an env for evaluation shows {shapes[1]}, and those that train show {shapes[0]} "
                    "(shape and dtype, actions); wrap single envs, not the vector env"
                )
            if _shares_an_env(train, probe):
                raise UserError(
                    f"{self.id}: the function returns the same env again; it must make a new one at every call"
                )
        finally:
            probe.close()


def _single_maker(env: Any, id: str) -> Callable[[], Any] | None:
    """Returns the function that makes one env like those of `env`; None of a JAX env.

    Raises:
      UserError: a vector env has wrappers of its own, or does not say how its envs were made.
    """
    if isinstance(env, JaxEnv):
        return None
    if not isinstance(env, VectorEnv):
        return env
    layer = env
    while layer is not layer.unwrapped:
        if not isinstance(layer, gymnasium.wrappers.vector.RecordEpisodeStatistics):
            raise UserError(
                f"{id}: the vector env is wrapped in {type(layer).__name__}, which the envs for evaluation lack; "
                "put a wrapper around each single env, or pass a function that makes one"
            )
        layer = layer.env
    if not isinstance(layer, SyncVectorEnv | AsyncVectorEnv):
        spec = layer.spec
        raise UserError(
            f"{id}: {type(layer).__name__} does not say how single envs are made, which evaluation needs; "
            f"pass {f'the id {spec.id!r}' if spec else 'a function that makes one'}, and num_envs"
        )
    return layer.env_fns[0]


def _make_again(spec: str, **changes: Any) -> gymnasium.Env:
    """Returns the env of a spec as JSON."""
    return gymnasium.make(GymnasiumSpec.from_json(spec), disable_env_checker=True, **changes)


def _recordable(make: Callable[[], Any] | None) -> dict[str, Any] | None:
    """Returns the spec of the env that a function makes, as data, if it makes an env that plays the same; else None."""
    if make is None:
        return None
    made = []
    try:
        made.append(make())
        spec = made[0].spec.to_json()
        made.append(_make_again(spec))
        data = json.loads(spec)
        mine = any(str(entry).startswith("__main__") for entry in _entry_points(data))
        return data if not mine and _plays(made[0]) == _plays(made[1]) else None
    except Exception:  # not made by Gymnasium, or of parts that are no data
        return None
    finally:
        for env in made:
            env.close()


def _entry_points(spec: dict[str, Any]) -> list[Any]:
    return [spec["entry_point"], *(wrapper["entry_point"] for wrapper in spec["additional_wrappers"])]


def _plays(env: gymnasium.Env) -> list[Any]:
    """Returns what an env shows in some steps with fixed seeds and actions."""
    env.action_space.seed(0)
    shown = [type(env).__name__, str(env.observation_space), str(env.action_space), _text(env.reset(seed=0)[0])]
    for seed in range(TRIAL_STEPS):
        obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        shown += [_text(obs), float(reward), bool(terminated), bool(truncated)]
        if terminated or truncated:
            shown.append(_text(env.reset(seed=seed)[0]))
    return shown


def _text(obs: Any) -> Any:
    if isinstance(obs, dict):
        return [(name, _text(part)) for name, part in obs.items()]
    if isinstance(obs, tuple):
        return [_text(part) for part in obs]
    return (obs.dtype.str, obs.shape, obs.tobytes()) if isinstance(obs, np.ndarray) else repr(obs)


def _shares_an_env(train: Any, probe: Any) -> bool:
    """Returns whether two host envs hold the same single env."""
    held = [{id(env) for env in getattr(each, "single_envs", ())} for each in (train, probe)]
    return not held[0].isdisjoint(held[1])


def is_compiled(env: Env) -> bool:
    """Returns whether `env.step` is a pure function that can be compiled together with an agent."""
    return isinstance(env, DeviceEnv)
