"""`jaxql compare RUN ...`: statistics of groups of runs."""

import dataclasses
import sys
from typing import Literal

from jaxql.cli.options import parse_words, require_at_least
from jaxql.errors import UserError

SYNTAX = "compare RUN ..."
SUMMARY = "compare groups of runs: IQM, mean, median, intervals, how many more seeds a difference needs"


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares groups of runs with 95 % stratified bootstrap intervals; a RUN may be a folder of run folders."""

    by: "tuple[str, ...]" = ()  # agent, or a setting, whose values make the groups (default: whatever differs)
    where: "tuple[str, ...]" = ()  # KEY=VALUE: only runs with this agent, env, seed or setting
    score: Literal["final", "best", "auc"] = (
        "final"  # evaluations of the last tenth, best checkpoint, or mean of the curve
    )
    scale: Literal["auto", "raw", "human", "minmax"] = "auto"  # auto: raw for one env, else human for Atari or minmax
    threshold: float | None = None  # score that counts as optimal in the optimality gap
    resamples: int = 2_000  # number of bootstrap resamples
    seed: int = 0  # seed of the bootstrap
    out: "tuple[str, ...]" = ()  # also write the tables to this file: .csv or .tex


def run(argv: list[str]) -> int:
    """Prints the comparison and returns the exit code."""
    folders, given = parse_words(Options, argv, "compare", "RUN ...")
    require_at_least(1, resamples=given.resamples)
    require_at_least(0, seed=given.seed)
    for name in given.out:
        if not name.endswith((".csv", ".tex")):
            raise UserError(f"--out {name}: a table's name ends in .csv or .tex")
    from jaxql.lab.collect import chosen_runs, grouped
    from jaxql.lab.compare import compare, to_csv, to_latex, to_text

    runs, notes = chosen_runs(folders, given.where)
    result = compare(grouped(runs, given.by), given.score, given.scale, given.threshold, given.resamples, given.seed)
    for name in given.out:
        text = to_csv(result.estimates) if name.endswith(".csv") else to_latex(result.estimates)
        try:
            with open(name, "w", encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"cannot write {name}: {error.strerror or error}") from error
    for note in notes + result.notes:
        print(f"jaxql: {note}", file=sys.stderr)
    print(f"{given.score} return of a run, [95 % stratified bootstrap interval, {given.resamples} resamples]\n")
    print(to_text(result.estimates), end="")
    return 0
