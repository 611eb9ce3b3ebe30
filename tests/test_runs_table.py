"""`jaxql runs`: which runs there are, finished, killed or damaged, and conditions on them."""

import datetime
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from run_folders import write_run

from jaxql import cli
from jaxql.errors import UserError
from jaxql.lab.collect import chosen_runs, find_runs, grouped, read_run, select


def listed(capsys, *argv):
    assert cli.main(["runs", *map(str, argv), "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.fixture
def folder(tmp_path):
    for seed in 0, 2, 10:
        write_run(tmp_path / "a" / f"seed{seed}", (0.2, 0.9, 0.7), seed=seed)
    write_run(tmp_path / "b", (0.1, 0.3), learning_rate=3e-4)
    write_run(tmp_path / "c", (-1.0,), agent="q-learning", env="CliffWalking-v1", solved_at=math.inf)
    return tmp_path


def test_runs_are_found_below_in_natural_order(folder, capsys):
    entries = listed(capsys, folder)
    names = [os.path.relpath(entry["folder"], folder) for entry in entries]
    assert names == ["a/seed0", "a/seed2", "a/seed10", "b", "c"]
    assert [entry["seed"] for entry in entries] == [0, 2, 10, 0, 0]
    first = entries[0]
    assert (first["agent"], first["env"], first["env_steps"], first["best_score"]) == (
        "dqn",
        "FrozenLake-v1",
        1000,
        0.9,
    )
    assert (first["solved"], first["finished"], first["commit"]) == (True, True, "0123456789abcdef")
    assert first["differs"] == {"learning_rate": 0.1}
    assert entries[3]["differs"] == {"learning_rate": 3e-4}
    assert (entries[3]["solved"], entries[4]["solved"]) == (False, None), "no rule, no answer"
    assert entries[4]["settings"]["solved_at"] == "inf"


def test_the_table_has_a_row_a_run(folder, capsys):
    assert cli.main(["runs", str(folder)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 6 and not err
    assert lines[0].split()[:4] == ["run", "agent", "env", "seed"]
    assert "learning_rate=0.1" in lines[1] and " 0.90 " in lines[1] and " yes " in lines[1] and "01234567" in lines[1]
    assert "(unfinished)" not in out


def test_the_default_folder_is_runs(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.main(["runs"]) == 2
    assert "no folder runs; give" in capsys.readouterr().err
    write_run(folder / "runs" / "x")
    assert [entry["folder"] for entry in listed(capsys)] == ["runs/x"]


def test_a_run_named_twice_is_listed_once(folder, capsys):
    assert len(listed(capsys, folder / "b", folder, folder / "b")) == 5


@pytest.mark.parametrize(("conditions", "names"), [
    (["agent=dqn", "learning_rate=3e-4"], ["b"]),
    (["learning_rate=0.0003"], ["b"]),
    (["learning-rate=0.1", "seed=10"], ["seed10"]),
    (["seed=2", "seed=10"], ["seed2", "seed10"]),
    (["env=CliffWalking-v1"], ["c"]),
    (["solved_at=inf"], ["c"]),
    (["hidden=64,64", "seed=2"], ["seed2"]),
    (["hidden=[64, 64]", "seed=2"], ["seed2"]),
    (["double=true", "seed=2"], ["seed2"]),
    (["double=False"], []),
    (["solved=no"], ["b"]),
    (["preset=-", "seed=2"], ["seed2"]),
    (["agent=dqm"], []),
    (["learning_rate=fast"], []),
])  # fmt: skip
def test_conditions(folder, conditions, names):
    runs = select(find_runs([folder])[0], conditions)
    assert [run.folder.name for run in runs] == names


@pytest.mark.parametrize(("condition", "message"), [
    ("agnet=dqn", 'no run has a setting "agnet" (did you mean "agent"?)'),
    ("learning_rat=1", 'did you mean "learning_rate"?'),
    ("dqn", '"dqn" is not KEY=VALUE'),
    ("=1", "is not KEY=VALUE"),
])  # fmt: skip
def test_a_wrong_condition_is_one_line(folder, capsys, condition, message):
    assert cli.main(["runs", "--where", condition, str(folder)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and message in err


def test_links_are_followed_once(folder, capsys):
    (folder / "d").mkdir()
    (folder / "d" / "link").symlink_to(folder / "b")
    (folder / "d" / "loop").symlink_to(folder)
    assert len(listed(capsys, folder)) == 5
    assert [entry["agent"] for entry in listed(capsys, folder / "d" / "link")] == ["dqn"]


def test_runs_below_a_folder_with_a_config_of_another_program(folder, capsys):
    (folder / "config.json").write_text("{}")
    assert cli.main(["runs", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 5 and err.count("\n") == 1


def test_a_condition_that_no_run_meets(folder, capsys):
    assert listed(capsys, folder, "--where", "agent=dqm") == []
    assert cli.main(["runs", str(folder), "--where", "agent=dqm"]) == 0
    assert "none of 5 runs meets the conditions" in capsys.readouterr().out


def test_an_env_s_arguments_are_part_of_the_env_and_can_be_asked_for(tmp_path):
    write_run(tmp_path / "a", env_args={"is_slippery": False})
    write_run(tmp_path / "b", env_args={"is_slippery": True})
    runs, _ = find_runs([tmp_path])
    assert [run.env for run in runs] == ["FrozenLake-v1 is_slippery=False", "FrozenLake-v1 is_slippery=True"]
    assert [run.folder.name for run in select(runs, ["is_slippery=false"])] == ["a"]
    assert list(grouped(runs)) == ["dqn"], "another env is no other group"


def test_a_killed_run_is_listed_with_what_is_known(tmp_path, capsys):
    write_run(tmp_path / "early", (), commit=None)
    write_run(tmp_path / "half", (0.1, 0.3), steps=500)
    torn = write_run(tmp_path / "torn", (0.1, 0.3), steps=600)
    with open(torn / "metrics.csv", "a") as file:
        file.write("700,3")
    early, half, last = listed(capsys, tmp_path)
    assert (early["env_steps"], early["best_score"], early["finished"], early["commit"]) == (None, None, None, None)
    assert (half["env_steps"], half["best_score"], half["finished"], half["solved"]) == (500, 0.3, False, False)
    assert last["env_steps"] == 600
    assert cli.main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "500 (unfinished)" in out
    assert out.splitlines()[1].split()[4:7] == ["-", "-", "-"], "settings, env steps and score are not known"


def test_the_result_of_a_finished_run_counts(tmp_path):
    result = {"solved": True, "env_steps": 1234, "best_score": 0.95, "seconds": 3.0, "finished": True}
    run = read_run(write_run(tmp_path / "a", (0.1,), result=result))
    assert (run.solved, run.env_steps, run.best_score, run.finished) == (True, 1234, 0.95, True)


def test_solved_by_training_waits_for_a_hundred_episodes(tmp_path):
    run = read_run(write_run(tmp_path / "a", (0.9,) * 20 + (0.1,), solved_by="training", steps=1000))
    assert run.solved
    run = read_run(write_run(tmp_path / "b", (0.9, 0.1), solved_by="training", steps=100))
    assert not run.solved, "the first row has 50 episodes"
    run = read_run(write_run(tmp_path / "c", (0.8,), solved_strictly=True))
    assert not run.solved
    run = read_run(write_run(tmp_path / "d", (0.8,)))
    assert run.solved


def damage(run, name, text):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text(text)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("config.json", "{", "config.json is damaged: not JSON"),
    ("config.json", "[1]", "config.json is damaged: not a JSON object"),
    ("config.json", "\xff\xfe", "config.json is damaged"),
    ("config.json", "[" * 100_000, "config.json is damaged"),
    ("config.json", '{"model_type": "bert"}', "names no agent and env"),
    ("config.json", '{"config": {"agent": 3, "env": "x"}}', "names no agent and env"),
    ("metrics.csv", "env_steps,eval_return\n1,2,3\n", "metrics.csv line 2"),
    ("metrics.csv", "env_steps,eval_return\n1,x\n", 'column "eval_return" holds a value that is not a number'),
    ("timing.csv", "env_steps,seconds\nx,1\n", "timing.csv is damaged"),
    ("checkpoints/best.json", "", "best.json is damaged"),
    ("result.json", "nonsense", "result.json is damaged"),
])  # fmt: skip
def test_a_damaged_folder_is_named_and_left_out(tmp_path, capsys, name, text, message):
    write_run(tmp_path / "good")
    damage(write_run(tmp_path / "bad"), name, text)
    assert cli.main(["runs", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert [entry["folder"] for entry in json.loads(out)] == [str(tmp_path / "good")]
    assert err.count("\n") == 1 and message in err and "bad" in err


@pytest.mark.parametrize(("name", "text"), [
    ("config.json", '{"config": {"agent": "a", "env": "b"}}'),
    ("config.json", '{"config": {"agent": "a", "env": "b", "settings": [], "env_args": 1, "seed": null}, "git": 1}'),
    ("timing.csv", "env_steps,seconds\n"),
    ("timing.csv", "seconds\n1\n"),
    ("metrics.csv", "episodes\n1\n"),
    ("metrics.csv", "env_steps,eval_return\n"),
    ("checkpoints/best.json", '{"metadata": null}'),
    ("checkpoints/best.json", '{"metadata": {"env_steps": "x", "score": "y"}}'),
    ("checkpoints/best.json", '{"metadata": {"env_steps": NaN, "score": NaN}}'),
    ("result.json", '{"solved": "yes", "env_steps": null, "best_score": [], "finished": 2}'),
])  # fmt: skip
def test_a_strange_folder_never_ends_in_a_traceback(tmp_path, name, text):
    damage(write_run(tmp_path / "bad"), name, text)
    for argv in ["runs", str(tmp_path)], ["runs", str(tmp_path), "--json"], ["compare", str(tmp_path)]:
        assert cli.main(argv) in (0, 2)


def test_numbers_that_json_lacks_and_columns_of_text(tmp_path):
    folder = write_run(tmp_path / "a", (0.9,))
    text = (folder / "config.json").read_text().replace('"solved_at": 0.8', '"solved_at": {"float": "inf"}')
    (folder / "config.json").write_text(text)
    (folder / "metrics.csv").write_text("env_steps,eval_return,note\n1000,0.9,a word\n")
    run = read_run(folder)
    assert (run.settings["solved_at"], run.solved, list(run.metrics)) == (math.inf, None, ["env_steps", "eval_return"])
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"date": "2026-01-02T03:04:05+00:00"}))
    assert read_run(folder).began.timestamp() == datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC).timestamp()


def test_a_copy_is_left_out_and_named(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    write_run(tmp_path / "c", (0.0, 0.7))
    runs, notes = chosen_runs([tmp_path])
    assert [run.folder.name for run in runs] == ["a", "c"]
    assert len(notes) == 1 and f"{tmp_path / 'b'} repeats {tmp_path / 'a'}" in notes[0]


def test_groups_are_what_differs_in_the_order_of_values(tmp_path):
    for i, rate in enumerate([0.01, 0.1, 3e-4]):
        write_run(tmp_path / f"{i}", learning_rate=rate, seed=i)
    write_run(tmp_path / "q", agent="q-learning", learning_rate=0.5)
    runs, _ = find_runs([tmp_path])
    labels = ["dqn learning_rate=0.0003", "dqn learning_rate=0.01", "dqn learning_rate=0.1", "q-learning"]
    assert list(grouped(runs)) == labels
    assert list(grouped(runs, ["agent"])) == ["dqn", "q-learning"]
    assert list(grouped(runs, ["n-step"])) == ["n_step=1"]
    with pytest.raises(UserError, match='no run has a setting "n_stp"'):
        grouped(runs, ["n_stp"])


def test_seconds_of_a_resumed_run_go_on(tmp_path):
    folder = write_run(tmp_path / "a", (0.0, 0.0, 0.0, 0.0), steps=400)
    (folder / "timing.csv").write_text("env_steps,seconds,steps_per_second\n100,1,1\n200,2,1\n300,0.5,1\n400,1.5,1\n")
    np.testing.assert_allclose(read_run(folder).seconds, [1, 2, 2.5, 3.5])


def test_a_real_run_is_read(tmp_path):
    from jaxql.lab.files import RunFiles

    with RunFiles(tmp_path / "a", {"agent": "dqn", "env": "x", "seed": 3, "settings": {"steps": 5}}) as files:
        files.append({"env_steps": 5, "return_mean": 1.5, "eval_return": math.nan})
        files.timing(5, 2.0)
    run = read_run(tmp_path / "a")
    assert (run.agent, run.env, run.seed, run.env_steps, run.best_score) == ("dqn", "x", 3, 5, 1.5)
    assert (run.finished, run.solved, list(run.seconds)) == (True, None, [2.0])


def test_no_command_here_needs_jax(tmp_path):
    write_run(tmp_path / "a")
    code = f"""
import sys
from jaxql import cli
assert cli.main(["runs", {str(tmp_path)!r}]) == 0
assert cli.main(["compare", {str(tmp_path)!r}]) == 0
print({{"jax", "flax", "gymnasium", "scipy", "matplotlib"}} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "set()", result.stderr


def test_help_needs_no_numpy():
    code = "import sys; from jaxql import cli; cli.main(['--help']); print('numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "False", result.stderr
    for command in "runs", "compare", "plot":
        assert f"\n  {command} " in result.stdout
