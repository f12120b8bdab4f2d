"""Finds the places that rules must look at by one pass of hyperscan over the data, and keeps the compiled rules."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Final

from layerscope.secrets import wide
from layerscope.secrets.code import code_digest
from layerscope.secrets.pattern import Data
from layerscope.secrets.places import WIDE, Collector, KeywordFinder, PlaceFinder, Spans
from layerscope.secrets.rules import Rule

try:
    import hyperscan
except ImportError:  # no wheel for this platform
    hyperscan = None  # type: ignore[assignment]

SEPARATOR: Final = b"\n"
JOIN_BYTES: Final = 8 << 20
"""Small pieces are joined up to about this size."""


class HyperscanFinder:
    """All rules in one pass of hyperscan, in block mode, without start of match."""

    name = "hyperscan"

    def __init__(self, rules: Sequence[Rule], cache_dir: str | None = None) -> None:
        self._rules = rules
        self._database, refused = _database(rules, cache_dir)
        self._wide = _compile({0: wide.PATTERN}, once=True)  # among the rules it would slow them all down
        others = [rule if index in refused else _NOTHING for index, rule in enumerate(rules)]
        self._others = KeywordFinder(others) if refused else None

    def find(self, pieces: Sequence[Data]) -> list[Spans]:
        if len(pieces) == 1:
            found = [self._find(pieces[0])]
        else:
            found = []
            for start, stop in _portions(pieces):
                found += self._find_joined(pieces[start:stop])
        if self._others:
            for spans, more in zip(found, self._others.find(pieces), strict=True):
                spans.update(more)
        return found

    def _find(self, data: Data) -> Spans:
        places = Collector(self._rules)
        if self._database is not None and data:
            self._database.scan(data, match_event_handler=places.add)
        spans = places.merged()
        if self._may_be_wide(data):
            spans[WIDE] = [[0, len(data)]]
        return spans

    def _may_be_wide(self, data: Data) -> bool:
        if data.find(b"\0") < 0:
            return False
        found: list[int] = []
        self._wide.scan(data, match_event_handler=lambda *event: found.append(event[2]))
        return bool(found)

    def _find_joined(self, pieces: Sequence[Data]) -> list[Spans]:
        """One scan for many pieces: a scan has a fixed cost, and most files of an image are small."""
        found = [Spans() for _ in pieces]
        starts, total = [], 0
        for piece in pieces:
            starts.append(total)
            total += len(piece) + len(SEPARATOR)
        for rule, spans in self._find(SEPARATOR.join(pieces)).items():
            for low, high in spans:
                index = max(0, bisect_right(starts, low - 1) - 1)
                while index < len(pieces) and starts[index] <= high:
                    first, last = max(low - starts[index], 0), min(high - starts[index], len(pieces[index]))
                    if first <= len(pieces[index]):
                        found[index].setdefault(rule, []).append([first, last])
                    index += 1
        return found


_NOTHING: Final = Rule("", "")


def _portions(pieces: Sequence[Data]) -> list[tuple[int, int]]:
    """Ranges of pieces that are joined for one scan."""
    portions, start, total = [], 0, 0
    for index, piece in enumerate(pieces):
        if total and total + len(piece) > JOIN_BYTES:
            portions.append((start, index))
            start, total = index, 0
        total += len(piece) + len(SEPARATOR)
    return [*portions, (start, len(pieces))] if start < len(pieces) else portions


def _database(rules: Sequence[Rule], cache_dir: str | None) -> tuple[Any, set[int]]:
    """The compiled rules, and which of them hyperscan refuses (too large, or a construct that it lacks)."""
    sources = {index: rule.pattern.source for index, rule in enumerate(rules) if rule.searched and rule.pattern}
    if not sources:
        return None, set()
    made_of = (sorted(sources.items()), code_digest(), version("hyperscan"), platform.machine(), _processor())
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()
    path = os.path.join(cache_dir, f"hyperscan-{key[:32]}.db") if cache_dir else None
    if path and (loaded := _load(path)):
        return loaded, set()
    expressions = {index: rule.trigger.hyperscan for index, rule in enumerate(rules) if rule.trigger}
    refused: set[int] = set()
    try:
        database = _compile(expressions)
    except hyperscan.error:
        refused = {index for index, expression in expressions.items() if not _compiles(index, expression)}
        accepted = {index: one for index, one in expressions.items() if index not in refused}
        return (_compile(accepted) if accepted else None), refused
    if path:
        _store(path, hyperscan.dumpb(database))
    return database, refused


def _compile(expressions: dict[int, bytes], once: bool = False) -> Any:
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=list(expressions.values()),
        ids=list(expressions),
        elements=len(expressions),
        flags=hyperscan.HS_FLAG_MULTILINE | (hyperscan.HS_FLAG_SINGLEMATCH if once else 0),
    )
    return database


def _compiles(index: int, expression: bytes) -> bool:
    try:
        _compile({index: expression})
    except hyperscan.error:
        return False
    return True


def _processor() -> str:
    """What the machine can do: a compiled database may use it and then runs nowhere else."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith(("flags", "Features")):
                return line
    return ""


def _load(path: str) -> Any:
    """The database kept at ``path``; None when there is none, or it is damaged or not for this library."""
    try:
        with open(path, "rb") as file:
            database = hyperscan.loadb(file.read(), hyperscan.HS_MODE_BLOCK)
            with suppress(OSError):
                os.utime(file.fileno())  # it is in use: the cache removes what is not
        database.scratch = hyperscan.Scratch(database)
    except (OSError, hyperscan.error):
        return None
    return database


def _store(path: str, content: bytes) -> None:
    """Keep a database for the next run; where that cannot be, the next run compiles again."""
    with suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".hyperscan-")
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)


def place_finder(rules: Sequence[Rule], engine: str = "auto", cache_dir: str | None = None) -> PlaceFinder:
    """The finder for ``engine``: ``hyperscan``, ``python``, or ``auto``: the first where it is installed."""
    if engine == "python" or (engine == "auto" and hyperscan is None):
        return KeywordFinder(rules)
    return HyperscanFinder(rules, cache_dir)
