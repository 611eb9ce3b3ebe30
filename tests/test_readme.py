"""The README's examples run as they stand."""

import importlib
import re
import warnings
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def example(number):
    return pytest.param(number, marks=pytest.mark.slow if "jaxql.train(" in BLOCKS[number] else ())


def oracle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own dependencies warn on import
        return pytest.importorskip("rlax", reason="rlax is not installed")


@pytest.mark.parametrize("number", [example(number) for number in range(len(BLOCKS))])
@pytest.mark.trust(30)
def test_example_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "rlax" in BLOCKS[number]:
        oracle()
    code = BLOCKS[number].replace("run.video()", "")  # needs a notebook
    exec(compile(code, f"README block {number}", "exec"), {})


def test_its_tables_are_what_the_data_says(monkeypatch):
    monkeypatch.syspath_prepend(README.parent)
    report = importlib.import_module("benchmarks.report")
    for readme in report.READMES:
        assert report.filled(readme.read_text()) == readme.read_text(), "run python benchmarks/report.py"
