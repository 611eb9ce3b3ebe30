"""The one setting that switches private interfaces off, and the notes on fast paths that are not in use."""

import os

_state = {"used": os.environ.get("JAXQL_PRIVATE_KERNELS", "1") != "0"}
_notes: dict[str, str] = {}  # by the name of a fast path

SWITCHED_OFF = "private kernels are switched off"


def use_private(on: bool) -> None:
    """Switches every private interface on or off, for what is traced from now on.

    The environment variable `JAXQL_PRIVATE_KERNELS=0` does the same from the start. Compiled functions stay as they
    are; `jax.clear_caches()` makes JAX trace them anew.

    >>> use_private(False)
    >>> private_is_used()
    False
    >>> use_private(True)
    """
    _state["used"] = bool(on)
    forget_notes()


def private_is_used() -> bool:
    """Returns whether private interfaces may be used."""
    return _state["used"]


def note(path: str, line: str | None) -> None:
    """Keeps one line on a fast path that is not in use; None takes the line back."""
    if line is None:
        _notes.pop(path, None)
    else:
        _notes[path] = line


def forget_notes() -> None:
    """Forgets all notes, so that those of one program can be told from those of the one before."""
    _notes.clear()


def notes() -> list[str]:
    """Returns one line for every fast path that was wanted and is not in use, with the reason.

    A line appears when the function that wanted the path is traced. Nothing is printed.

    >>> import jax
    >>> from jaxql.kernels import derive_key
    >>> use_private(False)
    >>> key = derive_key(jax.random.key(0), 1)
    >>> notes()
    ["random numbers on CPUs: JAX's own loop, because private kernels are switched off"]
    >>> use_private(True)
    """
    return list(_notes.values())
