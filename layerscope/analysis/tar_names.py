"""The names of a layer's tar, and how they lie on disk: whiteouts become devices, directories may be implied.

Source: moby ``pkg/archive/archive_linux.go`` (later ``moby/go-archive``), ``overlayWhiteoutConverter``.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from layerscope.analysis.compare import stat_different
from layerscope.model import Accumulated, XattrFamily
from layerscope.overlay.accumulated import AccumulatedTree
from layerscope.overlay.entry import Entry, Kind
from layerscope.overlay.markers import read_xattr
from layerscope.overlay.tree import Directory, LayerTree

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"


class TarPath(NamedTuple):
    """Where an entry of the tar lies in the layer's directory."""

    path: str
    """Relative to the layer's root; ``""`` is the root."""
    is_whiteout: bool = False
    is_opaque: bool = False
    """The entry is no file: it makes the directory ``path`` opaque."""


def tar_path(name: str) -> TarPath:
    """The place of a tar entry. Raises ValueError for one that leads out of the layer, which no engine unpacks."""
    # What needs no cleaning is most of all: ask for that first.
    if "/." in name or "//" in name or name.endswith("/") or name.startswith(("/", ".")):
        name = posixpath.normpath(name).lstrip("/") or "."
        if name == ".." or name.startswith("../"):
            raise ValueError(f"the tar names a path outside of the layer: {name!r}")
        name = "" if name == "." else name
    if WHITEOUT not in name:
        return TarPath(name)
    parent, slash, base = name.rpartition("/")
    if base == OPAQUE:
        return TarPath(parent, is_opaque=True)
    if base.startswith(WHITEOUT):
        return TarPath(f"{parent}{slash}{base.removeprefix(WHITEOUT)}", is_whiteout=True)
    return TarPath(name)


class Folder(NamedTuple):
    """A directory of the layer, and the names that the tar has in it."""

    directory: Directory
    names: set[str]


class Unexpected(NamedTuple):
    """What the disk has and the tar has not: a path, or the mark that makes a directory opaque."""

    path: str
    entry: Entry | None
    """None for the mark."""


class TarNames:
    """Collects the names of a tar, and finds what else is on disk."""

    def __init__(
        self, diff_dir: str, family: XattrFamily, more: Accumulated | None = None, lower: str | None = None
    ) -> None:
        """``more`` and ``lower`` are those of a ``LayerDirectory``."""
        self.family = family
        self._lower = LayerTree(lower, family) if lower is not None else None
        self.beside = AccumulatedTree(diff_dir, family, more) if more is not None else None
        self.deleted: set[str] = set()
        """Paths that the tar deletes, and of which the disk keeps no mark."""
        self.root = LayerTree(diff_dir, family).root()
        self.opaque: set[str] = set()
        """The directories that the tar makes opaque."""
        self._folders = {"": Folder(self.root, set())}

    def expect(self, path: str) -> tuple[Directory, str]:
        """Note a path that the tar has; gives the directory that holds it, not opened yet, and its name there."""
        parent, _, name = path.rpartition("/")
        folder = self._folders.get(parent) or self._expect_directory(parent)
        folder.names.add(name)
        return folder.directory, name

    def _expect_directory(self, path: str) -> Folder:
        missing = []
        while path not in self._folders:
            missing.append(path)
            path = path.rpartition("/")[0]
        folder = self._folders[path]
        for path in reversed(missing):
            name = path.rpartition("/")[2]
            folder.names.add(name)
            folder = self._folders[path] = Folder(folder.directory.sub(name), set())
        return folder

    def unexpected(self, unsettle: Callable[[str], None]) -> Iterator[Unexpected]:
        """What is on disk and not in the tar, parents first. ``unsettle`` hears of what can't be read."""
        pending = [self.root]
        while pending:
            directory = pending.pop()
            try:
                yield from self._unexpected_in(directory, pending)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    unsettle(f"{directory.path!r} can't be read: {error.strerror}")

    def _unexpected_in(self, directory: Directory, pending: list[Directory]) -> Iterator[Unexpected]:
        path = directory.path
        folder = self._folders.get(path)
        names = folder.names if folder is not None else ()
        fd = directory.fd()
        if path and path not in self.opaque and self._is_opaque(fd):
            yield Unexpected(path, None)
        with os.scandir(fd) as found:
            for item in found:
                name = item.name
                if item.is_dir(follow_symlinks=False):
                    pending.append(directory.sub(name))
                if name not in names:
                    entry = directory.get(name)
                    if entry is not None:
                        yield Unexpected(f"{path}/{name}" if path else name, entry)

    def unexpected_beside(self, unsettle: Callable[[str], None]) -> Iterator[Unexpected]:
        """The same where the directory holds the layers below, too: what differs from those and is not in the tar.

        A whiteout is what is gone; only of a whole tree can that be told.
        """
        assert self.beside is not None
        pending = [self.beside.root()]
        while pending:
            directory = pending.pop()
            folder = self._folders.get(directory.path)
            names = folder.names if folder is not None else set[str]()
            try:
                content = directory.content()
            except OSError as error:
                unsettle(f"{directory.path!r} can't be read: {error.strerror}")
                continue
            for entry in chain(*content):
                path = f"{directory.path}/{entry.name}".lstrip("/")
                known = entry.name in names
                if entry.is_directory:
                    below = directory.sub(entry.name)
                    pending.append(below)
                    known = known or below.began_before()
                elif entry.kind is Kind.WHITEOUT:
                    known = known or not self.beside.more.is_tree or self._is_emptied(directory.path)
                if not known and not self._is_copy(directory.path, entry):
                    yield Unexpected(path, entry)

    def _is_copy(self, directory: str, entry: Entry) -> bool:
        """Whether overlayfs copied a name up and nothing in it changed that an engine would see."""
        if self._lower is None:
            return False
        try:
            other = self._lower.directory(directory).get(entry.name)
        except OSError:
            return False
        return other is not None and other.kind is entry.kind and not stat_different(other, entry)

    def _is_emptied(self, path: str) -> bool:
        """Whether the tar empties a directory, or one above it."""
        while path not in self.opaque and path not in self.deleted:
            if not path:
                return False
            path = path.rpartition("/")[0]
        return True

    def not_opaque(self) -> Iterator[str]:
        """The directories that the tar makes opaque and that are not so on disk."""
        for path in sorted(self.opaque):
            folder = self._folders.get(path) or self._expect_directory(path)
            try:
                if not self._is_opaque(folder.directory.fd()):
                    yield path
            except OSError:
                continue  # it is reported as missing, or as something else than a directory

    def _is_opaque(self, fd: int) -> bool:
        name = self.family + "opaque"
        return name in os.listxattr(fd) and read_xattr(fd, name) == b"y"
