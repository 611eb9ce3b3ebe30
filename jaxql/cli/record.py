"""`jaxql record RUN --out FILE`: writes a video of the best checkpoint at play."""

import dataclasses

from jaxql.cli.opening import opening
from jaxql.cli.options import parse, require_at_least, split_subject

SYNTAX = "record RUN --out FILE"
SUMMARY = "write a video (.mp4 or .gif) of the best checkpoint at play"


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes a video of the best checkpoint at play."""

    out: str  # the video: a name that ends in .mp4 or .gif
    episodes: int = 1  # full games
    seed: int = 0
    trust: bool = False  # import the installed modules that the run names; for a run that you did not make here


def run(argv: list[str]) -> int:
    """Records, prints what was written, and returns the exit code."""
    folder, argv = split_subject(Options, argv, "record", "RUN")
    given = parse(Options, argv, "record RUN")
    require_at_least(1, episodes=given.episodes)
    require_at_least(0, seed=given.seed)
    from jaxql.lab.machine import cache_compilations, check_device
    from jaxql.lab.runs import open_run

    check_device()
    cache_compilations()
    with opening(folder):
        result = open_run(folder, trust=given.trust).record(given.out, given.seed, given.episodes)
    returns = ", ".join(f"{return_:g}" for return_ in result["returns"])
    print(f"{given.out}: {result['frames']} frames, return {returns}")
    return 0
