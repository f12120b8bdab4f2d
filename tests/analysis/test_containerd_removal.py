"""reuse on containerd roots made by hand: what removing images frees, and what keeps the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.analysis.test_space import du
from tests.cli import validator
from tests.containerdroot import APP, FakeContainerd, Image
from tests.stores.offline import InProcess

OTHER = "docker.io/library/other:1"


@pytest.fixture
def root(tmp_path: Path) -> FakeContainerd:
    return FakeContainerd(tmp_path / "docker/containerd/daemon", docker=tmp_path / "docker")


@pytest.fixture
def image(root: FakeContainerd) -> Image:
    return root.image(APP, [root.layer({"a": "a" * 9000}), root.layer({"b": "b" * 5000})])


def reuse(root: FakeContainerd, *arguments: str) -> Any:
    root.write()
    assert root.docker is not None
    answer = InProcess(root.docker.parent).ok("reuse", *arguments, "--json", "--data-root", str(root.docker)).json
    validator("reuse").validate(answer)
    return answer


def removal(root: FakeContainerd, *names: str) -> Any:
    return reuse(root, "--remove", *names)["removal"]


def test_what_no_other_image_leads_to_goes(root: FakeContainerd, image: Image) -> None:
    other = root.image(OTHER, [root.layer({"a": "a" * 9000}), root.layer({"c": "c"})])
    told = removal(root, "app:1")
    assert [layer["chain_id"] for layer in told["freed_layers"]] == [image.snapshots[1].key]
    assert told["layers_bytes"] == du(image.snapshots[1].fs.parent)
    blobs = sum(blob.path.stat().st_blocks * 512 for blob in (image.manifest, image.config))
    assert (told["blobs"], told["blobs_bytes"], told["kept_blobs"]) == (2, blobs, [])
    both = removal(root, "app:1", "other:1")
    snapshots = [*image.snapshots, other.snapshots[1]]
    assert both["layers_bytes"] == sum(du(one.fs.parent) for one in snapshots)
    assert both["freed_bytes"] == both["layers_bytes"] + both["blobs_bytes"]


def test_leases_keep_layers_and_blobs_and_are_named(root: FakeContainerd, image: Image) -> None:
    root.lease("pull", [image.snapshots[0].key], [image.config.digest], gc__flat="x")  # labels lead nowhere then
    told = removal(root, "app:1")
    assert [(one["chain_id"], one["kind"], one["kept_by"]) for one in told["kept_layers"]] == [
        (image.snapshots[0].key, "lease", "pull")
    ]
    assert [(one["digest"], one["kind"], one["kept_by"]) for one in told["kept_blobs"]] == [
        (image.config.digest, "lease", "pull")
    ]
    assert told["blobs"] == 1


def test_blob_that_another_namespace_knows_stays(root: FakeContainerd, image: Image) -> None:
    record = {b"labels": {b"containerd.io/gc.root": b"x"}}
    root.meta[b"moby_history"] = {b"content": {b"blob": {image.manifest.digest.encode(): record}}}
    told = removal(root, "app:1")
    assert told["blobs"] == 1
    assert [(one["digest"], one["kind"]) for one in told["kept_blobs"]] == [
        (image.manifest.digest, "build-history")
    ]


def test_container_keeps_its_image(root: FakeContainerd, image: Image) -> None:
    root.container("web", image)
    told = removal(root, "app:1")
    assert (told["images"][0]["outcome"], told["images"][0]["kept_by"]) == ("in-use", ["web"])
    assert told["freed_bytes"] == 0


def test_what_is_garbage_already_is_no_part_of_it(root: FakeContainerd, image: Image) -> None:
    root.snapshot("nobody's", None, {"x": "x" * 9000})
    before = removal(root, "app:1")["freed_bytes"]
    assert before == sum(du(one.fs.parent) for one in image.snapshots) + sum(
        blob.path.stat().st_blocks * 512 for blob in (image.manifest, image.config)
    )


def test_shared_layers_are_told_with_their_recorded_sizes(root: FakeContainerd, image: Image) -> None:
    root.image(OTHER, [root.layer({"a": "a" * 9000}), root.layer({"c": "c"})])
    answer = reuse(root)
    assert [(one["driver"], one["size_bytes"], one["shared_bytes"]) for one in answer["images"]] == [
        ("overlayfs", 16384, 8192),
        ("overlayfs", 16384, 8192),
    ]
    (pair,) = answer["pairs"]
    assert (pair["layers"], pair["shared_bytes"]) == (1, 8192)


def test_unreadable_source_is_an_error_and_no_number(root: FakeContainerd, image: Image) -> None:
    root.snapshots[b"moby/9/damaged"] = {b"id": b""}
    root.write()
    assert root.docker is not None
    refused = InProcess(root.docker.parent)("reuse", "--remove", "app:1", "--data-root", str(root.docker))
    assert (refused.code, refused.out) == (3, "")
    assert "names no directory" in refused.err
