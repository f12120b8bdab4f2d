"""Scans the files of layers while they pass by in a pipe, and can't be read again. In this process alone.

What a file holds is told at each of its names, but the file is scanned under the name that comes first in the tar.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from layerscope.overlay.files import Held, TarFile
from layerscope.secrets.archive_kinds import foreign_kind, kind_of
from layerscope.secrets.archives import Inside
from layerscope.secrets.engine import FileScan, Scanner
from layerscope.secrets.guarded import BATCH_BYTES, BATCH_FILES, SMALL_BYTES, scan_stream
from layerscope.secrets.hits import LayerScan, Skip
from layerscope.secrets.layer_files import LayerFile
from layerscope.secrets.scan import HEAD_BYTES, MOST_HELD, Part, Reach, Worker
from layerscope.tars.index import TarIndex
from layerscope.tars.layer import TarLayer
from layerscope.tars.stream import TarMember

NOT_LOOKED_INTO: Final = "an archive of more than 64 MB that came through a pipe: not looked into"


class PassingScan:
    """What layers hold that were read to their ends: ``scans``, by layer."""

    def __init__(self, scanner: Scanner, reach: Reach, *, reveal: bool) -> None:
        self.scans: dict[TarLayer, LayerScan] = {}
        self._worker = _PassingWorker(scanner, reach, reveal)
        self._scanner = scanner
        self._reach = reach
        self._begin()

    def _begin(self) -> None:
        self._part = Part(0)
        self._worker.parts = {}
        self._small: list[tuple[LayerFile, bytes]] = []
        self._held = 0

    def take(self, number: int, member: TarMember, chunks: Iterator[bytes]) -> None:
        """Scan one file. Raises what ``chunks`` raise."""
        directory, _, name = member.name.removeprefix("./").strip("/").rpartition("/")
        file = LayerFile(directory, name, member.size_bytes, (), number)
        if file.size_bytes > MOST_HELD:
            self._passes(file, chunks)
            return
        content = b"".join(chunks)
        if file.size_bytes > SMALL_BYTES:
            self._worker.scan_large(self._part, file, TarFile(Held(content)), len(content))
            return
        self._small.append((file, content))
        self._held += len(content)
        if self._held > BATCH_BYTES or len(self._small) >= BATCH_FILES:
            self._flush()

    def _passes(self, file: LayerFile, chunks: Iterator[bytes]) -> None:
        """Scan a file that is too large to hold: from front to back, once."""
        reader = _Reader(chunks)
        head = reader.peek(HEAD_BYTES)
        scan = scan_stream(self._scanner, reader, file.path)
        self._worker.take_file(self._part, file, [([file.path], scan)], [])
        if self._reach.archives and (kind_of(head) or foreign_kind(head)):
            self._part.skips.append(Skip(file.path, NOT_LOOKED_INTO, lasting=True))

    def _flush(self) -> None:
        self._worker.scan_small(self._part, self._small)
        self._small, self._held = [], 0

    def done(self, layer: TarLayer) -> None:
        """The layer is at its end: what it held, under the names that its files have now."""
        self._flush()
        found = self._part
        for number, paths in _paths_of_files(layer.index).items():
            found.files += 1
            found.size_bytes += layer.index.sizes[number]
            part = self._worker.parts.get(number)
            if part is None:
                continue
            for path in paths:
                found.hits += (hit.at(path) for hit in part.hits)
                found.skips += (replace(skip, path=_moved(skip.path, part.path, path)) for skip in part.skips)
        redirects = any(
            name.endswith("overlay.redirect") for xattrs in layer.index.xattrs.values() for name in xattrs
        )
        self.scans[layer] = LayerScan(
            tuple(sorted(found.hits, key=lambda hit: hit.sort_key)),
            tuple(sorted(found.skips, key=lambda skip: (skip.path, skip.reason))),
            found.files,
            found.size_bytes,
            redirects,
        )
        self._begin()


class _PassingWorker(Worker):
    """Keeps what each file held apart: only at the layer's end it is known which files stay, and their names."""

    def __init__(self, scanner: Scanner, reach: Reach, reveal: bool) -> None:
        super().__init__([], scanner, reach, reveal)
        self.parts: dict[int, _FilePart] = {}

    def take_file(
        self, _part: Part, file: LayerFile, own: Sequence[tuple[list[str], FileScan]], inside: list[Inside]
    ) -> None:
        part = self.parts[file.order] = _FilePart(file.path)
        super().take_file(part, file, own, inside)


class _FilePart(Part):
    """What one file held."""

    def __init__(self, path: str) -> None:
        super().__init__(0)
        self.path = path


class _Reader:
    """Chunks as what a scanner reads."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._ahead = b""

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size and (chunk := next(self._chunks, b"")):
            self._ahead += chunk
        return self._ahead[:size]

    def readinto(self, buffer: memoryview, /) -> int:
        data = self._ahead or next(self._chunks, b"")
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        self._ahead = data[count:]
        return count


def _paths_of_files(index: TarIndex) -> dict[int, list[str]]:
    """The regular files of a layer, and all names of each, sorted."""
    found: dict[int, list[str]] = {}
    pending = [(0, "")]
    while pending:
        directory, above = pending.pop()
        for name, number in index.children[directory].items():
            path = f"{above}/{name}" if above else name
            if number in index.children:
                pending.append((number, path))
            elif index.is_file(number):
                found.setdefault(number, []).append(path)
    return {number: sorted(paths) for number, paths in found.items()}


def _moved(path: str, old: str, new: str) -> str:
    """The path of something in a file that has another name now."""
    return new + path[len(old) :] if path.startswith(old) else path
