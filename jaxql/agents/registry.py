"""The agents by name. A new one is one file and one line here; nothing here imports jax before an agent is used."""

import importlib
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NamedTuple

from jaxql.agents import presets
from jaxql.errors import UserError, nearest


class AgentEntry(NamedTuple):
    """An agent that has a name: its settings, and how they become functions."""

    config: type  # a frozen dataclass that extends AgentConfig
    make: Callable[..., Any]  # (config, spec, network=None) -> Agent
    presets: dict[str, dict[str, Any]] = {}  # settings by the name of the preset
    tuned: dict[str, dict[str, Any]] = {}  # settings by env id: the defaults there; "*" holds those of every other env
    overrides: dict[str, Any] = {}  # settings that make the name what it is, above presets and tuned ones
    sources: dict[str, str] = {}  # where presets and tuned settings come from, by the same names and ids
    about: str = ""  # one line that says what it is; "": the first line of the docstring of its config's module


class Registry(MutableMapping[str, AgentEntry]):
    """A dictionary of agents whose files are imported when an agent is looked up.

    >>> "dqn" in REGISTRY
    True
    """

    def __init__(self, files: dict[str, Callable[[], AgentEntry]]):
        self._entries: dict[str, AgentEntry | Callable[[], AgentEntry]] = dict(files)

    def __getitem__(self, name: str) -> AgentEntry:
        entry = self._entries[name]
        if not isinstance(entry, AgentEntry):
            entry = self._entries[name] = entry()
        return entry

    def __setitem__(self, name: str, entry: AgentEntry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def _file(module: str, entry: str = "ENTRY") -> Callable[[], AgentEntry]:
    return lambda: getattr(importlib.import_module(f"jaxql.agents.{module}"), entry)


def _variant(overrides: dict[str, Any]) -> Callable[[], AgentEntry]:
    """A deep Q learner with these settings."""
    return lambda: REGISTRY["dqn"]._replace(presets={}, overrides=overrides)


REGISTRY = Registry(
    {
        "value-iteration": _file("iteration", "VALUE_ITERATION"),
        "q-iteration": _file("iteration", "Q_ITERATION"),
        "q-learning": _file("q_learning"),
        "dqn": _file("dqn"),
        "pqn": _file("pqn"),
        "r2d2": _file("r2d2"),
        **{name: _variant(overrides) for name, overrides in presets.VARIANTS.items()},
    }
)


def entry_of(name: str) -> AgentEntry:
    """Returns the entry called `name`, or that of "module:name".

    Raises:
      UserError: there is none; one line with the nearest name.
    """
    if ":" in name:
        return _imported(name)
    if name not in REGISTRY:
        raise UserError(f'no agent "{name}"{nearest(name, REGISTRY)}; there are {", ".join(REGISTRY)}')
    return REGISTRY[name]


def _imported(name: str) -> AgentEntry:
    module, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UserError(f'"{name}" is not MODULE:ENTRY, as in my_agents:ENTRY')
    try:
        entry = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # whatever the module raises
        raise UserError(f"{name}: {type(error).__name__}: {error}") from error
    if not isinstance(entry, AgentEntry):
        raise UserError(f"{name} is {type(entry).__name__}; an agent from outside is a jaxql.AgentEntry")
    return entry
