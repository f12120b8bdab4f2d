"""Reads the small records of a Docker data root: text and JSON files, directory listings, links.

A data root may be somebody else's disk. Nothing below it is reached through a symlink, only regular files of a
bounded size are read, and whatever is not what it claims to be is a ``CorruptStoreError`` that names the file.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat as st
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from layerscope.errors import CorruptStoreError, DataRootError, LayerscopeError, StoragePermissionError
from layerscope.model import CacheId, ChainId, ContainerId, DiffId, ImageId, LinkId, TargetKind
from layerscope.reading import DIRECTORY, FILE, open_untouched

LARGEST_RECORD: Final = 64 << 20
LARGEST_TEXT: Final = 64 << 10
"""Far more than an id, or the ``lower`` file of the 500 layers that the kernel mounts at most."""
PAGE: Final = 4096

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_CACHE_ID: Final = re.compile(r"[0-9a-f]{64}(?:-init)?|[0-9a-z]{25}")
_LINK_ID: Final = re.compile(r"[A-Z2-7]{26}")


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """An image or container that the store holds and can't show, and why."""

    kind: TargetKind
    id: str
    names: tuple[str, ...]
    error: LayerscopeError


class DataRoot:
    """A Docker data root on disk, running or copied. Paths are relative to it."""

    def __init__(self, path: str, held: int | None = None) -> None:
        """``held`` is a descriptor of the directory, which the caller keeps open: ``path`` then only names it."""
        self.path = os.path.realpath(path) if held is None else path
        self._held = held

    def join(self, *parts: str) -> str:
        return os.path.join(self.path, *parts)

    def content(self, *parts: str, largest: int = LARGEST_RECORD) -> bytes | None:
        """The bytes of a record; None when it does not exist. Raises CorruptStoreError."""
        fd = self.open_file(*parts, largest=largest)
        if fd is None:
            return None
        try:
            return _read(fd, largest)
        except OSError as error:
            self._refused(error, parts)
        finally:
            os.close(fd)

    def open_file(self, *parts: str, largest: int) -> int | None:
        """A descriptor of a regular file, for the caller to close; None when it does not exist.

        Raises CorruptStoreError, also when the file has more than ``largest`` bytes.
        """
        *above, name = (name for part in parts for name in part.split("/"))
        try:
            if self._held is not None and not above:
                return self._open_record(name, self._held, largest, parts)
            with self._opened(*above) as directory:
                return self._open_record(name, directory, largest, parts)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._refused(error, parts)

    def _open_record(self, name: str, directory: int, largest: int, parts: tuple[str, ...]) -> int:
        # Look before opening: opening a device may start it, opening a FIFO wakes who waits to write.
        self._require_record(os.stat(name, dir_fd=directory, follow_symlinks=False), largest, parts)
        fd = open_untouched(name, FILE, directory)
        try:
            self._require_record(os.fstat(fd), largest, parts)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def text(self, *parts: str) -> str | None:
        """The content of a short record, stripped; None when it does not exist. Raises CorruptStoreError."""
        content = self.content(*parts, largest=LARGEST_TEXT)
        if content is None:
            return None
        try:
            return content.decode("ascii").strip()
        except UnicodeDecodeError:
            self._corrupt("is not text", *parts)

    def json(self, *parts: str) -> dict[str, Any] | None:
        """The JSON object in a record; None when it does not exist. Raises CorruptStoreError."""
        content = self.content(*parts)
        return None if content is None else self.parse_json(content, *parts)

    def parse_json(self, content: bytes, *parts: str) -> dict[str, Any]:
        """The JSON object in the ``content`` of a record. Raises CorruptStoreError."""
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            self._corrupt(f"is not JSON ({str(error)[:80]})", *parts)
        if not isinstance(value, dict):
            self._corrupt("holds no JSON object", *parts)
        return value

    def names(self, *parts: str) -> list[str]:
        """The sorted names in a directory; none when it does not exist. Raises CorruptStoreError."""
        try:
            with self._opened(*parts) as directory:
                return sorted(os.listdir(directory))
        except FileNotFoundError:
            return []
        except OSError as error:
            self._refused(error, parts)

    def link(self, *parts: str) -> str | None:
        """The target of a symlink as it is written; None when there is no such link."""
        *above, name = parts
        try:
            with self._opened(*above) as directory, suppress(OSError):
                return os.readlink(name, dir_fd=directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._refused(error, parts)
        return None

    def has_directory(self, *parts: str) -> bool:
        """Whether a directory exists. Raises CorruptStoreError where something else is in its place."""
        try:
            with self._opened(*parts):
                return True
        except FileNotFoundError:
            return False
        except OSError as error:
            self._refused(error, parts)

    def is_directory(self, *parts: str) -> bool:
        """Whether it is a real directory, reached without a symlink."""
        try:
            return self.has_directory(*parts)
        except CorruptStoreError:
            return False

    def size(self, *parts: str) -> int | None:
        """The length of a regular file; None when there is none. Raises CorruptStoreError."""
        *above, name = "/".join(parts).split("/")
        try:
            with self._opened(*above) as directory:
                stat = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._refused(error, parts)
        return stat.st_size if st.S_ISREG(stat.st_mode) else None

    def owner(self, *parts: str) -> int | None:
        """The user id that owns a directory, or None when it does not exist."""
        try:
            return os.lstat(self.join(*parts)).st_uid
        except FileNotFoundError:
            return None
        except OSError as error:
            self._refused(error, parts)

    @contextmanager
    def inside(self, *parts: str) -> Iterator[DataRoot | None]:
        """A directory below as a root of its own, to read many records there; None when it does not exist.

        It stays open, so that not every record costs the way to it anew. Raises CorruptStoreError.
        """
        with ExitStack() as stack:
            try:
                held = stack.enter_context(self._opened(*parts))
            except FileNotFoundError:
                yield None
                return
            except OSError as error:
                self._refused(error, parts)
            yield DataRoot(self.join(*parts), held)

    def held(self, *parts: str) -> DataRoot | None:
        """The same, open as long as the object lives: for who reads records there all along."""
        with self.inside(*parts) as below:
            if below is None or below._held is None:
                return None
            fd = os.dup(below._held)
            kept = DataRoot(below.path, fd)
            weakref.finalize(kept, os.close, fd)
            return kept

    @contextmanager
    def _opened(self, *parts: str) -> Iterator[int]:
        """A directory below the root, opened component by component, through no symlink. Raises OSError."""
        fd = open_untouched(self.path, DIRECTORY) if self._held is None else os.dup(self._held)
        try:
            for name in (name for part in parts for name in part.split("/")):
                below = open_untouched(name, DIRECTORY, fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _require_record(self, stat: os.stat_result, largest: int, parts: tuple[str, ...]) -> None:
        if not st.S_ISREG(stat.st_mode):
            self._corrupt("is not a regular file", *parts)
        if stat.st_size > largest:
            self._corrupt(f"is larger than any such record ({stat.st_size} bytes)", *parts)

    def _refused(self, error: OSError, parts: tuple[str, ...]) -> NoReturn:
        path = self.join(*parts)
        if isinstance(error, PermissionError):
            raise StoragePermissionError(
                f"no permission to read {path}",
                "run it as root (sudo), or point --data-root at a copy that you may read",
            ) from error
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise CorruptStoreError(
                f"{path} is or leads through a symlink or a file where a directory must be",
                "layerscope follows no link inside a data root; mount the real directory there instead",
            ) from error
        raise CorruptStoreError(
            f"{path} can't be read: {error.strerror}", "check the disk; the record can't be used"
        ) from error

    def _corrupt(self, what: str, *parts: str) -> NoReturn:
        raise CorruptStoreError(
            f"{self.join(*parts)} {what}", "the record is damaged; restore it, or remove what it belongs to"
        )


def _read(fd: int, largest: int) -> bytes:
    """The first ``largest`` bytes of a file. Most records are smaller than a page: no buffer, no second look."""
    content = os.read(fd, min(largest, PAGE))
    if len(content) < PAGE:
        return content
    parts = [content]
    left = largest - len(content)
    while left > 0 and (content := os.read(fd, min(left, LARGEST_TEXT))):
        parts.append(content)
        left -= len(content)
    return b"".join(parts)


def open_data_root(path: str) -> DataRoot:
    """The data root at ``path``. Raises DataRootError when that is no directory, or StoragePermissionError."""
    root = DataRoot(path)
    try:
        # The real path of an empty one is the working directory, which nobody named.
        os.close(os.open(path and root.path, os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError as error:
        raise StoragePermissionError(
            f"no permission to read {path}",
            "run it as root (sudo), or point --data-root at a copy that you may read",
        ) from error
    except OSError as error:
        raise DataRootError(
            f"no data root at {path!r}: {error.strerror}",
            "a Docker data root is a directory like /var/lib/docker, with image/ and overlay2/ in it",
        ) from error
    return root


def diff_id(value: object) -> DiffId | None:
    return DiffId(value) if isinstance(value, str) and _DIGEST.fullmatch(value) else None


def chain_id(value: object) -> ChainId | None:
    return ChainId(value) if isinstance(value, str) and _DIGEST.fullmatch(value) else None


def image_id(value: object) -> ImageId | None:
    return ImageId(value) if isinstance(value, str) and _DIGEST.fullmatch(value) else None


def container_id(value: object) -> ContainerId | None:
    return ContainerId(value) if isinstance(value, str) and _HEX64.fullmatch(value) else None


def cache_id(value: object) -> CacheId | None:
    """A name that may stand in ``overlay2/``: 64 hex digits, those with ``-init``, or 25 base-36 characters."""
    return CacheId(value) if isinstance(value, str) and _CACHE_ID.fullmatch(value) else None


def link_id(value: object) -> LinkId | None:
    return LinkId(value) if isinstance(value, str) and _LINK_ID.fullmatch(value) else None
