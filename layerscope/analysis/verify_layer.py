"""Verifies one layer: writes its tar anew, piece by piece and into a hash only, and compares the disk with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from typing import Final

from layerscope.analysis.attributes import Difference, Problem
from layerscope.analysis.crc64 import Crc64
from layerscope.analysis.entry_check import EntryCheck, Expectations, Findings, Place
from layerscope.errors import LayerscopeError
from layerscope.model import Tick, no_tick
from layerscope.reading import FILE, open_untouched
from layerscope.stores.tarsplit import Member

PIECE: Final = 1 << 20
CRC_PIECE: Final = 1 << 16
"""What ``Crc64`` is fastest with."""
_TICK: Final = 512

OpenBelow = Callable[[str], int]
"""A descriptor of the content of a metacopy file, which a layer below holds. Raises OSError or LayerscopeError."""
Pieces = Callable[[], Iterator[bytes | Member]]
"""Reads the layer's tar-split from its beginning. Raises CorruptStoreError."""


class LayerCheck:
    """The check of one layer's directory against its tar-split; ``findings`` says what it came to.

    Raises OSError when the directory can't be opened.
    """

    def __init__(
        self, diff_dir: str, pieces: Pieces, expectations: Expectations, open_below: OpenBelow, tick: Tick = no_tick
    ) -> None:
        self.diff_dir = diff_dir
        self.pieces = pieces
        self.expectations = expectations
        self.open_below = open_below
        self.tick = tick
        self.findings = Findings()
        self.entries = 0
        self.tar_bytes = 0
        self._checked = EntryCheck(diff_dir, expectations, self.findings)

    def compare(self) -> None:
        """Compare all but content. Raises CorruptStoreError."""
        self._run(None)

    def digest(self) -> str | None:
        """Compare all but content and give ``sha256:…`` of the tar; None when it can't be written anew.

        Raises CorruptStoreError.
        """
        tar = _Tar()
        return tar.digest() if self._run(tar) else None

    def _run(self, tar: _Tar | None) -> bool:
        """Compare every entry, and write the tar as long as all of it is there; gives whether all was."""
        with self._checked.working():
            complete = self._compare(tar)
            self._checked.finish()
        self.tick(self.entries % _TICK)
        return complete

    def _compare(self, tar: _Tar | None) -> bool:
        complete = True
        for piece in self.pieces():
            if isinstance(piece, bytes):
                self.tar_bytes += len(piece)
                if tar is not None:
                    tar.write(piece)
                continue
            self.entries += 1
            if not self.entries % _TICK:
                self.tick(_TICK)
            place = self._checked.check(piece)
            if piece.size:
                self.tar_bytes += piece.size
                complete = complete and place is not None and self._is_reproducible(piece, place)
                if complete and place is not None and tar is not None:
                    complete = self._copy(place, piece.size, tar)
        return complete

    def _is_reproducible(self, member: Member, place: Place) -> bool:
        if member.header is None or not member.header.is_sparse:
            return True
        self.findings.unsettle(
            f"the tar has {place.path!r} without its holes (GNU sparse): it can't be written anew"
        )
        return False

    def _copy(self, place: Place, size: int, tar: _Tar) -> bool:
        try:
            fd = self._open(place)
            try:
                tar.copy(fd, size)
            finally:
                os.close(fd)
        except (OSError, LayerscopeError) as error:
            self._unreadable(place.path, error)
            return False
        return True

    def find_changed(self) -> None:
        """Name the files whose CRC-64 is not the one in tar-split. Raises CorruptStoreError.

        Those that are missing, or of another size, are known already.
        """
        silent = EntryCheck(self.diff_dir, self.expectations, Findings())
        with silent.working():
            self._find_changed(silent)

    def _find_changed(self, silent: EntryCheck) -> None:
        for piece in self.pieces():
            place = silent.check(piece) if not isinstance(piece, bytes) and piece.size else None
            if place is None or isinstance(piece, bytes):
                continue
            try:
                fd = self._open(place)
                try:
                    found = _checksum(fd, piece.size)
                finally:
                    os.close(fd)
            except (OSError, LayerscopeError) as error:
                self._unreadable(place.path, error)
                continue
            if found != piece.crc:
                self.findings.add([Difference(place.path, Problem.CONTENT, piece.crc.hex(), found.hex())])

    def _open(self, place: Place) -> int:
        if place.is_metacopy:
            return self.open_below(place.path)
        return open_untouched(place.name, FILE, place.directory.fd())

    def _unreadable(self, path: str, error: OSError | LayerscopeError) -> None:
        reason = error.message if isinstance(error, LayerscopeError) else error.strerror
        self.findings.unsettle(f"{path!r} can't be read: {reason}")


class _Tar:
    """The tar as it would be written; only its digest is kept."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._buffer = memoryview(bytearray(PIECE))

    def write(self, data: bytes) -> None:
        # Hashing many small pieces at once is what makes layers of small files fast.
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= PIECE:
            self._flush()

    def copy(self, fd: int, size: int) -> None:
        """Write ``size`` bytes of a file. Raises OSError, also when it has fewer."""
        if size < PIECE:
            data = os.read(fd, size)
            if len(data) == size:
                self.write(data)
                return
            os.lseek(fd, 0, os.SEEK_SET)
        self._flush()
        for count in _read_exactly(fd, size, self._buffer):
            self._sha256.update(self._buffer[:count])

    def _flush(self) -> None:
        self._sha256.update(b"".join(self._waiting))
        self._waiting.clear()
        self._waiting_bytes = 0

    def digest(self) -> str:
        self._flush()
        return "sha256:" + self._sha256.hexdigest()


def _read_exactly(fd: int, size: int, buffer: memoryview) -> Iterator[int]:
    """Fill ``buffer`` again and again until ``size`` bytes are read. Raises OSError when the file ends before."""
    while size:
        count = os.readv(fd, [buffer[:size]])
        if not count:
            raise OSError(0, "it became shorter while it was read")
        size -= count
        yield count


def _checksum(fd: int, size: int) -> bytes:
    crc = Crc64()
    buffer = memoryview(bytearray(min(size, CRC_PIECE)))
    for count in _read_exactly(fd, size, buffer):
        crc.update(buffer[:count])
    return crc.digest()
