"""The one error that a person who typed something sees, as one line."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message is one line: what was wrong, what is allowed, what to try."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint at the valid name closest to `name`, or nothing.

    >>> nearest("dqm", ["dqn", "q-learning"])
    ' (did you mean "dqn"?)'
    >>> nearest("zzz", ["dqn"])
    ''
    """
    valid = list(valid)
    lowered = {option.lower(): option for option in valid}
    close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f' (did you mean "{lowered[close[0]]}"?)' if close else ""
