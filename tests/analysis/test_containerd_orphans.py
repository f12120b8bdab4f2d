"""orphans on containerd roots made by hand: each class, and nothing is called one that may be in use."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from layerscope.analysis import containerd_orphans
from layerscope.analysis.containerd_orphans import find_containerd_orphans
from layerscope.analysis.orphans import Survey
from layerscope.analysis.purpose import Purpose
from layerscope.model import Cautions
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.disk import disks
from layerscope.stores.open import Containerd, open_store
from tests.boltwriter import BoltWriter
from tests.containerdroot import APP, FakeContainerd, Image, uvarint, varint

PROC = "nothing is mounted"
LOST = "d" * 64
BUILD = "0123456789abcdefghijklmno"


@pytest.fixture
def root(tmp_path: Path) -> FakeContainerd:
    return FakeContainerd(tmp_path / "docker/containerd/daemon", docker=tmp_path / "docker")


@pytest.fixture
def image(root: FakeContainerd) -> Image:
    return root.image(APP, [root.layer({"a": "a"}), root.layer({"b": "b"})])


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with one process, which has nothing mounted."""
    path = tmp_path / "proc"
    for name in ("self", "1"):
        (path / name / "ns").mkdir(parents=True)
        (path / name / "ns/mnt").symlink_to("mnt:[1]")
        (path / name / "mountinfo").write_text("")
    return path


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here collects garbage, so there is nothing to wait for."""
    monkeypatch.setattr(containerd_orphans, "_PATIENCE_SECONDS", 0)


def opened(root: FakeContainerd) -> ContainerdStore:
    store = open_store(str(root.docker), None, None, Cautions(), Containerd(root=str(root.path)))
    (disk,) = disks(store)
    assert isinstance(disk, ContainerdStore)
    return disk


def survey(root: FakeContainerd, proc: Path, min_age: float = 0, cautions: Cautions | None = None) -> Survey:
    root.write()
    cautions = Cautions() if cautions is None else cautions
    return find_containerd_orphans(opened(root), min_age, cautions, proc=str(proc))


def classes(found: Survey) -> dict[str, Purpose]:
    """The class of everything, by the last name in its path."""
    return {item.path.rpartition("/")[2]: item.purpose for item in found.items}


def purposes(root: FakeContainerd, proc: Path) -> dict[str, Purpose]:
    return classes(survey(root, proc))


def test_everything_in_use_has_its_class_and_its_evidence(root: FakeContainerd, image: Image, proc: Path) -> None:
    web, upper = root.container("web", image)
    found = survey(root, proc)
    by_key = {snapshot.key: found_class for snapshot, found_class in _by_snapshot(root, found).items()}
    assert by_key == {
        image.snapshots[0].key: Purpose.IMAGE,
        image.snapshots[1].key: Purpose.IMAGE,
        f"{web}-init": Purpose.INIT,
        web: Purpose.UPPER,
    }
    blobs = {Purpose.IMAGE_BLOB for _ in (image.manifest, image.config)}
    assert {item.purpose for item in found.items if item.cache_id is None} == blobs
    assert found.orphans == ()
    (item,) = (item for item in found.items if item.cache_id == str(upper.number))
    said = [(one.witness.value, one.holder, one.path) for one in item.evidence]
    assert said == [
        ("snapshot", upper.name, str(root.metadata_path)),
        ("snapshot-key", "moby", str(root.meta_path)),
        ("upper", web, str(root.meta_path)),
        ("lease", web, str(root.meta_path)),
        ("container", web, f"{root.docker}/containers/{web}"),
    ]


def _by_snapshot(root: FakeContainerd, found: Survey) -> dict[object, Purpose]:
    from tests.containerdroot import Snapshot

    numbers = {item.cache_id: item.purpose for item in found.items if item.cache_id is not None}
    return {
        Snapshot(key.decode(), record[b"name"].decode(), number, Path()): numbers[str(number)]
        for key, record in root.keys.items()
        if (number := int(record[b"name"].decode().split("/")[1]))
    }


def test_what_nothing_uses_is_named_by_what_is_left_of_it(root: FakeContainerd, image: Image, proc: Path) -> None:
    (root.directories / "77/fs").mkdir(parents=True)
    (root.directories / "new-123/fs").mkdir(parents=True)
    unkeyed = root.snapshot("forgotten", None, {"x": "x"})
    del root.keys[b"forgotten"]
    garbage = root.snapshot("nobody's", image.snapshots[-1], {"x": "x"}, kind=2)
    stray = root.blobs / hashlib.sha256(b"stray").hexdigest()
    stray.write_bytes(b"stray")
    known = root.blob(b"known, and of no image")
    found = purposes(root, proc)
    assert found == {
        "1": Purpose.IMAGE,
        "2": Purpose.IMAGE,
        str(unkeyed.number): Purpose.UNKEYED,
        str(garbage.number): Purpose.GARBAGE,
        "77": Purpose.UNREFERENCED,
        "new-123": Purpose.UNFINISHED,
        stray.name: Purpose.UNREFERENCED,
        known.path.name: Purpose.GARBAGE,
        image.manifest.path.name: Purpose.IMAGE_BLOB,
        image.config.path.name: Purpose.IMAGE_BLOB,
    }


def test_record_without_a_directory_is_left_over_only_where_nothing_uses_it(
    root: FakeContainerd, image: Image, proc: Path
) -> None:
    gone = root.snapshot("gone", None, {})
    gone.fs.rmdir()
    gone.fs.parent.rmdir()
    base = image.snapshots[0].fs
    (base / "a").unlink()
    base.rmdir()
    base.parent.rmdir()
    found = survey(root, proc)
    (item,) = found.orphans
    assert (item.cache_id, item.purpose, item.allocated_bytes) == (str(gone.number), Purpose.GARBAGE, None)
    assert item.signs[-1] == f"its directory {gone.number} is gone; the record of gone is left"


def test_leases_labels_and_other_namespaces_keep_things(root: FakeContainerd, image: Image, proc: Path) -> None:
    leased = root.snapshot("leased", None, {"x": ""})
    above = root.snapshot("above", leased, {"x": ""})
    root.lease("pull", ["above"])
    labelled = root.snapshot("labelled", None, {"x": ""})
    root.label(root.keys[b"labelled"], "containerd.io/gc.root", "2026-01-01T00:00:00Z")
    expired = root.snapshot("expired", None, {"x": ""})
    root.lease("old", ["expired"], gc__expire="2020-01-01T00:00:00Z")
    root.meta[b"k8s.io"] = {
        b"snapshots": {b"overlayfs": {b"pod": {b"name": b"k8s.io/9/pod"}}},
        b"containers": {b"pod-1": {b"snapshotter": b"overlayfs", b"snapshotKey": b"pod"}},
    }
    root.snapshots[b"k8s.io/9/pod"] = {b"id": uvarint(90), b"kind": b"\x02"}
    (root.directories / "90/fs").mkdir(parents=True)
    found = purposes(root, proc)
    assert found[str(above.number)] == found[str(leased.number)] == found[str(labelled.number)] == Purpose.HELD
    assert found["90"] == Purpose.UPPER
    assert found[str(expired.number)] == Purpose.GARBAGE


def test_lease_whose_container_or_build_is_gone_is_leaked(root: FakeContainerd, image: Image, proc: Path) -> None:
    root.container("alive", image)
    init = root.snapshot(f"{LOST}-init", image.snapshots[-1], {".dockerenv": ""})
    upper = root.snapshot(LOST, init, {"written": "x"}, kind=2)
    root.lease(LOST, [LOST, f"{LOST}-init"])
    build, kept = (root.snapshot(name, None, {"x": ""}) for name in (BUILD, BUILD[::-1]))
    for name in (BUILD, BUILD[::-1]):
        root.lease(name, [name])
    assert purposes(root, proc)[str(build.number)] == Purpose.HELD  # nothing says which records there are
    assert root.docker is not None
    metadata = root.docker / "buildkit/containerd-overlayfs/metadata_v2.db"
    metadata.parent.mkdir(parents=True)
    BoltWriter(metadata).commit({b"_main": {BUILD[::-1].encode(): {b"cache.description": b'{"value": "x"}'}}})
    found = purposes(root, proc)
    assert found[str(upper.number)] == Purpose.LEAKED_UPPER
    assert found[str(init.number)] == Purpose.LEAKED_INIT
    assert found[str(build.number)] == Purpose.LEAKED_LEASE
    assert found[str(kept.number)] == Purpose.BUILD


def test_downloads(root: FakeContainerd, image: Image, proc: Path) -> None:
    ingests = root.path / "io.containerd.content.v1.content/ingest"
    for ref, expires in (("running", 1 << 40), ("old", 1)):
        name = hashlib.sha256(f"moby/1/{ref}".encode()).hexdigest()
        (ingests / name).mkdir(parents=True)
        time = bytes([1]) + (62_135_596_800 + expires).to_bytes(8, "big") + bytes(4) + b"\xff\xff"
        record = {b"ref": f"moby/1/{ref}".encode(), b"expireat": time}
        root.meta[b"moby"][b"content"][b"ingests"][ref.encode()] = record
    (ingests / "stray").mkdir()
    found = {path.rpartition("/ingest/")[2]: one for path, one in _by_path(survey(root, proc)).items()}
    assert found[hashlib.sha256(b"moby/1/running").hexdigest()] == Purpose.DOWNLOAD
    assert found[hashlib.sha256(b"moby/1/old").hexdigest()] == Purpose.GARBAGE
    assert found["stray"] == Purpose.UNFINISHED


def _by_path(found: Survey) -> dict[str, Purpose]:
    return {item.path: item.purpose for item in found.items}


def test_container_below_whose_image_is_gone_keeps_its_layers(
    root: FakeContainerd, image: Image, proc: Path
) -> None:
    root.container("web", image)
    root.images.clear()
    found = purposes(root, proc)
    assert (found["1"], found["2"]) == (Purpose.LOWER, Purpose.LOWER)
    root.leases.clear()  # what containerd would take, the container still stands on
    found = purposes(root, proc)
    assert [found[name] for name in "1234"] == [Purpose.LOWER, Purpose.LOWER, Purpose.INIT, Purpose.UPPER]


@pytest.mark.parametrize("what", ["meta", "metadata", "containers", "builds", "record", "mounts"])
def test_where_a_source_cannot_be_read_nothing_is_called_an_orphan(
    root: FakeContainerd, image: Image, proc: Path, what: str
) -> None:
    root.container("web", image)
    (root.directories / "77/fs").mkdir(parents=True)
    root.write()
    disk = opened(root)
    assert root.docker is not None
    if what in ("meta", "metadata"):
        (root.meta_path if what == "meta" else root.metadata_path).write_bytes(b"x" * 9000)
    elif what == "containers":
        (root.docker / "containers").rename(root.docker / "elsewhere")
    elif what == "builds":
        broken = root.docker / "buildkit/containerd-overlayfs/metadata_v2.db"
        broken.parent.mkdir(parents=True)
        broken.write_bytes(b"no database")
    elif what == "record":
        root.snapshots[b"moby/9/damaged"] = {b"id": b""}
        root.write()
    else:
        (proc / "1/ns/mnt").unlink()
        (proc / "1/ns/mnt").symlink_to("mnt:[2]")
        (proc / "1/mountinfo").unlink()
        (proc / "1/mountinfo").mkdir()
    cautions = Cautions()
    found = find_containerd_orphans(disk, 0, cautions, proc=str(proc))
    assert found.orphans == ()
    (item,) = (item for item in found.items if item.path.endswith("/77"))
    assert (item.purpose, item.suspected) == (Purpose.UNKNOWN, Purpose.UNREFERENCED)
    assert "unreadable-source" in {caution.code for caution in cautions}


def test_young_directory_is_not_judged(root: FakeContainerd, image: Image, proc: Path) -> None:
    (root.directories / "77/fs").mkdir(parents=True)
    found = survey(root, proc, min_age=600)
    (item,) = (item for item in found.items if item.path.endswith("/77"))
    assert (item.purpose, item.suspected) == (Purpose.YOUNG, Purpose.UNREFERENCED)


@pytest.mark.parametrize("bound", [False, True])
def test_live_mount_keeps_a_snapshot(root: FakeContainerd, image: Image, proc: Path, bound: bool) -> None:
    below = root.snapshot("nobody's", None, {"x": ""})
    top = root.snapshot("view", below, {"x": ""}, kind=2)
    if bound:
        line = f"50 29 8:1 {root.directories}/{top.number}/fs /mnt/x rw - ext4 /dev/sda rw\n"
    else:
        lower, upper = (root.directories / str(one.number) / "fs" for one in (below, top))
        line = f"50 29 0:44 / /mnt/x rw - overlay overlay rw,lowerdir={lower},upperdir={upper},workdir=/w\n"
    (proc / "1/mountinfo").write_text(line)
    (proc / "self/mountinfo").write_text(line)
    found = purposes(root, proc)
    assert found[str(top.number)] == Purpose.MOUNTED
    assert found[str(below.number)] == (Purpose.GARBAGE if bound else Purpose.MOUNTED)


def test_init_layers_that_the_legacy_builder_left_in_an_image_are_the_images(
    root: FakeContainerd, image: Image, proc: Path
) -> None:
    between = root.snapshot(f"{LOST}-init", image.snapshots[-1], {".dockerenv": ""})
    top = root.snapshot("sha256:" + "e" * 64, between, {"x": ""})
    config = root.blob(b"{}", gc__ref__snapshot__overlayfs=top.key)
    root.name("docker.io/library/classic:1", root.blob(b"{ }", gc__ref__content__config=config.digest))
    found = purposes(root, proc)
    assert (found[str(between.number)], found[str(top.number)]) == (Purpose.IMAGE, Purpose.IMAGE)


def test_sizes_are_in_a_record_as_zigzag(root: FakeContainerd) -> None:
    from layerscope.stores.containerd_records import read_all_snapshots
    from layerscope.stores.records import DataRoot

    root.snapshot("one", None, {})
    root.snapshots[b"moby/1/one"] |= {b"size": varint(36864), b"inodes": varint(8)}
    root.write()
    found = read_all_snapshots(DataRoot(str(root.path))) or {}
    assert [(one.size_bytes, one.inodes, one.key) for one in found.values()] == [(36864, 8, "one")]
