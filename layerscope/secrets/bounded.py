"""Reads what hostile archives hold: within limits, and without an end to the scan whatever breaks.

A limit or a damage ends one stream; what was read up to there is kept, and the stream says why it ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

CHUNK_BYTES: Final = 256 << 10
ReadSome = Callable[[int], bytes]
"""Reads up to so many bytes (at least one is asked for); nothing at the end."""


class LimitReachedError(Exception):
    """More than an archive may hold. Its text is a reason to show."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far one file of a layer is looked into, with all that lies in it at any depth."""

    depth: int = 5
    """Archives within archives; a compressed tar is one."""
    entries: int = 100_000
    size_bytes: int = 4 << 30
    """Of all that was unpacked."""
    held_bytes: int = 32 << 20
    """Archives that lie in archives are held in memory up to so many bytes together."""
    ratio: int = 250
    """More than so many times its own size is unpacked of no file, the first ``ratio_from`` bytes aside."""
    ratio_from: int = 64 << 20


LIMITS: Final = Limits()


class Budget:
    """What is left of the limits of one file of a layer, which has ``size_bytes`` on disk."""

    def __init__(self, limits: Limits, size_bytes: int) -> None:
        self.limits = limits
        self.held = 0
        self.exhausted: str | None = None
        """The limit that was reached, as a reason."""
        self._entries = 0
        self._unpacked = 0
        self._by_ratio = max(limits.ratio_from, limits.ratio * size_bytes)

    def enter(self) -> None:
        """Count an entry. Raises LimitReachedError."""
        self._entries += 1
        if self._entries > self.limits.entries:
            raise self._reached(f"more than {self.limits.entries} entries")

    def spend(self, count: int) -> None:
        """Count bytes that were unpacked. Raises LimitReachedError."""
        self._unpacked += count
        if self._unpacked > self.limits.size_bytes:
            raise self._reached(f"more than {self.limits.size_bytes} bytes are packed in it")
        if self._unpacked > self._by_ratio:
            raise self._reached(f"more than {self.limits.ratio} times its size is packed in it")

    def _reached(self, reason: str) -> LimitReachedError:
        self.exhausted = f"{reason}: the rest is not looked into"
        return LimitReachedError(self.exhausted)


class Stream:
    """Bytes that are read once, from front to back. Only a failing disk raises: OSError."""

    def __init__(self, read: ReadSome, budget: Budget | None = None) -> None:
        self.problem: str | None = None
        """Why it ended before its end."""
        self._read_some = read
        self._budget = budget
        self._ahead: bytes | memoryview = b""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, 1 or more; nothing at the end."""
        if self._ahead:
            data = bytes(self._ahead[:size])
            self._ahead = memoryview(self._ahead)[size:]
            return data
        if self.problem is not None:
            return b""
        try:
            data = self._read_some(min(size, CHUNK_BYTES))
            if self._budget is not None:
                self._budget.spend(len(data))
        except Exception as error:  # a hostile file can make a parser raise anything
            self.problem = reason(error)
            return b""
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def peek(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end; they are still to be read."""
        pieces = []
        missing = size
        while missing > 0 and (data := self.read(missing)):
            pieces.append(data)
            missing -= len(data)
        ahead = b"".join(pieces)
        self.put_back(ahead)
        return ahead

    def put_back(self, data: bytes) -> None:
        """Let what was read be read again."""
        self._ahead = data + bytes(self._ahead) if self._ahead else data


def reason(error: Exception) -> str:
    """Why something could not be read. Errors of the disk are raised again.

    An error's own text may quote what lies in the file: only its kind is told.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    if isinstance(error, LimitReachedError):
        return str(error)
    if isinstance(error, EOFError):
        return "ends too early"
    return f"damaged ({type(error).__name__})"
