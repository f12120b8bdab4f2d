"""The kernel as oracle: mounts layers with overlayfs, and reads what it shows in the same shape as layerscope."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from layerscope.model import Layer, OverlayOptions, Role, Stack, XattrFamily
from layerscope.overlay.content import open_content, read_chunks, read_target
from layerscope.overlay.entry import Kind, kind_of
from layerscope.overlay.walk import Walker, in_tree_order

_libc = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2


class Seen(NamedTuple):
    """Everything of one path that a program can see through a mount."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    rdev: int
    target: str | None
    xattrs: tuple[tuple[str, bytes], ...]
    content: str | int | None
    """SHA-256 of a file's content, or the errno of reading it."""


View = dict[str, Seen | int]
"""By path: what is seen, or the errno with which lstat(2) refuses."""


def can_mount() -> bool:
    return os.geteuid() == 0 and "overlay" in Path("/proc/filesystems").read_text()


@contextmanager
def mounted(point: Path, options: str) -> Iterator[Path]:
    """An overlay mount with these options; raises OSError when the kernel refuses them."""
    point.mkdir(exist_ok=True)
    if _libc.mount(b"overlay", os.fsencode(point), b"overlay", 0, os.fsencode(options)):
        raise OSError(ctypes.get_errno(), f"mount -t overlay -o {options}")
    try:
        yield point
    finally:
        _libc.umount2(os.fsencode(point), MNT_DETACH)


def mount_options(layers: list[Path], family: XattrFamily, extra: str = "") -> str:
    """A read-only mount of layers given base first."""
    lower = ":".join(str(layer) for layer in reversed(layers))
    own = "userxattr" if family is XattrFamily.USER else "index=off"
    return ",".join(part for part in (own, extra, f"lowerdir={lower}") if part)


def kernel_view(root: Path, also: Iterable[str] = ()) -> View:
    """All that the mount lists, and of the paths in ``also`` those that exist unlisted.

    A directory with ``opaque=x`` does not list a name whose lookup fails; lookup is what decides.
    """
    view: View = {}
    _kernel_directory(os.fsencode(root), b"", view)
    for path in sorted(set(also) - view.keys()):
        try:
            os.lstat(root / path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            if not isinstance(view.get(os.path.dirname(path)), int):
                view[path] = error.errno or 0
        else:
            view[path] = 0
    return view


def _kernel_directory(root: bytes, path: bytes, view: View) -> None:
    for name in sorted(os.listdir(os.path.join(root, path))):
        child = os.path.join(path, name)
        full = os.path.join(root, child)
        shown = os.fsdecode(child)
        try:
            status = os.lstat(full)
        except OSError as error:
            if error.errno != errno.ENOENT:  # listed, but an xattr whiteout: it does not exist
                view[shown] = error.errno
            continue
        content: str | int | None = None
        if stat.S_ISREG(status.st_mode):
            try:
                content = hashlib.sha256(Path(os.fsdecode(full)).read_bytes()).hexdigest()
            except OSError as error:
                content = error.errno
        target = os.readlink(os.fsdecode(full)) if stat.S_ISLNK(status.st_mode) else None
        xattrs = {name: os.getxattr(full, name, follow_symlinks=False) for name in _listxattr(full)}
        view[shown] = _seen(status, target, xattrs, content)
        if stat.S_ISDIR(status.st_mode):
            _kernel_directory(root, child, view)


def _listxattr(path: bytes) -> list[str]:
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return []
        raise


def _seen(status: os.stat_result, target: str | None, xattrs: dict[str, bytes], content: str | int | None) -> Seen:
    return Seen(
        kind=kind_of(status).value,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        rdev=status.st_rdev,
        target=target,
        xattrs=tuple(sorted(xattrs.items())),
        content=content,
    )


def stack_of(
    layers: list[Path],
    family: XattrFamily = XattrFamily.TRUSTED,
    *,
    follow_redirects: bool | None = None,
    metacopy: bool = False,
    data_dirs: tuple[str, ...] = (),
) -> Stack:
    """The stack of plain layer directories, base first."""
    follow = family is XattrFamily.TRUSTED if follow_redirects is None else follow_redirects
    options = OverlayOptions(family, follow_redirects=follow, metacopy=metacopy)
    return Stack(
        tuple(Layer(index, Role.LOWER, str(path)) for index, path in enumerate(layers)), options, data_dirs
    )


def layerscope_view(stack: Stack) -> View:
    walker = Walker(stack)
    view: View = {}
    for versions in in_tree_order(walker.walk()):
        if versions.error:
            view[versions.path] = versions.error
            assert versions.visible is None
            continue
        version = versions.visible
        if version is None:
            continue
        content: str | int | None = None
        if version.entry.kind is Kind.FILE:
            digest = hashlib.sha256()
            try:
                with open_content(versions, version, walker.data_trees) as opened:
                    for chunk in read_chunks(opened):
                        digest.update(chunk)
                content = digest.hexdigest()
            except OSError as error:
                content = error.errno
        target = read_target(version) if version.entry.kind is Kind.SYMLINK else None
        xattrs = version.directory.xattrs(version.entry.name)
        view[versions.path] = _seen(version.entry.stat, target, xattrs, content)
    assert not walker.incomplete
    return view


def aliases(stack: Stack) -> set[str]:
    """Paths that share the data of a metacopy file. Only forged redirects can make them.

    The kernel has one inode for the data, so what it shows depends on which name was looked up first.
    """
    walker = Walker(stack)
    users: dict[tuple[int, int], list[tuple[str, bool]]] = {}
    for versions in in_tree_order(walker.walk()):
        version = versions.visible
        if version is not None and version.entry.kind is Kind.FILE:
            status = (version.data or version).entry.stat
            users.setdefault((status.st_dev, status.st_ino), []).append(
                (versions.path, version.entry.marks.metacopy)
            )
    return {
        path for paths in users.values() if any(meta for _, meta in paths) and len(paths) > 1 for path, _ in paths
    }


def difference(kernel: View, ours: View, skip: set[str] | frozenset[str] = frozenset()) -> list[str]:
    """What differs, for people; empty when the views are equal."""
    lines = []
    stale = tuple(path for path, seen in kernel.items() if seen == errno.ESTALE)
    for path in sorted((kernel.keys() | ours.keys()) - skip):
        # One directory reached by two names (only forged redirects do that): the kernel has one inode for it and
        # refuses the name that is looked up second. There is no truth to compare with.
        if path in stale or path.startswith(tuple(f"{top}/" for top in stale)):
            continue
        if kernel.get(path) != ours.get(path):
            lines.append(f"{path!r}:\n  kernel     {kernel.get(path)}\n  layerscope {ours.get(path)}")
    return lines


def remove_tree(path: Path) -> None:
    """Remove a work directory whatever lies in it: overlay's ``work`` has mode 000."""
    with suppress(FileNotFoundError):
        for entry in list(os.scandir(path)):
            if entry.is_dir(follow_symlinks=False):
                remove_tree(Path(entry.path))
            else:
                os.unlink(entry.path)
        path.rmdir()
