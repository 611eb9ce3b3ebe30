"""The packages' READMEs: their tables are those of the docstrings, every function has its row, the examples run."""

import importlib
import inspect
import re
import warnings

import pytest
import write_tables

READMES = write_tables.readmes()
PACKAGES = "bellman", "conformance", "distributional", "losses", "planning", "planning.regret", "tabular"


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_tables_are_what_the_docstrings_say(path):
    text = path.read_text()
    assert write_tables.filled(text) == text, "run python tests/write_tables.py"


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_a_readme_lists_every_function_of_its_package(path):
    package = importlib.import_module(f"jaxql.{path.parent.name}")
    for name, _ in write_tables.functions(package):
        assert f"| `{name}`" in path.read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_function_has_a_source_and_an_example(package):
    functions = write_tables.functions(importlib.import_module(f"jaxql.{package}"))
    lacking = [name for name, f in functions if not all(x in (inspect.getdoc(f) or "") for x in ("Source: ", ">>> "))]
    assert not lacking


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "losses"])
def test_every_parameter_and_result_has_a_type(package):
    for name, f in write_tables.functions(importlib.import_module(f"jaxql.{package}")):
        signature = inspect.signature(f)
        types = [*(x.annotation for x in signature.parameters.values()), signature.return_annotation]
        assert inspect.Signature.empty not in types, name


def oracle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own dependencies warn on import
        return pytest.importorskip("rlax", reason="rlax is not installed")


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_examples_run(path):
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)):
        if "import rlax" in code:
            oracle()
        exec(compile(code, f"{path.parent.name}/README block {number}", "exec"), {})


def test_the_drop_ins_are_those_of_rlax():
    rlax = oracle()
    theirs = rlax._src.value_learning, rlax._src.multistep, rlax._src.nonlinear_bellman, rlax._src.transforms
    ours = {
        name
        for package in ("bellman", "distributional")
        for name, _ in write_tables.functions(importlib.import_module(f"jaxql.{package}"))
    }
    assert write_tables.DROP_INS == {name for name in ours if any(hasattr(module, name) for module in theirs)}
