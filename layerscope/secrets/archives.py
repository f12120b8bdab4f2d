"""Looks into archives: what lies in a zip, a tar or a compressed file is scanned like a file of its own.

An archive is known by its content, read in place and never extracted. Its own bytes are scanned as well, for what
no member holds; what a member holds, too, is told of the member alone. Whatever was not read is an omission.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from layerscope.secrets.archive_kinds import HEAD_BYTES, ArchiveKind, foreign_kind, kind_of
from layerscope.secrets.bounded import LIMITS, Budget, LimitReachedError, Limits, Stream, reason
from layerscope.secrets.engine import FileScan, Scanner
from layerscope.secrets.guarded import SMALL_BYTES, Batch, scan_each, scan_stream
from layerscope.secrets.inflate import Inflater
from layerscope.secrets.match import Omission, Secret
from layerscope.secrets.members import ForwardFile, Member, SeekableFile, tar_members, zip_members

MOST_ALIKE: Final = 10
"""So many members of one archive that were not read for the same reason are named, the rest counted."""
_PACKED_NAMES: Final = {".tgz": ".tar", ".tbz2": ".tar", ".txz": ".tar", ".tzst": ".tar", ".svgz": ".svg"}


class Inside(NamedTuple):
    """The scan of something in an archive, or of an archive itself."""

    member: str | None
    """Where it lies: ``config.properties``, ``inner.zip!/x`` in an archive's archive; None for the whole file."""
    scan: FileScan
    is_archive: bool = False


class Archives:
    """Looks into many archives, and scans their small members together. One process each."""

    def __init__(self, scanner: Scanner, limits: Limits = LIMITS) -> None:
        self._scanner = scanner
        self._limits = limits
        self._batch = Batch(scanner)

    def look_into(
        self, kind: ArchiveKind, file: SeekableFile, path: str, size_bytes: int, found: list[Inside]
    ) -> None:
        """Add to ``found`` what lies in the archive at ``path``, some of it only after ``finish``.

        Raises OSError when the disk fails.
        """
        visit = _Visit(self._scanner, self._batch, path, Budget(self._limits, size_bytes), found)
        try:
            visit.archive("", kind, file, 1)
        finally:
            visit.close()

    def finish(self) -> None:
        """Scan what waits."""
        self._batch.finish()


class _Visit:
    """One file of a layer, looked into."""

    def __init__(self, scanner: Scanner, batch: Batch, path: str, budget: Budget, found: list[Inside]) -> None:
        self._scanner = scanner
        self._batch = batch
        self._path = path
        self._budget = budget
        self._found = found
        self._omitted: Counter[tuple[str, str]] = Counter()

    def archive(self, where: str, kind: ArchiveKind, file: SeekableFile, depth: int) -> None:
        """Look into an archive at ``where``, a member's path or ``""``. Raises OSError when the disk fails."""
        try:
            if kind is ArchiveKind.ZIP:
                self._members(where, zip_members(file, self._budget), depth)
            elif kind is ArchiveKind.TAR:
                self._members(where, tar_members(file, self._budget), depth)
            else:
                self._packed(where, kind, file, depth)
        except Exception as error:  # a hostile archive can make a parser raise anything
            self.omit(where, reason(error))

    def _members(self, where: str, members: Iterator[Member], depth: int) -> None:
        for member in members:
            place = f"{where}!/{member.name}" if where else member.name
            if member.content is None:
                self.omit(place, member.problem or "", where)
            else:
                self._member(place, member.content, where, depth)
            if self._budget.exhausted:
                raise LimitReachedError(self._budget.exhausted)

    def _packed(self, where: str, kind: ArchiveKind, file: SeekableFile, depth: int) -> None:
        """A compressed file: a tar, or one member that has the file's name without its ending."""
        self._budget.enter()
        stream = Stream(Inflater(kind, file.read, self._budget).read, self._budget)
        if kind_of(stream.peek(HEAD_BYTES)) is ArchiveKind.TAR:
            try:
                self._members(where, tar_members(ForwardFile(stream), self._budget), depth)
            finally:
                if stream.problem is not None:  # the reason for whatever tarfile says
                    raise LimitReachedError(stream.problem)
            return
        name = _unpacked_name((where or self._path).rpartition("/")[2])
        self._member(f"{where}!/{name}" if where else name, stream, where, depth)
        if self._budget.exhausted:
            raise LimitReachedError(self._budget.exhausted)

    def _member(self, place: str, stream: Stream, where: str, depth: int) -> None:
        content = stream.peek(SMALL_BYTES)
        kind = kind_of(content)
        if kind is None and (format_name := foreign_kind(content)):
            self.omit(place, f"an archive ({format_name}) that can't be looked into", where)
        if kind is not None and depth >= self._budget.limits.depth:
            self.omit(place, f"archives in archives, more than {depth} deep: not looked into", where)
            kind = None
        if kind is not None:
            self._nested(place, kind, stream, depth + 1)
        elif len(content) < SMALL_BYTES:
            self._batch.add(_within(self._path, place), content, partial(self._add, place))
        else:
            self._add(place, scan_stream(self._scanner, stream, _within(self._path, place)))
        if stream.problem is not None and stream.problem != self._budget.exhausted:
            self.omit(place, stream.problem, where)

    def _nested(self, place: str, kind: ArchiveKind, stream: Stream, depth: int) -> None:
        """An archive in an archive: held in memory where it fits, else read as it comes, which a zip can't be."""
        left = max(0, self._budget.limits.held_bytes - self._budget.held)
        content = stream.peek(left + 1)
        size = len(content)
        self._budget.held += size
        if size <= left:
            (scan,) = scan_each(self._scanner, [(_within(self._path, place), content)])
            self._add(place, scan, is_archive=True)
            self.archive(place, kind, io.BytesIO(content), depth)
        elif kind is ArchiveKind.ZIP:
            scan = scan_stream(self._scanner, stream, _within(self._path, place))
            self._add(place, scan, is_archive=True)
            self.omit(place, f"a zip of more than {left} bytes in an archive: not looked into")
        else:
            del content
            self.archive(place, kind, ForwardFile(stream), depth)
        self._budget.held -= size

    def _add(self, place: str, scan: FileScan, *, is_archive: bool = False) -> None:
        if scan.matches or scan.omissions:
            self._found.append(Inside(place, scan, is_archive))

    def omit(self, place: str, why: str, archive: str | None = None) -> None:
        """Note what is not read; of members that lie in the same ``archive`` not each one."""
        if archive is not None:
            self._omitted[archive, why] += 1
            if self._omitted[archive, why] > MOST_ALIKE:
                return
        self._found.append(Inside(place, FileScan((), (Omission(_within(self._path, place), why),))))

    def close(self) -> None:
        for (archive, why), count in self._omitted.items():
            if count > MOST_ALIKE:
                self.omit(archive, f"{count - MOST_ALIKE} more of its members: {why}")


def told_once(found: Iterable[Inside]) -> Iterator[Inside]:
    """Of an archive's own bytes only what none of its members holds."""
    scans = list(found)
    secrets: dict[str | None, set[Secret]] = defaultdict(set)
    for inside in scans:
        for archive in _archives_of(inside.member) if inside.scan.matches else ():
            secrets[archive].update(match.secret for match in inside.scan.matches)
    for inside in scans:
        known = secrets.get(inside.member) if inside.is_archive else None
        if known:
            rest = tuple(match for match in inside.scan.matches if match.secret not in known)
            yield inside._replace(scan=replace(inside.scan, matches=rest))
        else:
            yield inside


def _archives_of(member: str | None) -> Iterator[str | None]:
    """The archives in which a member lies, the file itself (None) last."""
    while member is not None:
        member = member.rpartition("!/")[0] or None
        yield member


def _within(path: str, member: str) -> str:
    return f"{path}!/{member}" if member else path


def _unpacked_name(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    if not stem:
        return name
    return stem + _PACKED_NAMES.get(dot + ending.lower(), "")
