"""The folder of a run: config.json, metrics.csv, timing.csv and event files; see the README beside this file.

`metrics.csv` holds no clock: the same seed gives the same bytes.
"""

import dataclasses
import datetime
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxql.errors import UserError
from jaxql.lab import trust
from jaxql.lab.disk import write_file
from jaxql.lab.events import EventFile
from jaxql.lab.tables import Table, read_table
from jaxql.lab.tracking import Tracking

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PACKAGES = ("jaxql", "jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "ale-py")
TIMING = ("env_steps", "seconds", "steps_per_second")
LONGEST_NAME = 200  # letters of a default folder's name; file systems take 255 bytes


def default_folder(agent: str, env: str, seed: int, last: int | None = None, root: str | os.PathLike = "runs") -> Path:
    """Returns the first free one of `runs/<agent>-<env>-seed<seed>`, the same with `-2`, `-3`, ...

    With `last`, the folder is that of the seeds from `seed` to `last`.

    >>> default_folder("dqn", "ALE/Pong-v5", 0).as_posix()
    'runs/dqn-ALE-Pong-v5-seed0'
    >>> default_folder("dqn", "CartPole-v1", 0, last=4).as_posix()
    'runs/dqn-CartPole-v1-seeds0-4'
    """
    name = re.sub(r"[^\w.+-]+", "-", f"{agent}-{env}")[:LONGEST_NAME]
    name += f"-seed{seed}" if last is None else f"-seeds{seed}-{last}"
    folder, count = Path(root) / name, 1
    while folder.exists():
        count += 1
        folder = Path(root) / f"{name}-{count}"
    return folder


def describe(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of config.json but its checksum and signature.

    Settings, date, versions, machine, device, git commit of this directory, command line, and where the modules lie
    that the settings name.
    """
    devices, program = jax.devices(), Path(sys.argv[0]).name
    return {
        "config": config,
        "seed": config.get("seed"),
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": platform.node(),
        "cpu": {"kind": _cpu(), "count": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "x64": bool(jax.config.values["jax_enable_x64"]),
        "git": _git(),
        "command": ["jaxql" if program == "__main__.py" else program, *sys.argv[1:]],
        "modules": trust.homes_of(trust.modules_of(config)),
    }


def check_free(folder: Path) -> None:
    """Raises UserError if the folder holds something already, or cannot be looked at."""
    try:
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty: choose another folder, delete it, or resume the run in it")
        os.stat(folder)  # finds names that are too long
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise _cannot_make(folder, error) from error


def _cannot_make(folder: Path, error: OSError | ValueError) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"cannot make a run in {_shortened(folder)}: {reason}: choose another folder")


def _shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= LONGEST_NAME else f"{text[:60]}...{text[-20:]}"


class RunFiles:
    """The folder of one run, opened for writing; a context manager.

    Args:
      folder: made here; must not exist or be empty, unless `resume`.
      config: settings, for config.json. JSON takes other values as strings. Not rewritten on resume.
      resume: continue the run in `folder`; call `rewind` with the env steps of the checkpoint that was loaded.
      tensorboard: whether `append` and `scalar` write event files too.
      track: a service that gets the same numbers; see `jaxql.lab.tracking`. On resume it is the one of before.

    Raises:
      UserError: the folder is in use, cannot be made, or (resume) holds no run. Nothing is left behind then.

    A run that fails before its first row and its first checkpoint leaves nothing behind either.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunFiles(f"{folder}/a", {"seed": 0}, tensorboard=False) as files:
    ...         files.append({"env_steps": 10, "return": 0.5})
    ...     read_metrics(f"{folder}/a")["return"]
    array([0.5])
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        config: dict[str, Any],
        resume: bool = False,
        tensorboard: bool = True,
        track: str | None = None,
    ):
        self.folder, self._made, self._fresh = Path(folder), list[Path](), not resume
        if resume:
            read_config(self.folder)
        else:
            self._made = _claim(self.folder, config)
        self._lock = lock_folder(self.folder)
        try:
            until = last_env_steps(self.folder) if resume else -1
            self._tracking = Tracking(self.folder, config, None if resume else track, until)
            self._metrics = Table(self.folder / "metrics.csv")
            self._timing = Table(self.folder / "timing.csv", TIMING)
            self._events = EventFile(self.folder) if tensorboard else None
        except OSError as error:
            if self._fresh:
                self._discard()
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
                self._event(name, row[name], env_steps)
        self._tracking.log(row, int(env_steps))
        if self._events:
            self._events.flush()

    def scalar(self, name: str, value: Any, env_steps: int) -> None:
        """Writes one number to TensorBoard and the tracker, but no table; NaN and None are left out."""
        self._event(name, value, env_steps)
        self._tracking.log({name: value}, int(env_steps))

    def _event(self, name: str, value: Any, env_steps: int) -> None:
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

    def write_result(self, result: dict[str, Any]) -> None:
        """Writes result.json. Raises OSError."""
        write_file(self.folder / "result.json", (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())

    def check_present(self) -> None:
        """Raises UserError if the folder was deleted or replaced."""
        if not (self.folder / "config.json").exists():
            raise UserError(f"the run folder {self.folder} is gone: somebody deleted or moved it, so the run ends")

    def close(self) -> None:
        """Closes every file; closing twice is harmless."""
        for file in (self._metrics, self._timing, self._events):
            if file:
                file.close()
        self._tracking.close(finished=(self.folder / "result.json").exists())
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def __enter__(self) -> "RunFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self.close()
        if kind is not None and self._fresh:
            with suppress(OSError):
                if not (self.folder / "checkpoints").exists() and not (self.folder / "metrics.csv").stat().st_size:
                    self._discard()

    def _discard(self) -> None:
        """Removes what this run wrote, and the folders that were made for it and are empty."""
        files = [self.folder / name for name in ("config.json", "metrics.csv", "timing.csv", "tracking.json")]
        for file in [*files, *self.folder.glob("events.out.tfevents.*")]:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        _remove_folders(self._made)


def lock_folder(folder: Path) -> int | None:
    """Returns the descriptor of the locked folder, which a kill unlocks; None where folders cannot be locked.

    Raises:
      UserError: another process trains in the folder.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"{folder} is in use: another process works in it; wait for it or stop it") from error
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def read_result(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Returns result.json of a run, or None if the run is not finished.

    Raises:
      UserError: the file is damaged.
    """
    path = Path(folder) / "result.json"
    try:
        result = json.loads(path.read_bytes())
    except OSError:
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: not JSON") from error
    if not isinstance(result, dict):
        raise UserError(f"{path} is damaged: not a JSON object")
    return result


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns config.json of a run, in which {"float": "inf"} stands for a number that JSON lacks.

    Raises:
      UserError: there is none, or it is no JSON object with the settings of a run.
    """
    path = Path(folder) / "config.json"
    try:
        record = json.loads(path.read_bytes(), parse_constant=_refuse_constant, object_hook=_with_floats)
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError):
            reason = f"is not the folder of a run: config.json: {error.strerror or error}"
            raise UserError(f"{_shortened(Path(folder))} {reason}") from error
        raise UserError(f"{path} is damaged: not JSON") from error
    config = record.get("config") if isinstance(record, dict) else None
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it has no settings of a run")
    return record


def is_unchanged(record: dict[str, Any]) -> bool:
    """Returns whether config.json is what was written: its checksum is right."""
    try:
        return record.get("checksum") == _checksum(record)
    except RecursionError:
        return False


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _with_floats(value: dict[str, Any]) -> Any:
    """Returns an object of JSON, or the float that it stands for."""
    return float(value["float"]) if value.keys() == {"float"} and value["float"] in ("inf", "-inf", "nan") else value


def as_json(value: Any) -> Any:
    """Returns what JSON can hold: {"float": "inf"} for a float that is not finite, and other values as `_json` says."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, dict):
        return {str(name): as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return value if isinstance(value, str | int | float | None) else as_json(_json(value))


def _checksum(record: dict[str, Any]) -> str:
    rest = {name: value for name, value in record.items() if name not in ("checksum", "signature")}
    return hashlib.sha256(json.dumps(as_json(rest), sort_keys=True).encode()).hexdigest()


def last_env_steps(folder: str | os.PathLike) -> int:
    """Returns the env steps in the last whole row of metrics.csv; 0 where there is none."""
    try:
        with open(Path(folder) / "metrics.csv", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            return int(float(file.read().rsplit(b"\n", 2)[-2].split(b",")[0]))
    except (OSError, IndexError, ValueError):
        return 0


def read_metrics(folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns metrics.csv by column; see `jaxql.lab.tables.read_table`."""
    return read_table(Path(folder) / "metrics.csv")


def _claim(folder: Path, config: dict[str, Any]) -> list[Path]:
    """Makes the folder and its config.json; returns the folders that were made, innermost first.

    Raises:
      UserError: the folder cannot be had; it is left as it was.
    """
    check_free(folder)
    record = as_json(describe(config))
    record["checksum"] = _checksum(record)
    if trust.modules_of(config):
        record["signature"] = trust.sign(folder, record["checksum"])
    made: list[Path] = []
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(folder / "metrics.csv", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # one of two wins
        try:
            write_file(folder / "config.json", (json.dumps(record, indent=2, allow_nan=False) + "\n").encode())
        except OSError:
            for name in ("config.json", "metrics.csv"):
                (folder / name).unlink(missing_ok=True)
            raise
    except OSError as error:
        _remove_folders(made)
        raise _cannot_make(folder, error) from error
    return made


def _remove_folders(folders: list[Path]) -> None:
    """Removes empty folders, innermost first."""
    with suppress(OSError):
        for each in folders:
            each.rmdir()


def _json(value: Any) -> Any:
    """Returns a value that is no JSON as one that is."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return value.tolist()
    return getattr(value, "__qualname__", None) or str(value)


def _cpu() -> str:
    about = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: (.+)$", about.read_text(), re.MULTILINE) if about.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


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
