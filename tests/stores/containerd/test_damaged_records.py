"""Databases and snapshots that are damaged or forged."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerscope.stores.boltvalues import uvarint_of, varint_of
from tests.containerdroot import APP, FakeContainerd, Image, Node, Snapshot, uvarint, varint
from tests.stores.offline import InProcess, Offline, failure_of


def circle_of_keys(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    store.keys[low.key.encode()][b"parent"] = top.key.encode()


def circle_of_names(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    store.snapshots[low.name.encode()][b"parent"] = top.name.encode()


def own_parent(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    store.snapshots[top.name.encode()][b"parent"] = top.name.encode()


def lost_record(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    del store.snapshots[low.name.encode()]


def lost_top(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    del store.snapshots[top.name.encode()]


def no_id(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    del store.snapshots[low.name.encode()][b"id"]


def long_id(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    store.snapshots[low.name.encode()][b"id"] = b"\xff" * 4000


def path_as_id(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    store.snapshots[low.name.encode()][b"id"] = b"../../etc"


def other_id(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    store.snapshots[low.name.encode()][b"id"] = uvarint(2**64 - 1)


def lost_directory(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    shutil.rmtree(low.fs)


def linked_directory(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    shutil.rmtree(low.fs)
    low.fs.symlink_to("/etc")


def cut_short(store: FakeContainerd, low: Snapshot, top: Snapshot) -> None:
    del store.snapshots[top.name.encode()][b"parent"]
    del store.keys[top.key.encode()][b"parent"]


@pytest.mark.parametrize(
    "damage",
    [
        circle_of_keys, circle_of_names, own_parent, lost_record, lost_top, no_id, long_id, path_as_id, other_id,
        lost_directory, linked_directory, cut_short,
    ],
)  # fmt: skip
def test_damaged_snapshots_are_an_error_that_says_what(
    store: FakeContainerd,
    app: Image,
    offline: Offline,
    damage: Callable[[FakeContainerd, Snapshot, Snapshot], None],
) -> None:
    other = store.image("docker.io/library/other:1", [store.layer({"other": "1"})])
    damage(store, *app.snapshots)
    store.write()
    for target in (["image", "app:1"], ["container", "web"]):
        result = offline(*target)
        if target[0] == "image" or damage is not cut_short:
            failure_of(result)
    assert len(offline.json("image", "other:1")["layers"]) == len(other.snapshots)
    assert len(offline.json("ls")["images"]) == 2


def test_databases_that_disagree_are_a_warning(store: FakeContainerd, app: Image, offline: Offline) -> None:
    """What the snapshotter mounts decides."""
    del store.keys[app.snapshots[1].key.encode()][b"parent"]
    store.write()
    answer = offline.json("image", "app:1")
    assert [warning["code"] for warning in answer["warnings"]] == ["chain-mismatch"]
    assert len(answer["layers"]) == 2


def test_container_without_a_snapshot(store: FakeContainerd, app: Image, offline: Offline) -> None:
    identifier, top = store.container("gone", app)
    del store.keys[identifier.encode()]
    store.write()
    assert "no snapshot" in offline.fails("container", "gone").message
    assert [code for code, _ in offline.warns("ls")] == ["broken-container"]
    assert top.fs.exists()


@pytest.mark.parametrize("name", ["meta", "metadata"])
@pytest.mark.parametrize("damage", [b"", b"no database" * 1000])
def test_database_that_is_none_is_an_error(
    store: FakeContainerd, app: Image, offline: Offline, name: str, damage: bytes
) -> None:
    store.write()
    (store.meta_path if name == "meta" else store.metadata_path).write_bytes(damage)
    assert "bbolt" in offline.fails("image", "app:1").message


def test_lost_database_of_the_snapshotter_is_an_error(store: FakeContainerd, app: Image, offline: Offline) -> None:
    store.write()
    store.metadata_path.unlink()
    assert "metadata.db does not exist" in offline.fails("image", "app:1").message


def test_names_that_act_on_terminals_are_escaped(store: FakeContainerd, app: Image, offline: Offline) -> None:
    store.images["evil\x1b[2J\nname\udcff".encode("utf-8", "surrogateescape")] = {
        b"target": {b"digest": app.manifest.digest.encode()}
    }
    store.write()
    assert "\x1b" not in offline("ls").out
    assert len(offline.json("ls")["images"][0]["references"]) == 2


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_read_as_go_writes_them(number: int) -> None:
    assert varint_of(varint(number)) == number
    assert uvarint_of(uvarint(abs(number))) == abs(number)


@given(st.binary(max_size=12))
def test_bytes_that_are_no_number_are_none(data: bytes) -> None:
    number = uvarint_of(data)
    assert number is None or (0 <= number < 2**64 and len(uvarint(number)) <= len(data))


ANYTHING = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"", b"sha256:" + b"0" * 64, b"../..", b"moby/1/x", b"\x01", b"\xff" * 12]),
    st.builds(dict),
    st.builds(lambda: {b"digest": b"x", b"name": {}, b"id": {}}),
)


def places(node: Node) -> list[tuple[Node, bytes]]:
    """Every bucket and value of a tree, as the bucket that holds it and its key."""
    found = [(node, key) for key in node]
    return found + [place for value in node.values() if isinstance(value, dict) for place in places(value)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_records_of_any_shape_give_an_answer_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("any") / "docker"
    store = FakeContainerd(path / "containerd/daemon", path)
    image = store.image(APP, [store.layer({"a": "1"}), store.layer({"b": "1"})])
    store.container("web", image)
    for _ in range(data.draw(st.integers(1, 3))):
        tree = data.draw(st.sampled_from([store.meta, store.snapshots]))
        node, key = data.draw(st.sampled_from(places(tree)))
        node[key] = data.draw(ANYTHING)
    store.write()
    cli = InProcess(path.parent)
    for command in (["ls"], ["image", "app:1"], ["container", "web"]):
        result = cli(*command, "--json", "--data-root", str(path))
        if result.code:
            failure_of(result)
        else:
            cli.ok(*command, "--json", "--data-root", str(path))
    shutil.rmtree(path.parent)
