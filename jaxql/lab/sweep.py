"""Sweeps: every agent on every env with every setting of a grid, or with settings drawn from ranges.

A cell is one agent on one env with one choice of settings. A job trains seeds of a cell, in one program, by a command
that may be called again. The sweep's folder is its only state: the same sweep again trains what is missing.
"""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args

from jaxql.errors import UserError, nearest
from jaxql.lab.compare import Score
from jaxql.lab.disk import write_file
from jaxql.lab.files import as_json, check_free, read_result
from jaxql.lab.ranges import Range

LONGEST_NAME = 150  # letters of a cell's folder
OWN_OPTIONS = ("agent", "env", "env_arg", "out", "preset", "seed", "seeds", "track")


@dataclasses.dataclass(frozen=True)
class SweepSpec:
    """The agents, envs and settings of a sweep. Values are typed: numbers, booleans, strings, tuples of numbers."""

    agents: tuple[str, ...]
    envs: tuple[str, ...]
    seeds: int = 5  # of every cell: seed, seed + 1, ...
    seed: int = 0
    seeds_per_job: int = 0  # seeds that one program trains together; 0: all of a cell
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # the same in every cell
    grid: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)  # all combinations
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)  # that random and optuna draw from
    random: int = 0  # draws from the ranges for every combination
    optuna: int = 0  # trials of Optuna for every combination
    batch: int = 4  # trials that Optuna asks for before it is told their scores
    score: Score = "final"  # see `jaxql.lab.compare.score_of`
    preset: str | None = None
    env_args: tuple[str, ...] = ()  # words KEY=VALUE
    track: str | None = None  # see `jaxql.lab.tracking`

    def __post_init__(self) -> None:
        for name, low in (("seeds", 1), ("seed", 0), ("seeds_per_job", 0), ("random", 0), ("optuna", 0), ("batch", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise UserError(f"{name} is {value!r}; it must be a whole number, at least {low}")
        if not self.agents or not self.envs:
            missing = "agent" if not self.agents else "env"
            raise UserError(
                f"--{missing} is missing: jaxql sweep --agent AGENT ... --env ENV ...; see jaxql sweep --help"
            )
        if self.random and self.optuna:
            raise UserError("random and optuna draw from the same ranges: give one of them")
        if bool(self.ranges) != bool(self.random or self.optuna):
            raise UserError("ranges need the number of draws, --random N or --optuna N, and these need --range")
        for kind, values in (("agent", self.agents), ("env", self.envs)):
            _check_distinct(kind, values)
        for key, choices in self.grid.items():
            _check_distinct(f"grid: {key}", choices)
        if self.score not in get_args(Score):
            raise UserError(f"score is {self.score!r}; it must be one of {', '.join(get_args(Score))}")
        given = [_plain_name(key) for key in (*self.settings, *self.grid, *self.ranges)]
        for owner, name in given:
            if name in OWN_OPTIONS:
                raise UserError(f"{name} is an option of the sweep, not a setting: give --{name.replace('_', '-')}")
            if owner is not None and owner not in self.agents:
                raise UserError(f"{owner}.{name}: {owner} is no agent of this sweep{nearest(owner, self.agents)}")
            if given.count((owner, name)) > 1 or (owner is not None and (None, name) in given):
                raise UserError(f"{name} is given twice: in one of --set, --grid and --range only")

    def record(self) -> dict[str, Any]:
        """Returns the sweep as JSON can hold it."""
        return as_json(dataclasses.asdict(self) | {"ranges": {key: str(each) for key, each in self.ranges.items()}})


@dataclasses.dataclass(frozen=True)
class Cell:
    """One agent on one env with one choice of settings."""

    name: str  # of its folder
    agent: str
    env: str
    settings: Mapping[str, Any]  # all that are given
    chosen: Mapping[str, Any]  # those of the grid and of the ranges


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that trains seeds of a cell, or goes on with them, or finds them finished."""

    name: str
    cell: Cell
    folder: Path  # the run folder, or that of the folders of many seeds
    seeds: range
    command: tuple[str, ...]  # the words behind `jaxql`
    steps: int  # env steps of all its seeds

    def run_folders(self) -> list[Path]:
        """Returns the run folder of each seed."""
        return [self.folder] if len(self.seeds) == 1 else [self.folder / f"seed{seed}" for seed in self.seeds]

    def is_finished(self) -> bool:
        """Returns whether every seed is finished. Raises UserError if a result is damaged."""
        return all(read_result(folder) is not None for folder in self.run_folders())


class Search(Protocol):
    """Chooses the cells of a sweep, in turns."""

    def ask(self) -> list[Cell]:
        """Returns the next cells; none when the search is over."""

    def tell(self, scores: Mapping[str, float]) -> None:
        """Takes the mean score of each cell of the last `ask` by its name; NaN of one that failed."""


class FixedSearch:
    """All cells of the grid, each with all random draws, at once."""

    def __init__(self, spec: SweepSpec):
        self._cells = list(_fixed_cells(spec))

    def ask(self) -> list[Cell]:
        """Returns all cells the first time, none later."""
        cells, self._cells = self._cells, []
        return cells

    def tell(self, scores: Mapping[str, float]) -> None:
        """Does nothing: the cells do not depend on scores."""


def points(spec: SweepSpec) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields (agent, env, choice) of every agent, env and combination of the grid's values for that agent."""
    for agent, env in itertools.product(spec.agents, spec.envs):
        grid = for_agent(spec.grid, agent)
        for choice in itertools.product(*grid.values()):
            yield agent, env, dict(zip(grid, choice, strict=True))


def make_cell(spec: SweepSpec, agent: str, env: str, chosen: Mapping[str, Any], drawn: str = "") -> Cell:
    """Returns a cell; `drawn` stands in its name for the values that were drawn."""
    named = chosen if not drawn else {key: chosen[key] for key in for_agent(spec.grid, agent)}
    words = [agent, env, *(f"{key}={text_of(value)}" for key, value in named.items()), *([drawn] if drawn else [])]
    name = re.sub(r"[^\w.+=,-]+", "-", "-".join(words))
    if name != "-".join(words) or len(name) > LONGEST_NAME:  # two cells never share a folder
        digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
        name = f"{name[: LONGEST_NAME - 9]}-{digest}"
    return Cell(name, agent, env, {**for_agent(spec.settings, agent), **chosen}, dict(chosen))


def jobs_of(spec: SweepSpec, cell: Cell, folder: Path, steps: int) -> list[Job]:
    """Returns the jobs of a cell.

    Args:
      spec: the sweep.
      cell: of it.
      folder: of the sweep.
      steps: env steps of one seed.
    """
    size = spec.seeds_per_job or spec.seeds
    found = []
    for first in range(spec.seed, spec.seed + spec.seeds, size):
        seeds = range(first, min(first + size, spec.seed + spec.seeds))
        where, name = folder / "cells" / cell.name, cell.name
        if spec.seeds > size or spec.seeds == 1:
            part = f"seed{first}" if len(seeds) == 1 else f"seeds{first}-{seeds[-1]}"
            where, name = where / part, f"{name}-{part}"
        found.append(Job(name, cell, where, seeds, command_of(spec, cell, seeds, where), steps * len(seeds)))
    return found


def command_of(spec: SweepSpec, cell: Cell, seeds: range, out: Path) -> tuple[str, ...]:
    """Returns the words behind `jaxql` of a command that trains these seeds of a cell and may be called again."""
    words = ["train", cell.agent, "--env", cell.env, "--seed", str(seeds[0]), "--seeds", str(len(seeds))]
    words += ["--out", str(out), "--resume-or-start"]
    words += ["--preset", spec.preset] if spec.preset else []
    words += ["--track", spec.track] if spec.track else []
    words += [word for pair in spec.env_args for word in ("--env-arg", pair)]
    for name, value in cell.settings.items():
        flag = name[:-1].replace("_", "-") + name[-1]  # a last underscore belongs to the name
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [word for each in value for word in (f"--{flag}", str(each))]
        else:
            words.append(f"--{flag}={value}")
    return tuple(words)


def claim(folder: Path, spec: SweepSpec) -> None:
    """Makes the folder of a sweep, or checks that it holds the same sweep.

    Raises:
      UserError: it holds something else, or cannot be made.
    """
    path, asked = folder / "sweep.json", spec.record()
    if not path.exists():
        check_free(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(path, (json.dumps(asked, indent=2, allow_nan=False) + "\n").encode())
        except OSError as error:
            raise UserError(f"cannot make a sweep in {folder}: {error.strerror or error}") from error
        return
    there = read_spec(folder)
    for name in asked:
        if asked[name] != there.get(name):
            raise UserError(
                f"{name} is {json.dumps(asked[name])}, and the sweep in {folder} has {json.dumps(there.get(name))}: "
                "give the same sweep to go on with it, or another --out"
            )


def read_spec(folder: Path) -> dict[str, Any]:
    """Returns the content of sweep.json. Raises UserError if it is damaged."""
    try:
        content = json.loads((folder / "sweep.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'sweep.json'} is damaged: not JSON: restore it, or choose another --out") from error
    if not isinstance(content, dict):
        raise UserError(f"{folder / 'sweep.json'} is damaged: not a JSON object: choose another --out")
    return content


def default_folder(spec: SweepSpec) -> Path:
    """Returns the folder of a sweep that was given none: the same sweep has the same one."""
    digest = hashlib.sha256(json.dumps(spec.record(), sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.+-]+", "-", "-".join((*spec.agents, *spec.envs)))[:LONGEST_NAME]
    return Path("sweeps") / f"{name}-{digest}"


def for_agent(values: Mapping[str, Any], agent: str) -> dict[str, Any]:
    """Returns the values of an agent by the names of its settings: `n_step`, or `dqn.n_step` of dqn alone.

    >>> for_agent({"n_step": 1, "pqn.lambda_": 0.5}, "dqn")
    {'n_step': 1}
    """
    named = {_plain_name(key): value for key, value in values.items()}
    return {name: value for (owner, name), value in named.items() if owner in (None, agent)}


def text_of(value: Any) -> str:
    """Returns a value as it stands in a name.

    >>> text_of((64, 64)), text_of(1e-3), text_of(True)
    ('64,64', '0.001', 'True')
    """
    return ",".join(map(text_of, value)) if isinstance(value, tuple) else str(value)


def _fixed_cells(spec: SweepSpec) -> Iterator[Cell]:
    for agent, env, choice in points(spec):
        if not spec.random:
            yield make_cell(spec, agent, env, choice)
        ranges = for_agent(spec.ranges, agent)
        for i in range(spec.random):
            draws = {key: each.draw(spec.seed, i, key) for key, each in ranges.items()}
            yield make_cell(spec, agent, env, {**choice, **draws}, f"draw{i}")


def _plain_name(key: str) -> tuple[str | None, str]:
    """Returns (agent or None, setting) of a key."""
    owner, dot, name = key.rpartition(".")
    return (owner if dot else None), name.replace("-", "_")


def _check_distinct(what: str, values: Sequence[Any]) -> None:
    if not values:
        raise UserError(f"{what} has no value; give at least one")
    for value in values:
        if sum(text_of(value) == text_of(other) for other in values) > 1:
            raise UserError(f"{what} has {text_of(value)} twice; give each value once")
