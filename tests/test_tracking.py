"""`--track`: services get the numbers of metrics.csv; one that fails never ends a run."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import warnings

import numpy as np
import pytest

import jaxql
from jaxql import cli
from jaxql.errors import UserError
from jaxql.lab import tracking
from jaxql.lab.files import RunFiles, read_metrics

SMALL = dict(steps=400, log_every=100, eval_every=200, eval_episodes=2, checkpoint_every=100, solved_at=np.inf)


class Memory:
    """A service that keeps what it gets, by id."""

    runs = {}  # id -> {"rows": [(env_steps, numbers)], "closed": [bool]}
    fails_at = None  # a call's number from which on it fails
    calls = 0

    def __init__(self, name, folder, config, id):
        self.call()
        self.id = id or f"{name}-{len(self.runs)}"
        self.run = self.runs.setdefault(self.id, {"rows": [], "closed": [], "config": config})

    def call(self):
        Memory.calls += 1
        if self.fails_at is not None and Memory.calls > self.fails_at:
            raise ConnectionError("no network")

    def log(self, numbers, env_steps):
        self.call()
        self.run["rows"].append((env_steps, numbers))

    def close(self, finished):
        self.call()
        self.run["closed"].append(finished)


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setitem(tracking.SERVICES, "json", Memory)  # "json" is a module that is installed
    monkeypatch.setattr(Memory, "runs", {})
    monkeypatch.setattr(Memory, "calls", 0)
    return Memory


def train(folder, **options):
    return jaxql.train("q-learning", "FrozenLake-v1", out=folder, quiet=True, track="json", **SMALL | options)


def curve(run, name):
    """The steps and values of a quantity, as a service has them."""
    found = [(env_steps, numbers[name]) for env_steps, numbers in run["rows"] if name in numbers]
    return [list(each) for each in zip(*found, strict=True)]


def test_a_service_gets_the_numbers_of_the_table(memory, tmp_path):
    train(tmp_path / "a")
    (run,) = memory.runs.values()
    table = read_metrics(tmp_path / "a")
    for name in ("loss", "eval_return", "return_mean", "epsilon"):
        steps, values = curve(run, name)
        known = np.isfinite(table[name])
        assert steps == table["env_steps"][known].tolist() and values == table[name][known].tolist()
    assert curve(run, "speed") and run["closed"] == [True]
    assert run["config"]["settings"]["steps"] == 400


def test_every_seed_has_a_tracked_run(memory, tmp_path):
    train(tmp_path / "a", seeds=3)
    assert [run["config"]["seed"] for run in memory.runs.values()] == [0, 1, 2]
    assert len({json.loads(path.read_text())["id"] for path in tmp_path.rglob("tracking.json")}) == 3


def test_a_resumed_run_goes_on_in_the_same_tracked_run(memory, tmp_path):
    class Killed(Exception):
        pass

    def kill(row):
        if row["env_steps"] >= 300:
            raise Killed

    train(tmp_path / "whole")
    whole = memory.runs.popitem()[1]
    with contextlib.suppress(Killed):
        train(tmp_path / "parts", callback=kill)
    jaxql.resume(tmp_path / "parts", quiet=True)
    (run,) = memory.runs.values()
    assert run["closed"] == [False, True]
    assert curve(run, "loss") == curve(whole, "loss"), "nothing is there twice, nothing is missing"


@pytest.mark.parametrize("fails_at", range(0, 20, 3))
def test_a_service_that_fails_ends_no_run(memory, tmp_path, monkeypatch, fails_at):
    monkeypatch.setattr(Memory, "fails_at", fails_at)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = train(tmp_path / "a")
    assert run.env_steps >= 400
    texts = [str(warning.message) for warning in caught if "tracked" in str(warning.message)]
    assert len(texts) == (1 if fails_at < Memory.calls else 0)
    assert all("json fails" in text and "ConnectionError: no network" in text for text in texts)


def test_a_damaged_record_ends_no_run(tmp_path):
    RunFiles(tmp_path / "a", {"seed": 0}).close()
    (tmp_path / "a" / "tracking.json").write_text("{")
    with pytest.warns(RuntimeWarning, match="is not tracked any more"):
        RunFiles(tmp_path / "a", {"seed": 0}, resume=True).close()


def test_a_run_that_fails_at_once_leaves_nothing(memory, tmp_path):
    with pytest.raises(ZeroDivisionError), RunFiles(tmp_path / "a", {"seed": 0}, track="json"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir()) and not memory.runs


@pytest.mark.parametrize("command", ["train dqn", "sweep --agent dqn"])
def test_an_unknown_or_missing_service_is_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), "--env", "CartPole-v1"]
    assert cli.main([*words, "--track", "wandbb"]) == 2
    assert 'did you mean "wandb"' in (error := capsys.readouterr().err) and len(error.splitlines()) == 1
    monkeypatch.setitem(tracking.SERVICES, "not_installed", Memory)
    assert cli.main([*words, "--track", "not_installed"]) == 2
    assert 'pip install "jaxql[not_installed]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no tracking service"):
        jaxql.train("dqn", "CartPole-v1", track="x")


# -------------------------------------------------------------------------------------- the services, without a network
def tracked(folder, service, tmp_path, *words):
    """Trains 2 seeds in a process of its own, as a person would."""
    pytest.importorskip(service)
    import os

    environment = os.environ | {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
                                "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}  # fmt: skip
    argv = f"train q-learning --env FrozenLake-v1 --seeds 2 --steps 400 --log-every 100 --eval-every 200 --out {folder}"
    command = [sys.executable, "-m", "jaxql", *argv.split(), "--track", service, *words]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0 and "not tracked" not in result.stderr, result.stderr
    ids = [json.loads((folder / f"seed{seed}" / "tracking.json").read_text())["id"] for seed in range(2)]
    return ids, [read_metrics(folder / f"seed{seed}") for seed in range(2)]


def test_mlflow(tmp_path):
    ids, tables = tracked(tmp_path / "a", "mlflow", tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        for id, table in zip(ids, tables, strict=True):
            query = "select step, value from metrics where run_uuid = ? and key = 'loss' order by step"
            known = np.isfinite(table["loss"])
            rows = database.execute(query, [id]).fetchall()
            assert rows == list(zip(table["env_steps"][known], table["loss"][known], strict=True))
            (status,) = database.execute("select status from runs where run_uuid = ?", [id]).fetchone()
            assert status == "FINISHED"
            params = dict(database.execute("select key, value from params where run_uuid = ?", [id]).fetchall())
            assert params["agent"] == "q-learning" and params["steps"] == "400"
    database.close()


def test_wandb(tmp_path):
    ids, tables = tracked(tmp_path / "a", "wandb", tmp_path)
    for seed, id in enumerate(ids):
        (file,) = (tmp_path / "a" / f"seed{seed}").glob(f"wandb/offline-run-*/run-{id}.wandb")
        content = file.read_bytes()
        assert all(
            name in content for name in (b"eval_return", b"gradient_norm"[:0] or b"loss", b"return_mean", b"speed")
        )
        assert content.count(b"eval_return") >= int(np.isfinite(tables[seed]["eval_return"]).sum())


def test_trackio(tmp_path):
    ids, tables = tracked(tmp_path / "a", "trackio", tmp_path)
    (path,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        for id, table in zip(ids, tables, strict=True):
            query = "select step, metrics from metrics where run_name = ? order by step"
            rows = [(step, json.loads(metrics)) for step, metrics in database.execute(query, [id])]
            found = [(step, numbers["loss"]) for step, numbers in rows if "loss" in numbers]
            known = np.isfinite(table["loss"])
            assert found == list(zip(table["env_steps"][known], table["loss"][known], strict=True))
    database.close()
