"""The folder of a run: config.json, metrics.csv, timing.csv and event files; see the README beside this file.

`metrics.csv` holds no clock: the same seed gives the same bytes.
"""

import dataclasses
import json
import math
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxql.errors import UserError
from jaxql.lab.disk import write_file
from jaxql.lab.events import EventFile
from jaxql.lab.tables import Table, read_table

PACKAGES = ("jaxql", "jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "ale-py")
TIMING = ("env_steps", "seconds", "steps_per_second")


def default_folder(agent: str, env: str, seed: int, root: str | os.PathLike = "runs") -> Path:
    """Returns the first free one of `runs/<agent>-<env>-seed<seed>`, the same with `-2`, `-3`, ...

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
    """Returns the content of config.json: settings, versions, device, git commit of this directory, command line."""
    devices, program = jax.devices(), Path(sys.argv[0]).name
    return {
        "config": config,
        "seed": config.get("seed"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "x64": bool(jax.config.values["jax_enable_x64"]),
        "git": _git(),
        "command": ["jaxql" if program == "__main__.py" else program, *sys.argv[1:]],
    }


def check_free(folder: Path) -> None:
    """Raises UserError if the folder holds something already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: choose another folder, delete it, or resume the run in it")


class RunFiles:
    """The folder of one run, opened for writing; a context manager.

    Args:
      folder: made here; must not exist or be empty, unless `resume`.
      config: settings, for config.json. JSON takes other values as strings. Not rewritten on resume.
      resume: continue the run in `folder`; call `rewind` with the env steps of the checkpoint that was loaded.
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
            self._metrics = Table(self.folder / "metrics.csv")
            self._timing = Table(self.folder / "timing.csv", TIMING)
            self._events = EventFile(self.folder) if tensorboard else None
        except OSError as error:
            raise UserError(f"cannot write in {folder}: {error.strerror or error}") from error
        self._last = (0, 0.0)

    def append(self, row: dict[str, Any]) -> None:
        """Writes one row of metrics.csv, and its numbers as TensorBoard scalars at `row["env_steps"]`.

        The first row's keys are the columns. A float is the shortest text that reads back the same in its own
        precision. NaN, None and absent keys are empty cells. A key that is no column is left out with one warning.
        """
        env_steps = row["env_steps"]
        self._metrics.append(row)
        for name in (name for name in row if name != "env_steps"):
            if not isinstance(row[name], str):
                self.scalar(name, row[name], env_steps)
        if self._events:
            self._events.flush()

    def scalar(self, name: str, value: Any, env_steps: int) -> None:
        """Writes one number to TensorBoard alone; NaN and None are left out."""
        if self._events and value is not None and not math.isnan(value):
            self._events.scalar(name, float(value), int(env_steps))

    def timing(self, env_steps: int, seconds: float) -> float:
        """Writes one row of timing.csv and returns the env steps a second since the row before.

        The rate is NaN where no time has passed. `seconds` counts from the start of this process.
        """
        steps, before = self._last
        rate = float(env_steps - steps) / (seconds - before) if seconds > before else math.nan
        self._last = (env_steps, seconds)
        self._timing.append(dict(zip(TIMING, (int(env_steps), round(seconds, 3), round(rate, 1)), strict=True)))
        return rate

    def rewind(self, env_steps: int) -> None:
        """Drops rows and events later than `env_steps`, the checkpoint's, and a torn last line; for a resumed run."""
        try:
            self._metrics.rewind(env_steps)
            self._timing.rewind(env_steps)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot resume the tables in {self.folder}: {error}: mend or delete the line") from error
        if self._events:
            self._events.forget(env_steps + 1)
        self._last = (env_steps, 0.0)

    def close(self) -> None:
        """Closes every file; closing twice is harmless."""
        for file in (self._metrics, self._timing, self._events):
            if file:
                file.close()

    def __enter__(self) -> "RunFiles":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns config.json of a run. Raises UserError where there is none."""
    path = Path(folder) / "config.json"
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{folder} is not the folder of a run: config.json: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: not JSON") from error


def read_metrics(folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns metrics.csv by column; see `jaxql.lab.tables.read_table`."""
    return read_table(Path(folder) / "metrics.csv")


def _claim(folder: Path, config: dict[str, Any]) -> None:
    """Makes the folder and its config.json, or raises UserError and leaves the folder as it is."""
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
    if isinstance(value, np.ndarray | np.generic | jax.Array):
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
