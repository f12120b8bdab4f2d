"""Bytes that can be read anywhere, wherever they lie: in a file, in a part of one, in something packed.

fd = open_untouched(path, FILE)
tar = unpacked(FileSource(fd), os.fstat(fd).st_size)   # a layer's blob, whatever it is packed with
for piece in pieces(tar): ...

Nothing is unpacked to disk. What is packed is unpacked again, from a place before the bytes that are asked for:
quick when they are asked for in their order, and for gzip anywhere, as its state is kept every few megabytes.
"""

from __future__ import annotations

import errno
import lzma
import os
import weakref
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol

from layerscope.tars.packing import (
    INPUT_BYTES,
    MAGIC_BYTES,
    NEW,
    Decompressor,
    Packing,
    ZlibDecompressor,
    inflate,
    packing_of,
)

PIECE_BYTES: Final = 256 << 10
MOST_RATIO: Final = 250
"""More than so many times its own size is unpacked of nothing, the first ``RATIO_FROM`` bytes aside."""
RATIO_FROM: Final = 4 << 30
_FIRST_STEP: Final = 8 << 20
_MOST_STATES: Final = 64


class PackedError(OSError):
    """Packed data that can't be unpacked. Its ``strerror`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, reason)


class Source(Protocol):
    """Bytes that can be read anywhere."""

    @property
    def is_cheap(self) -> bool:
        """Whether any part is read for no more than its own bytes."""
        ...

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes from ``offset`` on, 1 or more; nothing at the end. Raises OSError."""
        ...


class FileSource:
    """An open file."""

    is_cheap = True

    def __init__(self, fd: int, *, owned: bool = False) -> None:
        """``owned``: the descriptor is closed when nobody reads any more."""
        self.fd = fd
        if owned:
            weakref.finalize(self, os.close, fd)

    def pread(self, size: int, offset: int) -> bytes:
        return os.pread(self.fd, size, offset)


class Part:
    """The ``size_bytes`` of a source from ``start`` on."""

    def __init__(self, source: Source, start: int, size_bytes: int) -> None:
        self._source = source
        self._start = start
        self.size_bytes = size_bytes
        self.is_cheap = source.is_cheap

    def pread(self, size: int, offset: int) -> bytes:
        size = min(size, self.size_bytes - offset)
        return self._source.pread(size, self._start + offset) if size > 0 else b""


class _State(NamedTuple):
    """A place from which unpacking can go on."""

    produced: int
    consumed: int
    stream: ZlibDecompressor


class Unpacked:
    """What a packed source of ``packed_bytes`` holds: all its streams, one after the other."""

    is_cheap = False

    def __init__(self, source: Source, packing: Packing, packed_bytes: int) -> None:
        self.packing = packing
        self._source = source
        self._most = max(RATIO_FROM, MOST_RATIO * packed_bytes)
        self._states: list[_State] = []
        self._step = _FIRST_STEP
        self._restart()

    def _restart(self) -> None:
        self._stream: Decompressor = NEW[self.packing]()
        self._consumed = 0
        self._input = b""
        self._ahead = b""
        self._at = 0
        """Where ``_ahead`` begins, which was unpacked last."""

    def pread(self, size: int, offset: int) -> bytes:
        if offset < self._at or offset - self._at > self._step:
            self._go_near(offset)
        while offset >= self._at + len(self._ahead):
            self._at, self._ahead = self._at + len(self._ahead), b""
            try:
                self._ahead = self._next()
            except OSError:
                self._restart()  # what is half done must not be taken for what lies here
                raise
            if not self._ahead:
                return b""
        start = offset - self._at
        return self._ahead[start : start + size]

    def _go_near(self, offset: int) -> None:
        """Go on from the last kept state before ``offset``, unless that is behind what is reached already."""
        index = bisect_right(self._states, offset, key=lambda state: state.produced) - 1
        kept = self._states[index] if index >= 0 else None
        if offset >= self._at and (kept is None or kept.produced <= self._at):
            return
        self._restart()
        if kept is not None:
            self._at, self._consumed, self._stream = kept.produced, kept.consumed, kept.stream.copy()

    def _next(self) -> bytes:
        """The next bytes, nothing at the end. Raises PackedError."""
        self._keep_state()
        try:
            while True:
                if self._stream.eof and not self._next_stream():
                    return b""
                data = inflate(self._stream, self._refill, PIECE_BYTES)
                if data:
                    break
        except EOFError:
            raise PackedError(f"the {self.packing} data ends too early") from None
        except (zlib.error, lzma.LZMAError, ValueError, MemoryError) as error:
            raise PackedError(f"the {self.packing} data is damaged") from error
        except OSError as error:
            if error.errno is None:  # bz2's
                raise PackedError(f"the {self.packing} data is damaged") from error
            raise
        except Exception as error:  # zstd's has no common base
            raise PackedError(f"the {self.packing} data is damaged") from error
        if self._at + len(data) > self._most:
            raise PackedError(f"more than {MOST_RATIO} times its size is packed in it")
        return data

    def _refill(self, size: int) -> bytes:
        data, self._input = self._input, b""
        if not data:
            data = self._source.pread(size, self._consumed)
            self._consumed += len(data)
        return data

    def _next_stream(self) -> bool:
        """Begin the stream that follows one that ended, if one does; zeros may lie between them."""
        rest = self._stream.unused_data.lstrip(b"\0")
        while len(rest) < MAGIC_BYTES and (more := self._refill(INPUT_BYTES)):
            rest = (rest + more).lstrip(b"\0")
        if not rest:
            return False
        if packing_of(rest) is not self.packing:
            raise PackedError(f"something else follows the {self.packing} data")
        self._input, self._stream = rest, NEW[self.packing]()
        return True

    def _keep_state(self) -> None:
        """Keep the state of gzip every few megabytes; when there are many, every other one, and fewer from then."""
        last = self._states[-1].produced if self._states else 0
        if self._at - last < self._step or self._input or not isinstance(self._stream, ZlibDecompressor):
            return
        self._states.append(_State(self._at, self._consumed, self._stream.copy()))
        if len(self._states) > _MOST_STATES:
            del self._states[::2]
            self._step *= 2


class Sequential:
    """A source that is read from front to back, once: from a pipe, or a part of one."""

    is_cheap = False

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """``read`` gives up to so many bytes, nothing at the end."""
        self._read = read
        self._last = b""
        self._at = 0
        """Where ``_last`` begins, which was read last."""

    def pread(self, size: int, offset: int) -> bytes:
        if offset < self._at:
            raise OSError(errno.ESPIPE, "it came through a pipe, and is read only once")
        while offset >= self._at + len(self._last):
            self._at, self._last = self._at + len(self._last), b""
            self._last = self._read(PIECE_BYTES)
            if not self._last:
                return b""
        return self._last[offset - self._at :][:size]


class Pieces:
    """The bytes of a source from front to back, where one may leave out some: an iterator."""

    def __init__(self, source: Source, size: int = PIECE_BYTES) -> None:
        self._source = source
        self._size = size
        self.offset = 0
        """Of the next piece."""

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        piece = self._source.pread(self._size, self.offset)
        if not piece:
            raise StopIteration
        self.offset += len(piece)
        return piece


def unpacked(source: Source, size_bytes: int) -> Source:
    """The plain bytes of a source of ``size_bytes``, whatever its first bytes say it is packed with.

    Raises OSError.
    """
    packing = packing_of(source.pread(MAGIC_BYTES, 0))
    return source if packing is None else Unpacked(source, packing, size_bytes)


def pieces(source: Source, start: int = 0, size: int = PIECE_BYTES) -> Iterator[bytes]:
    """The bytes of a source from front to back. Raises OSError."""
    while piece := source.pread(size, start):
        start += len(piece)
        yield piece
