"""Runs under rough handling: signals, bad disks, forged files, foreign folders, poison and divergence."""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import signal
import struct
import sys
import threading
import time
import warnings
from pathlib import Path

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxql
from jaxql import cli
from jaxql.agents.q_learning import q_learning
from jaxql.errors import UserError
from jaxql.lab import checkpoint, disk
from jaxql.lab.files import RunFiles, read_config, read_metrics

LAKE = dict(env="FrozenLake-v1", env_args={"is_slippery": False}, quiet=True, num_envs=1, eval_every=10**6)
POLE = dict(env="CartPole-v1", quiet=True, hidden=(16,), eval_every=10**6, gradient_steps=1, num_envs=1,
            rollout_length=1, warmup_steps=64)  # fmt: skip
CODE = """
import sys
import jaxql
from jaxql.agents.q_learning import ENTRY as AGENT, Config
from jaxql.networks import make_network
sys.modules["jaxql_witness"] = sys
def Net(spec):
    return make_network("mlp", spec, (8,))
"""


class Slow(gym.Env):
    """Takes 0.2 seconds a step and never ends."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)
    seconds = 0.2

    def reset(self, *, seed=None, options=None):
        return 0, {}

    def step(self, action):
        time.sleep(self.seconds)
        return int(action), 1.0, False, False, {}


class Jackpot(gym.Env):
    """Pays 1e6 once in a while and -1e6 the step after."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.clock += 1
        reward = {3: 1e6, 4: -1e6}.get(self.clock, 0.0)
        return np.full(2, self.clock / 10, np.float32), reward, self.clock == 10, False, {}


@contextlib.contextmanager
def signal_after(seconds, number, path=None):
    """Sends this process a signal after so many seconds, or later, when there is something in the file `path`."""

    def send():
        while path is not None and not (path.exists() and path.stat().st_size):
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    timer = threading.Timer(seconds, send)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lake") / "run"
    return jaxql.train("q-learning", **LAKE | dict(eval_every=500), steps=1_000, out=folder)


@pytest.fixture
def own_state(tmp_path, monkeypatch):
    """A user of one's own, whose key is in a folder of the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in ("", ".", os.getcwd())])
    yield
    for name in ("jaxql_witness", "evil", "mine"):
        sys.modules.pop(name, None)


def one_line(capsys):
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert len(err.splitlines()) == 1, err
    return err


# ------------------------------------------------------------------------------------------------- how long, how often


@pytest.mark.cases
def test_e6_a_short_run_shortens_its_warmup_and_says_so(tmp_path, capsys):
    run = jaxql.train("q-learning", **LAKE | dict(quiet=False), warmup_steps=1_000, steps=300, out=tmp_path / "run")
    assert run.env_steps == 300
    assert run.state.updates >= 100, "it also learns"
    assert "warm-up shortened: warmup_steps=150, not 1000, for steps=300" in capsys.readouterr().out
    assert read_config(run.folder)["config"]["settings"]["warmup_steps"] == run.config.warmup_steps == 150
    run = jaxql.train("q-learning", **LAKE, warmup_steps=200, steps=300, out=tmp_path / "enough")
    assert run.config.warmup_steps == 200


@pytest.mark.cases
def test_e6_a_round_longer_than_the_run_is_said(tmp_path, capsys):
    run = jaxql.train("q-learning", **LAKE | dict(num_envs=40, quiet=False), steps=30, out=tmp_path / "run")
    assert run.env_steps == 40
    assert "a round has 40 env steps" in capsys.readouterr().out


@pytest.mark.cases
def test_e34_each_interval_is_kept_on_its_own(tmp_path, monkeypatch):
    saved, save = [], checkpoint.save

    def noted(path, tree, about):
        if Path(path).parent.name == "checkpoints":  # not the snapshots
            saved.append((Path(path).name, about["env_steps"]))
        save(path, tree, about)

    monkeypatch.setattr(checkpoint, "save", noted)
    jaxql.train("q-learning", **LAKE | dict(eval_every=450), checkpoint_every=100, log_every=1_000,
                steps=1_200, solved_at=2.0, out=tmp_path / "run")  # fmt: skip
    assert [steps for name, steps in saved if name == "last"][:-1] == [100 * i for i in range(1, 13)]
    metrics = read_metrics(tmp_path / "run")
    assert metrics["env_steps"].tolist() == [450, 900, 1_000, 1_200]
    assert np.flatnonzero(np.isfinite(metrics["eval_return"])).tolist() == [0, 1]


# ------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.cases
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
@pytest.mark.trust(23)
def test_e16_a_signal_saves_and_is_the_exit_code(name, code, tmp_path, capsys):
    number, folder = getattr(signal, name), tmp_path / "run"
    argv = ["train", "q-learning", "--env", "CliffWalking-v1", "--steps", "10000000", "--out", str(folder)]
    outside = signal.signal(number, signal.default_int_handler)  # these tests may run where it is ignored
    try:
        with signal_after(0.0, number, folder / "metrics.csv"):
            assert cli.main(argv) == code
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, outside)
    assert f"interrupted by {name}" in capsys.readouterr().out
    assert checkpoint.load(folder / "checkpoints" / "last")[1]["env_steps"] > 0


@pytest.mark.cases
@pytest.mark.trust(23)
def test_e16_a_second_signal_ends_at_once(tmp_path):
    after = []

    def callback(row):
        if not after:
            signal.raise_signal(signal.SIGTERM)
            after.extend(signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))

    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    run = jaxql.train("q-learning", **LAKE, steps=10**6, callback=callback, out=tmp_path / "run")
    assert run.interrupted == signal.SIGTERM
    assert after == before, "a second signal does what it does without a run"


@pytest.mark.cases
def test_e16_nohup_is_respected(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hang_up = lambda row: signal.raise_signal(signal.SIGHUP)  # noqa: E731
        run = jaxql.train("q-learning", **LAKE, steps=2_000, solved_at=2.0, callback=hang_up, out=tmp_path / "run")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not run.interrupted
    assert run.env_steps >= 2_000


@pytest.mark.cases
@pytest.mark.parametrize("where", ["warm-up", "rounds", "a round", "an evaluation"])
@pytest.mark.trust(23)
def test_e13_a_slow_env_ends_soon_and_shows_progress(where, tmp_path, capsys):
    settings = {
        "warm-up": dict(warmup_steps=10**5),
        "rounds": dict(),
        "a round": dict(agent="pqn", rollout_length=512, minibatches=4, gradient_steps=4, hidden=(8,)),
        "an evaluation": dict(eval_every=2, eval_episodes=1),
    }[where]
    options = dict(agent="q-learning", eval_every=10**6, steps=10**6, num_envs=1) | settings
    env = (lambda: gym.wrappers.FlattenObservation(Slow())) if options["agent"] == "pqn" else Slow
    began = time.monotonic()
    with signal_after(4.0, signal.SIGTERM):
        run = jaxql.train(env=env, **options, out=tmp_path / "run")
    assert time.monotonic() - began < 14
    assert run.interrupted == signal.SIGTERM
    assert "/1,000,000 steps" in capsys.readouterr().out
    assert run.env_steps == int(run.state.env_steps) > 0
    params, about = checkpoint.load(run.folder / "checkpoints" / "last", like=run.shapes)
    assert about["env_steps"] == run.env_steps
    jax.tree.map(np.testing.assert_array_equal, params, run.state.params)


@pytest.mark.slow
@pytest.mark.cases
def test_e13_parts_change_nothing_that_is_recorded(tmp_path, monkeypatch):
    from jaxql.lab import players

    texts = []
    for i, seconds in enumerate((10.0, 0.0)):  # all of a chunk at once, and one round at a time
        monkeypatch.setattr(players, "PART_SECONDS", seconds)
        for agent, options in (("q-learning", LAKE), ("q-learning", LAKE | dict(env="jax:catch", env_args={}))):
            run = jaxql.train(agent, **options, steps=150, log_every=70, out=tmp_path / f"{i}{options['env'][:3]}")
            texts.append((run.folder / "metrics.csv").read_bytes())
    assert texts[:2] == texts[2:]


# ------------------------------------------------------------------------------------------------------ disks, folders


@pytest.mark.cases
@pytest.mark.parametrize("name", ["best", "last"])
@pytest.mark.trust(20)
def test_e17_a_failed_write_warns_and_is_tried_again(name, tmp_path, monkeypatch):
    failed, write = [], disk.write_synced

    def fails_once(path, chunks):
        if Path(path).name.startswith(f"{name}.safetensors") and not failed:
            failed.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, chunks)

    monkeypatch.setattr(checkpoint, "write_synced", fails_once)
    options = LAKE | dict(eval_every=200)
    with pytest.warns(RuntimeWarning, match="No space left on device.*tried again"):
        run = jaxql.train("q-learning", **options, steps=1_000, checkpoint_every=100, solved_at=2.0, out=tmp_path / "a")
    assert failed
    assert run.env_steps == 1_000
    assert checkpoint.load(run.folder / "checkpoints" / "last")[1]["env_steps"] == 1_000
    assert run.best_params()["q_values"].shape == (16, 4)


@pytest.mark.cases
@pytest.mark.trust(20)
def test_e17_a_disk_that_stays_full_is_one_line_at_the_end(tmp_path, monkeypatch):
    from jaxql.lab import recorder

    monkeypatch.setattr(recorder, "FINAL_PAUSES", (0.0, 0.0))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_synced", full)
    with warnings.catch_warnings(), pytest.raises(UserError, match="could not be written"):
        warnings.simplefilter("ignore")
        jaxql.train("q-learning", **LAKE, steps=300, out=tmp_path / "a")


@pytest.mark.cases
def test_e18_a_run_without_best_plays_its_last_and_says_so(lake, tmp_path, capsys):
    copy = shutil.copytree(lake.folder, tmp_path / "copy")
    for path in (copy / "checkpoints").glob("best*"):
        path.unlink()
    assert cli.main(["evaluate", str(copy), "--episodes", "2"]) == 0
    out, err = capsys.readouterr()
    assert "2 episodes" in out
    assert err == f"jaxql: {copy} has no best checkpoint: this is the last one, of {lake.env_steps} env steps\n"
    shutil.rmtree(copy / "checkpoints")
    assert cli.main(["evaluate", str(copy)]) == 2
    assert "has no checkpoint" in one_line(capsys)


@pytest.mark.cases
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.trust(20)
def test_e28_a_full_disk_at_the_start_leaves_nothing(call, exists, tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "run"
    if exists:
        folder.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(UserError, match="No space left"):
            RunFiles(folder, {"seed": 1})
    assert sorted(tmp_path.rglob("*")) == before
    RunFiles(folder, {"seed": 1}).close()


@pytest.mark.cases
def test_e28_a_run_that_failed_at_the_start_may_be_tried_again(tmp_path):
    broken = q_learning(16, 4)._replace(learn=lambda state: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        jaxql.train(broken, **LAKE, steps=100, out=tmp_path / "out" / "run")
    assert not list(tmp_path.iterdir())
    jaxql.train("q-learning", **LAKE, steps=100, out=tmp_path / "out" / "run")
    assert read_config(tmp_path / "out" / "run")["config"]["agent"] == "q-learning"


@pytest.mark.cases
def test_e28_a_folder_deleted_in_mid_run_ends_it(tmp_path):
    folder, rows = tmp_path / "run", []

    def delete(row):
        rows.append(row)
        shutil.rmtree(folder)

    with pytest.raises(UserError, match="run is gone"):
        jaxql.train("q-learning", **LAKE, steps=10**6, log_every=100, callback=delete, out=folder)
    assert len(rows) == 1
    assert not folder.exists()


@pytest.mark.cases
def test_e28_times_never_fall(tmp_path, monkeypatch):
    def jump(row):
        for name in "time", "perf_counter", "monotonic":
            now = getattr(time, name)
            monkeypatch.setattr(time, name, lambda now=now: now() - 1_000)

    run = jaxql.train("q-learning", **LAKE, steps=400, log_every=100, solved_at=2.0, callback=jump, out=tmp_path / "a")
    rows = [line.split(",")[1] for line in (run.folder / "timing.csv").read_text().splitlines()[1:]]
    seconds = [float(each) for each in rows]
    assert seconds == sorted(seconds)
    assert min(seconds) >= 0 <= run.seconds


@pytest.mark.cases
def test_e15_long_names_and_files_in_the_way_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    train = ["train", "q-learning", "--env", "FrozenLake-v1", "--steps", "10"]
    for argv in (
        [*train, "--out", "x" * 300, "--seeds", "2"],
        [*train, "--out", "x" * 300],
        [*train, "--out", "file"],
        [*train, "--out", "file/run"],
        [*train, "--out", "file", "--seeds", "2"],
        [*train, "--init-from", "x" * 300],
        ["evaluate", "x" * 300],
        ["evaluate", "file"],
        ["record", "x" * 300, "--out", "a.gif"],
    ):
        assert cli.main(argv) == 2, argv
        assert len(one_line(capsys)) < 500
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert len(jaxql.lab.files.default_folder("dqn", "x" * 300, 0).name) < 255


# --------------------------------------------------------------------------------------------------- whose code is run


@pytest.mark.cases
@pytest.mark.parametrize("field", ["agent", "env", "network"])
@pytest.mark.parametrize("trust", [[], ["--trust"]])
@pytest.mark.trust(21)
def test_e19_a_folder_that_came_from_elsewhere_runs_no_code(
    field, trust, lake, own_state, tmp_path, monkeypatch, capsys
):
    from jaxql.lab import files

    folder = shutil.copytree(lake.folder, tmp_path / "gift")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + CODE)
    record = json.loads((folder / "config.json").read_text())
    record["config"][field] = {"agent": "evil:AGENT", "env": "evil:Lake-v0", "network": "evil:Net"}[field]
    record["modules"] = {"evil": str(folder)}
    record["checksum"] = files._checksum(record)
    record["signature"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(record))
    monkeypatch.chdir(folder)
    for command in (["evaluate", "."], ["record", ".", "--out", "x.gif"], ["evaluate", str(folder)]):
        assert cli.main([*command, *trust]) == 2
        said = one_line(capsys)
        assert "evil" in said
        assert "--trust" in said or trust
        monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(folder)])
    assert not (tmp_path / "ran").exists()


@pytest.mark.cases
def test_e19_only_typed_modules_let_the_current_folder_be_searched(own_state, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for argv in (["evaluate", "."], ["record", ".", "--out", "a.gif"], ["train", "nothing", "--env", "CartPole-v1"]):
        assert cli.main(argv) == 2
        one_line(capsys)
        assert str(tmp_path) not in sys.path
    assert cli.main(["train", "nowhere:AGENT", "--env", "CartPole-v1"]) == 2
    assert str(tmp_path) in sys.path


@pytest.mark.cases
@pytest.mark.parametrize("changes", [
    {"network": "os:system"},
    {"agent": "builtins:print"},
    {"env_spec": {"entry_point": "os:system", "kwargs": {"command": "false"}, "additional_wrappers": []}},
    {"env_spec": {"entry_point": "gymnasium.envs.registration:load_env_creator", "kwargs": {"name": "evil:x"}}},
    {"env_spec": {"entry_point": "x.y:Z", "additional_wrappers": [{"entry_point": "os:system"}]}},
])  # fmt: skip
@pytest.mark.trust(21)
def test_e19_nothing_that_is_loaded_is_called_either(changes, lake, tmp_path):
    from jaxql.lab import files

    folder = shutil.copytree(lake.folder, tmp_path / "gift")
    record = json.loads((folder / "config.json").read_text())
    record["config"] |= changes
    record["checksum"] = files._checksum(record)
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="--trust"):
        jaxql.open_run(folder)


@pytest.mark.cases
def test_e19_a_run_made_here_opens_where_it_is_and_nowhere_else(own_state, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.py").write_text(CODE)
    monkeypatch.chdir(here)
    sys.path.append(str(here))
    jaxql.train("mine:AGENT", **LAKE, steps=200, out="run")
    forget = ["mine", "jaxql_witness"]

    def evaluate(folder, *argv):
        for name in forget:
            sys.modules.pop(name, None)
        monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(here)])
        return cli.main(["evaluate", str(folder), "--episodes", "1", *argv])

    assert evaluate("run") == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("raise SystemExit('the wrong one')")
    assert evaluate(here / "run") == 0, "its module is the one of the folder where it was trained"
    capsys.readouterr()
    shutil.copytree(here / "run", tmp_path / "copy")
    assert evaluate(tmp_path / "copy") == 2
    assert "--trust" in one_line(capsys)
    monkeypatch.setenv("PYTHONPATH", str(here))  # as good as installed
    sys.path.append(str(here))
    for name in forget:
        sys.modules.pop(name, None)
    assert cli.main(["evaluate", str(tmp_path / "copy"), "--episodes", "1", "--trust"]) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    assert evaluate(here / "run") == 2


@pytest.mark.cases
def test_e19_the_key_is_secret_and_a_signature_cannot_be_made_up(own_state, tmp_path):
    from jaxql.lab import trust

    signature = trust.sign(tmp_path / "run", "abc")
    key = tmp_path / "state" / "jaxql" / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert trust.is_signed(tmp_path / "run", "abc", signature)
    for folder, checksum, other in (("run2", "abc", signature), ("run", "abd", signature), ("run", "abc", "x"),
                                    ("run", "abc", None), ("run", None, signature)):  # fmt: skip
        assert not trust.is_signed(tmp_path / folder, checksum, other)
    key.chmod(0o644)
    assert not trust.is_signed(tmp_path / "run", "abc", signature), "a key that others may read is none"


@pytest.mark.cases
@pytest.mark.trust(29)
def test_e20_config_is_strict_json_with_date_and_machine_and_a_change_is_said(lake, tmp_path, capsys):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    record = json.loads((lake.folder / "config.json").read_text(), parse_constant=refuse)
    assert (
        record["date"][:2] == "20"
        and record["date"][10] == "T"
        and ("+" in record["date"] or "-" in record["date"][11:])
    )
    assert record["host"] and record["cpu"]["kind"] and record["cpu"]["count"] >= 1
    assert read_config(lake.folder)["config"]["settings"]["eval_from"] == -math.inf
    copy = shutil.copytree(lake.folder, tmp_path / "copy")
    assert cli.main(["evaluate", str(copy), "--episodes", "1"]) == 0
    assert capsys.readouterr().err == ""
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace('"is_slippery": false', '"is_slippery": true'))
    assert cli.main(["evaluate", str(copy), "--episodes", "1"]) == 0
    assert f"{copy / 'config.json'} was changed after the run was made" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- many seeds


@pytest.mark.cases
def test_e27_evaluate_of_many_seeds_plays_all(tmp_path, capsys):
    jaxql.train("q-learning", **LAKE, steps=np.int64(300), seeds=np.int32(2), seed=np.int64(9), out=tmp_path)
    assert cli.main(["evaluate", str(tmp_path), "--episodes", "2"]) == 0
    first, second, mean = capsys.readouterr().out.splitlines()
    assert first.startswith("seed9: 2 episodes") and second.startswith("seed10: 2 episodes")
    assert mean.startswith("mean of 2 seeds: mean return ")
    assert cli.main(["evaluate", str(tmp_path), "--episodes", "2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["mean"] == np.mean([each["mean"] for each in summary["seeds"].values()])
    assert cli.main(["record", str(tmp_path), "--out", str(tmp_path / "a.gif")]) == 2
    assert "open one of them, seed9, seed10" in one_line(capsys)


@pytest.mark.cases
def test_e27_numbers_of_numpy_are_numbers(tmp_path):
    options = LAKE | dict(num_envs=np.int32(2), warmup_steps=jnp.int32(100))
    run = jaxql.train("q-learning", **options, steps=np.int64(300), learning_rate=np.float32(0.5), out=tmp_path / "run",
                      life_loss=np.bool_(False), solved_at=np.array(2.0))  # fmt: skip
    assert (run.settings.steps, run.config.num_envs, run.config.warmup_steps) == (300, 2, 100)
    assert len(run.evaluate(episodes=np.int64(2), seed=np.int64(1)).returns) == 2
    assert json.loads((run.folder / "config.json").read_text())["config"]["settings"]["steps"] == 300
    config, _ = jaxql.lab.settings.settings(jaxql.REGISTRY["dqn"], "CartPole-v1", hidden=[np.int64(8), 4])
    assert config.hidden == (8, 4)


@pytest.mark.cases
def test_e27_a_run_of_another_precision_names_the_flag(lake, tmp_path, capsys):
    from jaxql.lab import files

    copy, wide = shutil.copytree(lake.folder, tmp_path / "copy"), jax.config.jax_enable_x64
    record = json.loads((copy / "config.json").read_text())
    record["x64"] = not wide
    record["checksum"] = files._checksum(record)
    (copy / "config.json").write_text(json.dumps(record))
    assert cli.main(["evaluate", str(copy)]) == 2
    assert f"set JAX_ENABLE_X64={int(not wide)} to open it" in one_line(capsys)


@pytest.mark.cases
def test_e27_a_network_by_name_is_recorded_and_reopened(own_state, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    argv = ["train", "dqn", "--env", "CartPole-v1", "--network", "mine:Net", "--steps", "200", "--out", "run",
            "--num-envs", "1", "--gradient-steps", "1", "--rollout-length", "1"]  # fmt: skip
    assert cli.main(argv) == 0
    assert read_config("run")["config"]["network"] == "mine:Net"
    assert cli.main(["evaluate", "run", "--episodes", "2"]) == 0
    params = jaxql.open_run("run").best_params()
    assert params["params"]["Dense_0"]["kernel"].shape == (4, 8)
    capsys.readouterr()
    for name in "mine:Missing", "mine:CODE", "nowhere:Net", "mine:", ":Net", "sys:path":
        assert cli.main([*argv[:5], name, *argv[6:8], "--out", "other"]) == 2
        assert name.strip(":").partition(":")[0] in one_line(capsys)


# -------------------------------------------------------------------------------------------------------- forged files


def sealed(folder, header, data, *, length=None, mutate=lambda record: record, **changes):
    """Writes a checkpoint with right checksums around any header and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw = struct.pack("<Q", len(text) if length is None else length) + text + data
    digest = hashlib.sha256(raw).hexdigest()
    (folder / f"last.{digest[:16]}.safetensors").write_bytes(raw)
    record = {"format": checkpoint.FORMAT, "version": 1, "keys": {}, "metadata": {}, "sha256": digest,
              "bytes": len(raw), "arrays": f"last.{digest[:16]}.safetensors"} | changes  # fmt: skip
    record = mutate(record)
    if isinstance(record, dict):
        record["checksum"] = checkpoint._checksum(record)
    (folder / "last.json").write_text(json.dumps(record))


def array(dtype="F32", shape=(2,), span=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(span)}


FORGED = {
    "past the end": {"w": array(shape=(750_000_000,), span=(0, 3 * 10**9))},
    "overlap": {"w": array(), "v": array()},
    "gap": {"w": array("F32", (1,), (4, 8))},
    "backwards": {"w": array(span=(8, 0))},
    "negative": {"w": array(span=(-8, 0))},
    "negative shape": {"w": array(shape=(-1, -2))},
    "wrong size": {"w": array(shape=(3,))},
    "truth": {"w": array(shape=(True, 2))},
    "float": {"w": array(span=(0, 8.0))},
    "dtype": {"w": array("F128")},
    "dtype kind": {"w": array(["F32"])},
    "huge": {"w": array(shape=(2**62, 2**62), span=(0, 8))},
    "rank": {"w": array(shape=[1] * 99 + [2])},
    "string shape": {"w": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}},
    "no offsets": {"w": {"dtype": "F32", "shape": [2]}},
    "nothing": {},
    "list": [],
    "null": {"w": None},
    "not json": b"{",
    "not text": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "inside": {"w": array("F32", (1,), (0, 4)), "w/v": array("F32", (1,), (4, 8))},
    "inside before": {"w/v": array("F32", (1,), (0, 4)), "w": array("F32", (1,), (4, 8))},
}


@pytest.mark.cases
@pytest.mark.parametrize("case", FORGED)
@pytest.mark.trust(19, 21)
def test_e33_a_forged_header_is_one_line(case, tmp_path):
    sealed(tmp_path, FORGED[case], b"\0" * 8)
    with pytest.raises(UserError, match="last") as error:
        checkpoint.load(tmp_path / "last")
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.cases
@pytest.mark.trust(21)
def test_e33_lengths_keys_and_manifests_are_checked(tmp_path):
    whole = {"w": array()}
    for changes in (
        *(dict(length=length) for length in (10**9, 2**64 - 1)),
        *(dict(keys=keys) for keys in ({"v": "threefry2x32"}, {"w": "no"}, {"w": "threefry2x32"}, {"w": 3}, [])),
        *(dict(arrays=name) for name in (3, "", "../../etc/passwd", "a\0b", "x" * 300)),
        *(dict(bytes=size) for size in ("16", True, -1)),
        dict(sha256=None),
        dict(metadata=[]),
    ):
        sealed(tmp_path, whole, b"\0" * 8, **changes)
        with pytest.raises(UserError, match="last"):
            checkpoint.load(tmp_path / "last")
    sealed(tmp_path, whole | {"__metadata__": {"format": "np"}}, b"\0" * 8)
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "last")[0]["w"], [0, 0])


VALUES = [None, True, -1, 0, 1, 2**63, 10**40, 0.5, 1e308, math.nan, math.inf, "", "x", "a\nb\0", "\ud800", [], [[]],
          [1, 2], {}, {"a": 1}, "dqn:x", "x" * 400]  # fmt: skip


def mutated(value, rng):
    """Returns JSON with one value, anywhere, replaced, left out or renamed."""
    value = json.loads(json.dumps(value))
    node, holder, place = value, None, None
    while isinstance(node, dict | list) and node and (holder is None or rng.random() < 0.8):
        holder, place = node, rng.choice(list(node)) if isinstance(node, dict) else int(rng.integers(len(node)))
        place = str(place) if isinstance(node, dict) else place
        node = holder[place]
    if holder is None or rng.random() < 0.05:
        return VALUES[rng.integers(len(VALUES))]
    action = rng.random()
    if action < 0.8:
        holder[place] = VALUES[rng.integers(len(VALUES))]
    elif isinstance(holder, dict) and action < 0.9:
        holder[str(VALUES[rng.integers(len(VALUES))])] = holder.pop(place)
    else:
        del holder[place]
    return value


@pytest.mark.cases
@pytest.mark.trust(19)
def test_e33_no_forged_checkpoint_gives_another_error(tmp_path):
    rng = np.random.default_rng(0)
    header = {"a": array("F32", (2,), (0, 8)), "b/c": array("U32", (2,), (8, 16)), "d": array("BOOL", (0, 3), (16, 16))}
    keys, refused = {"b/c": "threefry2x32"}, 0
    for i in range(400):
        if i % 2:
            sealed(tmp_path, mutated(header, rng), bytes(16), keys=keys)
        else:
            sealed(tmp_path, header, bytes(16), keys=keys, mutate=lambda record: mutated(record, rng))
        try:
            checkpoint.load(tmp_path / "last")
        except UserError as error:
            refused += 1
            assert str(tmp_path) in str(error) and "\n" not in str(error)
    assert refused > 200


@pytest.mark.cases
@pytest.mark.trust(19)
def test_e33_no_forged_config_gives_another_error(lake, tmp_path):
    from jaxql.lab import files

    rng, whole = np.random.default_rng(1), json.loads((lake.folder / "config.json").read_text())
    (tmp_path / "run").mkdir()
    path, refused = tmp_path / "run" / "config.json", 0
    for i in range(300):
        record = mutated(whole, rng) if i % 3 == 0 else whole | {"config": mutated(whole["config"], rng)}
        if isinstance(record, dict) and i % 2:
            with contextlib.suppress(ValueError):
                record["checksum"] = files._checksum(json.loads(json.dumps(record)))
        path.write_text(json.dumps(record))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                jaxql.open_run(tmp_path / "run")
            except UserError as error:
                refused += 1
                assert str(tmp_path) in str(error), record
    assert refused > 100
    for data in (b"", b"\0", b"[" * 100_000, b"\xff", b"1" * 5_000, b'{"config": NaN}', b'"', b"null", b"{}"):
        path.write_bytes(data)
        with pytest.raises(UserError, match="config.json is damaged"):
            jaxql.open_run(tmp_path / "run")


# ----------------------------------------------------------------------------------------------- poison and divergence


@pytest.mark.cases
@pytest.mark.parametrize("agent", ["dqn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pqn", "c51"))])
@pytest.mark.trust(15)
def test_e35_divergence_ends_the_run(agent, tmp_path, capsys):
    argv = ["train", agent, "--env", "CartPole-v1", "--learning-rate", "1e6", "--out", str(tmp_path / "run"),
            "--steps", "10000", "--hidden", "16", "--num-envs", "2", "--no-layer-norm"]  # fmt: skip
    argv += (
        ["--rollout-length", "16", "--gradient-steps", "8", "--minibatches", "8"]
        if agent == "pqn"
        else ["--gradient-steps", "1"]
    )
    assert cli.main(argv) == 2
    said = one_line(capsys)
    assert "env steps; lower learning_rate" in said
    assert not (tmp_path / "run" / "checkpoints" / "last.json").exists()


@pytest.mark.cases
@pytest.mark.parametrize("poison", ["loss", "gradient_norm", "q_mean", "params", "inf"])
@pytest.mark.trust(14, 15)
def test_e35_poison_ends_the_run_within_a_chunk_and_is_never_saved(poison, tmp_path):
    table = q_learning(16, 4)

    def learn(state):
        state, metrics = table.learn(state)
        bad = state.updates > 250
        value = jnp.where(bad, jnp.inf if poison == "inf" else jnp.nan, 0.0)
        if poison in ("params", "inf"):
            return state._replace(params=jax.tree.map(lambda x: x + value, state.params)), metrics
        return state, metrics | {poison: metrics["loss"] + value}

    options = LAKE | dict(eval_every=150)
    with pytest.raises(UserError, match=r"not finite after (2[5-9][0-9]|300) env steps"):
        jaxql.train(table._replace(learn=learn), **options, steps=2_000, log_every=100, checkpoint_every=100,
                    solved_at=2.0, out=tmp_path / "run")  # fmt: skip
    for name in "last", "best":
        params, about = checkpoint.load(tmp_path / "run" / "checkpoints" / name)
        assert np.isfinite(params["q_values"]).all()
        assert about["env_steps"] <= 250


HEALTHY = {
    "optimistic": dict(agent="q-learning", **LAKE, discount=1.0, initial_value=1e6),
    "large rewards": dict(agent="dqn", **POLE | dict(env=Jackpot, learning_rate=1.0)),
    "undiscounted": dict(agent="dqn", **POLE, discount=1.0, learning_rate=3e-3),
}


@pytest.mark.cases
@pytest.mark.parametrize(
    "name", ["optimistic", *(pytest.param(each, marks=pytest.mark.slow) for each in list(HEALTHY)[1:])]
)
@pytest.mark.trust(15)
def test_e35_healthy_runs_are_left_alone(name, tmp_path):
    assert jaxql.train(**HEALTHY[name], steps=400, out=tmp_path / "run").env_steps == 400


@pytest.mark.cases
def test_e35_values_beyond_what_rewards_allow_are_divergence():
    from jaxql.lab.health import Health, Signs

    signs = Signs(np.bool_(True), np.float32(1.0))
    health = Health([0.9], signs)

    def problem(q_mean):
        return health.problem({"loss": np.zeros((1, 1)), "q_mean": np.full((1, 1), q_mean)}, [], signs)

    assert problem(0.1) is None
    assert problem(999.0) is None, "100 times 1 / (1 - 0.9)"
    assert "diverge" in problem(-1_001.0)


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.cases
@pytest.mark.trust(8, 28)
def test_e37_more_than_fits_is_refused_before_anything_is_made(lake, tmp_path, capsys):
    began = time.monotonic()
    train = ["train", "dqn", "--env", "CartPole-v1", "--out", str(tmp_path / "run")]
    for argv, name in (
        ([*train, "--num-envs", "100000000"], "num_envs"),
        ([*train, "--eval-episodes", "100000000"], "eval_episodes"),
        ([*train, "--seeds", "100000000"], "seeds"),
        ([*train, "--capacity", "2000000000"], "capacity"),
        ([*train, "--hidden", "2000000", "--hidden", "2000000"], "GB are free"),
        (["evaluate", str(lake.folder), "--episodes", "100000000"], "episodes"),
    ):
        assert cli.main(argv) == 2
        said = one_line(capsys)
        assert name in said
        assert "GB" in said or name == "seeds"
    assert time.monotonic() - began < 30
    assert not list(tmp_path.iterdir())
