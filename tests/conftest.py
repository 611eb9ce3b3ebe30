"""JAX is the critic: ranks do not broadcast silently, and warnings are errors (pyproject.toml)."""

import os
import sys

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


def pytest_addoption(parser):
    parser.addoption("--agent", action="append", default=[], help="MODULE:ENTRY, to be held to the laws too")


def pytest_configure(config):
    from jaxql import agents

    sys.path.append(".")
    agents.REGISTRY.update({name: agents.entry_of(name) for name in config.getoption("--agent")})


@pytest.fixture(scope="module")
def compile_once(tmp_path_factory):
    """Runs of one module that need the same program share one compilation of it."""
    options = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in options}
    for settings in (options, before):
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if settings is options:
            yield


os.environ["JAXQL_COMPILATION_CACHE"] = "off"  # no test writes into the user's cache folder
jax.config.update("jax_numpy_rank_promotion", "raise")
