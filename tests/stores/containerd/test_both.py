"""Both image stores in one data root."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.containerdroot import APP, FakeContainerd, Image
from tests.dataroot import FakeRoot
from tests.stores.offline import Offline


@pytest.fixture
def both(tmp_path: Path) -> FakeContainerd:
    """A data root with an image and a container in each store, one name being in both."""
    classic = FakeRoot(tmp_path / "docker")
    image = classic.image(["app:1", "classic:1"], [classic.layer({"a": "1"})])
    classic.container("before", image)
    shutil.move(tmp_path / "docker/containers", tmp_path / "containers")
    store = FakeContainerd(tmp_path / "docker/containerd/daemon", tmp_path / "docker")
    shutil.copytree(tmp_path / "containers", tmp_path / "docker/containers", dirs_exist_ok=True)
    store.container("now", store.image([APP, "docker.io/library/new:1"], [store.layer({"b": "1"})]))
    store.write()
    return store


def test_both_stores_are_listed_with_their_names(both: FakeContainerd, offline: Offline) -> None:
    answer = offline.json("ls")
    assert [store["driver"] for store in answer["stores"]] == ["overlay2", "overlayfs"]
    assert sorted((image["driver"], image["references"]) for image in answer["images"]) == [
        ("overlay2", ["app:1", "classic:1"]),
        ("overlayfs", ["app:1", "new:1"]),
    ]
    assert [(one["driver"], one["name"]) for one in answer["containers"]] == [
        ("overlay2", "before"),
        ("overlayfs", "now"),
    ]
    assert answer["warnings"] == []
    lines = offline("ls").out.splitlines()
    assert lines[0].endswith("(overlay2)")
    assert lines[1].endswith("(overlayfs)")
    assert lines[3].startswith("STORE ")


def test_targets_are_found_in_either_store(both: FakeContainerd, offline: Offline) -> None:
    for kind, name, driver in (
        ("image", "classic:1", "overlay2"),
        ("image", "new:1", "overlayfs"),
        ("container", "before", "overlay2"),
        ("container", "now", "overlayfs"),
    ):
        answer = offline.json(kind, name)
        assert (answer["source"]["driver"], answer["warnings"]) == (driver, [])
    assert offline.json("diff", "classic:1", "new:1")["changes"]


def test_name_that_both_stores_have_is_ambiguous_without_an_engine(both: FakeContainerd, offline: Offline) -> None:
    failure = offline.fails("image", "app:1")
    assert "overlay2" in failure.message
    assert "overlayfs" in failure.message


def test_store_without_anything_in_it_is_not_listed(tmp_path: Path, offline: Offline, root: FakeRoot) -> None:
    """An engine that runs containerd itself has an empty one whatever its driver is."""
    store = FakeContainerd(tmp_path / "docker/containerd/daemon")
    store.meta[b"moby"][b"snapshots"] = {}
    store.write()
    root.container("web", root.image("app:1", [root.layer({"a": "1"})]))
    assert [store["driver"] for store in offline.json("ls")["stores"]] == ["overlay2"]


def test_overlay2_that_was_started_and_never_used_is_not_listed(
    store: FakeContainerd, app: Image, offline: Offline
) -> None:
    (offline.path / "image/overlay2/imagedb/content/sha256").mkdir(parents=True)
    (offline.path / "overlay2/l").mkdir(parents=True)
    store.write()
    assert [source["driver"] for source in offline.json("ls")["stores"]] == ["overlayfs"]
