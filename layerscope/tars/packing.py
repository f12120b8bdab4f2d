"""Tells what a stream is packed with by its first bytes, and unpacks it piece by piece. Memory is bounded."""

from __future__ import annotations

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

INPUT_BYTES: Final = 64 << 10
MAGIC_BYTES: Final = 10
"""So many first bytes tell."""
MOST_MEMORY: Final = 128 << 20
"""For xz; a stream that was packed with ``xz -9`` takes 65 MB."""
WINDOW_LOG: Final = 27
"""For zstd: 128 MB, as the zstd command permits."""


class Packing(StrEnum):
    """What a stream is packed with: all that ``docker load`` takes (moby/go-archive ``compression``)."""

    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


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

    def copy(self) -> ZlibDecompressor:
        """One that goes on from here by itself: about 50 KB."""
        twin = object.__new__(ZlibDecompressor)
        twin._object, twin.needs_input = self._object.copy(), self.needs_input
        return twin


def new_gzip() -> ZlibDecompressor:
    return ZlibDecompressor(31)


def new_zstd() -> Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})


def new_xz() -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)


NEW: Final[dict[Packing, Callable[[], Decompressor]]] = {
    Packing.GZIP: new_gzip,
    Packing.ZSTD: new_zstd,
    Packing.XZ: new_xz,
    Packing.BZIP2: bz2.BZ2Decompressor,
}
_MAGIC: Final = (
    (b"\x1f\x8b\x08", Packing.GZIP),
    (b"\x28\xb5\x2f\xfd", Packing.ZSTD),
    *((b"%c\x2a\x4d\x18" % number, Packing.ZSTD) for number in range(0x50, 0x60)),  # skippable frames
    (b"\xfd7zXZ\0", Packing.XZ),
    *((b"BZh%d1AY&SY" % level, Packing.BZIP2) for level in range(1, 10)),
    *((b"BZh%d\x17rE8P\x90" % level, Packing.BZIP2) for level in range(1, 10)),  # of nothing
)


def packing_of(head: bytes) -> Packing | None:
    """What a stream is packed with, by its first ``MAGIC_BYTES``; None for one that is plain."""
    return next((packing for magic, packing in _MAGIC if head.startswith(magic)), None)


def inflate(stream: Decompressor, source: Callable[[int], bytes], size: int) -> bytes:
    """The next bytes of one stream, up to ``size``; nothing at its end. Raises EOFError."""
    while not stream.eof:
        data = b""
        if stream.needs_input and not (data := source(INPUT_BYTES)):
            raise EOFError
        if out := stream.decompress(data, size):
            return out
    return b""
