"""What the commands that open a run share: no import by accident, and warnings of one line."""

import contextlib
import sys
import warnings
from collections.abc import Iterator


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
