"""A regular file of a layer, opened for reading: from a directory on disk, or in a tar."""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from layerscope.tars.sources import Part


class OpenFile(Protocol):
    """Bytes that can be read anywhere. Its methods raise OSError."""

    @property
    def fd(self) -> int | None:
        """Its descriptor; None for a file in a tar."""
        ...

    @property
    def is_cheap(self) -> bool:
        """Whether any part is read for no more than its own bytes."""
        ...

    def state(self) -> tuple[int, int]:
        """Its size and a time that changes when it does."""
        ...

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes, 1 or more; nothing at the end."""
        ...

    def readinto(self, buffer: memoryview, offset: int) -> int:
        """Fill the buffer as far as bytes are there; 0 at the end."""
        ...

    def stream(self) -> IO[bytes]:
        """The file from its start, to read and seek in as long as it is open here."""
        ...


class DiskFile:
    """A file by its descriptor, which is somebody else's to close."""

    is_cheap = True

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def state(self) -> tuple[int, int]:
        stat = os.fstat(self.fd)
        return stat.st_size, stat.st_mtime_ns

    def pread(self, size: int, offset: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def readinto(self, buffer: memoryview, offset: int) -> int:
        return os.preadv(self.fd, [buffer], offset)

    def stream(self) -> IO[bytes]:
        return open(self.fd, "rb", closefd=False)


class TarFile:
    """A file that is a part of a layer's tar, or was read from it already."""

    fd = None

    def __init__(self, part: Part | Held) -> None:
        self._part = part
        self.is_cheap = part.is_cheap

    def state(self) -> tuple[int, int]:
        return self._part.size_bytes, 0

    def pread(self, size: int, offset: int) -> bytes:
        return self._part.pread(size, offset)

    def readinto(self, buffer: memoryview, offset: int) -> int:
        data = self._part.pread(len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def stream(self) -> IO[bytes]:
        return io.BufferedReader(_Raw(self._part), 64 << 10)


class Held:
    """Bytes in memory, to read like a part of a tar."""

    is_cheap = True

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size_bytes = len(content)

    def pread(self, size: int, offset: int) -> bytes:
        return self._content[offset : offset + size]


class _Raw(io.RawIOBase):
    """A part as a file object."""

    def __init__(self, part: Part | Held) -> None:
        self._part = part
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._part.pread(len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._part.size_bytes}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at
