"""`jaxql doctor`: says what is installed, what works, and what is missing."""

import dataclasses
import json

from jaxql.cli.options import parse

SYNTAX = "doctor"
SUMMARY = "say what is installed, which devices and fast paths are used, what to install"


@dataclasses.dataclass(frozen=True)
class Options:
    """Shows versions, devices, memory, fast paths, the cache and the extras, and tries Atari and video."""

    json: bool = False  # print one JSON object, as for a report of a fault


def run(argv: list[str]) -> int:
    """Prints what is found; returns 0, or 1 if something does not work."""
    given = parse(Options, argv, "doctor")
    from jaxql.lab.doctor import examine, problems

    found = examine()
    wrong = problems(found)
    if given.json:
        print(json.dumps(found | {"problems": wrong}, indent=1))
        return int(bool(wrong))
    width = max(len(key) for section in found.values() for key in section)
    for name, section in found.items():
        print(name)
        print("".join(f"  {key:{width}}  {value}\n" for key, value in section.items()))
    print("\n".join(["what does not work:", *(f"  {line}" for line in wrong)]) if wrong else "everything works")
    return int(bool(wrong))
