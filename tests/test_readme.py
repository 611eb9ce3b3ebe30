"""The README's examples run as they stand, and its table of functions is what their docstrings say."""

import importlib
import inspect
import re
import warnings
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
MODULES = "bellman", "distributional", "losses", "planning", "tabular", "truth", "conformance"


def example(number):
    return pytest.param(number, marks=pytest.mark.slow if "jaxql.train(" in BLOCKS[number] else ())


def oracle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own dependencies warn on import
        return pytest.importorskip("rlax", reason="rlax is not installed")


@pytest.mark.parametrize("number", [example(number) for number in range(len(BLOCKS))])
def test_example_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "rlax" in BLOCKS[number]:
        oracle()
    code = BLOCKS[number].replace("run.video()", "")  # needs a notebook
    exec(compile(code, f"README block {number}", "exec"), {})


def functions(name):
    """The public functions of a module: those that live in its package."""
    module = importlib.import_module(f"jaxql.{name}")
    for public, f in inspect.getmembers(module, inspect.isfunction):
        if not public.startswith("_") and f.__module__.startswith(module.__name__):
            yield public, f


INSTEAD = {  # of a function whose form we think awkward: targets apart from losses, and losses divided by kappa
    "c51_target": "categorical_q_learning",
    "quantile_target": "quantile_q_learning",
    "quantile_huber": "quantile_regression_loss",
}


def rows(rlax):
    """A row of each public function: its name, the first line of its docstring, its source, rlax's name."""
    theirs, value = rlax._src, [rlax._src.value_learning]
    namesakes = dict.fromkeys(MODULES, ()) | {"distributional": value}
    namesakes["bellman"] = [*value, theirs.multistep, theirs.nonlinear_bellman, theirs.transforms]
    for module in MODULES:
        for name, f in functions(module):
            text = inspect.getdoc(f)
            source = re.search(r"Source: (.*?)(?:\n\n|\n>>>|$)", text, re.DOTALL)
            source = " ".join(source.group(1).split()).rstrip(".") if source else ""
            source = re.sub(r"([;,] |^)([^;]*?)[,.:] (https?://[^\s;,]+)", r"\1[\2](\3)", source)
            equation = text.splitlines()[0].removesuffix(".").replace("|", "\\|").replace("*", "\\*")
            same = f"`{name}`" if any(hasattr(x, name) for x in namesakes[module]) else ""
            same = f"for `{INSTEAD[name]}`" if name in INSTEAD else same
            yield f"| `{module}.{name}` | {equation} | {source} | {same} |"


@pytest.mark.parametrize("module", MODULES)
def test_every_function_has_a_source_and_an_example(module):
    lacking = [name for name, f in functions(module) if not all(x in inspect.getdoc(f) for x in ("Source: ", ">>> "))]
    assert not lacking


def test_the_table_lists_every_function():
    expected = "\n".join(rows(oracle()))
    assert expected in README.read_text(), f"the table should read:\n{expected}"


def test_its_tables_are_what_the_data_says(monkeypatch):
    monkeypatch.syspath_prepend(README.parent)
    report = importlib.import_module("benchmarks.report")
    assert report.filled(README.read_text()) == README.read_text(), "run python benchmarks/report.py"
