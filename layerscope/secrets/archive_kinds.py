"""Tells archives by their first bytes. A name is never trusted, and never needed."""

from __future__ import annotations

import tarfile
from enum import StrEnum
from typing import Final

from layerscope.secrets.pattern import Data

HEAD_BYTES: Final = 512
"""So many first bytes are enough to tell."""
_END_OF_ZIP: Final = b"PK\x05\x06"
_END_OF_ZIP_BYTES: Final = 22


class ArchiveKind(StrEnum):
    """What can be looked into."""

    ZIP = "zip"
    TAR = "tar"
    GZIP = "gz"
    XZ = "xz"
    ZSTD = "zst"
    BZIP2 = "bz2"


_MAGIC: Final = {
    b"PK\x03\x04": ArchiveKind.ZIP,
    _END_OF_ZIP: ArchiveKind.ZIP,
    b"\x1f\x8b\x08": ArchiveKind.GZIP,
    b"\xfd7zXZ\0": ArchiveKind.XZ,
    b"\x28\xb5\x2f\xfd": ArchiveKind.ZSTD,
    **{b"%c\x2a\x4d\x18" % number: ArchiveKind.ZSTD for number in range(0x50, 0x60)},  # skippable frames
    **{b"BZh%d1AY&SY" % level: ArchiveKind.BZIP2 for level in range(1, 10)},
    **{b"BZh%d\x17rE8P\x90" % level: ArchiveKind.BZIP2 for level in range(1, 10)},  # of nothing
}
_FOREIGN: Final = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"!<arch>\ndebian-binary": "deb",
    b"\xed\xab\xee\xdb": "rpm",
    b"070701": "cpio",
    b"\x04\x22\x4d\x18": "lz4",
    b"LZIP\x01": "lzip",
    b"MSCF\0\0\0\0": "cab",
}
_FIRST_BYTES: Final = frozenset(magic[0] for magic in (*_MAGIC, *_FOREIGN))


def kind_of(head: Data) -> ArchiveKind | None:
    """What a file is by its first ``HEAD_BYTES`` bytes; None when it is no archive."""
    if not head:
        return None
    if head[0] in _FIRST_BYTES:
        start = bytes(head[:10])
        for magic, kind in _MAGIC.items():
            if start.startswith(magic):
                return kind
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return ArchiveKind.TAR
    return None


def ends_as_zip(tail: Data) -> bool:
    """Whether a file's last bytes are those of a zip: something runs before it, as in an executable jar."""
    return tail[-_END_OF_ZIP_BYTES:][:4] == _END_OF_ZIP


def foreign_kind(head: Data) -> str | None:
    """The format of an archive that nobody here can read, by its first bytes."""
    if not head or head[0] not in _FIRST_BYTES:
        return None
    start = bytes(head[:24])
    return next((name for magic, name in _FOREIGN.items() if start.startswith(magic)), None)


def _is_old_tar(head: Data) -> bool:
    """A header of before POSIX has no magic, but a checksum in octal digits, after which comes the type."""
    if len(head) < HEAD_BYTES or head[154] not in b"\0 " or not bytes(head[148:154]).strip().isdigit():
        return False
    try:
        return tarfile.TarInfo.frombuf(bytes(head[:HEAD_BYTES]), "utf-8", "surrogateescape").size >= 0
    except (tarfile.TarError, ValueError, OverflowError):
        return False
