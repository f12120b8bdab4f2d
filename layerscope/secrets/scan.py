"""Scans whole layers: lists their files, hands them out to processes, and puts the results together.

A layer's result is the same however many processes work on it. Memory follows the largest batch, not the layer; a
file that can't be read is noted with the reason and ends nothing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from layerscope.model import Accumulated, Tick, XattrFamily, no_tick
from layerscope.overlay.files import Held, OpenFile, TarFile
from layerscope.overlay.layers import Directory, Tree
from layerscope.overlay.trees import open_tree
from layerscope.secrets.archive_kinds import HEAD_BYTES as KIND_BYTES
from layerscope.secrets.archive_kinds import ArchiveKind, ends_as_zip, foreign_kind, kind_of
from layerscope.secrets.archives import Archives, Inside, told_once
from layerscope.secrets.engine import FileScan, Scanner
from layerscope.secrets.git_paths import repository_of
from layerscope.secrets.guarded import BATCH_BYTES, BATCH_FILES, SMALL_BYTES, scan_each, scan_stream
from layerscope.secrets.hits import Hit, LayerScan, Skip, hit_of
from layerscope.secrets.layer_files import LayerFile, LayerFiles
from layerscope.secrets.sections import Section, sections
from layerscope.workers import run

if TYPE_CHECKING:
    from layerscope.tars.layer import TarLayer

HEAD_BYTES: Final = 8000
"""A zero byte among so many first ones makes a file binary."""
MOST_HELD: Final = 64 << 20
"""A file in a packed tar is held in memory up to this size."""
PACKED_BATCH_BYTES: Final = 32 << 20
"""Of files in a packed tar: who reads a part of it has to unpack some of what lies before."""
CHANGED: Final = "changed while it was read"


@dataclass(frozen=True, slots=True)
class LayerSource:
    """A layer to scan."""

    directory: str
    """Its directory; for one in a tar what to call its place."""
    family: XattrFamily
    accumulated: Accumulated | None = None
    tar: TarLayer | None = None

    def tree(self) -> Tree:
        """Its content. Raises OSError for a tar that can't be read at all."""
        return open_tree(self.directory, self.family, self.accumulated, tar=self.tar)


@dataclass(frozen=True, slots=True)
class Reach:
    """What is looked into."""

    archives: bool = True
    git: bool = False


FILES_AND_ARCHIVES: Final = Reach()


class _Task(NamedTuple):
    """A batch of files of one layer; or the files of a git repository, which are read a second time."""

    source: int
    files: list[LayerFile]
    repository: str | None = None


@dataclass(slots=True)
class Part:
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
    parts: list[Part] = field(default_factory=list)
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
    reach: Reach = FILES_AND_ARCHIVES,
    tick: Tick = no_tick,
) -> Iterator[tuple[int, LayerScan]]:
    """Yield the index of each source with its result, as they are done.

    ``tick`` is called with the number of files scanned since it was called last.
    Raises WorkerDiedError.
    """
    layers = [_Layer(LayerFiles(source.tree())) for source in sources]
    feed = _tasks(layers, reach)
    tasks: deque[_Task] = deque()

    def refill() -> None:
        while len(tasks) < 2 * jobs and (task := next(feed, None)) is not None:
            tasks.append(task)

    def make() -> Callable[[_Task], Part]:
        return Worker(sources, scanner, reach, reveal).scan

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


def _alone(work: Callable[[_Task], Part], tasks: deque[_Task]) -> Iterator[Part]:
    while tasks:
        yield work(tasks.popleft())


def _tasks(layers: Sequence[_Layer], reach: Reach) -> Iterator[_Task]:
    """Batches of files, layer by layer; each layer has at least one, maybe empty."""
    for index, layer in enumerate(layers):
        batch: list[LayerFile] = []
        size = 0
        most_bytes = BATCH_BYTES if layer.files.is_cheap else PACKED_BATCH_BYTES
        most_files = BATCH_FILES * most_bytes // BATCH_BYTES
        repositories: dict[str, list[LayerFile]] = {}
        for file in layer.files:
            for name, one in _object_files(file) if reach.git else ():
                repositories.setdefault(name, []).append(one)
            if batch and (size + file.size_bytes > most_bytes or len(batch) >= most_files):
                layer.handed_out += 1
                yield _Task(index, batch)
                batch, size = [], 0
            batch.append(file)
            size += file.size_bytes
        for name, files in repositories.items():
            layer.handed_out += 1
            yield _Task(index, files, name)
        layer.handed_out += 1
        layer.listed = True
        yield _Task(index, batch)


def _object_files(file: LayerFile) -> Iterator[tuple[str, LayerFile]]:
    """Under which of its names a file is one of git's: those repositories, and the file as it is there."""
    for path in (file.path, *file.others):
        if repository := repository_of(path):
            directory, _, name = path.rpartition("/")
            yield repository, LayerFile(directory, name, file.size_bytes)


class Worker:
    """Reads and scans batches of files. One process each."""

    def __init__(self, sources: Sequence[LayerSource], scanner: Scanner, reach: Reach, reveal: bool) -> None:
        self._scanner = scanner
        self._archives = Archives(scanner) if reach.archives else None
        self._reveal = reveal
        self._trees = [source.tree() for source in sources]

    def scan(self, task: _Task) -> Part:
        part = Part(task.source)
        directory = self._trees[task.source].root()
        if task.repository is not None:
            self._scan_repository(part, task.repository, task.files)
            return part
        small: list[tuple[LayerFile, bytes]] = []
        held = 0
        for file in task.files:
            if directory.path != file.directory:
                directory = self._trees[task.source].directory(file.directory)
            try:
                content = self._read(part, directory, file)
            except OSError as error:
                part.skips.append(Skip(file.path, _reason(error)))
                continue
            if content is not None:
                small.append((file, content))
                held += len(content)
            if held > BATCH_BYTES or len(small) >= BATCH_FILES:
                self.scan_small(part, small)
                small, held = [], 0
        self.scan_small(part, small)
        return part

    def _read(self, part: Part, directory: Directory, file: LayerFile) -> bytes | None:
        """The content of a small file; a large one is scanned at once. Raises OSError."""
        content = None
        with directory.open_file(file.name) as found:
            opened: OpenFile = found
            before = opened.state()
            size, _ = before
            if SMALL_BYTES < size <= MOST_HELD and not opened.is_cheap:  # it is to be read more than once
                opened = TarFile(Held(_some(opened, size, 0)))
            if size <= SMALL_BYTES:
                content = _some(opened, size, 0)
            else:
                self.scan_large(part, file, opened, size)
            after = before if opened.fd is None else opened.state()
        if before != after:
            part.skips.append(Skip(file.path, CHANGED))
        part.files += 1
        part.size_bytes += size
        return content

    def scan_small(self, part: Part, small: Sequence[tuple[LayerFile, bytes]]) -> None:
        jobs = [(paths, content) for file, content in small for paths in _alike(file, content[:HEAD_BYTES])]
        scans = iter(scan_each(self._scanner, [(paths[0], content) for paths, content in jobs]))
        inside: list[list[Inside]] = [[] for _ in small]
        for (file, content), found in zip(small, inside, strict=True):
            if kind := self._kind(part, file, content, content):
                self._look_into(part, file, kind, BytesIO(content), found)
        if self._archives is not None:
            self._archives.finish()
        for (file, content), found in zip(small, inside, strict=True):
            own = [(paths, next(scans)) for paths in _alike(file, content[:HEAD_BYTES])]
            self.take_file(part, file, own, found)

    def scan_large(self, part: Part, file: LayerFile, opened: OpenFile, size: int) -> None:
        head = _some(opened, HEAD_BYTES, 0)
        own = [(paths, self._scan_sections(opened, size, paths[0])) for paths in _alike(file, head)]
        inside: list[Inside] = []
        tail = _some(opened, KIND_BYTES, max(0, size - KIND_BYTES))
        if (kind := self._kind(part, file, head, tail)) and self._archives is not None:
            with opened.stream() as content:
                self._look_into(part, file, kind, content, inside)
            self._archives.finish()
        self.take_file(part, file, own, inside)

    def _kind(self, part: Part, file: LayerFile, head: bytes, tail: bytes) -> ArchiveKind | None:
        """What to look into a file as; one that nobody here can look into is noted."""
        if self._archives is None:
            return None
        if kind := kind_of(head):
            return kind
        if foreign := foreign_kind(head):
            part.skips.append(Skip(file.path, f"an archive ({foreign}) that can't be looked into", lasting=True))
        return ArchiveKind.ZIP if ends_as_zip(tail) else None

    def _look_into(
        self, part: Part, file: LayerFile, kind: ArchiveKind, content: IO[bytes], found: list[Inside]
    ) -> None:
        assert self._archives is not None
        try:
            self._archives.look_into(kind, content, file.path, file.size_bytes, found)
        except OSError as error:
            part.skips.append(Skip(file.path, _reason(error)))

    def _scan_sections(self, opened: OpenFile, size: int, path: str) -> FileScan:
        found = FileScan(())
        for start, end in sections(opened, size):
            scan = scan_stream(self._scanner, Section(opened, start, end), path)
            if start:  # behind a hole nobody counts lines
                matches = (replace(one, offset=one.offset + start, line=None, column=None) for one in scan.matches)
                scan = replace(scan, matches=tuple(matches))
            found = FileScan(found.matches + scan.matches, found.omissions + scan.omissions)
        return found

    def _scan_repository(self, part: Part, path: str, files: Sequence[LayerFile]) -> None:
        from layerscope.secrets.git import ObjectFile, Repository  # what it needs takes time to import

        tree = self._trees[part.source]
        objects = [ObjectFile(file.path, file.size_bytes, partial(_opened, tree, file)) for file in files]
        Repository(self._scanner, path).scan(objects)
        for one in objects:
            for member, scan in one.found:
                self._take(part, [one.path], scan, member)
            self._take(part, [one.path], FileScan((), tuple(one.omissions)))
            if one.failure is not None:
                part.skips.append(Skip(one.path, _reason(one.failure)))

    def take_file(
        self, part: Part, file: LayerFile, own: Sequence[tuple[list[str], FileScan]], inside: list[Inside]
    ) -> None:
        """Note what a file holds: its own bytes, scanned for some of its paths at a time, and what lies in it."""
        if not inside:
            for paths, scan in own:
                self._take(part, paths, scan)
            return
        for paths, scan in own:
            self._take(part, paths, next(told_once([Inside(None, scan, True), *inside])).scan)
        for one in told_once(inside):
            self._take(part, [file.path, *file.others], one.scan, one.member)

    def _take(self, part: Part, paths: list[str], scan: FileScan, member: str | None = None) -> None:
        """Note what a file holds, at each of its paths; ``member`` is the path inside it, for an archive."""
        for path in paths:
            part.hits += (hit_of(match, path, member, reveal=self._reveal) for match in scan.matches)
        part.skips += (Skip(one.path, one.reason, lasting=True) for one in scan.omissions)


@contextmanager
def _opened(tree: Tree, file: LayerFile) -> Iterator[IO[bytes]]:
    """A file of a layer, opened for reading in place. Raises OSError."""
    with tree.directory(file.directory).open_file(file.name) as opened, opened.stream() as content:
        yield content


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


def _some(opened: OpenFile, size: int, offset: int) -> bytes:
    """``size`` bytes of a file, fewer at its end. Raises OSError."""
    content = opened.pread(size, offset) if size else b""
    if len(content) == size:
        return content
    pieces = [content]
    end, offset = offset + size, offset + len(content)
    while offset < end and (more := opened.pread(end - offset, offset)):
        pieces.append(more)
        offset += len(more)
    return b"".join(pieces)


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "vanished before it was read"
    return error.strerror or str(error)
