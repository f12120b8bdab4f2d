"""Reads the content of one version of a file, wherever the kernel would take it from, and compares two."""

from __future__ import annotations

import errno
import hashlib
import os
import stat as st
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

from layerscope.overlay.entry import Kind
from layerscope.overlay.layers import Directory
from layerscope.overlay.resolve import PathVersions, Version
from layerscope.overlay.tree import LayerTree

CHUNK: Final = 1 << 18


@contextmanager
def open_content(
    versions: PathVersions, version: Version, data_trees: Sequence[LayerTree] = ()
) -> Iterator[IO[bytes]]:
    """Open the content of a regular file's version for reading. Raises OSError.

    A metacopy file holds only attributes: its content comes from the version below, or from a data-only layer
    (kernel: "Data-only lower layers"). Where there is none the error is the one that reading a mount gives.
    """
    directory, name = _holder(versions, version, data_trees)
    with directory.open_file(name) as file, file.stream() as content:
        yield content


def _holder(versions: PathVersions, version: Version, data_trees: Sequence[LayerTree]) -> tuple[Directory, str]:
    if not version.entry.marks.metacopy:
        return version.directory, version.entry.name
    if version.data is not None:
        return version.data.directory, version.data.entry.name
    error = OSError(errno.EIO, "metacopy file without its data", version.directory.on_disk(version.entry.name))
    if versions.data_redirect is not None:
        for tree in data_trees:
            try:
                return _data_file(tree, versions.data_redirect)
            except OSError as failed:
                error = failed  # as the kernel does, go on to the next data-only layer
    raise error


def _data_file(tree: LayerTree, path: str) -> tuple[Directory, str]:
    """A regular file of a data-only layer, where marks and whiteouts mean nothing. Raises OSError.

    Kernel: ``ovl_lookup_data_layer``. ``path`` may hold ``..``, but stays in the layer and passes no symlink.
    """
    directory: Directory = tree.root()
    *parents, name = path.strip("/").split("/")
    for component in parents:
        if component == "..":
            if directory.parent is None:
                raise _error(errno.EXDEV, path)
            directory = directory.parent
        elif component != ".":
            above = directory.get(component)
            if above is None:
                raise _error(errno.ENOENT, directory.on_disk(component))
            if not above.is_directory:
                is_link = above.kind is Kind.SYMLINK
                raise _error(errno.ELOOP if is_link else errno.ENOTDIR, directory.on_disk(component))
            directory = directory.sub(component)
    entry = directory.get(name) if name not in (".", "..") else None
    if entry is None or not st.S_ISREG(entry.stat.st_mode):
        raise _error(errno.ENOENT, directory.on_disk(name))
    return directory, name


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


def read_chunks(content: IO[bytes]) -> Iterator[bytes]:
    """The content in pieces of at most ``CHUNK`` bytes."""
    while chunk := content.read(CHUNK):
        yield chunk


def same_content(
    versions: PathVersions, upper: Version, lower: Version, data_trees: Sequence[LayerTree] = ()
) -> bool:
    """Whether two versions of a path hold the same: byte for byte for files, the target for symlinks.

    Versions of different kinds never do; directories, FIFOs and sockets always do. Files are read only when
    their sizes are equal. Raises OSError.
    """
    kind = upper.entry.kind
    if kind is not lower.entry.kind:
        return False
    if kind is Kind.FILE:
        if upper.entry.stat.st_size != lower.entry.stat.st_size:
            return False
        if _is_same_file(upper, lower):
            return True
        digests = _digest(upper), _digest(lower)
        if digests == (None, None):
            return _same_bytes(versions, upper, lower, data_trees)
        one, other = (
            digest or _taken_digest(versions, version, data_trees)
            for digest, version in zip(digests, (upper, lower), strict=True)
        )
        return one == other
    if kind is Kind.SYMLINK:
        return read_target(upper) == read_target(lower)
    if kind in (Kind.CHAR, Kind.BLOCK):
        return upper.entry.stat.st_rdev == lower.entry.stat.st_rdev
    return True


def read_target(version: Version) -> str:
    """The target of a symlink's version. Raises OSError."""
    return version.directory.readlink(version.entry.name)


def _digest(version: Version) -> bytes | None:
    version = version.data or version
    return None if version.entry.marks.metacopy else version.directory.digest(version.entry.name)


def _taken_digest(versions: PathVersions, version: Version, data_trees: Sequence[LayerTree]) -> bytes:
    taken = hashlib.sha256()
    with open_content(versions, version, data_trees) as content:
        for chunk in read_chunks(content):
            taken.update(chunk)
    return taken.digest()


def _is_same_file(upper: Version, lower: Version) -> bool:
    if upper.entry.stat.st_size == 0:
        return True
    one, other = upper.data or upper, lower.data or lower
    if one.entry.marks.metacopy or other.entry.marks.metacopy:
        return False  # content in a data-only layer
    return os.path.samestat(one.entry.stat, other.entry.stat)


def _same_bytes(versions: PathVersions, upper: Version, lower: Version, data_trees: Sequence[LayerTree]) -> bool:
    with (
        open_content(versions, upper, data_trees) as one,
        open_content(versions, lower, data_trees) as other,
    ):
        while True:
            chunk = one.read(CHUNK)
            if chunk != other.read(CHUNK):
                return False
            if not chunk:
                return True
