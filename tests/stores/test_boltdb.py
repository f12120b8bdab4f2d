"""The bbolt reader: what it reads, what it refuses, and that a writer beside it never makes it mix two states."""

from __future__ import annotations

import itertools
import os
import random
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from layerscope.errors import CorruptStoreError, StoreBusyError
from layerscope.stores import boltdb
from layerscope.stores.boltdb import Bucket, read_bolt
from layerscope.stores.boltpages import decode_meta, fnv1a
from layerscope.stores.records import DataRoot
from tests import boltwriter
from tests.boltwriter import BoltWriter, Tree, branch, leaf, meta

Dump = dict[bytes, Any]


def dump(bucket: Bucket) -> Dump:
    return {key: dump(value) if isinstance(value, Bucket) else value for key, value in bucket.items()}


def read(path: Path) -> Dump:
    answer = read_bolt(DataRoot(str(path.parent)), path.name, dump)
    assert answer is not None
    return answer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.db"


# -- the format ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "checksum"),
    [(b"", 0xCBF29CE484222325), (b"a", 0xAF63DC4C8601EC8C), (b"foobar", 0x85944171F73967E8)],
)
def test_checksum_is_fnv1a(text: bytes, checksum: int) -> None:
    assert fnv1a(text) == checksum


META_OF_AN_ENGINE = bytes.fromhex(
    "edda0ced02000000001000000000000009000000000000000000000000000000"
    "0500000000000000100000000000000028000000000000003f4d66ac8d910690"
)


def test_meta_page_of_an_engine() -> None:
    found = decode_meta(bytes(16) + META_OF_AN_ENGINE)
    assert found is not None
    assert (found.page_size, found.root, found.high_water, found.txid) == (4096, 9, 16, 40)


@pytest.mark.parametrize("position", range(64))
def test_meta_page_with_one_wrong_byte_is_none(position: int) -> None:
    page = bytearray(bytes(16) + META_OF_AN_ENGINE)
    page[16 + position] ^= 1
    assert decode_meta(bytes(page)) is None
    assert decode_meta(bytes(page[:79])) is None


keys = some.binary(min_size=1, max_size=30)
trees = some.recursive(
    some.dictionaries(keys, some.binary(max_size=60) | some.integers(0, 9000).map(lambda size: b"x" * size)),
    lambda inner: some.dictionaries(keys, some.binary(max_size=20) | inner, max_size=6),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(before=trees, tree=trees, page_size=some.sampled_from([1024, 4096, 65536]))
def test_what_was_written_is_read(path: Path, before: Tree, tree: Tree, page_size: int) -> None:
    file = BoltWriter(path, page_size)
    file.commit(before)
    assert read(path) == before
    file.commit(tree)
    assert read(path) == tree


MANY: Tree = {b"%05d" % number: b"value %d" % number for number in range(0, 30_000, 10)}


@pytest.fixture
def many(path: Path) -> DataRoot:
    """A tree of several levels, and beside it buckets within buckets."""
    BoltWriter(path, 1024).commit(
        {b"many": MANY, b"a": {b"b": {b"c": {b"d": b"e"}}, b"empty": {}}, b"long": b"x" * 9000}
    )
    return DataRoot(str(path.parent))


def test_get_finds_what_is_there_and_nothing_else(many: DataRoot) -> None:
    def ask(root: Bucket) -> list[bytes | None]:
        bucket = root.bucket(b"many")
        assert bucket is not None
        return [bucket.get(b"%05d" % number) for number in range(30_000)]

    assert read_bolt(many, "some.db", ask) == [MANY.get(b"%05d" % number) for number in range(30_000)]


def test_buckets_are_found_by_path_and_values_are_not_buckets(many: DataRoot) -> None:
    def ask(root: Bucket) -> list[object]:
        inner = root.bucket(b"a", b"b", b"c")
        assert inner is not None
        return [
            inner.get(b"d"), inner.sequence, root.bucket(b"a", b"x", b"c"), root.bucket(b"long"),
            root.bucket(b"a", b"b", b"c", b"d", b"e"), root.get(b"a"), len(root.get(b"long") or b""),
            [key for key, _ in root.buckets()], [key for key, _ in root.values()],
        ]  # fmt: skip

    assert read_bolt(many, "some.db", ask) == [b"e", 7, None, None, None, None, 9000, [b"a", b"many"], [b"long"]]


@given(prefix=some.text("0123456789", max_size=5), start=some.text("0123456789", max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_items_have_the_prefix_and_begin_at_start(many: DataRoot, prefix: str, start: str) -> None:
    one, other = prefix.encode(), start.encode()

    def ask(root: Bucket) -> list[bytes]:
        bucket = root.bucket(b"many")
        assert bucket is not None
        return [key for key, _ in bucket.items(one, other)]

    assert read_bolt(many, "some.db", ask) == [key for key in sorted(MANY) if key.startswith(one) and key >= other]


def test_little_of_a_large_file_is_read_for_one_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    BoltWriter(path).commit({b"%06d" % number: b"x" * 3000 for number in range(1000)})
    reads: list[int] = []
    pread = os.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        reads.append(len(data := pread(fd, length, offset)))
        return data

    monkeypatch.setattr(boltdb.os, "pread", counted)
    monkeypatch.setattr(boltdb, "READ_AHEAD", 16 << 10)
    monkeypatch.setattr(boltdb, "MOST_CACHED_BYTES", 128 << 10)
    root = DataRoot(str(path.parent))
    assert read_bolt(root, path.name, lambda top: top.get(b"000777")) == b"x" * 3000
    assert sum(reads) < 100 << 10 < path.stat().st_size // 30
    reads.clear()
    assert read_bolt(root, path.name, lambda top: sum(1 for _ in top.items())) == 1000
    assert sum(reads) < 1.5 * path.stat().st_size


def test_pages_of_a_bucket_are_read_when_they_are_needed(path: Path) -> None:
    raw(path, leaf(2, [(b"a", bucket(9), True), (b"b", bucket(3), True)]), leaf(3, [A]))
    root = DataRoot(str(path.parent))
    assert read_bolt(root, path.name, lambda top: [key for key, _ in top.items()]) == [b"a", b"b"]
    assert read_bolt(root, path.name, lambda top: [key for key, _ in top.buckets(b"b")]) == [b"b"]
    with pytest.raises(CorruptStoreError, match="page 9"):
        read(path)


# -- which transaction ---------------------------------------------------------------------------------------


def spoil(path: Path, offset: int, data: bytes = b"\xff") -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("page_size", [1024, 4096, 16384, 65536])
@pytest.mark.parametrize("transactions", [1, 2])
def test_newest_whole_meta_page_counts(path: Path, page_size: int, transactions: int) -> None:
    file = BoltWriter(path, page_size)
    for number in range(1, transactions + 1):
        file.commit({b"state": b"%d" % number})
    assert read(path) == {b"state": b"%d" % transactions}
    spoil(path, file.txid % 2 * page_size + 20)
    assert read(path) == ({b"state": b"1"} if transactions > 1 else {})
    spoil(path, (file.txid + 1) % 2 * page_size + 20)
    with pytest.raises(CorruptStoreError, match="no whole meta page"):
        read(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    pace=some.lists(some.integers(0, 6), min_size=1, max_size=40),
    read_ahead=some.sampled_from([1024, 4096, 1 << 20]),
)
def test_no_answer_mixes_two_transactions(path: Path, pace: list[int], read_ahead: int) -> None:
    """A writer takes so many steps before each read of the reader; it reuses pages as soon as bbolt may."""
    file = BoltWriter(path, 1024)
    states = [{b"%d" % key: b"%d" % version * 300 for key in range(6)} for version in range(30)]
    file.commit(states[0])
    first = file.txid
    work = itertools.chain.from_iterable(file.steps(state) for state in states[1:])
    paces = iter(pace)  # then it rests
    pread = os.pread

    def beside(fd: int, length: int, offset: int) -> bytes:
        for _ in range(next(paces, 0)):
            next(work, None)
        return pread(fd, length, offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boltdb.os, "pread", beside)
        patch.setattr(boltdb, "READ_AHEAD", read_ahead)
        patch.setattr(boltdb, "_PAUSE_SECONDS", 0)
        try:
            answer = read(path)
        except StoreBusyError:
            return
    assert answer in states[: file.txid - first + 1]


def test_file_that_never_rests_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = BoltWriter(path)
    pread = os.pread

    def beside(fd: int, length: int, offset: int) -> bytes:
        file.commit({b"state": b"%d" % file.txid})
        return pread(fd, length, offset)

    monkeypatch.setattr(boltdb.os, "pread", beside)
    monkeypatch.setattr(boltdb, "_PAUSE_SECONDS", 0)
    with pytest.raises(StoreBusyError, match=str(path)):
        read(path)


# -- damage --------------------------------------------------------------------------------------------------


def raw(path: Path, *pages: bytes, root: int = 2, high_water: int | None = None, size: int = 1024) -> None:
    """A file of these pages, from page 2 on."""
    data = b"".join(page.ljust(-(-len(page) // size) * size, b"\0") for page in pages)
    water = 2 + len(data) // size if high_water is None else high_water
    path.write_bytes(
        meta(size, root, water, 2).ljust(size, b"\0") + meta(size, root, water, 1).ljust(size, b"\0") + data
    )


def bucket(root: int) -> bytes:
    return struct.pack("<QQ", root, 0)


def element(*numbers: int) -> bytes:
    return boltwriter.header(2, 2, 1) + struct.pack("<IIII", *numbers) + b"key and value"


A, B, C = (b"a", b"", False), (b"b", b"", False), (b"c", b"", False)
DEEP = 200

DAMAGED: dict[str, tuple[list[bytes], str]] = {
    "page of another id": ([leaf(5, [A])], "calls itself page 5"),
    "free page": ([boltwriter.header(2, 16, 0)], "neither a branch nor a leaf"),
    "page of two kinds": ([boltwriter.header(2, 3, 0)], "neither a branch nor a leaf"),
    "empty page": ([bytes(1024)], "calls itself page 0"),
    "more elements than fit": ([boltwriter.header(2, 2, 64)], "no room for its 64 elements"),
    "key before the elements end": ([element(0, 8, 3, 4)], "broken element 0"),
    "value behind the page": ([element(0, 16, 3, 1024)], "broken element 0"),
    "huge position": ([element(0, 2**32 - 1, 3, 0)], "broken element 0"),
    "key without bytes": ([element(0, 16, 0, 4)], "broken element 0"),
    "unknown flags": ([element(2, 16, 3, 4)], "broken element 0"),
    "overlapping elements": (
        [boltwriter.header(2, 2, 2) + struct.pack("<IIIIIIII", 0, 32, 1, 900, 0, 17, 1, 900) + b"abc"],
        "elements that overlap",
    ),
    "keys out of order": ([leaf(2, [B, A])], "keys out of order"),
    "key twice": ([leaf(2, [A, A])], "keys out of order"),
    "branch without children": ([branch(2, [])], "leads nowhere"),
    "branch with an empty child": ([branch(2, [(b"a", 3)]), leaf(3, [])], "empty leaf"),
    "child behind the high-water mark": ([branch(2, [(b"a", 3)])], "out of range"),
    "child that is a meta page": ([branch(2, [(b"a", 1)])], "out of range"),
    "child that is its own parent": ([branch(2, [(b"a", 2)])], "reached from page"),
    "children in a circle": ([branch(2, [(b"a", 3)]), branch(3, [(b"a", 2)])], "reached from page"),
    "two parents": ([branch(2, [(b"a", 3), (b"b", 3)]), leaf(3, [A])], "reached from page"),
    "child with a smaller key": ([branch(2, [(b"b", 3)]), leaf(3, [A])], "do not belong below"),
    "child with a larger key": (
        [branch(2, [(b"a", 3), (b"c", 4)]), leaf(3, [A, C]), leaf(4, [(b"d", b"", False)])],
        "do not belong below",
    ),
    "grandchild with a larger key": (
        [branch(2, [(b"a", 3), (b"b", 4)]), branch(3, [(b"a", 5)]), leaf(4, [B]), leaf(5, [A, C])],
        "do not belong below",
    ),
    "continued behind the high-water mark": ([leaf(2, [A], overflow=1)], "continued by 1 pages"),
    "continued for ever": ([leaf(2, [A], overflow=2**32 - 1)], "continued by"),
    "page within another": ([leaf(2, [(b"a", bucket(3), True)], overflow=1), leaf(3, [])], "reached from page"),
    "bucket that is cut off": ([leaf(2, [(b"a", b"short", True)])], "is cut off"),
    "inline bucket that is cut off": ([leaf(2, [(b"a", bucket(0) + b"short", True)])], "is cut off"),
    "inline bucket with a page id": ([leaf(2, [(b"a", bucket(0) + leaf(9, []), True)])], "calls itself page 9"),
    "inline branch": ([leaf(2, [(b"a", bucket(0) + branch(0, [(b"a", 2)]), True)])], "inline and holds more"),
    "bucket in an inline one": (
        [leaf(2, [(b"a", bucket(0) + leaf(0, [(b"a", bucket(2), True)]), True)])],
        "inline and holds more",
    ),
    "bucket that holds itself": ([leaf(2, [(b"a", bucket(2), True)])], "reached from page"),
    "two buckets in one place": (
        [leaf(2, [(b"a", bucket(3), True), (b"b", bucket(3), True)]), leaf(3, [])],
        "reached from page",
    ),
    "buckets in each other without end": (
        [leaf(page, [(b"a", bucket(page + 1), True)]) for page in range(2, DEEP)],
        "nested more than",
    ),
    "a tree without end": (
        [branch(page, [(b"a", page + 1)]) for page in range(2, DEEP)],
        "levels deep",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_an_error_that_names_it(path: Path, name: str) -> None:
    pages, message = DAMAGED[name]
    raw(path, *pages)
    with pytest.raises(CorruptStoreError, match=message) as error:
        read(path)
    assert str(path) in error.value.message


def test_what_the_damaged_files_are_made_of_is_sound(path: Path) -> None:
    raw(path, branch(2, [(b"a", 3), (b"b", 4)]), leaf(3, [A]), leaf(4, [B, (b"c", bucket(0) + leaf(0, [A]), True)]))
    assert read(path) == {b"a": b"", b"b": b"", b"c": {b"a": b""}}


@pytest.mark.parametrize(("root", "high_water"), [(0, 3), (1, 3), (9, 3), (2**64 - 1, 3), (2, 2**40), (2, 0)])
def test_meta_page_that_leads_nowhere_is_an_error(path: Path, root: int, high_water: int) -> None:
    raw(path, leaf(2, [A]), root=root, high_water=high_water)
    with pytest.raises(CorruptStoreError):
        read(path)


@pytest.mark.parametrize("size", [0, 1, 79, 80, 1024, 2048, 2049])
def test_truncated_file_is_an_error(path: Path, size: int) -> None:
    raw(path, leaf(2, [A]))
    os.truncate(path, size)
    with pytest.raises(CorruptStoreError):
        read(path)


def test_file_with_a_hole_of_a_terabyte_is_an_error(path: Path) -> None:
    raw(path, leaf(2, [A]))
    os.truncate(path, 1 << 40)
    with pytest.raises(CorruptStoreError, match="larger than any such record"):
        read(path)


def test_file_that_is_no_file_is_an_error_and_none_is_none(path: Path) -> None:
    root = DataRoot(str(path.parent))
    assert read_bolt(root, "some.db", dump) is None
    assert read_bolt(root, "none/some.db", dump) is None
    (path.parent / "link").symlink_to(path)
    os.mkfifo(path)
    for name in ("some.db", "link"):
        with pytest.raises(CorruptStoreError, match="not a regular file"):
            read_bolt(root, name, dump)


SMALL: Tree = {
    b"values": {b"%03d" % number: b"v" * number for number in range(120)},
    b"inline": {b"a": b"b", b"c": b"d"},
    b"long": b"x" * 5000,
    b"nested": {b"one": {b"two": {b"three": b"x" * 2000}}},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bolt") / "small.db"
    file = BoltWriter(path, 1024)
    file.commit({b"older": {b"%03d" % number: b"w" * number for number in range(100)}})
    file.commit(SMALL)
    return path.read_bytes()


EDGES = [0, 1, 2, 3, 5, 15, 16, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
spoils = some.tuples(
    some.integers(0, 60_000), some.sampled_from(EDGES) | some.integers(0, 2**64 - 1), some.sampled_from("BHIQ")
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=2000, max_examples=200)
@given(spoilt=some.lists(spoils, max_size=4), cut=some.none() | some.integers(0, 60_000))
def test_spoilt_file_gives_an_answer_or_an_error(
    path: Path, small: bytes, spoilt: list[tuple[int, int, str]], cut: int | None
) -> None:
    data = bytearray(small)
    for position, number, width in spoilt:
        size = struct.calcsize(width)
        data[(at := position % (len(data) - 8)) : at + size] = struct.pack(f"<{width}", number % 256**size)
    path.write_bytes(data[:cut])
    try:
        answer = read(path)
    except CorruptStoreError as error:
        assert str(path) in error.message
    else:
        assert weigh(answer) <= len(data)


def weigh(tree: Dump) -> int:
    return sum(len(key) + (weigh(value) if isinstance(value, dict) else len(value)) for key, value in tree.items())


def test_bytes_that_no_page_uses_do_not_matter(path: Path) -> None:
    """Free pages and the end of the file hold what was there before."""
    file = BoltWriter(path, 1024)
    file.commit({b"older": {b"%03d" % number: b"w" * number for number in range(100)}})
    file.commit(SMALL)
    free = set(range(2, file.high_water)) - file.used
    assert free
    for page in free:
        spoil(path, page * 1024, random.Random(page).randbytes(1024))
    with path.open("ab") as behind:
        behind.write(b"\xff" * 5000)
    assert read(path) == SMALL
