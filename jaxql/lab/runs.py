"""Finished runs: their folders, and what can be done with them."""

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxql import agents, loop
from jaxql.agents.state import State, hyper_of
from jaxql.errors import UserError
from jaxql.lab import checkpoint, trust as confirm
from jaxql.lab.cards import html_card, text_card
from jaxql.lab.environments import EnvMaker
from jaxql.lab.evaluation import Evaluation, evaluate_in_turns
from jaxql.lab.files import is_unchanged, read_config, read_metrics
from jaxql.lab.machine import check_env_memory
from jaxql.lab.settings import RunSettings, plain, settings as resolve
from jaxql.types import Agent, EnvSpec, Network


class RunWarning(UserWarning):
    """Something to know of a run that was opened."""


PASSED_IN = "passed in"  # in place of the name of a network that came from Python


@dataclasses.dataclass(repr=False)
class Run:
    """A finished run. Fields that are None are not known of a run that was opened."""

    folder: Path
    agent: Agent  # its functions compiled
    make_env: EnvMaker
    config: Any  # settings of the agent
    shapes: Any  # of the parameters
    spec: EnvSpec  # of the envs that it was trained in, or of one such env
    state: State | None = None  # after the last step; None for a run that was opened
    settings: RunSettings | None = None  # of the run
    solved: bool | None = None
    interrupted: int = 0  # number of the signal that ended the run; 0: none did
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
        return play(self.agent, self.best_params, self.make_env, episodes, seed)

    def record(
        self, path: str | os.PathLike, seed: int = 0, episodes: int = 1, max_steps: int | None = None
    ) -> dict[str, Any]:
        """Writes a video of the best checkpoint at play, .mp4 or .gif; returns what `jaxql.lab.video.record` does."""
        return film(self.agent, self.best_params, self.make_env, path, seed, episodes, max_steps)

    def video(self, path: str | os.PathLike | None = None, seed: int = 0) -> Any:
        """Records an episode and returns it for display in a notebook cell."""
        from jaxql.lab.video import display_video

        path = Path(path) if path else self.folder / "video.mp4"
        self.record(path, seed)
        return display_video(path)


def play(agent: Agent, params: Callable[[], Any], make_env: EnvMaker, episodes: int, seed: int) -> Evaluation:
    """Returns the evaluation of full episodes with the parameters that `params` gives; see `Run.evaluate`."""
    episodes, seed = plain(episodes), plain(seed)
    check_env_memory(make_env, episodes, "episodes")
    return evaluate_in_turns(agent, params(), make_env, episodes, seed)


def film(
    agent: Agent,
    params: Callable[[], Any],
    make_env: EnvMaker,
    path: str | os.PathLike,
    seed: int,
    episodes: int,
    max_steps: int | None,
) -> dict[str, Any]:
    """Writes a video of play with the parameters that `params` gives; see `Run.record`."""
    from jaxql.lab import video

    episodes, seed = plain(episodes), plain(seed)
    env = make_env(1, seed=seed, purpose="record", render=True)
    try:
        key = jax.random.key(seed)
        return video.record(env, agent.policy, params(), Path(path), key=key, episodes=episodes, step_cap=max_steps)
    finally:
        env.close()


def open_run(folder: str | os.PathLike, *, trust: bool = False) -> Run:
    """Returns the run in a folder. A config.json that was changed after the run was made gives a warning.

    Args:
      folder: of one run.
      trust: import the modules that config.json names for its agent, env or network. They must be installed. A run
        that this user made in this folder needs no `trust`.

    Raises:
      UserError: no such run, one whose agent or env cannot be made again from its config.json, one that names a module
        that is not confirmed, or one of another float precision than JAX now has.
    """
    with opening(folder, trust) as config:
        return _make_again(Path(folder), config)


@contextlib.contextmanager
def opening(folder: str | os.PathLike, trust: bool = False) -> Iterator[dict[str, Any]]:
    """Gives the settings in config.json, checked; within, its modules can be imported if they are confirmed.

    Args:
      folder, trust: as in `open_run`.

    Raises:
      UserError: as `open_run` does; whatever is raised within becomes one too.
    """
    path = Path(folder) / "config.json"
    record = _read_config(Path(folder))
    config = record["config"]
    try:
        modules = confirm.modules_of(config)
    except RecursionError as error:
        raise UserError(f"{path} is damaged: it is nested too deep") from error
    unchanged = is_unchanged(record)
    if not unchanged:
        warnings.warn(f"{path} was changed after the run was made: this may be another env or agent", RunWarning, 3)
    signed = unchanged and confirm.is_signed(Path(folder), record["checksum"], record.get("signature"))
    homes = record["modules"].values() if signed else ()
    with confirm.restricted_imports(folder, homes):
        confirm.import_modules(folder, modules, confirmed=signed or trust)
        try:
            yield config
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except Exception as error:  # values that nobody checked may raise anything
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"{path}: the run cannot be made again from it: {reason:.200}") from error


CONFIG = {"agent": str, "env": str, "env_args": dict, "settings": dict, "network": str | None}  # what a run is made of


def _read_config(folder: Path) -> dict[str, Any]:
    """Returns the checked config.json of a run that can be made again."""
    if not os.path.exists(folder / "config.json") and (seeds := seed_folders(folder)) != [folder]:
        names = ", ".join(each.name for each in seeds)
        raise UserError(f"{folder} holds the runs of {len(seeds)} seeds: open one of them, {names}")
    record = read_config(folder)
    config, path = record["config"], folder / "config.json"
    for name, kind in CONFIG.items():
        if name not in config:
            raise UserError(f"{path} has no {name!r}, so the run cannot be made again")
        if not isinstance(config[name], kind):
            raise UserError(f"{path}: {name} is {config[name]!r:.60}, so the run cannot be made again")
    if not can_reopen(config):
        raise UserError(f"{folder}: its agent or network came from Python; use the Run that train returned")
    wide = bool(jax.config.values["jax_enable_x64"])
    if isinstance(record.get("x64"), bool) and record["x64"] != wide:
        bits = 64 if record["x64"] else 32
        raise UserError(
            f"{folder}: the run computed in float{bits}: set JAX_ENABLE_X64={int(record['x64'])} to open it"
        )
    return record


def can_reopen(config: dict[str, Any]) -> bool:
    """Returns whether the agent and network of a config.json can be made again from their names."""
    return config["network"] != PASSED_IN and (config["agent"] in agents.REGISTRY or ":" in config["agent"])


def _make_again(folder: Path, record: dict[str, Any]) -> Run:
    """Returns the run of a checked config.json."""
    entry, make_env = agents.entry_of(record["agent"]), EnvMaker.from_record(record)
    config, run_settings = resolve(entry, record["env"], **record["settings"])
    env = make_env(1, seed=0, purpose="evaluate")
    try:
        network = network_named(record["network"], env.spec) if record["network"] else None
        agent = loop.jit_agent(entry.make(config, env.spec, network))
        shapes = jax.eval_shape(agent.init, jax.random.key(0), env.spec.obs, hyper_of(config)).params
    finally:
        env.close()
    return Run(folder, agent, make_env, config, shapes, env.spec, settings=run_settings)


def network_named(name: str, spec: EnvSpec) -> Network:
    """Returns the network "module:name": a `Network`, or what a function of the `EnvSpec` returns.

    Raises:
      UserError: there is none.
    """
    network = confirm.import_object(name)
    if callable(network) and not isinstance(network, Network):
        network = network(spec)
    if not isinstance(network, Network):
        raise UserError(
            f"{name} gives {type(network).__name__}; it must be a jaxql.Network or a function of the EnvSpec"
        )
    return network


def seed_folders(folder: str | os.PathLike) -> list[Path]:
    """Returns the run folders in the folder of a run with many seeds, in order of the seeds; of one run, its own."""
    folder = Path(folder)
    try:
        found = [each for each in folder.glob("seed*") if each.name[4:].isdecimal()]
    except (OSError, ValueError):
        found = []
    found = [each for each in found if os.path.exists(each / "config.json")]
    alone = not found or os.path.exists(folder / "config.json")
    return [folder] if alone else sorted(found, key=lambda each: int(each.name[4:]))


def load_params(folder: str | os.PathLike, like: Any) -> Any:
    """Returns the parameters of a run's best checkpoint, of the structure and shapes of `like`.

    Those of its last checkpoint, with a warning, where the run ended before it kept a best one.

    Raises:
      UserError: there are none, or others.
    """
    checkpoints = Path(folder) / "checkpoints"
    if not os.path.isdir(folder):
        raise UserError(f"no run folder {str(folder):.200}; give the folder that jaxql train printed")
    best, last = checkpoints / "best", checkpoints / "last"
    if os.path.exists(f"{best}.json"):
        return checkpoint.load(best, like)[0]
    if not os.path.exists(f"{last}.json"):
        raise UserError(f"{folder} has no checkpoint: the run ended before it wrote one; train it again")
    params, about = checkpoint.load(last, like)
    steps = about.get("env_steps")
    warnings.warn(f"{folder} has no best checkpoint: this is the last one, of {steps} env steps", RunWarning, 3)
    return params
