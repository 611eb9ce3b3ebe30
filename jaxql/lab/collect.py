"""Run folders read without jax: which there are, what they say, which settings differ, which a condition keeps."""

import ast
import dataclasses
import datetime
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxql.errors import UserError, nearest
from jaxql.lab.tables import read_table

NUMBERS = {"env_steps", "episodes", "return_mean", "eval_return", "updates", "seconds"}  # columns that hold no text
IDENTITY = ("agent", "env", "seed", "preset", "init_from", "network")  # of config.json, beside settings and env_args


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The record of a run, finished or not. None and NaN are what is not known."""

    folder: Path
    identity: dict[str, Any]  # agent, env, seed, preset, init_from, network
    env_args: dict[str, Any]
    settings: dict[str, Any]  # of the agent and of the run
    commit: str | None
    began: datetime.datetime  # local time
    env_steps: int | None
    best_score: float | None  # mean return of the best checkpoint
    solved: bool | None  # None where no return counts as solved
    finished: bool | None  # whether the run came to its own end, rather than being interrupted
    metrics: dict[str, np.ndarray]  # the columns of metrics.csv
    seconds: np.ndarray  # since the start, at each row of metrics.csv; NaN where not known

    @property
    def agent(self) -> str:
        """The name of the agent."""
        return self.identity["agent"]

    @property
    def seed(self) -> int | None:
        """The seed."""
        return self.identity["seed"]

    @property
    def env(self) -> str:
        """The id of the env and its arguments, as in `FrozenLake-v1 is_slippery=False`."""
        return " ".join([self.identity["env"], *(f"{key}={show(value)}" for key, value in self.env_args.items())])

    @property
    def facts(self) -> dict[str, Any]:
        """The values that conditions and groupings may name: identity, settings, env arguments, solved, finished."""
        return {"solved": self.solved, "finished": self.finished} | self.env_args | self.settings | self.identity

    @property
    def ending(self) -> Literal["early", "full", "open"]:
        """How the run ended: early, as a solved run does; after its full env steps; or open, for it was interrupted."""
        if not self.finished:
            return "open"
        return "early" if (self.env_steps or 0) < _number(self.settings, "steps") else "full"

    def curve(self, column: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows of metrics.csv that have a value in a column, [T], and the values, [T].

        Without a column it is `eval_return`, or `return_mean` for a run without evaluations.
        """
        names = [column] if column else ["eval_return", "return_mean"]
        for name in names:
            values = self.metrics.get(name, np.zeros(0))
            rows = np.flatnonzero(np.isfinite(values))
            if rows.size:
                break
        return rows, values[rows]


def find_runs(folders: Iterable[str | os.PathLike]) -> tuple[list[RunRecord], list[str]]:
    """Returns the runs in and below the folders, each once, and a line on each folder that could not be read.

    Raises:
      UserError: a folder does not exist.
    """
    runs: dict[Path, RunRecord] = {}
    damaged: dict[Path, str] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"no folder {folder}; give a run folder, or a folder that holds run folders")
        for path in _run_folders(Path(folder), damaged):
            key = path.resolve()
            if key not in runs and key not in damaged:
                try:
                    runs[key] = read_run(path)
                except UserError as error:
                    damaged[key] = f"left out: {error}"
    return list(runs.values()), list(damaged.values())


def read_run(folder: str | os.PathLike) -> RunRecord:
    """Returns the record of the run in a folder.

    Raises:
      UserError: the folder holds no run, or a file of it is damaged.
    """
    folder = Path(folder)
    content = _read_json(folder / "config.json")
    config = content.get("config")
    if not isinstance(config, dict) or not all(isinstance(config.get(name), str) for name in ("agent", "env")):
        raise UserError(f"{folder / 'config.json'} names no agent and env: it is not of a run")
    env_args, settings = (_dict(config.get(name)) for name in ("env_args", "settings"))
    metrics, timing = _table(folder / "metrics.csv"), _table(folder / "timing.csv", optional=True)
    result = _read_json(folder / "result.json", optional=True)
    best, last = (
        _dict(_read_json(folder / "checkpoints" / name, optional=True).get("metadata"))
        for name in ("best.json", "last.json")
    )
    known = [_number(each, "env_steps") for each in (result, best, last)] + list(metrics.get("env_steps", ())[-1:])
    env_steps = max((int(steps) for steps in known if math.isfinite(steps)), default=None)
    goal = _number(settings, "solved_at")
    solved = _truth(result, "solved", _solved(settings, metrics)) if math.isfinite(goal) else None
    score = next((x for x in (_number(result, "best_score"), _number(best, "score")) if math.isfinite(x)), None)
    return RunRecord(
        folder,
        {name: config.get(name) for name in IDENTITY},
        env_args,
        settings,
        commit=_dict(content.get("git")).get("commit"),
        began=_began(content, folder / "config.json"),
        env_steps=env_steps,
        best_score=_highest(metrics) if score is None else score,
        solved=solved,
        finished=_truth(result, "finished", _finished(settings, env_steps, solved)),
        metrics=metrics,
        seconds=_seconds(metrics, timing),
    )


def chosen_runs(
    folders: Iterable[str | os.PathLike], conditions: Iterable[str] = ()
) -> tuple[list[RunRecord], list[str]]:
    """Returns the runs in and below the folders that meet the conditions, and a line on each that was left out.

    A copy of another run is left out. A copy has the settings, seed and metrics of another run.

    Raises:
      UserError: there is no such run, or as `find_runs` and `select`.
    """
    found, notes = find_runs(folders)
    kept: list[RunRecord] = []
    for run in select(found, conditions):
        twin = next((other for other in kept if _same(run, other)), None)
        if twin is None:
            kept.append(run)
        else:
            notes.append(f"left out: {run.folder} repeats {twin.folder} (same settings, seed and metrics)")
    if not kept:
        where = ", ".join(map(str, folders))
        raise UserError(f"none of {len(found)} runs in {where} meets the conditions" if found else f"no run in {where}")
    return kept, notes


def select(runs: Sequence[RunRecord], conditions: Iterable[str]) -> list[RunRecord]:
    """Returns the runs that meet the conditions.

    Args:
      runs: to choose from.
      conditions: words KEY=VALUE; a KEY is one of `RunRecord.facts`. Several conditions on one key are alternatives;
        those on different keys must all hold. Numbers are compared as numbers.

    Raises:
      UserError: a condition is not KEY=VALUE, or no run has such a key.
    """
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise UserError(f'"{condition}" is not KEY=VALUE, as in agent=dqn or learning_rate=3e-4')
        if runs:
            check_key(runs, key)
        wanted.setdefault(key, []).append(value.strip())
    return [run for run in runs if all(_meets(run.facts, key, values) for key, values in wanted.items())]


def check_key(runs: Sequence[RunRecord], key: str) -> None:
    """Raises UserError, with the nearest name, if no run has such a setting or fact."""
    keys = sorted({name for run in runs for name in run.facts})
    if key not in keys:
        raise UserError(f'no run has a setting "{key}"{nearest(key, keys)}; there are {", ".join(keys)}')


def differences(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Returns, by agent, the settings in which runs of one agent on one env differ."""
    ignored = {"agent", "env", "seed", "preset", "solved", "finished"}
    found: dict[str, list[str]] = {run.agent: [] for run in runs}
    seen: dict[tuple[str, str, str], Any] = {}
    for run in runs:
        for key, value in run.facts.items():
            first = seen.setdefault((run.agent, run.env, key), value)
            if key not in ignored | run.env_args.keys() and show(first) != show(value) and key not in found[run.agent]:
                found[run.agent].append(key)
    return found


def grouped(runs: Sequence[RunRecord], by: Sequence[str] = ()) -> dict[str, list[RunRecord]]:
    """Returns the runs in groups by label, as in `dqn n_step=3`, in the order of the values.

    Args:
      runs: to group.
      by: keys of `RunRecord.facts` whose values make a group; empty: the agent, and the settings in which runs of the
        same agent on the same env differ.

    Raises:
      UserError: no run has such a key.
    """
    keys = [key.strip().replace("-", "_") for key in by]
    for key in keys:
        check_key(runs, key)
    differ = differences(runs)
    groups: dict[str, list[RunRecord]] = {}
    orders: dict[str, list[tuple[int, float, str]]] = {}
    for run in runs:
        own = keys or ["agent", *differ[run.agent]]
        label = " ".join(_labelled(key, run.facts) for key in own)
        groups.setdefault(label, []).append(run)
        orders[label] = [_order(run.facts.get(key)) for key in own]
    return {label: groups[label] for label in sorted(groups, key=orders.__getitem__)}


def show(value: Any) -> str:
    """Returns a value as a person writes it: `-` for None, 6 digits of a float.

    >>> [show(value) for value in (None, 0.0003, [64, 64], "dqn", True)]
    ['-', '0.0003', '64,64', 'dqn', 'True']
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(show, value)) if isinstance(value, list | tuple) else str(value)


def _run_folders(root: Path, damaged: dict[Path, str]) -> Iterable[Path]:
    """Yields the folders with a config.json in and below `root`, in natural order."""

    def note(error: OSError) -> None:
        path = Path(error.filename)
        damaged[path.resolve()] = f"left out: {path}: {error.strerror}"

    seen = set()
    for folder, below, files in os.walk(root, onerror=note, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
        elif "config.json" in files:
            yield Path(folder)
        seen.add(real)
        below.sort(key=_natural)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Returns a sort key with which seed2 comes before seed10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", name) if part]


def _read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """Returns a JSON object; of an optional file that is not there, an empty one."""
    if optional and not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes(), object_hook=_with_floats)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: not JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: not a JSON object")
    return content


def _with_floats(value: dict[str, Any]) -> Any:
    """Returns an object of JSON, or the float that {"float": "inf"} stands for."""
    return float(value["float"]) if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan") else value


def _began(content: dict[str, Any], path: Path) -> datetime.datetime:
    """Returns the date in config.json, or else that of the file, in local time."""
    try:
        return datetime.datetime.fromisoformat(content["date"]).astimezone()
    except (KeyError, TypeError, ValueError):
        return datetime.datetime.fromtimestamp(path.stat().st_mtime).astimezone()


def _table(path: Path, optional: bool = False) -> dict[str, np.ndarray]:
    """Returns the columns of numbers in a table by env steps. Of an optional file that is not there, none."""
    if optional and not path.exists():
        return {}
    columns = read_table(path)
    for name, column in columns.items():
        if column.dtype.kind != "f" and name in NUMBERS:
            raise UserError(f'{path} is damaged: column "{name}" holds a value that is not a number')
    steps = columns.get("env_steps", np.array([math.nan] if columns else []))
    if not np.all(np.isfinite(steps)) or np.any(np.diff(steps) < 0):
        raise UserError(f'{path} is damaged: column "env_steps" is missing, has gaps or decreases')
    return {name: column for name, column in columns.items() if column.dtype.kind == "f"}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(values: dict[str, Any], name: str) -> float:
    """Returns a number, NaN where there is none."""
    value = values.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _truth(values: dict[str, Any], name: str, otherwise: bool | None) -> bool | None:
    """Returns a boolean, `otherwise` where there is none."""
    value = values.get(name)
    return value if isinstance(value, bool) else otherwise


def _solved(settings: dict[str, Any], metrics: dict[str, np.ndarray]) -> bool:
    """Returns whether a row of metrics.csv meets the run's rule; see `jaxql.lab.recorder`."""
    values = metrics.get("eval_return", np.zeros(0))
    if settings.get("solved_by") == "training":
        values = metrics.get("return_mean", np.zeros(0))
        values = values[metrics.get("episodes", np.zeros(values.shape)) >= 100]
    goal = _number(settings, "solved_at")
    return bool(np.any(values > goal if settings.get("solved_strictly") else values >= goal))


def _finished(settings: dict[str, Any], env_steps: int | None, solved: bool | None) -> bool | None:
    steps = _number(settings, "steps")
    if env_steps is None or math.isnan(steps):
        return None
    return env_steps >= steps or bool(solved and settings.get("stop_when_solved"))


def _highest(metrics: dict[str, np.ndarray]) -> float | None:
    """Returns the highest return of an evaluation, or of training without one."""
    for name in ("eval_return", "return_mean"):
        values = metrics.get(name, np.zeros(0))
        if np.any(np.isfinite(values)):
            return float(np.nanmax(values))
    return None


def _seconds(metrics: dict[str, np.ndarray], timing: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the seconds at each row of metrics.csv, those of processes before a resume included."""
    steps, seconds = metrics.get("env_steps", np.zeros(0)), timing.get("seconds", np.zeros(0))
    if not seconds.size:
        return np.full(steps.shape, math.nan)
    restarts = np.diff(seconds, prepend=seconds[0]) < 0
    before = np.cumsum(np.where(restarts, np.concatenate([[0.0], seconds[:-1]]), 0.0))
    return np.interp(steps, timing["env_steps"], seconds + before, right=math.nan)


def _same(run: RunRecord, other: RunRecord) -> bool:
    return (
        (run.identity, run.env_args, run.settings) == (other.identity, other.env_args, other.settings)
        and run.metrics.keys() == other.metrics.keys()
        and all(np.array_equal(column, other.metrics[name], equal_nan=True) for name, column in run.metrics.items())
    )


def _meets(facts: dict[str, Any], key: str, values: list[str]) -> bool:
    return key in facts and any(_equals(facts[key], value) for value in values)


def _equals(value: Any, text: str) -> bool:
    """Returns whether a value is the one that a person wrote."""
    if value is None or isinstance(value, bool):
        words = {None: ("-", "none", "null", ""), True: ("true", "yes", "1"), False: ("false", "no", "0")}
        return text.lower() in words[value]
    if isinstance(value, int | float):
        return _parsed(float, text) == float(value)
    if isinstance(value, list):
        return text == show(value) or _listed(_parsed(ast.literal_eval, text)) == value
    return str(value) == text


def _parsed(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except (ValueError, SyntaxError):
        return None


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _labelled(key: str, facts: dict[str, Any]) -> str:
    value = show(facts.get(key))
    return value if key in ("agent", "env") else f"{key}={value}"


def _order(value: Any) -> tuple[int, float, str]:
    """Returns a sort key of values of any kind: numbers by size, then text."""
    number = isinstance(value, int | float) and not math.isnan(value)
    return (0, float(value), "") if number else (1, 0.0, show(value))
