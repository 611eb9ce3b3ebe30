"""TensorBoard event files, written by hand: scalars need three messages of Protocol Buffers and a checksum.

Format: https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto, in records as in
https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

import struct
import time
import warnings
from pathlib import Path

import numpy as np

from jaxql.lab.disk import GrowingFile


class EventFile:
    """Appends scalars to an event file in `folder`, one file a process; readers take the files in name order.

    A file that cannot be written (disk full) warns once; its events are lost until it works again.
    """

    def __init__(self, folder: Path):
        count = len(list(folder.glob("events.out.tfevents.*")))
        self._file, self._warned = GrowingFile(folder / f"events.out.tfevents.{count:04}"), False
        self._write(_message(3, b"brain.Event:2"))

    def scalar(self, name: str, value: float, env_steps: int) -> None:
        """Writes one number at a step."""
        with np.errstate(over="ignore"):
            number = np.float32(value).astype("<f4").tobytes()
        summary = _message(1, _message(1, name.encode()) + b"\x15" + number)  # field 2, four bytes
        self._write(_number(2, env_steps) + _message(5, summary))

    def forget(self, env_steps: int) -> None:
        """Tells TensorBoard to drop what it has at or after `env_steps`."""
        self._write(_number(2, env_steps) + _message(7, _number(1, 1)))  # a session log whose status is START

    def close(self) -> None:
        """Closes the file; closing twice is harmless."""
        self._file.close()

    def _write(self, fields: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + fields  # field 1, eight bytes: the wall time
        length = struct.pack("<Q", len(event))
        try:
            self._file.append(length + _checksum(length) + event + _checksum(event))
        except OSError as error:
            if not self._warned:
                self._warned = True
                message = f"cannot write {self._file.path}: {error.strerror or error}; events are lost until it works"
                warnings.warn(message, RuntimeWarning, stacklevel=4)


def _varint(number: int) -> bytes:
    """
    >>> _varint(300)
    b'\\xac\\x02'
    """
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _crc_row(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC_ROWS = tuple(_crc_row(byte) for byte in range(256))


def _crc32c(data: bytes) -> int:
    """
    >>> hex(_crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_ROWS[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def _checksum(data: bytes) -> bytes:
    """Returns the masked CRC-32C that follows every part of a record."""
    crc = _crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
