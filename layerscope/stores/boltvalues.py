"""What containerd writes into bbolt databases: text, numbers, times.

Sources: Go's ``encoding/binary`` (``PutUvarint``, ``PutVarint``); containerd ``core/metadata/boltutil/helpers.go``;
Go's ``time.MarshalBinary``.
"""

from __future__ import annotations

import os
import struct
from typing import Final

LONGEST_NUMBER: Final = 10
"""Bytes of a 64-bit number."""
_YEAR_ONE: Final = 62_135_596_800
"""Seconds from there, where Go counts from, to the epoch."""


def key_of(text: str) -> bytes:
    """The key that ``text_of`` shows as ``text``."""
    return os.fsencode(text)


def text_of(value: bytes | None) -> str:
    """Text, or nothing; bytes that are not UTF-8 as in file names."""
    return os.fsdecode(value or b"")


def uvarint_of(value: bytes | None) -> int | None:
    """An unsigned number, seven bits a byte, the lowest first; None when it is none."""
    if not value or len(value) > LONGEST_NUMBER or value[-1] & 0x80 or any(not byte & 0x80 for byte in value[:-1]):
        return None
    number = sum((byte & 0x7F) << 7 * index for index, byte in enumerate(value))
    return number if number < 1 << 64 else None


def varint_of(value: bytes | None) -> int | None:
    """A signed number, its sign in the lowest bit; None when it is none."""
    number = uvarint_of(value)
    return None if number is None else (number >> 1) ^ -(number & 1)


def time_of(value: bytes | None) -> int | None:
    """Nanoseconds since the epoch, from ``time.MarshalBinary``; None when it is none."""
    if value is None or len(value) not in (15, 16) or value[0] not in (1, 2):
        return None
    seconds, nanoseconds = struct.unpack_from(">qi", value, 1)
    return (int(seconds) - _YEAR_ONE) * 1_000_000_000 + int(nanoseconds)
