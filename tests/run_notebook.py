"""Runs the notebook that comes with jaxql and keeps its outputs: `python tests/run_notebook.py`."""

import os
from pathlib import Path

import nbclient
import nbformat

import jaxql

NOTEBOOK = Path(jaxql.__file__).parent / "notebooks" / "q_learning.ipynb"


def executed(folder: str | os.PathLike, timeout: int = 600) -> nbformat.NotebookNode:
    """Returns the notebook after all its cells ran in this folder."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times of this machine
    return notebook


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(folder), NOTEBOOK)
