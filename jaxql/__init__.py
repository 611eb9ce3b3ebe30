"""Q-learning and deep Q-learning in JAX.

The names below load what they need when first used, so that `import jaxql` is cheap and touches no device.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxql import (
        agents as agents,
        bellman as bellman,
        conformance as conformance,
        distributional as distributional,
        envs as envs,
        explore as explore,
        kernels as kernels,
        loop as loop,
        losses as losses,
        mesh as mesh,
        networks as networks,
        planning as planning,
        replay as replay,
        tabular as tabular,
        types as types,
    )
    from jaxql.agents import REGISTRY as REGISTRY, AgentEntry as AgentEntry
    from jaxql.errors import UserError as UserError
    from jaxql.lab.export import load_policy as load_policy
    from jaxql.lab.resuming import resume as resume
    from jaxql.lab.runs import Run as Run, open_run as open_run
    from jaxql.lab.training import train as train
    from jaxql.types import (
        MDP as MDP,
        Agent as Agent,
        EnvSpec as EnvSpec,
        Network as Network,
        Replay as Replay,
        Step as Step,
        Transition as Transition,
    )

_HOMES = {
    "": "agents bellman conformance distributional envs explore kernels loop losses mesh networks planning replay"
    " tabular types",
    ".agents": "REGISTRY AgentEntry",
    ".errors": "UserError",
    ".lab.export": "load_policy",
    ".lab.resuming": "resume",
    ".lab.runs": "Run open_run",
    ".lab.training": "train",
    ".types": "MDP Agent Network Replay EnvSpec Step Transition",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module 'jaxql' has no attribute {name!r}")
    home = _HOME_OF[name]
    if not home:
        return importlib.import_module(f"jaxql.{name}")
    return getattr(importlib.import_module(f"jaxql{home}"), name)


def __dir__():
    return __all__
