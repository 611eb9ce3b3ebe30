"""`jaxql plot RUN ...`: draws learning curves, performance profiles or interval bars."""

import dataclasses
import sys
from typing import Literal

from jaxql.cli.options import parse_words
from jaxql.errors import UserError

SYNTAX = "plot RUN ..."
SUMMARY = "draw learning curves, performance profiles or interval bars (.png, .svg, .pdf)"


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws runs in groups with 95 % bootstrap bands; a RUN may be a folder of run folders."""

    kind: Literal["curves", "profiles", "intervals"] = "curves"  # what to draw
    out: str | None = None  # the picture: .png, .svg or .pdf; without it KIND.png
    by: "tuple[str, ...]" = ()  # agent, or a setting, whose values make the groups (default: whatever differs)
    where: "tuple[str, ...]" = ()  # KEY=VALUE: only runs with this agent, env, seed or setting
    x: Literal["env_steps", "updates", "minutes"] = "env_steps"  # horizontal axis of curves
    metric: str | None = None  # column of metrics.csv, for curves; without it the return of evaluations
    score: Literal["final", "best", "auc"] = "final"  # for profiles and intervals; see jaxql compare --help
    scale: Literal["auto", "raw", "human", "minmax"] = "auto"  # for profiles and intervals


def run(argv: list[str]) -> int:
    """Draws, prints what was written, and returns the exit code."""
    folders, given = parse_words(Options, argv, "plot", "RUN ...")
    if given.kind != "curves" and given.metric is not None:
        raise UserError(f"--metric is of curves; {given.kind} draw scores: choose with --score")
    from jaxql.lab import plots
    from jaxql.lab.collect import chosen_runs, grouped
    from jaxql.lab.compare import SCALES, compare

    path = given.out or f"{given.kind}.png"
    plots.check_plotting(path)
    runs, notes = chosen_runs(folders, given.where)
    groups = grouped(runs, given.by)
    if given.kind == "curves":
        figure = plots.draw_curves(groups, given.x, given.metric)
    else:
        comparison = compare(groups, given.score, given.scale)
        notes += comparison.notes
        label = f"{given.score} return{SCALES[comparison.scale]}"
        draw = plots.draw_profiles if given.kind == "profiles" else plots.draw_intervals
        figure = draw(comparison, label)
    plots.save_figure(figure, path)
    for note in notes:
        print(f"jaxql: {note}", file=sys.stderr)
    print(f"{path}: {given.kind} of {len(runs)} runs in {len(groups)} groups")
    return 0
