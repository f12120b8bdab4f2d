"""One name in one layer directory, as it lies on disk. No I/O but what the caller hands in."""

from __future__ import annotations

import os
import stat as st
from enum import StrEnum
from typing import Final, NamedTuple


class Kind(StrEnum):
    """What an inode is. ``WHITEOUT`` is overlayfs' mark for a deleted name, in either of its two forms."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    WHITEOUT = "whiteout"
    CHAR = "char"
    BLOCK = "block"
    FIFO = "fifo"
    SOCKET = "socket"


KIND_OF_FORMAT: Final = {
    st.S_IFREG: Kind.FILE,
    st.S_IFDIR: Kind.DIRECTORY,
    st.S_IFLNK: Kind.SYMLINK,
    st.S_IFCHR: Kind.CHAR,
    st.S_IFBLK: Kind.BLOCK,
    st.S_IFIFO: Kind.FIFO,
    st.S_IFSOCK: Kind.SOCKET,
}
FORMAT_MASK: Final = 0o170000


class Marks(NamedTuple):
    """The overlay xattrs of one inode that change what a mount shows.

    Kernel: ``fs/overlayfs/util.c`` (``ovl_get_redirect_xattr``, ``ovl_check_metacopy_xattr``).
    """

    opaque: bool = False
    redirect: str | None = None
    """Target of ``overlay.redirect``: absolute from the overlay root, or a name in the same parent."""
    redirect_invalid: bool = False
    metacopy: bool = False
    metacopy_invalid: bool = False


NO_MARKS: Final = Marks()


class Entry(NamedTuple):
    """A name in a layer directory. Made by the million: a NamedTuple, with the stat result as it came."""

    name: str
    kind: Kind
    stat: os.stat_result
    marks: Marks = NO_MARKS

    @property
    def is_directory(self) -> bool:
        return self.kind is Kind.DIRECTORY


def kind_of(stat: os.stat_result) -> Kind:
    """The kind of an inode by its stat alone; a character device 0:0 is a whiteout."""
    kind = KIND_OF_FORMAT[stat.st_mode & FORMAT_MASK]
    if kind is Kind.CHAR and stat.st_rdev == 0:
        return Kind.WHITEOUT
    return kind


def sort_key(name: str) -> bytes:
    """Orders names bytewise, as the kernel's names are bytes."""
    return os.fsencode(name)
