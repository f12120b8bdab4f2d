"""Where the containerd image store is, in which namespace, and what else is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from layerscope.stores import locate
from layerscope.stores.records import DataRoot
from tests.containerdroot import APP, FakeContainerd, Image
from tests.dataroot import digest
from tests.stores.offline import InProcess, Offline, failure_of


def test_containerd_beside_the_data_root(tmp_path: Path, cli: InProcess) -> None:
    store = FakeContainerd(tmp_path / "lib/containerd", tmp_path / "lib/docker")
    store.container("web", store.image(APP, [store.layer({"a": "1"})]))
    store.write()
    assert Offline(cli, tmp_path / "lib/docker").names() == (["app:1"], ["web"])


def test_containerd_root_elsewhere_is_given(tmp_path: Path, cli: InProcess) -> None:
    store = FakeContainerd(tmp_path / "elsewhere", tmp_path / "docker")
    store.container("web", store.image(APP, [store.layer({"a": "1"})]))
    store.write()
    offline = Offline(cli, tmp_path / "docker")
    answer = offline.json("ls", "--containerd-root", str(store.path))
    assert ([image["references"] for image in answer["images"]], len(answer["containers"])) == ([["app:1"]], 1)
    alone = cli.ok("ls", "--json", "--containerd-root", str(store.path)).json
    assert ([image["references"] for image in alone["images"]], alone["containers"]) == ([["app:1"]], [])
    assert [warning["code"] for warning in alone["warnings"]] == ["no-data-root"]
    by_environment = cli.ok("ls", "--json", LAYERSCOPE_CONTAINERD_ROOT=str(store.path)).json
    assert by_environment["images"] == alone["images"]


def test_remapped_engine_has_a_namespace_of_its_own(tmp_path: Path, cli: InProcess) -> None:
    """Its containerd is the one of the root that its data root lies in."""
    store = FakeContainerd(
        tmp_path / "docker/containerd/daemon", tmp_path / "docker/231072.231072", "moby-231072.231072"
    )
    store.container("web", store.image(APP, [store.layer({"a": "1"})]))
    store.write()
    assert Offline(cli, tmp_path / "docker/231072.231072").names() == (["app:1"], ["web"])


def test_namespace_of_kubernetes(tmp_path: Path, cli: InProcess) -> None:
    store = FakeContainerd(tmp_path / "containerd", namespace="k8s.io")
    image = store.image(["registry.k8s.io/pause:3.8", f"sha256:{digest('config')}"], [store.layer({"pause": "p"})])
    store.snapshot("pod-rootfs", image.snapshots[0], {"new": "x"}, kind=2)
    store.meta[b"k8s.io"][b"containers"] = {
        b"pod-1": {
            b"image": b"registry.k8s.io/pause:3.8",
            b"snapshotter": b"overlayfs",
            b"snapshotKey": b"pod-rootfs",
        },
        b"other": {b"image": b"x", b"snapshotter": b"zfs", b"snapshotKey": b"x"},
    }
    store.write()
    where = ["--containerd-root", str(store.path), "--namespace", "k8s.io"]
    answer = cli.ok("ls", "--json", *where).json
    assert [image["references"] for image in answer["images"]] == [["registry.k8s.io/pause:3.8"]]
    assert [(one["name"], one["state"]) for one in answer["containers"]] == [("pod-1", "unknown")]
    assert [warning["code"] for warning in answer["warnings"]] == ["other-driver"]
    container = cli.ok("container", "pod-1", "--json", *where).json
    assert container["target"]["image_id"] == image.manifest.digest
    assert [(item["path"], item["change"]) for item in container["changes"]] == [("new", "added")]
    assert [layer["role"] for layer in container["layers"]] == ["image", "upper"]


def test_unknown_namespace_is_an_error_that_names_those_there_are(
    store: FakeContainerd, app: Image, offline: Offline
) -> None:
    store.meta[b"k8s.io"] = {b"images": {}}
    store.write()
    failure = offline.fails("ls", "--namespace", "default")
    assert "no namespace 'default'" in failure.message
    assert "k8s.io, moby" in failure.hint
    assert offline.json("ls", "--namespace", "k8s.io")["images"] == []
    assert len(offline.json("ls", "--namespace", "moby")["images"]) == 1


def test_directory_without_databases_is_no_containerd_root(tmp_path: Path, cli: InProcess) -> None:
    assert "not containerd's data" in failure_of(cli("ls", "--containerd-root", str(tmp_path))).message


def test_containerd_root_given_as_data_root_is_named_as_such(
    store: FakeContainerd, app: Image, cli: InProcess
) -> None:
    store.write()
    failure = failure_of(cli("ls", "--data-root", str(store.path)))
    assert f"--containerd-root {store.path}" in failure.hint


def test_fresh_engine_lists_nothing(store: FakeContainerd, offline: Offline) -> None:
    store.write()
    assert offline.names() == ([], [])


def test_snapshotter_that_is_not_supported_is_named(store: FakeContainerd, app: Image, offline: Offline) -> None:
    keys = store.meta[b"moby"][b"snapshots"]
    keys[b"native"] = {b"sha256:x": {b"name": b"moby/1/x"}}
    store.write()
    answer = offline.json("ls")
    assert [(warning["code"], "native" in warning["message"]) for warning in answer["warnings"]] == [
        ("unsupported-driver", True)
    ]
    del keys[b"overlayfs"]
    store.write()
    failure = offline.fails("ls")
    assert "snapshotter native" in failure.message
    assert "overlay2" in failure.hint


def test_graph_driver_that_was_left_behind_is_named(store: FakeContainerd, app: Image, offline: Offline) -> None:
    (offline.path / "image/btrfs").mkdir(parents=True)
    store.write()
    assert [code for code, _ in offline.warns("image", "app:1")] == ["unsupported-driver"]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeContainerd:
    """The system's containerd, which its configuration says is elsewhere."""
    (tmp_path / "config.toml").write_text(f'root = "{tmp_path}/system"\n')
    monkeypatch.setattr(locate, "SYSTEM_CONFIG", str(tmp_path / "config.toml"))
    return FakeContainerd(tmp_path / "system")


@pytest.mark.parametrize(
    ("info", "first"),
    [
        ({}, "docker/containerd/daemon"),  # before API 1.46
        ({"Containerd": {"Address": "/var/run/docker/containerd/containerd.sock"}}, "docker/containerd/daemon"),
        ({"Containerd": {"Address": "/run/containerd/containerd.sock"}}, "system"),
        ({"Containerd": None}, "docker/containerd/daemon"),
    ],
)
def test_containerd_of_a_running_engine_is_told_by_its_socket(
    store: FakeContainerd, system: FakeContainerd, tmp_path: Path, info: dict[str, Any], first: str
) -> None:
    places = locate.containerd_of_engine(DataRoot(str(tmp_path / "docker")), info)
    assert places[0].path == str(tmp_path / first)
    assert {place.path for place in places} == {str(store.path), str(system.path)}


def test_broken_configuration_of_containerd_leaves_its_usual_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("not toml [", "root = 3", 'root = "relative"', ""):
        (tmp_path / "config.toml").write_text(text)
        monkeypatch.setattr(locate, "SYSTEM_CONFIG", str(tmp_path / "config.toml"))
        assert locate.system_containerd().path == os.path.realpath(locate.SYSTEM_ROOT)
