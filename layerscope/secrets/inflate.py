"""Unpacks compressed files of a layer: gzip, xz, zstd and bzip2, one stream after the other, within a budget."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from typing import Final

from layerscope.secrets.archive_kinds import ArchiveKind, kind_of
from layerscope.secrets.bounded import Budget, LimitReachedError, ReadSome
from layerscope.tars.packing import INPUT_BYTES, Decompressor, inflate, new_gzip, new_xz, new_zstd

_MAKE: Final[dict[ArchiveKind, Callable[[], Decompressor]]] = {
    ArchiveKind.GZIP: new_gzip,
    ArchiveKind.XZ: new_xz,
    ArchiveKind.BZIP2: bz2.BZ2Decompressor,
    ArchiveKind.ZSTD: new_zstd,
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
