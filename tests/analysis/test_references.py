"""Who refers to a directory of ``overlay2/``, in data roots made by hand: every witness, and each that is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from layerscope.analysis.references import References, Verdict, find_references
from layerscope.model import CacheId
from layerscope.stores import livemounts
from layerscope.stores.records import DataRoot
from tests.boltwriter import BoltWriter
from tests.dataroot import FakeRoot, StoredContainer, StoredImage, write

BUILT, CACHED = "b" * 25, "c" * 25
LOST = CacheId("d" * 64)
LAYERDB = "image/overlay2/layerdb"


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    made = FakeRoot(tmp_path / "docker")
    for name in (BUILT, CACHED, LOST):
        (made.overlay2 / name / "diff").mkdir(parents=True)
    (made.path / "buildkit").mkdir()
    BoltWriter(made.path / "buildkit/snapshots.db").commit(
        {b"k" * 25: {b"committed": BUILT.encode()}, CACHED.encode(): {}}
    )
    BoltWriter(made.path / "buildkit/metadata_v2.db").commit({b"_main": {b"k" * 25: {}}})
    return made


@pytest.fixture
def image(root: FakeRoot) -> StoredImage:
    return root.image("app:1", [root.layer({"a": "1"}), root.layer({"b": "2"}, buildkit=True)])


@pytest.fixture
def web(root: FakeRoot, image: StoredImage) -> StoredContainer:
    return root.container("web", image)


@pytest.fixture(autouse=True)
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc without a process; ``self`` sees no mounts."""
    made = tmp_path / "proc"
    process(made, "self", "mnt:[1]")
    find = livemounts.mounted_evidence
    monkeypatch.setattr("layerscope.analysis.references.mounted_evidence", lambda root: find(root, str(made)))
    return made


def process(proc: Path, name: str, namespace: str, *mounts: str, comm: str = "x") -> Path:
    (proc / name / "ns").mkdir(parents=True)
    (proc / name / "ns/mnt").symlink_to(namespace)
    lines = (
        f"36 35 0:50 / {point} rw - overlay overlay {options}" for point, options in (m.split(" ") for m in mounts)
    )
    write(proc / name / "mountinfo", "\n".join(["25 1 8:1 / / rw - ext4 /dev/sda1 rw", *lines, ""]))
    write(proc / name / "comm", f"{comm}\n")
    return proc / name


def find(root: FakeRoot) -> References:
    return find_references(DataRoot(str(root.path)))


def said(references: References, cache_id: str) -> list[tuple[str, str]]:
    return sorted((item.witness.value, item.holder) for item in references.of(CacheId(cache_id)))


def test_every_witness_is_heard(root: FakeRoot, image: StoredImage, web: StoredContainer) -> None:
    references = find(root)
    assert references.unreadable == ()
    for layer in image.layers:
        assert said(references, layer.directory.cache_id) == [("layer", layer.chain_id)]
    assert said(references, web.upper.cache_id) == [("container", web.id), ("upper", web.id)]
    assert said(references, web.init.cache_id) == [("container", web.id), ("init", web.id)]
    assert said(references, BUILT) == [("build-record", "k" * 25), ("build-snapshot", "k" * 25)]
    assert said(references, CACHED) == [("build-snapshot", CACHED)]
    assert said(references, LOST) == []
    verdicts = {
        path.name: references.verdict(CacheId(path.name)) for path in root.overlay2.iterdir() if path.name != "l"
    }
    assert {name for name, verdict in verdicts.items() if verdict is not Verdict.REFERENCED} == {LOST}
    assert verdicts[LOST] is Verdict.UNREFERENCED
    for items in references.evidence.values():
        assert all(os.path.exists(item.path) for item in items)


def test_mount_without_its_container_is_no_evidence_of_one(root: FakeRoot, web: StoredContainer) -> None:
    shutil.rmtree(web.config.parent)
    assert said(find(root), web.upper.cache_id) == [("upper", web.id)]


def test_interrupted_work_is_named_as_such(root: FakeRoot, image: StoredImage) -> None:
    layer = image.layers[1]
    removed = layer.record.rename(layer.record.with_name(f"{layer.record.name}-123-removing"))
    write(root.layerdb / "tmp/write-set-1/cache-id", LOST)
    (root.layerdb / "tmp/write-set-2").mkdir()
    write(root.layerdb / "tmp/write-set-3/cache-id", "")
    (root.layerdb / "mounts/empty").mkdir()
    references = find(root)
    assert said(references, layer.directory.cache_id) == [("removed-layer", removed.name)]
    assert said(references, LOST) == [("unfinished-layer", "write-set-1")]
    assert references.unreadable == ()


LOSSES: dict[str, Callable[[FakeRoot, StoredImage, StoredContainer], object]] = {
    "cache-id is gone": lambda root, image, web: (image.layers[0].record / "cache-id").unlink(),
    "cache-id is a path": lambda root, image, web: write(image.layers[0].record / "cache-id", "../../etc"),
    "cache-id is empty": lambda root, image, web: write(image.layers[0].record / "cache-id", ""),
    "mount-id is gone": lambda root, image, web: (web.mount / "mount-id").unlink(),
    "init-id is garbage": lambda root, image, web: write(web.mount / "init-id", "x" * 64),
    "a mount is a file": lambda root, image, web: write(root.layerdb / "mounts/file", ""),
    "layerdb is gone": lambda root, image, web: shutil.rmtree(root.layerdb),
    "layerdb is a symlink": lambda root, image, web: turn_into_link(root.layerdb),
    "mounts are a symlink": lambda root, image, web: turn_into_link(root.layerdb / "mounts"),
    "containers are gone": lambda root, image, web: shutil.rmtree(root.path / "containers"),
    "buildkit is gone": lambda root, image, web: shutil.rmtree(root.path / "buildkit"),
    "buildkit is a symlink": lambda root, image, web: turn_into_link(root.path / "buildkit"),
    "snapshots are gone": lambda root, image, web: (root.path / "buildkit/snapshots.db").unlink(),
    "snapshots are damaged": lambda root, image, web: write(root.path / "buildkit/snapshots.db", "x" * 9000),
    "metadata is damaged": lambda root, image, web: write(root.path / "buildkit/metadata_v2.db", "x" * 9000),
    "a snapshot has a strange name": lambda root, image, web: rename_snapshot(root, b"../x"),
}  # fmt: skip


def rename_snapshot(root: FakeRoot, name: bytes) -> None:
    BoltWriter(root.path / "buildkit/snapshots.db").commit({name: {}})


def turn_into_link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("aside")))


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_unreferenced_where_a_source_is_lost(
    root: FakeRoot, image: StoredImage, web: StoredContainer, loss: str
) -> None:
    LOSSES[loss](root, image, web)
    references = find(root)
    assert references.unreadable
    assert references.verdict(LOST) is Verdict.UNKNOWN
    left = {path.name for path in root.overlay2.iterdir()} - {"l"}
    assert Verdict.UNREFERENCED not in {references.verdict(CacheId(name)) for name in left}


@pytest.mark.parametrize("loss", ["cache-id is gone", "a mount is a file", "init-id is garbage"])
def test_loss_of_one_record_costs_no_other(
    root: FakeRoot, image: StoredImage, web: StoredContainer, loss: str
) -> None:
    LOSSES[loss](root, image, web)
    for cache_id in (image.layers[1].directory.cache_id, web.upper.cache_id, BUILT):
        assert find(root).verdict(CacheId(cache_id)) is Verdict.REFERENCED


def test_data_root_without_any_build_needs_no_databases(tmp_path: Path) -> None:
    root = FakeRoot(tmp_path / "plain")
    root.image("app:1", [root.layer({"a": "1"})])
    assert find(root).unreadable == ()


# -- live mounts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["upperdir", "lowerdir", "link", "relative", "relative link", "workdir"])
def test_live_mount_in_another_namespace_refers(
    root: FakeRoot, image: StoredImage, proc: Path, spelling: str
) -> None:
    layer = image.layers[0].directory
    base = root.overlay2
    options = {
        "upperdir": f"rw,lowerdir=/x,upperdir={base}/{LOST}/diff,workdir=/w",
        "workdir": f"rw,lowerdir=/x,upperdir=/x,workdir={base}/{LOST}/work",
        "lowerdir": f"ro,lowerdir=/x:{base}/{LOST}/diff:/y",
        "link": f"ro,lowerdir=/x:{base}/l/{layer.link_id}",
        "relative": f"ro,lowerdir=l/ABC:{LOST}/diff",
        "relative link": f"ro,lowerdir=/x:l/{layer.link_id}",
    }[spelling]
    process(proc, "77", "mnt:[2]", f"/mnt/point {options}")
    process(proc, "78", "mnt:[2]", f"/mnt/point {options}")
    references = find(root)
    expected = layer.cache_id if "link" in spelling else LOST
    assert ("mount", "/mnt/point") in said(references, expected)
    paths = [item.path for item in references.of(CacheId(expected)) if item.witness == "mount"]
    assert paths == [f"{proc}/77/mountinfo"]


def test_mounts_of_another_data_root_and_nonsense_refer_to_nothing(root: FakeRoot, proc: Path) -> None:
    other = f"/elsewhere/overlay2/{LOST}/diff"
    nonsense = f"rw,lowerdir={root.overlay2}/..,upperdir={root.overlay2},workdir={root.overlay2}/l"
    process(proc, "77", "mnt:[2]", f"/a ro,lowerdir=/x:{other}", "/b rw", f"/c {nonsense}", "/d ro,lowerdir=::::")
    (proc / "88").mkdir()
    assert said(find(root), LOST) == []
    assert find(root).verdict(LOST) is Verdict.UNREFERENCED


def test_mounts_that_nobody_may_read_leave_it_open(root: FakeRoot, proc: Path) -> None:
    (proc / "self/mountinfo").unlink()
    (proc / "self/mountinfo").mkdir()
    assert find(root).verdict(LOST) is Verdict.UNKNOWN
    shutil.rmtree(proc)
    assert find(root).verdict(LOST) is Verdict.UNKNOWN


@pytest.mark.parametrize(("comm", "verdict"), [("dockerd", Verdict.UNKNOWN), ("other", Verdict.UNREFERENCED)])
def test_engine_that_may_not_be_looked_into_leaves_it_open(
    root: FakeRoot, proc: Path, comm: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = process(proc, "77", "mnt:[2]", comm=comm)
    readlink = os.readlink

    def refused(name: str, **options: int) -> str:
        if name == f"{path}/ns/mnt":
            raise PermissionError(13, "Permission denied")
        return readlink(name, **options)

    monkeypatch.setattr(os, "readlink", refused)
    assert find(root).verdict(LOST) is verdict
