"""How an env is shown to an agent: which parts of its observations, in which layout."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jaxql.errors import UserError

CHANNELS = ("auto", "first", "last")


@dataclasses.dataclass(frozen=True)
class EnvOptions:
    """Options of Gymnasium envs, which a run records so that it can be opened again.

    Raises:
      UserError: one line, for a value that is not allowed.

    >>> EnvOptions(channels="middle")
    Traceback (most recent call last):
    jaxql.errors.UserError: channels='middle': it is one of auto, first, last
    """

    obs_keys: Sequence[str] = ()  # parts of Dict or Tuple observations to use; a dot goes into nested parts
    channels: str = "auto"  # the axis of images that holds their channels
    table: bool | None = None  # True: finite parts become an index. False: masks in infos are used beside one
    watchdog_seconds: float = 300.0  # the longest that a reset or a vector step may take

    def __post_init__(self) -> None:
        if isinstance(self.obs_keys, str) or not all(isinstance(key, str) for key in self.obs_keys):
            raise UserError(f"obs_keys={self.obs_keys!r}: it is a sequence of names, as in obs_keys=('image',)")
        if self.channels not in CHANNELS:
            raise UserError(f"channels={self.channels!r}: it is one of {', '.join(CHANNELS)}")
        seconds: Any = self.watchdog_seconds
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= math.inf:
            raise UserError(f"watchdog_seconds={seconds!r}: it is a number of seconds, 1 or greater")
        object.__setattr__(self, "obs_keys", tuple(self.obs_keys))  # a list from JSON
