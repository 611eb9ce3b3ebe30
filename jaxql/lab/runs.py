"""Finished runs: their folders, and what can be done with them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector import VectorEnv

from jaxql import agents, envs, loop
from jaxql.agents.state import hyper_of
from jaxql.errors import UserError
from jaxql.lab import checkpoint, evaluation
from jaxql.lab.files import read_config, read_metrics
from jaxql.lab.settings import settings
from jaxql.types import Agent


@dataclasses.dataclass
class Run:
    """A finished run."""

    folder: Path
    agent: Agent  # its functions compiled
    make_env: Callable  # (num_envs, *, seed, purpose, render=False) -> HostEnv
    config: Any
    shapes: Any  # of the parameters
    state: Any = None  # as it was after the last step; None for a run that was opened
    solved: bool | None = None
    interrupted: bool = False  # from the keyboard
    env_steps: int | None = None
    seconds: float | None = None
    best_score: float | None = None  # mean return of the best checkpoint's test, or of training if none was tested

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The columns of metrics.csv."""
        return read_metrics(self.folder)

    def best_params(self):
        """The parameters of the best checkpoint."""
        return load_params(self.folder, self.shapes)

    def evaluate(self, episodes: int = 20, seed: int = 0) -> evaluation.Evaluation:
        """Plays full episodes with the best checkpoint: epsilon 0, raw rewards, seeds of their own."""
        env = self.make_env(episodes, seed=seed, purpose="evaluate")
        try:
            return evaluation.evaluate(self.agent, self.best_params(), env, jax.random.key(seed))
        finally:
            env.close()

    def record(self, path, seed: int = 0, episodes: int = 1) -> dict[str, Any]:
        """Writes a video of the best checkpoint playing; .mp4 or .gif."""
        from jaxql.lab import video

        env = self.make_env(1, seed=seed, purpose="record", render=True)
        try:
            key = jax.random.key(seed)
            return video.record(env, self.agent.policy, self.best_params(), path, key=key, episodes=episodes)
        finally:
            env.close()

    def video(self, path=None, seed: int = 0):
        """Records an episode and shows it inline in a notebook."""
        from jaxql.lab.video import display_video

        path = Path(path) if path else self.folder / "video.mp4"
        self.record(path, seed)
        return display_video(path)


class EnvMaker:
    """Makes envs of one env: (num_envs, *, seed, purpose, render=False, life_loss=False) -> HostEnv."""

    def __init__(self, env, env_args: dict[str, Any]):
        self.env, self.env_args = env, env_args
        self.id, self.notes = envs.identify(env)

    def __call__(self, num_envs: int, *, purpose: str, **options):
        env = self.env
        if isinstance(env, VectorEnv) and purpose != "train":  # the one that was given is busy training
            spec = getattr(env.unwrapped, "envs", [env])[0].spec
            if spec is None:
                raise UserError(f"{self.id}: no spec to make test envs from; pass a callable instead")
            env = functools.partial(gymnasium.make, spec)
        return envs.make(env, num_envs, purpose=purpose, env_args=self.env_args, **options)


def open_run(folder) -> Run:
    """The run in a folder, or one line that says why it cannot be opened.

    Raises:
      UserError: no such run, or one whose agent or env cannot be made again from its config.json.
    """
    record = read_config(folder)["config"]
    try:
        if record.get("network") or not (record["agent"] in agents.REGISTRY or ":" in record["agent"]):
            raise UserError(f"{folder}: its agent or network came from Python; use the Run that train returned")
        entry, make_env = agents.entry_of(record["agent"]), EnvMaker(record["env"], record["env_args"])
        config, _ = settings(entry, record["env"], **_tuples(record["settings"]))
    except KeyError as error:
        raise UserError(f"{folder}: config.json has no {error}, so the run cannot be made again") from error
    env = make_env(1, seed=0, purpose="evaluate")
    agent = loop.jit_agent(entry.make(config, env.spec))
    shapes = jax.eval_shape(agent.init, jax.random.key(0), env.spec.obs, hyper_of(config)).params
    env.close()
    return Run(Path(folder), agent, make_env, config, shapes)


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def load_params(folder, like):
    """The parameters of a run's best checkpoint, as `like`. Raises UserError where there are none, or others."""
    if not Path(folder).is_dir():
        raise UserError(f"no run folder {folder}; give the folder that jaxql train printed")
    return checkpoint.load(Path(folder) / "checkpoints" / "best", like)[0]
