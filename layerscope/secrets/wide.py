"""UTF-16: finds text in which every second byte is zero, with or without a byte order mark, in any file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from layerscope.secrets.pattern import Data

SHORTEST: Final = 16
"""A run of fewer characters is no text that holds a secret."""
PATTERN: Final = rb"(?:[\x09\x0a\x0d\x20-\x7e]\x00){16}"
"""Matches where a run may be."""
_TEXT: Final = b"\t\n\r" + bytes(range(32, 127))
_KIND: Final = bytes(1 if byte in _TEXT else 0 if byte == 0 else 2 for byte in range(256))
_NEEDLE: Final = bytes((1, 0)) * SHORTEST
_RUN: Final = re.compile(rb"(?:[\t\n\r -~]\x00)+")
_STEP: Final = 128 << 10


@dataclass(frozen=True, slots=True)
class WideRun:
    """A stretch of UTF-16 text: where its first character's text byte lies, and the text."""

    offset: int
    text: bytes


def wide_runs(data: Data) -> Iterator[WideRun]:
    """The runs of at least ``SHORTEST`` printable ASCII characters in UTF-16, of either byte order, in order.

    In big-endian text the last character of a run is followed by no zero; it is added when it is text.
    """
    done = 0
    for start in range(0, len(data), _STEP):  # in steps that fit the processor's cache
        if data.find(b"\0", start, start + _STEP) < 0:
            continue
        kinds = data[start : start + _STEP + len(_NEEDLE) - 1].translate(_KIND)
        position = kinds.find(_NEEDLE, max(0, done - start))
        while position >= 0:
            run = _RUN.match(data, start + position)
            assert run is not None
            first, done = run.span()
            big_endian = _kind(data, first - 1) == 0 and _kind(data, done) == 1
            yield WideRun(first, bytes(data[first : done + 1 if big_endian else done : 2]))
            position = kinds.find(_NEEDLE, done - start)


def _kind(data: Data, position: int) -> int | None:
    return _KIND[data[position]] if 0 <= position < len(data) else None
