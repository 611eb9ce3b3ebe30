"""Installed packages that register Gymnasium envs, found by their text: nothing is imported."""

import re
from importlib import metadata
from pathlib import Path


def prefix_hint(name: str) -> str:
    """Returns a hint at `module:NAME` if an installed package that needs Gymnasium names this id, or nothing.

    Args:
      name: an id without its module.

    >>> prefix_hint("Nowhere-v0")
    ''
    """
    quoted = re.compile(rb"""["']%s["']""" % re.escape(name.encode()))
    for distribution in metadata.distributions():
        if not any(re.match(r"gymnasium\b(?!.*extra\s*==)", needed) for needed in distribution.requires or ()):
            continue
        for path in distribution.files or ():
            if path.suffix != ".py" or len(path.parts) < 2 or path.parts[0] in ("jaxql", "..") or "test" in str(path):
                continue
            try:
                text = Path(str(path.locate())).read_bytes()
            except OSError:
                continue
            if quoted.search(text):
                return f' (did you mean "{path.parts[0]}:{name}"?)'
    return ""
