"""Standard streams that are closed, full, or whose reader is gone."""

import contextlib
import os
import sys


def open_closed_streams() -> None:
    """Opens the null device in place of a standard stream that is closed, so that no other file takes its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))


def discard_broken_output() -> None:
    """Sends standard output to the null device if it takes nothing more; Python would complain of it at the exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout.flush()


def complain(line: str, code: int) -> int:
    """Prints one line to standard error, if that can be written, and returns the exit code."""
    with contextlib.suppress(OSError):
        print("jaxql: " + " ".join(line.split()), file=sys.stderr, flush=True)
    return code
