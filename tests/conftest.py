"""JAX is the critic: ranks do not broadcast silently, and warnings are errors (pyproject.toml)."""

import os
import shutil
import sys
import tempfile

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # most programs run once: compile them fast

import jax
import pytest
from trust_report import TrustReport

PROGRAMS = "JAXQL_TEST_PROGRAMS"  # the folder in which the processes of one test run share compiled programs


def pytest_addoption(parser):
    parser.addoption("--agent", action="append", default=[], help="MODULE:ENTRY, to be held to the laws too")


def pytest_configure(config):
    from jaxql import agents

    if "trust" in config.option.markexpr:
        config.pluginmanager.register(TrustReport())
    sys.path.append(".")
    agents.REGISTRY.update({name: agents.entry_of(name) for name in config.getoption("--agent")})
    if PROGRAMS not in os.environ:
        os.environ[PROGRAMS] = config.programs = tempfile.mkdtemp(prefix="jaxql-tests-")
    jax.config.update("jax_compilation_cache_dir", os.environ[PROGRAMS])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)  # storing small ones costs more
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.hookimpl(tryfirst=True)  # before the option -m is read
def pytest_collection_modifyitems(items):
    for item in items:
        if (often := item.get_closest_marker("often")) and item.callspec.id not in often.args:
            item.add_marker(pytest.mark.slow)


def pytest_unconfigure(config):
    if hasattr(config, "programs"):  # this process made it
        shutil.rmtree(config.programs, ignore_errors=True)
        del os.environ[PROGRAMS]


os.environ["JAXQL_COMPILATION_CACHE"] = "off"  # no test writes into the user's cache folder
jax.config.update("jax_numpy_rank_promotion", "raise")
