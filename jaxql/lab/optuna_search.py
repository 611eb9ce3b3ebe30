"""Optuna's ask and tell, as a search of a sweep.

Nothing is stored but the runs: the samplers have fixed seeds, so a sweep that is called again asks for the same
trials, whose runs are there.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxql.lab.engines import load
from jaxql.lab.ranges import Range
from jaxql.lab.sweep import Cell, SweepSpec, for_agent, make_cell, points


class OptunaSearch:
    """A study for each agent, env and combination of the grid, which maximises the mean score.

    Raises:
      UserError: Optuna is not installed.
    """

    def __init__(self, spec: SweepSpec):
        self._spec, self._optuna = spec, load("optuna", "--optuna", "optuna")
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._points = list(points(spec))
        sampler = self._optuna.samplers.TPESampler
        self._studies = [
            self._optuna.create_study(direction="maximize", sampler=sampler(seed=spec.seed + i))
            for i in range(len(self._points))
        ]
        self._asked: dict[str, tuple[Any, Any]] = {}  # study and trial, by the name of the cell
        self._count = 0  # trials of each study

    def ask(self) -> list[Cell]:
        """Returns the cells of the next batch of trials of every study; none after the last."""
        self._asked = {}
        cells, batch = [], range(self._count, min(self._count + self._spec.batch, self._spec.optuna))
        for (agent, env, choice), study in zip(self._points, self._studies, strict=True):
            for number in batch:
                trial, ranges = study.ask(), for_agent(self._spec.ranges, agent)
                drawn = {name: _suggested(trial, name, each) for name, each in ranges.items()}
                cells.append(make_cell(self._spec, agent, env, {**choice, **drawn}, f"trial{number}"))
                self._asked[cells[-1].name] = study, trial
        self._count += len(batch)
        return cells

    def tell(self, scores: Mapping[str, float]) -> None:
        """Tells the studies the scores of their trials; a cell without one has failed."""
        for name, (study, trial) in self._asked.items():
            score = scores.get(name, math.nan)
            if math.isfinite(score):
                study.tell(trial, score)
            else:
                study.tell(trial, state=self._optuna.trial.TrialState.FAIL)


def _suggested(trial: Any, name: str, values: Range) -> Any:
    """Returns the trial's value."""
    if values.choices:
        return values.choices[trial.suggest_int(f"{name} (number)", 0, len(values.choices) - 1)]
    suggest = trial.suggest_int if values.whole else trial.suggest_float
    return suggest(name, values.low, values.high, log=values.log)
