"""The clock of a run."""

import time


class Stopwatch:
    """Seconds since it was made, which never fall, whatever happens to the system's clock.

    Args:
      seconds: that had passed already.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._began, self._last = time.monotonic() - seconds, 0.0

    def seconds(self) -> float:
        """Returns the seconds that have passed."""
        self._last = max(self._last, time.monotonic() - self._began)
        return self._last
