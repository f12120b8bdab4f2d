"""Lists what zip and tar files hold, each member as a stream. Nothing is extracted, and no name becomes a path."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from typing import IO, Final, NamedTuple, Protocol, cast

from layerscope.secrets.bounded import CHUNK_BYTES, Budget, LimitReachedError, ReadSome, Stream, reason

MOST_ZIP_DIRECTORY: Final = 8 << 20
"""A zip's list of its members is held in memory."""
MOST_TAR_HEADER: Final = 1 << 20
"""Of one member: long names, pax records, the map of a sparse file."""
_NO_CONTENT: Final = {
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
}
_PIECE_BYTES: Final = 4096
"""zipfile unpacks a piece of bzip2 or LZMA whole, however much it holds."""


class Member(NamedTuple):
    """One file of an archive: its content, to read before the next one is asked for, or why there is none."""

    name: str
    content: Stream | None
    problem: str | None = None


class SeekableFile(Protocol):
    """What ``zipfile`` and ``tarfile`` need of a file."""

    def read(self, size: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...


class _Headers(io.RawIOBase):
    """A file as ``zipfile`` and ``tarfile`` see it: they read what a header asks for, and so a limit is due.

    Raises LimitReachedError where ``left`` does not suffice.
    """

    def __init__(self, file: SeekableFile, left: int) -> None:
        self._file = file
        self.left = left

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = self.left + 1  # to the end of the file
        data = self._file.read(min(size, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise LimitReachedError("its headers are larger than is looked at")
        return data

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


class ForwardFile:
    """A stream as a file in which one may go forwards, and back within the last block that was read."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._position = 0
        self._last = b""

    def read(self, size: int = -1, /) -> bytes:
        """``size`` bytes, fewer at the end."""
        pieces = []
        while size > 0 and (data := self._stream.read(size)):
            pieces.append(data)
            size -= len(data)
            self._position += len(data)
            self._last = data[-tarfile.BLOCKSIZE :]
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if 0 < self._position - offset <= len(self._last):
            self._stream.put_back(self._last[offset - self._position :])
            self._position, self._last = offset, b""
        if offset < self._position or whence:
            raise io.UnsupportedOperation("a stream has no way back")
        while self._position < offset and self.read(min(CHUNK_BYTES, offset - self._position)):
            pass
        return self._position

    def tell(self) -> int:
        return self._position


def zip_members(file: SeekableFile, budget: Budget) -> Iterator[Member]:
    """The files of a zip. Raises what ``zipfile`` raises on a damaged list of members, and LimitReachedError."""
    headers = _Headers(file, MOST_ZIP_DIRECTORY)
    with zipfile.ZipFile(headers) as archive:
        for info in archive.infolist():
            if info.is_dir() and not info.file_size:
                continue
            budget.enter()
            if info.flag_bits & 1:
                yield Member(info.filename, None, "encrypted")
                continue
            del info.CRC  # else zipfile keeps the end of a damaged member to itself
            headers.left = MOST_ZIP_DIRECTORY
            try:
                with archive.open(info) as member:
                    yield Member(info.filename, Stream(_unzipped(member, info, headers), budget))
            except NotImplementedError:
                yield Member(info.filename, None, f"packed by a method (zip's {info.compress_type}) not known here")
            except Exception as error:
                yield Member(info.filename, None, reason(error))


def _unzipped(member: IO[bytes], info: zipfile.ZipInfo, headers: _Headers) -> ReadSome:
    most = CHUNK_BYTES if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else _PIECE_BYTES

    def read(size: int) -> bytes:
        headers.left = MOST_ZIP_DIRECTORY  # these are no headers, and no more than was asked for
        return member.read1(min(size, most))  # type: ignore[attr-defined,no-any-return]  # of ZipExtFile

    return read


def tar_members(file: SeekableFile, budget: Budget) -> Iterator[Member]:
    """The files of a tar that lies from the file's start to its end; of a sparse one what is stored.

    Raises what ``tarfile`` raises on damaged headers, and LimitReachedError.
    """
    headers = _Headers(file, MOST_TAR_HEADER)
    counted = None if isinstance(file, ForwardFile) else budget  # a stream counts for itself
    with tarfile.TarFile(fileobj=headers, errorlevel=0) as archive:
        while (info := archive.next()) is not None:
            archive.pax_headers = {}
            archive.members = []  # type: ignore[attr-defined]  # or all of them would be kept
            budget.enter()
            if info.type not in _NO_CONTENT and info.offset_data < archive.offset:
                length = info.size
                if info.sparse is not None:
                    stored = sum(size for _, size in cast("list[tuple[int, int]]", info.sparse))
                    length = min(stored, archive.offset - info.offset_data)
                file.seek(info.offset_data)
                yield Member(info.name, Stream(_part(file, length), counted))
            headers.left = MOST_TAR_HEADER
        file.seek(archive.offset)
    while data := file.read(CHUNK_BYTES):
        if counted is not None:
            counted.spend(len(data))
        if data.strip(b"\0"):
            raise LimitReachedError("something follows the archive's end, or it is damaged: not looked into")


def _part(file: SeekableFile, length: int) -> ReadSome:
    left = length

    def read(size: int) -> bytes:
        nonlocal left
        if not left:
            return b""
        data = file.read(min(size, left))
        if not data:
            raise EOFError
        left -= len(data)
        return data

    return read
