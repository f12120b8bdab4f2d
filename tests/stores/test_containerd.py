"""The containerd image store on disk: whole ones in all shapes, and what hostile or damaged ones do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerscope.stores.boltvalues import uvarint_of, varint_of
from tests.containerdroot import FakeContainerd, Image, Node, Snapshot, uvarint, varint
from tests.dataroot import OPAQUE, WHITEOUT, FakeRoot, digest
from tests.stores.offline import InProcess, Offline, failure_of

APP = "docker.io/library/app:1"


@pytest.fixture
def store(tmp_path: Path) -> FakeContainerd:
    """An engine's own containerd, below its data root."""
    docker = tmp_path / "docker"
    return FakeContainerd(docker / "containerd/daemon", docker)


@pytest.fixture
def offline(cli: InProcess, tmp_path: Path) -> Offline:
    """layerscope on that data root."""
    return Offline(cli, tmp_path / "docker")


@pytest.fixture
def app(store: FakeContainerd) -> Image:
    """An image of two layers, and a container of it."""
    base = store.layer({"etc/passwd": "root", "old": "12345", "d/a": "1"})
    top = store.layer({"old": WHITEOUT, "d": OPAQUE, "d/b": "22"})
    image = store.image(APP, [base, top])
    store.container("web", image, upper={"etc/passwd": "other", "new": "x"}, Running=True)
    return image


# -- whole ones ----------------------------------------------------------------------------------------------


def test_image_has_the_ids_and_directories_of_its_snapshots(
    store: FakeContainerd, app: Image, offline: Offline
) -> None:
    store.write()
    answer = offline.json("image", "app:1")
    assert answer["source"] == {
        "kind": "data-root",
        "driver": "overlayfs",
        "data_root": str(offline.path),
        "containerd_root": str(store.path),
        "in_use": None,
    }
    assert answer["target"]["id"] == app.manifest.digest
    assert answer["target"]["references"] == ["app:1"]
    for layer, snapshot in zip(answer["layers"], app.snapshots, strict=True):
        assert layer["diff_dir"] == str(snapshot.fs)
        assert layer["cache_id"] == str(snapshot.number)
        assert layer["snapshot"] == layer["chain_id"] == snapshot.key
        assert layer["role"] == "image"
    assert [layer["created_by"] for layer in answer["layers"]] == ["RUN step 0", "RUN step 1"]
    assert answer["hidden"]["files"] == 2
    assert answer["warnings"] == []


@pytest.mark.parametrize(
    "name", ["app", "app:1", "docker.io/library/app:1", "{id}", "{hex}", "{short}", "app@{id}", "image:app:1"]
)
def test_image_is_found_by_any_of_its_names(store: FakeContainerd, app: Image, offline: Offline, name: str) -> None:
    store.name("docker.io/library/app:latest", app.manifest)
    store.write()
    hexadecimal = app.manifest.digest.removeprefix("sha256:")
    text = name.format(id=app.manifest.digest, hex=hexadecimal, short=hexadecimal[:12])
    assert offline.json("image", text)["target"]["id"] == app.manifest.digest


def test_digest_of_an_image_goes_with_its_own_repository_only(
    store: FakeContainerd, app: Image, offline: Offline
) -> None:
    store.write()
    assert "no image" in offline.fails("image", f"other@{app.manifest.digest}").message


def test_container_is_its_image_its_init_layer_and_its_own(
    store: FakeContainerd, app: Image, offline: Offline
) -> None:
    store.write()
    answer = offline.json("container", "web")
    assert [layer["role"] for layer in answer["layers"]] == ["image", "image", "init", "upper"]
    assert [layer["diff_dir"] for layer in answer["layers"][:2]] == [str(one.fs) for one in app.snapshots]
    assert answer["target"]["state"] == "running"
    changes = {item["path"]: item["change"] for item in answer["changes"]}
    assert (changes["etc/passwd"], changes["new"]) == ("modified", "added")
    assert answer["warnings"] == []


def test_list_has_recorded_sizes_and_top_layers(store: FakeContainerd, app: Image, offline: Offline) -> None:
    store.write()
    answer = offline.json("ls")
    (image,) = answer["images"]
    assert (image["size_bytes"], image["layers"]) == (4 * 4096 + 4 * 4096, 2)
    assert image["cache_id"] == str(app.snapshots[-1].number)
    (container,) = answer["containers"]
    assert (container["name"], container["cache_id"]) == ("web", str(store.numbers))
    assert answer["warnings"] == []


def test_untagged_images_and_steps_of_the_legacy_builder(
    store: FakeContainerd, app: Image, offline: Offline
) -> None:
    step = store.image(None, [store.layer({"step": "1"})])
    lost = store.image(None, [store.layer({"lost": "1"})])
    for image in (step, lost):
        store.name(f"moby-dangling@{image.manifest.digest}", image.manifest)
    store.name("docker.io/library/built:1", app.manifest, parent=step.manifest.digest)
    del store.images[APP.encode()]
    store.write()
    ids = {image["id"] for image in offline.json("ls")["images"]}
    assert ids == {app.manifest.digest, lost.manifest.digest}
    assert {image["id"] for image in offline.json("ls", "--all")["images"]} == ids | {step.manifest.digest}
    assert offline.json("image", lost.manifest.digest)["target"]["references"] == []


def test_init_layers_of_the_legacy_builder_are_no_layers_of_the_image(
    store: FakeContainerd, offline: Offline
) -> None:
    base, top = store.layer({"a": "1"}), store.layer({"b": "2"})
    below = store.image("docker.io/library/base:1", [base])
    init = store.snapshot(f"{digest('build')}-init", below.snapshots[0], {".dockerenv": ""})
    chain = f"sha256:{digest(f'{base.diff_id} {top.diff_id}')}"
    store.snapshot(chain, init, top.files)
    image = store.image(APP, [base, top])
    store.container("web", image)
    store.write()
    answer = offline.json("image", "app:1")
    assert [layer["created_by"] for layer in answer["layers"]] == ["RUN step 0", "RUN step 1"]
    assert answer["merged"]["files"] == 2
    mounted = offline.json("container", "web")
    assert [layer["role"] for layer in mounted["layers"]] == ["image", "init", "image", "init", "upper"]
    assert [step["layer"] for step in mounted["history"]] == [0, 2]
    assert mounted["warnings"] == answer["warnings"] == []


def test_image_without_layers(store: FakeContainerd, offline: Offline) -> None:
    store.container("web", store.image(APP, []))
    store.write()
    assert offline.json("image", "app:1")["layers"] == []
    assert [layer["role"] for layer in offline.json("container", "web")["layers"]] == ["init", "upper"]


def test_image_that_is_not_unpacked_is_listed_and_named_as_such(store: FakeContainerd, offline: Offline) -> None:
    store.image(APP, [store.layer({"a": "1"})], unpack=False)
    store.write()
    answer = offline.json("ls")
    assert [(image["references"], image["size_bytes"]) for image in answer["images"]] == [(["app:1"], None)]
    assert [warning["code"] for warning in answer["warnings"]] == ["not-unpacked"]
    failure = offline.fails("image", "app:1")
    assert "not unpacked" in failure.message
    assert "docker create" in failure.hint


# -- platforms -----------------------------------------------------------------------------------------------


def two_platforms(store: FakeContainerd, unpacked: str) -> dict[str, Image]:
    found = {
        platform: store.image(
            None, [store.layer({platform: platform})], platform=platform, unpack=platform == unpacked
        )
        for platform in ("linux/amd64", "linux/arm64/v8", "linux/arm/v7")
    }
    attestation = store.document({"config": {"digest": found["linux/amd64"].config.digest}, "layers": []})
    store.index(
        APP,
        [*found.values()],
        {"digest": attestation.digest, "platform": {"os": "unknown", "architecture": "unknown"}},
        {
            "digest": attestation.digest,
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        },
    )
    return found


@pytest.mark.parametrize("unpacked", ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"])
def test_platform_that_is_unpacked_is_taken(store: FakeContainerd, offline: Offline, unpacked: str) -> None:
    image = two_platforms(store, unpacked)[unpacked]
    store.write()
    assert [layer["diff_dir"] for layer in offline.json("image", "app:1")["layers"]] == [str(image.snapshots[0].fs)]
    assert len(offline.json("ls")["images"]) == 1


@pytest.mark.parametrize("asked", ["linux/arm64", "linux/aarch64", "LINUX/ARM64/v8", "linux/arm/v7", "linux/arm"])
def test_platform_that_is_asked_for_is_taken(store: FakeContainerd, offline: Offline, asked: str) -> None:
    two_platforms(store, "linux/amd64")
    store.write()
    failure = offline.fails("image", "app:1", "--platform", asked)
    assert "not unpacked" in failure.message


def test_platform_that_is_not_here_is_an_error_that_lists_the_others(
    store: FakeContainerd, offline: Offline
) -> None:
    two_platforms(store, "linux/amd64")
    store.write()
    failure = offline.fails("image", "app:1", "--platform", "linux/s390x", warnings=1)
    assert failure.message.endswith("is not here for linux/s390x")
    assert "linux/amd64, linux/arm/v7, linux/arm64/v8" in failure.hint
    assert "no platform" in offline.fails("ls", "--platform", "amd64", code=2).message


def test_manifests_of_other_platforms_may_be_missing(store: FakeContainerd, offline: Offline) -> None:
    found = two_platforms(store, "linux/amd64")
    found["linux/arm64/v8"].manifest.path.unlink()
    found["linux/arm/v7"].config.path.unlink()
    store.write()
    answer = offline.json("image", "app:1")
    assert (len(answer["layers"]), answer["warnings"]) == (1, [])


def test_container_has_the_history_of_its_own_platform(store: FakeContainerd, offline: Offline) -> None:
    """Made with `docker run --platform`, from an image that is here for two."""
    found = [
        store.image(
            None,
            [store.layer({name: name})],
            platform=name,
            config={"history": [{"created_by": f"made for {name}"}]},
        )
        for name in ("linux/amd64", "linux/s390x")
    ]
    index = store.index(APP, found)
    for image in found:
        name = image.platform["architecture"]
        identifier, _ = store.container(name, image)
        config = offline.path / "containers" / identifier / "config.v2.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "Image": index.digest}))
    store.write()
    for name in ("amd64", "s390x"):
        assert offline.json("container", name)["layers"][0]["created_by"] == f"made for linux/{name}"


# -- places and namespaces -----------------------------------------------------------------------------------


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


# -- both stores ---------------------------------------------------------------------------------------------


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


# -- hostile and damaged ones --------------------------------------------------------------------------------

HOSTILE_DIGESTS = [
    "",
    "sha256:",
    "../../../../etc/passwd",
    "sha256:../../../../etc/passwd",
    f"sha256:{'a' * 63}/",
    f"sha256:{'A' * 64}",
    f"sha512:{'a' * 64}",
    f"sha256:{'a' * 64}\n",
    "\x1b[31mred",
]


@pytest.mark.parametrize("target", HOSTILE_DIGESTS)
def test_target_that_is_no_digest_is_a_broken_image(
    store: FakeContainerd, app: Image, offline: Offline, target: str
) -> None:
    store.images[b"docker.io/library/bad:1"] = {b"target": {b"digest": target.encode()}}
    store.write()
    assert [code for code, _ in offline.warns("ls")] == ["broken-image"]
    assert "digest" in offline.fails("image", "bad:1", warnings=1).message
    assert "\x1b" not in offline("ls").err


@pytest.mark.parametrize("target", HOSTILE_DIGESTS)
@pytest.mark.parametrize("where", ["config", "manifests"])
def test_content_that_is_named_by_no_digest_is_never_opened(
    store: FakeContainerd, app: Image, offline: Offline, target: str, where: str
) -> None:
    body: dict[str, Any] = (
        {"config": {"digest": target}} if where == "config" else {"manifests": [{"digest": target}]}
    )
    store.name("docker.io/library/bad:1", store.document(body))
    store.write()
    codes = [code for code, _ in offline.warns("ls")]
    assert codes in (["broken-image"], ["broken-manifest", "broken-image"])


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def huge(path: Path) -> None:
    os.truncate(path, 1 << 40)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "no JSON": lambda path: path.write_bytes(b"\x1f\x8b\x08\x00"),
    "a list": lambda path: path.write_text("[1]"),
    "deep": lambda path: path.write_text('{"manifests":' + "[" * 100_000),
    "no config": lambda path: path.write_text('{"config": {}, "manifests": 3}'),
    "a FIFO": fifo,
    "a symlink": link,
    "huge": huge,
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("blob", ["manifest", "config"])
def test_damaged_blob_leaves_out_its_image_alone(
    store: FakeContainerd, app: Image, offline: Offline, blob: str, damage: Callable[[Path], object]
) -> None:
    other = store.image("docker.io/library/other:1", [store.layer({"other": "1"})])
    damage((other.manifest if blob == "manifest" else other.config).path)
    store.write()
    answer = offline.json("ls")
    assert [image["references"] for image in answer["images"]] == [["app:1"]]
    assert answer["warnings"][-1]["code"] == "broken-image"
    assert offline("image", "other:1").code == 3
    assert offline("image", "app:1").code == 0


def test_blob_that_is_not_what_its_name_says_is_a_warning(
    store: FakeContainerd, app: Image, offline: Offline
) -> None:
    app.config.path.write_text(app.config.path.read_text() + " ")
    store.write()
    assert [code for code, _ in offline.warns("image", "app:1")] == ["changed-blob"]


def test_index_that_leads_back_to_itself_ends(store: FakeContainerd, app: Image, offline: Offline) -> None:
    index = store.index("docker.io/library/circle:1", [])
    index.path.write_text(json.dumps({"manifests": [{"digest": index.digest}, {"digest": app.manifest.digest}]}))
    store.write()
    answer = offline.json("image", "circle:1")
    assert len(answer["layers"]) == 2
    assert [warning["code"] for warning in answer["warnings"]] == ["changed-blob"]


def test_index_that_fans_out_is_read_once(store: FakeContainerd, app: Image, offline: Offline) -> None:
    below: Any = app.manifest
    for _ in range(6):
        below = store.document({"manifests": [{"digest": below.digest}] * 900})
    store.name("docker.io/library/bomb:1", below)
    store.write()
    assert len(offline.json("image", "bomb:1")["layers"]) == 2


def test_indexes_in_each_other_have_a_limit(store: FakeContainerd, app: Image, offline: Offline) -> None:
    below: Any = app.manifest
    for _ in range(20):
        below = store.document({"manifests": [{"digest": below.digest}]})
    store.name("docker.io/library/deep:1", below)
    store.write()
    assert "broken-image" in [code for code, _ in offline.warns("ls")]


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


# -- properties ----------------------------------------------------------------------------------------------


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
