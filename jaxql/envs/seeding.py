"""A seed for every episode, and the log of actions that lets any episode be played again."""

import numpy as np

from jaxql.errors import UserError

PURPOSES = ("train", "eval", "evaluate", "record")


def check_seed(seed) -> int:
    """`seed` as an int, or UserError: it must be a whole number, 0 or greater."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise UserError(f"seed={seed!r}: a seed is a whole number, 0 or greater")
    return int(seed)


def episode_seed(run_seed: int, purpose: str, env: int, episode: int) -> int:
    """The seed of one episode: 0 <= seed < 2**31.

    Its top 2 bits are the purpose, so that training and evaluation never share an episode; the other 29 are hashed from
    (run seed, purpose, env, episode) by `numpy.random.SeedSequence`.

    >>> [episode_seed(0, "train", 0, 0) >> 29, episode_seed(0, "evaluate", 0, 0) >> 29]
    [0, 2]
    """
    if purpose not in PURPOSES:
        raise UserError(f"purpose={purpose!r}: it is one of {', '.join(PURPOSES)}")
    number = PURPOSES.index(purpose)
    hashed = np.random.SeedSequence((run_seed, number, env, episode)).generate_state(1)[0]
    return number << 29 | int(hashed) >> 3


class ActionLog:
    """The actions [ticks, B] of the episodes under way; those of finished ones are forgotten as room is needed."""

    def __init__(self, num_envs: int):
        self._rows = np.zeros((1024, num_envs), np.int32)
        self._ticks = 0
        self._start = np.zeros(num_envs, np.int64)  # the tick at which each env's episode began

    def begin(self, mask) -> None:
        """The episodes of the envs in `mask` [B] begin here."""
        self._start[mask] = self._ticks

    def append(self, action) -> None:
        if self._ticks == len(self._rows):
            kept = self._rows[self._start.min() :]
            roomy = np.zeros((max(1024, 2 * len(kept)), len(self._start)), np.int32)
            roomy[: len(kept)] = kept
            self._ticks, self._start, self._rows = len(kept), self._start - self._start.min(), roomy
        self._rows[self._ticks] = action
        self._ticks += 1

    def current(self):
        """(ticks [B] since each env's episode began, actions [max(ticks), B] of the newest ticks)."""
        ticks = self._ticks - self._start
        return ticks, self._rows[self._ticks - ticks.max() : self._ticks].copy()
