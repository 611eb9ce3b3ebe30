"""The one error that a person who typed something sees, as one line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message is one line: what was wrong, what is allowed, what to try."""

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())  # a name that was given may hold line breaks


class EnvError(UserError):
    """An env that fails. `__cause__` is the exception that it raised, if it did, to be shown beneath the line."""


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns a hint at the valid name closest to `name`, or nothing.

    Args:
      name: what was given.
      valid: what is allowed.
      cutoff: how alike they must be, from 0 to 1.

    >>> nearest("dqm", ["dqn", "q-learning"])
    ' (did you mean "dqn"?)'
    >>> nearest("zzz", ["dqn"])
    ''
    """
    valid = list(valid)
    lowered = {option.lower(): option for option in valid}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=cutoff)
    return f' (did you mean "{lowered[close[0]]}"?)' if close else ""
