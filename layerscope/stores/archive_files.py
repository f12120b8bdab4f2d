"""The files of an archive, by name: in a tar, packed or not, in a directory, or out of a pipe. Nothing is unpacked.

An archive is hostile: names in it never lead out of it, and are never opened through a symlink of this machine.
"""

from __future__ import annotations

import os
import stat as st
from collections.abc import Iterator
from typing import IO, Final, NamedTuple, Protocol

from layerscope.errors import ArchiveError
from layerscope.reading import DIRECTORY, FILE, open_untouched
from layerscope.stores import records
from layerscope.tars.index import ROOT, TarIndex, read_index
from layerscope.tars.layer import TarLayer
from layerscope.tars.packing import packing_of
from layerscope.tars.sources import FileSource, Part, Pieces, Sequential, Source, pieces, unpacked
from layerscope.tars.stream import DamagedTarError, TarMember, TarStream

LARGEST_DOCUMENT: Final = 16 << 20
MOST_DOCUMENT_BYTES: Final = 64 << 20
"""Of all documents that are kept of what came through a pipe."""
MOST_LINKS: Final = 40
_HEAD_BYTES: Final = 512
_USTAR: Final = (257, 262)


class Blob(NamedTuple):
    """A file of an archive."""

    place: str
    """What to call it: ``image.tar!/blobs/sha256/…``."""
    source: Source
    size_bytes: int


class ArchiveFiles(Protocol):
    """The files of an archive."""

    @property
    def path(self) -> str:
        """The archive itself, for people."""
        ...

    @property
    def problem(self) -> str | None:
        """Why it may not be whole."""
        ...

    def names(self) -> list[str]:
        """What lies at the top, sorted."""
        ...

    def document(self, name: str) -> bytes | None:
        """The bytes of a small file; None when it is not there. Raises ArchiveError when it is not small."""
        ...

    def layer(self, name: str) -> TarLayer | None:
        """A layer's tar, always the same object for the same file; None when it is not there."""
        ...


class TarFiles:
    """An archive in one file that can be read anywhere."""

    def __init__(self, path: str, fd: int) -> None:
        """Takes the descriptor over. Raises ArchiveError when it is no tar."""
        self.path = path
        try:
            self._source = unpacked(FileSource(fd, owned=True), os.fstat(fd).st_size)
            stream = TarStream(Pieces(self._source))
            self._index = read_index(stream, digests=False)
        except OSError as error:
            raise _unreadable(path, error.strerror) from error
        if len(self._index) == 1:
            raise _unreadable(path, self._index.notes[0][1] if self._index.notes else "it is empty")
        self.problem = self._index.damage_done
        self._layers: dict[int, TarLayer] = {}

    def names(self) -> list[str]:
        return sorted(self._index.children[ROOT])

    def document(self, name: str) -> bytes | None:
        number = self._number(name)
        if number is None:
            return None
        part = self._part(number)
        return _whole(part, part.size_bytes, f"{self.path}!/{name}")

    def layer(self, name: str) -> TarLayer | None:
        number = self._number(name)
        if number is None:
            return None
        if number not in self._layers:
            part = self._part(number)
            self._layers[number] = TarLayer(f"{self.path}!/{name}", part, part.size_bytes, digest=digest_in(name))
        return self._layers[number]

    def _part(self, number: int) -> Part:
        return Part(self._source, self._index.offsets[number], self._index.sizes[number])

    def _number(self, name: str) -> int | None:
        """The inode of a regular file; Docker before 25 has symlinks for layers that come again."""
        number = _resolved(self._index, name)
        return number if number is not None and st.S_ISREG(self._index.modes[number]) else None


class DirectoryFiles:
    """An archive that was unpacked into a directory, or written as one."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._layers: dict[tuple[int, int], TarLayer] = {}
        self.problem: str | None = None

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path))
        except OSError as error:
            raise _unreadable(self.path, error.strerror) from error

    def document(self, name: str) -> bytes | None:
        fd = self._open(name)
        if fd is None:
            return None
        try:
            return _whole(FileSource(fd), os.fstat(fd).st_size, f"{self.path}/{name}")
        finally:
            os.close(fd)

    def layer(self, name: str) -> TarLayer | None:
        fd = self._open(name)
        if fd is None:
            return None
        stat = os.fstat(fd)
        known = self._layers.get((stat.st_dev, stat.st_ino))
        if known is not None:
            os.close(fd)
            return known
        layer = TarLayer(f"{self.path}/{name}", FileSource(fd, owned=True), stat.st_size, digest=digest_in(name))
        self._layers[stat.st_dev, stat.st_ino] = layer
        return layer

    def _open(self, name: str) -> int | None:
        """A regular file, reached without leaving the archive; None when there is none. Raises ArchiveError."""
        left = [part for part in name.split("/") if part not in ("", ".")][::-1]
        above: list[int] = []
        links = 0
        try:
            above.append(open_untouched(self.path, DIRECTORY & ~os.O_NOFOLLOW))
            while left:
                part = left.pop()
                if part == "..":
                    os.close(above.pop())
                    if not above:
                        break
                    continue
                stat = os.stat(part, dir_fd=above[-1], follow_symlinks=False)
                if st.S_ISLNK(stat.st_mode):
                    links += 1
                    target = os.readlink(part, dir_fd=above[-1])
                    if links > MOST_LINKS or target.startswith("/"):
                        break
                    left += [step for step in target.split("/") if step not in ("", ".")][::-1]
                elif left:
                    above.append(open_untouched(part, DIRECTORY, above[-1]))
                elif st.S_ISREG(stat.st_mode):
                    return open_untouched(part, FILE, above[-1])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArchiveError(
                f"{self.path}/{name} can't be read: {error.strerror}", "copy the whole archive, or save it again"
            ) from error
        finally:
            for fd in above:
                os.close(fd)
        return None


class Onlooker(Protocol):
    """What wants the contents of files that come through a pipe."""

    def take(self, number: int, member: TarMember, chunks: Iterator[bytes]) -> None:
        """A file passes by. Raises what ``chunks`` raise."""
        ...

    def done(self, layer: TarLayer) -> None:
        """The layer is at its end."""
        ...


class PipeFiles:
    """An archive that comes through a pipe: its layers' trees are made while it passes by."""

    problem: str | None

    def __init__(self, path: str, pipe: IO[bytes], onlooker: Onlooker | None = None) -> None:
        """Read all of it. Raises ArchiveError when it is no tar."""
        self.path = path
        self._onlooker = onlooker
        self._index = TarIndex()
        self._documents: dict[int, bytes] = {}
        self._document_bytes = 0
        self._layers: dict[int, TarLayer] = {}
        self.problem = None
        source = unpacked(Sequential(pipe.read), 1 << 60)
        stream = TarStream(pieces(source))
        try:
            for member in stream.members():
                number = self._index.add(member)
                if number is not None:
                    self._take(number, member.name, member.size_bytes, stream)
        except DamagedTarError as error:
            self.problem = str(error)
        except OSError as error:
            self.problem = error.strerror
        if len(self._index) == 1:
            raise _unreadable(path, self.problem or "it is empty")

    def _take(self, number: int, name: str, size: int, stream: TarStream) -> None:
        chunks = stream.content()
        head = b""
        while len(head) < _HEAD_BYTES and (chunk := next(chunks, b"")):
            head += chunk
        if packing_of(head) is not None or head[slice(*_USTAR)] == b"ustar" or (size >= 1024 and not any(head)):
            rest = [head]

            def read(_size: int) -> bytes:
                return rest.pop() if rest else next(chunks, b"")

            onlooker = self._onlooker
            take = onlooker.take if onlooker is not None else None
            layer = TarLayer(f"{self.path}!/{name}", Sequential(read), size, digest=digest_in(name), take=take)
            _ = layer.index  # now or never
            self._layers[number] = layer
            if onlooker is not None:
                onlooker.done(layer)
        elif size <= LARGEST_DOCUMENT and self._document_bytes + size <= MOST_DOCUMENT_BYTES:
            self._document_bytes += size
            self._documents[number] = b"".join([head, *chunks])

    def names(self) -> list[str]:
        return sorted(self._index.children[ROOT])

    def document(self, name: str) -> bytes | None:
        number = _resolved(self._index, name)
        return None if number is None else self._documents.get(number)

    def layer(self, name: str) -> TarLayer | None:
        number = _resolved(self._index, name)
        return None if number is None else self._layers.get(number)


def digest_in(name: str) -> str | None:
    """The digest that the name of a blob stands for: ``blobs/sha256/<hex>``."""
    parent, _, last = name.rpartition("/")
    return records.diff_id(f"sha256:{last}") if parent.removeprefix("./") == "blobs/sha256" else None


def _resolved(index: TarIndex, name: str) -> int | None:
    """What a name in a tar stands for, symlinks followed inside it."""
    left = name.split("/")[::-1]
    above = [ROOT]
    links = 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            above = above[:-1] or [ROOT]
            continue
        number = index.children.get(above[-1], {}).get(part)
        if number is None:
            return None
        target = index.targets.get(number)
        if target is None:
            above.append(number)
            continue
        links += 1
        if links > MOST_LINKS:
            return None
        if target.startswith("/"):
            above = [ROOT]
        left += target.split("/")[::-1]
    return above[-1]


def _whole(source: Source, size: int, place: str) -> bytes:
    if size > LARGEST_DOCUMENT:
        raise ArchiveError(
            f"{place} is larger than any such document ({size} bytes)",
            "this is no archive of images, or a forged one",
        )
    try:
        content = b"".join(pieces(Part(source, 0, size)))
    except OSError as error:
        raise ArchiveError(
            f"{place} can't be read: {error.strerror}", "the archive is damaged; save the image again"
        ) from error
    return content


def _unreadable(path: str, why: str | None) -> ArchiveError:
    return ArchiveError(
        f"{path} is no archive of images: {why}",
        "name what `docker save` wrote, or an OCI layout, as a file or a directory",
    )
