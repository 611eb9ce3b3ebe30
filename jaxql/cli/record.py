"""`jaxql record RUN --out FILE`: writes a video of the best checkpoint at play."""

import dataclasses

from jaxql.cli.opening import open_player, opening
from jaxql.cli.options import parse, require_at_least, split_subject

SYNTAX = "record RUN --out FILE"
SUMMARY = "write a video (.mp4 or .gif) of the best checkpoint at play"


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes a video of the best checkpoint at play.

    RUN may also be a policy: the file of jaxql export, or one that comes with jaxql, as in pretrained:cartpole.
    """

    out: str  # the video: a name that ends in .mp4 or .gif
    episodes: int = 1  # full games
    seed: int = 0
    trust: bool = False  # import the installed modules that the run names; for a run that you did not make here
    max_steps: int | None = None  # cut an episode after so many steps (default: 27000; 3000 without a limit of its own)


def run(argv: list[str]) -> int:
    """Records, prints what was written, and returns the exit code."""
    folder, argv = split_subject(Options, argv, "record", "RUN")
    given = parse(Options, argv, "record RUN")
    require_at_least(1, episodes=given.episodes, max_steps=1 if given.max_steps is None else given.max_steps)
    require_at_least(0, seed=given.seed)
    from jaxql.lab.machine import cache_compilations, check_device

    check_device()
    cache_compilations()
    with opening(folder):
        run = open_player(folder, given.trust)
        result = run.record(given.out, given.seed, given.episodes, given.max_steps)
    returns = ", ".join(f"{return_:g}" for return_ in result["returns"])
    cut = f"; {result['capped']} cut after {result['step_cap']} steps" if result["capped"] else ""
    print(f"{given.out}: {result['frames']} frames, return {returns}{cut}")
    return 0
