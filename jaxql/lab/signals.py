"""Signals that end a run: the state is saved first, if that takes no more than some seconds."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # not every system has all of them
PATIENCE = 9.0  # seconds in which the run must have ended


def exit_code(number: int) -> int:
    """Returns the exit code of a run that a signal ended: 128 + N; 0 for no signal.

    SIGUSR1, which schedulers send before SIGTERM, counts as SIGTERM.

    >>> exit_code(2), exit_code(15), exit_code(0)
    (130, 143, 0)
    """
    if number == getattr(signal, "SIGUSR1", None):
        number = int(signal.SIGTERM)
    return 128 + number if number else 0


@contextlib.contextmanager
def catching_signals(stop: Callable[[int], None], patience: float = PATIENCE) -> Iterator[None]:
    """Calls `stop(number)` at the first signal that ends a run; a second one acts at once.

    Python handles a signal between two instructions, so a compilation or a stuck env step delays `stop`. If this
    context has not ended `patience` seconds after a signal, a thread ends the process; what was saved before is whole.
    A signal that was ignored before, as under nohup, stays ignored; Ctrl-C is never ignored. In other threads than the
    main one nothing is caught.

    Args:
      stop: called in the main thread; it returns soon.
      patience: seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, _: Any) -> None:
        restore()
        stop(number)

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    before: dict[int, Any] = {}
    for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
        handler = signal.getsignal(number)
        if handler is not None and (handler is not signal.SIG_IGN or number == signal.SIGINT):
            before[number] = signal.signal(number, first)
    with _watching(set(before), patience):
        try:
            yield
        finally:
            restore()


@contextlib.contextmanager
def _watching(numbers: set[int], patience: float) -> Iterator[None]:
    """Ends the process `patience` seconds after one of these signals, unless the context ends before."""
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        while byte := receiving.recv(1):  # Python writes the number of every signal, even while it compiles
            if byte[0] in numbers:
                if not ended.wait(patience):
                    line = f"jaxql: ended {patience:g} s after a signal, without saving: see the snapshot before\n"
                    with contextlib.suppress(OSError):
                        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, line.encode())
                    os._exit(exit_code(byte[0]))
                return

    thread = threading.Thread(target=watch, name="jaxql signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        ended.set()
        sending.close()
        thread.join()
        receiving.close()
