"""Laws of a run's files: nothing is overwritten, same rows give same bytes, and a bad disk does not stop a training."""

import csv
import dataclasses
import errno
import os
import subprocess
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.errors import UserError
from jaxql.lab import files
from jaxql.lab.files import RunFiles, default_folder, read_config, read_metrics

ROWS = [
    {"env_steps": 10, "mean_return": 0.1, "loss": np.float32(0.1), "episodes": np.int32(1)},
    {"env_steps": 20, "mean_return": float("nan"), "loss": jnp.float32(1e-9), "episodes": 2},
    {"env_steps": 30, "mean_return": None, "loss": float("inf"), "episodes": 3},
    {"env_steps": np.int64(40), "mean_return": 1 / 3, "episodes": 3},
]


def run(folder, rows=(), **settings):
    with RunFiles(folder, {"seed": 1}, **{"tensorboard": False} | settings) as opened:
        for row in rows:
            opened.append(row)


def test_same_rows_same_bytes_and_they_read_back_exactly(tmp_path):
    run(tmp_path / "a", ROWS)
    run(tmp_path / "b", ROWS)
    data = (tmp_path / "a" / "metrics.csv").read_bytes()
    assert data == (tmp_path / "b" / "metrics.csv").read_bytes()
    assert data.splitlines()[:3] == [b"env_steps,mean_return,loss,episodes", b"10,0.1,0.1,1", b"20,,1e-09,2"]
    columns = read_metrics(tmp_path / "a")
    np.testing.assert_array_equal(columns["env_steps"], [10, 20, 30, 40])
    np.testing.assert_array_equal(columns["mean_return"], [0.1, np.nan, np.nan, 1 / 3])
    np.testing.assert_array_equal(columns["loss"].astype(np.float32), np.float32([0.1, 1e-9, np.inf, np.nan]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16, np.int64])
def test_every_number_survives_in_its_own_precision(tmp_path, dtype):
    values = np.random.default_rng(0).integers(0, 256, 400 * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    with np.errstate(invalid="ignore"):
        values = values[np.isfinite(values.astype(np.float64))]
    run(tmp_path / "a", [{"env_steps": i, "x": value} for i, value in enumerate(values)])
    with open(tmp_path / "a" / "metrics.csv", newline="") as file:
        read = [row["x"] for row in csv.DictReader(file)]
    back = [int(text) if dtype is np.int64 else float(text) for text in read]
    np.testing.assert_array_equal(np.array(back).astype(dtype), values)
    for text, value in zip(read, values, strict=True):
        digits = len(text.split("e")[0].strip("-").replace(".", "").strip("0"))
        if dtype in (np.float64, np.float32, np.float16) and digits > 1:  # one digit fewer is another number
            assert dtype(f"{float(value):.{digits - 2}e}") != value


@pytest.mark.trust(29)
def test_a_row_is_there_before_the_run_is_closed(tmp_path):
    opened = RunFiles(tmp_path / "a", {}, tensorboard=False)
    for count, row in enumerate(ROWS, 1):
        opened.append(row)
        assert len(read_metrics(tmp_path / "a")["loss"]) == count
    opened.close()
    opened.close()


def test_text_stays_in_its_cell(tmp_path):
    run(tmp_path / "a", [{"env_steps": 1, "note": 'a,"b"\nc\r'}, {"env_steps": 2, "note": ""}])
    assert read_metrics(tmp_path / "a")["note"].tolist() == ['a,"b" c', ""]


def test_an_unknown_column_warns_once_and_is_left_out(tmp_path):
    with RunFiles(tmp_path / "a", {}, tensorboard=False) as opened:
        opened.append({"env_steps": 1, "x": 1.0})
        with pytest.warns(RuntimeWarning, match="no column y"):
            opened.append({"env_steps": 2, "x": 2.0, "y": 3.0})
        opened.append({"env_steps": 3, "y": 3.0})
    assert list(read_metrics(tmp_path / "a")) == ["env_steps", "x"]
    np.testing.assert_array_equal(read_metrics(tmp_path / "a")["x"], [1, 2, np.nan])


@pytest.mark.parametrize("torn", [b"", b"5", b"50,0.5", b'50,0.5,"', b"50,0.5,0.1,3", b"\xff\xfe"])
@pytest.mark.trust(29)
def test_a_torn_last_line_is_left_out_and_cut_on_resume(tmp_path, torn):
    run(tmp_path / "a", ROWS)
    path = tmp_path / "a" / "metrics.csv"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert len(read_metrics(tmp_path / "a")["loss"]) == len(ROWS)
    run(tmp_path / "a", [{"env_steps": 50, "mean_return": 2.0, "loss": 3.0, "episodes": 4}], resume=True)
    assert path.read_bytes() == whole + b"50,2.0,3.0,4\n"


def test_a_line_broken_in_the_middle_is_named(tmp_path):
    run(tmp_path / "a", ROWS)
    with open(tmp_path / "a" / "metrics.csv", "a") as file:
        file.write("50,1\n60,1,1,1\n")
    with pytest.raises(UserError, match="line 6: 2 values for 4 columns"):
        read_metrics(tmp_path / "a")


def test_empty_and_missing_metrics(tmp_path):
    run(tmp_path / "a")
    assert read_metrics(tmp_path / "a") == {}
    with pytest.raises(UserError, match="metrics.csv"):
        read_metrics(tmp_path / "b")


@pytest.mark.parametrize("cut", [0, 15, 20, 99])
@pytest.mark.trust(29)
def test_resumed_after_rewind_equals_uninterrupted(tmp_path, cut):
    run(tmp_path / "whole", ROWS)
    run(tmp_path / "cut", ROWS[:3])
    with RunFiles(tmp_path / "cut", {}, resume=True, tensorboard=False) as opened:
        opened.rewind(cut)
        for row in ROWS:
            if row["env_steps"] > cut:
                opened.append(row)
    whole, resumed = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "cut"))
    assert resumed == (whole if cut < 99 else b"".join(whole.splitlines(keepends=True)[:4]))


def test_timing_is_apart_and_its_rate_is_of_the_last_interval(tmp_path):
    with RunFiles(tmp_path / "a", {}, tensorboard=False) as opened:
        assert opened.timing(100, 2.0) == 50
        assert opened.timing(400, 3.0) == 300
        assert np.isnan(opened.timing(400, 3.0))
    with RunFiles(tmp_path / "a", {}, resume=True, tensorboard=False) as opened:
        opened.rewind(100)
        assert opened.timing(150, 1.0) == 50
    lines = (tmp_path / "a" / "timing.csv").read_text().splitlines()
    assert lines == ["env_steps,seconds,steps_per_second", "100,2.0,50.0", "150,1.0,50.0"]
    assert (tmp_path / "a" / "metrics.csv").read_bytes() == b""


@dataclasses.dataclass(frozen=True)
class Config:
    hidden: tuple = (64, 64)
    env: object = dict
    rate: object = dataclasses.field(default_factory=lambda: jnp.float32(0.5))


@pytest.mark.trust(29)
def test_config_says_what_was_run_and_where(tmp_path):
    run(tmp_path / "a")
    with RunFiles(tmp_path / "b", {"seed": 7, "agent": Config()}, tensorboard=False):
        pass
    read = read_config(tmp_path / "b")
    assert read["seed"] == 7 and read["command"][1:] == sys.argv[1:] and read["device"]["count"] >= 1
    assert read["config"] == {"seed": 7, "agent": {"hidden": [64, 64], "env": "dict", "rate": 0.5}}
    assert set(read["versions"]) == {"python", *files.PACKAGES} and read["versions"]["numpy"] == np.__version__


@pytest.mark.trust(29)
def test_config_names_commit_and_uncommitted_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert files.describe({})["git"] is None

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *words], check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "one")
    assert files.describe({})["git"] == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "code.py").write_text("2")
    assert files.describe({})["git"]["dirty"] is True
    monkeypatch.setenv("PATH", "")
    assert files.describe({})["git"] is None


def test_a_folder_in_use_is_refused_and_left_as_it_was(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    run(tmp_path / "run", ROWS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in ("used", "file", "run"):
        with pytest.raises(UserError, match="not empty: choose another"):
            RunFiles(tmp_path / name, {})
    with pytest.raises(UserError, match="not the folder of a run"):
        RunFiles(tmp_path / "used", {}, resume=True)
    with pytest.raises(UserError, match="not the folder of a run"):
        RunFiles(tmp_path / "none", {}, resume=True)
    with pytest.raises(UserError, match="cannot make a run"):
        RunFiles(tmp_path / "file" / "below", {})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    (tmp_path / "empty").mkdir()
    run(tmp_path / "empty", ROWS)
    assert not (tmp_path / "none").exists()


def test_of_two_runs_that_start_at_once_one_is_refused(tmp_path, monkeypatch):
    valid = files.describe

    def meanwhile(config):
        monkeypatch.setattr(files, "describe", valid)
        run(tmp_path / "a", ROWS)
        return valid(config)

    monkeypatch.setattr(files, "describe", meanwhile)
    with pytest.raises(UserError, match="File exists"):
        RunFiles(tmp_path / "a", {"seed": 99})
    assert read_config(tmp_path / "a")["seed"] == 1 and len(read_metrics(tmp_path / "a")["loss"]) == len(ROWS)


def test_default_folders_are_safe_and_free(tmp_path):
    names = []
    for _ in range(3):
        names.append(default_folder("dqn", "ALE/Pong-v5", 3, root=tmp_path))
        names[-1].mkdir()
    assert [path.name for path in names] == ["dqn-ALE-Pong-v5-seed3" + end for end in ("", "-2", "-3")]
    assert default_folder("dqn", "../a:b c", 0, root=tmp_path).parent == tmp_path


@pytest.mark.parametrize("partial", [0, 3])
@pytest.mark.trust(20)
def test_a_full_disk_warns_once_loses_those_rows_only_and_mends_the_file(tmp_path, monkeypatch, partial):
    valid = os.write

    def full(descriptor, data):
        if partial:
            return valid(descriptor, data[:partial])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RunFiles(tmp_path / "a", {}, tensorboard=False) as opened:
        opened.append(ROWS[0])
        with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            patch.setattr(os, "write", full)
            opened.append(ROWS[1])
            opened.append(ROWS[2])
        assert len(caught) == 1 and "metrics.csv" in str(caught[0].message)
        assert len(read_metrics(tmp_path / "a")["loss"]) == 1
        opened.append(ROWS[3])
    np.testing.assert_array_equal(read_metrics(tmp_path / "a")["env_steps"], [10, 40])


def events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder)).Reload()
    return {name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]}


def test_tensorboard_reads_what_was_written(tmp_path):
    with RunFiles(tmp_path / "a", {}) as opened:
        for row in ROWS:
            opened.append(row | {"note": "text"})
        opened.scalar("exact/distance", np.float64(0.25), 40)
    assert events(tmp_path / "a") == {
        "mean_return": [(10, np.float32(0.1)), (40, np.float32(1 / 3))],
        "loss": [(10, np.float32(0.1)), (20, np.float32(1e-9)), (30, np.inf)],
        "episodes": [(10, 1), (20, 2), (30, 3), (40, 3)],
        "exact/distance": [(40, 0.25)],
    }


def test_events_are_whole_after_an_exception_and_readable_before_the_end(tmp_path):
    with pytest.raises(KeyError), RunFiles(tmp_path / "a", {}) as opened:
        opened.append({"env_steps": 1, "x": 1.0})
        assert events(tmp_path / "a") == {"x": [(1, 1.0)]}
        opened.scalar("y", 2.0, 1)
        raise KeyError
    assert events(tmp_path / "a") == {"x": [(1, 1.0)], "y": [(1, 2.0)]}


def test_a_resumed_run_replaces_the_events_it_replays(tmp_path):
    run(tmp_path / "a", [{"env_steps": i, "x": 0.0} for i in (1, 2, 3, 4)], tensorboard=True)
    with RunFiles(tmp_path / "a", {}, resume=True) as opened:
        opened.rewind(2)
        opened.append({"env_steps": 3, "x": 1.0})
    assert events(tmp_path / "a") == {"x": [(1, 0.0), (2, 0.0), (3, 1.0)]}
    assert len(list((tmp_path / "a").glob("events.*"))) == 2


@pytest.mark.trust(20)
def test_a_disk_full_of_events_does_not_stop_the_run(tmp_path, monkeypatch):
    opened = RunFiles(tmp_path / "a", {})
    opened.append(ROWS[0])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)  # tensorboardX syncs whenever it flushes
        with pytest.warns(RuntimeWarning, match="no more events"):
            opened.append(ROWS[1])
        opened.append(ROWS[2])
        opened.close()
    np.testing.assert_array_equal(read_metrics(tmp_path / "a")["env_steps"], [10, 20, 30])
