"""The walk itself: sums that must add up, any depth, few descriptors, little memory, nothing opened or touched."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import struct
import subprocess
import tempfile
import tracemalloc
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from layerscope.analysis import summary as counting
from layerscope.analysis.compare import compare
from layerscope.analysis.summary import summarize
from layerscope.analysis.totals import Summary
from layerscope.model import Cautions
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import PathVersions
from layerscope.overlay.walk import Walker, in_tree_order
from tests.kernel import remove_tree, stack_of
from tests.layers import (
    FIFO,
    OPAQUE,
    SOCKET,
    WHITEOUT,
    Content,
    HardLink,
    character,
    directory,
    hidden,
    make_layers,
    shown,
    symlink,
    walk,
)
from tests.overlay.conftest import assert_hiders_agree_with_heights
from tests.random_layers import USER, Drawn, contents, contents_with_redirects, quick, stack_from

# -- sums ----------------------------------------------------------------------------------------------------


@quick
@given(contents)
def test_bytes_of_all_layers_are_merged_and_hidden_bytes(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        found = summarize(Walker(stack), jobs=1)
    total = sum(totals.size_bytes for totals in found.layers)
    assert total == found.merged.size_bytes + sum(amount.size_bytes for amount in found.hidden.values())
    assert_hidden_adds_up(found)


@quick
@given(contents_with_redirects)
def test_hidden_bytes_are_the_same_by_reason_by_layer_and_by_who_hides_them(
    layers: list[Drawn],
) -> None:
    with stack_from(layers) as stack:
        found = summarize(Walker(stack), jobs=1)
    assert_hidden_adds_up(found)


def assert_hidden_adds_up(found: Summary) -> None:
    for amount in ("files", "size_bytes"):
        by_reason = sum(getattr(hidden, amount) for hidden in found.hidden.values())
        assert by_reason == sum(getattr(layer.hidden, amount) for layer in found.layers)
        assert by_reason == sum(getattr(layer.hides, amount) for layer in found.layers)


@quick
@given(contents)
def test_sums_are_those_of_the_version_stream(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        found = summarize(Walker(stack), jobs=1)
        stream = walk(stack)
    visible = [versions.visible for versions in stream if versions.visible is not None]
    kinds = [version.entry.kind for version in visible]
    merged = found.merged
    assert merged.files == kinds.count(Kind.FILE)
    assert merged.directories == kinds.count(Kind.DIRECTORY)
    assert merged.symlinks == kinds.count(Kind.SYMLINK)
    assert merged.other == len(kinds) - merged.files - merged.directories - merged.symlinks
    inodes = {
        (version.entry.stat.st_dev, version.entry.stat.st_ino): version.entry.stat.st_size
        for version in visible
        if not version.entry.is_directory
    }
    assert merged.size_bytes == sum(inodes.values())
    files = [
        version
        for versions in stream
        for version in versions.versions
        if version.hidden_by is not None and version.entry.kind not in (Kind.DIRECTORY, Kind.WHITEOUT)
    ]
    assert sum(amount.files for amount in found.hidden.values()) == len(files)


@settings(quick, max_examples=12)
@given(contents)
def test_allocated_bytes_of_a_layer_are_what_du_counts(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        found = summarize(Walker(stack), jobs=1)
        for layer, totals in zip(stack, found.layers, strict=True):
            counted = subprocess.run(
                ["du", "-s", "--block-size=1", layer.diff_dir], capture_output=True, check=True, text=True
            )
            assert totals.allocated_bytes == int(counted.stdout.split()[0])


@quick
@given(contents)
def test_first_layer_that_hides_a_version_is_named(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        assert_hiders_agree_with_heights(stack)


@quick
@given(contents_with_redirects)
def test_stream_is_in_tree_order_and_names_every_entry(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        stream = walk(stack)
        on_disk = {
            (layer.index, os.path.relpath(os.path.join(base, name), layer.diff_dir))
            for layer in stack
            for base, directories, files in os.walk(layer.diff_dir)
            for name in directories + files
        }
    order = [[os.fsencode(name) for name in versions.path.split("/")] for versions in stream]
    assert order == sorted(order), "a directory, then its children by name, bytewise"
    assert len({versions.path for versions in stream}) == len(stream)
    at_home = [(v.layer, versions.path) for versions in stream for v in versions.versions if not v.moved]
    assert sorted(at_home) == sorted(on_disk), "each entry of each layer once"


# -- several processes ---------------------------------------------------------------------------------------


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few dozen paths keep several workers busy."""
    monkeypatch.setattr(counting, "ALONE_UP_TO", 5)
    monkeypatch.setattr(counting, "SHARE", 7)


BUSY: tuple[Content, ...] = (
    {f"d{i}/e{j}/{k}": f"{i}{j}{k}" * i for i in range(4) for j in range(3) for k in range(4)} | {"x": "1"},
    {"d0": OPAQUE, "d0/e0/new": "2", "d1": WHITEOUT, "d2/e1": "file", "x": WHITEOUT, "d3/h": HardLink("d2/e1")},
    {"d1/e0/0": "again", "d4": directory(redirect=b"/d3"), "d3": WHITEOUT, "d2/e0/0": "changed", "y/x": "3"},
)


@pytest.mark.parametrize("jobs", [2, 3])
def test_more_processes_find_the_same(tmp_path: Path, small_shares: None, jobs: int) -> None:
    stack = stack_of(make_layers(tmp_path, *BUSY, family=USER), USER, follow_redirects=True)
    alone, together = (summarize(Walker(stack), jobs=count) for count in (1, jobs))
    assert together == alone
    assert alone.merged.files > 20


@settings(quick, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents_with_redirects)
def test_random_stacks_are_the_same_in_two_processes(small_shares: None, layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        assert summarize(Walker(stack), jobs=2) == summarize(Walker(stack), jobs=1)


def test_frames_sent_to_another_process_give_the_same_versions(tmp_path: Path) -> None:
    stack = stack_of(make_layers(tmp_path, *BUSY, family=USER), USER, follow_redirects=True)
    here, there = Walker(stack), Walker(stack)
    listed = [facts(listing.paths()) for listing in here.walk()]
    pending = [there.root_frame]
    sent = []
    while pending:
        listing = there.listing(there.unpack(there.pack(pending.pop())))
        pending += reversed(there.children(listing))
        sent.append(facts(listing.paths()))
    assert sent == listed


def facts(stream: list[PathVersions]) -> list[tuple[object, ...]]:
    """The stream without descriptors: comparable between walks."""
    return [
        (versions.path, versions.error, v.layer, v.source, v.since, v.visible, v.hidden_by, v.moved, v.entry.marks)
        for versions in stream
        for v in versions.versions
    ]


# -- depth, descriptors, memory ------------------------------------------------------------------------------

DEPTH = 3000


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[list[Path]]:
    """Two layers as deep as paths can't be; the top one changes a file at the bottom."""
    layers = [tmp_path / "base", tmp_path / "top"]
    for layer in layers:
        layer.mkdir()
        fd = os.open(layer, os.O_RDONLY)
        for _ in range(DEPTH):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "w") as made:
            made.write(layer.name)
        with suppress(OSError):
            os.setxattr(fd, "user.overlay.opaque", b"x")
        os.close(fd)
    yield layers
    for layer in layers:
        subprocess.run(["rm", "-r", str(layer)], check=True)


def test_tree_deeper_than_any_path(deep: list[Path]) -> None:
    stack = stack_of(deep, USER)
    cautions = Cautions()
    walker = Walker(stack, cautions)
    found = summarize(walker, jobs=1)
    assert (found.merged.directories, found.merged.files) == (DEPTH, 1)
    assert [layer.size_bytes for layer in found.layers] == [4, 3]
    assert list(cautions) == []
    differences = compare(Walker(stack.up_to(0)), walker)
    assert [d.path.count("/") for d in differences][-1] == DEPTH
    (last,) = deque(in_tree_order(walker.walk()), maxlen=1)
    assert [version.layer for version in last.versions] == [1, 0]


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
    path = "/".join("abcdefghijklmnopqrst")
    layers = make_layers(tmp_path, *({f"{path}/{index}": "x", f"w{index}/y/z": "x"} for index in range(24)))
    with limit(64):
        stack = stack_of(layers)
        cautions = Cautions()
        found = summarize(Walker(stack, cautions), jobs=jobs, warn=cautions)
        differences = compare(Walker(stack.up_to(3), cautions), Walker(stack, cautions), cautions)
    assert found.merged.files == 48
    assert len([d for d in differences if d.kind is Kind.FILE]) == 40
    assert list(cautions) == []


def test_memory_follows_depth_and_fan_out_not_the_number_of_files(tmp_path: Path) -> None:
    def peak(levels: int) -> tuple[int, int]:
        root = tmp_path / str(levels)
        leaves = [root]
        for _ in range(levels):
            leaves = [leaf / name for leaf in leaves for name in "abcd"]
        for leaf in leaves:
            leaf.mkdir(parents=True)
            for name in "1234":
                (leaf / name).touch()
        walker = Walker(stack_of([root], USER))
        tracemalloc.start()
        seen = sum(1 for _ in in_tree_order(walker.walk()))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return seen, most

    few, small = peak(2)
    many, large = peak(4)
    assert many > 15 * few
    assert large < 3 * small


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
