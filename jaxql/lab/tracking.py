"""Services that get the metrics of a run too: Weights & Biases, MLflow, Trackio.

A service is a function that opens a `Tracker`; a new one is one function and one line in SERVICES. Where the metrics
go is said with the service's own environment variables. `tracking.json` in the run folder holds the id of the tracked
run, so that a resumed run goes on in it.
"""

import contextlib
import contextvars
import importlib.util
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from jaxql.errors import UserError, nearest
from jaxql.lab.disk import write_file

PROJECT = "jaxql"
FILE = "tracking.json"


class Tracker(Protocol):
    """A tracked run of a service. Whatever its methods raise ends the tracking, not the run."""

    id: str  # with which the service finds it again

    def log(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """Logs numbers at a step."""

    def close(self, finished: bool) -> None:
        """Sends what is left; `finished` says whether the run came to its end."""


Opener = Callable[[str, Path, Mapping[str, Any], str | None], Tracker]  # (name, run folder, config, id or None)


class WandbTracker:
    """A run of Weights & Biases, online or, with WANDB_MODE=offline, in the run folder."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any], id: str | None):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=name,
            id=id,
            resume="allow" if id else None,
            config=dict(config),
            dir=os.environ.get("WANDB_DIR", str(folder)),
            settings=wandb.Settings(silent=True, console="off", reinit="create_new"),
        )
        self.id = self._run.id

    def log(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """Logs numbers at a step."""
        self._run.log(dict(numbers), step=env_steps)

    def close(self, finished: bool) -> None:
        """Ends the tracked run."""
        self._run.finish(exit_code=0 if finished else 1)


class MlflowTracker:
    """A run of MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any], id: str | None):
        import mlflow

        self._entities, self._client = mlflow.entities, mlflow.MlflowClient()
        if id:
            self._client.update_run(id, status="RUNNING")
        else:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known = self._client.get_experiment_by_name(title)
            experiment = known.experiment_id if known else self._client.create_experiment(title)
            id = self._client.create_run(experiment, run_name=name).info.run_id
            params = [mlflow.entities.Param(key, str(value)[:500]) for key, value in _flat(config).items()]
            for start in range(0, len(params), 100):  # as many as MLflow takes at once
                self._client.log_batch(id, params=params[start : start + 100])
        self.id = id

    def log(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """Logs numbers at a step."""
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, env_steps) for name, value in numbers.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        """Ends the tracked run."""
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


class TrackioTracker:
    """A run of Trackio, in its local database or at TRACKIO_SPACE_ID."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any], id: str | None):
        import trackio

        self.id = id or f"{name}-{os.urandom(3).hex()}"
        arguments = {"project": os.environ.get("TRACKIO_PROJECT", PROJECT), "name": self.id, "config": _flat(config)}
        with contextlib.redirect_stdout(io.StringIO()):
            # In a context of its own, for Trackio ends the run that was opened before in the same one.
            self._run = contextvars.Context().run(
                lambda: trackio.init(**arguments, resume="allow", embed=False, auto_log_cpu=False, auto_log_gpu=False)
            )

    def log(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """Logs numbers at a step."""
        self._run.log(dict(numbers), step=env_steps)

    def close(self, finished: bool) -> None:
        """Ends the tracked run."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


SERVICES: dict[str, Opener] = {"wandb": WandbTracker, "mlflow": MlflowTracker, "trackio": TrackioTracker}


def check_service(name: str) -> None:
    """Raises UserError unless this is a service whose package is installed."""
    if name not in SERVICES:
        raise UserError(f'no tracking service "{name}"{nearest(name, SERVICES)}; there are {", ".join(SERVICES)}')
    if importlib.util.find_spec(name) is None:
        raise UserError(f'--track {name} needs the package {name}: pip install "jaxql[{name}]"')


class Tracking:
    """The tracked run of a run folder, if it has one. A service that fails gives one warning; the run goes on.

    The service is opened with the first numbers.

    Args:
      folder: of the run.
      config: what config.json holds of the run.
      service: a name in SERVICES; None: the one in `tracking.json`, or none.
      until: env steps up to which numbers were logged before the run was resumed; they are not logged again.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], service: str | None = None, until: int = -1):
        self._folder, self._config, self._until = folder, config, until
        self._tracker: Tracker | None = None
        self._id: str | None = None
        self.service = service
        if service is not None:
            self._write()
        else:
            self._read()

    def log(self, row: Mapping[str, Any], env_steps: int) -> None:
        """Logs the numbers of a row that are known."""
        numbers = {name: float(value) for name, value in row.items() if _is_number(value)}
        if self.service is not None and env_steps > self._until and numbers:
            with self._surviving():
                if self._tracker is None:
                    name = f"{self._config.get('agent')}-{self._config.get('env')}-seed{self._config.get('seed')}"
                    self._tracker = SERVICES[self.service](name, self._folder, self._config, self._id)
                    self._id = self._tracker.id
                    self._write()
                self._tracker.log(numbers, env_steps)

    def close(self, finished: bool) -> None:
        """Ends the tracking; ending twice is harmless."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            with self._surviving():
                tracker.close(finished)

    @contextlib.contextmanager
    def _surviving(self) -> Any:
        """Turns whatever is raised into one warning, after which nothing more is tracked."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the services are not of this run
            try:
                yield
                return
            except (Exception, SystemExit) as error:  # a service may raise anything
                reason = " ".join(f"{type(error).__name__}: {error}".split())
        service, self.service, self._tracker = self.service, None, None
        message = f"{service} fails, so {self._folder} is not tracked any more: {reason:.300}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)

    def _write(self) -> None:
        with self._surviving():
            content = {"service": self.service, "id": self._id}
            write_file(self._folder / FILE, (json.dumps(content) + "\n").encode())

    def _read(self) -> None:
        path = self._folder / FILE
        if path.exists():
            with self._surviving():
                content = json.loads(path.read_bytes())
                self.service, self._id = content["service"], content["id"]
                check_service(self.service or "")


def _is_number(value: Any) -> bool:
    return value is not None and not isinstance(value, str) and not math.isnan(value)


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of nested settings by their names, as text where they are no number.

    >>> _flat({"agent": "dqn", "settings": {"n_step": 3, "hidden": (64, 64)}})
    {'agent': 'dqn', 'n_step': 3, 'hidden': '(64, 64)'}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value)
        else:
            flat[name] = value if isinstance(value, bool | int | float) else str(value)
    return flat
