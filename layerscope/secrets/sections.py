"""Reads a part of a file, no further than its size at the start, and finds the parts that hold anything."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

from layerscope.overlay.files import OpenFile

LEAST_HOLE: Final = 1 << 20
"""A shorter hole is read like data: leaving it out saves nothing."""
BLOCK_BYTES: Final = 512


class Section:
    """The bytes ``start`` to ``end`` of a file, to read once from front to back."""

    def __init__(self, file: OpenFile, start: int, end: int) -> None:
        self._file = file
        self._position = start
        self._end = end

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer as far as bytes are there; 0 at the end. Raises OSError."""
        count = self._file.readinto(buffer[: self._end - self._position], self._position)
        self._position += count
        return count


def sections(file: OpenFile, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of the parts of a file between long holes: a file of a terabyte may hold a line.

    Raises OSError.
    """
    fd = file.fd
    if fd is None or os.fstat(fd).st_blocks * BLOCK_BYTES + LEAST_HOLE > size:
        yield 0, size
        return
    begin, end = _next_data(fd, 0, size)
    while begin < size:
        following, stop = _next_data(fd, end, size)
        if following - end >= LEAST_HOLE or following >= size:
            yield begin, end
            begin = following
        end = stop


def _next_data(fd: int, position: int, size: int) -> tuple[int, int]:
    """Start and end of the data that comes next; ``size`` twice when none does."""
    if position >= size:
        return size, size
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
        return min(start, size), min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        raise
