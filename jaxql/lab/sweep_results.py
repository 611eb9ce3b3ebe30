"""The results of a sweep: one table with a row for each cell, the best first."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxql.errors import UserError
from jaxql.lab.collect import RunRecord, read_run, show
from jaxql.lab.compare import compare, score_of, text_table
from jaxql.lab.disk import write_file
from jaxql.lab.files import read_result
from jaxql.lab.sweep import Cell, SweepSpec, jobs_of, text_of

NUMBERS = (
    "mean",
    "mean_low",
    "mean_high",
    "iqm",
    "iqm_low",
    "iqm_high",
    "best",
    "env_steps",
    "solved",
    "runs",
    "seeds",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A cell and the statistics of its finished runs."""

    cell: Cell
    numbers: Mapping[str, Any]  # by the names in NUMBERS; None is not known
    scores: Mapping[int, float]  # by seed


@dataclasses.dataclass(frozen=True)
class Results:
    """The rows of a sweep's table, by env and then the mean score, the highest first."""

    rows: Sequence[Row]
    settings: Sequence[str]  # those that were chosen, which are columns

    def columns(self) -> list[str]:
        """Returns the names of the columns."""
        return ["env", "agent", *self.settings, *NUMBERS]

    def cells(self, row: Row) -> list[Any]:
        """Returns the values of a row in the order of the columns."""
        chosen = [row.cell.chosen.get(name) for name in self.settings]
        return [row.cell.env, row.cell.agent, *chosen, *(row.numbers[name] for name in NUMBERS)]

    def to_csv(self) -> str:
        """Returns the table as CSV; an empty cell is not known."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns())
        for row in self.rows:
            writer.writerow(["" if value is None else text_of(value) for value in self.cells(row)])
        return out.getvalue()

    def to_json(self) -> str:
        """Returns the table as a JSON array of objects, with the score of each seed and the folder of each cell."""
        objects = [
            {
                **{name: _plain(value) for name, value in zip(self.columns(), self.cells(row), strict=True)},
                "settings": {name: _plain(value) for name, value in row.cell.settings.items()},
                "scores": {str(seed): _plain(score) for seed, score in row.scores.items()},
                "folder": f"cells/{row.cell.name}",
            }
            for row in self.rows
        ]
        return json.dumps(objects, indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Returns the table for people, in Markdown."""
        header, rows = self._for_people()
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines) + "\n"

    def to_text(self) -> str:
        """Returns the table for a terminal."""
        return text_table(*self._for_people())

    def write(self, folder: Path) -> None:
        """Writes results.csv, results.json and results.md. Raises UserError if that fails."""
        for name, text in (("csv", self.to_csv()), ("json", self.to_json()), ("md", self.to_markdown())):
            try:
                write_file(folder / f"results.{name}", text.encode())
            except OSError as error:
                raise UserError(f"cannot write {folder / f'results.{name}'}: {error.strerror or error}") from error

    def _for_people(self) -> tuple[list[str], list[list[str]]]:
        rows = []
        for row in self.rows:
            numbers = row.numbers
            chosen = [show(row.cell.chosen.get(name)) for name in self.settings]
            intervals = [_interval(numbers, name) for name in ("mean", "iqm")]
            solved = "-" if numbers["solved"] is None else f"{numbers['solved']:g}"
            rest = [
                _short(numbers["best"]),
                solved,
                _short(numbers["env_steps"]),
                f"{numbers['runs']}/{numbers['seeds']}",
            ]
            rows.append([row.cell.env, row.cell.agent, *chosen, *intervals, *rest])
        return ["env", "agent", *self.settings, "mean", "IQM", "best", "solved", "env steps", "runs"], rows


def results_of(spec: SweepSpec, folder: Path, cells: Sequence[Cell]) -> Results:
    """Returns the results of the finished runs of these cells. No number depends on a clock.

    Raises:
      UserError: a run folder cannot be read.
    """
    runs = {cell.name: finished_runs(spec, folder, cell) for cell in cells}
    found: list[Row] = []
    for env in dict.fromkeys(cell.env for cell in cells):
        here = [cell for cell in cells if cell.env == env]
        scored = {cell.name: [run for run in runs[cell.name] if _has_score(spec, run)] for cell in here}
        groups = {name: members for name, members in scored.items() if members}
        numbers: dict[str, dict[str, Any]] = {cell.name: {} for cell in here}
        scores: dict[str, dict[int, float]] = {cell.name: {} for cell in here}
        if groups:
            compared = compare(groups, spec.score, "raw")
            for estimate in compared.estimates:
                if estimate.versus is None:
                    low, high = f"{estimate.statistic}_low", f"{estimate.statistic}_high"
                    numbers[estimate.group] |= {
                        estimate.statistic: estimate.value,
                        low: estimate.low,
                        high: estimate.high,
                    }
            for name, members in groups.items():
                values = compared.scores[name][:, 0].tolist()
                scores[name] = {run.seed or 0: value for run, value in zip(members, values, strict=False)}
        rows = [
            Row(cell, dict.fromkeys(NUMBERS) | numbers[cell.name] | _counts(spec, runs[cell.name]), scores[cell.name])
            for cell in here
        ]
        found += sorted(rows, key=lambda row: math.inf if row.numbers["mean"] is None else -row.numbers["mean"])
    names = dict.fromkeys(name for cell in cells for name in cell.chosen)
    return Results(found, list(names))


def mean_scores(spec: SweepSpec, folder: Path, cells: Sequence[Cell]) -> dict[str, float]:
    """Returns the mean score of the finished runs of each cell, by its name; NaN where there is none."""
    found = {}
    for cell in cells:
        scores = [score_of(run, spec.score) for run in finished_runs(spec, folder, cell) if _has_score(spec, run)]
        found[cell.name] = float(np.mean(scores)) if scores else math.nan
    return found


def finished_runs(spec: SweepSpec, folder: Path, cell: Cell) -> list[RunRecord]:
    """Returns the finished runs of a cell, by seed."""
    folders = [each for job in jobs_of(spec, cell, folder, 1) for each in job.run_folders()]
    return [read_run(each) for each in folders if read_result(each) is not None]


def _has_score(spec: SweepSpec, run: RunRecord) -> bool:
    return math.isfinite(score_of(run, spec.score))


def _counts(spec: SweepSpec, runs: Sequence[RunRecord]) -> dict[str, float | None]:
    """Returns the numbers that need no bootstrap."""
    best = [run.best_score for run in runs if run.best_score is not None]
    solved = [run.solved for run in runs if run.solved is not None]
    return {
        "best": max(best, default=None),
        "env_steps": float(np.median([run.env_steps or 0 for run in runs])) if runs else None,
        "solved": sum(solved) if solved else None,
        "runs": len(runs),
        "seeds": spec.seeds,
    }


def _interval(numbers: Mapping[str, float | None], name: str) -> str:
    value, low, high = numbers[name], numbers[f"{name}_low"], numbers[f"{name}_high"]
    return _short(value) + ("" if low is None or high is None else f" [{_short(low)}, {_short(high)}]")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def _plain(value: Any) -> Any:
    """Returns a value that strict JSON can hold: an infinity is text."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
