"""The files of a run: what was run (config.json), what was measured (metrics.csv), how fast (timing.csv), event files.

`metrics.csv` holds no clock: the same seed gives the same bytes. A row is one write, so a kill tears the last line at
most. A log that cannot be written (disk full) warns once and training goes on; a torn row is cut off before the next.
"""

import csv
import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxql.errors import UserError

PACKAGES = ("jaxql", "jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "ale-py")
TIMING = ("env_steps", "seconds", "steps_per_second")


def write_synced(path: Path, chunks: Iterable[Any]) -> tuple[str, int]:
    """Writes bytes and syncs them to disk; returns SHA-256 and size. Raises OSError, and leaves no file then."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for chunk in chunks:
            left = memoryview(chunk)
            digest.update(left)
            size += left.nbytes
            while left.nbytes:  # one call writes 2 GiB at most
                left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return digest.hexdigest(), size


def publish(temporary: Path, path: Path) -> None:
    """Gives a written file its name, replacing what bore it, and syncs the folder. Raises OSError."""
    os.replace(temporary, path)
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot sync a folder
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step that survives a kill or a power cut. Raises OSError.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder) / "a.txt", b"one")
    ...     (Path(folder) / "a.txt").read_bytes()
    b'one'
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write_synced(temporary, [data])
        publish(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def default_folder(agent: str, env: str, seed: int, root: str | os.PathLike = "runs") -> Path:
    """The first free one of `runs/<agent>-<env>-seed<seed>`, the same with `-2`, `-3`, ...

    >>> default_folder("dqn", "ALE/Pong-v5", 0).as_posix()
    'runs/dqn-ALE-Pong-v5-seed0'
    """
    name = re.sub(r"[^\w.+-]+", "-", f"{agent}-{env}-seed{seed}")
    folder, count = Path(root) / name, 1
    while folder.exists():
        count += 1
        folder = Path(root) / f"{name}-{count}"
    return folder


def describe(config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says: settings, seed, versions, device, git commit of the current directory, command line."""
    devices, program = jax.devices(), Path(sys.argv[0]).name
    return {
        "config": config,
        "seed": config.get("seed"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "x64": bool(jax.config.jax_enable_x64),
        "git": _git(),
        "command": ["jaxql" if program == "__main__.py" else program, *sys.argv[1:]],
    }


def check_free(folder: Path) -> None:
    """Refuses, in one line, a folder that holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: choose another folder, delete it, or resume the run in it")


class RunFiles:
    """The folder of one run, opened for writing; a context manager.

    Args:
      folder: made here. Must not exist or be empty, unless `resume`.
      config: settings, for config.json; what JSON does not know is written as its string. Not rewritten on resume.
      resume: continue the run in `folder`: then `rewind` to the checkpoint that is loaded.
      tensorboard: whether `append` and `scalar` write event files too.

    Raises:
      UserError: the folder is in use, cannot be made, or (resume) holds no run. Nothing is written then.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunFiles(f"{folder}/a", {"seed": 0}, tensorboard=False) as files:
    ...         files.append({"env_steps": 10, "return": 0.5})
    ...     read_metrics(f"{folder}/a")["return"]
    array([0.5])
    """

    def __init__(
        self, folder: str | os.PathLike, config: dict[str, Any], resume: bool = False, tensorboard: bool = True
    ):
        self.folder = Path(folder)
        if resume:
            read_config(self.folder)
        else:
            _claim(self.folder, config)
        try:
            self._metrics = _Table(self.folder / "metrics.csv")
            self._timing = _Table(self.folder / "timing.csv", TIMING)
            self._events = _Events(self.folder) if tensorboard else None
        except OSError as error:
            raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error
        self._last = (0, 0.0)

    def append(self, row: dict[str, Any]) -> None:
        """One row of metrics.csv, and its numbers as TensorBoard scalars at `row["env_steps"]`.

        The first row's keys are the columns. Floats are the shortest text that reads back the same in their own
        precision; NaN, None and absent keys are empty; a key that is no column is left out, with one warning.
        """
        env_steps = row["env_steps"]
        self._metrics.append(row)
        for name in row.keys() - {"env_steps"} if self._events else ():
            if not isinstance(row[name], str):
                self.scalar(name, row[name], env_steps)
        if self._events:
            self._events.flush()

    def scalar(self, name: str, value: Any, env_steps: int) -> None:
        """One number to TensorBoard alone; NaN and None are left out."""
        if self._events and value is not None and not math.isnan(value):
            self._events.scalar(name, float(value), int(env_steps))

    def timing(self, env_steps: int, seconds: float) -> float:
        """One row of timing.csv: steps, seconds since this process began, steps per second since the row before.

        Returns that rate; NaN where no time has passed.
        """
        steps, before = self._last
        rate = float(env_steps - steps) / (seconds - before) if seconds > before else math.nan
        self._last = (env_steps, seconds)
        self._timing.append(dict(zip(TIMING, (int(env_steps), round(seconds, 3), round(rate, 1)), strict=True)))
        return rate

    def rewind(self, env_steps: int) -> None:
        """For a resumed run: drops rows and events later than `env_steps`, the checkpoint's, and a torn last line."""
        try:
            self._metrics.rewind(env_steps)
            self._timing.rewind(env_steps)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot resume the tables in {self.folder}: {error}: mend or delete the line") from error
        if self._events:
            self._events.forget(env_steps + 1)
        self._last = (env_steps, 0.0)

    def close(self) -> None:
        """Flushes and closes every file; may be called twice."""
        for file in (self._metrics, self._timing, self._events):
            if file:
                file.close()

    def __enter__(self) -> "RunFiles":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """config.json of a run. Raises UserError where there is none."""
    path = Path(folder) / "config.json"
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{folder} is not the folder of a run: config.json: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: not JSON") from error


def read_metrics(folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """metrics.csv by column: float64 [rows], NaN where empty; text columns as strings. A torn last line is left out.

    Raises:
      UserError: no metrics.csv, or a line (not the torn last one) of another length than the header.
    """
    path = Path(folder) / "metrics.csv"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    rows = _rows(_whole_lines(data))
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(f"{path} line {number}: {len(row)} values for {len(rows[0])} columns: mend or delete it")
    return {name: _column([row[i] for row in rows[1:]]) for i, name in enumerate(rows[0])} if rows else {}


class _Table:
    """A CSV file that grows by whole rows."""

    def __init__(self, path: Path, columns: Iterable[str] = ()):
        self._path, self._warned = path, set()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        whole = _whole_lines(path.read_bytes())
        self._good = len(whole)  # bytes of whole rows
        self._columns = tuple(_rows(whole)[0]) if whole else tuple(columns)

    def append(self, row: dict[str, Any]) -> None:
        self._columns = self._columns or tuple(row)
        if strange := sorted(row.keys() - set(self._columns)):
            self._warn(f"{self._path.name} has no column {', '.join(strange)}: the first row fixes the columns")
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        if not self._good:
            writer.writerow(self._columns)
        writer.writerow([_text(row.get(name)) for name in self._columns])
        data = out.getvalue().encode()
        try:
            if os.fstat(self._file).st_size != self._good:
                os.ftruncate(self._file, self._good)  # a row was torn
            if os.write(self._file, data) != len(data):
                raise OSError("the disk took part of a row only")
            self._good += len(data)
        except OSError as error:
            self._warn(f"cannot write {self._path}: {error.strerror or error}; rows are lost until it works again")

    def rewind(self, env_steps: int) -> None:
        """Cuts the file after the last row that is not later than `env_steps`."""
        header, *lines = _whole_lines(self._path.read_bytes()).splitlines(keepends=True) or [b""]
        place = self._columns.index("env_steps") if lines else 0
        kept = itertools.takewhile(lambda line: float(_rows(line)[0][place]) <= env_steps, lines)
        self._good = len(header) + sum(map(len, kept))
        os.ftruncate(self._file, self._good)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, RuntimeWarning, stacklevel=4)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None


class _Events:
    """TensorBoard events, written by the calling thread: tensorboardX's queue blocks for ever when its thread dies."""

    def __init__(self, folder: Path):
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        self._folder, self._summary, self._proto = folder, summary, event_pb2
        count = len(list(folder.glob("events.out.tfevents.*")))  # one file a process; readers take them in this order
        self._writer = RecordWriter(str(folder / f"events.out.tfevents.{count:04}"))
        self._write(file_version="brain.Event:2")

    def scalar(self, name: str, value: float, env_steps: int) -> None:
        self._write(step=env_steps, summary=self._summary.scalar(name, value))

    def forget(self, env_steps: int) -> None:
        """Tells TensorBoard to drop what it has at or after `env_steps`."""
        log = self._proto.SessionLog
        self._write(step=env_steps, session_log=log(status=log.START))

    def _write(self, **fields: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), **fields)
        self._attempt(lambda writer: writer.write(event.SerializeToString()))

    def flush(self) -> None:
        self._attempt(lambda writer: writer.flush())

    def close(self) -> None:
        self.flush()
        self._attempt(lambda writer: writer.close())
        self._writer = None

    def _attempt(self, action: Callable[[Any], Any]) -> None:
        writer = self._writer
        try:
            if writer is not None:
                action(writer)
        except OSError as error:  # what follows a torn record cannot be read
            self._writer = None
            with suppress(OSError):
                writer.close()
            warnings.warn(f"no more events in {self._folder}: {error.strerror or error}", RuntimeWarning, stacklevel=4)


def _claim(folder: Path, config: dict[str, Any]) -> None:
    """Makes the folder ours, or leaves it as it is."""
    try:
        check_free(folder)
        text = json.dumps(describe(config), indent=2, default=_json) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(folder / "metrics.csv", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # one of two wins
        write_file(folder / "config.json", text.encode())
    except OSError as error:
        raise UserError(f"cannot make a run in {folder}: {error.strerror or error}: choose another folder") from error


def _json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):
        return value.tolist()
    return getattr(value, "__qualname__", None) or str(value)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _text(value: Any) -> str:
    """Shortest text that reads back the same in the value's own precision."""
    if value is None or isinstance(value, str):
        return " ".join((value or "").splitlines())  # a row is one line
    value = np.asarray(value)[()]
    if isinstance(value, np.bool_):
        return str(int(value))
    return "" if value != value else str(value)


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _rows(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(errors="replace"), newline="")))


def _column(values: list[str]) -> np.ndarray:
    try:
        return np.array([float(value) if value else math.nan for value in values])
    except ValueError:
        return np.array(values)
