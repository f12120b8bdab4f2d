"""Builds layer directories from a description, and reads in short form what layerscope makes of them.

base, top = make_layers(tmp_path, {"d/old": "x"}, {"d": directory(opaque=b"y"), "d/new": file("y", mode=0o600)})
assert shown(stack_of([base, top])) == {"d": 1, "d/new": 1}
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from layerscope.model import Stack, XattrFamily
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import PathVersions
from layerscope.overlay.walk import Walker, in_tree_order

MADE: Final = 1_700_000_000
"""Time of everything that names no other, so that equal descriptions make equal entries."""


@dataclass(frozen=True)
class Node:
    """What lies at a path."""

    format: int = stat.S_IFREG
    content: bytes = b""
    hole: int = 0
    """Bytes without blocks after the content."""
    target: str = ""
    device: tuple[int, int] = (0, 0)
    mode: int | None = None
    owner: tuple[int, int] | None = None
    mtime: int = MADE
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    """By their full names."""
    marks: Mapping[str, bytes] = field(default_factory=dict)
    """Overlay xattrs, by their names without the family."""


@dataclass(frozen=True)
class HardLink:
    """Another name of a file of the same layer, which stands before it."""

    to: str


Content = Mapping[str, Node | HardLink | str | bytes]
"""A layer, by path. Directories that are not named are made; a text is a file with that content."""


def file(
    content: str | bytes = b"",
    *,
    hole: int = 0,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
    mtime: int = MADE,
    xattrs: Mapping[str, bytes] | None = None,
    **marks: bytes,
) -> Node:
    content = content.encode() if isinstance(content, str) else content
    return Node(content=content, hole=hole, mode=mode, owner=owner, mtime=mtime, xattrs=xattrs or {}, marks=marks)


def directory(
    *,
    mode: int | None = None,
    owner: tuple[int, int] | None = None,
    mtime: int = MADE,
    xattrs: Mapping[str, bytes] | None = None,
    **marks: bytes,
) -> Node:
    return Node(stat.S_IFDIR, mode=mode, owner=owner, mtime=mtime, xattrs=xattrs or {}, marks=marks)


def symlink(target: str, **marks: bytes) -> Node:
    return Node(stat.S_IFLNK, target=target, marks=marks)


def redirect(path: str, **marks: bytes) -> Node:
    """A directory that was renamed from there."""
    return Node(stat.S_IFDIR, marks={"redirect": path.encode(), **marks})


def metacopy(size: int, path: str | None = None, *, mode: int = 0o640, value: bytes = b"") -> Node:
    """A file that holds only attributes; ``path`` is where its content lies, if not at its own."""
    elsewhere = {} if path is None else {"redirect": path.encode()}
    return Node(hole=size, mode=mode, marks={"metacopy": value, **elsewhere})


def character(major: int, minor: int, mode: int | None = None) -> Node:
    return Node(stat.S_IFCHR, device=(major, minor), mode=mode)


def block(major: int, minor: int) -> Node:
    return Node(stat.S_IFBLK, device=(major, minor))


WHITEOUT: Final = character(0, 0)
DIRECTORY: Final = directory()
OPAQUE: Final = directory(opaque=b"y")
FIFO: Final = Node(stat.S_IFIFO)
SOCKET: Final = Node(stat.S_IFSOCK)


def make_layers(work: Path, *layers: Content, family: XattrFamily = XattrFamily.TRUSTED) -> list[Path]:
    """One directory for each description, base first."""
    return [make_layer(work / f"layer{index}", content, family) for index, content in enumerate(layers)]


def make_layer(root: Path, content: Content, family: XattrFamily = XattrFamily.TRUSTED) -> Path:
    """A directory with that content. Times of directories are set last."""
    root.mkdir(parents=True)
    nodes = {path: file(node) if isinstance(node, str | bytes) else node for path, node in content.items()}
    for path, node in nodes.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        _make(root, place, node, family)
    for path, node in reversed([*nodes.items()]):
        if isinstance(node, Node):
            os.utime(root / path, (node.mtime, node.mtime), follow_symlinks=False)
    return root


def _make(root: Path, place: Path, node: Node | HardLink, family: XattrFamily) -> None:
    if isinstance(node, HardLink):
        os.link(root / node.to, place, follow_symlinks=False)
        return
    match node.format:
        case stat.S_IFDIR:
            place.mkdir(exist_ok=True)
        case stat.S_IFLNK:
            place.symlink_to(node.target)
        case stat.S_IFREG:
            place.write_bytes(node.content)
            if node.hole:
                os.truncate(place, len(node.content) + node.hole)
        case _:
            os.mknod(place, node.format | 0o644, os.makedev(*node.device))
    for name, value in {**node.xattrs, **{family + name: value for name, value in node.marks.items()}}.items():
        os.setxattr(place, name, value, follow_symlinks=False)
    if node.owner is not None:
        os.chown(place, *node.owner, follow_symlinks=False)
    if node.mode is not None:
        place.chmod(node.mode)


def shown(stack: Stack) -> dict[str, int]:
    """The paths that are visible, and the layer of the version that gives each its attributes."""
    return {v.path: v.visible.layer for v in walk(stack) if v.visible is not None}


def hidden(stack: Stack) -> dict[tuple[str, int], tuple[int, str, str]]:
    """By path and layer: which layer hides that version, why, and at which path. Whiteouts are left out."""
    return {
        (versions.path, version.layer): (version.hidden_by.layer, version.hidden_by.reason, version.hidden_by.path)
        for versions in walk(stack)
        for version in versions.versions
        if version.hidden_by is not None and version.entry.kind is not Kind.WHITEOUT
    }


def walk(stack: Stack) -> list[PathVersions]:
    """All versions of all paths, in tree order."""
    return list(in_tree_order(Walker(stack).walk()))
