"""Reads a tar from front to back: its members with their headers, and of their contents what is asked for.

What Go's ``archive/tar`` refuses, with which Docker reads layers, is refused here, too; what came before is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from layerscope.tars.header import (
    BLOCK,
    Header,
    HeaderReader,
    content_bytes,
    extends,
    has_checksum,
    parse_member,
    sparse_size,
)
from layerscope.tars.sources import Pieces

MOST_HEADERS: Final = 1 << 20
"""Bytes of one member's extended headers: long names, PAX records (Go: ``maxSpecialFileSize``)."""
_ZEROS: Final = bytes(BLOCK)


class DamagedTarError(Exception):
    """The tar does not go on. Its text says why, without quoting what lies in it."""


class TarMember(NamedTuple):
    """One member; its content follows at ``offset``, and is to be read before the next member is asked for."""

    header: Header
    name: str
    size_bytes: int
    offset: int
    real_bytes: int | None = None
    """For a sparse file: its size with the holes, where it is told."""


class TarStream:
    """A tar that comes in pieces. Errors of the pieces pass through.

    Of ``Pieces`` those without a header are left out, unless they are asked for.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._piece = b""
        self._at = 0
        self._before = 0
        """Bytes before the current piece."""
        self._left = 0
        """Of the current member's content, with what fills up its last block."""
        self._content_left = 0
        self.trailing_data = False
        """Whether something follows the tar's end, once all members were read."""

    @property
    def position(self) -> int:
        return self._before + self._at

    def members(self) -> Iterator[TarMember]:
        """All members, to the tar's end. Raises DamagedTarError."""
        read_header = HeaderReader()
        while True:
            self._skip(self._left)
            raw = self._headers()
            if raw is None:
                break
            offset = self.position
            try:
                header, name, size = parse_member(raw, read_header)
                real = sparse_size(raw) if header.is_sparse else None
            except (ValueError, IndexError, OverflowError) as error:
                raise DamagedTarError("a header can't be understood") from error
            self._content_left, self._left = size, size + -size % BLOCK
            yield TarMember(header, name, size, offset, real)
        self.drain()

    def content(self) -> Iterator[bytes]:
        """What is left of the current member's content. Raises DamagedTarError where it ends too early."""
        while self._content_left:
            chunk = self._some(self._content_left)
            if not chunk:
                raise DamagedTarError("it ends in the middle of a file")
            self._content_left -= len(chunk)
            self._left -= len(chunk)
            yield chunk

    def _headers(self) -> bytes | None:
        """The next header, with those that extend it; None at the end of the tar."""
        raw = b""
        while True:
            block = self._take(BLOCK)
            if block == _ZEROS and not raw:
                if self._take(BLOCK) not in (_ZEROS, b""):
                    raise DamagedTarError("an empty block stands where a header should")
                return None
            if not block and not raw:
                return None  # without the two empty blocks: Go's reader does not mind
            if len(block) < BLOCK or not has_checksum(block):
                raise DamagedTarError("a header is damaged" if len(block) == BLOCK else "it ends in a header")
            if not extends(block[156:157]):
                return raw + block if raw else block
            try:
                size = content_bytes(block)
            except ValueError as error:
                raise DamagedTarError("a header can't be understood") from error
            if not 0 <= size <= MOST_HEADERS - len(raw):
                raise DamagedTarError("the headers of a file are larger than is looked at")
            if block[156:157] == b"g":  # says something of all that follow, which Docker ignores
                self._skip(size + -size % BLOCK)
                continue
            data = self._take(size + -size % BLOCK)
            if len(data) < size:
                raise DamagedTarError("it ends in a header")
            raw += block + data

    def _take(self, size: int) -> bytes:
        """So many bytes, fewer at the end."""
        end = self._at + size
        if end <= len(self._piece):
            data = self._piece[self._at : end]
            self._at = end
            return data
        parts = []
        while size and (chunk := self._some(size)):
            parts.append(chunk)
            size -= len(chunk)
        return b"".join(parts)

    def _some(self, most: int) -> bytes:
        """Up to so many bytes, at least one; nothing at the end."""
        if not self._refilled():
            return b""
        data = self._piece[self._at : self._at + most]
        self._at += len(data)
        return data

    def _skip(self, size: int) -> None:
        self._left = self._content_left = 0
        rest = len(self._piece) - self._at
        if isinstance(self._pieces, Pieces) and size > rest + BLOCK:
            self._before = self._pieces.offset = self.position + size - 1
            self._piece, self._at, size = b"", 0, 1  # the last byte shows that it is all there
        while size:
            if not self._refilled():
                raise DamagedTarError("it ends in the middle of a file")
            step = min(size, len(self._piece) - self._at)
            self._at += step
            size -= step

    def _refilled(self) -> bool:
        if self._at == len(self._piece):
            self._before += self._at
            self._piece, self._at = next(self._pieces, b""), 0
        return bool(self._piece)

    def drain(self) -> None:
        """Read on to the end: digests cover all bytes."""
        while self._refilled():
            rest = self._piece[self._at :] if self._at else self._piece
            self.trailing_data = self.trailing_data or rest.count(0) != len(rest)
            self._at = len(self._piece)
