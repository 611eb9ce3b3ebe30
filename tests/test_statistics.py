"""Statistics of runs against scipy, rliable and enumeration."""

import importlib
import itertools
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.stats

from jaxql.lab import statistics
from jaxql.lab.human_scores import SCORES, human_scores

SHAPES = [(1, 1), (2, 1), (3, 1), (5, 1), (4, 3), (10, 26), (7, 57)]


def scores(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).round(1)  # rounded, so that some tie


def oracle():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rliable's own dependencies warn on import
        try:
            return importlib.import_module("rliable.library"), importlib.import_module("rliable.metrics")
        except (ImportError, TypeError) as error:  # TypeError: its arch does not know pandas 3
            pytest.skip(f"rliable is not installed, or not with pandas below 3: {error}")


@pytest.mark.parametrize("shape", SHAPES)
def test_aggregates_are_the_published_definitions(shape):
    x = scores(shape)
    assert statistics.iqm(x) == pytest.approx(scipy.stats.trim_mean(x, 0.25, axis=None), abs=1e-12)
    assert statistics.mean(x) == pytest.approx(np.mean(np.mean(x, axis=0)), abs=1e-12)
    assert statistics.median(x) == pytest.approx(np.median(np.mean(x, axis=0)), abs=1e-12)
    assert statistics.optimality_gap(x) == pytest.approx(1 - np.mean(np.minimum(x, 1)), abs=1e-12)
    assert statistics.optimality_gap(x, 0.3) == pytest.approx(0.3 - np.mean(np.minimum(x, 0.3)), abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_probability_of_improvement_is_mann_whitney(shape):
    x, y = scores(shape), scores((shape[0] + 2, shape[1]), seed=1)
    expected = [scipy.stats.mannwhitneyu(x[:, i], y[:, i]).statistic / x.shape[0] / y.shape[0] for i in range(shape[1])]
    assert statistics.probability_of_improvement(x, y) == pytest.approx(np.mean(expected), abs=1e-12)
    assert statistics.probability_of_improvement(x, x) == 0.5
    both = statistics.probability_of_improvement(x, y) + statistics.probability_of_improvement(y, x)
    assert both == pytest.approx(1, abs=1e-12)


def test_profile_counts_runs_above_a_score():
    x, levels = scores((7, 5)), [-1.0, 0.0, 0.5]
    assert statistics.performance_profile(x, levels) == pytest.approx([np.mean(x > level) for level in levels])


def test_leading_axes_are_batches():
    x, y = scores((6, 4, 3)), scores((6, 5, 3), seed=1)
    for function in statistics.mean, statistics.median, statistics.iqm, statistics.optimality_gap:
        np.testing.assert_allclose(function(x), [function(each) for each in x], atol=1e-12)
    expected = [statistics.probability_of_improvement(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(statistics.probability_of_improvement(x, y), expected, atol=1e-12)
    assert statistics.performance_profile(x, [0.0, 1.0]).shape == (6, 2)


def test_a_missing_run_is_as_if_it_were_not_there():
    x = scores((4, 1))
    padded = np.concatenate([x, [[np.nan]]])
    for function in statistics.mean, statistics.median, statistics.iqm, statistics.optimality_gap:
        assert function(padded) == function(x)
    y = scores((3, 1), seed=1)
    expected = statistics.probability_of_improvement(x, y)
    assert statistics.probability_of_improvement(padded, y) == pytest.approx(expected, abs=1e-12)
    assert statistics.seeds_needed(padded, y) == statistics.seeds_needed(x, y)
    low, high = statistics.bootstrap_interval(statistics.iqm, padded)
    assert (low, high) == statistics.bootstrap_interval(statistics.iqm, x)


def test_tasks_with_few_runs_weigh_as_much_in_the_mean():
    x = [[0.0, 10.0], [2.0, np.nan], [4.0, np.nan]]
    assert statistics.mean(x) == 6  # of 2 and 10
    assert statistics.performance_profile(x, [3.0]) == pytest.approx((1 / 3 + 1) / 2)


def test_an_interval_is_the_percentiles_of_its_resamples():
    x = scores((5, 3))
    low, high = statistics.bootstrap_interval(statistics.iqm, x, resamples=300, seed=7)
    drawn = statistics.resample(x, 300, np.random.default_rng(7))
    each = [scipy.stats.trim_mean(sample, 0.25, axis=None) for sample in drawn]
    assert (low, high) == pytest.approx(tuple(np.percentile(each, [2.5, 97.5])), abs=1e-12)


def test_a_resample_keeps_every_score_at_its_task():
    x = np.arange(12.0).reshape(4, 3)
    drawn = statistics.resample(x, 50, np.random.default_rng(0))
    assert drawn.shape == (50, 4, 3)
    assert all(np.isin(drawn[..., task], x[:, task]).all() for task in range(3))
    assert not np.array_equal(drawn[..., 0] // 3, drawn[..., 1] // 3), "tasks are drawn independently"


def test_the_bootstrap_distribution_is_the_enumerated_one():
    x = np.array([0.0, 1.0, 5.0])
    exact = [np.mean(draw) for draw in itertools.product(x, repeat=3)]
    drawn = statistics.mean(statistics.resample(x[:, None], 20_000, np.random.default_rng(0)))
    for value in np.unique(np.round(exact, 9)):
        probability = np.mean(np.isclose(exact, value))
        assert np.mean(np.isclose(drawn, value)) == pytest.approx(probability, abs=0.012)  # 4 standard errors


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    generator, inside = np.random.default_rng(0), 0
    for _ in range(200):
        low, high = statistics.bootstrap_interval(statistics.mean, generator.normal(size=(30, 1)), resamples=500)
        inside += low <= 0 <= high
    assert 0.88 < inside / 200 < 0.98


def test_the_same_seed_gives_the_same_interval():
    x = scores((6, 2))
    first = statistics.bootstrap_interval(statistics.iqm, x, resamples=700, seed=3)
    assert first == statistics.bootstrap_interval(statistics.iqm, x, resamples=700, seed=3)
    assert first != statistics.bootstrap_interval(statistics.iqm, x, resamples=700, seed=4)


@pytest.mark.parametrize("shape", SHAPES)
def test_point_estimates_equal_rliable(shape):
    library, metrics = oracle()
    x, y = scores(shape), scores(shape, seed=1)
    assert statistics.iqm(x) == pytest.approx(metrics.aggregate_iqm(x), abs=1e-6)
    assert statistics.mean(x) == pytest.approx(metrics.aggregate_mean(x), abs=1e-6)
    assert statistics.median(x) == pytest.approx(metrics.aggregate_median(x), abs=1e-6)
    assert statistics.optimality_gap(x) == pytest.approx(metrics.aggregate_optimality_gap(x), abs=1e-6)
    expected = metrics.probability_of_improvement(x, y)
    assert statistics.probability_of_improvement(x, y) == pytest.approx(expected, abs=1e-6)
    levels = np.linspace(-2, 2, 9)
    expected = [library.run_score_deviation(x, level) for level in levels]
    np.testing.assert_allclose(statistics.performance_profile(x, levels), expected, atol=1e-6)


def test_intervals_equal_rliable_on_the_same_resamples(monkeypatch):
    library, metrics = oracle()
    x = scores((5, 4))
    drawn = statistics.resample(x, 500, np.random.default_rng(11))
    monkeypatch.setattr(
        library.StratifiedBootstrap, "bootstrap", lambda self, reps: (((sample,), {}) for sample in drawn[:reps])
    )
    _, interval = library.get_interval_estimates(
        {"x": x}, lambda each: np.array([metrics.aggregate_iqm(each), metrics.aggregate_mean(each)]), reps=500
    )
    for i, function in enumerate([statistics.iqm, statistics.mean]):
        low, high = statistics.bootstrap_interval(function, x, resamples=500, seed=11)
        assert (low, high) == pytest.approx(tuple(interval["x"][:, i]), abs=1e-6)


def test_area_is_the_mean_height():
    assert statistics.area_under_curve([5, 10], [1.0, 3.0], until=10) == pytest.approx((5 * 1 + 5 * 2) / 10)
    assert statistics.area_under_curve([5, 10], [1.0, 3.0], until=20) == pytest.approx((5 + 10 + 30) / 20)
    assert statistics.area_under_curve([5, 15], [0.0, 10.0], until=10) == pytest.approx(5 * 2.5 / 10)
    assert statistics.area_under_curve([7], [4.0], until=3) == 4


@pytest.mark.parametrize("effect", [0.4, 0.5, 0.8, 1.0, 1.5])
def test_seeds_needed_have_the_power_of_a_t_test(effect):
    x = np.array([-1.0, 0.0, 1.0])[:, None]  # variance 1
    needed = statistics.seeds_needed(x, x + effect)

    def power(n):
        freedom, shift = 2 * n - 2, effect * math.sqrt(n / 2)
        critical = scipy.stats.t.ppf(0.975, freedom)
        return scipy.stats.nct.sf(critical, freedom, shift) + scipy.stats.nct.cdf(-critical, freedom, shift)

    exact = next(n for n in itertools.count(2) if power(n) >= 0.8)
    assert abs(needed - exact) <= 1


def test_seeds_needed_at_the_edges():
    x = np.array([[0.0], [1.0]])
    assert statistics.seeds_needed(x, x) == math.inf
    assert math.isnan(statistics.seeds_needed(x, x[:1] + 3))
    assert statistics.seeds_needed(x * 0, x * 0 + 1) == 2
    both = np.concatenate([x, x], axis=1)  # the mean over two tasks varies half as much
    assert statistics.seeds_needed(both, both + 0.1) == pytest.approx(statistics.seeds_needed(x, x + 0.1) / 2, abs=1)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: statistics.iqm([1.0]), r"scores has shape \(1,\)"),
    (lambda: statistics.mean(np.zeros((0, 2))), "neither of them 0"),
    (lambda: statistics.mean([[math.inf]]), "scores is infinite"),
    (lambda: statistics.mean([[math.nan, 1.0]]), "a task without runs"),
    (lambda: statistics.probability_of_improvement([[1.0]], [[1.0, 2.0]]), "1 tasks and scores_y 2"),
    (lambda: statistics.bootstrap_interval(statistics.mean, [[1.0]], confidence=95), "confidence is 95"),
    (lambda: statistics.bootstrap_interval(statistics.mean, [[1.0]], resamples=0), "resamples is 0"),
    (lambda: statistics.resample(np.zeros((1, 2, 2)), 1, np.random.default_rng()), r"takes \[runs, tasks\]"),
    (lambda: statistics.area_under_curve([], [], 1), "T at least 1"),
    (lambda: statistics.area_under_curve([2, 1], [0, 0], 1), "must not decrease"),
    (lambda: statistics.area_under_curve([1], [0], 0), "until is 0"),
    (lambda: statistics.seeds_needed([[1.0]], [[1.0]], power=1), "power is 1"),
    (lambda: statistics.performance_profile([[1.0]], 0.5), "thresholds has shape"),
])  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_human_scores_are_of_the_57_games_and_their_ids():
    assert len(SCORES) == 57
    assert all(random != human and human > random for random, human in SCORES.values())
    for env in (
        "ALE/Breakout-v5",
        "BreakoutNoFrameskip-v4",
        "BreakoutDeterministic-v4",
        "Breakout-v0",
        "Breakout-ram-v4",
    ):
        assert human_scores(env) == (1.7, 30.5), env
    assert human_scores("Breakout-ramNoFrameskip-v4") == (1.7, 30.5)
    assert human_scores("ALE/UpNDown-v5") == (533.4, 11693.2)
    for env in "CartPole-v1", "MinAtar/Breakout-v1", "gymnax:Breakout-MinAtar", "ALE/Tetris-v5":
        assert human_scores(env) is None, env


def test_every_game_is_one_of_ale():
    roms = pytest.importorskip("ale_py.roms")
    known = {"".join(word.capitalize() for word in name.split("_")) for name in roms.get_all_rom_ids()}
    assert set(SCORES) <= known


def test_scaled_scores():
    assert statistics.normalise([[3.0, 5.0]], [1.0, 5.0], [5.0, 5.0]).tolist() == [[0.5, 1.0]]
    assert np.isnan(statistics.normalise([[np.nan]], [1.0], [1.0])).all()


def test_statistics_need_no_jax():
    code = "import sys, jaxql.lab.statistics, jaxql.lab.collect, jaxql.lab.compare; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
