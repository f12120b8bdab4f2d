"""Scans whole layers: lists their files, hands them out to processes, and puts the results together.

A layer's result is the same however many processes work on it. Memory follows the largest batch, not the layer; a
file that can't be read is noted with the reason and ends nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple

from layerscope.model import Tick, XattrFamily, no_tick
from layerscope.overlay.tree import Directory, LayerTree
from layerscope.secrets.engine import FileScan, Scanner
from layerscope.secrets.hits import Hit, LayerScan, Skip, hit_of
from layerscope.secrets.layer_files import LayerFile, LayerFiles
from layerscope.secrets.sections import Section, sections
from layerscope.workers import run

SMALL_BYTES: Final = 1 << 20
"""Files up to this size are read whole, and scanned many at a time."""
BATCH_BYTES: Final = 8 << 20
BATCH_FILES: Final = 1000
HEAD_BYTES: Final = 8000
"""A zero byte among so many first ones makes a file binary."""
CHANGED: Final = "changed while it was read"


@dataclass(frozen=True, slots=True)
class LayerSource:
    """A layer directory to scan."""

    directory: str
    family: XattrFamily


class _Task(NamedTuple):
    """A batch of files of one layer."""

    source: int
    files: list[LayerFile]


@dataclass(slots=True)
class _Part:
    """What one batch of files held."""

    source: int
    hits: list[Hit] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    files: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class _Layer:
    """A layer while its parts come in."""

    files: LayerFiles
    parts: list[_Part] = field(default_factory=list)
    handed_out: int = 0
    listed: bool = False

    @property
    def done(self) -> bool:
        return self.listed and len(self.parts) == self.handed_out

    def result(self) -> LayerScan:
        hits = sorted((hit for part in self.parts for hit in part.hits), key=lambda hit: hit.sort_key)
        skips = [*self.files.skips, *(skip for part in self.parts for skip in part.skips)]
        return LayerScan(
            tuple(hits),
            tuple(sorted(skips, key=lambda skip: (skip.path, skip.reason))),
            sum(part.files for part in self.parts),
            sum(part.size_bytes for part in self.parts),
            self.files.redirects,
        )


def scan_layers(
    sources: Sequence[LayerSource],
    scanner: Scanner,
    *,
    jobs: int,
    reveal: bool = False,
    tick: Tick = no_tick,
) -> Iterator[tuple[int, LayerScan]]:
    """Yield the index of each source with its result, as they are done.

    ``tick`` is called with the number of files scanned since it was called last.
    Raises WorkerDiedError.
    """
    layers = [_Layer(LayerFiles(LayerTree(source.directory, source.family))) for source in sources]
    feed = _tasks(layers)
    tasks: deque[_Task] = deque()

    def refill() -> None:
        while len(tasks) < 2 * jobs and (task := next(feed, None)) is not None:
            tasks.append(task)

    def make() -> Callable[[_Task], _Part]:
        return _Worker(sources, scanner, reveal).scan

    refill()
    alone = jobs == 1 or len(tasks) < 2
    for part in _alone(make(), tasks) if alone else run(make, tasks, jobs):
        refill()
        layer = layers[part.source]
        layer.parts.append(part)
        tick(part.files)
        if layer.done:
            yield part.source, layer.result()
            layer.parts.clear()


def _alone(work: Callable[[_Task], _Part], tasks: deque[_Task]) -> Iterator[_Part]:
    while tasks:
        yield work(tasks.popleft())


def _tasks(layers: Sequence[_Layer]) -> Iterator[_Task]:
    """Batches of files, layer by layer; each layer has at least one, maybe empty."""
    for index, layer in enumerate(layers):
        batch: list[LayerFile] = []
        size = 0
        for file in layer.files:
            if batch and (size + file.size_bytes > BATCH_BYTES or len(batch) >= BATCH_FILES):
                layer.handed_out += 1
                yield _Task(index, batch)
                batch, size = [], 0
            batch.append(file)
            size += file.size_bytes
        layer.handed_out += 1
        layer.listed = True
        yield _Task(index, batch)


class _Worker:
    """Reads and scans batches of files. One process each."""

    def __init__(self, sources: Sequence[LayerSource], scanner: Scanner, reveal: bool) -> None:
        self._scanner = scanner
        self._reveal = reveal
        self._trees = [LayerTree(source.directory, source.family) for source in sources]

    def scan(self, task: _Task) -> _Part:
        part = _Part(task.source)
        directory = self._trees[task.source].root()
        small: list[tuple[LayerFile, bytes]] = []
        held = 0
        for file in task.files:
            if directory.path != file.directory:
                directory = Directory(self._trees[task.source], file.directory, None)
            try:
                content = self._read(part, directory, file)
            except OSError as error:
                part.skips.append(Skip(file.path, _reason(error)))
                continue
            if content is not None:
                small.append((file, content))
                held += len(content)
            if held > BATCH_BYTES:  # they have grown since they were listed
                self._scan_small(part, small)
                small, held = [], 0
        self._scan_small(part, small)
        return part

    def _read(self, part: _Part, directory: Directory, file: LayerFile) -> bytes | None:
        """The content of a small file; a large one is scanned at once. Raises OSError."""
        content = None
        with directory.open_file(file.name) as fd:
            before = os.fstat(fd)
            if before.st_size <= SMALL_BYTES:
                content = _whole(fd, before.st_size)
            else:
                self._scan_large(part, file, fd, before)
            after = os.fstat(fd)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            part.skips.append(Skip(file.path, CHANGED))
        part.files += 1
        part.size_bytes += before.st_size
        return content

    def _scan_small(self, part: _Part, small: Sequence[tuple[LayerFile, bytes]]) -> None:
        jobs = [(paths, content) for file, content in small for paths in _alike(file, content[:HEAD_BYTES])]
        try:
            scans = self._scanner.scan_small([(paths[0], content) for paths, content in jobs])
        except Exception:
            for paths, content in jobs:  # one of them is to blame
                self._guarded(part, paths, partial(self._scan_content, content))
            return
        for (paths, _), scan in zip(jobs, scans, strict=True):
            self._take(part, paths, scan)

    def _scan_large(self, part: _Part, file: LayerFile, fd: int, stat: os.stat_result) -> None:
        for paths in _alike(file, os.pread(fd, HEAD_BYTES, 0)):
            self._guarded(part, paths, partial(self._scan_sections, fd, stat))

    def _scan_content(self, content: bytes, path: str) -> FileScan:
        return self._scanner.scan_small([(path, content)])[0]

    def _scan_sections(self, fd: int, stat: os.stat_result, path: str) -> FileScan:
        found = FileScan(())
        for start, end in sections(fd, stat):
            scan = self._scanner.scan_file(Section(fd, start, end), path)
            if start:  # behind a hole nobody counts lines
                matches = (replace(one, offset=one.offset + start, line=None, column=None) for one in scan.matches)
                scan = replace(scan, matches=tuple(matches))
            found = FileScan(found.matches + scan.matches, found.omissions + scan.omissions)
        return found

    def _guarded(self, part: _Part, paths: list[str], scan: Callable[[str], FileScan]) -> None:
        """Scan one file that may be made to break a parser: that must not end the audit of a host."""
        try:
            self._take(part, paths, scan(paths[0]))
        except OSError:
            raise
        except Exception as error:
            part.skips.append(Skip(paths[0], f"the scanner failed: {type(error).__name__}", lasting=True))

    def _take(self, part: _Part, paths: list[str], scan: FileScan, member: str | None = None) -> None:
        """Note what a file holds, at each of its paths; ``member`` is the path inside it, for an archive."""
        for path in paths:
            part.hits += (hit_of(match, path, member, reveal=self._reveal) for match in scan.matches)
        part.skips += (Skip(one.path, one.reason, lasting=True) for one in scan.omissions)


def _alike(file: LayerFile, head: bytes) -> list[list[str]]:
    """The file's paths, those together that need one scan.

    What a text means depends on its name in many ways; what a binary file holds, on its extension at most.
    """
    paths = [file.path, *file.others]
    if len(paths) == 1 or b"\0" not in head:
        return [[path] for path in paths]
    alike: dict[str, list[str]] = {}
    for path in paths:
        alike.setdefault(os.path.splitext(path)[1], []).append(path)
    return list(alike.values())


def _whole(fd: int, size: int) -> bytes:
    """The first ``size`` bytes of a file. Raises OSError."""
    content = os.read(fd, size)
    while len(content) < size and (more := os.read(fd, size - len(content))):
        content += more
    return content


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "vanished before it was read"
    return error.strerror or str(error)
