"""`jaxql evaluate RUN`: plays full games with the best checkpoint of a run, of all seeds of a run, or with a policy."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxql.cli.opening import open_player, opening
from jaxql.cli.options import parse, require_at_least, split_subject

SYNTAX = "evaluate RUN"
SUMMARY = "play full games with the best checkpoint of a run"
LINE = (
    "{episodes} episodes ({distinct} distinct): mean return {mean:.3f}, std {std:.3f}, "
    "min {min:g}, max {max:g}; {capped} cut at a step limit"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Plays full games with the best checkpoint: epsilon 0, raw rewards, seeds of their own.

    Of the folder of a run with --seeds, plays the runs of all seeds. RUN may also be a policy: a file of jaxql
    export, or one that comes with jaxql, as in pretrained:cartpole.
    """

    episodes: int = 20  # full games, each in an environment of its own
    seed: int = 0
    json: bool = False  # print one JSON object
    trust: bool = False  # import the installed modules that the run names; for a run that you did not make here


def run(argv: list[str]) -> int:
    """Evaluates, prints a summary, and returns the exit code."""
    folder, argv = split_subject(Options, argv, "evaluate", "RUN")
    given = parse(Options, argv, "evaluate RUN")
    require_at_least(1, episodes=given.episodes)
    require_at_least(0, seed=given.seed)
    from jaxql.lab.export import is_policy
    from jaxql.lab.machine import cache_compilations, check_device
    from jaxql.lab.runs import seed_folders

    check_device()
    cache_compilations()
    folders = [Path(folder)] if is_policy(folder) else seed_folders(folder)
    summaries = dict[str, dict[str, Any]]()
    with opening(folder):
        for each in folders:
            summary = open_player(each, given.trust).evaluate(given.episodes, given.seed).summary()
            summaries[each.name] = summary
            if not given.json:
                print(f"{each.name}: " * (len(folders) > 1) + LINE.format(**summary), flush=True)
    if len(folders) == 1:
        if given.json:
            print(json.dumps(summary))
        return 0
    mean = sum(each["mean"] for each in summaries.values()) / len(summaries)
    if given.json:
        print(json.dumps({"mean": mean, "seeds": summaries}))
    else:
        print(f"mean of {len(folders)} seeds: mean return {mean:.3f}")
    return 0
