"""Reads ``tar-split.json.gz``: what the engine kept of a layer's tar to write the same tar again, bit for bit.

Source: ``vbatts/tar-split:tar/storage/{entry,packer}.go``, ``tar/asm/disassemble.go``. The file is a list of pieces
in the order of the tar: raw bytes (headers, padding, end blocks), and files, whose content lies in the layer's
directory. Everything is read as a stream; no piece may be larger than ``LARGEST_PIECE``.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from binascii import a2b_base64
from collections.abc import Iterator
from typing import Any, Final, NamedTuple, NoReturn

from layerscope.errors import CorruptStoreError
from layerscope.stores.records import DataRoot
from layerscope.tars.header import BLOCK, Header, HeaderReader

NAME: Final = "tar-split.json.gz"
LARGEST_FILE: Final = 4 << 30
LARGEST_PIECE: Final = 64 << 20
"""One line of the list; the largest that engines write is the filler at the end of a tar, in lines of a MiB."""
LARGEST_HEADER: Final = 8 << 20
"""Bytes before one file of the tar: more than any PAX record that Go's reader takes (1 MiB)."""
LARGEST_SIZE: Final = 1 << 62
_READ: Final = 1 << 18
_SEGMENT: Final = 2
_FILE: Final = 1


class Member(NamedTuple):
    """One entry of the tar. The raw bytes before it hold its header."""

    name: str
    """As the tar has it, by ``os.fsdecode``: not cleaned, not to be trusted."""
    header: Header | None
    """None for what is no file: a global PAX header."""
    size: int
    """Bytes of content that follow in the tar; they lie in the layer's directory."""
    crc: bytes
    """CRC-64 (GO-ISO) of the content, big-endian; empty where there is none."""


def read_tar_split(root: DataRoot, place: str) -> Iterator[bytes | Member]:
    """The pieces of the tar whose record is in ``place``, in order: raw bytes, and members.

    After a member with a size come so many bytes of content. Raises CorruptStoreError, also when there is no such
    file, and StoragePermissionError.
    """
    fd = root.open_file(place, NAME, largest=LARGEST_FILE)
    if fd is None:
        raise CorruptStoreError(
            f"there is no {root.join(place, NAME)}",
            "without it neither the engine nor layerscope can tell what the layer's tar was; get the image again",
        )
    with open(fd, "rb") as file:
        yield from _Reader(root.join(place, NAME)).pieces(file)


class _Reader:
    def __init__(self, path: str) -> None:
        self.path = path

    def pieces(self, file: io.BufferedReader) -> Iterator[bytes | Member]:
        header_of = HeaderReader()
        head: list[bytes] = []
        """The raw bytes since the last content; its filler first, then what describes the next member."""
        head_bytes = offset = 0
        filler = 0
        """Bytes up to the next block: what fills the block of the last content, or of a global header's records."""
        for entry in self._entries(file):
            try:
                kind, payload = entry["type"], entry.get("payload") or ""
                if kind == _SEGMENT:
                    raw = a2b_base64(payload, strict_mode=True)
                    head_bytes += len(raw)
                    offset += len(raw)
                    if head_bytes <= LARGEST_HEADER:
                        head.append(raw)
                    yield raw
                elif kind == _FILE:
                    if head_bytes > LARGEST_HEADER:
                        self._corrupt(f"holds more than {LARGEST_HEADER} bytes before one file")
                    header = header_of(b"".join(head)[filler:])
                    size = _size(entry.get("size", 0))
                    if header is None or header.is_header_only:
                        size = 0  # whatever its header says (Go archive/tar, isHeaderOnly)
                    yield Member(_name(entry), header, size, a2b_base64(payload, strict_mode=True))
                    offset += size
                    filler = -offset % BLOCK
                    head, head_bytes = [], 0
                else:
                    self._corrupt(f"holds a piece of the unknown type {str(kind)[:20]!r}")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._corrupt(f"holds a piece that can't be read ({str(error)[:80]})")

    def _entries(self, file: io.BufferedReader) -> Iterator[Any]:
        """The JSON values, many parsed at once: that is what makes it fast."""
        rest = b""
        try:
            with gzip.GzipFile(fileobj=file) as packed:
                while block := packed.read(_READ):
                    lines = (rest + block).split(b"\n")
                    rest = lines.pop()
                    if len(rest) > LARGEST_PIECE:
                        self._corrupt(f"holds a piece of more than {LARGEST_PIECE} bytes")
                    yield from json.loads(b"[" + b",".join(line for line in lines if line) + b"]")
            if rest.strip():
                yield json.loads(rest)
        except (OSError, EOFError, zlib.error) as error:
            self._corrupt(f"is not whole ({str(error)[:80]})")
        except (ValueError, RecursionError) as error:
            self._corrupt(f"is not a list of pieces ({str(error)[:80]})")

    def _corrupt(self, what: str) -> NoReturn:
        raise CorruptStoreError(
            f"{self.path} {what}", "the record is damaged: the engine can't push or save this layer either"
        )


def _size(value: object) -> int:
    if type(value) is not int or not 0 <= value < LARGEST_SIZE:
        raise ValueError("no size")
    return value


def _name(entry: dict[str, Any]) -> str:
    raw = entry.get("name_raw")
    name = os.fsdecode(a2b_base64(raw, strict_mode=True)) if raw else entry["name"]
    if not name.isascii():
        os.fsencode(name)  # half a surrogate pair is no name
    if "\0" in name:
        raise ValueError("a name with a NUL byte")
    return str(name)
