"""BuildKit's records, sound and damaged, in databases made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerscope.errors import CorruptStoreError
from layerscope.model import Cautions
from layerscope.stores.buildkit import BuildCache, read_build_cache
from layerscope.stores.layerdb import LayerDb
from layerscope.stores.records import DataRoot
from tests.boltwriter import BoltWriter, Tree
from tests.dataroot import FakeRoot, StoredImage

ONE, TWO, KEY = "1" * 25, "2" * 25, "k" * 25


@pytest.fixture
def image(root: FakeRoot) -> StoredImage:
    (root.path / "buildkit").mkdir()
    return root.image("app:1", [root.layer({"a": "1"}), root.layer({"b": "2"}, buildkit=True)])


def values(**given: object) -> Tree:
    named = {name.replace("_", "."): value for name, value in given.items()}
    return {name.encode(): json.dumps({"value": value}).encode() for name, value in named.items()}


def read(root: FakeRoot, snapshots: Tree, metadata: Tree) -> tuple[BuildCache, list[str]]:
    BoltWriter(root.path / "buildkit/snapshots.db").commit(snapshots)
    BoltWriter(root.path / "buildkit/metadata_v2.db").commit({b"_main": metadata, b"_index": {}})
    return reread(root.path)


def reread(path: Path) -> tuple[BuildCache, list[str]]:
    warn = Cautions()
    data_root = DataRoot(str(path))
    cache = read_build_cache(data_root, LayerDb(data_root, "overlay2", warn), warn)
    assert {caution.code for caution in warn} <= {"broken-build-record"}
    return cache, [caution.message for caution in warn]


def test_data_root_that_never_built_has_an_empty_cache(root: FakeRoot) -> None:
    assert reread(root.path) == (BuildCache(), [])


def test_directory_of_a_snapshot(root: FakeRoot, image: StoredImage) -> None:
    """By key, by ``committed``, and for a layer of an image by layerdb."""
    below, above = image.layers
    cache, warnings = read(
        root,
        {
            ONE.encode(): {b"parent": b"", b"size": b"12"},
            TWO.encode(): {b"committed": KEY.encode(), b"chainid": above.chain_id.encode()},
            KEY.encode(): {b"iscommitted": b"", b"parent": ONE.encode()},
            below.chain_id.encode(): {},
            b"0" * 25: {b"chainid": below.chain_id.encode()},
        },
        {ONE.encode(): {}, TWO.encode(): {}, b"3" * 25: values(cache_snapshot=below.chain_id)},
    )
    assert warnings == []
    found = {snapshot.key: (snapshot.cache_id, snapshot.chain_id) for snapshot in cache.snapshots}
    assert found == {
        ONE: (ONE, None),
        TWO: (KEY, above.chain_id),
        KEY: (KEY, None),
        below.chain_id: (below.directory.cache_id, below.chain_id),
        "0" * 25: (below.directory.cache_id, below.chain_id),
    }
    assert [record.cache_id for record in cache.records] == [ONE, KEY, below.directory.cache_id]
    assert [record.size_bytes for record in cache.records] == [12, None, None]
    assert cache.snapshots[-2].parent == ONE


def test_record_without_a_snapshot_has_no_directory(root: FakeRoot, image: StoredImage) -> None:
    cache, warnings = read(root, {}, {ONE.encode(): values(cache_description="RUN x", snapshot_size=5)})
    (record,) = cache.records
    assert (record.cache_id, record.description, record.size_bytes, warnings) == (None, "RUN x", 5, [])


def test_snapshot_of_a_layer_that_layerdb_lacks_has_no_directory(root: FakeRoot, image: StoredImage) -> None:
    cache, warnings = read(root, {b"sha256:" + b"0" * 64: {}}, {})
    assert (cache.snapshots[0].cache_id, warnings) == (None, [])


def test_shared_records_are_those_of_images_and_what_lies_below(root: FakeRoot, image: StoredImage) -> None:
    above = image.layers[1]
    cache, _ = read(
        root,
        {TWO.encode(): {b"committed": KEY.encode(), b"chainid": above.chain_id.encode()}, ONE.encode(): {}},
        {TWO.encode(): values(cache_parent=ONE), ONE.encode(): values(cache_parent=ONE), KEY.encode(): values()},
    )
    assert cache.shared({above.chain_id}) == {ONE, TWO}  # type: ignore[arg-type]
    assert cache.shared(set()) == set()


@pytest.mark.parametrize("name", ["../../../etc", "", "A" * 25, "a" * 24, "sha256:x", "x/y", "\x00" * 25, "é"])
@pytest.mark.parametrize("where", ["key", "committed"])
def test_name_that_is_no_directory_is_a_warning(root: FakeRoot, image: StoredImage, name: str, where: str) -> None:
    encoded = name.encode("latin-1")
    snapshots = {encoded or b"x": {}} if where == "key" else {b"X": {b"committed": encoded}}
    cache, warnings = read(root, {**snapshots, ONE.encode(): {}}, {})
    assert sorted(str(snapshot.cache_id) for snapshot in cache.snapshots) == [ONE, "None"]
    assert len(warnings) == 1


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 100_000, b"nonsense", b'{"value":' * 100_000, b"1" * 9000])
def test_value_that_is_no_json_is_a_warning(root: FakeRoot, image: StoredImage, text: bytes) -> None:
    entry = {**values(cache_createdAt=10**18), b"cache.description": text}
    cache, warnings = read(root, {}, {ONE.encode(): entry})
    (record,) = cache.records
    assert (record.description, record.created, len(warnings)) == ("", "2001-09-09T01:46:40Z", 1)


@pytest.mark.parametrize("value", [[], {}, "x", None, True, -1, 1.5, 10**30])
def test_value_of_another_type_counts_as_none(root: FakeRoot, image: StoredImage, value: object) -> None:
    entry = values(cache_createdAt=value, snapshot_size=str(value), cache_parent=[value], cache_equalMutable={})
    cache, warnings = read(root, {}, {ONE.encode(): entry})
    (record,) = cache.records
    assert (record.created, record.size_bytes, record.parent, record.duplicate_of) == (None,) * 4
    assert warnings == []


def test_record_of_another_name_is_a_warning_and_kept(root: FakeRoot, image: StoredImage) -> None:
    cache, warnings = read(root, {}, {b"x/../y": values(), b"\xff": values()})
    assert [record.id for record in cache.records] == ["x/../y", "\\xff"]
    assert len(warnings) == 2


def test_damaged_layer_record_is_a_warning(root: FakeRoot, image: StoredImage) -> None:
    (image.layers[0].record / "cache-id").write_text("../x")
    cache, warnings = read(root, {image.layers[0].chain_id.encode(): {}}, {})
    assert (cache.snapshots[0].cache_id, len(warnings)) == (None, 1)


@pytest.mark.parametrize("name", ["snapshots.db", "metadata_v2.db"])
def test_damaged_database_is_an_error(root: FakeRoot, image: StoredImage, name: str) -> None:
    read(root, {ONE.encode(): {}}, {ONE.encode(): values()})
    (root.path / "buildkit" / name).write_bytes(b"\0" * 9000)
    with pytest.raises(CorruptStoreError, match=name):
        reread(root.path)
