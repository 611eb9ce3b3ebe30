"""Atari games through ALE's own vector env, every setting stated. The only file that imports ale_py (GPL-2.0)."""

import re
from collections.abc import Callable
from typing import Any

import ale_py
import ale_py.env
import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FrameStackObservation

from jaxql.envs.host import HostEnv
from jaxql.errors import UserError, nearest

gymnasium.register_envs(ale_py)

SETTINGS: dict[str, tuple[Any, float, float]] = dict(  # name: (default, minimum, maximum)
    repeat_action_probability=(0.0, 0.0, 1.0),  # the default of ALE/X-v5 is 0.25
    frameskip=(4, 1, 1000),
    stack_num=(4, 1, 100),
    img_height=(84, 1, 1000),
    img_width=(84, 1, 1000),
    grayscale=(True, False, True),
    maxpool=(True, False, True),
    noop_max=(30, 0, 10_000),
    use_fire_reset=(True, False, True),
    full_action_space=(False, False, True),
    max_num_frames_per_episode=(108_000, 1, 2**31 - 1),
    num_threads=(0, 0, 1000),
    thread_affinity_offset=(-1, -1, 10_000),
)
REFUSED = dict(  # settings of ALE that cannot be chosen here, and why
    episodic_life="it restarts the game at each life: use life_loss=True",
    life_loss_info="use life_loss=True",
    reward_clipping="scores stay raw here: clip in the agent",
    continuous="Q-learning needs discrete actions",
    continuous_action_threshold="Q-learning needs discrete actions",
    batch_size="all envs step together",
    autoreset_mode="it is always NEXT_STEP",
)


SINGLE = {"obs_type": "grayscale", "mode": None, "difficulty": None}  # settings that ALE's vector env lacks


def games() -> dict[str, str]:
    """Returns the supported ids with the names of their ROMs.

    They are `PongNoFrameskip-v4`, `PongDeterministic-v4`, both with -v0 too, and `ALE/Pong-v5`.
    """
    known = {}
    for id, spec in gymnasium.registry.items():
        if id.startswith("ALE/") and id.endswith("-v5"):
            known[id] = spec.kwargs["game"]
        elif re.search(r"NoFrameskip-v[04]$", id) and "ale_py" in str(spec.entry_point):
            known[id] = known[id.replace("NoFrameskip", "Deterministic")] = spec.kwargs["game"]
    return known


def hint_for_unsupported_id(id: str) -> str:
    """Returns a line with the supported ids of a game, for ids such as `Pong-v4` or `Pong-ram-v5`; '' for others."""
    name = re.match(r"(?:ALE/)?([A-Za-z0-9]*?)(-ram)?(?:Deterministic|NoFrameskip)?(?:-v\d+)?$", id)
    forms = [form for form in (f"{name[1]}NoFrameskip-v4", f"ALE/{name[1]}-v5") if form in games()] if name else []
    ram = " with --env-arg obs_type=ram" if name and name[2] else ""
    return f"{id}: this form of the game is not run here; use {' or '.join(forms)}{ram}" if forms else ""


def is_single(settings: dict[str, Any]) -> bool:
    """Returns whether these settings need an emulator for each env: RAM observations, a mode or a difficulty."""
    return not settings.keys().isdisjoint(SINGLE)


def single_emulators(id: str, settings: dict[str, Any], render: bool) -> Callable[[], gymnasium.Env]:
    """Returns a function that makes one emulator: RAM [128], or frames as they are drawn, stacked.

    Args:
      id: one of `games()`.
      settings: obs_type ("ram", "grayscale" or "rgb"), mode, difficulty, and those of `SETTINGS` that one emulator has.
      render: draw frames.

    Raises:
      UserError: one line, for a wrong setting.
    """
    chosen = SINGLE | {name: value for name, value in settings.items() if name in SINGLE}
    if chosen["obs_type"] not in ("ram", "grayscale", "rgb"):
        raise UserError(f"{id}: obs_type={chosen['obs_type']!r}; it is ram, grayscale or rgb")
    others = {name: value for name, value in settings.items() if name not in SINGLE}
    allowed = ("repeat_action_probability", "frameskip", "full_action_space", "max_num_frames_per_episode", "stack_num")
    for name in others:
        if name not in allowed:
            raise UserError(
                f"{id}: {name} goes with no obs_type, mode or difficulty; beside them: {', '.join(allowed)}"
            )
    checked = check_settings(id, others)
    stack = checked["stack_num"]
    arguments: dict[str, Any] = {name: checked[name] for name in allowed[:-1]} | chosen

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for every emulator

    def make() -> gymnasium.Env:
        env: gymnasium.Env = ale_py.env.AtariEnv(
            game=games()[id], render_mode="rgb_array" if render else None, **arguments
        )
        return env if chosen["obs_type"] == "ram" or stack == 1 else FrameStackObservation(env, stack)

    return make


def check_settings(id: str, given: dict[str, Any]) -> dict[str, Any]:
    """Returns all settings of the emulator: the defaults, changed by `given`.

    ALE does not check some of them, and hangs or crashes.

    Raises:
      UserError: one line, for an unknown setting, a wrong type or a value out of range.
    """
    settings = {name: default for name, (default, _, _) in SETTINGS.items()}
    settings["repeat_action_probability"] = 0.25 if id.startswith("ALE/") or id.endswith("-v0") else 0.0
    if id.startswith("SpaceInvadersDeterministic"):  # with 4, its lasers are never seen
        settings["frameskip"] = 3
    for name, value in given.items():
        if name not in SETTINGS:
            why = REFUSED.get(name, f"the settings are {', '.join(SETTINGS)}")
            raise UserError(
                f"{id}: {name} cannot be set{nearest(name, SETTINGS) if name not in REFUSED else ''}; {why}"
            )
        default, minimum, maximum = SETTINGS[name]
        if not _has_type(value, type(default)) or not minimum <= value <= maximum:
            raise UserError(
                f"{id}: {name}={value!r}; it is of type {type(default).__name__}, from {minimum} to {maximum}"
            )
        settings[name] = type(default)(value)
    return settings


def _has_type(value: Any, kind: type) -> bool:
    """Returns whether `value` is a `kind`: bools are no numbers, and ints are floats."""
    if isinstance(value, bool | np.bool_):
        return kind is bool
    return isinstance(value, int | np.integer) and kind is not bool or isinstance(value, float) and kind is float


class IsolatedAtariVectorEnv(AtariVectorEnv):
    """ALE's vector env with metadata of its own. ALE would write its autoreset mode into that of all vector envs."""

    metadata: dict[str, Any] = {}


class AtariEnv(HostEnv):
    """B games of ALE: observations [B, stack, 84, 84] uint8, newest frame last.

    Args:
      id: one of `games()`.
      num_envs: B.
      render: step a second emulator, which draws in colour, with the same seeds and actions.
      life_loss: `terminated` is also true where a life is lost. The next row is valid and the game goes on. Episodes
        remain whole games.
      settings: see `SETTINGS`.
      **host_options: seed, purpose, first_env and mesh of `HostEnv`.

    Raises:
      UserError: one line, for a wrong setting.
    """

    def __init__(
        self,
        id: str,
        num_envs: int,
        *,
        render: bool = False,
        life_loss: bool = False,
        settings: dict[str, Any] | None = None,
        **host_options: Any,
    ) -> None:
        self.settings = check_settings(id, settings or {})
        self.stack = self.settings["stack_num"]
        self._life_loss, self._lives = life_loss, np.zeros(num_envs, np.int32)
        env = self._make_emulators(games()[id], num_envs)
        colour = dict(grayscale=False, img_height=210, img_width=160, stack_num=1)
        self._colour_env = self._make_emulators(games()[id], num_envs, **colour) if render else None
        self._frames = np.zeros((num_envs, 1, 210, 160, 3), np.uint8)
        super().__init__(env, id, **host_options)

    def _make_emulators(self, game: str, num_envs: int, **changes: Any) -> AtariVectorEnv:
        fixed: dict[str, Any] = dict(episodic_life=False, life_loss_info=False, reward_clipping=False, continuous=False)
        fixed |= dict(batch_size=0, autoreset_mode=AutoresetMode.NEXT_STEP)
        return IsolatedAtariVectorEnv(game, num_envs, **{**self.settings, **fixed, **changes})

    def _step_env(self, action: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        obs, reward, terminated, truncated, info = self._env.step(action)
        if self._colour_env:
            self._frames = self._colour_env.step(action)[0]
        lives = info["lives"]
        life_lost = (lives < self._lives) & (lives > 0) & self._life_loss
        self._lives = lives
        return obs, reward, terminated, truncated, life_lost

    def _reset_env(self, mask: np.ndarray, seeds: list[int]) -> Any:
        arguments: dict[str, Any] = {"seed": np.array(seeds), "options": None if mask.all() else {"reset_mask": mask}}
        obs, info = self._env.reset(**arguments)
        if self._colour_env:
            self._frames, _ = self._colour_env.reset(**arguments)
        self._lives = info["lives"]
        return obs

    @property
    def step_limit(self) -> int | None:
        """Steps after which the emulator ends an episode."""
        return self.settings["max_num_frames_per_episode"] // self.settings["frameskip"]

    def render(self) -> list[np.ndarray]:
        """Returns one RGB frame [210, 160, 3] uint8 an env. Raises UserError unless it was made with render=True."""
        if not self._colour_env:
            return super().render()
        return list(self._frames[:, -1].copy())

    def close(self) -> None:
        """Releases the emulators. Closing twice is harmless."""
        super().close()
        if self._colour_env and not self._colour_env.closed:
            self._colour_env.close()
