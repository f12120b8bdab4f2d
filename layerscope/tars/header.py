"""Reads tar headers: ustar, GNU and PAX, as far as a layer's directory can be compared with them. Pure.

Sources: POSIX.1-2017 pax ("ustar Interchange Format", "pax Extended Header"), GNU tar manual ("Basic Tar Format"),
and Go's ``archive/tar``, with which Docker reads and writes layers. Where a tar-split has the names, those count.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, NamedTuple
from zlib import adler32

BLOCK: Final = 512
MOST_KNOWN: Final = 4096
HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"1", b"2", b"3", b"4", b"5", b"6"
REGULAR: Final = frozenset({b"0", b"\0", b"7", b"S"})
_HEADER_ONLY: Final = frozenset({HARD_LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO})
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
_XATTR: Final = b"SCHILY.xattr."
_SPARSE: Final = b"GNU.sparse."
_SPARSE_NAME: Final = b"GNU.sparse.name"
_NOTHING: Final[Mapping[bytes, bytes]] = {}
_EXTENDED: Final = frozenset({_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK})
_BLANKS: Final = b" " * 8
_MOST_SIZE: Final = 1 << 62


class Header(NamedTuple):
    """What a header says of one file."""

    type: bytes
    """The type flag; see the constants of this module."""
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    mtime_is_exact: bool
    """False when the header has whole seconds only."""
    link: str
    """The target of a hard link or a symlink, by ``os.fsdecode``."""
    device: tuple[int, int]
    xattrs: Mapping[str, bytes]
    is_sparse: bool
    """Whether the content in the tar is not the content of the file, but its parts without the holes."""

    @property
    def is_regular(self) -> bool:
        return self.type in REGULAR

    @property
    def is_header_only(self) -> bool:
        """Whether no content follows, even if the header has a size (Go ``archive/tar``, ``isHeaderOnly``)."""
        return self.type in _HEADER_ONLY


class Member(NamedTuple):
    """What a header, with those that extend it, says of one member of a tar."""

    header: Header
    name: str
    """As it stands there, by ``os.fsdecode``."""
    size_bytes: int
    """Of the content that follows."""


class HeaderReader:
    """``parse_header``, faster for many headers that differ in name and size only, as those of one tar do."""

    def __init__(self) -> None:
        self._known: dict[bytes, Header | None] = {}

    def __call__(self, raw: bytes) -> Header | None:
        if len(raw) != BLOCK:
            return parse_header(raw)
        # All of the block that a header is made of.
        said = raw[100:124] + raw[136:148] + raw[156:257] + raw[329:345]
        if said not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[said] = parse_header(raw)
        return self._known[said]


def parse_header(raw: bytes) -> Header | None:
    """The header in ``raw``, with the extended headers before it; None when there are only global ones.

    Raises ValueError when it is no header.
    """
    found = _extended(raw)
    return None if found is None else _header(found.block, found.pax, found.link)


def extends(flag: bytes) -> bool:
    """Whether a header with this type flag says something of the next one."""
    return flag in _EXTENDED


def content_bytes(block: bytes) -> int:
    """The size that a header block states. Raises ValueError."""
    return _number(block[124:136])


def has_checksum(block: bytes) -> bool:
    """Whether the checksum of a header block is right, by unsigned or signed bytes as Go's reader takes it."""
    try:
        told = _number(block[148:156])
    except ValueError:
        return False
    # The low half of Adler-32 is one more than the sum of all bytes, modulo 65521: much faster than sum().
    fits = (adler32(block[:148] + _BLANKS + block[156:]) & 0xFFFF) == (told + 1) % 65521
    if fits:
        return True
    rest = block[:148] + _BLANKS + block[156:]
    return told == sum(byte - 256 if byte > 127 else byte for byte in rest)


def parse_member(raw: bytes, read_header: HeaderReader) -> Member:
    """The member whose header ends ``raw``, after those that extend it.

    Raises ValueError when it is none, or says what can't be.
    """
    block, pax, link, name, plain = raw, _NOTHING, None, None, len(raw) == BLOCK
    if not plain:
        found = _extended(raw)
        if found is None:
            raise ValueError("extended headers without a header")
        block, pax, link, name = found
    header = read_header(block) if plain else _header(block, pax, link)
    if header is None:
        raise ValueError("no header")
    name = pax.get(_SPARSE_NAME) or pax.get(b"path") or name
    if name is None:
        name = block[:100].partition(b"\0")[0]
        if block[257:263] == b"ustar\0" and block[345]:
            name = block[345:500].partition(b"\0")[0] + b"/" + name
    size = int(pax[b"size"]) if b"size" in pax else content_bytes(block)
    if not 0 <= size < _MOST_SIZE:
        raise ValueError("a size that can't be")
    return Member(header, os.fsdecode(name), 0 if header.is_header_only else size)


def sparse_size(raw: bytes) -> int | None:
    """How large the sparse file is whose headers these are, with its holes; None where that is not said."""
    found = _extended(raw)
    if found is None:
        return None
    for key in (b"GNU.sparse.realsize", b"GNU.sparse.size"):
        if key in found.pax:
            return int(found.pax[key])
    return _number(found.block[483:495]) if found.block[156:157] == b"S" else None


class _Extended(NamedTuple):
    """A header block, and what those before it say."""

    block: bytes
    pax: Mapping[bytes, bytes]
    link: bytes | None
    name: bytes | None


def _extended(raw: bytes) -> _Extended | None:
    offset = 0
    pax: Mapping[bytes, bytes] = _NOTHING
    link: bytes | None = None
    name: bytes | None = None
    while len(raw) - offset >= BLOCK:
        block = raw[offset : offset + BLOCK] if offset else raw[:BLOCK]
        flag = block[156:157]
        offset += BLOCK
        if flag not in _EXTENDED:
            return _Extended(block, pax, link, name)
        size = content_bytes(block)
        if not 0 <= size <= len(raw) - offset:
            raise ValueError("an extended header without its end")
        data = raw[offset : offset + size]
        offset += size + -size % BLOCK
        if flag == _PAX:
            pax = _records(data)
        elif flag == _GNU_LINK:
            link = data.partition(b"\0")[0]
        elif flag == _GNU_NAME:
            name = data.partition(b"\0")[0]
    if raw and offset == 0:
        raise ValueError("no whole header")
    return None


def _header(block: bytes, pax: Mapping[bytes, bytes], link: bytes | None) -> Header:
    flag = block[156:157]
    mtime_ns, exact = _number(block[136:148]) * 1_000_000_000, False
    uid, gid = _number(block[108:116]), _number(block[116:124])
    if link is None:
        link = block[157:257].partition(b"\0")[0]
    xattrs: dict[str, bytes] = {}
    sparse = flag == b"S"
    for key, value in pax.items():
        if key.startswith(_XATTR):
            xattrs[os.fsdecode(key[len(_XATTR) :])] = value
        elif key == b"mtime":
            mtime_ns, exact = _time(value)
        elif key == b"uid":
            uid = int(value)
        elif key == b"gid":
            gid = int(value)
        elif key == b"linkpath":
            link = value
        elif key.startswith(_SPARSE):
            sparse = True
    device = (_number(block[329:337]), _number(block[337:345])) if flag in (CHAR, BLOCK_DEVICE) else (0, 0)
    mode = _number(block[100:108]) & 0o7777
    target = os.fsdecode(link) if link else ""
    return Header(flag, mode, uid, gid, mtime_ns, exact, target, device, xattrs, sparse)


def _number(field: bytes) -> int:
    """An octal number, or a binary one as GNU tar has for what octal can't hold."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return number - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else number
    digits = field.partition(b"\0")[0].strip(b" ") or field.strip(b" \0")
    return int(digits, 8) if digits else 0


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header: ``<length> <key>=<value>\\n``, the length that of the whole record."""
    found: dict[bytes, bytes] = {}
    offset = 0
    while offset < len(data):
        blank = data.index(b" ", offset, offset + 20)
        end = offset + int(data[offset:blank])
        key, equals, value = data[blank + 1 : end - 1].partition(b"=")
        if not equals or end > len(data) or data[end - 1 : end] != b"\n":
            raise ValueError("a broken PAX record")
        found[key] = value
        offset = end
    return found


def _time(value: bytes) -> tuple[int, bool]:
    """Nanoseconds since the epoch, and whether the record has fractions of a second."""
    whole, dot, fraction = value.partition(b".")
    nanoseconds = int(fraction[:9].ljust(9, b"0")) if fraction else 0
    seconds = int(whole or b"0")
    sign = -1 if value.startswith(b"-") else 1
    return seconds * 1_000_000_000 + sign * nanoseconds, bool(dot)
