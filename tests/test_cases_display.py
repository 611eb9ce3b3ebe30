"""Streams that break, words that are wrong, and what a person sees: inputs of real users that once failed."""

import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import jaxql
from jaxql import cli
from jaxql.agents.config import AgentConfig, validate
from jaxql.agents.registry import REGISTRY
from jaxql.errors import UserError
from jaxql.lab.evaluation import Evaluation
from jaxql.lab.machine import memory_report
from jaxql.lab.progress import Progress, UnfailingStream
from jaxql.lab.settings import RunSettings, same_settings

pytestmark = pytest.mark.cases

LAKE = "train q-learning --env FrozenLake-v1 --steps 1000 --eval-every 500 --log-every 100 --out"
ROW = {"episodes": 12, "return_mean": 21.5, "eval_return": float("nan"), "epsilon": 0.123456, "loss": 0.5}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def shell(programs):
    def shell(line, **variables):
        """Runs a line of bash in which `jaxql` is this package's command; returns (exit code of jaxql, stderr)."""
        script = f'set -o pipefail; jaxql() {{ "{sys.executable}" -m jaxql "$@"; }}; {line}'
        environment = os.environ | {"JAXQL_COMPILATION_CACHE": str(programs)} | variables
        result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=300, env=environment)
        return result.returncode, result.stderr

    return shell


# ----------------------------------------------------------------------------------------------------- broken streams
@pytest.mark.parametrize("redirection", ["| head -1 >&2; exit ${PIPESTATUS[0]}", ">&-", ">/dev/full"])
def test_e15_training_goes_on_when_nobody_reads_its_lines(shell, tmp_path, redirection):
    code, error = shell(f"jaxql {LAKE} {tmp_path}/run {redirection}")
    assert code == 0, error
    assert "Traceback" not in error and "Broken pipe" not in error and "Exception ignored" not in error
    assert jaxql.open_run(tmp_path / "run").metrics["env_steps"][-1] >= 1000
    assert (tmp_path / "run" / "checkpoints" / "last.json").exists()


def test_e15_a_result_that_cannot_be_printed_is_one_line(shell):
    code, error = shell("jaxql --help >/dev/full")
    assert (code, error) == (2, "jaxql: standard output: No space left on device\n")
    code, error = shell("jaxql train --help | true; exit ${PIPESTATUS[0]}")
    assert (code, error) == (0, "")
    code, error = shell("jaxql --help >&- 2>&-")
    assert (code, error) == (0, "")


def test_e15_a_closed_output_does_not_give_its_number_to_a_file(shell, tmp_path):
    code, error = shell(f"jaxql {LAKE} {tmp_path}/run >&- <&-")
    assert code == 0, error
    assert "settings:" not in (tmp_path / "run" / "metrics.csv").read_text()


def test_e15_a_stream_that_fails_is_given_up():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    for stream in (Full(), None, closed):
        safe = UnfailingStream(stream)
        assert safe.write("hello") == 5
        safe.flush()
        assert not safe.isatty()
        with Progress(100, stream=safe) as progress:
            progress.note("hello")
            progress.update(ROW | {"env_steps": 10}, 1.0)


# -------------------------------------------------------------------------------------------------------- wrong words
WORDS = {
    "a seed beyond 32 bits": ("train q-learning --env FrozenLake-v1 --seed 18446744073709551616", "below 2**32"),
    "steps": ("train q-learning --env FrozenLake-v1 --steps 99999999999999999999", "at most 2000000000"),
    "envs": ("train q-learning --env FrozenLake-v1 --num-envs 2147483648", "at most 2147483647"),
    "a digit too many": ("train dqn --env CartPole-v1 --batch-size 1" + "0" * 400, "at most 2147483647"),
    "a rate beyond float32": ("train dqn --env CartPole-v1 --learning-rate 1e300", "learning_rate is 1e+300"),
    "no module": ("train :x --env CartPole-v1", '":x" is not MODULE:ENTRY'),
    "dots": ("train ..:x --env CartPole-v1", '"..:x" is not MODULE:ENTRY'),
    "no entry": ("train json: --env CartPole-v1", '"json:" is not MODULE:ENTRY'),
    "a path": ("train ./mine.py:x --env CartPole-v1", "is not MODULE:ENTRY"),
    "another type": ("train json:dumps --env CartPole-v1", "an agent from outside is a jaxql.AgentEntry"),
    "env arg twice": (
        "train q-learning --env FrozenLake-v1 --env-arg map_name=8x8 --env-arg map_name=4x4",
        "gives map_name twice",
    ),
}


@pytest.mark.parametrize("case", WORDS)
def test_e15_wrong_words_are_one_line_and_write_nothing(case, tmp_path, monkeypatch, capsys):
    line, expected = WORDS[case]
    monkeypatch.chdir(tmp_path)
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert expected in err and len(err.splitlines()) == 1 and not out, err
    assert not list(tmp_path.iterdir())


def test_e15_a_module_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_agents.py").write_text("def f(:\n")
    (tmp_path / "raising_agents.py").write_text("raise RuntimeError('no licence')\n")
    for module, expected in {"broken_agents": "SyntaxError", "raising_agents": "RuntimeError: no licence"}.items():
        assert cli.main(["train", f"{module}:ENTRY", "--env", "CartPole-v1"]) == 2
        err = capsys.readouterr().err
        assert expected in err and len(err.splitlines()) == 1


def test_e15_a_device_that_is_not_there_is_one_line(shell, tmp_path):
    code, error = shell(f"cd {tmp_path}; jaxql train dqn --env CartPole-v1", JAX_PLATFORMS="cuda")
    assert code == 2 and 'JAX_PLATFORMS="cuda"' in error
    assert len([line for line in error.splitlines() if line.startswith("jaxql")]) == 1 and "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"num_envs": 2**31}, {"warmup_steps": 10**30}, {"discount": float("nan")}])
def test_e15_settings_that_compiled_programs_cannot_hold_are_refused(settings):
    (name,) = settings
    with pytest.raises(UserError, match=f"^{name} is "):
        validate(AgentConfig(**settings))
    validate(RunSettings(steps=2_000_000_000, solved_at=1e300))


def test_e24_a_repeated_env_arg_adds_up(tmp_path, capsys):
    argv = f"train q-learning --env FrozenLake-v1 --steps 100 --out {tmp_path}/run".split()
    assert cli.main([*argv, "--env-arg", "map_name=8x8", "--env-arg", "is_slippery=False"]) == 0
    run = jaxql.open_run(tmp_path / "run")
    assert run.make_env.env_args == {"map_name": "8x8", "is_slippery": False}
    assert run.best_params()["q_values"].shape == (64, 4)


def test_e25_names_with_the_same_settings_say_so(tmp_path, capsys):
    assert "double-dqn" in same_settings("dqn", "CartPole-v1")
    assert "dqn" in same_settings("double-dqn", "CartPole-v1")
    assert "c51" not in same_settings("dqn", "CartPole-v1")
    assert same_settings("q-learning", "FrozenLake-v1") == []
    for name in REGISTRY:
        assert name not in same_settings(name, "CartPole-v1")
    argv = f"train dqn --env CartPole-v1 --steps 10 --warmup-steps 5 --capacity 100 --out {tmp_path}/run"
    assert cli.main(argv.split()) == 0
    assert "double-dqn has the same settings here\n" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------- what a person sees
class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text):
    """Returns what stays on the screen: a small terminal that knows what rich writes."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row += 1
            lines += [""] * (row - len(lines) + 1)
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part not in ("\r",) and not part.startswith("\x1b"):
            lines[row] += part
    return lines


@pytest.mark.parametrize("columns", [40, 80, 120, 200])
def test_e32_the_bar_and_the_numbers_take_a_line_each(columns, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    with Progress(1_000_000, stream=stream) as progress:
        progress.update(ROW | {"env_steps": 80_000, "return_mean": 123.4, "eval_return": 195.25}, 10.0)
        shown = [line for line in screen(stream.getvalue()) if line]
        assert shown[0].startswith("best evaluation so far") and "━" in shown[-2]
        assert all(len(line) <= columns for line in shown)
        assert columns < 80 or len(shown) == 3
        assert shown[-1].startswith("return 123.4  evaluation 195.2")
        if columns >= 80:
            assert "80,000/1,000,000 steps (8%)" in shown[-1] and "left" in shown[-1]
        assert ("episodes 12  epsilon 0.1235" in shown[-1]) == (columns >= 120)
        assert ("loss 0.5" in shown[-1]) == (columns >= 200)
        progress.end()
        progress.note("solved")
    lines = [line for line in screen(stream.getvalue()) if line]
    assert lines[-1] == "solved" and "8%" in lines[-2], "the last numbers stay"
    assert not any("━" in line for line in lines), "the bar is gone"


def test_e32_each_new_best_evaluation_has_a_line():
    stream = io.StringIO()
    scores = [10.0, float("nan"), 8.0, 12.5, 12.5]
    with Progress(1000, stream=stream, interval=0) as progress:
        for i, score in enumerate(scores):
            progress.update(ROW | {"env_steps": 100 * (i + 1), "eval_return": score}, float(i))
    best = [line for line in stream.getvalue().splitlines() if line.startswith("best evaluation")]
    assert best == [
        "best evaluation so far: mean return 10 at 100 steps",
        "best evaluation so far: mean return 12.5 at 400 steps",
    ]
    numbers = [line for line in stream.getvalue().splitlines() if line.startswith("return")]
    assert "evaluation 10 " in numbers[1], "the newest evaluation stays between evaluations"


def test_e32_compilation_is_shown_while_it_takes_time(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(1000, stream=stream) as progress:
        progress.starting("compiling")
        assert "compiling" in stream.getvalue() and "0:00:00" in stream.getvalue()
        progress.update(ROW | {"env_steps": 10}, 1.0)
    assert "compiling" not in "\n".join(screen(stream.getvalue()))


def test_e32_memory_is_said_only_when_it_matters(monkeypatch):
    import jax

    class Shapes:
        data = jax.ShapeDtypeStruct((1000, 1000), np.float32)

    monkeypatch.setattr("jaxql.lab.machine._free_memory", lambda: 10**9)
    monkeypatch.setattr(jax.tree, "leaves", lambda tree: [Shapes.data])
    assert memory_report(Shapes, 1) == ""
    assert memory_report(Shapes, 100).startswith("memory: 0.40 GB for the states of 100 agents")
    with pytest.raises(UserError, match="this needs 4.0 GB"):
        memory_report(Shapes, 1000)


def test_e30_runs_and_evaluations_print_as_cards(tmp_path):
    run = jaxql.train("q-learning", "FrozenLake-v1", steps=300, out=tmp_path / "run", quiet=True)
    for known in (run, jaxql.open_run(tmp_path / "run")):
        text = repr(known)
        assert text.startswith("q-learning on FrozenLake-v1, seed 0\n") and str(tmp_path / "run") in text
        assert len(text.splitlines()) < 10 and "0x" not in text
        assert known._repr_html_().startswith("<table>")
    result = Evaluation(np.array([1.0, 3.0]), np.array([5, 7]), np.array([False, True]), 2)
    assert repr(result).splitlines()[0] == "2 episodes (2 distinct)"
    assert "2.00 +- 0.71" in repr(result) and "6.0" in result._repr_html_()
    (tmp_path / "run" / "config.json").unlink()
    assert repr(run).startswith("a run on FrozenLake-v1")
