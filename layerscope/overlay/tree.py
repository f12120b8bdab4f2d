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
from typing import Final

from layerscope.model import XattrFamily
from layerscope.overlay.entry import FORMAT_MASK, KIND_OF_FORMAT, NO_MARKS, Entry, Kind, kind_of
from layerscope.overlay.markers import directory_marks, file_marks, is_xattr_whiteout
from layerscope.reading import DIRECTORY, FILE, open_untouched

_FILE, _DIRECTORY, _CHAR = Kind.FILE, Kind.DIRECTORY, Kind.CHAR
LONGEST_PATH: Final = 3500
"""Longer paths are reached by descriptor; the kernel refuses a path of 4096 bytes and more."""


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

    def add(self, fd: int, directory: Directory) -> None:
        if len(self._open) >= self.limit:
            oldest = next(iter(self._open.values()))()
            if oldest is not None:
                oldest.close()
        self._open[fd] = weakref.ref(directory)

    def discard(self, fd: int) -> None:
        self._open.pop(fd, None)


class LayerTree:
    """The content of one layer directory.

    ``live`` says that something may write to it meanwhile; paths are then never used, only descriptors.
    """

    def __init__(
        self, path: str, family: XattrFamily, *, live: bool = False, pool: OpenDirectories | None = None
    ) -> None:
        self.path = path
        self.family = family
        self.live = live
        self.pool = pool or OpenDirectories()

    def root(self) -> Directory:
        return Directory(self, "", None)


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

    def _xattr_base(self) -> str:
        """What to put before a name to reach its xattrs by path: there is no listxattrat(2) before 6.13.

        Image layers do not change, so a path below the layer can't meet a symlink that the descriptors did not.
        """
        base = self.on_disk()
        if self.tree.live or len(base) > LONGEST_PATH:
            return f"/proc/self/fd/{self.fd()}/"
        return base + "/"

    def entries(self) -> list[Entry]:
        """All names in this directory, in no order. A name that vanishes meanwhile is left out.

        Raises OSError where the directory itself can't be read.
        """
        fd = self.fd()
        base = self._xattr_base()
        family = self.tree.family
        listxattr = os.listxattr
        kinds = KIND_OF_FORMAT
        found: list[Entry] = []
        with os.scandir(fd) as names:
            for item in names:
                name = item.name
                try:
                    stat = item.stat(follow_symlinks=False)
                    kind = kinds[stat.st_mode & FORMAT_MASK]
                    if kind is _FILE or kind is _DIRECTORY:
                        xattrs = listxattr(base + name, follow_symlinks=False)
                        if xattrs and any(x.startswith(family) for x in xattrs):
                            found.append(_marked(name, kind, stat, base + name, xattrs, family))
                            continue
                    elif kind is _CHAR and stat.st_rdev == 0:
                        kind = Kind.WHITEOUT
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno != errno.ENOTSUP:
                        raise
                found.append(Entry(name, kind, stat, NO_MARKS))
        return found

    def get(self, name: str) -> Entry | None:
        """One name, or None. Raises OSError where the directory can't be read."""
        try:
            stat = os.stat(name, dir_fd=self.fd(), follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR):
                return None
            raise
        kind = kind_of(stat)
        if kind is Kind.FILE or kind is Kind.DIRECTORY:
            path = self._xattr_base() + name
            try:
                xattrs = os.listxattr(path, follow_symlinks=False)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ENOTSUP:
                    raise
                xattrs = []
            return _marked(name, kind, stat, path, xattrs, self.tree.family)
        return Entry(name, kind, stat, NO_MARKS)

    def xattrs(self, name: str) -> dict[str, bytes]:
        """All xattrs of an entry as a mount shows them: overlayfs' own left out, escaped ones unescaped.

        Kernel ≥ 6.7 stores ``trusted.overlay.X`` of a nested overlay as ``trusted.overlay.overlay.X``.
        """
        path = self._xattr_base() + name
        family = self.tree.family
        escaped = family + "overlay."
        found: dict[str, bytes] = {}
        try:
            for attribute in os.listxattr(path, follow_symlinks=False):
                if attribute.startswith(escaped):
                    shown = family + attribute[len(escaped) :]
                elif attribute.startswith(family):
                    continue
                else:
                    shown = attribute
                found[shown] = os.getxattr(path, attribute, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.EACCES, errno.EPERM):
                raise
        return found

    def readlink(self, name: str) -> str:
        return os.readlink(name, dir_fd=self.fd())

    @contextmanager
    def open_file(self, name: str) -> Iterator[int]:
        """A descriptor of a regular file. Raises OSError, also when it is something else by now."""
        fd = open_untouched(name, FILE, self.fd())
        try:
            if not st.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", self.on_disk(name))
            yield fd
        finally:
            os.close(fd)


def _marked(
    name: str, kind: Kind, stat: os.stat_result, path: str, xattrs: list[str], family: XattrFamily
) -> Entry:
    """The entry of a file or directory that carries xattrs of the overlay's family."""
    if kind is Kind.DIRECTORY:
        return Entry(name, kind, stat, directory_marks(path, xattrs, family))
    if stat.st_size == 0 and is_xattr_whiteout(xattrs, family):
        return Entry(name, Kind.WHITEOUT, stat, NO_MARKS)
    return Entry(name, kind, stat, file_marks(path, xattrs, family))
