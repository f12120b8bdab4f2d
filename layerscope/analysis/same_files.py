"""Whether two layers hold the same files, told by their tar-splits alone: names, sizes and CRC-64 of content."""

from __future__ import annotations

from typing import Final

from layerscope.errors import LayerscopeError
from layerscope.model import ChainId
from layerscope.stores.classic import ClassicStore
from layerscope.stores.tarsplit import Member, read_tar_split
from layerscope.tars.header import Header

MOST_COMPARED: Final = 200
"""Pairs of layers; each takes reading two tar-splits."""
_ATTRIBUTES: Final = ("mode", "owner", "mtime", "xattrs")


class FileComparer:
    """Compares layers pair by pair, at most ``MOST_COMPARED`` of them."""

    def __init__(self, disk: ClassicStore) -> None:
        self.disk = disk
        self.compared = 0

    def __call__(self, one: ChainId, other: ChainId) -> tuple[bool | None, tuple[str, ...], str | None]:
        """Whether the files are the same, the attributes in which their headers differ, and a path that differs.

        Names, kinds, sizes, CRC-64 and link targets make a file the same; the order in the tars does not. None
        where it can't be told: a record is missing or broken, or enough pairs were compared.
        """
        self.compared += 1
        if self.compared > MOST_COMPARED:
            return None, (), None
        try:
            return self._compare(one, other)
        except LayerscopeError:
            return None, (), None

    def _compare(self, one: ChainId, other: ChainId) -> tuple[bool, tuple[str, ...], str | None]:
        found: set[str] = set()
        mine = self._members(one)
        for theirs in self._members(other).values():
            member = mine.pop(theirs.name, None)
            if member is None or _content(member) != _content(theirs):
                return False, (), theirs.name
            if member.header is not None and theirs.header is not None:
                found.update(_differing(member.header, theirs.header))
        if mine:
            return False, (), min(mine)
        return True, tuple(name for name in _ATTRIBUTES if name in found), None

    def _members(self, chain_id: ChainId) -> dict[str, Member]:
        pieces = read_tar_split(self.disk.root, self.disk.layerdb.place(chain_id))
        return {piece.name: piece for piece in pieces if isinstance(piece, Member)}


def _content(member: Member) -> tuple[object, ...]:
    header = member.header
    what = (header.type, header.link, header.device) if header is not None else None
    return member.size, member.crc, what


def _differing(one: Header, other: Header) -> set[str]:
    found: set[str] = set()
    if one is other:
        return found
    if one.mode != other.mode:
        found.add("mode")
    if (one.uid, one.gid) != (other.uid, other.gid):
        found.add("owner")
    if one.mtime_ns != other.mtime_ns:
        found.add("mtime")
    if one.xattrs != other.xattrs:
        found.add("xattrs")
    return found
