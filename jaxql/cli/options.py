"""From words on the command line to a dataclass of options, and errors of one line."""

import contextlib
import dataclasses
import io
import keyword
from typing import Any, TypeVar

from jaxql.errors import UserError, nearest

Options = TypeVar("Options")


def parse(options: type[Options], argv: list[str], prog: str) -> Options:
    """Returns the options that `argv` gives. With --help it prints help and exits.

    Args:
      options: a dataclass; its comments become help.
      argv: the words behind the subject.
      prog: the command and its subject, as in "train AGENT".

    Raises:
      UserError: the parser's message as one line, with the nearest valid flag.
    """
    import tyro
    from tyro.conf import UseAppendAction

    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(options, args=_as_fields(argv, options), prog=f"jaxql {prog}", config=(UseAppendAction,))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(stderr.getvalue(), _flags(options), prog)) from None


def split_subject(
    options: type, argv: list[str], command: str, subject: str, preface: str = ""
) -> tuple[str, list[str]]:
    """Returns the first word, an AGENT or a RUN, and the rest. With --help there it prints help and exits.

    Raises:
      UserError: the first word is missing or a flag.
    """
    if argv[:1] in (["-h"], ["--help"]):
        print(preface, end="")
        parse(options, ["--help"], f"{command} {subject}")
    if not argv or argv[0].startswith("-"):
        raise UserError(f"{subject} is missing: jaxql {command} {subject} ...; see jaxql {command} --help")
    return argv[0], argv[1:]


def parse_words(options: type[Options], argv: list[str], command: str, words: str) -> tuple[list[str], Options]:
    """Returns the words that belong to no flag, wherever they stand, and the options. With --help it prints help.

    Args:
      options: a dataclass; its comments become help.
      argv: the words behind the command.
      command: as in "runs".
      words: how help names them: "RUN ...", or in brackets where none is needed.

    Raises:
      UserError: a word is needed and missing, or as `parse`.
    """
    booleans = [field.name for field in dataclasses.fields(options) if field.type is bool]  # type: ignore[arg-type]
    switches = {f"--{prefix}{name}" for name in booleans for prefix in ("", "no-")} | {"--help"}
    found, rest, left = [], [], list(argv)
    while left:
        word = left.pop(0)
        if not word.startswith("-"):
            found.append(word)
            continue
        rest.append(word)
        if left and word.startswith("--") and "=" not in word and word not in switches:
            rest.append(left.pop(0))
    given = parse(options, rest, f"{command} {words}")
    if not found and not words.startswith("["):
        raise UserError(f"{words.split()[0]} is missing: jaxql {command} {words}; see jaxql {command} --help")
    return found, given


def value_of(argv: list[str], flag: str) -> str | None:
    """Returns the last value of a flag in `argv`, or None.

    >>> value_of(["--env", "a", "--env=b"], "--env")
    'b'
    """
    value = None
    for i, word in enumerate(argv):
        if word == flag and i + 1 < len(argv):
            value = argv[i + 1]
        elif word.startswith(flag + "="):
            value = word.split("=", 1)[1]
    return value


def require_at_least(low: int, **numbers: float) -> None:
    """Raises UserError, which names the option, if a number is below `low`."""
    for name, value in numbers.items():
        if value < low:
            raise UserError(f"{name} is {value}; it must be at least {low}")


def _flags(options: Any) -> list[str]:
    """Returns the flags of a dataclass and of the dataclasses in it."""
    names = []
    for field in dataclasses.fields(options):
        nested = dataclasses.is_dataclass(field.default)
        names += _flags(type(field.default)) if nested else [flag_of(field.name)]
    return names


def flag_of(name: str) -> str:
    """Returns the flag of a setting.

    >>> flag_of("learning_rate"), flag_of("lambda_")
    ('--learning-rate', '--lambda')
    """
    return "--" + name.rstrip("_").replace("_", "-")


def _as_fields(argv: list[str], options: Any) -> list[str]:
    """Returns the words with each flag as the parser makes it of a field: `lambda_`, a word of Python, is --lambda_."""
    words = [word.partition("=") for word in argv]
    reserved = {flag for flag in _flags(options) if keyword.iskeyword(flag[2:])}
    return [flag + "_" * (flag in reserved) + equals + value for flag, equals, value in words]


def _one_line(message: str, flags: list[str], prog: str) -> str:
    """Returns the paragraph under the title of the parser's message, with the nearest valid flag."""
    paragraphs: list[list[str]] = [[]]
    for line in message.splitlines():
        text = line.strip(" │╭╮╰╯─-")
        if text:
            paragraphs[-1].append(text if text.startswith("Unrecognized") else line.strip(" │╭╮╰╯─"))
        if line.strip(" │").startswith(("╭", "─", "---")):  # a title's frame, or a rule
            paragraphs.append([])
    text = " ".join(paragraphs[1] if len(paragraphs) > 1 else paragraphs[0])
    if text.startswith("Unrecognized options:"):
        flag = text.split(":", 1)[1].split(",")[0].strip()
        text = f"no option {flag}{nearest(flag, flags)}"
    return f"{text}; see jaxql {prog} --help"
