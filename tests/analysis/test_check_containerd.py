"""check on containerd roots made by hand: a whole one has no problem, and each damage is found and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerscope.analysis import check as check_module
from tests.cli import validator
from tests.containerdroot import APP, FakeContainerd, Image, Snapshot, varint
from tests.stores.offline import InProcess


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "PATIENCE_SECONDS", (0,))


@pytest.fixture
def root(tmp_path: Path) -> FakeContainerd:
    return FakeContainerd(tmp_path / "docker/containerd/daemon", docker=tmp_path / "docker")


@pytest.fixture
def image(root: FakeContainerd) -> Image:
    found = root.image(APP, [root.packed({"a": "a"}), root.packed({"b": "b"})])
    root.container("web", found)
    return found


def check(root: FakeContainerd, code: int) -> list[dict[str, Any]]:
    root.write()
    assert root.docker is not None
    answer = InProcess(root.docker.parent)("check", "--json", "--data-root", str(root.docker))
    assert answer.code == code, answer.err
    validator("check").validate(answer.json)
    problems: list[dict[str, Any]] = answer.json["problems"]
    return problems


def test_whole_store_has_no_problem(root: FakeContainerd, image: Image) -> None:
    root.snapshot("nobody's", None, {})
    root.keys[b"nobody's"][b"parent"] = b"gone"  # garbage, which goes anyhow
    assert check(root, 0) == []


Damage = Callable[[FakeContainerd, Image, Snapshot], None]


def _record(root: FakeContainerd, snapshot: Snapshot) -> dict[bytes, Any]:
    record: dict[bytes, Any] = root.snapshots[snapshot.name.encode()]
    return record


def no_directory(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    shutil.rmtree(image.snapshots[0].fs.parent)


def no_content(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    shutil.rmtree(image.snapshots[0].fs)


def no_work(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    shutil.rmtree(upper.fs.parent / "work")


def no_snapshot(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    del root.snapshots[image.snapshots[0].name.encode()]


def no_parent(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    del root.keys[image.snapshots[0].key.encode()]


def other_parent(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    del _record(root, image.snapshots[1])[b"parent"]


def no_id(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    _record(root, image.snapshots[1])[b"id"] = b""


def same_directory(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    _record(root, image.snapshots[1])[b"id"] = _record(root, image.snapshots[0])[b"id"]


def nothing_unpacked(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    shutil.rmtree(root.docker / "containers" if root.docker is not None else "")
    (root.docker / "containers").mkdir() if root.docker is not None else None
    root.keys.clear()
    root.leases.clear()


def other_chain(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    name = b"containerd.io/gc.ref.snapshot.overlayfs"
    root.contents[image.config.digest.encode()][b"labels"][name] = image.snapshots[0].key.encode()


def other_order(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    between = root.snapshot("sha256:" + "7" * 64, image.snapshots[0], {})
    _record(root, image.snapshots[1])[b"parent"] = between.name.encode()
    root.keys[image.snapshots[1].key.encode()][b"parent"] = between.key.encode()


def no_manifest(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    image.manifest.path.unlink()


def changed_config(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    content = image.config.path.read_bytes()
    image.config.path.write_bytes(content.replace(b"RUN step 0", b"RUN step 9"))


def _layer_blob(root: FakeContainerd) -> bytes:
    return next(name for name, one in root.contents.items() if b"containerd.io/uncompressed" in one[b"labels"])


def no_layer_blob(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    (root.blobs / _layer_blob(root).decode().removeprefix("sha256:")).unlink()


def discarded_blob(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    blob = _layer_blob(root)
    del root.contents[blob]
    (root.blobs / blob.decode().removeprefix("sha256:")).unlink()


def truncated_blob(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    path = root.blobs / _layer_blob(root).decode().removeprefix("sha256:")
    path.write_bytes(path.read_bytes()[:-20])


def wrong_label(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    root.contents[_layer_blob(root)][b"labels"][b"containerd.io/uncompressed"] = b"sha256:" + b"8" * 64


def wrong_size(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    root.contents[_layer_blob(root)][b"size"] = varint(7)


def no_container_layer(root: FakeContainerd, image: Image, upper: Snapshot) -> None:
    del root.keys[upper.key.encode()]


DAMAGES: list[tuple[Damage, set[str]]] = [
    (no_directory, {"missing-directory"}),
    (no_content, {"missing-diff"}),
    (no_work, {"missing-work"}),
    (no_snapshot, {"key-without-snapshot", "missing-parent"}),
    (no_parent, {"missing-parent", "lower-order"}),
    (other_parent, {"parent-mismatch"}),
    (no_id, {"broken-snapshot"}),
    (same_directory, {"shared-directory"}),
    (nothing_unpacked, {"missing-layer"}),
    (other_chain, {"chain-id-mismatch"}),
    (other_order, {"lower-order"}),
    (no_manifest, {"missing-blob", "broken-image"}),
    (changed_config, {"blob-digest-mismatch"}),
    (no_layer_blob, {"missing-blob"}),
    (truncated_blob, {"blob-size-mismatch"}),
    (wrong_label, {"diff-id-mismatch"}),
    (wrong_size, {"blob-size-mismatch"}),
    (no_container_layer, {"container-without-layer"}),
]
CODES = set[str]().union(*(codes for _, codes in DAMAGES))


@pytest.mark.parametrize(("damage", "codes"), DAMAGES)
def test_damage_is_found_and_named(root: FakeContainerd, image: Image, damage: Damage, codes: set[str]) -> None:
    key, name = next((key, one[b"name"]) for key, one in root.keys.items() if len(key) == 64)
    number = int(name.split(b"/")[1])
    upper = Snapshot(key.decode(), name.decode(), number, root.directories / str(number) / "fs")
    (upper.fs.parent / "work").mkdir(exist_ok=True)
    assert check(root, 0) == []
    damage(root, image, upper)
    problems = check(root, 1)
    assert {one["code"] for one in problems} == codes
    assert all(one["evidence"] and one["consequence"] and one["remedy"] for one in problems)
    named = {name for one in problems for name in one["affects"]}
    assert not named or named <= {"app:1", "web", "docker.io/library/app:1"}


def test_layer_whose_tar_was_not_kept_is_a_warning(root: FakeContainerd, image: Image) -> None:
    discarded_blob(root, image, image.snapshots[0])
    (problem,) = check(root, 0)
    assert (problem["code"], problem["severity"], problem["affects"]) == ("discarded-blob", "warning", ["app:1"])


def test_image_that_is_not_unpacked_is_whole(root: FakeContainerd) -> None:
    root.image(APP, [root.packed({"a": "a"})], unpack=False)
    assert check(root, 0) == []
