"""The agents by name. A new one is one file and one line here."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxql.agents import dqn, iteration, pqn, q_learning, r2d2, variants
from jaxql.agents.base import check
from jaxql.errors import UserError, nearest


class Entry(NamedTuple):
    """An agent that can be named: its settings, and how they become functions."""

    config: type  # a frozen dataclass that extends RunConfig
    make: Callable  # (config, spec, network=None) -> Agent
    presets: dict[str, dict[str, Any]]  # settings by the name of the preset
    tuned: dict[str, dict[str, Any]]  # settings by env id: the defaults there
    named: dict[str, Any] = {}  # settings that make the name what it is, above presets and tuned ones


REGISTRY = {
    "value-iteration": Entry(iteration.Config, iteration.make_value_iteration, iteration.PRESETS, iteration.TUNED),
    "q-iteration": Entry(iteration.Config, iteration.make_q_iteration, iteration.PRESETS, iteration.TUNED),
    "q-learning": Entry(q_learning.Config, q_learning.make, q_learning.PRESETS, q_learning.TUNED),
    "dqn": Entry(dqn.Config, dqn.make, dqn.PRESETS, dqn.TUNED),
    "pqn": Entry(pqn.Config, pqn.make, pqn.PRESETS, pqn.TUNED),
    "r2d2": Entry(r2d2.Config, r2d2.make, r2d2.PRESETS, r2d2.TUNED),
    **{name: Entry(dqn.Config, dqn.make, {}, dqn.TUNED, named) for name, named in variants.NAMED.items()},
}


def entry_of(name: str) -> Entry:
    """The entry called `name`, or that of module:name; or one line on what is wrong."""
    if ":" in name:
        return _imported(name)
    if name not in REGISTRY:
        raise UserError(f'no agent "{name}"{nearest(name, REGISTRY)}; there are {", ".join(REGISTRY)}')
    return REGISTRY[name]


def _imported(name: str) -> Entry:
    module, _, attribute = name.partition(":")
    try:
        entry = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise UserError(f"{name}: {error}") from error
    if not isinstance(entry, Entry):
        raise UserError(f"{name} is {type(entry).__name__}; an agent from outside is a jaxql.Entry")
    return entry


def settings(entry: Entry, env_id: str, preset: str | None = None, **changes) -> Any:
    """The checked settings of an agent on an env: tuned for the pair or a preset's, then changed as asked."""
    if preset is not None and preset not in entry.presets:
        raise UserError(f'no preset "{preset}"{nearest(preset, entry.presets)}; there are {list(entry.presets)}')
    names = {field for field in entry.config.__dataclass_fields__}
    for name in changes:
        if name not in names:
            raise UserError(f'no setting "{name}"{nearest(name, names)}; there are {", ".join(sorted(names))}')
    start = entry.presets[preset] if preset else entry.tuned.get(env_id, {})
    config = entry.config(**start | entry.named | changes)
    check(config)
    return config
