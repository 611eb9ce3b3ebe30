"""TensorBoard event files, written by tensorboardX in the calling thread: its own queue blocks when its thread dies."""

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


class EventFile:
    """Appends scalars to an event file in `folder`, one file a process; readers take the files in name order.

    A file that cannot be written (disk full) warns once, and its later events are lost. tensorboardX is imported with
    the first event, so that a run starts without it.
    """

    def __init__(self, folder: Path):
        self._folder, self._failed = folder, False
        self._writer: Any = None

    def scalar(self, name: str, value: float, env_steps: int) -> None:
        """Writes one number at a step."""
        from tensorboardX import summary

        self._write(step=env_steps, summary=summary.scalar(name, value))

    def forget(self, env_steps: int) -> None:
        """Tells TensorBoard to drop what it has at or after `env_steps`."""
        from tensorboardX.proto.event_pb2 import SessionLog

        self._write(step=env_steps, session_log=SessionLog(status=SessionLog.START))

    def flush(self) -> None:
        """Hands what was written to the system."""
        self._attempt(lambda writer: writer.flush())

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        self.flush()
        self._attempt(lambda writer: writer.close())
        self._writer = None

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if self._writer is None and not self._failed:
            from tensorboardX.record_writer import RecordWriter

            count = len(list(self._folder.glob("events.out.tfevents.*")))
            self._writer = RecordWriter(str(self._folder / f"events.out.tfevents.{count:04}"))
            self._write(file_version="brain.Event:2")
        event = Event(wall_time=time.time(), **fields)
        self._attempt(lambda writer: writer.write(event.SerializeToString()))

    def _attempt(self, action: Callable[[Any], Any]) -> None:
        writer = self._writer
        try:
            if writer is not None:
                action(writer)
        except OSError as error:  # what follows a torn record cannot be read
            self._writer, self._failed = None, True
            with suppress(OSError):
                writer.close()
            warnings.warn(f"no more events in {self._folder}: {error.strerror or error}", RuntimeWarning, stacklevel=4)
