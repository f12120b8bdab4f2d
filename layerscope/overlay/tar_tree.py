"""A layer in a tar as the tree that the walk reads: the same names, kinds and marks as if it were unpacked."""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from layerscope.model import XattrFamily
from layerscope.overlay.entry import NO_MARKS, Entry, Kind, kind_of
from layerscope.overlay.files import TarFile
from layerscope.overlay.markers import directory_marks, file_marks, is_xattr_whiteout, shown_xattrs
from layerscope.overlay.tree import Content
from layerscope.tars.index import ROOT, Names
from layerscope.tars.layer import TarLayer

_NO_XATTRS: Mapping[str, bytes] = {}


class TarTree:
    """The content of one layer's tar."""

    def __init__(self, layer: TarLayer, family: XattrFamily) -> None:
        self.layer = layer
        self.path = layer.place
        self.key = layer.key
        self.family = family
        self.is_cheap = layer.plain.is_cheap

    def order(self, entry: Entry) -> int:
        """Where a file's content begins in the tar."""
        return self.layer.index.offsets[entry.stat.st_ino]

    def root(self) -> TarDirectory:
        return TarDirectory(self, "", None)

    def directory(self, path: str) -> TarDirectory:
        return TarDirectory(self, path, None)


class TarDirectory:
    """One directory of the layer, which may turn out not to be there."""

    __slots__ = ("_number", "parent", "path", "tree")

    def __init__(self, tree: TarTree, path: str, parent: TarDirectory | None, number: int | None = None) -> None:
        self.tree = tree
        self.path = path
        self.parent = parent
        self._number = number

    def open(self) -> None:
        """Make sure that it is there. Raises OSError."""
        self._names()

    def close(self) -> None:
        pass

    def stat(self) -> os.stat_result:
        self._names()
        return self._stat(self._number or ROOT)

    def sub(self, name: str) -> TarDirectory:
        names = self.tree.layer.index.children.get(self._number or ROOT) if self._number is not None else None
        number = names.get(name) if names is not None else None
        return TarDirectory(self.tree, f"{self.path}/{name}" if self.path else name, self, number)

    def on_disk(self, name: str = "") -> str:
        """Where an entry lies, to show to people: ``image.tar!/layer.tar!/etc/passwd``."""
        inside = "/".join(part for part in (self.path, name) if part)
        return f"{self.tree.path}!/{inside}" if inside else self.tree.path

    def content(self) -> Content:
        """All names in this directory. Raises OSError where there is none."""
        content = Content([], [], [])
        directories, others, marked = content
        index = self.tree.layer.index
        for name, number in self._names().items():
            stat = self._stat(number)
            kind = kind_of(stat)
            if kind is Kind.DIRECTORY:
                if number in index.opaque or number in index.xattrs:
                    marked.append(self._entry(name, number))
                else:
                    directories.append(Entry(name, kind, stat, NO_MARKS))
            elif number in index.xattrs:
                marked.append(self._entry(name, number))
            else:
                others.append(Entry(name, kind, stat, NO_MARKS))
        return content

    def get(self, name: str) -> Entry | None:
        """One name, or None. Raises OSError where there is no such directory."""
        number = self._names().get(name)
        return None if number is None else self._entry(name, number)

    def xattrs(self, name: str) -> dict[str, bytes]:
        """All xattrs of an entry as a mount shows them."""
        return shown_xattrs(self.tree.layer.index.xattrs.get(self._at(name), _NO_XATTRS), self.tree.family)

    def readlink(self, name: str) -> str:
        return self.tree.layer.index.targets[self._at(name)]

    @contextmanager
    def open_file(self, name: str) -> Iterator[TarFile]:
        """A regular file. Raises OSError, also for something else."""
        number = self._at(name)
        if not st.S_ISREG(self.tree.layer.index.modes[number]):
            raise OSError(errno.EINVAL, "not a regular file", self.on_disk(name))
        try:
            yield TarFile(self.tree.layer.file(number))
        except OSError as error:
            error.filename = error.filename or self.on_disk(name)
            raise

    def digest(self, name: str) -> bytes | None:
        """The SHA-256 of a regular file's content, where it is known; None where it is quicker to read it."""
        return self.tree.layer.index.digests.get(self._at(name))

    def _names(self) -> Names:
        index = self.tree.layer.index
        if self._number is None:
            self._number = index.find_directory(self.path)
        names = index.children.get(self._number) if self._number is not None else None
        if names is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.on_disk())
        return names

    def _at(self, name: str) -> int:
        number = self._names().get(name)
        if number is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.on_disk(name))
        return number

    def _entry(self, name: str, number: int) -> Entry:
        index, family = self.tree.layer.index, self.tree.family
        stat = self._stat(number)
        kind = kind_of(stat)
        xattrs = index.xattrs.get(number, _NO_XATTRS)
        marks = NO_MARKS
        if kind is Kind.DIRECTORY:
            marks = directory_marks(xattrs, [*xattrs], family)
            if number in index.opaque:
                marks = marks._replace(opaque=True)
        elif kind is Kind.FILE and xattrs:
            if not stat.st_size and is_xattr_whiteout([*xattrs], family):
                return Entry(name, Kind.WHITEOUT, stat, NO_MARKS)
            marks = file_marks(xattrs, [*xattrs], family)
        return Entry(name, kind, stat, marks)

    def _stat(self, number: int) -> os.stat_result:
        layer = self.tree.layer
        index = layer.index
        mtime = index.mtimes[number]
        seconds = mtime // 1_000_000_000
        return os.stat_result(
            (
                *(index.modes[number], number, layer.device, index.links.get(number, 1)),
                *(index.uids[number], index.gids[number], index.sizes[number], seconds, seconds, seconds),
                *(mtime / 1e9, mtime / 1e9, mtime / 1e9, mtime, mtime, mtime, 0, 0, index.devices.get(number, 0)),
            )
        )
