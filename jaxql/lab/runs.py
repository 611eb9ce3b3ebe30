"""Finished runs: their folders, and what can be done with them."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxql import agents, loop
from jaxql.agents.state import State, hyper_of
from jaxql.errors import UserError
from jaxql.lab import checkpoint
from jaxql.lab.cards import html_card, text_card
from jaxql.lab.environments import EnvMaker
from jaxql.lab.evaluation import Evaluation, evaluate
from jaxql.lab.files import read_config, read_metrics
from jaxql.lab.settings import RunSettings, settings as resolve
from jaxql.types import Agent


@dataclasses.dataclass(repr=False)
class Run:
    """A finished run. Fields that are None are not known of a run that was opened."""

    folder: Path
    agent: Agent  # its functions compiled
    make_env: EnvMaker
    config: Any  # settings of the agent
    shapes: Any  # of the parameters
    state: State | None = None  # after the last step; None for a run that was opened
    settings: RunSettings | None = None  # of the run
    solved: bool | None = None
    interrupted: bool = False  # from the keyboard
    env_steps: int | None = None
    seconds: float | None = None
    best_score: float | None = None  # mean return of the best checkpoint: in evaluation, or in training without one

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The columns of metrics.csv; see `jaxql.lab.files.read_metrics`."""
        return read_metrics(self.folder)

    def card(self) -> tuple[str, dict[str, str]]:
        """Returns (title, rows) of what is known of the run, for people."""
        try:
            record = read_config(self.folder)["config"]
            title = f"{record['agent']} on {record['env']}, seed {record['seed']}"
        except (UserError, KeyError):  # the folder was moved or changed since
            title = f"a run on {self.make_env.id}"
        rows = {}
        if self.solved is not None and self.settings is not None and self.settings.solved_at != math.inf:
            rows["solved"] = "yes" if self.solved else "no"
        if self.env_steps is not None:
            rows["env steps"] = f"{self.env_steps:,}"
        if self.seconds is not None:
            rows["seconds"] = f"{self.seconds:.1f}"
        if self.best_score is not None:
            rows["best mean return"] = f"{self.best_score:.2f}"
        if self.interrupted:
            rows["interrupted"] = "yes"
        return title, rows | {"folder": str(self.folder)}

    def __repr__(self) -> str:
        return text_card(*self.card())

    def _repr_html_(self) -> str:
        return html_card(*self.card())

    def best_params(self) -> Any:
        """Returns the parameters of the best checkpoint."""
        return load_params(self.folder, self.shapes)

    def evaluate(self, episodes: int = 20, seed: int = 0) -> Evaluation:
        """Plays full episodes with the best checkpoint: epsilon 0, raw rewards, seeds of their own."""
        env = self.make_env(episodes, seed=seed, purpose="evaluate")
        try:
            return evaluate(self.agent, self.best_params(), env, jax.random.key(seed))
        finally:
            env.close()

    def record(self, path: str | os.PathLike, seed: int = 0, episodes: int = 1) -> dict[str, Any]:
        """Writes a video of the best checkpoint at play, .mp4 or .gif; returns {"frames", "episodes", "returns"}."""
        from jaxql.lab import video

        env = self.make_env(1, seed=seed, purpose="record", render=True)
        try:
            key = jax.random.key(seed)
            return video.record(env, self.agent.policy, self.best_params(), Path(path), key=key, episodes=episodes)
        finally:
            env.close()

    def video(self, path: str | os.PathLike | None = None, seed: int = 0) -> Any:
        """Records an episode and returns it for display in a notebook cell."""
        from jaxql.lab.video import display_video

        path = Path(path) if path else self.folder / "video.mp4"
        self.record(path, seed)
        return display_video(path)


def open_run(folder: str | os.PathLike) -> Run:
    """Returns the run in a folder.

    Raises:
      UserError: no such run, or one whose agent or env cannot be made again from its config.json.
    """
    record = read_config(folder)["config"]
    try:
        if record.get("network") or not (record["agent"] in agents.REGISTRY or ":" in record["agent"]):
            raise UserError(f"{folder}: its agent or network came from Python; use the Run that train returned")
        entry, make_env = agents.entry_of(record["agent"]), EnvMaker(record["env"], record["env_args"])
        config, run_settings = resolve(entry, record["env"], **_tuples(record["settings"]))
    except KeyError as error:
        raise UserError(f"{folder}: config.json has no {error}, so the run cannot be made again") from error
    env = make_env(1, seed=0, purpose="evaluate")
    agent = loop.jit_agent(entry.make(config, env.spec))
    shapes = jax.eval_shape(agent.init, jax.random.key(0), env.spec.obs, hyper_of(config)).params
    env.close()
    return Run(Path(folder), agent, make_env, config, shapes, settings=run_settings)


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def load_params(folder: str | os.PathLike, like: Any) -> Any:
    """Returns the parameters of a run's best checkpoint, of the structure and shapes of `like`.

    Raises:
      UserError: there are none, or others.
    """
    if not Path(folder).is_dir():
        raise UserError(f"no run folder {folder}; give the folder that jaxql train printed")
    return checkpoint.load(Path(folder) / "checkpoints" / "best", like)[0]
