"""`jaxql export RUN --out FILE`: writes the policy of a run as one file."""

import dataclasses
from typing import Literal

from jaxql.cli.opening import opening
from jaxql.cli.options import parse, split_subject

SYNTAX = "export RUN --out FILE"
SUMMARY = "write the policy of a run as one file that needs no run"


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the best checkpoint as a policy: jaxql.load_policy(FILE) loads it."""

    out: str  # the file: NAME.safetensors, or NAME.jaxexport with --format jax
    format: Literal["policy", "jax"] = "policy"  # jax: a compiled function that runs without jaxql
    float16: bool = False  # round the parameters of a policy to float16, which halves the file
    batch: int | None = None  # of a jax file: observations of a call (default: any number)
    trust: bool = False  # import the installed modules that the run names; for a run that you did not make here


def run(argv: list[str]) -> int:
    """Exports, prints what was written, and returns the exit code."""
    folder, argv = split_subject(Options, argv, "export", "RUN")
    given = parse(Options, argv, "export RUN")
    from jaxql.lab.export import export, export_jax
    from jaxql.lab.machine import cache_compilations, check_device
    from jaxql.lab.runs import open_run

    check_device()
    cache_compilations()
    with opening(folder):
        opened = open_run(folder, trust=given.trust)
        if given.format == "jax":
            export_jax(opened, given.out, given.batch)
        else:
            export(opened, given.out, float16=given.float16)
    print(f"{given.out}: the policy of {folder}")
    return 0
