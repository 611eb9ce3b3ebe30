"""Statistics of the scores of many runs: aggregates, bootstrap intervals, comparisons. Pure NumPy.

Everywhere `scores` is an array [..., runs, tasks]; a task is an env. NaN marks a run that is missing, so that tasks may
have different numbers of runs. Leading axes are batch axes.

Source, unless a function names another: Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the
Statistical Precipice", arXiv:2108.13264.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

CHUNK = 5_000_000  # numbers, of all resamples that are in memory together


def mean(scores: ArrayLike) -> np.ndarray:
    """Returns the mean over tasks of the mean score of a task.

    Args:
      scores: [..., runs, tasks], NaN where a run is missing.

    Returns:
      [...].

    Raises:
      ValueError: `scores` has fewer than two axes, is infinite somewhere, or has a task without runs.

    >>> mean([[1.0, 3.0], [3.0, 5.0]]).item()
    3.0
    """
    return _task_means(_checked(scores)).mean(-1)


def median(scores: ArrayLike) -> np.ndarray:
    """Returns the median over tasks of the mean score of a task. Arguments and errors are those of `mean`.

    >>> median([[1.0, 2.0, 30.0], [3.0, 4.0, 50.0]]).item()
    3.0
    """
    return np.median(_task_means(_checked(scores)), axis=-1)


def iqm(scores: ArrayLike) -> np.ndarray:
    """Returns the interquartile mean: the mean of all n scores without the n // 4 lowest and n // 4 highest.

    The scores of all tasks and runs are pooled. Arguments and errors are those of `mean`.

    >>> iqm([[0.0], [1.0], [3.0], [100.0]]).item()
    2.0
    """
    scores = _checked(scores)
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)  # NaN comes last
    count = np.sum(~np.isnan(ordered), axis=-1, keepdims=True)
    place = np.arange(ordered.shape[-1])
    kept = (place >= count // 4) & (place < count - count // 4)
    return np.sum(ordered, axis=-1, where=kept) / np.sum(kept, axis=-1)


def optimality_gap(scores: ArrayLike, threshold: float = 1.0) -> np.ndarray:
    """Returns how far scores fall short of a threshold: threshold - mean(min(score, threshold)). Lower is better.

    Args:
      scores: [..., runs, tasks], NaN where a run is missing.
      threshold: the score beyond which more does not count; 1 is a human's in human-normalised scores.

    Raises:
      ValueError: as `mean`.

    >>> optimality_gap([[0.5], [2.0]]).item()
    0.25
    """
    return threshold - mean(np.minimum(_checked(scores), threshold))


def probability_of_improvement(scores_x: ArrayLike, scores_y: ArrayLike) -> np.ndarray:
    """Returns the mean over tasks of P(X > Y) + P(X = Y) / 2, X and Y being random runs of two algorithms.

    Of one task this is the Mann-Whitney U statistic divided by the number of pairs of runs.

    Args:
      scores_x: [..., runs, tasks] of the first algorithm, NaN where a run is missing.
      scores_y: [..., runs, tasks] of the second; another number of runs is fine.

    Returns:
      [...].

    Raises:
      ValueError: the numbers of tasks differ, or as `mean`.

    >>> probability_of_improvement([[1.0], [3.0]], [[2.0], [1.0]]).item()
    0.625
    """
    x, y = _checked(scores_x, "scores_x")[..., :, None, :], _checked(scores_y, "scores_y")[..., None, :, :]
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"scores_x has {x.shape[-1]} tasks and scores_y {y.shape[-1]}; give scores of the same tasks")
    missing = np.isnan(x) | np.isnan(y)
    wins = np.where(missing, np.nan, (x > y) + 0.5 * (x == y))
    return np.nanmean(wins, axis=(-3, -2)).mean(-1)


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """Returns the fraction of runs that score above each threshold: the mean over tasks of P(score > threshold).

    Args:
      scores: [..., runs, tasks], NaN where a run is missing.
      thresholds: [T].

    Returns:
      [..., T].

    Raises:
      ValueError: `thresholds` is not [T], or as `mean`.

    >>> performance_profile([[0.0, 1.0], [2.0, 3.0]], [0.5, 2.0]).tolist()
    [0.75, 0.25]
    """
    scores, levels = _checked(scores), np.asarray(thresholds, float)
    if levels.ndim != 1:
        raise ValueError(f"thresholds has shape {levels.shape}; give one axis, [T]")
    present = ~np.isnan(scores)
    return np.stack([_task_means(np.where(present, scores > level, np.nan)).mean(-1) for level in levels], axis=-1)


def resample(scores: ArrayLike, count: int, generator: np.random.Generator) -> np.ndarray:
    """Returns `count` stratified bootstrap resamples: in each, every task draws as many of its runs, with replacement.

    Args:
      scores: [runs, tasks], NaN where a run is missing.
      count: the number of resamples.
      generator: the source of randomness.

    Returns:
      [count, runs, tasks]. The runs of a task come first, and as many NaN as before last.

    Raises:
      ValueError: `scores` is not [runs, tasks], or as `mean`.

    >>> resample([[1.0], [1.0], [np.nan]], 2, np.random.default_rng(0))[..., 0].tolist()
    [[1.0, 1.0, nan], [1.0, 1.0, nan]]
    """
    scores = _checked(scores)
    if scores.ndim != 2:
        raise ValueError(f"scores has shape {scores.shape}; a bootstrap takes [runs, tasks]")
    drawn = np.full((count, *scores.shape), np.nan)
    for task in range(scores.shape[1]):
        runs = scores[~np.isnan(scores[:, task]), task]
        drawn[:, : len(runs), task] = generator.choice(runs, (count, len(runs)))
    return drawn


def bootstrap_interval(
    statistic: Callable[..., np.ndarray],
    *scores: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends (low, high) of the percentile interval of a statistic under the stratified bootstrap.

    Several algorithms are resampled independently. A single run carries no information on its spread: the interval of
    one run a task has length zero.

    Args:
      statistic: called with one array [R, runs, tasks] for each of `scores`; returns [R, ...].
      *scores: [runs, tasks] of each algorithm.
      confidence: the coverage, in (0, 1).
      resamples: how many.
      seed: of the resampling. The same seed gives the same interval.

    Raises:
      ValueError: `confidence` or `resamples` is out of range, or as `resample`.

    >>> low, high = bootstrap_interval(mean, [[1.0], [2.0], [3.0]])
    >>> bool(1 <= low < 2 < high <= 3)
    True
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be between 0 and 1, as in 0.95")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; it must be at least 1")
    generator, values, matrices = np.random.default_rng(seed), [], [_checked(each) for each in scores]
    pairs = math.prod(len(each) for each in matrices)  # a statistic may compare all runs with all
    chunk = max(1, CHUNK // (pairs * matrices[0].shape[-1]))
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        values.append(statistic(*(resample(each, count, generator) for each in matrices)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(values), [tail, 1 - tail], axis=0)
    return low, high


def area_under_curve(steps: ArrayLike, values: ArrayLike, until: float) -> float:
    """Returns the mean height of a learning curve on [0, until]: its area divided by `until`.

    The curve is linear between its points, has the first value before the first point and the last value after the
    last one.

    Args:
      steps: [T], increasing, not negative.
      values: [T].
      until: the end of the interval, positive.

    Raises:
      ValueError: the shapes differ or are empty, `steps` decreases or is negative, or `until` is not positive.

    >>> area_under_curve([0, 10], [0.0, 1.0], until=20)
    0.75
    """
    x, y = np.asarray(steps, float), np.asarray(values, float)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise ValueError(f"steps has shape {x.shape} and values {y.shape}; both must be [T], with T at least 1")
    if x[0] < 0 or np.any(np.diff(x) < 0):
        raise ValueError("steps must not decrease or be negative; sort the curve by its steps")
    if not 0 < until < math.inf:
        raise ValueError(f"until is {until}; it must be positive")
    inside = x < until
    x_inside = np.concatenate([[0.0], x[inside], [until]])
    y_inside = np.concatenate([[y[0]], y[inside], [np.interp(until, x, y)]])
    return float(np.trapezoid(y_inside, x_inside) / until)


def seeds_needed(scores_x: ArrayLike, scores_y: ArrayLike, power: float = 0.8, significance: float = 0.05) -> float:
    """Returns how many seeds each of two algorithms needs for their difference of means to be found significant.

    n = (z_a + z_b)^2 (V_x + V_y) / d^2 + z_a^2 / 4, rounded up, and 2 at least. d is the difference of `mean`; V is the
    variance of that mean with one run a task, the sum over tasks of the variance between runs / tasks^2; z_a and z_b
    are the normal quantiles of 1 - significance / 2 and of power. It takes the observed difference and variances for
    the true ones. Source: Guenther (1981), "Sample Size Formulas for Normal Theory T Tests".

    Args:
      scores_x: [runs, tasks] of the first algorithm, NaN where a run is missing.
      scores_y: [runs, tasks] of the second.
      power: the probability with which the difference is found, in (0, 1).
      significance: the level of the two-sided test, in (0, 1).

    Returns:
      Seeds a task and algorithm; infinity where the means are equal; NaN where a task has one run only.

    Raises:
      ValueError: `power` or `significance` is out of range, the tasks differ in number, or as `mean`.

    >>> seeds_needed([[0.0], [2.0]], [[1.0], [3.0]])
    33.0
    """
    for name, value in {"power": power, "significance": significance}.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}; it must be between 0 and 1")
    x, y = _checked(scores_x, "scores_x"), _checked(scores_y, "scores_y")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"scores_x has shape {x.shape} and scores_y {y.shape}; give [runs, tasks] of the same tasks")
    if any(np.sum(~np.isnan(each), axis=0).min() < 2 for each in (x, y)):
        return math.nan
    difference = float(mean(x) - mean(y))
    if difference == 0:
        return math.inf
    variance = sum(float(np.nanvar(each, axis=0, ddof=1).sum()) for each in (x, y)) / x.shape[1] ** 2
    z_a, z_b = NormalDist().inv_cdf(1 - significance / 2), NormalDist().inv_cdf(power)
    return max(2.0, float(math.ceil((z_a + z_b) ** 2 * variance / difference**2 + z_a**2 / 4)))


def normalise(scores: ArrayLike, low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Returns (score - low) / (high - low): 0 at `low`, 1 at `high`. A task whose low equals its high gets 1.

    Args:
      scores: [..., runs, tasks].
      low: [tasks], as a random policy's score.
      high: [tasks], as a human's score.

    >>> normalise([[-20.7], [14.6]], [-20.7], [14.6]).tolist()
    [[0.0], [1.0]]
    """
    raw, zero = np.asarray(scores, float), np.asarray(low, float)
    span = np.asarray(high, float) - zero
    scaled = (raw - zero) / np.where(span == 0, 1.0, span)
    return np.where((span == 0) & ~np.isnan(raw), 1.0, scaled)


def _checked(scores: ArrayLike, name: str = "scores") -> np.ndarray:
    """Returns float64 [..., runs, tasks], or raises ValueError."""
    array = np.asarray(scores, float)
    if array.ndim < 2 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}; it must be [..., runs, tasks], neither of them 0")
    if np.any(np.isinf(array)):
        raise ValueError(f"{name} is infinite somewhere; leave such runs out, or mark them missing with NaN")
    if np.any(np.all(np.isnan(array), axis=-2)):
        raise ValueError(f"{name} has a task without runs; leave the task out")
    return array


def _task_means(scores: np.ndarray) -> np.ndarray:
    return np.nanmean(scores, axis=-2)
