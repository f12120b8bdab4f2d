"""verify on containerd roots made by hand: an untouched layer is as its blob, and each change is found."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli import validator
from tests.containerdroot import APP, PACKED, FakeContainerd, Image, Layer, layer_tar
from tests.stores.offline import InProcess

FILES = {"etc/passwd": "root", "etc/group": "g" * 700_000, "empty": ""}
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the layers' owner is root")


@pytest.fixture
def root(tmp_path: Path) -> FakeContainerd:
    return FakeContainerd(tmp_path / "docker/containerd/daemon", docker=tmp_path / "docker")


@pytest.fixture
def image(root: FakeContainerd) -> Image:
    return root.image(APP, [root.packed(FILES), root.packed({"app": "x"})])


def verify(root: FakeContainerd, code: int, *arguments: str) -> list[dict[str, Any]]:
    root.write()
    assert root.docker is not None
    arguments = arguments or ("--all", "--jobs", "1")
    answer = InProcess(root.docker.parent)("verify", *arguments, "--json", "--data-root", str(root.docker))
    assert answer.code == code, (answer.err, answer.out)
    validator("verify").validate(answer.json)
    layers: list[dict[str, Any]] = answer.json["layers"]
    return layers


def blob_of(root: FakeContainerd, number: int) -> Path:
    names = [name for name, one in root.contents.items() if b"containerd.io/uncompressed" in one[b"labels"]]
    return root.blobs / names[number].decode().removeprefix("sha256:")


def test_untouched_layers_are_as_their_blobs_say(root: FakeContainerd, image: Image) -> None:
    base, top = verify(root, 0)
    assert (base["verdict"], base["found_diff_id"], base["entries"]) == ("ok", base["diff_id"], 4)
    assert base["tar_bytes"] == len(layer_tar(dict(FILES)))
    assert (top["verdict"], top["cache_id"], top["driver"]) == ("ok", str(image.snapshots[1].number), "overlayfs")
    assert [one["verdict"] for one in verify(root, 0, "--all", "--extra-only", "--jobs", "1")] == [
        "content-not-read"
    ] * 2
    assert [one["verdict"] for one in verify(root, 0, "app:1", "--jobs", "2")] == ["ok"] * 2


Change = Callable[[Path], object]


def content(fs: Path) -> None:
    text = (fs / "etc/group").read_text()
    (fs / "etc/group").write_text(text[:500_000] + "X" + text[500_001:])
    os.utime(fs / "etc/group", (PACKED, PACKED))


def extra(fs: Path) -> None:
    (fs / "empty.d").mkdir()
    os.utime(fs, (PACKED, PACKED))


CHANGES: list[tuple[Change, list[tuple[str, str]]]] = [
    (content, [("etc/group", "content")]),
    (extra, [("empty.d", "extra")]),
    (lambda fs: (fs / "etc/passwd").chmod(0o4755), [("etc/passwd", "mode")]),
    (lambda fs: os.chown(fs / "etc/passwd", 1, 2), [("etc/passwd", "owner")]),
    (lambda fs: os.utime(fs / "etc/passwd", (1, 1)), [("etc/passwd", "mtime")]),
    (lambda fs: os.setxattr(fs / "etc/passwd", "user.x", b"y"), [("etc/passwd", "xattr")]),
    (lambda fs: os.truncate(fs / "etc/passwd", 2), [("etc/passwd", "mtime"), ("etc/passwd", "size")]),
    (lambda fs: (fs / "empty").unlink(), [("empty", "missing")]),
    (lambda fs: ((fs / "empty").unlink(), (fs / "empty").symlink_to("/etc/shadow")), [("empty", "kind")]),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_change_of_the_snapshot_is_found(
    root: FakeContainerd, image: Image, change: Change, expected: list[tuple[str, str]]
) -> None:
    change(image.snapshots[0].fs)
    base, top = verify(root, 1)
    assert (base["verdict"], top["verdict"]) == ("differs", "ok")
    assert [(one["path"], one["problem"]) for one in base["differences"]] == expected
    assert base["found_diff_id"] == base["diff_id"]


def test_first_differing_byte_is_told(root: FakeContainerd, image: Image) -> None:
    content(image.snapshots[0].fs)
    (difference,) = verify(root, 1)[0]["differences"]
    assert (difference["expected"], difference["found"]) == ("0x67 at 500000", "0x58")
    assert verify(root, 0, "--all", "--extra-only", "--jobs", "1")[0]["differences"] == []


@pytest.mark.parametrize("left", [0, 3, 40, -1])
def test_truncated_blob_is_named(root: FakeContainerd, image: Image, left: int) -> None:
    path = blob_of(root, 0)
    path.write_bytes(path.read_bytes()[:left])
    base, _ = verify(root, 1)
    assert (base["verdict"], base["differences"]) == ("differs", [])
    assert f"the blob {path} has the digest sha256:" in base["reasons"][0]
    assert base["found_diff_id"] is None or base["found_diff_id"] != base["diff_id"]


def test_forged_blob_is_named_and_its_files_are_compared(root: FakeContainerd, image: Image) -> None:
    """Somebody changed the blob, and packed it well."""
    path = blob_of(root, 0)
    path.write_bytes(gzip.compress(layer_tar({**FILES, "etc/passwd": "evil"})))
    base, _ = verify(root, 1)
    assert [(one["path"], one["problem"]) for one in base["differences"]] == [("etc/passwd", "content")]
    assert any("not its name's" in reason for reason in base["reasons"])
    assert any("not the diff_id" in reason for reason in base["reasons"])


def test_blob_that_was_not_kept_leaves_its_layer_unverifiable(root: FakeContainerd, image: Image) -> None:
    blob_of(root, 0).unlink()
    base, top = verify(root, 3)
    assert (base["verdict"], top["verdict"]) == ("unverifiable", "ok")
    assert "its blob was not kept" in base["reasons"][0]


def test_image_that_is_not_unpacked_is_verified_by_its_blobs(root: FakeContainerd) -> None:
    root.image(APP, [root.packed(FILES)], unpack=False)
    (layer,) = verify(root, 0)
    assert (layer["verdict"], layer["cache_id"]) == ("ok", None)
    assert "not unpacked" in layer["reasons"][0]


def test_plain_and_zstd_blobs(root: FakeContainerd) -> None:
    from layerscope.tars.packing import zstd

    for name, pack in (("plain", bytes), ("zstd", zstd.compress)):
        files = {name: name}
        layer = root.packed(files)
        blob = root.blob(pack(layer_tar(dict(files))), uncompressed=layer.diff_id)
        root.image(f"docker.io/library/{name}:1", [Layer(layer.files, layer.diff_id, blob)])
    assert [one["verdict"] for one in verify(root, 0)] == ["ok", "ok"]


def test_lost_snapshot_directory_differs(root: FakeContainerd, image: Image) -> None:
    shutil.rmtree(image.snapshots[1].fs.parent)
    base, top = verify(root, 1)
    assert (base["verdict"], top["verdict"]) == ("ok", "differs")
    assert "is missing" in top["reasons"][0]


def test_containers_layers_are_those_of_its_image(root: FakeContainerd, image: Image) -> None:
    root.container("web", image)
    assert [one["chain_id"] for one in verify(root, 0, "web")] == [one.key for one in image.snapshots]
