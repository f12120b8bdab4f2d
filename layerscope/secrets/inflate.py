"""Unpacks compressed streams piece by piece: gzip, xz, zstd and bzip2, and git's zlib. Memory is bounded."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Final, Protocol

from layerscope.secrets.archive_kinds import ArchiveKind, kind_of
from layerscope.secrets.bounded import Budget, LimitReachedError, ReadSome

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

INPUT_BYTES: Final = 64 << 10
MOST_MEMORY: Final = 128 << 20
"""For xz; a stream that was packed with ``xz -9`` takes 65 MB."""
WINDOW_LOG: Final = 27
"""For zstd: 128 MB, as the zstd command permits."""


class Decompressor(Protocol):
    """What bz2, lzma and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class ZlibDecompressor:
    """zlib's own object in the shape of the others. ``wbits`` as for ``zlib.decompressobj``."""

    def __init__(self, wbits: int) -> None:
        self._object = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._object.decompress(self._object.unconsumed_tail + data, max_length)
        self.needs_input = not self._object.unconsumed_tail and len(out) < max_length
        return out


_MAKE: Final[dict[ArchiveKind, Callable[[], Decompressor]]] = {
    ArchiveKind.GZIP: lambda: ZlibDecompressor(31),
    ArchiveKind.XZ: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY),
    ArchiveKind.BZIP2: bz2.BZ2Decompressor,
    ArchiveKind.ZSTD: lambda: zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    ),
}


class Inflater:
    """What a compressed file holds: all its streams, one after the other, with zeros between them or not."""

    def __init__(self, kind: ArchiveKind, source: ReadSome, budget: Budget) -> None:
        self._kind = kind
        self._source = source
        self._budget = budget
        self._input = b""
        self._stream = _MAKE[kind]()

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, nothing at the end.

        Raises EOFError for half a stream, LimitReachedError, and what the decompressor raises.
        """
        while True:
            if self._stream.eof and not self._next_stream():
                return b""
            data = inflate(self._stream, self._refilled, size)
            if data:
                return data

    def _refilled(self, size: int) -> bytes:
        data, self._input = self._input or self._source(size), b""
        return data

    def _next_stream(self) -> bool:
        rest = self._stream.unused_data.lstrip(b"\0")
        while len(rest) < 10 and (more := self._source(INPUT_BYTES)):
            rest = (rest + more).lstrip(b"\0")
        if not rest:
            return False
        if kind_of(rest) is not self._kind:
            raise LimitReachedError("something follows the packed data: it is not unpacked")
        self._budget.enter()
        self._input, self._stream = rest, _MAKE[self._kind]()
        return True


def inflate(stream: Decompressor, source: ReadSome, size: int) -> bytes:
    """The next bytes of one stream, up to ``size``; nothing at its end. Raises EOFError."""
    while not stream.eof:
        data = b""
        if stream.needs_input and not (data := source(INPUT_BYTES)):
            raise EOFError
        if out := stream.decompress(data, size):
            return out
    return b""
