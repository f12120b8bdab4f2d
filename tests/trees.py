"""Applies layers one on the other as the graph driver `overlay` does: each a whole tree, hard linked with the last.

Source: moby `daemon/graphdriver/copy/copy.go` (DirCopy) of 20.10 for the copy, `pkg/archive/diff.go` (UnpackLayer)
for what a layer does to it.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from layerscope.model import Accumulated, Layer, OverlayOptions, Role, Sameness, Stack, XattrFamily
from layerscope.overlay.entry import Kind, kind_of
from tests.kernel import remove_tree


def as_trees(diffs: list[Path], work: Path, family: XattrFamily) -> list[Path]:
    """A whole tree for each of these directories of changes, base first."""
    trees: list[Path] = []
    for index, diff in enumerate(diffs):
        tree = work / f"tree{index}"
        if trees:
            copy_linked(trees[-1], tree)
        else:
            tree.mkdir()
        _apply(diff, tree, family, {})
        trees.append(tree)
    return trees


def copy_linked(source: Path, target: Path) -> None:
    """Directories and special files are copied, with all attributes; files become links."""
    target.mkdir()
    for entry in os.scandir(source):
        status = entry.stat(follow_symlinks=False)
        place = target / entry.name
        if stat.S_ISDIR(status.st_mode):
            copy_linked(Path(entry.path), place)
        elif stat.S_ISREG(status.st_mode):
            os.link(entry.path, place)
        else:
            _copy_other(entry.path, place, status)
    shutil.copystat(source, target)


def tree_stack(trees: list[Path], family: XattrFamily, same: Sameness = Sameness.INODE) -> Stack:
    """Those trees as layers."""
    layers = [
        Layer(
            index,
            Role.IMAGE,
            str(tree),
            accumulated=Accumulated(str(trees[index - 1]) if index else None, same, is_tree=True),
        )
        for index, tree in enumerate(trees)
    ]
    return Stack(tuple(layers), OverlayOptions(family))


def _apply(diff: Path, tree: Path, family: XattrFamily, links: dict[int, Path]) -> None:
    """What one directory of changes does; ``links`` are the files of this layer by inode."""
    if _is_opaque(diff, family):
        for entry in os.scandir(tree):
            _remove(Path(entry.path))
    for entry in os.scandir(diff):
        status = entry.stat(follow_symlinks=False)
        place = tree / entry.name
        is_directory = stat.S_ISDIR(status.st_mode)
        if os.path.lexists(place) and not (is_directory and place.is_dir() and not place.is_symlink()):
            _remove(place)
        if kind_of(status) is Kind.WHITEOUT:
            continue
        if is_directory:
            place.mkdir(exist_ok=True)
            _apply(Path(entry.path), place, family, links)
        elif status.st_ino in links:
            os.link(links[status.st_ino], place, follow_symlinks=False)
        else:
            links[status.st_ino] = place
            if stat.S_ISREG(status.st_mode):
                shutil.copy2(entry.path, place)
            else:
                _copy_other(entry.path, place, status)
    shutil.copystat(diff, tree)
    for name in os.listxattr(tree):
        if name.startswith(family):
            os.removexattr(tree, name)


def _copy_other(source: str, target: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        target.symlink_to(os.readlink(source))
    else:
        os.mknod(target, status.st_mode, status.st_rdev)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _is_opaque(directory: Path, family: XattrFamily) -> bool:
    name = f"{family}opaque"
    return name in os.listxattr(directory) and os.getxattr(directory, name) == b"y"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink()


def copy_upper(source: Path, target: Path, family: XattrFamily, links: dict[int, Path] | None = None) -> None:
    """A copy of an upper directory: all is copied, but of xattrs only the two that the driver knows."""
    links = {} if links is None else links
    target.mkdir()
    for entry in os.scandir(source):
        status, place = entry.stat(follow_symlinks=False), target / entry.name
        if stat.S_ISDIR(status.st_mode):
            copy_upper(Path(entry.path), place, family, links)
        elif stat.S_ISREG(status.st_mode) and status.st_ino in links:
            os.link(links[status.st_ino], place)
        elif stat.S_ISREG(status.st_mode):
            shutil.copyfile(entry.path, place)
            links[status.st_ino] = place
        elif stat.S_ISLNK(status.st_mode):
            place.symlink_to(os.readlink(entry.path))
        else:
            os.mknod(place, status.st_mode, status.st_rdev)
        if not stat.S_ISDIR(status.st_mode):
            _copy_attributes(Path(entry.path), place, family)
    _copy_attributes(source, target, family)


def _copy_attributes(source: Path, target: Path, family: XattrFamily) -> None:
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not source.is_symlink():
        for name in {"security.capability", f"{family}opaque"} & {*os.listxattr(source)}:
            os.setxattr(target, name, os.getxattr(source, name))
        target.chmod(stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
