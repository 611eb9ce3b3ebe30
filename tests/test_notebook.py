"""The notebook that comes with jaxql: written by a command, readable as it is, and run from top to bottom."""

import ast
import json
import time

import pytest

from jaxql import cli
from jaxql.lab.export import SHIPPED

NOTEBOOK = SHIPPED.parent / "notebooks" / "q_learning.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_the_command_writes_it_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["notebook"]) == 0
    assert (tmp_path / "q_learning.ipynb").read_bytes() == NOTEBOOK.read_bytes()
    assert "jupyter lab q_learning.ipynb" in capsys.readouterr().out
    assert cli.main(["notebook", "--out", "b.ipynb"]) == 0 and (tmp_path / "b.ipynb").exists()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("a.ipynb", "not overwritten"),
        ("a.html", "ends in .ipynb"),
        ("nowhere/a.ipynb", "cannot write"),
        ("a\0.ipynb", "cannot write"),
    ],
)
def test_what_cannot_be_written_is_one_line(out, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ipynb").write_text("mine")
    assert cli.main(["notebook", "--out", out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error
    assert [path.name for path in tmp_path.iterdir()] == ["a.ipynb"] and (tmp_path / "a.ipynb").read_text() == "mine"


def test_it_is_valid_and_small():
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    assert NOTEBOOK.stat().st_size < 2e6


@pytest.mark.parametrize("number", range(len(CODE)))
def test_each_cell_compiles(number):
    compile("".join(CODE[number]["source"]), f"cell {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_it_reads_well_without_running():
    """Every picture, number and the video are kept, no output is an error, and none names a folder of its maker."""
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert outputs and not [output for output in outputs if output["output_type"] == "error"]
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6
    assert any("<video" in "".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert not any(word in json.dumps(outputs) for word in ("/tmp/", "/home/", "/root/"))


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_in_four_minutes(tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from run_notebook import executed

    began = time.monotonic()
    executed(tmp_path)
    assert time.monotonic() - began < 240
