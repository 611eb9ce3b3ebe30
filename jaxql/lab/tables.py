"""CSV files that grow by whole rows, and how they are read."""

import csv
import io
import itertools
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxql.errors import UserError
from jaxql.lab.disk import GrowingFile


class Table:
    """A CSV file that grows by whole rows; the first row fixes its columns.

    A row is one write, so a kill tears the last line at most. A torn line is cut off before the next row. A file that
    cannot be written (disk full) warns once; its rows are lost until it works again.
    """

    def __init__(self, path: Path, columns: Iterable[str] = ()):
        whole = whole_lines(path.read_bytes()) if path.exists() else b""
        self._file, self._warned = GrowingFile(path, len(whole)), set[str]()
        self._columns = tuple(_rows(whole)[0]) if whole else tuple(columns)

    def append(self, row: dict[str, Any]) -> None:
        """Writes a row. A missing value is an empty cell; a key that is no column is left out with one warning."""
        self._columns = self._columns or tuple(row)
        if strange := sorted(row.keys() - set(self._columns)):
            self._warn(f"{self._file.path.name} has no column {', '.join(strange)}: the first row fixes the columns")
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        if not self._file.size:
            writer.writerow(self._columns)
        writer.writerow([_text(row.get(name)) for name in self._columns])
        try:
            self._file.append(out.getvalue().encode())
        except OSError as error:
            path = self._file.path
            self._warn(f"cannot write {path}: {error.strerror or error}; rows are lost until it works again")

    def rewind(self, env_steps: int) -> None:
        """Cuts the file after the last row that is not later than `env_steps`."""
        header, *lines = whole_lines(self._file.path.read_bytes()).splitlines(keepends=True) or [b""]
        place = self._columns.index("env_steps") if lines else 0
        kept = itertools.takewhile(lambda line: float(_rows(line)[0][place]) <= env_steps, lines)
        self._file.cut(len(header) + sum(map(len, kept)))

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        self._file.close()

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=4)


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Returns a CSV file by column: float64 [rows], NaN where empty; text columns as strings. Drops a torn last line.

    Raises:
      UserError: no such file, or a line (not the torn last one) of another length than the header.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        rows = _rows(whole_lines(data))
    except csv.Error as error:
        raise UserError(f"{path} is damaged: {error}: restore it from a copy") from error
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(f"{path} line {number}: {len(row)} values for {len(rows[0])} columns: mend or delete it")
    return {name: _column([row[i] for row in rows[1:]]) for i, name in enumerate(rows[0])} if rows else {}


def whole_lines(data: bytes) -> bytes:
    """Returns the lines that end in a newline."""
    return data[: data.rfind(b"\n") + 1]


def _text(value: Any) -> str:
    """Returns the shortest text that reads back the same in the value's own precision."""
    if value is None or isinstance(value, str):
        return " ".join((value or "").splitlines())  # a row is one line
    value = np.asarray(value)[()]
    if isinstance(value, np.bool_):
        return str(int(value))
    return "" if value != value else str(value)


def _rows(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(errors="replace"), newline="")))


def _column(values: list[str]) -> np.ndarray:
    try:
        return np.array([float(value) if value else math.nan for value in values])
    except ValueError:
        return np.array(values)
