"""Compares what a layer's tar says of a file with the file on disk: kind, owner, mode, time, links, xattrs.

What the engine changes on the way is no difference (moby ``pkg/archive``, later ``moby/go-archive``):
``createTarFile`` shifts owners under ``userns-remap`` and puts times before 1970 to the epoch;
``ReadSecurityXattrToTarHeader`` writes ``security.capability`` in its second revision; whole seconds only are
written to a tar.
"""

from __future__ import annotations

import os
import stat as st
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from layerscope.model import XattrFamily
from layerscope.overlay.entry import Kind
from layerscope.tars import header as tarheader
from layerscope.tars.header import Header

SECOND: Final = 1_000_000_000
LATEST: Final = (1 << 63) - 1
"""The last nanosecond that Go's ``Chtimes`` of the engine sets; beyond it, and before 1970, it sets the epoch."""
CAPABILITY: Final = "security.capability"
_REVISION_3: Final = 3
_REVISION_2_BYTES: Final = 20
_NO_CONTENT: Final = ("security.", "system.", "btrfs.", *XattrFamily)
"""Set by the machine that the layer lies on: labels, signatures, ACLs; and overlayfs' own of the other family."""
_SHOWN_MARKS: Final = ("opaque", "redirect", "whiteout")
"""Of overlayfs' own marks those that change what a mount shows; the others are its notes. What a metacopy mark
shows is compared as content."""
KINDS: Final = {
    **dict.fromkeys(tarheader.REGULAR, Kind.FILE),
    tarheader.HARD_LINK: None,
    tarheader.SYMLINK: Kind.SYMLINK,
    tarheader.CHAR: Kind.CHAR,
    tarheader.BLOCK_DEVICE: Kind.BLOCK,
    tarheader.DIRECTORY: Kind.DIRECTORY,
    tarheader.FIFO: Kind.FIFO,
}
"""What a tar entry becomes, by its type; a hard link may be of any kind. The engine unpacks no other types."""


class Problem(StrEnum):
    """In what a path on disk differs from the layer's tar."""

    CONTENT = "content"
    SIZE = "size"
    KIND = "kind"
    MODE = "mode"
    OWNER = "owner"
    MTIME = "mtime"
    TARGET = "target"
    """Of a symlink."""
    HARD_LINK = "hard-link"
    """Two names are no longer one file."""
    DEVICE = "device"
    XATTR = "xattr"
    MISSING = "missing"
    EXTRA = "extra"


class Difference(NamedTuple):
    """One thing in which a path differs; ``expected`` and ``found`` are texts to show, None for nothing."""

    path: str
    problem: Problem
    expected: str | None
    found: str | None


@dataclass(frozen=True, slots=True)
class Owners:
    """How the owners of a tar appear on disk."""

    shift: tuple[int, int] | None = (0, 0)
    """What is added to each user and group id (``userns-remap``); None where that can't be told."""


def same_attributes(header: Header, stat: os.stat_result, owners: Owners) -> bool:
    """Whether ``differing_attributes`` finds nothing, told fast for what is as most files are."""
    return (
        stat.st_mode & 0o7777 == header.mode
        and owners.shift is not None
        and stat.st_uid == header.uid + owners.shift[0]
        and stat.st_gid == header.gid + owners.shift[1]
        and stat.st_mtime_ns == header.mtime_ns
    )


def differing_attributes(path: str, header: Header, stat: os.stat_result, owners: Owners) -> Iterator[Difference]:
    """Mode, owner and time of a file that is of the right kind. A symlink has no mode of its own."""
    if stat.st_mode & 0o7777 != header.mode and not st.S_ISLNK(stat.st_mode):
        yield Difference(path, Problem.MODE, f"{header.mode:04o}", f"{stat.st_mode & 0o7777:04o}")
    if owners.shift is not None:
        expected = (header.uid + owners.shift[0], header.gid + owners.shift[1])
        if (stat.st_uid, stat.st_gid) != expected:
            yield Difference(path, Problem.OWNER, f"{expected[0]}:{expected[1]}", f"{stat.st_uid}:{stat.st_gid}")
    # To unpack, the engine makes a directory in the layer's root and removes it (chrootarchive, ``.pivot_root``).
    if path and not _same_time(header, stat.st_mtime_ns):
        yield Difference(path, Problem.MTIME, str(header.mtime_ns), str(stat.st_mtime_ns))


def _same_time(header: Header, found: int) -> bool:
    expected = header.mtime_ns
    if not header.mtime_is_exact:
        found -= found % SECOND
    return found == expected or (found == 0 and not 0 <= expected <= LATEST)


def differing_device(path: str, header: Header, stat: os.stat_result) -> Iterator[Difference]:
    found = (os.major(stat.st_rdev), os.minor(stat.st_rdev))
    if found != header.device:
        expected = f"{header.device[0]}:{header.device[1]}"
        yield Difference(path, Problem.DEVICE, expected, f"{found[0]}:{found[1]}")


def differing_xattrs(
    path: str,
    expected: Mapping[str, bytes],
    found: Mapping[str, bytes],
    family: XattrFamily,
    *,
    all_in_tar: bool,
) -> Iterator[Difference]:
    """Attributes that are not as the tar has them, or are not in it.

    Of those that only the disk has, labels and ACLs of this machine count never, overlay marks that change what a
    mount shows always, and others where the layer was unpacked from a tar that held all (``all_in_tar``): when the
    engine made the tar out of the directory, it wrote ``security.capability`` alone.
    """
    for name, value in sorted(expected.items()):
        if not value and name not in found:
            continue  # Go's archive/tar passes over PAX records without a value, so the engine never sets them
        if _comparable(name, found.get(name)) != _comparable(name, value):
            yield Difference(path, Problem.XATTR, _shown(name, value), _shown(name, found.get(name)))
    for name, value in sorted(found.items()):
        if name not in expected and _counts(name, family, all_in_tar):
            yield Difference(path, Problem.XATTR, _shown(name, None), _shown(name, value))


def _comparable(name: str, value: bytes | None) -> bytes | None:
    if name == CAPABILITY and value is not None and value[3:4] == bytes([_REVISION_3]):
        return value[:3] + b"\2" + value[4:_REVISION_2_BYTES]
    return value


def _counts(name: str, family: XattrFamily, all_in_tar: bool) -> bool:
    if name == CAPABILITY:
        return True
    if name.startswith(family):
        return name.removeprefix(family) in _SHOWN_MARKS
    if name.startswith(_NO_CONTENT):
        return False
    return all_in_tar


def _shown(name: str, value: bytes | None) -> str:
    return f"{name} (not set)" if value is None else f"{name}={value[:64]!r}"[: len(name) + 80]
