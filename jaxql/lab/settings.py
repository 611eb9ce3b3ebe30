"""Settings of a run, beside those of its agent: how long, how often it is evaluated, when it counts as solved."""

import dataclasses
import math
from typing import Any, Literal

import jax
import numpy as np

from jaxql.agents import presets
from jaxql.agents.config import bounded, validate
from jaxql.agents.registry import REGISTRY, AgentEntry
from jaxql.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The settings of a run that every agent shares."""

    steps: int = bounded(50_000, 1, 2_000_000_000)  # env steps after which the run ends, solved or not
    log_every: int = bounded(1_000, 1)  # env steps between rows of metrics.csv
    checkpoint_every: int = bounded(10_000, 1)  # env steps between checkpoints: the last parameters, the whole state
    checkpoint_minutes: float = bounded(10.0, 0)  # minutes after which the whole state is saved too; 0: never
    save_replay: bool = True  # the whole state holds the replay; without it a resumed run fills its replay anew
    keep_state: bool = False  # a finished run keeps its whole state, so that it can be resumed with more steps
    eval_every: int = bounded(5_000, 1)  # env steps between evaluations
    eval_from: float = -math.inf  # evaluations begin when the mean of the last 10 training returns first passes it
    eval_episodes: int = bounded(20, 1)  # full episodes of an evaluation, each in an environment of its own, epsilon 0
    solved_at: float = math.inf  # the return that counts as solved
    solved_by: Literal["evaluation", "training"] = "evaluation"  # whose mean return; training: of the last 100 episodes
    solved_strictly: bool = False  # the mean must exceed solved_at, not only reach it
    stop_when_solved: bool = True  # end the run there


def settings(entry: AgentEntry, env_id: str, preset: str | None = None, **changes: Any) -> tuple[Any, RunSettings]:
    """Returns the checked settings of an agent and of its run on an env.

    They are those of the preset, or else those tuned for the env; then the overrides of the agent's name; then changes.

    Args:
      entry: the agent.
      env_id: of the env.
      preset: a name in `entry.presets`.
      **changes: single settings, of the agent or of the run.

    Raises:
      UserError: an unknown preset or setting, with the nearest name, or a value out of range.
    """
    of_agent, of_run = ([field.name for field in dataclasses.fields(kind)] for kind in (entry.config, RunSettings))
    for name in changes:
        if name not in (*of_agent, *of_run):
            raise UserError(
                f'no setting "{name}"{nearest(name, (*of_agent, *of_run))}; there are '
                f"{', '.join(sorted((*of_agent, *of_run)))}"
            )
    values: dict[str, Any] = {}
    for _, layer in layers(entry, env_id, preset):
        values |= layer
    values |= {name: plain(value) for name, value in changes.items()}
    config = entry.config(**{name: value for name, value in values.items() if name in of_agent})
    run = RunSettings(**{name: value for name, value in values.items() if name not in of_agent})
    validate(config)
    validate(run)
    return config, run


def layers(entry: AgentEntry, env_id: str, preset: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Returns (source, values) of all that changes the defaults of an agent and its run, the strongest last.

    Args:
      entry: the agent.
      env_id: of the env; "" for none.
      preset: a name in `entry.presets`, which stands in place of what is tuned.

    Raises:
      UserError: an unknown preset, with the nearest name.
    """
    if preset is not None and preset not in entry.presets:
        known = f"there are {', '.join(entry.presets)}" if entry.presets else "this agent has none"
        raise UserError(f'no preset "{preset}"{nearest(preset, entry.presets)}; {known}')
    tuned = [("tuned for every env", entry.tuned.get("*", {})), (f"tuned for {env_id}", entry.tuned.get(env_id, {}))]
    chosen = [(f"preset {preset}", entry.presets[preset])] if preset else tuned
    return [*chosen, ("the agent's name", entry.overrides)]


def origins(entry: AgentEntry, env_id: str, preset: str | None = None) -> dict[str, str]:
    """Returns the source of every setting that `settings` gives; "default" where nothing changes it.

    >>> from jaxql.agents.registry import REGISTRY
    >>> origins(REGISTRY["c51"], "CartPole-v1")["head"], origins(REGISTRY["c51"], "CartPole-v1")["n_step"]
    ("the agent's name", 'tuned for CartPole-v1')
    """
    names = [field.name for kind in (entry.config, RunSettings) for field in dataclasses.fields(kind)]
    found = dict.fromkeys(names, "default")
    for source, values in layers(entry, env_id, preset):
        found |= dict.fromkeys(values, source)
    return found


def source_of(entry: AgentEntry, env_id: str, preset: str | None = None) -> str:
    """Returns where the preset, or what is tuned for the env, comes from; "" where nothing is tuned or known.

    >>> from jaxql.agents.registry import REGISTRY
    >>> source_of(REGISTRY["pqn"], "jax:cartpole")
    'https://github.com/mttga/purejaxql, config/alg/pqn_cartpole.yaml'
    """
    return entry.sources.get(preset or env_id, "")


def same_settings(name: str, env_id: str, preset: str | None = None, **changes: Any) -> list[str]:
    """Returns the other names of the deep Q learner that stand for the same settings on this env."""
    names = ("dqn", *presets.VARIANTS)
    if name not in names:
        return []
    own = settings(REGISTRY[name], env_id, preset, **changes)
    others = [each for each in names if each != name and preset in (None, *REGISTRY[each].presets)]
    return [each for each in others if settings(REGISTRY[each], env_id, preset, **changes) == own]


def plain(value: Any) -> Any:
    """Returns a NumPy or JAX scalar as Python's number, and a list or tuple as a tuple of such; else the value.

    >>> plain(np.int64(300)), plain([np.int32(64), 64])
    (300, (64, 64))
    """
    if isinstance(value, list | tuple):
        return tuple(plain(each) for each in value)
    if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0:
        return value.item()
    return value


def changed_settings(config: Any, run: RunSettings) -> str:
    """Returns one line with the settings that differ from the defaults of their dataclasses."""
    changed = [
        f"{field.name}={getattr(values, field.name)}"
        for values in (config, run)
        for field in dataclasses.fields(values)
        if getattr(values, field.name) != field.default
    ]
    return "settings: " + (" ".join(changed) or "all at their defaults")
