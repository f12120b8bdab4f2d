"""Reads bbolt databases, in which BuildKit and containerd keep their records, while their daemon writes to them.

Nothing is locked: the daemon holds bbolt's lock for as long as it lives. bbolt does not overwrite a page that its
last committed transaction N can reach before N + 1 is committed, too (etcd-io/bbolt ``db.go``, ``freelist``). So
what was read is what transaction N left if the newest meta page still names N after the read. That is asked after
every read from the file: no answer is ever made of pages of two transactions, and a page that makes no sense is
damage.

A database may be somebody else's. Every page is reached from one place only, which rules out circles and makes a
walk no longer than the file; sizes and nesting are bounded.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Final, TypeVar

from layerscope.errors import CorruptStoreError, StoreBusyError
from layerscope.stores.boltpages import (
    BUCKET_HEADER,
    META_BYTES,
    PAGE_HEADER,
    PAGE_SIZES,
    Branch,
    Leaf,
    Meta,
    Node,
    corrupt,
    decode_meta,
    decode_node,
)
from layerscope.stores.records import DataRoot

LARGEST_FILE: Final = 1 << 30
LARGEST_NODE: Final = 64 << 20
"""A page with all that continues it; containerd's largest values have some ten thousand bytes."""
DEEPEST: Final = 100
"""Levels of pages and buckets in each other; containerd has seven buckets with trees of at most four levels."""

ATTEMPTS: Final = 12
READ_AHEAD: Final = 256 << 10
MOST_READ_AHEAD: Final = 64 << 20
MOST_CACHED_BYTES: Final = 16 << 20
MOST_CACHED_NODES: Final = 2048
_PAUSE_SECONDS: Final = 0.002

Answer = TypeVar("Answer")
_Owner = tuple[int, int]
"""The page and the element in it that lead to a page."""


class _ChangedError(Exception):
    """A transaction was committed since the snapshot was taken."""


def read_bolt(root: DataRoot, place: str, question: Callable[[Bucket], Answer]) -> Answer | None:
    """What ``question`` makes of the root bucket of a database below ``root``; None when there is no such file.

    ``question`` is asked again when the daemon wrote meanwhile, so it must have no side effects, and its answer
    must hold no Bucket. Raises CorruptStoreError, StoragePermissionError, or StoreBusyError.
    """
    fd = root.open_file(place, largest=LARGEST_FILE)
    if fd is None:
        return None
    try:
        for attempt in range(ATTEMPTS):
            try:
                # A database that is too busy to be read page by page is read in ever larger pieces.
                snapshot = _Snapshot(fd, root.join(place), min(READ_AHEAD << 2 * attempt, MOST_READ_AHEAD))
                return question(snapshot.root())
            except _ChangedError:
                time.sleep(_PAUSE_SECONDS * attempt)
    finally:
        os.close(fd)
    raise StoreBusyError(
        f"{root.join(place)} changed during each of {ATTEMPTS} attempts to read it",
        "the engine is writing to it without a pause; try again when it is less busy",
    )


class Bucket:
    """A sorted map from keys to values and to other buckets."""

    def __init__(self, snapshot: _Snapshot, value: bytes, owner: _Owner, depth: int) -> None:
        """From the value that describes it; ``owner`` is where that stands. Pages are read when needed."""
        self._where = f"a bucket in page {owner[0]} of {snapshot.path}"
        if len(value) < BUCKET_HEADER.size:
            corrupt(self._where, "is cut off")
        if depth > DEEPEST:
            corrupt(self._where, f"is nested more than {DEEPEST} levels deep")
        self._snapshot = snapshot
        self._value = value
        self._owner = owner
        self._depth = depth
        self._page, self.sequence = BUCKET_HEADER.unpack_from(value)

    @cached_property
    def _top(self) -> Node:
        if self._page:
            return self._snapshot.node(self._page, self._owner)
        node = decode_node(self._value[BUCKET_HEADER.size :], 0, self._where)
        if isinstance(node, Branch) or any(node.is_bucket):
            corrupt(self._where, "is inline and holds more than values")
        return node

    def items(self, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Keys with their values or buckets in order of keys: those with the ``prefix``, from ``start`` on."""
        for page, leaf, first in self._leaves(max(prefix, start)):
            for index in range(first, len(leaf.keys)):
                if not leaf.keys[index].startswith(prefix):
                    return
                yield leaf.keys[index], self._element(page, leaf, index)

    def values(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The items that are values, in order of keys."""
        return ((key, value) for key, value in self.items(prefix) if isinstance(value, bytes))

    def buckets(self, prefix: bytes = b"") -> Iterator[tuple[bytes, Bucket]]:
        """The items that are buckets, in order of keys."""
        return ((key, value) for key, value in self.items(prefix) if isinstance(value, Bucket))

    def get(self, key: bytes) -> bytes | None:
        """The value of a key; None when there is none."""
        found = self._find(key)
        return found if isinstance(found, bytes) else None

    def bucket(self, *path: bytes) -> Bucket | None:
        """The bucket of that name, or through buckets in each other; None when there is none."""
        found: bytes | Bucket | None = self
        for name in path:
            found = found._find(name) if isinstance(found, Bucket) else None
        return found if isinstance(found, Bucket) else None

    def _find(self, key: bytes) -> bytes | Bucket | None:
        page, leaf, index = next(self._leaves(key))
        if index == len(leaf.keys) or leaf.keys[index] != key:
            return None
        return self._element(page, leaf, index)

    def _element(self, page: int, leaf: Leaf, index: int) -> bytes | Bucket:
        value = leaf.values[index]
        return Bucket(self._snapshot, value, (page, index), self._depth + 1) if leaf.is_bucket[index] else value

    def _leaves(self, key: bytes) -> Iterator[tuple[int, Leaf, int]]:
        """The leaves from ``key`` on: page, leaf, and index of its first key that is not smaller."""
        path: list[tuple[int, Branch, int, bytes | None]] = []
        page, node, above = self._page, self._top, None
        while True:
            while isinstance(node, Branch):
                index = max(bisect_right(node.keys, key) - 1, 0)
                path.append((page, node, index, above))
                if self._depth + len(path) > DEEPEST:
                    corrupt(f"page {page} of {self._snapshot.path}", f"lies more than {DEEPEST} levels deep")
                page, node, above = self._child(*path[-1])
            yield page, node, bisect_left(node.keys, key)
            while path and path[-1][2] + 1 == len(path[-1][1].keys):
                path.pop()
            if not path:
                return
            page, branch, index, above = path.pop()
            path.append((page, branch, index + 1, above))
            page, node, above = self._child(*path[-1])

    def _child(self, page: int, branch: Branch, index: int, above: bytes | None) -> tuple[int, Node, bytes | None]:
        """A child of a branch, and the key that all of its keys are smaller than."""
        child = branch.children[index]
        node = self._snapshot.node(child, (page, index))
        above = branch.keys[index + 1] if index + 1 < len(branch.keys) else above
        where = f"page {child} of {self._snapshot.path}"
        if not node.keys:
            corrupt(where, "is an empty leaf")
        if node.keys[0] < branch.keys[index] or (above is not None and node.keys[-1] >= above):
            corrupt(where, f"has keys that do not belong below page {page}")
        return child, node, above


class _Snapshot:
    """What one transaction left in a file."""

    def __init__(self, fd: int, path: str, read_ahead: int) -> None:
        self.path = path
        self._fd = fd
        self._read_ahead = read_ahead
        self._pieces: dict[int, bytes] = {}
        self._nodes: dict[int, Node] = {}
        self._owners: dict[int, _Owner] = {}
        meta = self._newest()
        if meta is None:
            corrupt(path, "has no whole meta page, so it is no bbolt database")
        if meta.high_water * meta.page_size > LARGEST_FILE:
            corrupt(path, f"claims to have {meta.high_water} pages")
        self._meta = meta

    def root(self) -> Bucket:
        return Bucket(self, BUCKET_HEADER.pack(self._meta.root, 0), (0, 0), 0)

    def node(self, page: int, owner: _Owner) -> Node:
        """The node at a page that ``owner`` leads to. Raises CorruptStoreError."""
        if self._owners.get(page, owner) != owner:
            corrupt(f"page {page} of {self.path}", f"is reached from page {owner[0]} and from elsewhere")
        found = self._nodes.get(page)
        if found is None:
            data = self._page(page, owner)
            found = decode_node(data, page, f"page {page} of {self.path}")
            if len(data) == self._meta.page_size:
                _keep(self._nodes, page, found, MOST_CACHED_NODES)
        return found

    def _page(self, page: int, owner: _Owner) -> bytes:
        """The bytes of a page and of those that continue it."""
        size = self._meta.page_size
        where = f"page {page} of {self.path}"
        if not 2 <= page < self._meta.high_water:
            corrupt(where, f"is out of range: pages 2 to {self._meta.high_water - 1} hold data")
        data = self._bytes(page * size, size, where)
        more: int = PAGE_HEADER.unpack_from(data)[3]
        if page + more >= self._meta.high_water or size * (more + 1) > LARGEST_NODE:
            corrupt(where, f"is continued by {more} pages, more than there can be")
        for part in range(page, page + more + 1):
            if self._owners.setdefault(part, owner) != owner:
                corrupt(f"page {part} of {self.path}", f"is reached from page {owner[0]} and from elsewhere")
        return data if not more else self._bytes(page * size, size * (more + 1), where)

    def _bytes(self, offset: int, length: int, where: str) -> bytes:
        parts = []
        while length:
            piece, at = divmod(offset, self._read_ahead)
            part = self._piece(piece)[at : at + length]
            if not part:
                corrupt(where, "lies behind the end of the file")
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _piece(self, number: int) -> bytes:
        found = self._pieces.get(number)
        if found is None:
            found = self._pread(self._read_ahead, number * self._read_ahead)
            newest = self._newest()
            if newest is None or newest.txid != self._meta.txid:
                raise _ChangedError
            _keep(self._pieces, number, found, max(MOST_CACHED_BYTES // self._read_ahead, 1))
        return found

    def _newest(self) -> Meta | None:
        """The last transaction that was committed; None when neither meta page is whole."""
        first = decode_meta(self._pread(META_BYTES, 0))
        if first is None:
            candidates = ((size, decode_meta(self._pread(META_BYTES, size))) for size in PAGE_SIZES)
            return next((meta for size, meta in candidates if meta is not None and meta.page_size == size), None)
        second = decode_meta(self._pread(META_BYTES, first.page_size))
        newer = second is not None and second.page_size == first.page_size and second.txid > first.txid
        return second if newer else first

    def _pread(self, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise CorruptStoreError(f"{self.path} can't be read: {error.strerror}", "check the disk") from error


Kept = TypeVar("Kept")


def _keep(cache: dict[int, Kept], key: int, value: Kept, most: int) -> None:
    """Put something into a cache that holds so many at most; the oldest goes."""
    if len(cache) >= most:
        del cache[next(iter(cache))]
    cache[key] = value
