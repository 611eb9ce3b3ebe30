"""`jaxql report RUN ... --out FILE`: writes one HTML page on runs."""

import dataclasses
import sys
from pathlib import Path

from jaxql.cli.options import parse_words
from jaxql.errors import UserError

SYNTAX = "report RUN ..."
SUMMARY = "write one HTML page: curves, statistics, videos, pictures of values, settings, commands"


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes one HTML page that needs no network; a RUN may be a folder of run folders."""

    out: str = "report.html"  # the page
    by: "tuple[str, ...]" = ()  # agent, or a setting, whose values make the groups (default: whatever differs)
    where: "tuple[str, ...]" = ()  # KEY=VALUE: only runs with this agent, env, seed or setting
    video: bool = True  # play an episode of the best run of each group
    trust: bool = False  # import the installed modules that the runs name; for runs that you did not make here


def run(argv: list[str]) -> int:
    """Writes the page, prints its size, and returns the exit code."""
    folders, given = parse_words(Options, argv, "report", "RUN ...")
    path = Path(given.out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {given.out}: a page's name ends in .html")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"--out {given.out}: " + ("it is a folder" if path.is_dir() else f"no folder {path.parent}"))
    from jaxql.lab.collect import chosen_runs, grouped
    from jaxql.lab.plots import check_plotting

    check_plotting("report.svg")
    runs, notes = chosen_runs(folders, given.where)
    groups = grouped(runs, given.by)
    from jaxql.lab.machine import cache_compilations, check_device
    from jaxql.lab.report import write_report

    check_device()
    cache_compilations()
    for note in notes:
        print(f"jaxql: {note}", file=sys.stderr)
    size = write_report(path, groups, notes, video=given.video, trust=given.trust)
    print(f"{given.out}: {len(runs)} runs in {len(groups)} groups, {size / 1e6:.2f} MB")
    return 0
