"""`jaxql agents`: lists the agents."""

import dataclasses
import inspect
import json
from typing import Any

from jaxql.cli.options import parse

SYNTAX = "agents"
SUMMARY = "list agents: what each is, its presets, the envs it is tuned for"

MOST = 4  # settings and envs of a row


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists the agents. Each of dqn's variants is dqn with other settings."""

    json: bool = False  # print one JSON array


def run(argv: list[str]) -> int:
    """Prints the list and returns the exit code."""
    given = parse(Options, argv, "agents")
    from jaxql.agents.registry import REGISTRY
    from jaxql.lab.collect import show
    from jaxql.lab.compare import text_table

    found: list[dict[str, Any]] = []
    for name, entry in REGISTRY.items():
        module = inspect.getmodule(entry.config)
        about = entry.about or (inspect.getdoc(module) or "").partition("\n")[0].rstrip(".")
        envs = [env for env in entry.tuned if env != "*"]
        found.append(
            {"agent": name, "about": about, "settings": entry.overrides, "presets": list(entry.presets), "tuned": envs}
        )
    if given.json:
        print(json.dumps(found, indent=1))
        return 0
    rows = []
    for each in found:
        settings = [f"{key}={show(value)}" for key, value in each["settings"].items()]
        more = f" and {len(settings) - MOST} more" if len(settings) > MOST else ""
        what = f"dqn with {' '.join(settings[:MOST])}{more}" if settings else each["about"]
        rows.append([each["agent"], what, " ".join(each["presets"]) or "-", " ".join(each["tuned"][:MOST]) or "-"])
    print(text_table(["agent", "what it is", "presets", "tuned for"], rows))
    print("\njaxql settings AGENT shows all settings; an agent of your own is MODULE:ENTRY.")
    return 0
