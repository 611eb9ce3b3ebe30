"""Comparison of groups of runs: the score of a run, aggregates with intervals, pairs of groups, and tables of them."""

import csv
import dataclasses
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from jaxql.errors import UserError
from jaxql.lab import statistics
from jaxql.lab.collect import RunRecord
from jaxql.lab.human_scores import human_scores

Score = Literal["final", "best", "auc"]
Scale = Literal["auto", "raw", "human", "minmax"]
STATISTICS = {"iqm": "IQM", "median": "median", "mean": "mean", "optimality_gap": "gap"}
SCALES = {"raw": "", "human": ", human-normalised", "minmax": ", 0 the lowest score and 1 the highest"}
PAIR_STATISTICS = {
    "probability_of_improvement": "P(X > Y)",
    "difference": "difference of means",
    "seeds_needed": "seeds needed",
    "seeds_missing": "seeds missing",
}
Statistic = Callable[..., np.ndarray]
ALL_PAIRS = 8  # groups, beyond which only the best is paired with each other
LAST = 0.1  # the part of a run whose evaluations make its final score


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A statistic of a group's runs, or of two groups' runs, with its bootstrap interval."""

    env: str  # "all N envs" of an aggregate over several
    scale: str  # of the scores: raw, human or minmax
    group: str
    versus: str | None  # the second group
    statistic: str
    value: float
    low: float | None  # None where there is no interval
    high: float | None
    runs: int  # of the group


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Estimates, the scores they are of, and what a reader must know of them."""

    estimates: list[Estimate]
    scores: dict[str, np.ndarray]  # of each group on all envs, [runs, envs], NaN where a run is missing
    scale: str  # of `scores`: raw, human or minmax
    scope: str  # the name of all envs together
    notes: list[str]


def score_of(run: RunRecord, score: Score = "final", until: float | None = None) -> float:
    """Returns the score of a run, NaN where it has no return.

    Returns are those of evaluations, or of the last 100 training episodes in a run without evaluations.

    Args:
      run: the record.
      score: one of
        - final: the mean return of the evaluations in the last tenth of the run's env steps;
        - best: the return of the best checkpoint, which is the highest;
        - auc: the mean height of the learning curve on [0, `until`].
      until: env steps, of auc; None: the run's own.
    """
    if score == "best":
        return math.nan if run.best_score is None else run.best_score
    rows, returns = run.curve()
    if not rows.size:
        return math.nan
    steps = run.metrics["env_steps"][rows]
    if score == "auc":
        return statistics.area_under_curve(steps, returns, until or steps[-1])
    return float(returns[steps > (1 - LAST) * steps[-1]].mean())


def compare(
    groups: Mapping[str, Sequence[RunRecord]],
    score: Score = "final",
    scale: Scale = "auto",
    threshold: float | None = None,
    resamples: int = 2_000,
    seed: int = 0,
) -> Comparison:
    """Returns aggregates of every group on every env and on all envs, and comparisons of pairs of groups.

    Of more than ALL_PAIRS groups, the pairs are those of the group with the highest mean.

    Args:
      groups: runs by label.
      score: of a run; see `score_of`.
      scale: human: 0 is a random policy and 1 a human, for Atari; minmax: 0 and 1 are the lowest and the highest score
        of the compared runs on that env; auto: raw scores of single envs, and of several envs together human for
        Atari, else minmax.
      threshold: of the optimality gap; None: 1 for scaled scores, and for raw ones `solved_at` if all runs agree on it.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Raises:
      UserError: no run has a score, or no env is common to all groups, or human scores of an env are not known.
    """
    runs = [run for group in groups.values() for run in group]
    horizons = {env: _horizon([run for run in runs if run.env == env]) for env in {run.env for run in runs}}
    by_env: dict[str, dict[str, list[float]]] = {}
    notes: list[str] = []
    for label, members in groups.items():
        for run in members:
            value = score_of(run, score, horizons[run.env])
            if math.isfinite(value):
                by_env.setdefault(run.env, {}).setdefault(label, []).append(value)
            else:
                notes.append(f"left out: {run.folder} has no {score} score")
            if run.finished is False:
                notes.append(f"{run.folder} has not finished: {run.env_steps} of {run.settings.get('steps')} env steps")
    if not by_env:
        raise UserError("no run has a score yet; train longer, or give other run folders")
    labels = [label for label in groups if any(label in of_env for of_env in by_env.values())]
    envs = [env for env, of_env in by_env.items() if of_env.keys() == set(labels)]
    if not envs:
        raise UserError(
            f"no env has runs of every group ({', '.join(labels)}); give runs on the same env, or choose with --where"
        )
    notes += [f"left out: {env}, on which only {', '.join(by_env[env])} ran" for env in by_env if env not in envs]
    raw = {label: _matrix([by_env[env][label] for env in envs]) for label in labels}
    ids = {env: next(run.identity["env"] for run in runs if run.env == env) for env in envs}
    single, together = _scales(scale, [ids[env] for env in envs])
    goals = {goal for run in runs if run.env in envs and isinstance(goal := run.settings.get("solved_at"), int | float)}
    raw_threshold = goals.pop() if len(goals) == 1 else math.inf

    def estimates(place: slice, chosen: str, name: str) -> list[Estimate]:
        scores = _scaled({label: each[:, place] for label, each in raw.items()}, chosen, [ids[e] for e in envs[place]])
        gap_to = threshold if threshold is not None else (raw_threshold if chosen == "raw" else 1.0)
        return _aggregates(scores, name, chosen, gap_to, resamples, seed)

    found: list[Estimate] = []
    for i, env in enumerate(envs):
        found += estimates(slice(i, i + 1), single, env)
    scope = envs[0] if len(envs) == 1 else f"all {len(envs)} envs"
    if len(envs) > 1:
        found += estimates(slice(None), together, scope)
    scores = _scaled(raw, together, [ids[env] for env in envs])
    found += _pairs(scores, scope, together, resamples, seed)
    if any(estimate.low is None for estimate in found if not estimate.statistic.startswith("seeds")):
        notes.append("no interval where a group has one run on an env: train more seeds")
    return Comparison(found, scores, together, scope, notes)


def to_csv(estimates: Sequence[Estimate]) -> str:
    """Returns estimates as CSV, one a row; an empty cell is not known."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(Estimate)]
    writer.writerow(names)
    for estimate in estimates:
        values = (getattr(estimate, name) for name in names)
        writer.writerow(["" if value is None or value != value else value for value in values])
    return out.getvalue()


def to_latex(estimates: Sequence[Estimate]) -> str:
    r"""Returns the aggregates as a LaTeX table for the package booktabs, a block of rows for each env."""
    names = [name for name in STATISTICS if any(estimate.statistic == name for estimate in estimates)]
    lines = [
        r"\begin{tabular}{lr" + "l" * len(names) + "}",
        r"\toprule",
        " & ".join(["group", "runs", *(STATISTICS[name] for name in names)]) + r" \\",
    ]
    for env, rows in _tabulated(estimates, names, latex=True).items():
        lines += [r"\midrule", rf"\multicolumn{{{len(names) + 2}}}{{l}}{{\textbf{{{_escaped(env)}}}}} \\"]
        lines += [" & ".join([_escaped(group), *cells]) + r" \\" for group, *cells in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_text(estimates: Sequence[Estimate]) -> str:
    """Returns estimates as tables for a terminal: one for each env, and one of the pairs of groups."""
    names = [name for name in STATISTICS if any(estimate.statistic == name for estimate in estimates)]
    header = ["", "runs", *(STATISTICS[name] for name in names)]
    blocks = [f"{env}\n{text_table(header, rows)}" for env, rows in _tabulated(estimates, names).items()]
    pairs: dict[tuple[str, str], dict[str, Estimate]] = {}
    for estimate in estimates:
        if estimate.versus is not None:
            pairs.setdefault((estimate.group, estimate.versus), {})[estimate.statistic] = estimate
    if pairs:
        header = ["X", "Y", *PAIR_STATISTICS.values()]
        rows = [[x, y, *(_cell(of[name]) for name in PAIR_STATISTICS)] for (x, y), of in pairs.items()]
        blocks.append(f"pairs\n{text_table(header, rows)}")
    return "\n\n".join(blocks) + "\n"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns lines of left-aligned columns.

    >>> print(text_table(["a", "b"], [["long", "1"]]))
      a     b
      long  1
    """
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        ("  " + "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True))).rstrip()
        for line in lines
    )


def _horizon(runs: Sequence[RunRecord]) -> int:
    """Returns the env steps of the shortest run that used all of its own, or else of the longest run."""
    full = [run.env_steps or 1 for run in runs if run.ending == "full"]
    return min(full, default=max(run.env_steps or 1 for run in runs))


def _matrix(columns: Sequence[Sequence[float]]) -> np.ndarray:
    """Returns [runs, tasks] with NaN where a task has fewer runs."""
    scores = np.full((max(map(len, columns)), len(columns)), math.nan)
    for task, column in enumerate(columns):
        scores[: len(column), task] = column
    return scores


def _scales(scale: Scale, ids: Sequence[str]) -> tuple[str, str]:
    """Returns the scale of scores on single envs and of scores on all envs together."""
    unknown = [env for env in ids if human_scores(env) is None]
    if scale == "human" and unknown:
        raise UserError(f"no human score of {unknown[0]} is known, only of 57 Atari games; use --scale minmax or raw")
    if scale != "auto":
        return scale, scale
    if len(ids) == 1:
        return "raw", "raw"
    return "raw", "minmax" if unknown else "human"


def _scaled(scores: dict[str, np.ndarray], scale: str, ids: Sequence[str]) -> dict[str, np.ndarray]:
    if scale == "raw":
        return scores
    if scale == "human":
        low, high = np.transpose([human_scores(env) or (math.nan, math.nan) for env in ids])
    else:
        every = np.concatenate(list(scores.values()))
        low, high = np.nanmin(every, axis=0), np.nanmax(every, axis=0)
    return {label: statistics.normalise(each, low, high) for label, each in scores.items()}


def _aggregates(
    scores: dict[str, np.ndarray], env: str, scale: str, threshold: float, resamples: int, seed: int
) -> list[Estimate]:
    functions: dict[str, Statistic] = {"iqm": statistics.iqm, "median": statistics.median, "mean": statistics.mean}
    if math.isfinite(threshold):
        functions["optimality_gap"] = lambda each: statistics.optimality_gap(each, threshold)
    return [
        Estimate(env, scale, label, None, *estimate, _runs(matrix))
        for label, matrix in scores.items()
        for estimate in _estimated(functions, matrix, resamples=resamples, seed=seed)
    ]


def _pairs(scores: dict[str, np.ndarray], env: str, scale: str, resamples: int, seed: int) -> list[Estimate]:
    """Returns the comparisons of pairs of groups, the one with the higher mean first."""
    functions: dict[str, Statistic] = {
        "probability_of_improvement": statistics.probability_of_improvement,
        "difference": lambda x, y: statistics.mean(x) - statistics.mean(y),
    }
    ordered = sorted(scores, key=lambda label: -float(statistics.mean(scores[label])))
    found = []
    for first, second in itertools.combinations(ordered, 2):
        if len(ordered) > ALL_PAIRS and first != ordered[0]:
            break
        x, y = scores[first], scores[second]
        rows = _estimated(functions, x, y, resamples=resamples, seed=seed)
        needed, have = statistics.seeds_needed(x, y), min(_fewest(x), _fewest(y))
        rows += [("seeds_needed", needed, None, None), ("seeds_missing", needed - min(have, needed), None, None)]
        found += [Estimate(env, scale, first, second, *row, _runs(x)) for row in rows]
    return found


def _estimated(
    functions: Mapping[str, Statistic], *scores: np.ndarray, resamples: int, seed: int
) -> list[tuple[str, float, float | None, float | None]]:
    """Returns (name, value, low, high) of each function; no interval where a task has one run."""

    def stacked(*each: np.ndarray) -> np.ndarray:
        return np.stack([function(*each) for function in functions.values()], axis=-1)

    values = stacked(*scores).tolist()
    if min(map(_fewest, scores)) < 2:
        return [(name, value, None, None) for name, value in zip(functions, values, strict=True)]
    low, high = statistics.bootstrap_interval(stacked, *scores, resamples=resamples, seed=seed)
    return list(zip(functions, values, low.tolist(), high.tolist(), strict=True))


def _fewest(scores: np.ndarray) -> int:
    """Returns the number of runs of the task that has fewest."""
    return int(np.sum(~np.isnan(scores), axis=0).min())


def _runs(scores: np.ndarray) -> int:
    return int(np.sum(~np.isnan(scores)))


def _tabulated(estimates: Sequence[Estimate], names: Sequence[str], latex: bool = False) -> dict[str, list[list[str]]]:
    """Returns, by title, rows of group, number of runs and a cell for each statistic."""
    tables: dict[str, dict[str, dict[str, Estimate]]] = {}
    for estimate in estimates:
        if estimate.versus is None:
            title = estimate.env + SCALES[estimate.scale]
            of_group = tables.setdefault(title, {}).setdefault(estimate.group, {})
            of_group[estimate.statistic] = estimate
    return {
        env: [
            [group, str(of["iqm"].runs), *(_cell(of[name], latex) if name in of else "-" for name in names)]
            for group, of in groups.items()
        ]
        for env, groups in tables.items()
    }


def _cell(estimate: Estimate, latex: bool = False) -> str:
    if not math.isfinite(estimate.value):
        return "-"
    value = f"{estimate.value:.4g}"
    if estimate.low is None or estimate.high is None:
        return value
    interval = f"[{estimate.low:.4g}, {estimate.high:.4g}]"
    return rf"{value} {{\small {interval}}}" if latex else f"{value} {interval}"


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text
