"""`jaxql runs [FOLDER...]`: lists the runs in and below folders."""

import dataclasses
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from jaxql.cli.options import parse_words

if TYPE_CHECKING:
    from jaxql.lab.collect import RunRecord

SYNTAX = "runs [FOLDER ...]"
SUMMARY = "list runs: settings that differ, env steps, best score, solved, date, commit"


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists the runs in and below folders, finished or not; `-` is what is not known."""

    where: "tuple[str, ...]" = ()  # KEY=VALUE: agent, env, seed or a setting; a key given twice takes either value
    json: bool = False  # print one JSON array, with all settings


def run(argv: list[str]) -> int:
    """Prints the list and returns the exit code."""
    folders, given = parse_words(Options, argv, "runs", "[FOLDER ...]")
    from jaxql.lab.collect import differences, find_runs, select
    from jaxql.lab.compare import text_table

    found, problems = find_runs(folders or ["runs"])
    for problem in problems:
        print(f"jaxql: {problem}", file=sys.stderr)
    runs = select(found, given.where)
    differ = differences(runs)
    if given.json:
        print(json.dumps([_plain(_entry(run, differ)) for run in runs], indent=1))
    elif runs:
        header = ["run", "agent", "env", "seed", "settings that differ", "env steps", "best score", "solved", "date"]
        print(text_table([*header, "commit"], [_row(run, differ) for run in runs]))
    else:
        what = f"none of {len(found)} runs meets the conditions" if found else "no runs"
        print(f"{what} in {', '.join(folders or ['runs'])}")
    return 0


def _entry(run: "RunRecord", differ: dict[str, list[str]]) -> dict[str, Any]:
    """Returns the record as one JSON object."""
    return {
        "folder": str(run.folder),
        **run.identity,
        "env_args": run.env_args,
        "differs": {key: run.facts.get(key) for key in differ[run.agent]},
        "env_steps": run.env_steps,
        "best_score": run.best_score,
        "solved": run.solved,
        "finished": run.finished,
        "date": run.began.isoformat(timespec="seconds"),
        "commit": run.commit,
        "settings": run.settings,
    }


def _row(run: "RunRecord", differ: dict[str, list[str]]) -> list[str]:
    from jaxql.lab.collect import show

    solved = {None: "-", True: "yes", False: "no"}[run.solved]
    return [
        str(run.folder),
        run.agent,
        run.env,
        show(run.seed),
        " ".join(f"{key}={show(run.facts.get(key))}" for key in differ[run.agent]) or "-",
        show(run.env_steps) + (" (unfinished)" if run.finished is False else ""),
        "-" if run.best_score is None else f"{run.best_score:.2f}",
        solved,
        f"{run.began:%Y-%m-%d %H:%M}",
        show(run.commit)[:8],
    ]


def _plain(value: Any) -> Any:
    """Returns a value that strict JSON can hold: NaN is null, an infinity a string."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
