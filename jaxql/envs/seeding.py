"""A seed for every episode, and the actions of current episodes, from which they can be played again."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxql.errors import UserError

PURPOSES = ("train", "eval", "evaluate", "record")


def check_seed(seed: Any) -> int:
    """Returns `seed` as an int.

    Raises:
      UserError: it is not a whole number from 0 to 2**32 - 1, the numbers of which JAX makes different keys.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise UserError(f"seed={seed!r}: a seed is a whole number, 0 or greater and below 2**32")
    return int(seed)


def split_among_seeds(seed: int | Sequence[int], num_envs: int, id: str) -> tuple[list[int], tuple[int, ...]]:
    """Returns (seeds, shape): the shape of the envs is (B,) for one seed, and (S, B / S) for a sequence of S seeds.

    Args:
      seed: one seed, or a sequence of them.
      num_envs: B.
      id: the env's name in messages.

    Raises:
      UserError: a seed is not a whole number, or B is not a multiple of S.

    >>> split_among_seeds(7, 4, "env"), split_among_seeds([7, 8], 4, "env")
    (([7], (4,)), ([7, 8], (2, 2)))
    """
    if not isinstance(seed, Sequence) or isinstance(seed, str):
        return [check_seed(seed)], (num_envs,)
    seeds = [check_seed(each) for each in seed]
    if not seeds or num_envs % len(seeds):
        raise UserError(f"{id}: {num_envs} envs cannot be split evenly among {len(seeds)} seeds")
    return seeds, (len(seeds), num_envs // len(seeds))


def check_purpose(purpose: str) -> int:
    """Returns the position of `purpose` in `PURPOSES`. Raises UserError if it is none of them."""
    if purpose not in PURPOSES:
        raise UserError(f"purpose={purpose!r}: it is one of {', '.join(PURPOSES)}")
    return PURPOSES.index(purpose)


def episode_seed(run_seed: int, purpose: str, env: int, episode: int) -> int:
    """Returns the seed of one episode: 0 <= seed < 2**31.

    The top 2 bits are the purpose, so that training and evaluation never share an episode. The other 29 bits are hashed
    from (run seed, purpose, env, episode) by `numpy.random.SeedSequence`.

    Args:
      run_seed: the seed of the run.
      purpose: one of `PURPOSES`.
      env: the index of the env.
      episode: the index of the episode in this env.

    Raises:
      UserError: an unknown purpose.

    >>> [episode_seed(0, "train", 0, 0) >> 29, episode_seed(0, "evaluate", 0, 0) >> 29]
    [0, 2]
    """
    number = check_purpose(purpose)
    hashed = np.random.SeedSequence((run_seed, number, env, episode)).generate_state(1)[0]
    return number << 29 | int(hashed) >> 3


class EpisodeActions:
    """The actions of the current episode of each of B envs.

    `HostEnv` keeps one, so that a checkpoint can hold these actions and a resumed run can play them again. Memory is
    bounded by the longest current episode: older actions are dropped when the buffer is full.

    >>> actions = EpisodeActions(num_envs=2)
    >>> actions.append([0, 1])
    >>> actions.start_episodes([True, False])
    >>> actions.append([2, 3])
    >>> lengths, current = actions.current()
    >>> lengths.tolist(), current.tolist()
    ([1, 2], [[0, 1], [2, 3]])
    """

    def __init__(self, num_envs: int) -> None:
        self._rows = np.zeros((1024, num_envs), np.int32)
        self._num_rows = 0
        self._start = np.zeros(num_envs, np.int64)  # the row at which each env's episode starts

    def start_episodes(self, mask: np.ndarray | Sequence[bool]) -> None:
        """Starts a new episode of the envs in `mask` [B]; their next actions belong to it."""
        self._start[np.asarray(mask)] = self._num_rows

    def append(self, action: np.ndarray | Sequence[int]) -> None:
        """Adds the actions [B] of one step."""
        if self._num_rows == len(self._rows):
            self._drop_finished_episodes()
        self._rows[self._num_rows] = action
        self._num_rows += 1

    def current(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (lengths [B], actions [max(lengths), B]): column b ends with the lengths[b] actions of env b."""
        lengths = self._num_rows - self._start
        return lengths, self._rows[self._num_rows - lengths.max() : self._num_rows].copy()

    def _drop_finished_episodes(self) -> None:
        oldest = self._start.min()
        kept = self._rows[oldest:]
        self._rows = np.zeros((max(1024, 2 * len(kept)), len(self._start)), np.int32)
        self._rows[: len(kept)] = kept
        self._num_rows, self._start = len(kept), self._start - oldest
