"""A watchdog: it ends a process whose env does not answer."""

import faulthandler
import os
import sys
import threading
import time


class Watchdog:
    """Ends the process, and prints every thread's stack, if an env does not answer in time.

    A thread watches, so it sees an env that sleeps, loops in Python, or waits without the interpreter lock.
    `faulthandler.dump_traceback_later` would start a new thread at every step.

    Args:
      seconds: the longest that the body of `with watchdog:` may take. Time in which the whole process is suspended does
        not count.
      name: of the env, in the message.
    """

    def __init__(self, seconds: float, name: str = "the env") -> None:
        self._seconds, self._name, self._closed = seconds, name, threading.Event()
        self._since: float | None = None
        threading.Thread(target=self._watch, name="jaxql-env-watchdog", daemon=True).start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def close(self) -> None:
        """Ends the watching thread."""
        self._closed.set()

    def _watch(self) -> None:
        interval, before, waited = min(1.0, self._seconds / 4), None, 0.0
        while not self._closed.wait(interval):  # counted, for a clock runs on while the whole process is suspended
            since = self._since
            waited = waited + interval if since is not None and since == before else 0.0
            before = since
            if waited > self._seconds:
                print(f"jaxql: {self._name} has not answered for {self._seconds:g} s; leaving", file=sys.stderr)
                faulthandler.dump_traceback(file=sys.__stderr__ or 2)
                os._exit(70)
