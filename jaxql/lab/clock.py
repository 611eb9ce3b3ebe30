"""The clock of a run."""

import time


class Stopwatch:
    """Seconds since it was made, which never fall, whatever happens to the system's clock."""

    def __init__(self) -> None:
        self._began, self._last = time.monotonic(), 0.0

    def seconds(self) -> float:
        """Returns the seconds since the stopwatch was made."""
        self._last = max(self._last, time.monotonic() - self._began)
        return self._last
