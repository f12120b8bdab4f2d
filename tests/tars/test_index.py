"""What a tar becomes as a tree: as an engine unpacks it, and of a hostile or damaged one what can be had of it."""

from __future__ import annotations

import gzip
import io
import random
import stat
import struct
import tarfile

import pytest

from layerscope.tars import index as indexes
from layerscope.tars.index import ROOT, TarIndex, read_index
from layerscope.tars.sources import Pieces, pieces
from layerscope.tars.stream import TarStream
from tests.odd_tars import LONG, REFUSED, accepted
from tests.tarlayers import Tar
from tests.tars.test_sources import Bytes

Tree = dict[str, str | int]


def index_of(tar: bytes, size: int = 1000) -> TarIndex:
    return read_index(TarStream(pieces(Bytes(tar), 0, size)), digests=False)


def tree_of(index: TarIndex) -> Tree:
    """By path: what a symlink leads to, the size of a file, ``/`` for a directory, ``-`` for a whiteout."""
    found: Tree = {}
    pending = [(ROOT, "")]
    while pending:
        directory, above = pending.pop()
        for name, number in index.children[directory].items():
            path = above + name
            if number in index.children:
                found[path] = "/!" if number in index.opaque else "/"
                pending.append((number, f"{path}/"))
            elif stat.S_ISCHR(index.modes[number]) and not index.devices.get(number):
                found[path] = "-"
            else:
                found[path] = index.targets.get(number, index.sizes[number])
    return found


def test_what_docker_loads_is_as_it_unpacks_it() -> None:
    index = index_of(accepted())
    tree = tree_of(index)
    assert {path for path in tree if "through" in path} == {
        *("usr/lib/through", "usr/through-absolute", "usr/through-up", "link-through"),
    }
    assert (tree["out"], tree["further"], tree["clean"], tree["etc/absolute"], tree["dot"]) == (1, 1, 1, 1, 1)
    assert (tree["d"], tree["e"], tree["f"], tree["g"]) == ("/", "/!", "/!", "/!")
    assert (tree["x"], tree["nowhere/gone"], tree["whiteouts/directory"], tree["lower/a"]) == (3, "-", "-", "-")
    assert tree["link-of-symlink"] == tree["dangling"] == "nothing"
    assert (tree[LONG], tree[" blank\n\x1bname"], tree["not-utf8-\udcff"]) == (1, 1, 1)
    assert stat.S_IMODE(index.modes[ROOT]) == 0o750
    assert index.notes == []
    assert not index.damaged


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("behind a symlink to nothing", {"lib": "nowhere"}),
        ("in a circle", {"a": "b", "b": "a"}),
        ("below a file", {"t": 4}),
        ("below a whiteout", {"d": "-"}),
        ("a whiteout of what is there", {"x": 3}),
        ("a whiteout of a directory that is there", {"d": "/!", "d/new": 1}),
        ("a whiteout of nothing", {}),
        ("a hard link to a lower layer", {}),
        ("a hard link to what comes later", {"a": 1}),
        ("a hard link to a directory", {"q": "/"}),
        ("an unknown type", {"k": 1}),
        ("twice", {"dup": 2}),
        ("a directory, then a file", {"t": 10}),
        ("a file, then a directory", {"t": "/", "t/in": 1}),
        ("a file of two names, then another", {"a": 2, "b": 1}),
    ],
)
def test_what_docker_refuses_is_noted_and_the_rest_read(name: str, expected: Tree) -> None:
    index = index_of(REFUSED[name].bytes())
    assert tree_of(index) == expected
    assert len(index.notes) == 1
    assert index.links == {}
    assert not index.damaged


def test_metadata_of_aufs_is_no_file() -> None:
    index = index_of(Tar().file(".wh..wh.plnk", "").file("d/.wh..wh.aufs", "").bytes())
    assert (tree_of(index), index.notes) == ({}, [])


def test_many_notes_of_a_kind_are_counted() -> None:
    tar = Tar()
    for number in range(100):
        tar.hard_link(f"h{number}", "nothing")
    index = index_of(tar.bytes())
    assert len(index.notes) == 21
    assert index.notes[-1][1].startswith("80 more paths: ")


@pytest.mark.parametrize("size", [1, 511, 512, 513, 100_000])
def test_pieces_of_any_size_give_the_same(size: int) -> None:
    tar = accepted()
    expected = tree_of(index_of(tar))
    assert tree_of(index_of(tar, size)) == expected
    assert tree_of(read_index(TarStream(Pieces(Bytes(tar), max(size, 512))), digests=False)) == expected


def test_contents_are_left_out_where_nobody_asks_for_them() -> None:
    tar = Bytes(Tar().file("large", bytes(5_000_000)).file("after", "x").bytes())
    index = read_index(TarStream(Pieces(tar, 4096)), digests=False)
    assert tree_of(index) == {"large": 5_000_000, "after": 1}
    assert tar.read < 100_000


@pytest.mark.parametrize(
    ("cut", "expected"),
    [(400, "ends in a header"), (512 + 100, "middle of a file"), (1024 + 300, "ends in a header")],
)
def test_a_tar_that_was_cut_off_is_damaged_where_it_ends(cut: int, expected: str) -> None:
    tar = Tar(tarfile.USTAR_FORMAT).file("a", "x" * 500).file("b", "y").bytes()
    for index in (index_of(tar[:cut]), read_index(TarStream(Pieces(Bytes(tar[:cut]), 512)), digests=False)):
        assert index.damaged
        assert expected in index.notes[-1][1]
        assert set(tree_of(index)) <= {"a"}


def test_a_tar_without_its_end_blocks_is_whole() -> None:
    """As Go's reader takes it."""
    tar = Tar(tarfile.USTAR_FORMAT).file("a", "x").bytes()[:1024]
    assert (tree_of(index_of(tar)), index_of(tar).notes) == ({"a": 1}, [])


def test_what_follows_the_end_is_noted() -> None:
    tar = Tar().file("a", "x").bytes() + Tar().file("hidden", "x").bytes()
    index = index_of(tar)
    assert tree_of(index) == {"a": 1}
    assert "follows the end" in index.notes[0][1]


def test_a_sparse_file_has_its_size_and_no_content() -> None:
    tar = Tar().file("s", "data", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": "1000000"}).bytes()
    index = index_of(tar)
    assert tree_of(index) == {"s": 1_000_000}
    assert index.sparse
    assert "sparse" in index.notes[0][1]


def header(**fields: bytes) -> bytes:
    """A header block whose fields are what nobody writes, with the right checksum."""
    block = bytearray(tarfile.TarInfo("a").tobuf(tarfile.USTAR_FORMAT))
    places = {"size": 124, "mtime": 136, "uid": 108, "type": 156, "mode": 100, "devmajor": 329}
    for name, value in fields.items():
        block[places[name] : places[name] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    "tar",
    [
        header(size=b"\xff" * 12),
        header(size=b"\x80" + b"\xff" * 11),
        header(size=b"zzzzzzzzzzz\0"),
        header(size=b"77777777777\0"),
        header(type=b"L", size=b"77777777777\0"),
        header(type=b"x", size=b"00000001000\0") + b"5 path=" + bytes(505),
        header(type=b"x", size=b"00000001000\0") + b"999999999999999999999 path=a\n" + bytes(483),
        header(type=b"L", size=b"00000000000\0") * 3000,
        header()[:-1],
        b"x" * 1024,
        bytes(512) + header(),
    ],
)
def test_headers_that_nobody_writes_end_the_tree(tar: bytes) -> None:
    index = index_of(Tar(tarfile.USTAR_FORMAT).file("first", "x").bytes()[:1024] + tar + bytes(1024))
    assert index.damaged
    assert tree_of(index) == {"first": 1} or "a" in tree_of(index)


@pytest.mark.parametrize("fields", [{"mtime": b"\x80" + b"\xff" * 11}, {"uid": b"\xff" * 8}, {"mode": b"\xff" * 8}])
def test_numbers_without_bounds_are_bounded(fields: dict[str, bytes]) -> None:
    index = index_of(header(**fields) + bytes(1024))
    assert tree_of(index) == {"a": 0}


def test_random_damage_never_raises() -> None:
    chance = random.Random(7)
    tar = accepted()
    for _ in range(150):
        damaged = bytearray(tar)
        for _ in range(chance.randrange(1, 20)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        index_of(bytes(damaged[: chance.randrange(len(damaged))]), 4096)


def test_more_entries_than_are_held_end_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "MOST_ENTRIES", 10)
    tar = Tar()
    for number in range(20):
        tar.file(f"f{number}", "x")
    index = index_of(tar.bytes())
    assert index.damaged
    assert len(tree_of(index)) == 9
    assert "more than 10 entries" in index.notes[-1][1]


def test_a_deep_path_is_no_recursion() -> None:
    index = index_of(Tar().file("d/" * 3000 + "f", "x").file("e/" * 5000 + "f", "x").bytes())
    assert len(tree_of(index)) == 3001
    assert "no path that a file system has" in index.notes[0][1]


def test_devices_have_the_kernels_numbers() -> None:
    index = index_of(accepted())
    (block,) = (index.children[ROOT]["block"],)
    assert (
        index.devices[block]
        == struct.unpack("=Q", struct.pack("=Q", (300 & 0xFF) | 7 << 8 | (300 & ~0xFF) << 12))[0]
    )


def test_gzip_of_a_tar_is_no_tar() -> None:
    assert index_of(gzip.compress(io.BytesIO(accepted()).read())).damaged
