"""The pages of a bbolt file: decodes them and refuses what bbolt never writes. Pure.

Source: etcd-io/bbolt ``internal/common/{page,meta,bucket,inode}.go``. All numbers are little-endian; a position in
an element counts from that element's own start.
"""

from __future__ import annotations

import struct
from operator import lt
from typing import Final, NamedTuple, NoReturn

from layerscope.errors import CorruptStoreError

META_BYTES: Final = 80
"""A page header and the record of a transaction behind it."""
PAGE_HEADER: Final = struct.Struct("<QHHI")
"""id, flags, number of elements, number of pages that continue this one."""
BUCKET_HEADER: Final = struct.Struct("<QQ")
"""Root page (0: the page follows inside the value) and sequence number."""
PAGE_SIZES: Final = tuple(1024 << power for power in range(15))
"""Where bbolt looks for the second meta page when the first is lost."""

_META: Final = struct.Struct("<IIIIQQQQQQ")
_MAGIC: Final = 0xED0CDAED
_VERSION: Final = 2
_BRANCH, _LEAF = 0x01, 0x02
_BRANCH_ELEMENT: Final = struct.Struct("<IIQ")
_LEAF_ELEMENT: Final = struct.Struct("<IIII")
_ELEMENT_BYTES: Final = 16


class Meta(NamedTuple):
    """What one transaction left: the newest valid one is the state of the file."""

    txid: int
    page_size: int
    root: int
    """Page of the root bucket."""
    high_water: int
    """No page of this transaction has this id or a higher one."""


class Branch(NamedTuple):
    """An inner node: ``children[i]`` holds the keys from ``keys[i]`` on."""

    keys: list[bytes]
    children: list[int]


class Leaf(NamedTuple):
    keys: list[bytes]
    values: list[bytes]
    is_bucket: list[bool]


Node = Branch | Leaf


def fnv1a(data: bytes) -> int:
    """The 64-bit FNV-1a hash, bbolt's checksum of a meta page."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def decode_meta(page: bytes) -> Meta | None:
    """The transaction in the first 80 bytes of a meta page; None when they hold no whole one."""
    if len(page) < META_BYTES:
        return None
    body = page[PAGE_HEADER.size : META_BYTES]
    magic, version, page_size, _, root, _, _, high_water, txid, checksum = _META.unpack(body)
    if (magic, version) != (_MAGIC, _VERSION) or page_size not in PAGE_SIZES or checksum != fnv1a(body[:-8]):
        return None
    return Meta(txid, page_size, root, high_water)


def decode_node(data: bytes, page: int, where: str) -> Node:
    """The node in ``data``: a page with all that continues it, or (``page`` 0) the inline page of a bucket.

    Keys are in strictly ascending order. ``where`` names the page in errors. Raises CorruptStoreError.
    """
    if len(data) < PAGE_HEADER.size:
        corrupt(where, "is cut off")
    claimed, flags, count, _ = PAGE_HEADER.unpack_from(data)
    if claimed != page:
        corrupt(where, f"calls itself page {claimed}")
    if flags not in (_BRANCH, _LEAF):
        corrupt(where, f"is neither a branch nor a leaf (flags {flags:#x})")
    end = PAGE_HEADER.size + count * _ELEMENT_BYTES
    if end > len(data):
        corrupt(where, f"has no room for its {count} elements")
    elements = memoryview(data)[PAGE_HEADER.size : end]
    node = _leaf(data, elements, where) if flags == _LEAF else _branch(data, elements, where)
    if not all(map(lt, node.keys, node.keys[1:])):
        corrupt(where, "has keys out of order")
    return node


def _leaf(data: bytes, elements: memoryview, where: str) -> Leaf:
    leaf = Leaf([], [], [])
    start, taken = PAGE_HEADER.size, 0
    first = start + len(elements)
    for flags, position, key_bytes, value_bytes in _LEAF_ELEMENT.iter_unpack(elements):
        key = start + position
        value = key + key_bytes
        taken += key_bytes + value_bytes
        if key < first or value + value_bytes > len(data) or not key_bytes or flags > 1:
            corrupt(where, f"has a broken element {len(leaf.keys)}")
        leaf.keys.append(data[key:value])
        leaf.values.append(data[value : value + value_bytes])
        leaf.is_bucket.append(flags == 1)
        start += _ELEMENT_BYTES
        if first + taken > len(data):  # or few bytes could stand for very many
            corrupt(where, "has elements that overlap")
    return leaf


def _branch(data: bytes, elements: memoryview, where: str) -> Branch:
    branch = Branch([], [])
    start, taken = PAGE_HEADER.size, 0
    first = start + len(elements)
    for position, key_bytes, child in _BRANCH_ELEMENT.iter_unpack(elements):
        key = start + position
        taken += key_bytes
        if key < first or key + key_bytes > len(data) or not key_bytes:
            corrupt(where, f"has a broken element {len(branch.keys)}")
        branch.keys.append(data[key : key + key_bytes])
        branch.children.append(child)
        start += _ELEMENT_BYTES
        if first + taken > len(data):
            corrupt(where, "has elements that overlap")
    if not branch.keys:
        corrupt(where, "is a branch that leads nowhere")
    return branch


def corrupt(where: str, what: str) -> NoReturn:
    """Raise the error for a damaged database."""
    raise CorruptStoreError(
        f"{where} {what}",
        "the database is damaged, or was copied while it was written: copy or restore it",
    )
