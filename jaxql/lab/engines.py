"""Engines: who runs the jobs of a sweep. Local processes, Ray, Slurm through submitit; a script for plain sbatch."""

import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from jaxql.errors import UserError

KINDS = ("local", "ray", "slurm", "sbatch")
LOST = -1  # exit code of a job whose process or machine is gone
# A job that outlives the process that waits for it would hold its run folder. Linux ends it with that process.
LAUNCHER = "import ctypes,os,sys\nctypes.CDLL(None).prctl(1,9)\nos.execv(sys.argv[1],sys.argv[1:])"


class Handle(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Returns the exit code, or None while the job waits or runs."""

    def stop(self) -> None:
        """Asks the job to end; `poll` says when it has."""


class Engine(Protocol):
    """Starts jobs."""

    at_once: int  # jobs that are started before the first has ended

    def start(self, words: Sequence[str], log: Path) -> Handle:
        """Starts `jaxql WORDS`, whose output is appended to `log`."""

    def close(self) -> None:
        """Lets go of what the engine holds; the jobs have ended."""


class LocalEngine:
    """Processes on this machine."""

    def __init__(self, jobs: int):
        self.at_once = jobs

    def start(self, words: Sequence[str], log: Path) -> Handle:
        """Starts a process."""
        return LocalHandle(start_process(words, os.getcwd(), log))

    def close(self) -> None:
        """Does nothing."""


class LocalHandle:
    """A process on this machine."""

    def __init__(self, process: subprocess.Popen):
        self._process = process

    def poll(self) -> int | None:
        """Returns the exit code, that of signal N as -N."""
        return self._process.poll()

    def stop(self) -> None:
        """Sends SIGTERM: the run saves its state."""
        self._process.terminate()


class RayEngine:
    """Tasks of a Ray cluster whose machines share the sweep's folder.

    Args:
      address: of a cluster; "" starts Ray on this machine.
      jobs: tasks at once on this machine.
      cpus, gpus: of a task.
    """

    def __init__(self, address: str, jobs: int, cpus: int = 1, gpus: float = 0.0):
        self._ray, self.at_once = load("ray", "--engine ray", "ray"), sys.maxsize
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray hides no device from a task without one
        where: dict[str, Any] = {"address": address} if address else {"address": "local", "num_cpus": jobs * cpus}
        try:
            self._ray.init(**where, log_to_driver=False, logging_level="ERROR", include_dashboard=None)
        except Exception as error:  # whatever Ray raises
            raise UserError(f"Ray does not start: {type(error).__name__}: {error}") from error
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(run_process)

    def start(self, words: Sequence[str], log: Path) -> Handle:
        """Submits a task."""
        return RayHandle(self._ray, self._task.remote(list(words), os.getcwd(), str(log)))

    def close(self) -> None:
        """Leaves the cluster; ends Ray if it was started here."""
        self._ray.shutdown()


class RayHandle:
    """A task of Ray."""

    def __init__(self, ray: ModuleType, task: Any):
        self._ray, self._task = ray, task

    def poll(self) -> int | None:
        """Returns the exit code of the task's process, `LOST` if the worker or its machine died."""
        if not self._ray.wait([self._task], timeout=0)[0]:
            return None
        try:
            return self._ray.get(self._task)
        except self._ray.exceptions.RayError:
            return LOST

    def stop(self) -> None:
        """Cancels the task."""
        self._ray.cancel(self._task, force=True)


class SlurmEngine:
    """Jobs of Slurm, through submitit.

    Args:
      cluster: "slurm", or "local" for processes on this machine that take the same path.
      folder: for submitit's files.
      cpus, gpus: of a job.
      options: of sbatch, by name.
      jobs: at once on this machine, with "local".
    """

    def __init__(
        self,
        cluster: str,
        folder: Path,
        cpus: int = 1,
        gpus: float = 0.0,
        options: Mapping[str, str] | None = None,
        jobs: int = 1,
    ):
        submitit = load("submitit", "--engine slurm", "slurm")
        self.at_once = jobs if cluster == "local" else sys.maxsize
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._executor.update_parameters(cpus_per_task=cpus, gpus_per_node=int(gpus), name="jaxql")
            if cluster == "slurm":
                self._executor.update_parameters(slurm_additional_parameters=dict(options or {}))
        except (RuntimeError, ValueError) as error:
            line = " ".join(str(error).split())
            raise UserError(f"{line}: is this a machine of a Slurm cluster? --engine sbatch prints a script") from error
        self._uncompleted = submitit.core.utils.UncompletedJobError

    def start(self, words: Sequence[str], log: Path) -> Handle:
        """Submits a job."""
        return SlurmHandle(self._executor.submit(run_process, list(words), os.getcwd(), str(log)), self._uncompleted)

    def close(self) -> None:
        """Does nothing."""


class SlurmHandle:
    """A job of submitit."""

    def __init__(self, job: Any, uncompleted: type[Exception]):
        self._job, self._uncompleted = job, uncompleted

    def poll(self) -> int | None:
        """Returns the exit code of the job's process, `LOST` if the job ended without one."""
        if not self._job.done():
            return None
        try:
            return self._job.result()
        except self._uncompleted:
            return LOST

    def stop(self) -> None:
        """Cancels the job."""
        self._job.cancel()


def make_engine(
    kind: str, folder: Path, jobs: int, cpus: int = 1, gpus: float = 0.0, options: Mapping[str, str] | None = None
) -> Engine:
    """Returns the engine "local", "ray", "ray:ADDRESS", "slurm" or "slurm:local".

    Args:
      kind: of the engine.
      folder: of the sweep.
      jobs: at once on this machine.
      cpus, gpus: of a job, for Ray and Slurm.
      options: of sbatch.

    Raises:
      UserError: it is not installed, or does not start.
    """
    name, _, rest = kind.partition(":")
    if name == "ray":
        return RayEngine(rest, jobs, cpus, gpus)
    if name == "slurm":
        return SlurmEngine(rest or "slurm", folder / "slurm", cpus, gpus, options, jobs)
    return LocalEngine(jobs)


def check_engine(kind: str) -> None:
    """Raises UserError unless this is the name of an engine whose package is installed."""
    name, _, rest = kind.partition(":")
    if name not in KINDS or (rest and name in ("local", "sbatch")) or (name == "slurm" and rest not in ("", "local")):
        raise UserError(f'no engine "{kind}"; there are local, ray, ray:ADDRESS, slurm, slurm:local and sbatch')
    if name in ("ray", "slurm"):
        load("ray" if name == "ray" else "submitit", f"--engine {name}", name)


def load(package: str, what: str, extra: str) -> ModuleType:
    """Returns an optional package. Raises UserError, which says how to install it, if it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f'{what} needs the package {package}: pip install "jaxql[{extra}]"') from error


def python_command(words: Sequence[str], directory: str) -> list[str]:
    """Returns `jaxql WORDS` as a command of this Python, which looks for modules where this process found jaxql."""
    here = Path(__file__).parents[2] == Path(directory).resolve()
    return [sys.executable, *([] if here else ["-P"]), "-m", "jaxql", *words]


def start_process(words: Sequence[str], directory: str, log: str | os.PathLike) -> subprocess.Popen:
    """Starts `jaxql WORDS` in a folder; its output is appended to `log`. It gets no signal of the terminal."""
    command = python_command(words, directory)
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        return subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def run_process(words: Sequence[str], directory: str, log: str) -> int:
    """Runs `jaxql WORDS` and returns its exit code, that of signal N as -N."""
    return start_process(words, directory, log).wait()


def sbatch_script(
    commands: Path,
    count: int,
    logs: Path,
    jobs: int | None = None,
    cpus: int = 1,
    gpus: float = 0.0,
    options: Mapping[str, str] | None = None,
) -> str:
    """Returns a script for `sbatch` that runs each line of a file of commands as a task of an array.

    Args:
      commands: the file.
      count: of its lines.
      logs: the folder of the tasks' output.
      jobs: tasks at once; None: as many as Slurm lets run.
      cpus, gpus: of a task.
      options: more options of sbatch.
    """
    asked = {
        "job-name": "jaxql",
        "array": f"0-{count - 1}" + (f"%{jobs}" if jobs else ""),
        "cpus-per-task": str(cpus),
        **({"gpus": str(int(gpus))} if gpus else {}),
        "output": str(logs / "slurm-%a.log"),
        "chdir": os.getcwd(),
        "requeue": "",
        **(options or {}),
    }
    lines = [f"#SBATCH --{name}={value}" if value else f"#SBATCH --{name}" for name, value in asked.items()]
    line = f'eval "exec $(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(commands.resolve()))})"'
    return "\n".join(["#!/bin/bash", *lines, line]) + "\n"
