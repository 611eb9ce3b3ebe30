"""`jaxql sweep`: cells and their commands, results, what goes on after a kill, one line for bad input."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from run_folders import write_run

from jaxql import cli
from jaxql.errors import UserError
from jaxql.lab import engines
from jaxql.lab.files import last_env_steps
from jaxql.lab.ranges import Range, parse_range, parse_value, parse_values
from jaxql.lab.sweep import FixedSearch, SweepSpec, jobs_of
from jaxql.lab.sweep_results import mean_scores, results_of
from jaxql.lab.sweeping import Runner

LAKE = "--agent q-learning --env FrozenLake-v1 --set steps=300 eval_every=100 eval_episodes=2"
TABLES = ("results.csv", "results.json", "results.md")


def sweep(*words, folder, code=0):
    assert cli.main(["sweep", *words, "--out", str(folder), "--jobs", "1"]) == code


def cells(**options):
    return FixedSearch(SweepSpec(("dqn",), ("CartPole-v1",), **options)).ask()


# ------------------------------------------------------------------------------------------------ cells and commands
def test_a_grid_has_every_combination():
    spec = SweepSpec(("dqn", "c51"), ("a", "b"), grid={"learning-rate": (1e-3, 3e-4), "n_step": (1, 3)})
    found = FixedSearch(spec).ask()
    assert len({cell.name for cell in found}) == len(found) == 16
    assert found[0].name == "dqn-a-learning_rate=0.001-n_step=1"
    assert found[0].settings == {"learning_rate": 1e-3, "n_step": 1}


def test_a_key_with_an_agent_is_of_that_agent_alone():
    spec = SweepSpec(("dqn", "pqn"), ("a",), settings={"steps": 5}, grid={"dqn.n_step": (1, 3)})
    assert [(cell.agent, cell.settings) for cell in FixedSearch(spec).ask()] == [
        ("dqn", {"steps": 5, "n_step": 1}), ("dqn", {"steps": 5, "n_step": 3}), ("pqn", {"steps": 5})]  # fmt: skip


def test_draws_repeat_lie_in_range_and_grow():
    ranges = {
        "learning_rate": Range(1e-5, 1e-2, log=True),
        "n_step": Range(1, 3),
        "loss": Range(choices=("huber", "x")),
    }
    few, many = cells(ranges=ranges, random=5), cells(ranges=ranges, random=60)
    assert many[:5] == few, "more draws keep those before"
    drawn = [cell.settings for cell in many]
    assert all(1e-5 <= each["learning_rate"] <= 1e-2 for each in drawn)
    assert sum(each["learning_rate"] < 3e-4 for each in drawn) > 15, "even in the logarithm"
    assert {each["n_step"] for each in drawn} == {1, 2, 3} and {each["loss"] for each in drawn} == {"huber", "x"}
    other = cells(ranges=ranges, random=5, seed=1)
    assert [cell.settings for cell in other] != [cell.settings for cell in few]


def test_long_and_strange_names_stay_apart(tmp_path):
    names = [cell.name for cell in cells(grid={"hidden": ((64,) * 60, (64,) * 61), "network": ("a/b", "a:b", "a b")})]
    assert len(set(names)) == 6 and all(re.fullmatch(r"[\w.+=,-]{1,150}", name) for name in names)


def test_the_command_of_a_job(tmp_path):
    spec = SweepSpec(("dqn",), ("CartPole-v1",), seeds=5, seeds_per_job=2, env_args=("a=1",), preset="textbook",
                     settings={"lambda_": 0.5, "life_loss": False, "hidden": (8, 4), "solved_at": 1e3})  # fmt: skip
    (cell,) = FixedSearch(spec).ask()
    jobs = jobs_of(spec, cell, tmp_path, steps=10)
    assert [(job.seeds, job.steps) for job in jobs] == [(range(2), 20), (range(2, 4), 20), (range(4, 5), 10)]
    out = tmp_path / "cells" / "dqn-CartPole-v1" / "seeds0-1"
    assert (
        list(jobs[0].command)
        == (
            f"train dqn --env CartPole-v1 --seed 0 --seeds 2 --out {out} --resume-or-start --preset textbook "
            "--env-arg a=1 --lambda_=0.5 --no-life-loss --hidden 8 --hidden 4 --solved-at=1000.0"
        ).split()
    )
    assert jobs[0].run_folders() == [out / "seed0", out / "seed1"] and jobs[2].run_folders() == [jobs[2].folder]


@pytest.mark.parametrize(("word", "expected"), [
    ("1", 1), ("1e-3", 1e-3), ("-2", -2), ("inf", float("inf")), ("True", True), ("false", False), ("mlp", "mlp"),
    ("[64, 64]", (64, 64)), ("(8,)", (8,)), ("a:b", "a:b"), ("a-b", "a-b"),
])  # fmt: skip
def test_values_have_their_type(word, expected):
    value = parse_value(word)
    assert value == expected and type(value) is type(expected)


def test_lists_of_values():
    assert parse_values("1,2.5,x") == (1, 2.5, "x")
    assert parse_values("[8,8],[16]") == ((8, 8), (16,))
    assert parse_values([True, [8]]) == (True, (8,)) and parse_values(3) == (3,)


def test_a_file_says_the_same(tmp_path):
    from jaxql.cli import sweep as command

    path = tmp_path / "a.toml"
    path.write_text(
        'agent = ["dqn"]\nenv = ["CartPole-v1"]\nseeds = 3\nrandom = 2\nset.steps = 100\nenv-arg = {a = true}\n'
        "[grid]\nn_step = [1, 3]\nhidden = [[8], [8, 8]]\n"
        'dqn.double = [true, false]\n[range]\nlearning_rate = "1e-5..1e-2:log"\n'
    )
    words = "--agent dqn --env CartPole-v1 --seeds 3 --random 2 --set steps=100 --env-arg a=True --grid n_step=1,3 "
    words += "hidden=[8],[8,8] dqn.double=true,false --range learning_rate=1e-5..1e-2:log"
    typed = command._spec(command._given(command._spread(words.split()))[1])
    assert command._spec(command._given([str(path)])[1]) == typed
    name, given = command._given(command._spread([str(path), "--seeds", "4", "--agent", "c51", "pqn"]))
    assert (name, given.seeds, given.random, given.agent) == (str(path), 4, 2, ("c51", "pqn"))


# ------------------------------------------------------------------------------------------------------------- Optuna
def asked(scores, **options):
    """The settings of all trials of a search whose cells have these scores."""
    pytest.importorskip("optuna")
    from jaxql.lab.optuna_search import OptunaSearch

    ranges = {
        "learning_rate": Range(1e-5, 1e-1, log=True),
        "n_step": Range(1, 5),
        "loss": Range(choices=("huber", "x")),
    }
    options = {"grid": {"double": (True, False)}, "ranges": ranges, "optuna": 10, "batch": 4} | options
    search, batches = OptunaSearch(SweepSpec(("dqn",), ("CartPole-v1",), **options)), []
    while found := search.ask():
        batches.append(found)
        search.tell({cell.name: scores(cell.settings) for cell in found})
    return batches


def test_optuna_has_a_study_for_each_combination_and_repeats():
    batches = asked(lambda settings: settings["n_step"])
    assert [len(batch) for batch in batches] == [8, 8, 4], "of 2 studies"
    every = [cell for batch in batches for cell in batch]
    assert len({cell.name for cell in every}) == 20 and every[0].name == "dqn-CartPole-v1-double=True-trial0"
    assert all(
        1e-5 <= cell.settings["learning_rate"] <= 0.1 and cell.settings["n_step"] in range(1, 6) for cell in every
    )
    assert {cell.settings["loss"] for cell in every} == {"huber", "x"}
    assert asked(lambda settings: settings["n_step"]) == batches
    assert asked(lambda settings: settings["n_step"], seed=1) != batches


def test_optuna_learns_from_scores_and_bears_failures():
    def score(settings):
        return float("nan") if settings["loss"] == "x" else -abs(settings["n_step"] - 4)

    trials = [cell.settings for batch in asked(score, optuna=60, grid={}) for cell in batch]
    near = [score(settings) >= -1 for settings in trials if settings["loss"] == "huber"]
    half = len(near) // 2
    assert sum(near[-half:]) > sum(near[:half])


def test_a_sweep_with_optuna(tmp_path, capsys):
    pytest.importorskip("optuna")
    words = [*LAKE.split(), "--optuna", "2", "--batch", "1", "--range", "learning_rate=0.1..0.9", "--seeds", "1"]
    sweep(*words, folder=tmp_path / "a")
    before = [(tmp_path / "a" / name).read_bytes() for name in TABLES]
    shutil.rmtree(tmp_path / "a" / "cells" / "q-learning-FrozenLake-v1-trial1")
    sweep(*words, folder=tmp_path / "a")
    assert [(tmp_path / "a" / name).read_bytes() for name in TABLES] == before
    assert cli.main(["sweep", *words, "--engine", "sbatch", "--out", str(tmp_path / "b")]) == 2
    assert "waits for scores" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_optuna_that_is_missing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    words = [*LAKE.split(), "--optuna", "2", "--range", "learning_rate=0.1..0.9"]
    sweep(*words, folder=tmp_path / "a", code=2)
    assert 'pip install "jaxql[optuna]"' in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_missing_is_one_line(engine, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    sweep(*LAKE.split(), "--engine", engine, folder=tmp_path / "a", code=2)
    assert f'pip install "jaxql[{engine}]"' in capsys.readouterr().err and not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------ results
def test_results_are_sorted_and_know_what_is_missing(tmp_path):
    spec = SweepSpec(("dqn",), ("CartPole-v1",), seeds=3, grid={"n_step": (1, 3, 5)})
    one, three, five = FixedSearch(spec).ask()
    for cell, finals in ((one, (1.0, 2.0, 3.0)), (three, (5.0, 7.0))):
        for seed, final in enumerate(finals):
            folder = tmp_path / "cells" / cell.name / f"seed{seed}"
            write_run(folder, (0.0, final), seed=seed, result={"finished": True, "env_steps": 1000})
    write_run(tmp_path / "cells" / three.name / "seed2", (0.0, 99.0), seed=2)  # not finished
    results = results_of(spec, tmp_path, [one, three, five])
    assert [row.cell for row in results.rows] == [three, one, five]
    first = results.rows[0]
    assert (first.numbers["mean"], first.numbers["runs"], first.numbers["seeds"]) == (6.0, 2, 3)
    assert first.scores == {0: 5.0, 1: 7.0}
    assert results.rows[2].numbers["mean"] is None
    rows = list(csv.DictReader(results.to_csv().splitlines()))
    assert [row["n_step"] for row in rows] == ["3", "1", "5"] and rows[2]["mean"] == ""
    assert json.loads(results.to_json())[1]["scores"] == {"0": 1.0, "1": 2.0, "2": 3.0}
    assert len(results.to_markdown().splitlines()) == 5 and "2/3" in results.to_text()
    scores = mean_scores(spec, tmp_path, [one, five])
    assert scores[one.name] == 2.0 and scores[five.name] != scores[five.name]


def test_steps_of_a_running_job(tmp_path):
    assert last_env_steps(tmp_path) == 0
    path = tmp_path / "metrics.csv"
    path.write_text("env_steps,loss\n")
    assert last_env_steps(tmp_path) == 0
    path.write_text("env_steps,loss\n100,1\n200,2\n30")
    assert last_env_steps(tmp_path) == 200


# ------------------------------------------------------------------------------------- jobs that are killed and crash
class FakeHandle:
    def __init__(self, code, effect):
        self.code, self.effect, self.stopped = code, effect, False

    def poll(self):
        if self.code == 0:
            self.effect()
        return -15 if self.stopped else self.code

    def stop(self):
        self.stopped = True


class FakeEngine:
    """Jobs that end with these codes, one after the other."""

    at_once = 2

    def __init__(self, codes):
        self.codes, self.started = codes, []

    def start(self, words, log):
        out = Path(words[words.index("--out") + 1])
        self.started.append(out)
        log.parent.mkdir(exist_ok=True)
        log.write_text("jaxql: what went wrong\n")
        return FakeHandle(self.codes.pop(0), lambda: out.mkdir(parents=True, exist_ok=True) or self.finish(out))

    def finish(self, out):
        (out / "result.json").write_text("{}")

    def close(self):
        pass


@pytest.mark.parametrize(("codes", "started", "failed"), [
    ([0], 1, False), ([-9, 0], 2, False), ([143, engines.LOST, 1, 0], 4, False), ([2], 1, True), ([-9] * 4, 4, True),
])  # fmt: skip
def test_a_job_that_was_killed_is_started_again(tmp_path, codes, started, failed):
    spec = SweepSpec(("dqn",), ("CartPole-v1",), seeds=1)
    jobs = jobs_of(spec, FixedSearch(spec).ask()[0], tmp_path, 10)
    runner, engine = Runner(tmp_path, 3, 1, 10, quiet=True), FakeEngine(list(codes))
    runner.run(jobs, lambda: engine)
    assert len(engine.started) == started
    assert runner.failures == ({jobs[0].name: "what went wrong"} if failed else {})
    runner.run(jobs, lambda: pytest.fail("a finished job is not started")) if not failed else None


def test_an_interrupted_sweep_stops_its_jobs(tmp_path):
    spec = SweepSpec(("dqn",), ("CartPole-v1",), seeds=2, seeds_per_job=1)
    runner, engine = Runner(tmp_path, 3, 1, 10, quiet=True), FakeEngine([None, None])
    threading.Timer(0.3, runner.interrupt, [15]).start()
    runner.run(jobs_of(spec, FixedSearch(spec).ask()[0], tmp_path, 10), lambda: engine)
    assert len(engine.started) == 2 and not runner.failures


# ----------------------------------------------------------------------------------------------------- from end to end
@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "a"
    sweep(*LAKE.split(), "--grid", "learning_rate=0.1,0.5", "--seeds", "2", folder=folder)
    return folder


def test_a_sweep_ends_with_its_tables(done):
    rows = list(csv.DictReader((done / "results.csv").read_text().splitlines()))
    assert sorted(row["learning_rate"] for row in rows) == ["0.1", "0.5"]
    assert all((row["runs"], row["seeds"], row["agent"]) == ("2", "2", "q-learning") for row in rows)
    runs = sorted(path.parent.relative_to(done).as_posix() for path in done.rglob("config.json"))
    assert len(runs) == 4 and runs[0] == "cells/q-learning-FrozenLake-v1-learning_rate=0.1/seed0"
    assert cli.main(["compare", str(done / "cells"), "--resamples", "20"]) == 0


def test_the_same_sweep_again_trains_what_is_missing_and_prints_the_same(done, tmp_path, capsys):
    folder, words = tmp_path / "a", [*LAKE.split(), "--grid", "learning_rate=0.1,0.5", "--seeds", "2"]
    shutil.copytree(done, folder)
    before = [(folder / name).read_bytes() for name in TABLES]
    shutil.rmtree(folder / "cells" / "q-learning-FrozenLake-v1-learning_rate=0.5")
    for name in TABLES:
        (folder / name).unlink()
    sweep(*words, folder=folder)
    shown = capsys.readouterr().out
    assert [(folder / name).read_bytes() for name in TABLES] == before
    sweep(*words, folder=folder)
    table = shown[shown.index("final return") :]
    assert capsys.readouterr().out.endswith(table), "no job was run"
    sweep(*LAKE.split(), "--grid", "learning_rate=0.1,0.7", "--seeds", "2", folder=folder, code=2)
    assert "grid is" in (error := capsys.readouterr().err) and "another --out" in error


@pytest.mark.slow
def test_a_job_that_fails_is_named_and_the_others_go_on(tmp_path, capsys):
    words = LAKE.split() + ["--seeds", "1", "--grid", "learning_rate=0.1,0.2"]
    bad = tmp_path / "a" / "cells" / "q-learning-FrozenLake-v1-learning_rate=0.1" / "seed0"
    sweep(*words, folder=tmp_path / "a")
    (bad / "result.json").unlink()
    (bad / "config.json").write_text("{")
    sweep(*words, folder=tmp_path / "a", code=1)
    error = capsys.readouterr().err
    assert "failed: q-learning-FrozenLake-v1-learning_rate=0.1-seed0: " in error and "is damaged" in error
    rows = list(csv.DictReader((tmp_path / "a" / "results.csv").read_text().splitlines()))
    assert sorted(row["runs"] for row in rows) == ["0", "1"]


@pytest.mark.slow
def test_the_script_for_sbatch_runs_every_job(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = f"sweep {LAKE} --seeds 2 --seeds-per-job 1 --engine sbatch --jobs 1 --out a --slurm partition=gpu time=60"
    assert cli.main(words.split()) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --array=0-1%1\n" in script and "#SBATCH --partition=gpu\n" in script
    assert len((tmp_path / "a" / "commands.txt").read_text().splitlines()) == 2
    for task in "01":
        subprocess.run(["bash", "-c", script], check=True, env=os.environ | {"SLURM_ARRAY_TASK_ID": task}, timeout=200)
    assert cli.main(words.split()) == 2
    assert "every job in a is finished" in capsys.readouterr().err
    sweep(*LAKE.split(), "--seeds", "2", "--seeds-per-job", "1", folder="a")
    assert "2/2" in capsys.readouterr().out


def test_a_run_killed_while_its_folders_were_made_starts_anew(tmp_path):
    words = f"train q-learning --env FrozenLake-v1 --steps 300 --seeds 2 --out {tmp_path}/a --resume-or-start".split()
    assert cli.main(words) == 0
    one, two = tmp_path / "a" / "seed0", tmp_path / "a" / "seed1"
    whole = (two / "metrics.csv").read_bytes()
    shutil.rmtree(two)
    assert cli.main(words) == 2, "the first has rows: the second was taken away"
    for path in one.iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (one / "metrics.csv").touch()
    two.mkdir()
    (two / "metrics.csv").touch()
    (two / "config.json.tmp").write_text("{")
    assert cli.main(words) == 0
    assert (two / "metrics.csv").read_bytes() == whole


# ---------------------------------------------------------------------------------------------------------- bad input
BAD = {
    "no agent": ("--env CartPole-v1", "--agent is missing"),
    "no env": ("--agent dqn", "--env is missing"),
    "nothing": ("", "--agent is missing"),
    "agent": ("--agent dqm --env CartPole-v1", 'did you mean "dqn"'),
    "env": ("--agent dqn --env CartPoll-v1", 'did you mean "CartPole-v1"'),
    "second env": ("--agent dqn --env CartPole-v1 CartPoll-v1", 'did you mean "CartPole-v1"'),
    "pair": ("--agent dqn q-learning --env CartPole-v1", "q-learning on CartPole-v1: "),
    "setting": ("--agent dqn --env CartPole-v1 --grid lerning_rate=1,2", 'did you mean "learning_rate"'),
    "setting of one": (
        "--agent dqn pqn --env CartPole-v1 --grid n_step=1,3",
        'pqn on CartPole-v1: no setting "n_step"',
    ),
    "value": ("--agent dqn --env CartPole-v1 --grid learning_rate=1e-3,fast", "learning_rate is 'fast'"),
    "range of value": ("--agent dqn --env CartPole-v1 --grid discount=0.9,1.5", "at most 1"),
    "twice": ("--agent dqn --env CartPole-v1 --grid n_step=1,1", "has 1 twice"),
    "same": ("--agent dqn --env CartPole-v1 --grid n_step=1 --set n_step=2", "n_step is given twice"),
    "same agent": ("--agent dqn dqn --env CartPole-v1", "agent has dqn twice"),
    "no pair": ("--agent dqn --env CartPole-v1 --grid n_step", "is not KEY=VALUE"),
    "key twice": ("--agent dqn --env CartPole-v1 --grid n_step=1 n_step=2", "gives n_step twice"),
    "own option": ("--agent dqn --env CartPole-v1 --grid seed=1,2", "seed is an option of the sweep"),
    "stranger": ("--agent dqn --env CartPole-v1 --grid c51.n_step=1,2", "c51 is no agent of this sweep"),
    "seeds": ("--agent dqn --env CartPole-v1 --seeds 0", "seeds is 0"),
    "jobs": ("--agent dqn --env CartPole-v1 --jobs 0", "jobs is 0"),
    "engine": ("--agent dqn --env CartPole-v1 --engine rya", 'no engine "rya"'),
    "range": ("--agent dqn --env CartPole-v1 --random 2 --range learning_rate=1", "it is LOW..HIGH"),
    "ends": ("--agent dqn --env CartPole-v1 --random 2 --range learning_rate=2..1", "LOW below HIGH"),
    "log": ("--agent dqn --env CartPole-v1 --random 2 --range learning_rate=0..1:log", "begins above 0"),
    "draws": ("--agent dqn --env CartPole-v1 --random 2", "these need --range"),
    "no draws": ("--agent dqn --env CartPole-v1 --range learning_rate=1..2", "--random N"),
    "both": ("--agent dqn --env CartPole-v1 --random 2 --optuna 2 --range learning_rate=1e-3..1e-2", "one of them"),
    "file": ("nowhere.toml", "cannot read nowhere.toml"),
    "word": ("sweep.yaml", "FILE.toml"),
    "preset": ("--agent dqn --env CartPole-v1 --preset textbok", 'did you mean "textbook"'),
    "flag": ("--agent dqn --env CartPole-v1 --sedes 3", 'did you mean "--seeds"'),
    "env arg": ("--agent dqn --env CartPole-v1 --env-arg fast=1", "fast"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_writes_nothing(case, tmp_path, monkeypatch, capsys):
    words, expected = BAD[case]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert expected in err and len(err.splitlines()) == 1 and "Traceback" not in err, err
    assert not out and not list(tmp_path.iterdir())


FILES = {
    "not TOML": ("agent = [", "is not TOML"),
    "option": ("agents = ['dqn']", 'did you mean "agent"'),
    "kind": ("agent = 'dqn'", "it must be a list of texts"),
    "number": ("seeds = 1.5", "it must be a whole number"),
    "boolean": ("seeds = true", "it must be a whole number"),
    "table": ("grid = ['a=1']", "it must be a table"),
    "score": ("agent = ['dqn']\nenv = ['CartPole-v1']\nscore = 'finl'", "score is 'finl'; it must be one of"),
    "empty": ("agent = ['dqn']\nenv = ['CartPole-v1']\n[grid]\nn_step = []", "has no value"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_one_line(case, tmp_path, monkeypatch, capsys):
    text, expected = FILES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(text)
    assert cli.main(["sweep", "a.toml"]) == 2
    err = capsys.readouterr().err
    assert expected in err and len(err.splitlines()) == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["a.toml"]


def test_ranges_refuse_what_they_are_not():
    for text in ("1..", "..", "a..b", "1..2:lin", "true..2", "1..inf", "nan..1", ""):
        with pytest.raises(UserError):
            parse_range("x", text)


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    sweep(*LAKE.split(), folder=tmp_path / "a", code=2)
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["notes.txt"]
