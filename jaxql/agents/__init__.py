"""Agents: Q-learning algorithms as pure functions over one immutable state, and the registry of their names."""

from jaxql.agents.config import AgentConfig as AgentConfig, bounded as bounded, validate as validate
from jaxql.agents.registry import (
    REGISTRY as REGISTRY,
    AgentEntry as AgentEntry,
    Registry as Registry,
    entry_of as entry_of,
)
