"""Lists the regular files of one layer directory: every inode once, under all its names. Opens directories only."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from layerscope.overlay.entry import Entry, Kind
from layerscope.overlay.layers import Directory, Tree
from layerscope.overlay.tree import Content
from layerscope.secrets.hits import Skip


class LayerFile(NamedTuple):
    """A regular file to scan."""

    directory: str
    """Path of its directory, from the layer's root."""
    name: str
    size_bytes: int
    others: tuple[str, ...] = ()
    """Paths of its other names (hard links) in the layer, sorted."""
    order: int = 0
    """Files of one layer are best read in this order."""

    @property
    def path(self) -> str:
        return _join(self.directory, self.name)


class LayerFiles:
    """The files of a layer, and what was noticed on the way: complete once all files were taken."""

    def __init__(self, tree: Tree) -> None:
        self.skips: list[Skip] = []
        self.redirects = False
        self.is_cheap = tree.is_cheap
        self._tree = tree
        self._linked: dict[tuple[int, int], list[tuple[str, str, int, int]]] = {}

    def __iter__(self) -> Iterator[LayerFile]:
        """All files, in the order in which they are best read. A metacopy file has no content and is left out."""
        return self._found() if self._tree.is_cheap else iter(sorted(self._found(), key=lambda file: file.order))

    def _found(self) -> Iterator[LayerFile]:
        """Files in no order; those with several names last."""
        pending = [self._tree.root()]
        while pending:
            directory = pending.pop()
            content = self._content(directory)
            for entry in chain(content.directories, content.others, content.marked):
                marks = entry.marks
                self.redirects = self.redirects or marks.redirect is not None
                if entry.kind is Kind.DIRECTORY:
                    pending.append(directory.sub(entry.name))
                elif entry.kind is Kind.FILE and not (marks.metacopy and not entry.stat.st_blocks):
                    yield from self._file(directory.path, entry)
        for names in self._linked.values():
            (where, name, size, order), *others = sorted(names, key=lambda one: _join(*one[:2]))
            yield LayerFile(where, name, size, tuple(_join(*other[:2]) for other in others), order)

    def _content(self, directory: Directory) -> Content:
        try:
            return directory.content()
        except OSError as error:
            reason = "the directory vanished" if isinstance(error, FileNotFoundError) else error.strerror
            self.skips.append(Skip(directory.path, reason or str(error)))
            return Content([], [], [])

    def _file(self, directory: str, entry: Entry) -> Iterator[LayerFile]:
        stat, order = entry.stat, self._tree.order(entry)
        if stat.st_nlink > 1:
            names = self._linked.setdefault((stat.st_dev, stat.st_ino), [])
            names.append((directory, entry.name, stat.st_size, order))
        else:
            yield LayerFile(directory, entry.name, stat.st_size, (), order)


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
