"""What the commands that open a run share: no import by accident, and warnings of one line."""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxql.lab.export import Policy
    from jaxql.lab.runs import Run


def open_player(source: "str | os.PathLike", trust: bool) -> "Run | Policy":
    """Returns the run in a folder, or a policy; both evaluate and record.

    Raises:
      UserError: there is none, or it names a module that is not confirmed.
    """
    from jaxql.lab.export import is_policy, load_policy
    from jaxql.lab.runs import open_run

    return load_policy(source, trust=trust) if is_policy(source) else open_run(source, trust=trust)


@contextlib.contextmanager
def opening(folder: str) -> Iterator[None]:
    """Leaves the current folder and the run's out of imports, and prints what there is to say on the run as lines."""
    from jaxql.lab.runs import RunWarning
    from jaxql.lab.trust import restricted_imports

    with restricted_imports(folder), warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        show = warnings.showwarning

        def as_line(message: Warning | str, category: type[Warning], *where: object) -> None:
            if issubclass(category, RunWarning):
                print("jaxql: " + " ".join(str(message).split()), file=sys.stderr)
            else:
                show(message, category, *where)  # type: ignore[arg-type]

        warnings.showwarning = as_line  # type: ignore[assignment]
        yield
