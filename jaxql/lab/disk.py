"""Files that survive a kill, a power cut and a full disk."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_synced(path: Path, chunks: Iterable[Any]) -> tuple[str, int]:
    """Writes bytes, syncs them to disk and returns their SHA-256 and size. On OSError it leaves no file."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        for chunk in chunks:
            left = memoryview(chunk)
            digest.update(left)
            size += left.nbytes
            while left.nbytes:  # one call writes 2 GiB at most
                left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return digest.hexdigest(), size


def publish(temporary: Path, path: Path) -> None:
    """Renames a written file to `path`, replacing a file of that name, and syncs the folder. Raises OSError."""
    os.replace(temporary, path)
    if hasattr(os, "O_DIRECTORY"):  # Windows cannot sync a folder
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step that survives a kill or a power cut. Raises OSError.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder) / "a.txt", b"one")
    ...     (Path(folder) / "a.txt").read_bytes()
    b'one'
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write_synced(temporary, [data])
        publish(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


class GrowingFile:
    """A file that grows by whole records, one write each.

    A failed write may leave part of a record behind; `append` cuts it off before the next record.

    Args:
      path: made if it does not exist.
      whole: bytes at its start that are whole records; None: all of it.
    """

    def __init__(self, path: Path, whole: int | None = None):
        self.path = path
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self.size = os.fstat(self._descriptor).st_size if whole is None else whole  # bytes of whole records

    def append(self, record: bytes) -> None:
        """Writes one record. Raises OSError; the record is lost then."""
        if self._descriptor is None:
            raise OSError("the file is closed")
        if os.fstat(self._descriptor).st_size != self.size:
            os.ftruncate(self._descriptor, self.size)
        if os.write(self._descriptor, record) != len(record):
            raise OSError("the disk took part of a record only")
        self.size += len(record)

    def cut(self, size: int) -> None:
        """Keeps the first `size` bytes. Raises OSError."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, size)
        self.size = size

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
