"""`jaxql compare`: scores of runs, groups, scales, tables; one line for whatever is wrong."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from run_folders import write_run

from jaxql import cli
from jaxql.errors import UserError
from jaxql.lab import statistics
from jaxql.lab.collect import find_runs, grouped, read_run
from jaxql.lab.compare import compare, score_of, text_table, to_csv, to_latex, to_text


def folders(root, env, **groups):
    """Writes a run for each final return of each agent."""
    for agent, finals in groups.items():
        for seed, final in enumerate(finals):
            write_run(
                root / env.replace("/", "-") / agent / f"seed{seed}", (0.0, final), agent=agent, env=env, seed=seed
            )
    return root


def compared(root, by=(), **options):
    return compare(grouped(find_runs([root])[0], by), **options)


def value(comparison, env, group, statistic):
    (found,) = [e for e in comparison.estimates if (e.env, e.group, e.statistic) == (env, group, statistic)]
    return found


def test_scores_of_a_run(tmp_path):
    run = read_run(write_run(tmp_path / "a", (1, 2, 3, 5, 4), solved_at=9))  # at 200, 400, ..., 1000 steps
    assert score_of(run) == score_of(run, "final") == 4, "only the last is in the last tenth"
    assert score_of(run, "best") == 5
    assert score_of(run, "auc") == pytest.approx((1 * 200 + 200 * (1.5 + 2.5 + 4 + 4.5)) / 1000)
    assert score_of(run, "auc", until=2000) == pytest.approx(((1 * 200 + 200 * 12.5) + 4 * 1000) / 2000)
    many = read_run(write_run(tmp_path / "b", range(100)))
    assert score_of(many) == pytest.approx(np.mean(range(90, 100)))
    assert math.isnan(score_of(read_run(write_run(tmp_path / "c", ()))))


def test_a_run_without_evaluations_is_scored_by_its_training_episodes(tmp_path):
    folder = write_run(tmp_path / "a", (1.0, 2.0))
    (folder / "metrics.csv").write_text("env_steps,return_mean,eval_return\n500,,\n1000,7,\n")
    assert score_of(read_run(folder)) == 7


def test_one_env_is_compared_in_raw_scores(tmp_path):
    dqn, c51 = [0.1, 0.2, 0.3, 0.9, 0.5], [0.4, 0.6, 0.7]
    result = compared(folders(tmp_path, "FrozenLake-v1", dqn=dqn, c51=c51), seed=5, resamples=400)
    scores = np.array(dqn)[:, None]
    iqm = value(result, "FrozenLake-v1", "dqn", "iqm")
    assert iqm.value == pytest.approx(np.mean([0.2, 0.3, 0.5]))
    assert iqm.runs == 5
    low, high = statistics.bootstrap_interval(statistics.iqm, scores, resamples=400, seed=5)
    assert (iqm.low, iqm.high) == pytest.approx((low, high))
    gap = value(result, "FrozenLake-v1", "dqn", "optimality_gap")
    assert gap.value == pytest.approx(0.8 - np.mean(np.minimum(dqn, 0.8))), "to the return that counts as solved"
    better = value(result, "FrozenLake-v1", "c51", "probability_of_improvement")
    assert better.versus == "dqn"
    assert better.value == pytest.approx(11 / 15)
    needed = value(result, "FrozenLake-v1", "c51", "seeds_needed").value
    assert needed == statistics.seeds_needed(np.array(c51)[:, None], scores)
    assert value(result, "FrozenLake-v1", "c51", "seeds_missing").value == max(0, needed - 3)
    assert result.scale == "raw" and not result.notes


def test_atari_games_together_are_human_normalised(tmp_path):
    folders(tmp_path, "ALE/Pong-v5", dqn=[-20.7, 14.6])
    folders(tmp_path, "BreakoutNoFrameskip-v4", dqn=[1.7, 30.5])
    result = compared(tmp_path)
    assert result.scale == "human" and result.scope == "all 2 envs"
    np.testing.assert_allclose(result.scores["dqn"], [[0, 0], [1, 1]], atol=1e-12)
    assert value(result, "all 2 envs", "dqn", "mean").value == pytest.approx(0.5)
    assert value(result, "all 2 envs", "dqn", "optimality_gap").value == pytest.approx(0.5)
    assert value(result, "ALE/Pong-v5", "dqn", "mean").value == pytest.approx((14.6 - 20.7) / 2), "raw alone"
    alone = compared(tmp_path / "ALE-Pong-v5", scale="human")
    assert value(alone, "ALE/Pong-v5", "dqn", "mean").value == pytest.approx(0.5)
    assert "all 2 envs, human-normalised\n" in to_text(result.estimates)


def test_other_envs_together_are_scaled_to_what_was_reached(tmp_path):
    folders(tmp_path, "CartPole-v1", dqn=[100, 200], pqn=[300, 500])
    folders(tmp_path, "FrozenLake-v1", dqn=[0.5, 0.5], pqn=[0.5, 0.5])
    result = compared(tmp_path)
    assert result.scale == "minmax"
    np.testing.assert_allclose(result.scores["dqn"], [[0, 1], [0.25, 1]])
    np.testing.assert_allclose(result.scores["pqn"], [[0.5, 1], [1, 1]])
    assert value(result, "all 2 envs", "pqn", "probability_of_improvement").value == pytest.approx(0.75)
    raw = compared(tmp_path, scale="raw", threshold=300)
    assert value(raw, "all 2 envs", "dqn", "mean").value == pytest.approx((150 + 0.5) / 2)
    assert value(raw, "CartPole-v1", "dqn", "optimality_gap").value == pytest.approx(150)


def test_different_numbers_of_runs_and_envs(tmp_path):
    folders(tmp_path, "CartPole-v1", dqn=[1, 2, 3], pqn=[4])
    folders(tmp_path, "FrozenLake-v1", dqn=[1, 1], pqn=[0, 1])
    folders(tmp_path, "Acrobot-v1", dqn=[1, 1])
    result = compared(tmp_path)
    assert "left out: Acrobot-v1, on which only dqn ran" in result.notes
    assert value(result, "CartPole-v1", "pqn", "iqm").low is None, "one run has no interval"
    assert value(result, "CartPole-v1", "dqn", "iqm").low is not None
    assert any("no interval" in note for note in result.notes)
    assert math.isnan(value(result, "all 2 envs", "pqn", "seeds_needed").value)


def test_of_many_groups_the_best_is_compared_with_each(tmp_path):
    folders(tmp_path, "FrozenLake-v1", **{f"a{i}": [i / 20, i / 10] for i in range(9)})
    pairs = {(each.group, each.versus) for each in compared(tmp_path, resamples=10).estimates if each.versus}
    assert pairs == {("a8", f"a{i}") for i in range(8)}


def test_nothing_to_compare(tmp_path):
    folders(tmp_path, "CartPole-v1", dqn=[1, 2])
    folders(tmp_path, "FrozenLake-v1", pqn=[0, 1])
    with pytest.raises(UserError, match="no env has runs of every group"):
        compared(tmp_path)
    with pytest.raises(UserError, match="no human score of FrozenLake-v1 is known"):
        compared(tmp_path / "FrozenLake-v1", scale="human")
    write_run(tmp_path / "early" / "a", ())
    with pytest.raises(UserError, match="no run has a score yet"):
        compared(tmp_path / "early")


def test_what_is_not_comparable_is_said(tmp_path):
    write_run(tmp_path / "a", (0.1, 0.2), seed=0)
    write_run(tmp_path / "b", (0.1, 0.3), seed=1, steps=400)
    write_run(tmp_path / "c", (), seed=2)
    result = compared(tmp_path)
    assert f"{tmp_path / 'b'} has not finished: 400 of 1000 env steps" in result.notes
    assert f"left out: {tmp_path / 'c'} has no final score" in result.notes


def test_a_run_that_was_solved_early_keeps_its_last_return(tmp_path):
    write_run(tmp_path / "fast", (0.9,), agent="fast", steps=100)
    write_run(tmp_path / "slow", (0.0, 0.9), agent="slow", steps=1000)
    result = compared(tmp_path, score="auc")
    assert value(result, "FrozenLake-v1", "fast", "mean").value == pytest.approx(0.9)
    assert value(result, "FrozenLake-v1", "slow", "mean").value == pytest.approx(0.9 / 4)


def test_areas_end_where_the_shortest_full_run_does(tmp_path):
    write_run(tmp_path / "short", (1.0, 2.0), agent="short", steps=100, solved_at=9, seed=1)
    record = read_run(tmp_path / "short")
    assert record.ending == "open"
    write_run(tmp_path / "long", (1.0, 2.0), agent="long", solved_at=9)
    folder = write_run(tmp_path / "budget", (1.0, 3.0), agent="budget", steps=100, solved_at=9)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"steps": 1000', '"steps": 100'))
    assert (read_run(folder).ending, read_run(tmp_path / "long").ending) == ("full", "full")
    result = compared(tmp_path, ["agent"], score="auc")
    assert value(result, "FrozenLake-v1", "budget", "mean").value == pytest.approx((1 * 50 + 2 * 50) / 100)
    assert value(result, "FrozenLake-v1", "long", "mean").value == pytest.approx(1), "its first point is at 500"


def test_tables(tmp_path):
    folders(tmp_path, "Frozen_Lake-v1", dqn=[0.1, 0.2], pqn=[0.3, 0.5])
    result = compared(tmp_path)
    rows = list(csv.DictReader(io.StringIO(to_csv(result.estimates))))
    assert len(rows) == len(result.estimates) == 2 * 4 + 4
    assert float(rows[0]["value"]) == result.estimates[0].value, "a number reads back the same"
    latex = to_latex(result.estimates)
    assert r"Frozen\_Lake-v1" in latex and latex.count("&") == 3 * 5
    assert latex.startswith(r"\begin{tabular}{lrllll}") and latex.endswith("\\end{tabular}\n")
    text = to_text(result.estimates)
    assert re.search(r"dqn +2 +0.15 \[0.1, 0.2\]", text)
    assert re.search(r"pqn +dqn +1 \[1, 1\] +0.25 \[", text)


def test_columns_are_aligned():
    assert text_table(["", "b"], [["xyz", "1"], ["u", "22"]]) == "       b\n  xyz  1\n  u    22"


def test_the_command(tmp_path, capsys):
    folders(tmp_path / "runs", "FrozenLake-v1", dqn=[0.1, 0.2], pqn=[0.3, 0.5])
    table, latex = tmp_path / "t.csv", tmp_path / "t.tex"
    argv = ["compare", str(tmp_path / "runs"), "--by", "agent", "--out", str(table), "--out", str(latex)]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert (
        out.startswith("final return of a run, [95 %") and "\nFrozenLake-v1\n" in out and "pairs\n" in out and not err
    )
    assert table.read_text().startswith("env,scale,group,versus,statistic,value,low,high,runs\n")
    assert r"\toprule" in latex.read_text()
    assert cli.main(["compare", "--where", "agent=dqn", str(tmp_path / "runs")]) == 0
    assert "pqn" not in capsys.readouterr().out


@pytest.mark.parametrize(("argv", "message"), [
    ([], "RUN is missing: jaxql compare RUN ..."),
    (["--by", "agent"], "RUN is missing"),
    (["nowhere"], "no folder nowhere"),
    (["."], "no run in ."),
    (["runs", "--by", "agnt"], 'did you mean "agent"?'),
    (["runs", "--where", "seed=7"], "none of 1 runs in runs meets the conditions"),
    (["runs", "--score", "finl"], "final"),
    (["runs", "--out", "t.xlsx"], "ends in .csv or .tex"),
    (["runs", "--out", "no/where/t.csv"], "cannot write no/where/t.csv"),
    (["runs", "--resamples", "0"], "resamples is 0"),
    (["runs", "--seed", "-1"], "seed is -1"),
    (["runs", "--scale", "human"], "no human score of FrozenLake-v1"),
    (["runs", "--treshold", "1"], "did you mean"),
])  # fmt: skip
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, argv, message):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    if "runs" in argv:
        write_run(tmp_path / "work" / "runs")
    assert cli.main(["compare", *argv]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and message in err
    assert not list((tmp_path / "work").glob("t.*"))


def test_settings_of_other_kinds_make_groups(tmp_path):
    write_run(tmp_path / "a", hidden=[64])
    write_run(tmp_path / "b", hidden=[64, 64])
    write_run(tmp_path / "c", hidden=None)
    assert list(grouped(find_runs([tmp_path])[0])) == ["dqn hidden=-", "dqn hidden=64", "dqn hidden=64,64"]
    assert json.loads((tmp_path / "a" / "config.json").read_text())["config"]["settings"]["hidden"] == [64]
