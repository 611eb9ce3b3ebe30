"""`jaxql notebook`: writes the notebook that teaches from Bellman's equation to Pong."""

import dataclasses
from importlib import resources
from pathlib import Path

from jaxql.cli.options import parse
from jaxql.errors import UserError

SYNTAX = "notebook"
SUMMARY = "write a notebook that teaches from Bellman's equation to Pong"


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes a notebook that teaches from Bellman's equation to Pong; its outputs are kept, so it can be only read."""

    out: str = "q_learning.ipynb"  # the file: a name that ends in .ipynb; what is there already stays


def run(argv: list[str]) -> int:
    """Writes the notebook, prints how to open it, and returns the exit code."""
    given = parse(Options, argv, "notebook")
    path = Path(given.out)
    if path.suffix != ".ipynb":
        raise UserError(f"--out {given.out}: the name of a notebook ends in .ipynb")
    data = (resources.files("jaxql") / "notebooks" / "q_learning.ipynb").read_bytes()
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError as error:
        raise UserError(f"{path} is there already, and is not overwritten; give another name with --out") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    print(f'{path}: open it with "jupyter lab {path}"; its cells need pip install "jaxql[notebook]"')
    return 0
