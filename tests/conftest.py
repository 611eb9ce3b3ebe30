"""JAX is the critic: ranks do not broadcast silently, and warnings are errors (pyproject.toml)."""

import sys

import jax


def pytest_addoption(parser):
    parser.addoption("--agent", action="append", default=[], help="MODULE:ENTRY, to be held to the laws too")


def pytest_configure(config):
    from jaxql import agents

    sys.path.append(".")
    agents.REGISTRY.update({name: agents.entry_of(name) for name in config.getoption("--agent")})


jax.config.update("jax_numpy_rank_promotion", "raise")
