"""`jaxql resume RUN`: goes on with a run that was stopped or killed, as if it never had been."""

import dataclasses

from jaxql.cli.opening import opening
from jaxql.cli.options import parse, split_subject
from jaxql.cli.streams import discard_broken_output
from jaxql.cli.train import devices_of, exit_code

SYNTAX = "resume RUN"
SUMMARY = "go on with a run that was stopped or killed, as if it never had been"


@dataclasses.dataclass(frozen=True)
class Options:
    """Goes on with a run from its newest snapshot; a finished run stays as it is."""

    steps: int | None = None  # more env steps than the run was to have
    devices: str | None = None  # how many share the envs of the run, or all (default: as before)
    trust: bool = False  # import the installed modules that the run names; for a run that you did not make here


def run(argv: list[str]) -> int:
    """Trains on, prints the progress, and returns the exit code."""
    folder, argv = split_subject(Options, argv, "resume", "RUN")
    given = parse(Options, argv, "resume RUN")
    from jaxql.lab.machine import cache_compilations, check_device, keep_freed_memory
    from jaxql.lab.resuming import resume

    check_device()
    keep_freed_memory()
    cache_compilations()
    with opening(folder):
        devices = None if given.devices is None else devices_of(given.devices)
        done = resume(folder, steps=given.steps, trust=given.trust, devices=devices)
    discard_broken_output()
    return exit_code(done)
