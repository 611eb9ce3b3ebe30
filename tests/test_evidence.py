"""The command that repeats a cell, and what the package says of such cells."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks import evidence
from jaxql import cli
from jaxql.agents import entry_of
from jaxql.agents.evidence import MEASURED, RESULTS
from jaxql.lab.evaluation import Evaluation
from jaxql.lab.settings import settings


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Empty files of results."""
    for name in "EVIDENCE", "TRIED":
        monkeypatch.setattr(evidence, name, tmp_path / f"{name}.jsonl")
    return tmp_path


@pytest.mark.slow
def test_a_cell_is_trained_and_judged(files):
    assert evidence.measure("q-learning", "jax:catch", 400, range(3, 5), {"epsilon": 0.2}, files)
    (row,) = evidence.rows_of(evidence.TRIED)
    assert row["seeds"] == [3, 4] and row["settings"]["epsilon"] == 0.2 and row["settings"]["steps"] == 400
    assert len(row["final"]) == len(row["best"]) == len(row["training"]) == len(row["area_under_curve"]) == 2
    assert set(np.sign(row["final"])) <= {-1, 0, 1} and row["random"] < 0 and row["commit"]


def test_a_cell_is_one_row_and_is_run_once(files, monkeypatch):
    asked = []

    def cell(agent, env, steps, seeds, changes, work):
        asked.append(work.name)
        one = Evaluation(np.array([1.0, 3.0]), np.array([5, 5]), np.zeros(2, bool), 2)
        metrics = dict(
            env_steps=np.array([steps // 2, steps]), eval_return=np.array([np.nan, 2.0]), return_mean=np.array([0.0, 1])
        )
        values = evidence.statistics_of([one] * len(seeds), [one] * len(seeds), [metrics] * len(seeds), 0.0, steps)
        common = dict(agent=agent, env=env, steps=steps, seeds=list(seeds), changes=changes, updates=[1], cpu_minutes=1)
        return common | values

    monkeypatch.setattr(evidence, "cell", cell)
    for changes in {}, {}, {"hidden": (8, 8)}, {"hidden": (8, 8)}:
        assert evidence.measure("dqn", "jax:cartpole", None, range(3, 5), changes, files)
    assert asked == ["dqn-jax-cartpole-50000-3-4", "dqn-jax-cartpole-50000-3-4-hidden=8-8"]
    (row,), (tried,) = evidence.rows_of(evidence.EVIDENCE), evidence.rows_of(evidence.TRIED)
    assert row["command"].endswith("--env jax:cartpole --steps 50000 --seeds 2 --first-seed 3")
    assert tried["command"].endswith("--first-seed 3 --set 'hidden=8 8'")
    assert (row["final"], row["final_error"], row["iqm"], row["interval"]) == ([2.0, 2.0], [1.0, 1.0], 2.0, [2.0, 2.0])
    assert (row["training"], row["area_under_curve"], row["near_best"]) == ([1.0, 1.0], [2.0, 2.0], 1.0)
    monkeypatch.setattr(evidence, "cell", lambda *args: None)
    assert not evidence.measure("dqn", "jax:cartpole", 7, range(3, 5), {}, files), "it was stopped"


def test_time_spent_before_an_interruption_counts(tmp_path):
    (tmp_path / "spent.json").write_text(json.dumps({"cpu": 600.0, "wall": 3_000.0}))
    meter = evidence.Meter(tmp_path)
    meter({})
    assert meter.spent()["cpu_minutes"] == pytest.approx(10, abs=0.1)
    assert 600 <= json.loads((tmp_path / "spent.json").read_text())["cpu"] < 606


@pytest.mark.parametrize(
    ("values", "random", "share"),
    [
        ([[0.0, 100.0, 100.0], [0.0, 91.0, 80.0]], 0.0, 3 / 4),
        ([[-500.0, -100.0, -139.0], [-500.0, -141.0, -500.0]], -500.0, 2 / 4),
        ([[-200.0, -200.0, -200.0]], -200.0, 1.0),
    ],
)
def test_near_the_best_is_within_a_tenth_of_the_way_from_random_play(values, random, share):
    """The first of three evaluations is in the first half, and does not count."""
    curves = [(np.array([10, 50, 100]), np.array(each)) for each in values]
    assert evidence.near_best(curves, random, 100) == pytest.approx(share)


def test_settings_are_read_from_words():
    assert evidence.value_of("hidden=256 256") == ("hidden", (256, 256))
    assert evidence.value_of("backup=double") == ("backup", "double")
    assert evidence.value_of("learning_rate=1e-3") == ("learning_rate", 0.001)
    with pytest.raises(SystemExit):
        evidence.main(["--agent", "dqn", "--env", "jax:catch", "--set", "nothing"])


def test_a_published_row_that_was_not_run_says_so():
    published = json.loads(evidence.PUBLISHED.read_text())
    table = evidence.parity_table([], published)
    assert table.count("not run") == len({(row["env"], row["agent"], row["steps"]) for row in published["rows"]})
    rows = evidence.rows_of(evidence.EVIDENCE)
    missed = [dict(row, final=[-1e3]) for row in rows if row["evaluated_in"] in published["targets"]]
    assert "reached" not in evidence.parity_table(missed, published)


def test_what_the_package_claims_is_a_row_of_the_settings_that_it_ships():
    """A preset that is changed after its runs has lost its evidence: run the cell again, then --write."""
    rows = evidence.newest(evidence.rows_of(evidence.EVIDENCE))
    assert len(rows) == len(MEASURED)
    for each in MEASURED:
        row = rows[each.env, each.agent, each.steps]
        assert (each.reached, each.commit) == (evidence.reached_by(row), row["commit"][:7])
        assert not row["changes"] and not row["commit"].endswith("+")
        config, run = settings(entry_of(each.agent), row["env"])
        shipped = json.loads(json.dumps(evidence.differences(config)))
        names = {field.name for field in dataclasses.fields(config)}
        assert shipped == {name: value for name, value in row["settings"].items() if name in names}
        assert run.steps == each.steps


def test_settings_say_where_they_come_from_and_what_they_reached(capsys):
    assert cli.main(["settings", "dqn", "--env", "jax:cartpole", "--changed"]) == 0
    text = capsys.readouterr().out
    assert "tuned for jax:cartpole: https://github.com/DLR-RM/rl-baselines3-zoo" in text
    assert ("measured: " in text) == any((each.agent, each.env) == ("dqn", "CartPole-v1") for each in MEASURED)
    assert (f"; {RESULTS}, commit " in text) == ("measured: " in text)
    assert cli.main(["settings", "c51", "--env", "CartPole-v1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["n_step"]["source"].startswith("https://github.com/DLR-RM") and "source" not in shown["head"]
