"""Pictures of runs: learning curves, performance profiles, interval bars; drawn by matplotlib, an optional extra."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxql.errors import UserError, nearest
from jaxql.lab import statistics
from jaxql.lab.collect import RunRecord
from jaxql.lab.compare import STATISTICS, Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe and Ito, colour-blind safe
DASHES = ("-", "--", ":", "-.")
X_LABELS = {"env_steps": "env steps", "updates": "updates", "minutes": "minutes"}
LONG_LEGEND = 6  # lines, beyond which it stands beside the panel
POINTS = 200  # of a curve
STYLE: Any = {"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "jaxql", "font.size": 10}


def check_plotting(path: str | os.PathLike) -> None:
    """Raises UserError if a picture cannot be written to `path`, or matplotlib is not installed."""
    if Path(path).suffix.lower() not in FORMATS:
        raise UserError(f"--out {path}: a picture's name ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if not Path(path).absolute().parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {Path(path).parent}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError('plots need matplotlib: pip install "jaxql[plot]", or pip install matplotlib') from error


def draw_curves(
    groups: Mapping[str, Sequence[RunRecord]],
    x: Literal["env_steps", "updates", "minutes"] = "env_steps",
    metric: str | None = None,
    resamples: int = 1_000,
) -> Figure:
    """Returns a figure of learning curves: a panel an env, a line a group.

    A line is the interquartile mean over runs at each x; the band is the pointwise 95 % bootstrap interval. A run is
    linear between its points. The line starts where every run has a value, and ends with the first run that used all
    its env steps. A run that ended early, as a solved one does, keeps its last value; an interrupted one drops out.

    Args:
      groups: runs by label.
      x: the horizontal axis.
      metric: a column of metrics.csv; None: the return of evaluations, or of training in runs without evaluations.
      resamples: of the bootstrap.

    Raises:
      UserError: no run has such a column, or no run has the values.
    """
    columns = sorted({name for runs in groups.values() for run in runs for name in run.metrics})
    if metric is not None and metric not in columns:
        raise UserError(f'no run has a column "{metric}"{nearest(metric, columns)}; there are {", ".join(columns)}')
    by_env: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray, str]]]] = {}
    for label, runs in groups.items():
        for run in runs:
            places, values = _curve(run, x, metric)
            if places.size:
                lines = by_env.setdefault(run.env, {}).setdefault(label, [])
                lines.append((places, values, run.ending))
    if not by_env:
        raise UserError(f"no run has values of {metric or 'returns'} by {X_LABELS[x]} yet; train longer")
    styles = _styles(list(groups))
    figure, panels = _figure(len(by_env))
    for panel, (env, lines_of) in zip(panels, by_env.items(), strict=True):
        for label, lines in lines_of.items():
            grid, middle, low, high = _band(lines, resamples)
            colour, dash = styles[label]
            name = f"{label} ({len(lines)} run{'s' if len(lines) > 1 else ''})"
            marker = "o" if len(grid) == 1 else None
            panel.plot(grid, middle, color=colour, linestyle=dash, label=name, marker=marker)
            if len(lines) > 1:
                panel.fill_between(grid, low, high, color=colour, alpha=0.2, linewidth=0)
        panel.set(title=env, xlabel=X_LABELS[x], ylabel=(metric or "mean return").replace("_", " "))
        panel.grid(alpha=0.3)
    _legend(panels)
    return figure


def draw_profiles(comparison: Comparison, label: str, resamples: int = 1_000) -> Figure:
    """Returns a figure of performance profiles: the fraction of runs above each score, with 95 % bootstrap bands.

    Args:
      comparison: whose scores.
      label: the name of a score.
      resamples: of the bootstrap.
    """
    every = np.concatenate([each.ravel() for each in comparison.scores.values()])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    margin = 0.02 * (high - low) or 1.0
    thresholds = np.linspace(low - margin, high + margin, POINTS)
    styles = _styles(list(comparison.scores))
    figure, (panel,) = _figure(1)
    for name, scores in comparison.scores.items():
        colour, dash = styles[name]
        profile = statistics.performance_profile(scores, thresholds)
        panel.step(thresholds, profile, where="post", color=colour, linestyle=dash, label=name)
        if np.sum(~np.isnan(scores), axis=0).min() > 1:
            ends = statistics.bootstrap_interval(
                lambda each: statistics.performance_profile(each, thresholds), scores, resamples=resamples
            )
            panel.fill_between(thresholds, *ends, step="post", color=colour, alpha=0.2, linewidth=0)
    panel.set(
        title=comparison.scope, xlabel=f"{label} (t)", ylabel="fraction of runs with score > t", ylim=(-0.02, 1.02)
    )
    panel.grid(alpha=0.3)
    _legend([panel])
    return figure


def draw_intervals(comparison: Comparison, label: str) -> Figure:
    """Returns a figure of interval bars: a panel a statistic, a bar from low to high for each group, a line its value.

    Args:
      comparison: whose estimates on all envs together.
      label: the name of a score.
    """
    rows = [each for each in comparison.estimates if each.env == comparison.scope and each.versus is None]
    names = [name for name in STATISTICS if any(each.statistic == name for each in rows)]
    groups = list(comparison.scores)
    styles = _styles(groups)
    height = 1.2 + 0.35 * len(groups)
    figure, panels = _figure(len(names), columns=len(names), size=(3.0, height), sharey=True)
    for panel, name in zip(panels, names, strict=True):
        for estimate in (each for each in rows if each.statistic == name):
            place, colour = groups.index(estimate.group), styles[estimate.group][0]
            if estimate.low is not None and estimate.high is not None:
                panel.barh(place, estimate.high - estimate.low, left=estimate.low, height=0.6, color=colour, alpha=0.5)
            panel.plot([estimate.value] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1.5)
        title = "gap (lower is better)" if name == "optimality_gap" else STATISTICS[name]
        panel.set(title=title, yticks=range(len(groups)), yticklabels=groups, ylim=(len(groups) - 0.5, -0.5))
        panel.grid(axis="x", alpha=0.3)
        panel.use_sticky_edges = False
        panel.margins(x=0.1)
        panel.locator_params(axis="x", nbins=4)
    figure.supxlabel(f"{label}, {comparison.scope}", fontsize=10)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure as .png, .svg or .pdf; the same figure gives the same bytes. Raises UserError if it cannot."""
    import matplotlib

    metadata = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[Path(path).suffix.lower()]
    try:
        with matplotlib.rc_context(STYLE):
            figure.savefig(path, dpi=150, metadata=metadata)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _curve(run: RunRecord, x: str, metric: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the x and y of a run where both are known."""
    rows, values = run.curve(metric)
    unknown = np.full(run.seconds.shape, np.nan)
    places = (run.seconds / 60 if x == "minutes" else run.metrics.get(x, unknown))[rows]
    known = np.isfinite(places)
    return places[known], values[known]


def _band(
    lines: Sequence[tuple[np.ndarray, np.ndarray, str]], resamples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns x, the interquartile mean, and the ends of its bootstrap interval, [T] each."""
    start, longest = max(x[0] for x, _, _ in lines), max(x[-1] for x, _, _ in lines)
    end = min((x[-1] for x, _, ending in lines if ending == "full"), default=longest)
    grid = np.linspace(start, end, POINTS if end > start else 1)
    runs = np.stack([np.interp(grid, x, y, right=y[-1] if ending == "early" else np.nan) for x, y, ending in lines])
    patterns, pattern_of = np.unique(~np.isnan(runs), axis=1, return_inverse=True)
    low, high = np.empty_like(grid), np.empty_like(grid)
    for i, present in enumerate(patterns.T):  # a resample draws whole runs, among those that go on
        places = pattern_of == i
        values = runs[present][:, places]

        def resampled(draws: np.ndarray, values: np.ndarray = values) -> np.ndarray:
            return _pointwise_iqm(values[draws[..., 0].astype(int)])

        low[places], high[places] = statistics.bootstrap_interval(
            resampled, np.arange(len(values))[:, None], resamples=resamples
        )
    return grid, _pointwise_iqm(runs), low, high


def _pointwise_iqm(runs: np.ndarray) -> np.ndarray:
    """Returns [..., T] of [..., runs, T]."""
    return statistics.iqm(np.swapaxes(runs, -1, -2)[..., None])


def _styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Returns a colour and a line style for each label, all different for up to 28."""
    count = len(COLOURS)
    return {label: (COLOURS[i % count], DASHES[i // count % len(DASHES)]) for i, label in enumerate(labels)}


def _legend(panels: Sequence[Axes]) -> None:
    """Draws the legend of each panel inside it, beside them where it is long."""
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        if len(labels) > LONG_LEGEND:
            panel.legend(handles, labels, frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        else:
            panel.legend(frameon=False, fontsize=8)


def _figure(
    count: int, columns: int | None = None, size: tuple[float, float] = (5.0, 3.5), **options: Any
) -> tuple[Figure, list[Axes]]:
    """Returns a figure of `count` panels in rows of `columns`; by default at most three."""
    import matplotlib
    from matplotlib.figure import Figure

    columns = columns or (2 if count == 4 else min(count, 3))
    rows = -(-count // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        panels = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]
