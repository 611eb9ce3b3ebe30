"""rlax's own tests, run on jaxql's functions: changing the import is enough.

Each of its test modules is loaded a second time with jaxql's functions in the place of rlax's; rlax itself is left as
it is. Classes that test none of the shared functions are left out. Of the variants of a test two are run: jitted, and
eager with NumPy arguments. The other two, eager with device arrays, compile and run the same operations.
"""

import ast
import importlib.util
import inspect
import types
import warnings
from pathlib import Path
from unittest import mock

import pytest

from jaxql import bellman, distributional

pytestmark = pytest.mark.filterwarnings("ignore")  # what rlax's tests warn of is not ours
LIBRARIES = "value_learning", "multistep", "nonlinear_bellman", "transforms"
TESTED_THROUGH_THEIR_CALLERS = {
    "general_off_policy_returns_from_action_values",
    "general_off_policy_returns_from_q_and_v",
    "compose_tx",
    "twohot_pair",
    "transform_values",
}

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the suite's own dependencies warn on import
    rlax = pytest.importorskip("rlax._src", reason="rlax is not installed: its tests are skipped")
    for library in LIBRARIES:
        importlib.import_module(f"rlax._src.{library}")


def names_used(library, path):
    """{class: the names it takes from `library`} of a test module."""
    classes = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef))
    return {
        node.name: {
            part.attr
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == library
        }
        for node in classes
    }


def suite(library):
    """rlax's tests of one of its modules, over jaxql: ({class name: class}, shared names, tested names)."""
    original = getattr(rlax, library)
    known = vars(distributional) | vars(bellman)
    shared = {name: known[name] for name in vars(original) if name in known and not name.startswith("_")}
    spec = importlib.util.find_spec(f"rlax._src.{library}_test")
    if spec is None:
        return {}, shared, set()
    module = importlib.util.module_from_spec(spec)
    ours = types.SimpleNamespace(**vars(original) | shared)
    with mock.patch.object(rlax, library, ours), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec.loader.exec_module(module)
    used = {name: names & shared.keys() for name, names in names_used(library, Path(spec.origin)).items()}
    return {name: getattr(module, name) for name, names in used.items() if names}, shared, set().union(*used.values())


REPEATED = "__without_jit", "__with_device", "__with_pmap"


def without_repeats(tests):
    """A test class without the variants that repeat another."""
    for name in [name for name in vars(tests) if name.endswith(REPEATED)]:
        base = name.rsplit("__", 1)[0]
        if any(f"{base}__{kept}" in vars(tests) for kept in ("with_jit", "without_device")):
            delattr(tests, name)
    return tests


SUITES = {library: suite(library) for library in LIBRARIES}
for found, _, _ in SUITES.values():
    globals().update({name: without_repeats(tests) for name, tests in found.items()})  # pytest collects them from here


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_shared_function_is_under_test(library):
    found, shared, tested = SUITES[library]
    if not found:
        pytest.skip("rlax is installed without its tests")
    functions = {name for name, shared in shared.items() if inspect.isfunction(shared)}
    untested = {name for name in functions - tested if not name.startswith("transformed_")}
    assert untested <= TESTED_THROUGH_THEIR_CALLERS
    assert tested
