"""Shows a directory that holds the layers below, too, as what its own layer changed.

The graph driver ``overlay`` keeps no changes: a layer is a tree of hard links to the one below it, or an upper
directory that began as a copy of another (moby ``daemon/graphdriver/{overlay,copy}`` of 20.10). Here each is
compared with what it began as: what is the same is left out, what is missing is a whiteout. A directory is there
when its own attributes changed, or anything below it.
"""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Iterable
from typing import Final

from layerscope.model import Accumulated, Sameness, XattrFamily
from layerscope.overlay.entry import NO_MARKS, Entry, Kind, kind_of
from layerscope.overlay.markers import read_xattr
from layerscope.overlay.tree import Content, Directory, LayerTree, OpenDirectories

_ABSENT: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_CHUNK: Final = 1 << 18
_NOWHERE: Final = os.stat_result(
    (st.S_IFCHR, 0, 0, 1, 0, 0, 0, 0, 0, 0),
    {"st_atime_ns": 0, "st_mtime_ns": 0, "st_ctime_ns": 0, "st_blksize": 0, "st_blocks": 0, "st_rdev": 0},
)
"""Of a whiteout that lies on no disk: without inode, owner, time or size."""


class AccumulatedTree(LayerTree):
    """One layer, in a directory that holds more than it. Reads like one that holds only changes."""

    def __init__(
        self, path: str, family: XattrFamily, more: Accumulated, *, pool: OpenDirectories | None = None
    ) -> None:
        super().__init__(path, family, pool=pool)
        self.more = more
        self.below = LayerTree(more.below, family, pool=self.pool) if more.below is not None else None
        self.differing: dict[str, bool] = {}
        """By path, for directories that both have: whether anything below differs."""

    def root(self) -> ComparedDirectory:
        return ComparedDirectory(self, "", None)


def lost_links(path: str, below: str) -> bool:
    """Whether a tree of hard links to ``below`` was copied without them.

    So it is when no file is the same inode in both, and yet one has the same content and attributes. Looks no
    further than the first link. A directory that can't be read tells nothing.
    """
    tree = AccumulatedTree(path, XattrFamily.TRUSTED, Accumulated(below, Sameness.CONTENT, is_tree=True))
    alike = False
    pending = [tree.root()]
    while pending:
        directory = pending.pop()
        try:
            own, lower = directory._listed()
        except OSError:
            continue
        for name in own.keys() & lower.keys():
            one, other = own[name], lower[name]
            if one.is_directory and other.is_directory:
                pending.append(directory.sub(name))
            elif one.kind is Kind.FILE and other.kind is Kind.FILE:
                if os.path.samestat(one.stat, other.stat):
                    return False
                alike = alike or (one.stat.st_size > 0 and directory._is_same(one, other))
    return alike


class ComparedDirectory(Directory):
    """One directory of such a tree, beside the one that it began as."""

    __slots__ = ("_below", "_is_paired")

    tree: AccumulatedTree
    parent: ComparedDirectory | None

    def __init__(self, tree: AccumulatedTree, path: str, parent: ComparedDirectory | None) -> None:
        super().__init__(tree, path, parent)
        self._below: Directory | None = None
        self._is_paired = False

    def sub(self, name: str) -> ComparedDirectory:
        return ComparedDirectory(self.tree, f"{self.path}/{name}" if self.path else name, self)

    def content(self) -> Content:
        own, lower = self._listed()
        content = Content([], [], [])
        for name in own.keys() | lower.keys():
            entry = self._own_part(name, own.get(name), lower.get(name))
            if entry is None:
                continue
            if entry.marks is not NO_MARKS:
                content.marked.append(entry)
            elif entry.is_directory:
                content.directories.append(entry)
            else:
                content.others.append(entry)
        return content

    def get(self, name: str) -> Entry | None:
        below = self._before()
        return self._own_part(name, self._one(self, name), self._one(below, name) if below is not None else None)

    def began_before(self) -> bool:
        """Whether it is not this layer that made the directory. Raises OSError."""
        return self._before() is not None

    # -- what it began as ------------------------------------------------------------------------------------

    def _before(self) -> Directory | None:
        """The directory that this one began as a copy of; None where the layer made it. Raises OSError."""
        unpaired: list[ComparedDirectory] = []
        directory: ComparedDirectory | None = self
        while directory is not None and not directory._is_paired:
            unpaired.append(directory)
            directory = directory.parent
        for directory in reversed(unpaired):  # no recursion: a tree may be deeper than Python's stack
            directory._pair()
        return self._below

    def _pair(self) -> None:
        if self.parent is None:
            found = self.tree.below.root() if self.tree.below is not None else None
        else:
            above = self.parent._below
            found = above.sub(self.path.rpartition("/")[2]) if above is not None else None
            found = found if found is not None and self._began_as(found) else None
        self._below, self._is_paired = found, True

    def _began_as(self, other: Directory) -> bool:
        """Whether ``other`` is a directory, and this one was not removed and made again since."""
        try:
            fd = other.fd()
        except OSError as error:
            if error.errno in _ABSENT:
                return False
            raise
        return self.tree.more.is_tree or not self._is_opaque(self.fd()) or self._is_opaque(fd)

    def _is_opaque(self, fd: int) -> bool:
        return read_xattr(fd, self.tree.family + "opaque") == b"y"

    def _listed(self) -> tuple[dict[str, Entry], dict[str, Entry]]:
        """What this directory holds, and what it held when it began; links to the same file may be in neither."""
        below = self._before()
        if below is None:
            return self._names(self), {}
        if self.tree.more.same is not Sameness.INODE:
            return self._names(self), self._names(below)
        lower_fd, own_fd = below.fd(), self.fd()
        if os.fstat(own_fd).st_dev != os.fstat(lower_fd).st_dev:
            return self._names(self), self._names(below)
        with os.scandir(own_fd) as own_names, os.scandir(lower_fd) as lower_names:
            own, lower = ({item.name: item for item in names} for names in (own_names, lower_names))
            # Most of a tree are links: the listing has their inodes, which saves looking at each in both trees.
            for name in [*own]:
                if name in lower and own[name].inode() == lower[name].inode():
                    del own[name], lower[name]
            return _entries(own.values()), _entries(lower.values())

    def _names(self, directory: Directory) -> dict[str, Entry]:
        if not self.tree.more.is_tree:
            return {entry.name: entry for entries in Directory.content(directory) for entry in entries}
        with os.scandir(directory.fd()) as names:
            return _entries(names)

    def _one(self, directory: Directory, name: str) -> Entry | None:
        entry = Directory.get(directory, name)
        if entry is None or not self.tree.more.is_tree:
            return entry
        return Entry(name, kind_of(entry.stat), entry.stat)

    # -- comparing -------------------------------------------------------------------------------------------

    def _own_part(self, name: str, own: Entry | None, lower: Entry | None) -> Entry | None:
        """What the layer itself did to a name; None where it did nothing, nor to anything below it."""
        changed = self._changed(name, own, lower)
        if changed is not None or own is None or not own.is_directory or lower is None:
            return changed
        return _less_opaque(own, lower) if self.sub(name)._differs() else None

    def _changed(self, name: str, own: Entry | None, lower: Entry | None) -> Entry | None:
        """The same, of a directory only its own attributes."""
        if own is None:
            gone = lower is not None and lower.kind is not Kind.WHITEOUT
            return Entry(name, Kind.WHITEOUT, _NOWHERE) if gone else None
        if lower is None or own.kind is not lower.kind:
            return own
        return None if self._is_same(own, lower) else _less_opaque(own, lower)

    def _is_same(self, own: Entry, lower: Entry) -> bool:
        if os.path.samestat(own.stat, lower.stat) or own.kind is Kind.WHITEOUT:
            return True
        if own.kind is Kind.FILE and self.tree.more.same is Sameness.INODE:
            return False
        try:
            return own.marks == lower.marks and self._same_attributes(own, lower) and self._same_content(own, lower)
        except OSError:
            return False  # whoever reads it for itself is told why

    def _same_attributes(self, own: Entry, lower: Entry) -> bool:
        one, other, below = own.stat, lower.stat, self._below
        assert below is not None
        return (
            (one.st_mode, one.st_uid, one.st_gid) == (other.st_mode, other.st_uid, other.st_gid)
            and (self.tree.more.same is Sameness.CONTENT or one.st_mtime_ns == other.st_mtime_ns)
            and self.xattrs(own.name) == below.xattrs(own.name)
        )

    def _same_content(self, own: Entry, lower: Entry) -> bool:
        below = self._below
        assert below is not None
        match own.kind:
            case Kind.FILE:
                return own.stat.st_size == lower.stat.st_size and self._same_bytes(own.name, below)
            case Kind.SYMLINK:
                return self.readlink(own.name) == below.readlink(own.name)
            case Kind.CHAR | Kind.BLOCK:
                return own.stat.st_rdev == lower.stat.st_rdev
            case _:
                return True

    def _same_bytes(self, name: str, below: Directory) -> bool:
        with self.open_file(name) as one, below.open_file(name) as other:
            while True:
                chunk = os.read(one.fd, _CHUNK)
                if chunk != os.read(other.fd, _CHUNK):
                    return False
                if not chunk:
                    return True

    def _differs(self) -> bool:
        """Whether anything below this directory differs, however deep; each is looked into once."""
        known = self.tree.differing
        way: list[tuple[ComparedDirectory, list[ComparedDirectory]]] = []
        entering: ComparedDirectory | None = self
        while self.path not in known:
            if entering is not None:
                shared = None if known.get(entering.path) else entering._shared()
                if shared is None:
                    known.update((directory.path, True) for directory in (entering, *(above for above, _ in way)))
                    break
                way.append((entering, shared))
            directory, left = way[-1]
            entering = left.pop() if left else None
            if entering is not None and known.get(entering.path) is False:
                entering = None
            elif entering is None:
                known[directory.path] = False
                way.pop()
        return known[self.path]

    def _shared(self) -> list[ComparedDirectory] | None:
        """The directories in it that it began with; None when anything else in it differs."""
        if self._before() is None:
            return None
        own, lower = self._listed()
        if any(self._changed(name, own.get(name), lower.get(name)) for name in own.keys() | lower.keys()):
            return None
        return [self.sub(entry.name) for entry in own.values() if entry.is_directory]


def _entries(names: Iterable[os.DirEntry[str]]) -> dict[str, Entry]:
    """Names of a directory without any marks. One that vanishes meanwhile is left out."""
    found = {}
    for item in names:
        try:
            stat = item.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        found[item.name] = Entry(item.name, kind_of(stat), stat)
    return found


def _less_opaque(own: Entry, lower: Entry) -> Entry:
    """Without a mark that the directory began with: what it hides is hidden below already."""
    if not (own.marks.opaque and lower.marks.opaque):
        return own
    marks = own.marks._replace(opaque=False)
    return own._replace(marks=NO_MARKS if marks == NO_MARKS else marks)
