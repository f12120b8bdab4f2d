"""Writes archives for tests, honest ones and others."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Mapping

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK = {
    "gz": lambda data: gzip.compress(data, 6, mtime=0),
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstd.compress,
}


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def tarred(files: Mapping[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def with_encrypted_flags(content: bytes) -> bytes:
    """A zip whose members all claim to be encrypted, in the list of members and at their places."""
    changed = bytearray(content)
    for magic, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        position = changed.find(magic)
        while position >= 0:
            changed[position + offset] |= 1
            position = changed.find(magic, position + 4)
    return bytes(changed)


def sparse_tar(name: str, stored: bytes, hole: int) -> bytes:
    """A GNU sparse file: a hole, then what is stored."""
    info = tarfile.TarInfo(name)
    info.size = len(stored)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386 : 386 + 24] = b"%011o\0%011o\0" % (hole, len(stored))
    header[483:495] = b"%011o\0" % (hole + len(stored))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + stored + b"\0" * (-len(stored) % 512 + 1024)
