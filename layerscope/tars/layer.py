"""A layer that lies in a tar, packed or plain: read once for its tree and digests, then anywhere for contents."""

from __future__ import annotations

import errno
import hashlib
import os
from functools import cached_property
from typing import Final

from layerscope.tars.index import Take, TarIndex, read_index
from layerscope.tars.sources import Part, Source, pieces, unpacked
from layerscope.tars.stream import TarStream

READ_BYTES: Final = 1 << 20


class TarLayer:
    """A layer's tar. ``place`` names it for people."""

    def __init__(
        self, place: str, source: Source, size_bytes: int, *, digest: str | None = None, take: Take | None = None
    ) -> None:
        """``digest`` is what the tar, as it lies there, is said to have; ``take`` gets all files with the index."""
        self.place = place
        self.size_bytes = size_bytes
        """As it lies there."""
        self.digest = digest
        self.actual_digest: str | None = None
        """As it was read for the index; None where it can't be told."""
        self.actual_diff_id: str | None = None
        self.plain_bytes = 0
        """Of the tar itself, once the index was made."""
        self._source = _Hashed(source)
        self._take = take

    @cached_property
    def plain(self) -> Source:
        """The bytes of the tar itself. Raises OSError."""
        return unpacked(self._source, self.size_bytes)

    @cached_property
    def index(self) -> TarIndex:
        """The tree: takes a pass over all bytes. Raises OSError where not even the first byte can be read."""
        plain = self._source if self.plain is self._source else _Hashed(self.plain)
        index = read_index(TarStream(pieces(plain, 0, READ_BYTES)), digests=not plain.is_cheap, take=self._take)
        self.actual_digest, self.actual_diff_id = self._source.finished(), plain.finished()
        self.plain_bytes = plain.read_bytes
        return index

    @cached_property
    def key(self) -> str:
        """What it is, wherever it lies: two with the same key hold the same. Takes the index."""
        return self.place if self.index.damaged or self.actual_diff_id is None else self.actual_diff_id

    @cached_property
    def device(self) -> int:
        """What its inodes have for a device: that of no layer that holds something else."""
        return int.from_bytes(hashlib.sha256(os.fsencode(self.key)).digest()[:6])

    def file(self, number: int) -> Part:
        """The content of a regular file. Raises OSError."""
        if number in self.index.sparse:
            raise OSError(errno.EOPNOTSUPP, "a sparse file, whose holes are left out in the tar")
        return Part(self.plain, self.index.offsets[number], self.index.sizes[number])


class _Hashed:
    """A source of which a digest is taken while it is read the first time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.read_bytes = 0
        """How many were read, from the start without a gap."""
        self._hash = hashlib.sha256()
        self._digest: str | None = None
        self.is_cheap = source.is_cheap

    def pread(self, size: int, offset: int) -> bytes:
        data = self._source.pread(size, offset)
        if self._digest is None and offset <= self.read_bytes < offset + len(data):
            self._hash.update(memoryview(data)[self.read_bytes - offset :])
            self.read_bytes = offset + len(data)
        return data

    def finished(self) -> str | None:
        """The digest of all bytes, also those that were not read yet; None where they can't be read."""
        if self._digest is None:
            try:
                for _ in pieces(self, self.read_bytes, READ_BYTES):
                    pass
            except OSError:
                return None
            self._digest = f"sha256:{self._hash.hexdigest()}"
        return self._digest
