"""Writes bbolt files as bbolt does: copy on write, pages first, the meta page last. For tests.

    file = BoltWriter(path)
    file.commit({b"bucket": {b"key": b"value"}, b"other": b"value"})

A bucket is a mapping, small ones are inline, large values are continued on further pages. Every transaction writes
everything anew, into the pages that the one before last had: nothing reuses pages sooner than bbolt may.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Union

Tree = Mapping[bytes, Union[bytes, "Tree"]]

BRANCH, LEAF, META, FREELIST = 1, 2, 4, 16
HEADER, ELEMENT = 16, 16


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def header(page: int, flags: int, count: int, overflow: int = 0) -> bytes:
    return struct.pack("<QHHI", page, flags, count, overflow)


def leaf(page: int, items: list[tuple[bytes, bytes, bool]], overflow: int = 0) -> bytes:
    """A leaf of keys, values, and whether the value is a bucket."""
    elements, data = b"", b""
    for index, (key, value, is_bucket) in enumerate(items):
        position = (len(items) - index) * ELEMENT + len(data)
        elements += struct.pack("<IIII", is_bucket, position, len(key), len(value))
        data += key + value
    return header(page, LEAF, len(items), overflow) + elements + data


def branch(page: int, items: list[tuple[bytes, int]], overflow: int = 0) -> bytes:
    """A branch of keys and child pages."""
    elements, data = b"", b""
    for index, (key, child) in enumerate(items):
        position = (len(items) - index) * ELEMENT + len(data)
        elements += struct.pack("<IIQ", position, len(key), child)
        data += key
    return header(page, BRANCH, len(items), overflow) + elements + data


def meta(page_size: int, root: int, high_water: int, txid: int) -> bytes:
    """The meta page of a transaction, without the rest of its page."""
    body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, page_size, 0, root, 0, 2**64 - 1, high_water, txid)
    return header(txid % 2, META, 0) + body + struct.pack("<Q", fnv1a(body))


class BoltWriter:
    """A bbolt file in the making; ``path`` is where it is."""

    def __init__(self, path: Path, page_size: int = 4096) -> None:
        self.path = path
        self.page_size = page_size
        self.txid = 1
        self.used: set[int] = {0, 1, 3}
        """The pages of the last transaction."""
        self.taken: set[int] = set()
        """Those, and the pages of the transaction that is being written."""
        self.high_water = 4
        path.write_bytes(b"")
        self._write(2, header(2, FREELIST, 0))
        self._write(3, leaf(3, []))
        for txid in (0, 1):
            self._write(txid, meta(page_size, 3, 4, txid))

    def commit(self, tree: Tree) -> None:
        for _ in self.steps(tree):
            pass

    def steps(self, tree: Tree) -> Iterator[None]:
        """Write a transaction; stops after every write, and in the middle of the last one."""
        pages: dict[int, bytes] = {}
        self.taken = set(self.used)
        root = self._tree(tree, pages)
        for page, data in pages.items():
            self._write(page, data)
            yield
        self.txid += 1
        self.used = self.taken - self.used | {0, 1}
        data = meta(self.page_size, root, self.high_water, self.txid)
        with self.path.open("r+b") as file:
            file.seek(self.txid % 2 * self.page_size)
            file.write(data[:60])
            file.flush()
            yield
            file.write(data[60:])
        yield

    def _span(self, data: bytes) -> int:
        return max(-(-len(data) // self.page_size), 1)

    def _write(self, page: int, data: bytes) -> None:
        data += b"\0" * (self._span(data) * self.page_size - len(data))
        fd = os.open(self.path, os.O_WRONLY)
        os.pwrite(fd, data, page * self.page_size)
        os.close(fd)

    def _allocate(self, pages: dict[int, bytes], data: bytes) -> int:
        span = self._span(data)
        page = 3
        while any(page + more in self.taken for more in range(span)):
            page += 1
        self.taken.update(range(page, page + span))
        self.high_water = max(self.high_water, page + span)
        pages[page] = struct.pack("<Q", page) + data[8:12] + struct.pack("<I", span - 1) + data[16:]
        return page

    def _tree(self, tree: Tree, pages: dict[int, bytes]) -> int:
        """Write a bucket's pages; gives its root page."""
        items = [(key, *self._value(value, pages)) for key, value in sorted(tree.items())]
        level = [(self._first(group), self._allocate(pages, leaf(0, group))) for group in self._groups(items)]
        while len(level) > 1:
            level = [(group[0][0], self._allocate(pages, branch(0, group))) for group in self._branch_groups(level)]
        return level[0][1]

    @staticmethod
    def _first(group: list[tuple[bytes, bytes, bool]]) -> bytes:
        return group[0][0] if group else b""

    def _value(self, value: bytes | Tree, pages: dict[int, bytes]) -> tuple[bytes, bool]:
        if isinstance(value, bytes):
            return value, False
        if all(isinstance(inner, bytes) for inner in value.values()):
            inline = leaf(0, [(key, inner, False) for key, inner in sorted(value.items())])  # type: ignore[misc]
            if len(inline) <= self.page_size // 4:
                return struct.pack("<QQ", 0, 7) + inline, True
        return struct.pack("<QQ", self._tree(value, pages), 7), True

    def _groups(self, items: list[tuple[bytes, bytes, bool]]) -> list[list[tuple[bytes, bytes, bool]]]:
        groups: list[list[tuple[bytes, bytes, bool]]] = [[]]
        size = HEADER
        for item in items:
            needed = ELEMENT + len(item[0]) + len(item[1])
            if groups[-1] and size + needed > self.page_size:
                groups.append([])
                size = HEADER
            groups[-1].append(item)
            size += needed
        return groups

    def _branch_groups(self, level: list[tuple[bytes, int]]) -> list[list[tuple[bytes, int]]]:
        most = max((self.page_size - HEADER) // (ELEMENT + max(len(key) for key, _ in level)), 2)
        return [level[at : at + most] for at in range(0, len(level), most)]
