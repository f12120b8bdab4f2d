"""Scans what a git repository keeps in its object files, packed or loose, reachable or not.

Only object files are read, each opened by the caller: no index, reference, alternate or configuration is looked at,
so that nothing in a repository leads elsewhere.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from layerscope.secrets.archive_kinds import kind_of
from layerscope.secrets.archives import MOST_ALIKE
from layerscope.secrets.bounded import Budget, LimitReachedError, Limits, Stream
from layerscope.secrets.engine import FileScan, Scanner
from layerscope.secrets.git_names import Names
from layerscope.secrets.git_pack import BLOB, COMMIT, KIND_NAMES, MOST_OBJECT, TAG, TREE, GitObject, GitPack
from layerscope.secrets.git_paths import hash_of_pack, loose_id
from layerscope.secrets.guarded import SMALL_BYTES, Batch, scan_stream
from layerscope.secrets.match import Omission, Secret
from layerscope.secrets.members import SeekableFile
from layerscope.tars.packing import ZlibDecompressor, inflate

LIMITS: Final = Limits(entries=500_000, ratio=1 << 40)
"""A repository may well hold a thousand versions of a file for the size of one."""
_KINDS: Final = {name: kind for kind, name in KIND_NAMES.items()}


@dataclass(slots=True)
class ObjectFile:
    """A file that holds git objects, and what is found in it."""

    path: str
    size_bytes: int
    open: Callable[[], AbstractContextManager[SeekableFile]]
    """Opens it anew. Raises OSError."""
    found: list[tuple[str, FileScan]] = field(default_factory=list)
    """By what git calls it: ``<commit>:<path>``, or the object's id."""
    omissions: list[Omission] = field(default_factory=list)
    failure: OSError | None = None
    """It could not be read to its end."""


class Repository:
    """Scans the object files of one repository of one layer."""

    def __init__(self, scanner: Scanner, path: str, limits: Limits = LIMITS) -> None:
        self._scanner = scanner
        self._path = path
        self._limits = limits
        self._batch = Batch(scanner)
        self._names = Names()
        self._packs: dict[str, GitPack] = {}
        self._told: set[tuple[str, str, str, Secret]] = set()
        self._omitted: Counter[str] = Counter()

    def scan(self, files: Iterable[ObjectFile]) -> None:
        """Fill in what each file holds. Commits and trees come first: they name the rest."""
        ordered = sorted(files, key=lambda file: file.path)
        budget = Budget(self._limits, sum(file.size_bytes for file in ordered))
        for file in ordered:
            self._file(file, (COMMIT, TREE, TAG), budget)
        self._names.resolve()
        for file in ordered:
            self._file(file, (BLOB,), budget)
        self._batch.finish()
        for file in ordered:
            self._close(file)
        ordered[-1].omissions += (
            Omission(self._path, f"{count - MOST_ALIKE} more of its objects: {why}")
            for why, count in self._omitted.items()
            if count > MOST_ALIKE
        )
        if self._names.incomplete:
            reason = "not all of its trees were read: some files are scanned without their names"
            ordered[-1].omissions.append(Omission(self._path, reason))

    def _file(self, file: ObjectFile, kinds: tuple[int, ...], budget: Budget) -> None:
        identifier = loose_id(file.path)
        if file.failure is not None:
            return
        if budget.exhausted is not None:
            self._omit(file, budget.exhausted)
            return
        try:
            with file.open() as content:
                if identifier is None:
                    self._pack(file, content, kinds, budget)
                else:
                    self._loose(file, content, identifier, kinds, budget)
        except OSError as error:
            file.failure = error
        except LimitReachedError as error:
            self._omit(file, str(error))

    def _pack(self, file: ObjectFile, content: SeekableFile, kinds: tuple[int, ...], budget: Budget) -> None:
        pack = self._packs.get(file.path)
        if pack is None:
            pack = self._packs[file.path] = GitPack(content, hash_of_pack(file.path), budget)
        for one in pack.objects(content, kinds):
            self._object(file, one)

    def _loose(
        self, file: ObjectFile, content: SeekableFile, identifier: bytes, kinds: tuple[int, ...], budget: Budget
    ) -> None:
        budget.enter()
        zlib = ZlibDecompressor(15)
        stream = Stream(lambda size: inflate(zlib, content.read, size), budget)
        header, end, _ = stream.peek(40).partition(b"\0")
        kind = _KINDS.get(header.partition(b" ")[0])
        if not end or kind is None:
            if BLOB in kinds:
                self._omit(file, stream.problem or "no git object")
            return
        if kind not in kinds:
            return
        stream.read(len(header) + 1)
        start = stream.peek(MOST_OBJECT)
        small = len(start) < MOST_OBJECT
        self._object(file, GitObject(identifier, kind, start if small else stream))
        if stream.problem is not None:
            self._omit(file, stream.problem)

    def _object(self, file: ObjectFile, one: GitObject) -> None:
        name = self._names.of(one.id)
        label = f"{name.commit or one.id.hex()}:{name.path}" if name else one.id.hex()
        path = f"{self._path}!/{name.path if name else label}"
        take = partial(self._take, file, label, name.path if name else "")
        if not isinstance(one.content, bytes):
            take(scan_stream(self._scanner, one.content, path))
            if one.content.problem is not None:
                self._omit(file, one.content.problem)
            return
        if one.kind == TREE:
            self._names.add_tree(one.id, one.content)
            return
        if one.kind == COMMIT:
            self._names.add_commit(one.id, one.content)
        if len(one.content) < SMALL_BYTES:
            self._batch.add(path, one.content, take)
        else:
            take(scan_stream(self._scanner, io.BytesIO(one.content), path))
        if kind := kind_of(one.content):
            self._omit(file, f"archives in git ({kind}) are not looked into", f"{self._path}!/{label}")

    def _take(self, file: ObjectFile, label: str, path: str, scan: FileScan) -> None:
        """Note what an object holds: a value that all versions of a file have in one of them."""
        matches = []
        for match in scan.matches:
            key = (file.path, path, match.rule_id, match.secret)
            if key not in self._told:
                self._told.add(key)
                matches.append(match)
        omissions = tuple(replace(one, path=f"{self._path}!/{label}") for one in scan.omissions)
        if matches or omissions:
            file.found.append((label, replace(scan, matches=tuple(matches), omissions=omissions)))

    def _omit(self, file: ObjectFile, why: str, place: str | None = None) -> None:
        self._omitted[why] += 1
        if self._omitted[why] <= MOST_ALIKE:
            file.omissions.append(Omission(place or file.path, why))

    def _close(self, file: ObjectFile) -> None:
        pack = self._packs.get(file.path)
        if pack is not None and pack.problem is not None:
            self._omit(file, f"{pack.problem}: there may be objects that were not read")
        if pack is not None and (lost := pack.lost()):
            self._omit(file, f"{lost} of its objects could not be restored from their deltas")
