"""Reads the objects of a git pack from an open file, those that nothing refers to as well. No index is trusted.

gitformat-pack(5). The objects are unpacked by dulwich, one at a time; an object is held in memory only up to a
limit, and so are the objects that deltas wait for.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from dulwich.pack import DELTA_TYPES, OFS_DELTA, UnpackedObject, apply_delta, take_msb_bytes, unpack_object

from layerscope.secrets.bounded import Budget, LimitReachedError, ReadSome, Stream, reason
from layerscope.secrets.members import SeekableFile
from layerscope.tars.packing import ZlibDecompressor, inflate

COMMIT, TREE, BLOB, TAG = 1, 2, 3, 4
KIND_NAMES: Final = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}
MOST_OBJECT: Final = 16 << 20
"""A larger object is not held in memory: a blob is read as it comes, and what is a delta to it can't be."""
MOST_HELD: Final = 48 << 20
_HEADER_BYTES: Final = 12
_MOST_NUMBERS: Final = 24
"""Two numbers of 64 bits, in groups of 7, stand before an object's content."""


class GitObject(NamedTuple):
    """One object; ``content`` is a stream where it is too large to hold."""

    id: bytes
    kind: int
    content: bytes | Stream


@dataclass(slots=True)
class _Base:
    """What deltas are applied to, as long as some wait for it."""

    content: bytes
    waiting: int


class GitPack:
    """Where the objects of a pack begin. Their content is read again for ``objects``."""

    def __init__(self, file: SeekableFile, algorithm: str, budget: Budget) -> None:
        """Read the pack once. Raises OSError when the disk fails; other failures become ``problem``."""
        self.problem: str | None = None
        """Why there may be more objects than are known."""
        self._unresolved = 0
        self._algorithm = algorithm
        self._hash = partial(hashlib.new, algorithm, usedforsecurity=False)
        self._budget = budget
        self._roots: list[tuple[int, int, int]] = []
        self._by_offset: dict[int, list[int]] = defaultdict(list)
        self._by_id: dict[bytes, list[int]] = defaultdict(list)
        self._held = 0
        try:
            self._index(file)
        except Exception as error:  # a hostile pack can make a parser raise anything
            self.problem = reason(error)

    def _index(self, file: SeekableFile) -> None:
        header = file.read(_HEADER_BYTES)
        if header[:4] != b"PACK" or len(header) < _HEADER_BYTES:
            raise ValueError("no pack")
        position = _HEADER_BYTES
        for _ in range(int.from_bytes(header[8:], "big")):
            self._budget.enter()
            file.seek(position)
            kind, size, length = _object_header(file)
            if kind == BLOB and size > MOST_OBJECT:
                self._roots.append((position, kind, size))
                file.seek(position + length)
                position = self._end_of_large(file)
                continue
            if size > MOST_OBJECT:
                raise LimitReachedError(f"an object of {size} bytes is no file: what follows it is not read")
            file.seek(position)
            unpacked, rest = self._unpacked(file, size)
            if kind in DELTA_TYPES:
                self._note_delta(position, unpacked)
            elif kind in KIND_NAMES:
                self._roots.append((position, kind, size))
            else:
                self._unresolved += 1
            position = file.tell() - len(rest)

    def _note_delta(self, position: int, unpacked: UnpackedObject) -> None:
        base = unpacked.delta_base
        if unpacked.pack_type_num == OFS_DELTA and isinstance(base, int):
            self._by_offset[position - base].append(position)
        elif isinstance(base, bytes):
            self._by_id[base].append(position)

    def _unpacked(self, file: SeekableFile, size: int) -> tuple[UnpackedObject, bytes]:
        self._budget.spend(size)
        buffer_bytes = min(64 << 10, size // 2 + 256)
        return unpack_object(_exactly(file), self._hash, file.read, zlib_bufsize=buffer_bytes)

    def _end_of_large(self, file: SeekableFile) -> int:
        stream = ZlibDecompressor(15)
        while data := inflate(stream, file.read, 1 << 20):
            self._budget.spend(len(data))
        return file.tell() - len(stream.unused_data)

    def objects(self, file: SeekableFile, kinds: Collection[int]) -> Iterator[GitObject]:
        """The objects of some kinds, in the order of the pack, each followed by what is stored as its deltas.

        A stream is to be read before the next object is asked for. Raises OSError when the disk fails,
        LimitReachedError.
        """
        for offset, kind, size in self._roots:
            if kind in kinds and size > MOST_OBJECT:
                identifier = self._id(kind, self._large(file, offset), size)
                yield GitObject(identifier, kind, self._large(file, offset))
            elif kind in kinds:
                yield from self._chain(file, offset, kind)

    def _chain(self, file: SeekableFile, root: int, kind: int) -> Iterator[GitObject]:
        """An object, and what is stored as deltas to it or to one of those."""
        pending: list[tuple[int, _Base | None]] = [(root, None)]
        while pending:
            offset, base = pending.pop()
            content = self._restored(file, offset, base)
            if content is None:
                self._unresolved += 1
                continue
            identifier = self._id(kind, content, len(content))
            yield GitObject(identifier, kind, content)
            children = [*self._by_offset.pop(offset, ()), *self._by_id.pop(identifier, ())]
            if children and self._held + len(content) > MOST_HELD:
                self._unresolved += len(children)
            elif children:
                self._held += len(content)
                shared = _Base(content, len(children))
                pending += ((child, shared) for child in children)

    def lost(self) -> int:
        """How many objects could not be restored, once all kinds were asked for."""
        waiting = (*self._by_offset.values(), *self._by_id.values())
        return self._unresolved + sum(map(len, waiting))

    def _restored(self, file: SeekableFile, offset: int, base: _Base | None) -> bytes | None:
        if base is not None:
            base.waiting -= 1
            if not base.waiting:
                self._held -= len(base.content)
        try:
            file.seek(offset)
            size = _object_header(file)[1]
            file.seek(offset)
            unpacked, _ = self._unpacked(file, size)
            if base is None:
                return b"".join(unpacked.decomp_chunks)
            delta = b"".join(unpacked.decomp_chunks)
            size = _result_size(delta)
            if size > MOST_OBJECT:
                return None
            self._budget.spend(size)
            return b"".join(apply_delta(base.content, delta))
        except LimitReachedError:
            raise
        except Exception as error:
            reason(error)
            return None

    def _large(self, file: SeekableFile, offset: int) -> Stream:
        file.seek(offset)
        file.seek(offset + _object_header(file)[2])
        stream = ZlibDecompressor(15)
        return Stream(lambda size: inflate(stream, file.read, size), self._budget)

    def _id(self, kind: int, content: bytes | Stream, size: int) -> bytes:
        digest = self._hash(b"%s %d\0" % (KIND_NAMES[kind], size))
        if isinstance(content, bytes):
            digest.update(content)
        else:
            while data := content.read(1 << 20):
                digest.update(data)
        return digest.digest()


def _object_header(file: SeekableFile) -> tuple[int, int, int]:
    """Kind and size of the object that begins here, and the length of these numbers.

    Raises EOFError where they have no end.
    """
    read = _exactly(io.BytesIO(file.read(_MOST_NUMBERS)))
    raw, _ = take_msb_bytes(read)
    kind, size = raw[0] >> 4 & 7, raw[0] & 15
    for index, byte in enumerate(raw[1:]):
        size |= (byte & 127) << (4 + 7 * index)
    if kind == OFS_DELTA:
        take_msb_bytes(read)
    return kind, size, len(raw)


def _result_size(delta: bytes) -> int:
    """How large the object is that a delta makes. Raises IndexError."""
    position = 0
    while delta[position] & 128:
        position += 1
    position += 1
    size = shift = 0
    while True:
        byte = delta[position]
        size |= (byte & 127) << shift
        position += 1
        shift += 7
        if byte < 128:
            return size


def _exactly(file: SeekableFile) -> ReadSome:
    def read(size: int) -> bytes:
        data = file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    return read
