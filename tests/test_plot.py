"""`jaxql plot`: what is drawn, where it is written, and one line for whatever is wrong."""

import builtins
import subprocess
import sys

import numpy as np
import pytest
from run_folders import write_run

from jaxql import cli
from jaxql.errors import UserError
from jaxql.lab import plots, statistics
from jaxql.lab.collect import find_runs, grouped
from jaxql.lab.compare import compare

STARTS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.fixture(autouse=True)
def plotting():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in range(4):
        write_run(root / f"dqn{seed}", (0.1, 0.2 + 0.1 * seed, 0.5), seed=seed)
        write_run(root / f"pqn{seed}", (0.2, 0.1 * seed), agent="pqn", seed=seed)
        write_run(root / f"pole{seed}", (20.0, 100.0 + seed), agent="pqn", env="CartPole-v1", seed=seed, solved_at=490)
    return root


def groups(folder, *by):
    return grouped(find_runs([folder])[0], by)


def lines(panel):
    return {line.get_label().split(" (")[0]: line.get_xydata() for line in panel.get_lines()}


def test_curves_have_a_panel_an_env_and_a_line_a_group(folder):
    figure = plots.draw_curves(groups(folder))
    lake, pole = figure.axes
    assert {lake.get_title(), pole.get_title()} == {"FrozenLake-v1", "CartPole-v1"}
    assert list(lines(lake)) == ["dqn", "pqn"] and list(lines(pole)) == ["pqn"]
    assert lake.get_xlabel() == "env steps"
    curve = lines(lake)["dqn"]
    assert curve[0].tolist() == pytest.approx([333, 0.1])
    middle = np.interp(666, *curve.T)
    assert middle == pytest.approx(0.35, abs=0.01), "the interquartile mean of 0.2, 0.3, 0.4, 0.5"
    assert curve[-1].tolist() == pytest.approx([1000, 0.5])


def test_the_band_is_the_bootstrap_interval_of_whole_runs(folder):
    x, middle, low, high = plots._band(
        [(np.array([0.0, 1.0]), np.array([0.0, y]), "full") for y in (1.0, 2.0, 6.0)], 500
    )
    ends = statistics.bootstrap_interval(statistics.iqm, [[1.0], [2.0], [6.0]], resamples=500)
    assert (low[-1], middle[-1], high[-1]) == pytest.approx((ends[0], 3, ends[1]))
    np.testing.assert_allclose(high, x * high[-1])  # whole runs: the band has no jumps


@pytest.mark.parametrize(("ending", "at_the_end", "end"), [("early", 2.0, 2.0), ("open", 0.0, 2.0), ("full", 2.0, 1.0)])
def test_what_a_curve_does_after_a_run_s_end(ending, at_the_end, end):
    short, long = (np.array([0.0, 1.0]), np.array([0.0, 4.0])), (np.array([0.0, 2.0]), np.array([0.0, 0.0]))
    x, middle, _, _ = plots._band([(*short, ending), (*long, "full")], 100)
    assert middle[x <= 1][-1] == pytest.approx(2, abs=0.05)
    assert (x[-1], middle[-1]) == (end, at_the_end)


@pytest.mark.parametrize(("x", "end"), [("env_steps", 1000), ("updates", 500), ("minutes", 1)])
def test_the_horizontal_axis(folder, x, end):
    panel = plots.draw_curves(groups(folder), x).axes[0]
    assert lines(panel)["pqn"][-1, 0] == pytest.approx(end)
    assert panel.get_xlabel() == x.replace("_", " ")


def test_any_column_can_be_drawn(folder):
    panel = plots.draw_curves(groups(folder), metric="episodes").axes[0]
    assert panel.get_ylabel() == "episodes" and lines(panel)["dqn"][-1, 1] == 1000
    with pytest.raises(UserError, match='no run has a column "episode" .did you mean "episodes"'):
        plots.draw_curves(groups(folder), metric="episode")


def test_one_run_is_a_line_and_one_point_a_mark(tmp_path):
    write_run(tmp_path / "a", (0.5,))
    (panel,) = plots.draw_curves(groups(tmp_path)).axes
    assert len(panel.collections) == 0 and panel.get_lines()[0].get_marker() == "o"


def test_no_run_has_values_yet(tmp_path):
    write_run(tmp_path / "a", ())
    with pytest.raises(UserError, match="no run has values of returns by env steps yet"):
        plots.draw_curves(groups(tmp_path))
    (write_run(tmp_path / "b", (0.1,)) / "timing.csv").unlink()
    with pytest.raises(UserError, match="by minutes"):
        plots.draw_curves(groups(tmp_path), "minutes")


def test_profiles_fall_from_all_runs_to_none(folder):
    comparison = compare(groups(folder, "agent"))
    (panel,) = plots.draw_profiles(comparison, "score", resamples=100).axes
    for label, curve in lines(panel).items():
        assert (curve[0, 1], curve[-1, 1]) == (1, 0)
        assert np.all(np.diff(curve[:, 1]) <= 0)
        expected = statistics.performance_profile(comparison.scores[label], curve[:, 0])
        np.testing.assert_allclose(curve[:, 1], expected)


def test_bars_reach_from_low_to_high(folder):
    comparison = compare(groups(folder, "agent"))
    panels = plots.draw_intervals(comparison, "score").axes
    assert [panel.get_title() for panel in panels][:2] == ["IQM", "median"]
    bars = sorted(panels[0].patches, key=lambda bar: bar.get_y())
    rows = [row for row in comparison.estimates if row.statistic == "iqm" and row.env == comparison.scope]
    for bar, row in zip(bars, rows, strict=True):
        assert (bar.get_x(), bar.get_x() + bar.get_width()) == pytest.approx((row.low, row.high))


def test_many_groups_look_different():
    styles = plots._styles([str(i) for i in range(28)])
    assert len(set(styles.values())) == 28


@pytest.mark.parametrize("suffix", STARTS)
def test_a_picture_is_written_and_is_the_same_twice(folder, tmp_path, capsys, suffix):
    pictures = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for picture in pictures:
        assert cli.main(["plot", str(folder), "--out", str(picture), "--by", "agent"]) == 0
        assert capsys.readouterr().out == f"{picture}: curves of 12 runs in 2 groups\n"
    assert pictures[0].read_bytes().startswith(STARTS[suffix])
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


@pytest.mark.parametrize("kind", ["curves", "profiles", "intervals"])
def test_every_kind_has_a_default_name(folder, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plot", str(folder), "--kind", kind, "--where", "env=FrozenLake-v1"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{kind}.png"]


@pytest.mark.parametrize(("argv", "message"), [
    ([], "RUN is missing"),
    (["nowhere"], "no folder nowhere"),
    (["FOLDER", "--out", "a.jpg"], "ends in .png, .svg or .pdf"),
    (["FOLDER", "--out", "no/a.png"], "there is no folder no"),
    (["FOLDER", "--metric", "los"], 'no run has a column "los"'),
    (["FOLDER", "--kind", "profiles", "--metric", "loss"], "--metric is of curves"),
    (["FOLDER", "--x", "hours"], "minutes"),
    (["FOLDER", "--by", "nothing"], 'no run has a setting "nothing"'),
])  # fmt: skip
def test_bad_input_is_one_line(folder, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plot", *(str(folder) if word == "FOLDER" else word for word in argv)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_it_says_what_to_install(folder, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert cli.main(["plot", str(folder), "--out", str(tmp_path / "a.png")]) == 2
    assert 'pip install "jaxql[plot]"' in capsys.readouterr().err


def test_a_picture_needs_no_jax_and_no_display(folder, tmp_path):
    code = f"""
import sys
from jaxql import cli
assert cli.main(["plot", {str(folder)!r}, "--out", {str(tmp_path / "a.png")!r}]) == 0
print({{"jax", "gymnasium", "matplotlib.pyplot"}} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "set()", result.stderr
