"""`jaxql inspect RUN`: draws what the best checkpoint has learned."""

import dataclasses

from jaxql.cli.opening import opening
from jaxql.cli.options import parse, require_at_least, split_subject

SYNTAX = "inspect RUN"
SUMMARY = "draw values, greedy actions, visits and errors of a table, or action values beside the frames of an episode"


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws what the best checkpoint has learned.

    A picture (.png, .svg, .pdf) shows states that are indices: values, greedy actions, visits, the error to Q*. A video
    (.mp4, .gif) shows action values, and return distributions where the head has them, beside the frames of an episode.
    """

    out: str | None = None  # the picture or video (default: RUN.png for a table of states, else RUN.mp4)
    seed: int = 0  # of the episode of a video
    max_steps: int = 500  # of the episode of a video
    trust: bool = False  # import the installed modules that the run names; for a run that you did not make here


def run(argv: list[str]) -> int:
    """Draws, prints what was written, and returns the exit code."""
    folder, argv = split_subject(Options, argv, "inspect", "RUN")
    given = parse(Options, argv, "inspect RUN")
    require_at_least(1, max_steps=given.max_steps)
    require_at_least(0, seed=given.seed)
    from jaxql.lab.inspection import check_out, inspect_run
    from jaxql.lab.machine import cache_compilations, check_device
    from jaxql.lab.runs import open_run

    check_out(given.out)
    check_device()
    cache_compilations()
    with opening(folder):
        opened = open_run(folder, trust=given.trust)
        print(inspect_run(opened, given.out, given.seed, given.max_steps))
    return 0
