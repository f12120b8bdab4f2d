"""Containerd image stores that are whole: what there is to see in them."""

from __future__ import annotations

import pytest

from layerscope.model import Cautions
from layerscope.stores.open import open_store
from tests.containerdroot import APP, FakeContainerd, Image
from tests.dataroot import digest
from tests.stores.offline import Offline


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
        "archive": None,
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


def test_image_that_is_removed_while_it_is_read_is_not_broken(store: FakeContainerd, app: Image) -> None:
    other = store.image("docker.io/library/other:1", [store.layer({"other": "1"})])
    store.write()
    warnings = Cautions()
    opened = open_store(str(store.docker), None, None, warnings)  # its names are read
    other.manifest.path.unlink()
    del store.images[b"docker.io/library/other:1"]
    store.write()
    assert [image.references for image in opened.images()] == [("app:1",)]
    assert list(warnings) == []


def test_image_whose_blob_is_gone_is_broken(store: FakeContainerd, app: Image) -> None:
    other = store.image("docker.io/library/other:1", [store.layer({"other": "1"})])
    store.write()
    warnings = Cautions()
    opened = open_store(str(store.docker), None, None, warnings)
    other.manifest.path.unlink()
    assert [image.references for image in opened.images()] == [("app:1",)]
    assert [warning.code for warning in warnings] == ["broken-image"]
