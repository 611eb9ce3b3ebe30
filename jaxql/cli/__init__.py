"""The command line: `jaxql COMMAND ...`. A new command is one file here and one word in COMMANDS.

A command's file has SYNTAX and SUMMARY, its two columns in `jaxql --help`, and `run(argv) -> exit code`. Nothing here
imports jax; a command does when its arguments are known to make sense.
"""

import contextlib
import importlib
import sys
import traceback

from jaxql.cli.streams import complain, discard_broken_output, open_closed_streams
from jaxql.errors import EnvError, UserError, nearest

COMMANDS = (
    "train",
    "resume",
    "sweep",
    "evaluate",
    "record",
    "inspect",
    "export",
    "runs",
    "compare",
    "plot",
    "report",
    "envs",
    "agents",
    "settings",
    "doctor",
    "notebook",
    "completion",
)


def main(argv: list[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, 2 after one line on what was wrong, 130 if interrupted.

    A reader of standard output that is gone, as in `| head`, ends nothing and is no error.
    """
    open_closed_streams()
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return 0
    except UserError as error:
        code = complain(str(error), 2)
        if isinstance(error, EnvError) and error.__cause__:  # the env's own exception is its author's to mend
            with contextlib.suppress(OSError):
                traceback.print_exception(error.__cause__, chain=False)
        return code
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except OSError as error:
        if error.filename is not None:  # of a file, not of standard output
            raise
        return complain(f"standard output: {error.strerror}", 2)
    finally:
        discard_broken_output()


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(), end="")
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command == "--version":
        from importlib.metadata import version

        print(version("jaxql"))
        return 0
    if command not in COMMANDS:
        raise UserError(f'no command "{command}"{nearest(command, COMMANDS)}; there are {", ".join(COMMANDS)}')
    return importlib.import_module(f"jaxql.cli.{command}").run(rest)


def _help() -> str:
    modules = [importlib.import_module(f"jaxql.cli.{command}") for command in COMMANDS]
    width = max(len(module.SYNTAX) for module in modules)
    lines = [f"  {module.SYNTAX:{width}}   {module.SUMMARY}\n" for module in modules]
    return (
        "usage: jaxql COMMAND ...\n\nQ-learning and deep Q-learning in JAX.\n\ncommands:\n"
        + "".join(lines)
        + "\njaxql COMMAND --help shows the options of a command, jaxql train AGENT --help the settings of an agent.\n"
    )
