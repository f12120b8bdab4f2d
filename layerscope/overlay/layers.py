"""What the walk needs of a layer, wherever it lies."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Protocol

from layerscope.model import Caution, Layer, Warn
from layerscope.overlay.entry import Entry
from layerscope.overlay.files import OpenFile
from layerscope.overlay.tree import Content


class Tree(Protocol):
    """The content of one layer."""

    @property
    def path(self) -> str:
        """Where it lies, for people."""
        ...

    @property
    def key(self) -> str:
        """Two trees with the same key hold the same."""
        ...

    @property
    def is_cheap(self) -> bool:
        """Whether any file can be read for no more than its own bytes; else their order matters."""
        ...

    def order(self, entry: Entry) -> int:
        """Where a file stands in the order in which files are best read."""
        ...

    def root(self) -> Directory: ...

    def directory(self, path: str) -> Directory:
        """The directory at a path, relative to the layer's root. Nothing is read yet."""
        ...


class Directory(Protocol):
    """One directory of a layer. Its methods raise OSError where it can't be read."""

    @property
    def tree(self) -> Tree: ...

    @property
    def path(self) -> str:
        """Relative to the layer's root; ``""`` is the root."""
        ...

    @property
    def parent(self) -> Directory | None: ...

    def open(self) -> None:
        """Make sure that it can be read."""
        ...

    def close(self) -> None:
        """Give back what reading it takes; it may be read again."""
        ...

    def stat(self) -> os.stat_result: ...

    def sub(self, name: str) -> Directory:
        """The directory ``name`` in this one. Nothing is read yet."""
        ...

    def on_disk(self, name: str = "") -> str:
        """Where an entry lies on this machine, to show to people."""
        ...

    def content(self) -> Content:
        """All names in this directory."""
        ...

    def get(self, name: str) -> Entry | None: ...

    def xattrs(self, name: str) -> dict[str, bytes]:
        """All xattrs of an entry as a mount shows them."""
        ...

    def readlink(self, name: str) -> str: ...

    def open_file(self, name: str) -> AbstractContextManager[OpenFile]:
        """A regular file. Raises OSError, also when it is something else."""
        ...

    def digest(self, name: str) -> bytes | None:
        """The SHA-256 of a regular file's content where it is known, and quicker to have than the content."""
        ...


def warn_of_tar(layer: Layer, warn: Warn) -> bool:
    """Warn of what is wrong with a layer's tar; whether it is read to its end, or there is none."""
    tar = layer.tar
    if tar is None:
        return True
    index = tar.index
    for path, why in index.notes:
        code = "damaged-layer" if index.damaged and not path else "odd-layer"
        warn(Caution(code, f"{tar.place}!/{path}" if path else tar.place, why))
    for code, claimed, actual, whose in (
        ("changed-blob", tar.digest, tar.actual_digest, "its name says"),
        ("changed-layer", layer.diff_id, tar.actual_diff_id, "the image's configuration says (diff_id)"),
    ):
        if claimed is not None and actual is not None and claimed != actual:
            warn(Caution(code, tar.place, f"is not what {whose}: its digest is {actual}, not {claimed}"))
    return not index.damaged
