"""Writes versions of files to a directory that the user named, and nowhere else.

What is extracted is hostile: nothing is written through a symlink, nothing that exists is replaced, devices are
left out unless asked for, and set-user-id bits are dropped unless owners are kept as well.
"""

from __future__ import annotations

import errno
import io
import os
import stat as st
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Final

from layerscope.errors import OutputError
from layerscope.model import Caution, Tick, Warn, ignore, no_tick
from layerscope.overlay.content import open_content, read_chunks, read_target
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import PathVersions, Version
from layerscope.overlay.walk import Walker, descend

COPY_CHUNK: Final = 1 << 20
DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
SET_ID_BITS: Final = st.S_ISUID | st.S_ISGID


@dataclass(slots=True)
class Extracted:
    """What was written."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    other: int = 0
    size_bytes: int = 0
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    layer: int | None = None
    """Write this layer's versions, hidden or not; None: the visible ones."""
    devices: bool = False
    owners: bool = False


def extract(
    walker: Walker,
    versions: PathVersions,
    destination: str,
    options: ExtractOptions,
    warn: Warn = ignore,
    tick: Tick = no_tick,
) -> Extracted:
    """Write a path, and all below it, into the directory ``destination``, under its own name.

    Raises OutputError when it can't be written or something of that name is there already.
    """
    root = _open_destination(destination)
    try:
        job = _Job(walker, root, options, warn, tick)
        job.write_all(versions)
    except OSError as error:
        raise OutputError(
            f"can't write {error.filename or versions.path!r} below {destination}: {error.strerror}",
            "name an empty directory on a disk with enough room",
        ) from error
    finally:
        os.close(root)
    return job.done


def _open_destination(destination: str) -> int:
    try:
        os.makedirs(destination, exist_ok=True)
        return os.open(destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OutputError(
            f"can't write below {destination}: {error.strerror}", "name a directory that you may write to"
        ) from error


class _Job:
    """One extraction. All writing is relative to the descriptor of the destination directory."""

    def __init__(self, walker: Walker, root: int, options: ExtractOptions, warn: Warn, tick: Tick) -> None:
        self.walker = walker
        self.root = root
        self.options = options
        self.warn = warn
        self.tick = tick
        self.done = Extracted()
        self.directories: list[tuple[list[str], os.stat_result]] = []

    def choose(self, versions: PathVersions) -> Version | None:
        """The version to write, or None when this path has none."""
        if self.options.layer is None:
            return versions.visible
        for version in versions.versions:
            if version.layer == self.options.layer and not version.introduced:
                return version if version.entry.kind is not Kind.WHITEOUT else None
        return None

    def write_all(self, top: PathVersions) -> None:
        """Write a path and all below it; directories get their mode and times last."""
        above = len(top.path.split("/")) - 1
        pending = [top]
        while pending:
            versions = pending.pop()
            version = self.choose(versions)
            self.tick(1)
            if version is None:
                continue
            parts = versions.path.split("/")[above:]
            with self._parent(parts) as parent:
                self._write(versions, version, parts, parent)
            if version.entry.is_directory:
                pending += reversed(self.walker.listing(descend(versions)).paths())
        for parts, stat in reversed(self.directories):
            with self._parent([*parts, ""]) as directory:
                self._finish(directory, stat)

    @contextmanager
    def _parent(self, parts: Sequence[str]) -> Iterator[int]:
        """The directory that a path is written into, opened through no symlink."""
        fd = os.dup(self.root)
        try:
            for part in parts[:-1]:
                below = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _write(self, versions: PathVersions, version: Version, parts: list[str], parent: int) -> None:
        name, stat = parts[-1], version.entry.stat
        match version.entry.kind:
            case Kind.DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=parent)
                self.directories.append((parts, stat))
                self.done.directories += 1
                return
            case Kind.FILE:
                if not self._write_file(versions, version, name, parent):
                    return
                self.done.files += 1
                self.done.size_bytes += stat.st_size
            case Kind.SYMLINK:
                os.symlink(read_target(version), name, dir_fd=parent)
                self._own(name, stat, parent)
                self.done.symlinks += 1
            case kind:
                if not self.options.devices:
                    self._skip(versions.path, f"a {kind}: written only with --devices")
                    return
                _make_node(name, stat, parent)
                self._own(name, stat, parent)
                self.done.other += 1

    def _write_file(self, versions: PathVersions, version: Version, name: str, parent: int) -> bool:
        fd = os.open(name, WRITE_FLAGS, 0o600, dir_fd=parent)
        try:
            with open_content(versions, version, self.walker.data_trees) as content:
                copy_content(content, fd)
            self._finish(fd, version.entry.stat)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            os.unlink(name, dir_fd=parent)
            self._skip(versions.path, f"can't be read ({error.strerror})")
            return False
        finally:
            os.close(fd)
        return True

    def _own(self, name: str, stat: os.stat_result, parent: int) -> None:
        """Give what can't be opened its owner and times."""
        if self.options.owners:
            os.chown(name, stat.st_uid, stat.st_gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=_times(stat), dir_fd=parent, follow_symlinks=False)

    def _finish(self, fd: int, stat: os.stat_result) -> None:
        """Give what was written its owner, mode and times, in this order: a change of owner drops mode bits."""
        mode = st.S_IMODE(stat.st_mode)
        if self.options.owners:
            os.fchown(fd, stat.st_uid, stat.st_gid)
        else:
            mode &= ~SET_ID_BITS
        os.fchmod(fd, mode)
        os.utime(fd, ns=_times(stat))

    def _skip(self, path: str, why: str) -> None:
        self.done.skipped.append(path)
        self.warn(Caution("not-extracted", path, why))


def _make_node(name: str, stat: os.stat_result, parent: int) -> None:
    """Make a device node, FIFO or socket with all its permissions: chmod(2) would follow a symlink."""
    umask = os.umask(0)
    try:
        os.mknod(name, stat.st_mode & ~SET_ID_BITS, stat.st_rdev, dir_fd=parent)
    finally:
        os.umask(umask)


def _times(stat: os.stat_result) -> tuple[int, int]:
    return (stat.st_atime_ns, stat.st_mtime_ns)


def copy_content(content: IO[bytes], target: int) -> None:
    """Copy a version's content: its holes as holes where it lies in a file of its own."""
    try:
        source = content.fileno()
    except io.UnsupportedOperation:
        for chunk in read_chunks(content):
            _write(target, chunk)
    else:
        copy_sparse(source, target)


def _write(target: int, chunk: bytes) -> None:
    while chunk:
        chunk = chunk[os.write(target, chunk) :]


def copy_sparse(source: int, target: int) -> None:
    """Copy a file's content, its holes as holes: a forged file may be far larger than any disk."""
    size = os.fstat(source).st_size
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # the rest is a hole
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(source, start, os.SEEK_SET)
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            chunk = os.read(source, min(COPY_CHUNK, end - start))
            if not chunk:
                break
            start += len(chunk)
            _write(target, chunk)
        position = max(end, position + 1)
    os.ftruncate(target, size)
