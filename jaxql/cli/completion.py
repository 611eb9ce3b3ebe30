"""`jaxql completion SHELL`: prints a script with which the shell completes commands, options and their values."""

import dataclasses
import importlib
import typing
from collections.abc import Iterable
from typing import Any

from jaxql.cli.options import flag_of, parse, split_subject
from jaxql.errors import UserError, nearest

SYNTAX = "completion SHELL"
SUMMARY = "print a completion script for bash, zsh or fish"
SHELLS = ("bash", "zsh", "fish")
Table = dict[tuple[str, str], list[str]]  # by (command, what stands before): the words that may follow
WITH_AGENT = ("train", "settings")  # commands whose first word is an agent


@dataclasses.dataclass(frozen=True)
class Options:
    """Prints a script for bash, zsh or fish.

    bash: source <(jaxql completion bash), in ~/.bashrc. zsh: the same with zsh, in ~/.zshrc, behind compinit.
    fish: jaxql completion fish > ~/.config/fish/completions/jaxql.fish
    """


def run(argv: list[str]) -> int:
    """Prints the script and returns the exit code."""
    shell, argv = split_subject(Options, argv, "completion", "SHELL")
    if shell not in SHELLS:
        raise UserError(f'no shell "{shell}"{nearest(shell, SHELLS)}; there are {", ".join(SHELLS)}')
    parse(Options, argv, "completion SHELL")
    print(script(shell), end="")
    return 0


def script(shell: str) -> str:
    """Returns the completion script for "bash", "zsh" or "fish"."""
    table = choices()
    return _fish(table) if shell == "fish" else _bash_or_zsh(table, shell)


def choices() -> Table:
    """Returns the words that may follow, by (command, what stands before).

    ("", "") has the commands, (command, "") the first word and options of a command, (command, "--option") the values
    of an option; [] where a value is not of a known set. Of `train` the options are those of all agents together.
    """
    from jaxql.agents.registry import REGISTRY
    from jaxql.cli import COMMANDS
    from jaxql.envs.catalogue import names
    from jaxql.lab.settings import RunSettings

    table: Table = {("", ""): [*COMMANDS, "--help", "--version"]}
    for command in COMMANDS:
        options = [importlib.import_module(f"jaxql.cli.{command}").Options]
        if command == "train":
            options += [*dict.fromkeys(entry.config for entry in REGISTRY.values()), RunSettings]
        values: dict[str, list[str]] = {}
        for each in options:
            for flag, words in _flags(each).items():
                values[flag] = list(dict.fromkeys([*values.get(flag, []), *words]))
        first = {"completion": [*SHELLS]}.get(command, list(REGISTRY) if command in WITH_AGENT else [])
        table[command, ""] = [*first, *values, "--help"]
        table |= {(command, flag): words for flag, words in values.items()}
        if "--env" in values:
            table[command, "--env"] = [id for id, _ in names()]
        if "--preset" in values:
            table[command, "--preset"] = sorted({name for entry in REGISTRY.values() for name in entry.presets})
    return table


def _flags(options: type) -> dict[str, list[str]]:
    """Returns the values of each option of a dataclass; [] where they are not a known set. A switch is two options.

    >>> _flags(Options)
    {}
    """
    found: dict[str, list[str]] = {}
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kind = hints[field.name]
        flag = flag_of(field.name)
        found[flag] = [str(value) for value in typing.get_args(kind)] if _is_literal(kind) else []
        if kind is bool:
            found[f"--no-{flag[2:]}"] = []
    return found


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _cases(table: Table) -> Iterable[str]:
    for (command, before), words in table.items():
        if words:
            yield f'    "{command} {before}") reply="{" ".join(words)}" ;;'


def _bash_or_zsh(table: Table, shell: str) -> str:
    words = "_jaxql_words() {\n  reply=\n  case $1 in\n" + "\n".join(_cases(table)) + "\n  esac\n}\n"
    return words + (BASH if shell == "bash" else ZSH)


BASH = r"""
_jaxql() {
  local line=${COMP_LINE:0:COMP_POINT} current= reply= command
  local -a words
  read -ra words <<< "$line"
  if [[ $line != *[[:space:]] ]]; then
    current=${words[${#words[@]}-1]}
    unset "words[${#words[@]}-1]"
  fi
  command=${words[1]:-}
  if [[ $current == --*=* ]]; then
    _jaxql_words "$command ${current%%=*}"
    current=${current#*=}
  else
    [[ ${#words[@]} -gt 2 ]] && _jaxql_words "$command ${words[${#words[@]}-1]}"
    if [[ -z $reply && ( ${#words[@]} -le 2 || $current == -* ) ]]; then _jaxql_words "$command "; fi
  fi
  COMPREPLY=($(compgen -W "$reply" -- "$current"))
  if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then  # the shell completes behind the last colon
    COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*:}"}"}")
  fi
}
complete -o default -F _jaxql jaxql
"""
ZSH = r"""
_jaxql() {
  local reply= command=${words[2]} before=${words[CURRENT-1]}
  (( CURRENT == 2 )) && command=
  (( CURRENT > 3 )) && _jaxql_words "$command $before"
  if [[ -z $reply && ( CURRENT -le 3 || $PREFIX == -* ) ]]; then _jaxql_words "$command "; fi
  if [[ -n $reply ]]; then compadd -- ${=reply}; fi
  [[ $PREFIX == -* ]] || _files
}
compdef _jaxql jaxql
"""


def _fish(table: Table) -> str:
    lines = []
    for (command, before), words in table.items():
        options = [word for word in words if word.startswith("--")] if not before else []
        rest = [word for word in words if word not in options]
        when = f'-n "__fish_seen_subcommand_from {command}"' if command else "-n __fish_use_subcommand"
        if before:
            lines += [f'complete -c jaxql {when} -l {before[2:]} -x -a "{" ".join(words)}"'] if words else []
            continue
        if rest:
            lines.append(f'complete -c jaxql {when} -a "{" ".join(rest)}"')
        for option in options:
            if not table.get((command, option)):
                lines.append(f"complete -c jaxql {when} -l {option[2:]}")
    return "\n".join(lines) + "\n"
