"""What the detectors find: a secret that does not show itself, and where it lies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

_COST: Final = 1 << 10
_ARMOUR: Final = b"-----BEGIN"


class Confidence(StrEnum):
    """How sure a finding is; ``rank`` orders them, the surest first."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS: Final = {Confidence.HIGH: 0, Confidence.MEDIUM: 1, Confidence.LOW: 2}


class Secret:
    """The bytes of a secret. They leave it through ``reveal`` only: printing it shows ``redacted``."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """The secret itself: for the fingerprint, and for a user who asked to see it."""
        return self._value

    @cached_property
    def redacted(self) -> str:
        """A text that tells secrets apart for their owner and gives none away: ``ghp_…x9 (40 bytes)``."""
        value = self._value
        if value.startswith(_ARMOUR):
            header = value.split(b"-----", 2)[1]
            return f"-----{_printable(header)}-----… ({len(value)} bytes)"
        head = value[:4] if len(value) >= 16 else b""
        tail = value[-2:] if len(value) >= 24 else b""
        return f"{_printable(head)}…{_printable(tail)} ({len(value)} bytes)"

    def __repr__(self) -> str:
        return f"Secret({self.redacted})"

    def __str__(self) -> str:
        return self.redacted

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


def _printable(text: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in text)


@dataclass(frozen=True)
class Match:
    """One secret at one place.

    ``offset`` is in bytes from the start of the file; ``line`` and ``column`` count from 1 and are None in a
    binary file. The column counts bytes (in UTF-16 text: code units).
    """

    rule_id: str
    title: str
    confidence: Confidence
    path: str
    offset: int
    line: int | None
    column: int | None
    secret: Secret

    @property
    def redacted(self) -> str:
        return self.secret.redacted

    @cached_property
    def fingerprint(self) -> str:
        """Stands for the rule and the value, wherever it lies; see ``fingerprint``."""
        return fingerprint(self.rule_id, self.secret)


def fingerprint(rule_id: str, secret: Secret) -> str:
    """32 hex digits that stand for a rule and a value; they take milliseconds to compute.

    Computed with scrypt, because a password is easily guessed from a plain hash of it.
    """
    salt = b"layerscope:" + rule_id.encode()
    return hashlib.scrypt(secret.reveal(), salt=salt, n=_COST, r=8, p=1, dklen=16).hex()


@dataclass(frozen=True, slots=True)
class Omission:
    """What a scan of one file left out, and why. Nothing is left out without one."""

    path: str
    reason: str
