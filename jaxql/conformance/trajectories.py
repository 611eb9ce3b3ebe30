"""The trajectories on which functions are checked, and changes to them that must not change an answer."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LENGTH, ACTIONS = 12, 3  # the same for every trajectory, so that a compiled function is compiled once


class Trajectory(NamedTuple):
    """T stored rows of one env in float64, and a learner's values of their T + 1 observations."""

    reward: np.ndarray  # [T]
    terminated: np.ndarray  # [T] bool; a life was lost where the next row is valid
    truncated: np.ndarray  # [T] bool
    valid: np.ndarray  # [T] bool, False where the env resets itself
    gamma: float
    values: np.ndarray  # [T + 1] state values; entry t + 1 belongs to the true successor of row t
    q_values: np.ndarray  # [T + 1, A] action values
    actions: np.ndarray  # [T + 1] int32


Maker = Callable[[np.random.Generator], Trajectory]
Change = Callable[[Trajectory, np.random.Generator], Trajectory]


def without_boundaries(rng: np.random.Generator) -> Trajectory:
    """A trajectory with no boundary but the last row."""
    no = np.zeros(LENGTH, bool)
    return Trajectory(
        reward=rng.normal(size=LENGTH),
        terminated=no,
        truncated=no,
        valid=~no,
        gamma=float(rng.uniform(0.5, 0.95)),
        values=rng.normal(size=LENGTH + 1),
        q_values=rng.normal(size=(LENGTH + 1, ACTIONS)),
        actions=rng.integers(ACTIONS, size=LENGTH + 1, dtype=np.int32),
    )


def with_zero_values(rng: np.random.Generator) -> Trajectory:
    """A trajectory whose returns are sums of rewards alone."""
    x = without_boundaries(rng)
    return x._replace(values=0 * x.values)


def with_zero_rewards(rng: np.random.Generator) -> Trajectory:
    """A trajectory whose returns are bootstraps alone."""
    x = without_boundaries(rng)
    return x._replace(reward=0 * x.reward)


def ends_in_last_row(**flags: bool) -> Maker:
    """Trajectories of a single episode, with these flags in the last row: nothing beyond can be touched."""

    def make(rng):
        last = np.arange(LENGTH) == LENGTH - 1
        return without_boundaries(rng)._replace(**dict.fromkeys(flags, last))

    return make


def two_episodes(*, reset: bool, **flags: bool) -> Maker:
    """Trajectories in which an episode ends amid the rows, with these flags; `reset`: an invalid row follows."""

    def make(rng):
        x, end = without_boundaries(rng), np.arange(LENGTH) == rng.integers(2, LENGTH - 4)
        after = np.roll(end, 1) if reset else end & False
        return x._replace(**dict.fromkeys(flags, end), valid=~after)

    return make


def all_boundaries(rng: np.random.Generator) -> Trajectory:
    """Episodes of all lengths: lost lives, both ends, and reset rows full of rubbish, some where nothing ended."""
    x, over, columns = without_boundaries(rng), rng.random() < 0.3, []
    for _ in range(LENGTH):
        valid = not over
        terminated, truncated = (rng.random(2) < 0.2) & valid
        over = bool(truncated or terminated and rng.random() < 0.5 or rng.random() < 0.1)
        columns.append((terminated, truncated, valid))
    terminated, truncated, valid = np.array(columns).T
    reward = np.where(valid, x.reward, 1e3 * x.reward)
    return x._replace(terminated=terminated, truncated=truncated, valid=valid, reward=reward)


def other_last_value(x: Trajectory, rng: np.random.Generator) -> Trajectory:
    """Another value of the observation after the last row."""
    return x._replace(values=_redrawn(x.values, LENGTH, rng), q_values=_redrawn(x.q_values, LENGTH, rng))


def other_future(x: Trajectory, rng: np.random.Generator) -> Trajectory:
    """Other rewards and values after the first episode and its true successor."""
    end = int(np.argmax(x.terminated | x.truncated))
    values, q_values = (_redrawn(numbers, end + 2, rng) for numbers in (x.values, x.q_values))
    return x._replace(reward=_redrawn(x.reward, end + 1, rng), values=values, q_values=q_values)


def other_reset_rewards(x: Trajectory, rng: np.random.Generator) -> Trajectory:
    """Other rewards in the rows that are not valid."""
    return x._replace(reward=np.where(x.valid, x.reward, 100 * rng.normal(size=LENGTH)))


def _redrawn(numbers: np.ndarray, start: int, rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([numbers[:start], numbers[start:] + rng.uniform(1, 2, numbers[start:].shape)])
