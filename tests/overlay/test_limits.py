"""What a walk must bear: any depth, few descriptors, little memory, trees that change; and leave no traces."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import struct
import subprocess
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from layerscope.analysis.change import change_of
from layerscope.analysis.compare import compare
from layerscope.analysis.summary import summarize
from layerscope.model import Cautions
from layerscope.overlay.entry import Kind
from layerscope.overlay.walk import Walker, in_tree_order
from tests.kernel import remove_tree, stack_of
from tests.layers import (
    DIRECTORY,
    FIFO,
    SOCKET,
    WHITEOUT,
    Content,
    Node,
    character,
    hidden,
    make_layers,
    shown,
    symlink,
)
from tests.random_layers import USER

# -- depth, descriptors, memory ------------------------------------------------------------------------------

DEPTH = 3000


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[list[Path]]:
    """Two layers, the top one as deep as no path can be."""
    layers = [tmp_path / "base", tmp_path / "top"]
    for layer, depth in zip(layers, (50, DEPTH), strict=True):
        layer.mkdir()
        fd = os.open(layer, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.setxattr(fd, "user.overlay.opaque", b"x")
        with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "w") as made:
            made.write(layer.name)
        os.close(fd)
    yield layers
    for layer in layers:
        subprocess.run(["rm", "-r", str(layer)], check=True)  # shutil gives up at such a depth


def test_tree_deeper_than_any_path(deep: list[Path]) -> None:
    stack = stack_of(deep, USER)
    cautions = Cautions()
    walker = Walker(stack, cautions)
    found = summarize(walker, jobs=1)
    assert (found.merged.directories, found.merged.files) == (DEPTH, 2)
    assert [layer.size_bytes for layer in found.layers] == [4, 3]
    differences = compare(Walker(stack.up_to(0), cautions), walker, cautions)
    assert differences[-1].path.count("/") == DEPTH
    assert max(versions.path.count("/") for versions in in_tree_order(walker.walk())) == DEPTH
    assert list(cautions) == []


@contextmanager
def limit(descriptors: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("jobs", [1, 2])
def test_few_descriptors_are_enough(tmp_path: Path, small_shares: None, jobs: int) -> None:
    path = "/".join("abcdefghijklmno")
    layers = make_layers(tmp_path, *({f"{path}/{index}": "x", f"w{index}/y/z": "x"} for index in range(20)))
    with limit(64):
        stack = stack_of(layers)
        cautions = Cautions()
        found = summarize(Walker(stack, cautions), jobs=jobs, warn=cautions)
        differences = compare(Walker(stack.up_to(3), cautions), Walker(stack, cautions), cautions)
    assert found.merged.files == 40
    assert len([d for d in differences if d.kind is Kind.FILE]) == 32
    assert list(cautions) == []


def test_memory_follows_depth_and_fan_out_not_the_number_of_files(tmp_path: Path) -> None:
    def peak(levels: int) -> tuple[int, int]:
        root = tmp_path / str(levels)
        leaves = [root]
        for _ in range(levels):
            leaves = [leaf / name for leaf in leaves for name in "abc"]
        for leaf in leaves:
            leaf.mkdir(parents=True)
            for name in "123456":
                (leaf / name).touch()
        walker = Walker(stack_of([root], USER))
        tracemalloc.start()
        seen = sum(1 for _ in in_tree_order(walker.walk()))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return seen, most

    few, small = peak(2)
    many, large = peak(4)
    assert many > 8 * few
    assert large < 2.5 * small


# -- what goes wrong on the way ------------------------------------------------------------------------------


def test_directory_that_vanishes_is_a_warning_and_leaves_the_rest(tmp_path: Path) -> None:
    layers = make_layers(tmp_path, {"a/x": "1", "b/y": "2", "c/z": "3"})
    cautions = Cautions()
    walker = Walker(stack_of(layers), cautions)
    seen = []
    for listing in walker.walk():
        seen += [versions.path for versions in listing.paths()]
        if listing.frame.path == "":
            shutil.rmtree(layers[0] / "b")
    assert seen == ["a", "b", "c", "a/x", "c/z"]
    assert walker.incomplete
    assert [(caution.code, caution.path) for caution in cautions] == [
        ("unreadable-directory", str(layers[0] / "b"))
    ]


@pytest.mark.parametrize("target", ["elsewhere", "/etc"])
def test_directory_that_becomes_a_symlink_is_not_followed(tmp_path: Path, target: str) -> None:
    layers = make_layers(tmp_path, {"a/x": "1", "b/y": "2", "elsewhere/secret": "3"})
    cautions = Cautions()
    walker = Walker(stack_of(layers), cautions)
    seen = []
    for listing in walker.walk():
        seen += [versions.path for versions in listing.paths()]
        if listing.frame.path == "a":
            shutil.rmtree(layers[0] / "b")
            (layers[0] / "b").symlink_to(target)
    assert seen == ["a", "b", "elsewhere", "a/x", "elsewhere/secret"]
    assert [caution.code for caution in cautions] == ["unreadable-directory"]


def cautions_of_a_swap(tmp_path: Path, other: Node) -> list[tuple[str, str | None]]:
    """Compare a file with one below it that has become something else since the walk saw it."""
    layers = make_layers(tmp_path, {"f": "content", "elsewhere": "CONTENT"}, {"f": "CONTENT"})
    cautions = Cautions()
    versions = next(found for found in in_tree_order(Walker(stack_of(layers)).walk()) if found.path == "f")
    (layers[0] / "f").unlink()
    make_layers(tmp_path / "new", {"f": other})[0].joinpath("f").rename(layers[0] / "f")
    assert versions.visible is not None
    assert change_of(versions, versions.visible, warn=cautions) == "modified"
    return [(caution.code, caution.path) for caution in cautions]


@pytest.mark.parametrize("other", [symlink("elsewhere"), FIFO, DIRECTORY])
def test_file_that_becomes_something_else_is_not_read(tmp_path: Path, other: Node) -> None:
    assert [code for code, _ in cautions_of_a_swap(tmp_path, other)] == ["unreadable-file"]


def test_warning_about_a_file_names_its_whole_path(tmp_path: Path) -> None:
    assert cautions_of_a_swap(tmp_path, symlink("elsewhere")) == [("unreadable-file", str(tmp_path / "layer0/f"))]


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read everything, so be somebody else for a while."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


@pytest.mark.parametrize("jobs", [1, 2])
def test_unreadable_directory_makes_the_totals_incomplete(small_shares: None, jobs: int) -> None:
    work = Path(tempfile.mkdtemp(prefix="layerscope-walk-"))
    work.chmod(0o755)
    try:
        layers = make_layers(
            work, {f"{name}/{number}": "x" for name in "abcd" for number in range(5)}, {"b/new": ""}, family=USER
        )
        assert summarize(Walker(stack_of(layers, USER)), jobs=jobs).merged.files == 21
        (layers[0] / "b").chmod(0)
        cautions = Cautions()
        with ordinary_user():
            walker = Walker(stack_of(layers, USER), cautions)
            found = summarize(walker, jobs=jobs, warn=cautions)
        assert walker.incomplete
        assert [(caution.code, caution.path) for caution in cautions] == [
            ("unreadable-directory", str(layers[0] / "b"))
        ]
        assert found.merged.files == 16, "the other layer's file of that directory is there"
    finally:
        (work / "layer0/b").chmod(0o700)
        remove_tree(work)


# -- reading leaves no traces --------------------------------------------------------------------------------

IN_OPEN, IN_NONBLOCK = 0x20, 0o4000


@contextmanager
def opened_names(*directories: Path) -> Iterator[set[str]]:
    """Collects the names of what is opened in some directories (inotify); filled in at the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(IN_NONBLOCK)
    for watched in directories:
        assert libc.inotify_add_watch(fd, os.fsencode(watched), IN_OPEN) >= 0, os.strerror(ctypes.get_errno())
    names: set[str] = set()
    try:
        yield names
        with suppress(BlockingIOError):
            events = os.read(fd, 1 << 16)
            while events:
                *_, length = struct.unpack_from("iIII", events)
                names.add(events[16 : 16 + length].rstrip(b"\0").decode())
                events = events[16 + length :]
    finally:
        os.close(fd)


def test_fifos_sockets_and_devices_are_never_opened(tmp_path: Path) -> None:
    special: Content = {
        "d/fifo": FIFO, "d/socket": SOCKET, "d/link": symlink("fifo"), "d/file": "x", "d/same": "content",
    }  # fmt: skip
    if os.geteuid() == 0:
        special = {**special, "d/null": character(1, 3), "d/tty": character(5, 0)}
    layers = make_layers(tmp_path, special, {**special, "d/file": "y"}, family=USER)
    stack = stack_of(layers, USER)
    with opened_names(layers[0] / "d", layers[1] / "d") as names:
        summarize(Walker(stack), jobs=1)
        compare(Walker(stack.up_to(0)), Walker(stack))
    assert names - {""} <= {"file", "same"}
    assert "file" in names, "the watch sees what is opened"


def test_access_times_stay(tmp_path: Path) -> None:
    (probe,) = make_layers(tmp_path / "probe", {"x": "x"})
    os.utime(probe / "x", (1, 1))
    (probe / "x").read_text()
    if os.stat(probe / "x").st_atime == 1:
        pytest.skip("this file system is mounted with noatime")
    layers = make_layers(tmp_path, {"d/e/a": "1", "d/b": "2"}, {"d/e/a": "3", "d/b": "2"}, family=USER)
    places = [layer / path for layer in layers for path in ("", "d", "d/e", "d/e/a", "d/b")]
    for place in places:
        os.utime(place, (1, os.stat(place).st_mtime))
    stack = stack_of(layers, USER)
    summarize(Walker(stack), jobs=1)
    compare(Walker(stack.up_to(0)), Walker(stack))
    assert [place for place in places if os.stat(place).st_atime != 1] == []


# -- names ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "new\nline", "tab\there", "esc\x1b[31m", "not-utf8-\udcff\udcfe", "-rf", " ", "\\", "a:b", "a,b", "x" * 255,
    "<script>", "\u202etxt.exe", "$(id)", "é", ".wh.x", "...", "\r", "%s", "\x7f",
]  # fmt: skip


def test_hostile_names_survive(tmp_path: Path) -> None:
    layers = make_layers(
        tmp_path,
        {f"{name}/{name}": "1" for name in HOSTILE},
        {f"{name}/{name}": "22" if index % 2 else WHITEOUT for index, name in enumerate(HOSTILE)},
        family=USER,
    )
    stack = stack_of(layers, USER)
    expected = set(HOSTILE) | {f"{name}/{name}" for name in HOSTILE[1::2]}
    assert set(shown(stack)) == expected
    assert {path for path, layer in hidden(stack) if layer == 0} == {f"{name}/{name}" for name in HOSTILE}
    assert summarize(Walker(stack), jobs=1).merged.files == len(HOSTILE) // 2
