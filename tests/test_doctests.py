"""The examples in the docstrings run, and public functions have them."""

import doctest
import importlib
import pkgutil

import pytest

import jaxql

MODULES = [m.name for m in pkgutil.walk_packages(jaxql.__path__, "jaxql.") if not m.name.endswith("__main__")]
EXPLAINED = {
    f"jaxql.{core}"
    for core in (
        "bellman.one_step",
        "bellman.multistep",
        "conformance",
        "explore",
        "losses",
        "losses.backups",
        "planning",
    )
    + ("planning.regret", "replay.uniform", "replay.prioritised", "tabular.updates")
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.trust(30)
def test_examples_run(name):
    module = importlib.import_module(name)
    results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted > 0 or name not in EXPLAINED
