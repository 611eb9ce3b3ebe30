"""The command line: what it says, what it writes, and one line for whatever is wrong."""

import json
import os
import re
import subprocess
import sys

import pytest

from jaxql import agents, cli

LAKE = ["q-learning", "--env", "FrozenLake-v1", "--env-arg", "is_slippery=False"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder in which the commands of this module keep their compiled programs."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def run(programs):
    environment = os.environ | {"JAXQL_COMPILATION_CACHE": str(programs)}

    def run(*argv, **variables):
        command = [sys.executable, "-m", "jaxql", *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment | variables)

    return run


@pytest.fixture(scope="module")
def lake(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lake"
    result = run("train", *LAKE, "--seed", "1", "--out", str(folder))
    assert (result.returncode, result.stderr) == (0, "")
    return folder, result.stdout


def test_training_prints_settings_progress_and_a_closing_line(lake):
    folder, output = lake
    lines = output.splitlines()
    assert any(line.startswith("settings: ") and "solved_at=0.8" in line and "epsilon" not in line for line in lines)
    assert any("steps/s" in line for line in lines)
    assert any(line.startswith("exact success probability of the greedy policy: 1.000") for line in lines)
    assert re.match(rf"solved after \d+ env steps and [\d.]+ s: .*; run folder {re.escape(str(folder))}$", lines[-1])


def test_evaluate_and_record_read_the_run(run, lake, tmp_path):
    folder, _ = lake
    result = run("evaluate", str(folder), "--episodes", "3", "--json")
    summary = json.loads(result.stdout)
    assert summary["mean"] == 1.0
    assert {"episodes", "distinct", "mean", "std", "min", "max"} <= set(summary)
    for name in "video.mp4", "video.gif":
        result = run("record", str(folder), "--out", str(tmp_path / name))
        assert result.returncode == 0, result.stderr
        assert (tmp_path / name).stat().st_size > 1_000


def test_a_replaced_env_is_run_as_its_newer_version(run, tmp_path):
    result = run("train", "q-learning", "--env", "Taxi-v3", "--steps", "500", "--out", str(tmp_path / "taxi"))
    assert result.stdout.startswith("Taxi-v3 is no longer in Gymnasium: running Taxi-v4\n")
    assert "learning_rate=0.3" in result.stdout, "settings are those tuned for the newer version"
    assert result.stdout.splitlines()[-1].startswith("not solved after 5")


def test_many_seeds_have_a_folder_each(run, tmp_path):
    argv = ["train", *LAKE, "--steps", "100", "--seed", "3", "--seeds", "2", "--out", str(tmp_path / "runs")]
    result = run(*argv)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["seed3", "seed4"]
    assert result.stdout.splitlines()[-1].startswith("2 seeds: 0 solved, median env steps 1")
    assert cli.main(["evaluate", str(tmp_path / "runs" / "seed4"), "--episodes", "1"]) == 0


def test_compiled_programs_are_kept_unless_switched_off(run, lake, programs):
    argv = ["evaluate", str(lake[0]), "--episodes", "2"]
    first = run(*argv)
    kept = set(programs.rglob("*-cache"))
    assert any("learn" in path.name for path in kept), "those of the training"
    off = run(*argv, "--seed", "1", JAXQL_COMPILATION_CACHE="off")
    assert set(programs.rglob("*-cache")) == kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:100])
    torn = run(*argv)
    assert (torn.stdout, torn.stderr) == (first.stdout, first.stderr) == (off.stdout, "")
    for path in kept:
        path.unlink()


BAD = {
    "nothing": ([], "usage: jaxql COMMAND"),
    "command": (["trian"], 'no command "trian" (did you mean "train"?)'),
    "agent": (["train", "dqm", "--env", "CartPole-v1"], 'no agent "dqm" (did you mean "dqn"?)'),
    "no agent": (["train"], "AGENT is missing"),
    "no env": (["train", "dqn"], "--env"),
    "env": (["train", "dqn", "--env", "CartPoll-v1"], 'did you mean "CartPole-v1"'),
    "game": (["train", "dqn", "--env", "PonkNoFrameskip-v4"], 'did you mean "PongNoFrameskip-v4"'),
    "old form": (["train", "dqn", "--env", "Pong-v4"], "use PongNoFrameskip-v4 or ALE/Pong-v5"),
    "continuous": (["train", "dqn", "--env", "MountainCarContinuous-v0"], "Q-learning needs a Discrete one"),
    "no table": (["train", "q-learning", "--env", "CartPole-v1"], "needs discrete observations"),
    "flag": (["train", "dqn", "--env", "CartPole-v1", "--lerning-rate", "1"], 'did you mean "--learning-rate"'),
    "preset": (["train", "dqn", "--env", "CartPole-v1", "--preset", "textbok"], 'did you mean "textbook"'),
    "word": (["train", "dqn", "--env", "CartPole-v1", "--steps", "many"], "--steps"),
    "negative": (["train", "dqn", "--env", "CartPole-v1", "--steps", "-5"], "steps is -5; it must be at least 1"),
    "nan": (["train", "dqn", "--env", "CartPole-v1", "--learning-rate", "nan"], "learning_rate is nan"),
    "huge": (["train", "dqn", "--env", "CartPole-v1", "--learning-rate", "1e400"], "learning_rate is inf"),
    "range": (["train", "dqn", "--env", "CartPole-v1", "--discount", "1.01"], "at most 1"),
    "choice": (["train", "dqn", "--env", "CartPole-v1", "--loss", "hubber"], "huber"),
    "seed": (["train", "dqn", "--env", "CartPole-v1", "--seed", "-1"], "a seed is a whole number, 0 or greater"),
    "no seeds": (["train", *LAKE, "--seeds", "0"], "the number of seeds is a whole number, 1 or greater"),
    "half a seed": (["train", *LAKE, "--seeds", "1.5"], "--seeds"),
    "network": (["train", "dqn", "--env", "CartPole-v1", "--network", "nature-cnn"], 'use "mlp" here'),
    "env arg": (["train", "dqn", "--env", "CartPole-v1", "--env-arg", "fast"], "is not KEY=VALUE"),
    "env arg name": (["train", *LAKE, "--env-arg", "slipery=False"], "slipery"),
    "init": (["train", *LAKE, "--init-from", "nowhere"], "no run folder nowhere"),
    "missing run": (["evaluate", "nowhere"], "nowhere"),
    "episodes": (["evaluate", "nowhere", "--episodes", "0"], "episodes is 0; it must be at least 1"),
    "half": (["evaluate", "nowhere", "--episodes", "1.5"], "--episodes"),
    "missing run to record": (["record", "nowhere", "--out", "x.mp4"], "nowhere"),
    "no out": (["record", "nowhere"], "--out"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.trust(28)
def test_bad_input_is_one_line_and_writes_nothing(case, tmp_path, monkeypatch, capsys):
    argv, expected = BAD[case]
    monkeypatch.chdir(tmp_path)
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert expected in (err or out)
    assert "Traceback" not in out + err
    assert case == "nothing" or len(err.splitlines()) == 1, err
    assert not list(tmp_path.iterdir())


@pytest.mark.trust(28)
def test_an_existing_folder_and_an_unknown_kind_of_video_are_refused(lake, tmp_path, capsys):
    folder, _ = lake
    before = sorted(path.name for path in folder.rglob("*"))
    assert cli.main(["train", *LAKE, "--out", str(folder)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert cli.main(["record", str(folder), "--out", str(tmp_path / "video.avi")]) == 2
    assert "must end in .mp4 or .gif" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.trust(19)
def test_a_damaged_checkpoint_is_one_line(lake, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(lake[0], copy)
    (copy / "checkpoints" / "best.json").write_text("{}")
    assert cli.main(["evaluate", str(copy)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    (copy / "config.json").write_text("{")
    assert cli.main(["evaluate", str(copy)]) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.trust(28, 30)
def test_help_answers_without_jax():
    code = "import sys; from jaxql.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "assert 'jax' not in sys.modules and 'gymnasium' not in sys.modules\n"
    code += "import time; print(end=f'\\n{time.process_time()}')"
    for argv in (["--help"], ["train", "--help"], ["evaluate", "--help"], ["record", "--help"], ["--version"]):
        result = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
        said, seconds = result.stdout.rsplit("\n", 1)
        assert said and float(seconds) < 1, f"{argv} took {seconds} s"


def test_help_of_an_agent_shows_its_settings_tuned_for_the_env(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "dqn", "--env", "CartPole-v1", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "--target-period-updates" in text
    assert "default: 0.001" in text


def test_the_help_names_every_command_and_every_agent(capsys):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(cli.COMMANDS)
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert capsys.readouterr().out.splitlines()[0] == "agents: " + ", ".join(agents.REGISTRY)


def test_a_keyboard_interrupt_keeps_the_run(tmp_path):
    import signal

    folder = tmp_path / "run"
    argv = [sys.executable, "-m", "jaxql", "train", "q-learning", "--env", "CliffWalking-v1", "--out", str(folder)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ)
    while "steps/s" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in output
    assert (folder / "checkpoints" / "last.json").exists()


def test_a_jax_env_trains_and_is_evaluated(run, tmp_path):
    folder = str(tmp_path / "catch")
    result = run("train", "q-learning", "--env", "jax:catch", "--env-arg", "rows=4", "--steps", "900", "--out", folder)
    assert result.returncode == 0, result.stderr
    assert "exact mean return over all 5 starts of the greedy policy: " in result.stdout
    assert json.loads(run("evaluate", folder, "--json").stdout)["mean_length"] == 3
