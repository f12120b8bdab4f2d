"""Takes secrets out of instructions before they are shown: a build step often holds the secret that it writes.

What the rules find in an instruction goes, and so does every value that was found elsewhere, although its text is
no longer known: it is recognised by its redacted form, or where that says little by its fingerprint.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from layerscope.secrets.engine import Scanner
from layerscope.secrets.match import Secret, fingerprint

_REDACTED: Final = re.compile(r"([ -~]{0,8})….*? \((\d+) bytes\)")
_START: Final = rb"(?:(?<![A-Za-z0-9])|(?<=\s-[A-Za-z]))"
"""Where a word begins, or a value that stands right behind a short option: ``-phunter22``."""
MOST_FINGERPRINTS: Final = 1000
"""Each takes milliseconds; beyond so many, what may be the secret is taken for it."""


class Known(NamedTuple):
    """A secret that was found somewhere, without its value."""

    rule_id: str
    redacted: str
    fingerprint: str


class Masker:
    """Masks instructions; ``known`` is what was found in the layers and configurations of the audit."""

    def __init__(self, scanner: Scanner, known: Iterable[Known]) -> None:
        self._scanner = scanner
        self._known = [(one, length) for one in dict.fromkeys(known) if (length := _length(one.redacted))]
        self._fingerprints = 0
        self.mask = lru_cache(maxsize=4096)(self._mask)

    def _mask(self, text: str) -> str:
        raw = os.fsencode(text)
        secrets = {match.secret for match in self._scanner.scan_text("Dockerfile", text)}
        secrets |= {Secret(value) for known, length in self._known for value in self._values(raw, known, length)}
        for secret in sorted(secrets, key=lambda one: len(one.reveal()), reverse=True):
            raw = raw.replace(secret.reveal(), secret.redacted.encode())
        return os.fsdecode(raw)

    def _values(self, raw: bytes, known: Known, length: int) -> Iterator[bytes]:
        """The places in a text where the known secret stands."""
        found = _REDACTED.match(known.redacted)
        head = found[1].encode() if found else b""
        if head:
            starts = [match.start() for match in re.finditer(b"(?=" + re.escape(head) + b")", raw)]
        else:
            starts = [match.start() for match in re.finditer(_START + rb"(?=\S{%d}(?![A-Za-z0-9]))" % length, raw)]
        for start in starts:
            value = raw[start : start + length]
            if (
                len(value) == length
                and Secret(value).redacted == known.redacted
                and (head or self._is(value, known))
            ):
                yield value

    def _is(self, value: bytes, known: Known) -> bool:
        self._fingerprints += 1
        if self._fingerprints > MOST_FINGERPRINTS:
            return True
        return fingerprint(known.rule_id, Secret(value)) == known.fingerprint


def _length(redacted: str) -> int | None:
    found = re.search(r"\((\d+) bytes\)$", redacted)
    return int(found[1]) if found else None
