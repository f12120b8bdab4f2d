"""Random stacks, mounted by the kernel: layerscope must see every path of the mount, and none more."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerscope.model import XattrFamily
from tests.kernel import (
    aliases,
    can_mount,
    difference,
    kernel_view,
    layerscope_view,
    mount_options,
    mounted,
    remove_tree,
    stack_of,
)

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not can_mount(), reason="mounting overlayfs needs root"),
]

STACKS = int(os.environ.get("LAYERSCOPE_RANDOM_STACKS", "170"))
"""Random stacks a test; there are two tests that count, so 340 a run by default."""

NAMES = ("a", "b", "c", "d")
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)


# -- stacks that the kernel itself made: operations in real mounts, one layer after the other ---------------


def _only_a_file(place: Path) -> None:
    """Never open a FIFO (it blocks) or a device (it is real)."""
    if place.is_symlink() or (place.exists() and not place.is_file()):
        raise OSError(errno.EINVAL, "not a regular file")


def _write(root: Path, path: str, other: str, number: int) -> None:
    _only_a_file(root / path)
    (root / path).write_bytes(other.encode() * (number % 700))


def _append(root: Path, path: str, other: str, number: int) -> None:
    _only_a_file(root / path)
    with (root / path).open("ab") as file:
        file.write(str(number).encode())


def _rewrite_in_place(root: Path, path: str, other: str, number: int) -> None:
    _only_a_file(root / path)
    status = os.lstat(root / path)
    with (root / path).open("r+b") as file:
        file.write(b"#")
    os.utime(root / path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _remove(root: Path, path: str, other: str, number: int) -> None:
    with suppress(IsADirectoryError):
        (root / path).unlink()
        return
    for base, directories, files in os.walk(root / path, topdown=False):
        for name in files:
            os.unlink(os.path.join(base, name))
        for name in directories:
            entry = os.path.join(base, name)
            if os.path.islink(entry):
                os.unlink(entry)
            else:
                os.rmdir(entry)
    os.rmdir(root / path)


def _remove_and_make_again(root: Path, path: str, other: str, number: int) -> None:
    _remove(root, path, other, number)
    if number % 2:
        (root / path).mkdir()
    else:
        (root / path).write_text(str(number))


def _truncate(place: Path, size: int) -> None:
    _only_a_file(place)
    os.truncate(place, size)


OPERATIONS: dict[str, Callable[[Path, str, str, int], object]] = {
    "write": _write,
    "append": _append,
    "rewrite": _rewrite_in_place,
    "remove": _remove,
    "again": _remove_and_make_again,
    "mkdir": lambda root, path, other, number: (root / path).mkdir(mode=0o700 + number % 0o100, parents=True),
    "mkdir-below": lambda root, path, other, number: (root / path / other).mkdir(parents=True),
    "rename": lambda root, path, other, number: os.rename(root / path, root / other),
    "symlink": lambda root, path, other, number: os.symlink("/" + other, root / path),
    "link": lambda root, path, other, number: os.link(root / other, root / path, follow_symlinks=False),
    "chmod": lambda root, path, other, number: os.chmod(root / path, number & 0o7777),
    "chown": lambda root, path, other, number: os.chown(root / path, number % 9, number % 7, follow_symlinks=False),
    "utime": lambda root, path, other, number: os.utime(
        root / path, ns=(number, number * 1001), follow_symlinks=False
    ),
    "truncate": lambda root, path, other, number: _truncate(root / path, number % 5000),
    "xattr": lambda root, path, other, number: os.setxattr(root / path, "user.x" + other[:1], str(number).encode()),
    "no-xattr": lambda root, path, other, number: os.removexattr(root / path, "user.x" + other[:1]),
    "capability": lambda root, path, other, number: os.setxattr(
        root / path, "security.capability", b"\x01\x00\x00\x02" + bytes([number % 256]) + bytes(15)
    ),
    "fifo": lambda root, path, other, number: os.mkfifo(root / path),
    "device": lambda root, path, other, number: os.mknod(
        root / path, 0o060600 if number % 2 else 0o020600, os.makedev(240 + number % 3, number % 5)
    ),
}  # fmt: skip

operation = st.tuples(st.sampled_from(sorted(OPERATIONS)), paths, paths, st.integers(0, 0o7777))
layer_operations = st.lists(st.lists(operation, max_size=14), min_size=2, max_size=6)
kernel_options = st.sampled_from(
    [
        (XattrFamily.TRUSTED, ""),
        (XattrFamily.TRUSTED, "redirect_dir=on"),
        (XattrFamily.TRUSTED, "redirect_dir=on,metacopy=on"),
        (XattrFamily.TRUSTED, "xino=off,redirect_dir=on,metacopy=on"),
        (XattrFamily.USER, ""),
    ]
)


def apply_operations(root: Path, operations: list[tuple[str, str, str, int]]) -> None:
    for name, path, other, number in operations:
        with suppress(OSError):
            OPERATIONS[name](root, path, other, number)


@settings(
    max_examples=STACKS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(operations=layer_operations, options=kernel_options)
def test_stack_made_by_operations_in_real_mounts(
    operations: list[list[tuple[str, str, str, int]]], options: tuple[XattrFamily, str]
) -> None:
    family, extra = options
    work = Path(tempfile.mkdtemp(prefix="layerscope-kernel-"))
    try:
        layers: list[Path] = []
        for index, made in enumerate(operations):
            upper = work / f"layer{index}"
            upper.mkdir()
            if layers:
                (work / f"work{index}").mkdir()
                options_rw = mount_options(layers, family, extra) + f",upperdir={upper},workdir={work}/work{index}"
                with mounted(work / "merged", options_rw) as root:
                    apply_operations(root, made)
            else:
                apply_operations(upper, made)
            layers.append(upper)
        with mounted(work / "merged", mount_options(layers, family, extra)) as root:
            ours = layerscope_view(stack_of(layers, family, metacopy="metacopy=on" in extra))
            truth = kernel_view(root, ours)
        assert difference(truth, ours) == []
    finally:
        remove_tree(work)


# -- layers that somebody forged: any mark anywhere --------------------------------------------------------

REDIRECTS = [
    "/a",
    "/b/c",
    "/a/b/c",
    "/d/a",
    "a",
    "b",
    "c",
    "d",
    "/a/",
    "//a",
    "",
    "a/b",
    "/",
    "..",
    "/a/../b",
    ".",
]
nodes = st.one_of(
    st.tuples(st.just("file"), st.sampled_from(["", "one", "two2"])),
    st.tuples(st.just("metacopy"), st.sampled_from(["", "hole", "bad", "/a", "b", "/b/c"])),
    st.tuples(st.just("whiteout"), st.just("")),
    st.tuples(st.just("xwhiteout"), st.sampled_from(["", "full"])),
    st.tuples(st.just("directory"), st.just("")),
    st.tuples(st.just("directory"), st.just("")),
    st.tuples(st.just("opaque"), st.sampled_from(["y", "y", "x", "n", "yes"])),
    st.tuples(st.just("redirect"), st.sampled_from(REDIRECTS)),
    st.tuples(st.just("opaque-redirect"), st.sampled_from(["/a", "b"])),
    st.tuples(st.just("symlink"), st.sampled_from(["a", "/b"])),
    st.tuples(st.just("char"), st.sampled_from(["0:1", "241:1"])),
    st.tuples(st.just("block"), st.sampled_from(["0:0", "241:1"])),
)
forged_layer = st.dictionaries(paths, nodes, max_size=9)
read_options = st.sampled_from(
    [
        (XattrFamily.TRUSTED, "", True, False),
        (XattrFamily.TRUSTED, "redirect_dir=follow", True, False),
        (XattrFamily.TRUSTED, "redirect_dir=nofollow", False, False),
        (XattrFamily.TRUSTED, "metacopy=on", True, True),
        (XattrFamily.USER, "", False, False),
    ]
)


def _forge(root: Path, content: dict[str, tuple[str, str]], family: XattrFamily) -> None:
    for path in sorted(content):
        kind, value = content[path]
        place = root / path
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            _forge_node(place, kind, value, family)
    other = XattrFamily.USER if family is XattrFamily.TRUSTED else XattrFamily.TRUSTED
    for path in sorted(content)[:1]:
        if (root / path).is_dir() and not (root / path).is_symlink():
            os.setxattr(root / path, other + "opaque", b"y")  # the family that this mount must ignore


def _forge_node(place: Path, kind: str, value: str, family: XattrFamily) -> None:
    match kind:
        case "file":
            place.write_text(value)
        case "metacopy":
            place.write_text("")
            os.truncate(place, 7)
            os.setxattr(place, family + "metacopy", b"\0" if value == "bad" else b"")
            if value and value not in ("hole", "bad"):
                os.setxattr(place, family + "redirect", value.encode())
        case "whiteout":
            os.mknod(place, 0o020000, os.makedev(0, 0))
        case "xwhiteout":
            place.write_text(value)
            os.setxattr(place, family + "whiteout", b"")
        case "symlink":
            os.symlink(value, place)
        case "char" | "block":
            major, minor = map(int, value.split(":"))
            os.mknod(place, (0o020000 if kind == "char" else 0o060000) | 0o600, os.makedev(major, minor))
        case _:
            place.mkdir()
            if kind.startswith("opaque"):
                os.setxattr(place, family + "opaque", b"y" if "-" in kind else value.encode())
            if kind.endswith("redirect"):
                os.setxattr(place, family + "redirect", value.encode())


@settings(
    max_examples=STACKS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(layers=st.lists(forged_layer, min_size=2, max_size=6), options=read_options, writable=st.booleans())
def test_stack_of_forged_layers(
    layers: list[dict[str, tuple[str, str]]],
    options: tuple[XattrFamily, str, bool, bool],
    writable: bool,
) -> None:
    family, extra, follow, metacopy = options
    work = Path(tempfile.mkdtemp(prefix="layerscope-kernel-"))
    try:
        made = []
        for index, content in enumerate(layers):
            (work / f"layer{index}").mkdir()
            _forge(work / f"layer{index}", content, family)
            made.append(work / f"layer{index}")
        if writable:
            (work / "work").mkdir()
            mount = mount_options(made[:-1], family, extra) + f",upperdir={made[-1]},workdir={work}/work"
        else:
            mount = mount_options(made, family, extra)
        with mounted(work / "merged", mount) as root:
            stack = stack_of(made, family, follow_redirects=follow, metacopy=metacopy)
            ours = layerscope_view(stack)
            truth = kernel_view(root, ours)
        assert difference(truth, ours, aliases(stack)) == []
    finally:
        remove_tree(work)
