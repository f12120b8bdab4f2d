"""Reads one layer directory, safely: by descriptor, never through a symlink, never anything but reading.

Layer content is hostile. Every directory below the layer's root is opened relative to its parent's descriptor
with ``O_NOFOLLOW``; only regular files are opened for reading, without blocking; access times are left alone
where the kernel permits it. Names are ``str`` by ``os.fsdecode``.
"""

from __future__ import annotations

import errno
import os
import resource
import stat as st
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from layerscope.model import XattrFamily
from layerscope.overlay.entry import FORMAT_MASK, KIND_OF_FORMAT, NO_MARKS, Entry, Kind, kind_of
from layerscope.overlay.files import DiskFile
from layerscope.overlay.markers import directory_marks, file_marks, is_xattr_whiteout, shown_name
from layerscope.reading import DIRECTORY, FILE, open_untouched

_FILE, _DIRECTORY, _CHAR = Kind.FILE, Kind.DIRECTORY, Kind.CHAR
_HERE: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class OpenDirectories:
    """The open directory descriptors of a walk: at most ``limit``, the oldest closed first.

    In a depth-first walk the oldest are the shallowest, which are needed last; a ``Directory`` opens itself
    again when it is asked. One that nobody holds any more closes itself, so the pool must not hold it either.
    """

    def __init__(self, limit: int | None = None) -> None:
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # A part of what the process may open: two stacks are compared at once, and workers inherit what is open.
        self.limit = limit or max(16, min(1024, soft // 8))
        self._open: dict[int, weakref.ref[Directory]] = {}
        self._home = _working_directory()

    def __del__(self) -> None:
        os.close(self._home)

    @contextmanager
    def inside(self, fd: int) -> Iterator[None]:
        """Work in a directory for a moment, so that its names reach their xattrs.

        There is no listxattrat(2) before Linux 6.13. A name alone is safe from symlinks among its parents, has no
        limit of length, and costs the kernel half of what the whole path costs.
        """
        os.fchdir(fd)
        try:
            yield
        finally:
            os.fchdir(self._home)

    def add(self, fd: int, directory: Directory) -> None:
        if len(self._open) >= self.limit:
            oldest = next(iter(self._open.values()))()
            if oldest is not None:
                oldest.close()
        self._open[fd] = weakref.ref(directory)

    def discard(self, fd: int) -> None:
        self._open.pop(fd, None)


def _working_directory() -> int:
    try:
        return os.open(".", _HERE)
    except OSError:  # one that this user may not search: no relative path works there anyway
        return os.open("/", _HERE)


class Content(NamedTuple):
    """What one directory holds, each in no order."""

    directories: list[Entry]
    """Without xattrs of the overlay's family."""
    others: list[Entry]
    """Everything else without them; whiteouts by device number, too."""
    marked: list[Entry]
    """Files and directories that carry such xattrs."""


class LayerTree:
    """The content of one layer directory."""

    is_cheap = True

    def __init__(self, path: str, family: XattrFamily, *, pool: OpenDirectories | None = None) -> None:
        self.path = self.key = os.path.abspath(path)
        self.family = family
        self.pool = pool or OpenDirectories()

    def order(self, _entry: Entry) -> int:
        """All the same: no order is better than another."""
        return 0

    def root(self) -> Directory:
        return Directory(self, "", None)

    def directory(self, path: str) -> Directory:
        """One directory by its path from the layer's root. Nothing is opened yet."""
        found = self.root()
        for name in path.split("/") if path else ():
            found = found.sub(name)
        return found


class Directory:
    """One directory of a layer. Opens itself when needed and may be closed at any time."""

    __slots__ = ("__weakref__", "_fd", "parent", "path", "tree")

    def __init__(self, tree: LayerTree, path: str, parent: Directory | None) -> None:
        self.tree = tree
        self.path = path
        """Relative to the layer's root; ``""`` is the root."""
        self.parent = parent
        self._fd = -1

    def fd(self) -> int:
        """An open descriptor of this directory. Raises OSError."""
        if self._fd < 0:
            self._fd = self._open()
            self.tree.pool.add(self._fd, self)
        return self._fd

    def open(self) -> None:
        """Make sure that it can be read. Raises OSError."""
        self.fd()

    def stat(self) -> os.stat_result:
        return os.fstat(self.fd())

    def close(self) -> None:
        if self._fd >= 0:
            self.tree.pool.discard(self._fd)
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def _open(self) -> int:
        if self.parent is not None and self.parent._fd >= 0:
            name = self.path[len(self.parent.path) :].lstrip("/")
            return open_untouched(name, DIRECTORY, self.parent._fd)
        fd = open_untouched(self.tree.path, DIRECTORY)
        for name in self.path.split("/") if self.path else ():
            try:
                below = open_untouched(name, DIRECTORY, fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def sub(self, name: str) -> Directory:
        """The directory ``name`` in this one. Nothing is opened yet."""
        return Directory(self.tree, f"{self.path}/{name}" if self.path else name, self)

    def on_disk(self, name: str = "") -> str:
        """The path of an entry on this machine, to show to people."""
        return "/".join(part for part in (self.tree.path.rstrip("/") or "/", self.path, name) if part)

    def content(self) -> Content:
        """All names in this directory. One that vanishes meanwhile is left out.

        Raises OSError where the directory itself can't be read.
        """
        fd = self.fd()
        family = self.tree.family
        listxattr = os.listxattr
        kinds = KIND_OF_FORMAT
        content = Content([], [], [])
        directories, others, marked = content
        new = tuple.__new__  # what Entry(…) comes to, without a call in between: the hot loop of every walk
        with self.tree.pool.inside(fd), os.scandir(fd) as names:
            for item in names:
                name = item.name
                try:
                    stat = item.stat(follow_symlinks=False)
                    kind = kinds[stat.st_mode & FORMAT_MASK]
                    if kind is _FILE or kind is _DIRECTORY:
                        xattrs = listxattr(name, follow_symlinks=False)
                        if xattrs and any(x.startswith(family) for x in xattrs):
                            marked.append(_marked(name, kind, stat, xattrs, family))
                            continue
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno != errno.ENOTSUP:
                        raise
                if kind is _DIRECTORY:
                    directories.append(new(Entry, (name, kind, stat, NO_MARKS)))
                else:
                    if kind is _CHAR and stat.st_rdev == 0:
                        kind = Kind.WHITEOUT
                    others.append(new(Entry, (name, kind, stat, NO_MARKS)))
        return content

    def get(self, name: str) -> Entry | None:
        """One name, or None. Raises OSError where the directory can't be read."""
        fd = self.fd()
        try:
            stat = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR):
                return None
            raise
        kind = kind_of(stat)
        if kind is not Kind.FILE and kind is not Kind.DIRECTORY:
            return Entry(name, kind, stat, NO_MARKS)
        with self.tree.pool.inside(fd):
            try:
                xattrs = os.listxattr(name, follow_symlinks=False)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ENOTSUP:
                    raise
                xattrs = []
            return _marked(name, kind, stat, xattrs, self.tree.family)

    def xattrs(self, name: str) -> dict[str, bytes]:
        """All xattrs of an entry as a mount shows them: overlayfs' own left out, escaped ones unescaped."""
        found: dict[str, bytes] = {}
        with self.tree.pool.inside(self.fd()):
            try:
                for attribute in os.listxattr(name, follow_symlinks=False):
                    shown = shown_name(attribute, self.tree.family)
                    if shown is not None:
                        found[shown] = os.getxattr(name, attribute, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.EACCES, errno.EPERM):
                    raise
        return found

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Errors name the entry's whole path: the kernel was only told the name."""
        try:
            yield
        except OSError as error:
            error.filename = self.on_disk(name)
            raise

    def readlink(self, name: str) -> str:
        with self._naming(name):
            return os.readlink(name, dir_fd=self.fd())

    @contextmanager
    def open_file(self, name: str) -> Iterator[DiskFile]:
        """A regular file. Raises OSError, also when it is something else by now."""
        with self._naming(name):
            fd = open_untouched(name, FILE, self.fd())
        try:
            if not st.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self.on_disk(name))
            yield DiskFile(fd)
        finally:
            os.close(fd)

    def digest(self, name: str) -> bytes | None:
        """None: it is quickest to read the content."""


def _marked(name: str, kind: Kind, stat: os.stat_result, xattrs: list[str], family: XattrFamily) -> Entry:
    """The entry of a file or directory of the working directory that carries xattrs of the overlay's family."""
    if kind is Kind.DIRECTORY:
        return Entry(name, kind, stat, directory_marks(name, xattrs, family))
    if stat.st_size == 0 and is_xattr_whiteout(xattrs, family):
        return Entry(name, Kind.WHITEOUT, stat, NO_MARKS)
    return Entry(name, kind, stat, file_marks(name, xattrs, family))
