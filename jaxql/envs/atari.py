"""Atari games through ALE's own vector env, every setting stated. The only file that imports ale_py (GPL-2.0)."""

import faulthandler
import math
import os
import re
import sys
import threading
import time
import weakref

import ale_py
import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from jaxql.envs.host import HostEnv
from jaxql.errors import UserError, nearest

gymnasium.register_envs(ale_py)

SETTINGS = dict(  # name: (default, least, greatest); repeat_action_probability is 0.25 for ALE/X-v5
    repeat_action_probability=(0.0, 0.0, 1.0),
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
    watchdog_seconds=(300.0, 1.0, math.inf),
)
REFUSED = dict(
    episodic_life="it restarts the game at each life: use life_loss=True",
    life_loss_info="use life_loss=True",
    reward_clipping="scores stay raw here: clip in the agent",
    continuous="Q-learning needs discrete actions",
    continuous_action_threshold="Q-learning needs discrete actions",
    batch_size="all envs step together",
    autoreset_mode="it is always NEXT_STEP",
)


def games() -> dict[str, str]:
    """The ids that run here -> the names of their ROMs: `PongNoFrameskip-v4`, `ALE/Pong-v5`, ..."""
    ids = (i for i in gymnasium.registry if i.endswith("NoFrameskip-v4") or i.startswith("ALE/") and i.endswith("-v5"))
    return {i: gymnasium.registry[i].kwargs["game"] for i in ids}


def legacy_hint(id: str) -> str:
    """For ids such as `Pong-v4` or `Pong-ram-v5`, a line with the forms of the game that run here; for others ''."""
    name = re.match(r"(?:ALE/)?([A-Za-z0-9]*?)(?:-ram)?(?:Deterministic|NoFrameskip)?(?:-v\d+)?$", id)
    forms = [form for form in (f"{name[1]}NoFrameskip-v4", f"ALE/{name[1]}-v5") if form in games()] if name else []
    return f"{id}: this form of the game is not run here; use {' or '.join(forms)}" if forms else ""


def check_settings(id: str, given: dict) -> dict:
    """The emulator's settings, `given` ones checked: what ALE does not check hangs it, or worse."""
    settings = {name: default for name, (default, _, _) in SETTINGS.items()}
    settings["repeat_action_probability"] = 0.25 if id.startswith("ALE/") else 0.0
    for name, value in given.items():
        if name not in SETTINGS:
            why = REFUSED.get(name, f"the settings are {', '.join(SETTINGS)}")
            raise UserError(
                f"{id}: {name} cannot be set{nearest(name, SETTINGS) if name not in REFUSED else ''}; {why}"
            )
        default, least, greatest = SETTINGS[name]
        if not _is_a(type(default), value) or not least <= value <= greatest:
            raise UserError(
                f"{id}: {name}={value!r}; it is of type {type(default).__name__}, from {least} to {greatest}"
            )
        settings[name] = type(default)(value)
    return settings


def _is_a(kind, value) -> bool:
    if isinstance(value, bool | np.bool_):
        return kind is bool
    return isinstance(value, int | np.integer) and kind is not bool or isinstance(value, float) and kind is float


class Emulators(AtariVectorEnv):
    """ALE's vector env, which would write its autoreset mode into the metadata of all vector envs."""

    metadata: dict = {}


class Watchdog:
    """Ends the process with every thread's stack when an emulator does not come back, for then even Ctrl-C is deaf.

    ALE waits without the interpreter lock, so a Python thread can watch; `faulthandler.dump_traceback_later` would
    cost a new thread every step.
    """

    def __init__(self, seconds: float):
        self._seconds, self._since, self._closed = seconds, None, threading.Event()
        threading.Thread(target=self._watch, name="jaxql-atari-watchdog", daemon=True).start()

    def __enter__(self):
        self._since = time.monotonic()

    def __exit__(self, *_):
        self._since = None

    def close(self):
        self._closed.set()

    def _watch(self):
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > self._seconds:
                print(f"jaxql: the Atari emulator has not answered for {self._seconds:g} s; leaving", file=sys.stderr)
                faulthandler.dump_traceback(file=sys.__stderr__)
                os._exit(70)


class AtariEnv(HostEnv):
    """Games of ALE: observations [B, stack, 84, 84] uint8, newest frame last.

    With life_loss=True `terminated` is also true when a life is lost; the next row is valid and the game goes on, and
    episodes are of full games. With render=True a second emulator plays along in colour.
    """

    def __init__(self, id: str, num_envs: int, *, render=False, life_loss=False, settings=None, **seeding):
        settings = check_settings(id, settings or {})
        self.stack = settings["stack_num"]
        self._life_loss, self._lives = life_loss, np.zeros(num_envs, np.int32)
        patience = settings.pop("watchdog_seconds")
        self.settings = settings
        emulators = self._emulators(games()[id], num_envs)
        film = dict(grayscale=False, img_height=210, img_width=160, stack_num=1)
        self._film = self._emulators(games()[id], num_envs, **film) if render else None
        self._frames = None
        super().__init__(emulators, id, **seeding)
        self._watchdog = Watchdog(patience)
        weakref.finalize(self, self._watchdog.close)

    def _emulators(self, game, num_envs, **changes):
        stated = dict(episodic_life=False, life_loss_info=False, reward_clipping=False, continuous=False, batch_size=0)
        mode = AutoresetMode.NEXT_STEP
        return Emulators(game, num_envs, autoreset_mode=mode, **stated, **{**self.settings, **changes})

    def _play(self, action):
        with self._watchdog:
            obs, reward, terminated, truncated, info = self._env.step(action)
            if self._film:
                self._frames = self._film.step(action)[0]
        lives = info["lives"]
        lost = (lives < self._lives) & (lives > 0) & self._life_loss
        self._lives = lives
        return obs, reward, terminated, truncated, lost

    def _reset_envs(self, mask, seeds):
        how = {"seed": np.array(seeds), "options": None if mask.all() else {"reset_mask": mask}}
        with self._watchdog:
            obs, info = self._env.reset(**how)
            if self._film:
                self._frames, _ = self._film.reset(**how)
        self._lives = info["lives"]
        return obs

    def render(self):
        if not self._film:
            return super().render()
        return list(self._frames[:, -1].copy())

    def close(self):
        self._watchdog.close()
        super().close()
        if self._film and not self._film.closed:
            self._film.close()
