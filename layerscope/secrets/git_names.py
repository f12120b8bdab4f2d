"""Finds out what a git repository calls a blob: the oldest commit that has it, and its path there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from dulwich.errors import ObjectFormatException
from dulwich.objects import parse_tree

MOST_TREE_BYTES: Final = 16 << 20
MOST_NAMES: Final = 200_000
LONGEST_PATH: Final = 4096
_FORMAT: Final = 0o170000
_DIRECTORY: Final = 0o040000
_SUBMODULE: Final = 0o160000
_TREE: Final = re.compile(rb"tree ([0-9a-f]+)\n")
_TIME: Final = re.compile(rb"\ncommitter [^\n]* (\d{1,12}) [+-]\d{4}(?=\n)")


class Name(NamedTuple):
    """Where a blob stands: ``commit`` is None where no known commit leads to it."""

    commit: str | None
    path: str


class Names:
    """Trees and commits while they come in, then the names of blobs. Memory is bounded."""

    def __init__(self) -> None:
        self.incomplete = False
        """There were more trees or names than are kept."""
        self._trees: dict[bytes, bytes] = {}
        self._tree_bytes = 0
        self._commits: list[tuple[int, str, bytes]] = []
        self._names: dict[bytes, Name] = {}

    def add_tree(self, identifier: bytes, content: bytes) -> None:
        self._tree_bytes += len(content)
        if self._tree_bytes > MOST_TREE_BYTES:
            self.incomplete = True
        else:
            self._trees[identifier] = content

    def add_commit(self, identifier: bytes, content: bytes) -> None:
        head = content.partition(b"\n\n")[0] + b"\n"
        tree, time = _TREE.match(head), _TIME.search(head)
        if tree is None or len(tree[1]) != 2 * len(identifier):
            return
        if len(self._commits) >= MOST_NAMES:
            self.incomplete = True
            return
        self._commits.append((int(time[1]) if time else 0, identifier.hex(), bytes.fromhex(tree[1].decode())))

    def resolve(self) -> None:
        """Follow the trees of all commits, the oldest first, then those that no commit leads to."""
        seen: set[bytes] = set()
        for _, commit, tree in sorted(self._commits):
            self._follow(tree, commit, seen)
        rest = [tree for tree in self._trees if tree not in seen]
        below = {child for tree in rest for child, _, _ in self._entries(tree)}
        for tree in (*(tree for tree in rest if tree not in below), *rest):
            self._follow(tree, None, seen)
        self._trees.clear()
        self._commits.clear()

    def of(self, identifier: bytes) -> Name | None:
        return self._names.get(identifier)

    def _follow(self, root: bytes, commit: str | None, seen: set[bytes]) -> None:
        pending = [(root, "")]
        while pending:
            tree, prefix = pending.pop()
            if tree in seen:
                continue
            seen.add(tree)
            for child, mode, name in self._entries(tree):
                path = prefix + name
                if len(path) > LONGEST_PATH:
                    self.incomplete = True
                elif mode == _DIRECTORY:
                    pending.append((child, path + "/"))
                elif len(self._names) >= MOST_NAMES:
                    self.incomplete = True
                elif mode != _SUBMODULE:
                    self._names.setdefault(child, Name(commit, path))

    def _entries(self, tree: bytes) -> Iterator[tuple[bytes, int, str]]:
        """Id, format and name of what a tree holds, as far as it can be read."""
        try:
            for name, mode, identifier in parse_tree(self._trees.get(tree, b""), len(tree)):
                yield bytes.fromhex(identifier.decode()), mode & _FORMAT, os.fsdecode(name)
        except (ObjectFormatException, ValueError, AssertionError):
            self.incomplete = True
