"""The laws of TD errors and returns: each with the trajectories on which little else can go wrong."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxql.conformance.trajectories import (
    LENGTH,
    Change,
    Maker,
    Trajectory,
    all_boundaries,
    ends_in_last_row,
    other_future,
    other_last_value,
    other_reset_rewards,
    two_episodes,
    with_zero_rewards,
    with_zero_values,
    without_boundaries,
)

Settings = dict[str, Any]  # n or lambda by its name


class Law(NamedTuple):
    """A law by its name, and how it is checked."""

    name: str
    make: Maker
    settings: Callable[[Settings], Settings] = lambda settings: settings  # selects the settings that matter
    rows: Callable[[Trajectory], np.ndarray] = lambda trajectory: trajectory.valid | True  # [T] rows compared
    alter: Change | None = None  # changes numbers that must not count: the answers stay the same


def _named(*names: str) -> Callable[[Settings], Settings]:
    return lambda settings: {name: settings[name] for name in names if name in settings}


def _whole_windows(x: Trajectory) -> np.ndarray:
    """Rows whose windows of up to 5 are stored whole."""
    return np.arange(LENGTH) < LENGTH - 5


def _last(x: Trajectory) -> np.ndarray:
    return np.arange(LENGTH) == LENGTH - 1


def _valid(x: Trajectory) -> np.ndarray:
    return x.valid


def _not_valid(x: Trajectory) -> np.ndarray:
    return ~x.valid


def _first_episode(x: Trajectory) -> np.ndarray:
    return np.arange(LENGTH) <= np.argmax(x.terminated | x.truncated)


_LIFE = two_episodes(terminated=True, reset=False)
_DEATH = two_episodes(terminated=True, reset=True)
_TIMEOUT = two_episodes(truncated=True, reset=True)
_ENDS = (
    Law("a termination is not bootstrapped", ends_in_last_row(terminated=True), alter=other_last_value),
    Law("a truncation is bootstrapped", ends_in_last_row(truncated=True), rows=_last),
)
_BOUNDARIES = (
    Law("a lost life ends its episode", _LIFE, rows=_first_episode, alter=other_future),
    Law("nothing crosses a termination", _DEATH, rows=_first_episode, alter=other_future),
    Law("nothing crosses a truncation", _TIMEOUT, rows=_first_episode, alter=other_future),
    Law(
        "nothing crosses a reset that no end announced",
        two_episodes(reset=True),
        rows=_valid,
        alter=other_reset_rewards,
    ),
)
_RESETS = (
    Law("the contents of a reset row never count", _TIMEOUT, rows=_valid, alter=other_reset_rewards),
    Law("a reset row starts nothing", _TIMEOUT, rows=_not_valid),
)
TOGETHER = (  # checked only where all other laws hold; otherwise these would fail for the same reasons
    Law("a termination pays its last reward", ends_in_last_row(terminated=True), rows=_last),
    Law("a row with both ends is terminated", ends_in_last_row(terminated=True, truncated=True)),
    Law("all boundaries together", all_boundaries),
)

LAWS_OF_ONE_STEP = (Law("the error is its equation", without_boundaries), *_ENDS, *_RESETS, *TOGETHER)
LAWS_OF_N_STEPS = (
    Law("reward i is discounted by gamma**i", with_zero_values, rows=_whole_windows),
    Law("the bootstrap is discounted by gamma**n", with_zero_rewards, rows=_whole_windows),
    Law("the last row is bootstrapped", without_boundaries, rows=_last),
    *_ENDS,
    *_BOUNDARIES,
    *_RESETS,
    *TOGETHER,
)
LAWS_OF_LAMBDA = (
    Law("lambda 0 is the one-step return", without_boundaries, _named("lambda=0"), rows=_whole_windows),
    Law("lambda 1 is the whole return", without_boundaries, _named("lambda=1"), rows=_whole_windows),
    Law(
        "lambda_t weighs the return from t + 1",
        without_boundaries,
        _named("lambda=0.7", "lambda varies"),
        rows=_whole_windows,
    ),
    Law("the last row is bootstrapped", without_boundaries, rows=_last),
    *_ENDS,
    *_BOUNDARIES,
    *_RESETS,
    *TOGETHER,
)
