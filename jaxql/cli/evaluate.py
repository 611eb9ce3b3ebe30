"""`jaxql evaluate RUN`: plays full games with the best checkpoint of a run."""

import dataclasses
import json

from jaxql.cli.options import parse, require_at_least, split_subject

SYNTAX = "evaluate RUN"
SUMMARY = "play full games with the best checkpoint of a run"


@dataclasses.dataclass(frozen=True)
class Options:
    """Plays full games with the best checkpoint: epsilon 0, raw rewards, seeds of their own."""

    episodes: int = 20  # full games, each in an environment of its own
    seed: int = 0
    json: bool = False  # print one JSON object


def run(argv: list[str]) -> int:
    """Evaluates, prints a summary, and returns the exit code."""
    folder, argv = split_subject(Options, argv, "evaluate", "RUN")
    given = parse(Options, argv, "evaluate RUN")
    require_at_least(1, episodes=given.episodes)
    require_at_least(0, seed=given.seed)
    from jaxql.lab.machine import cache_compilations, check_device
    from jaxql.lab.runs import open_run

    check_device()
    cache_compilations()
    summary = open_run(folder).evaluate(given.episodes, given.seed).summary()
    line = (
        "{episodes} episodes ({distinct} distinct): mean return {mean:.3f}, std {std:.3f}, "
        "min {min:g}, max {max:g}; {capped} cut at a step limit"
    )
    print(json.dumps(summary) if given.json else line.format(**summary))
    return 0
