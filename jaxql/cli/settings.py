"""`jaxql settings AGENT [--env ENV]`: shows every setting, its value and where the value comes from."""

import dataclasses
import json
import math
from typing import Any

from jaxql.cli.options import flag_of, parse, split_subject
from jaxql.lab.trust import allow_current_folder, modules_of

SYNTAX = "settings AGENT [--env ENV]"
SUMMARY = "show every setting of an agent: its value, where that comes from, what it means"


@dataclasses.dataclass(frozen=True)
class Options:
    """Shows the settings with which `jaxql train AGENT --env ENV` would begin.

    A value comes from the defaults, from what is tuned for the env or from a preset, or from the agent's name. Lines
    above the table say where tuned values come from, and what runs with all these settings reached.
    """

    env: str | None = None  # the env, for which some agents are tuned
    preset: str | None = None  # named settings instead of those tuned for the agent and env
    changed: bool = False  # only those that are not at their default
    json: bool = False  # print one JSON object


def run(argv: list[str]) -> int:
    """Prints the settings and returns the exit code."""
    name, argv = split_subject(Options, argv, "settings", "AGENT")
    given = parse(Options, argv, f"settings {name}")
    if modules_of({"agent": name, "env": given.env}):
        allow_current_folder()
    from jaxql.agents.evidence import evidence_of
    from jaxql.agents.registry import entry_of
    from jaxql.cli.comments import comments_of
    from jaxql.lab.compare import text_table
    from jaxql.lab.settings import origins, settings, source_of

    entry = entry_of(name)
    env, notes = _identified(given.env)
    parts = settings(entry, env, given.preset)
    found = origins(entry, env, given.preset)
    comments = {field: text for part in parts for field, text in comments_of(type(part)).items()}
    values = {field.name: getattr(part, field.name) for part in parts for field in dataclasses.fields(part)}
    shown = [key for key in values if not given.changed or found[key] != "default"]
    source = source_of(entry, env, given.preset)
    if given.json:
        sources = {f"tuned for {env}": source, f"preset {given.preset}": source}
        entries = {key: _entry(values[key], found[key], sources, comments.get(key, "")) for key in shown}
        print(json.dumps(entries, indent=1))
        return 0
    if source:
        notes.append(f"{f'preset {given.preset}' if given.preset else f'tuned for {env}'}: {source}")
    if not given.preset:
        notes += [f"measured: {each.line()}" for each in evidence_of(name, env)]
    for note in notes:
        print(note)
    rows = [[flag_of(key), _word(values[key]), found[key], comments.get(key, "")] for key in shown]
    print(text_table(["setting", "value", "comes from", "what it is"], rows))
    return 0


def _identified(env: str | None) -> tuple[str, list[str]]:
    """Returns (id, notes) of an env; "" where none is given."""
    from jaxql import envs

    return envs.identify(env) if env else ("", [])


def _entry(value: Any, origin: str, sources: dict[str, str], help: str) -> dict[str, Any]:
    finite = not isinstance(value, float) or math.isfinite(value)
    source = {"source": sources[origin]} if sources.get(origin) else {}
    return {"value": value if finite else str(value), "from": origin, **source, "help": help}


def _word(value: Any) -> str:
    """Returns a value as it is typed on the command line.

    >>> _word((64, 64)), _word(True), _word(1.0)
    ('64 64', 'True', '1.0')
    """
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
