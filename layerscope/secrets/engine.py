"""Scans files and texts for secrets: whole batches of small files at once, large files in overlapping slices.

Memory is bounded by the slice, whatever the size of a file or of a line. Reads nothing but what it is given, writes
nothing but the cache of compiled rules; no result depends on the engine, the slices or the batches.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from layerscope.secrets.code import code_digest
from layerscope.secrets.confirm import MOST_PER_RULE, Confirmer, Found, Part
from layerscope.secrets.credentials import CredentialFiles
from layerscope.secrets.hyperscan_places import place_finder
from layerscope.secrets.lines import Lines
from layerscope.secrets.match import Match, Omission, Secret
from layerscope.secrets.pattern import WIDEST, Data
from layerscope.secrets.places import WIDE, Spans
from layerscope.secrets.rules import RuleSet
from layerscope.secrets.wide import WideRun, wide_runs

SLICE_BYTES: Final = 8 << 20
MARGIN_BYTES: Final = 4 * WIDEST
"""Slices overlap by twice this; a match of UTF-16 text and what stands around it fits in."""


class Reader(Protocol):
    """A file opened for reading, or anything that reads like one."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the buffer as far as bytes are there; 0 at the end."""


@dataclass(frozen=True, slots=True)
class FileScan:
    """What one file holds: its secrets by offset, what was left out, and how many bytes were read."""

    matches: tuple[Match, ...]
    omissions: tuple[Omission, ...] = ()
    size_bytes: int = 0


class Scanner:
    """Finds secrets by a set of rules. One process, one thread; make one per worker."""

    def __init__(
        self,
        rules: RuleSet,
        *,
        engine: str = "auto",
        cache_dir: str | None = None,
        slice_bytes: int = SLICE_BYTES,
    ) -> None:
        """``engine`` is ``auto``, ``hyperscan`` or ``python``; compiled rules are kept in ``cache_dir``."""
        self._finder = place_finder(rules.rules, engine, cache_dir)
        self._confirmer = Confirmer(rules)
        self._files = CredentialFiles(rules)
        self._slice_bytes = slice_bytes
        self.engine = self._finder.name
        self.version = hashlib.sha256(f"{code_digest()} {rules.digest}".encode()).hexdigest()
        """Names all that a result depends on: equal versions find equal secrets in equal files."""

    def scan_small(self, files: Sequence[tuple[str, Data]]) -> list[FileScan]:
        """Scan files that are in memory, given as path and content; results in the same order."""
        contents = [content for _, content in files]
        collected = [_Collected(path, content) for path, content in files]
        wide: list[tuple[_Collected, WideRun]] = []
        for spans, one in zip(self._finder.find(contents), collected, strict=True):
            one.add(self._confirmer.confirm(one.data, spans, one.path) if spans else ())
            one.add(self._files.read(one.path, one.data))
            one.add(self._files.named(one.path))
            wide += ((one, run) for run in _runs(one.data, spans))
        self._scan_wide(wide)
        return [one.result() for one in collected]

    def scan_text(self, name: str, text: str) -> list[Match]:
        """Scan a text of an image's or container's configuration.

        ``name`` becomes the path of what is found and, like a file's name, tells how to read the text: ``.env``,
        ``Dockerfile``, ``config.json``.
        """
        return list(self.scan_small([(name, text.encode("utf-8", "surrogateescape"))])[0].matches)

    def scan_file(self, reader: Reader, path: str) -> FileScan:
        """Scan one file of any size, from where the reader stands to its end. Raises OSError."""
        buffer = bytearray(self._slice_bytes + 2 * MARGIN_BYTES)
        filled = _fill(reader, buffer, 0)
        if filled < len(buffer):
            del buffer[filled:]
            return self.scan_small([(path, buffer)])[0]
        collected = _Collected(path, buffer)
        collected.add(self._files.named(path))
        if self._files.wants(path):
            collected.omit(f"a credential file of more than {len(buffer)} bytes: scanned, but not read as such")
        start, head = 0, bytes(buffer[:4])
        while filled == len(buffer):
            self._scan_part(collected, Part(start, filled - MARGIN_BYTES, head))
            # The next slice begins a margin before the first byte at which a match may still begin.
            collected.advance(filled - 2 * MARGIN_BYTES)
            start = MARGIN_BYTES
            buffer[: 2 * MARGIN_BYTES] = buffer[-2 * MARGIN_BYTES :]
            filled = _fill(reader, buffer, 2 * MARGIN_BYTES)
        del buffer[filled:]
        self._scan_part(collected, Part(start, filled, head))
        return collected.result()

    def _scan_part(self, collected: _Collected, part: Part) -> None:
        part.floors = collected.floors
        spans = self._finder.find([collected.data])[0]
        collected.add(self._confirmer.confirm(collected.data, spans, collected.path, part))
        self._scan_wide([(collected, run) for run in _runs(collected.data, spans)], part)

    def _scan_wide(self, runs: Sequence[tuple[_Collected, WideRun]], part: Part | None = None) -> None:
        """Scan the text of UTF-16 runs, and add what is found at its place in the file."""
        if not runs:
            return
        for spans, (collected, run) in zip(self._finder.find([run.text for _, run in runs]), runs, strict=True):
            spans.pop(WIDE, None)
            found = self._confirmer.confirm(run.text, spans, collected.path) if spans else ()
            collected.add(
                (one for one in found if part is None or part.start <= run.offset + 2 * one.start < part.stop), run
            )


def _runs(data: Data, spans: Spans) -> Iterable[WideRun]:
    return wide_runs(data) if WIDE in spans else ()


def _fill(reader: Reader, buffer: bytearray, filled: int) -> int:
    """Read until the buffer is full or the file ends; gives the number of bytes that are in the buffer."""
    with memoryview(buffer) as view:
        while filled < len(buffer):
            count = reader.readinto(view[filled:])
            if not count:
                break
            filled += count
    return filled


class _Claim(NamedTuple):
    """A match, and the bytes of the file that it claims for its rule."""

    start: int
    end: int
    number: int
    guessed: bool
    """Found by the name of its key alone: any other rule knows better what it is."""
    match: Match


class _Collected:
    """What has been found in one file so far."""

    def __init__(self, path: str, data: Data) -> None:
        self.path = path
        self.data = data
        self.floors: dict[int, int] = {}
        self._base = 0
        self._lines = Lines(data)
        self._counts: Counter[str] = Counter()
        self._found: list[_Claim] = []
        self._omissions: list[Omission] = []

    def omit(self, reason: str) -> None:
        self._omissions.append(Omission(self.path, reason))

    def add(self, found: Iterable[Found], run: WideRun | None = None) -> None:
        """Take what was found in the data, or in the text of a UTF-16 run of it."""
        for one in found:
            self._counts[one.rule.id] += 1
            if self._counts[one.rule.id] > MOST_PER_RULE:
                continue
            start, end = one.start, one.end
            if run:
                start, end = run.offset + 2 * start, run.offset + 2 * end
            line, column = self._lines.place(self.data, start, 2 if run else 1)
            match = Match(
                one.rule.id,
                one.title,
                one.confidence,
                self.path,
                self._base + start,
                line,
                column,
                Secret(one.value),
            )
            guessed = one.rule.judge == "assignment"
            self._found.append(_Claim(self._base + start, self._base + end, len(self._found), guessed, match))

    def advance(self, count: int) -> None:
        """Leave the first ``count`` bytes of the data behind."""
        self._lines.advance(self.data, count)
        self._base += count
        self.floors = {index: floor - count for index, floor in self.floors.items()}

    def result(self) -> FileScan:
        for rule, count in sorted(self._counts.items()):
            if count > MOST_PER_RULE:
                self.omit(f"more than {MOST_PER_RULE} matches of {rule}: the rest is not listed")
        return FileScan(_without_overlaps(self._found), tuple(self._omissions), self._base + len(self.data))


def _without_overlaps(claims: list[_Claim]) -> tuple[Match, ...]:
    """Where several rules claim the same bytes, the surest counts, then the longest, then the first."""
    by_worth = sorted(
        claims, key=lambda one: (one.match.confidence.rank, one.guessed, one.start - one.end, one.start, one.number)
    )
    chosen: list[_Claim] = []
    for claim in by_worth:
        index = bisect_left(chosen, (claim.start, claim.end))
        before, behind = chosen[index - 1 : index], chosen[index : index + 1]
        if (before and before[0].end > claim.start) or (behind and behind[0].start < claim.end):
            continue
        if not behind or behind[0][:2] != claim[:2]:
            chosen.insert(index, claim)
    return tuple(claim.match for claim in chosen)
