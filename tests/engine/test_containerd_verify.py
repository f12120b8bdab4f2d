"""``verify`` of the containerd image store on a real engine: what it unpacked is what its blobs say."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.dockerd import Engine, busybox_tar
from tests.engine.test_containerd import containerd_root
from tests.engine.test_unusual_images import layer_tar, saved_image
from tests.engine.test_verify import STEPS, hostile_tar, saved, verify


@pytest.fixture
def there(containerd: Engine, tmp_path: Path) -> Cli:
    return Cli(tmp_path, {"DOCKER_HOST": containerd.host})


def whole(engine: Engine, cli: Cli, image: str) -> None:
    answer = verify(cli, image)
    assert {layer["verdict"] for layer in answer["layers"]} == {"ok"}, answer
    assert answer["warnings"] == []
    assert [layer["diff_id"] for layer in answer["layers"]] == engine.inspect(image)["RootFS"]["Layers"]


@pytest.mark.parametrize("buildkit", [False, True], ids=["classic", "buildkit"])
def test_built_layers_are_as_their_blobs_say(containerd: Engine, there: Cli, buildkit: bool) -> None:
    whole(
        containerd, there, containerd.build_specimen(f"layerscope-test/specimen:v{buildkit:d}", buildkit=buildkit)
    )
    whole(containerd, there, containerd.build(f"layerscope-test/verify:{buildkit:d}", STEPS, buildkit=buildkit))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_imported_layers_are_as_their_blobs_say(containerd: Engine, there: Cli, format: int) -> None:
    tag = f"layerscope-test/imported:{format}"
    containerd.docker("import", "-", tag, stdin=hostile_tar(format))
    containerd.images.append(tag)
    whole(containerd, there, tag)


def test_loaded_layers_with_whiteouts_are_as_their_blobs_say(containerd: Engine, there: Cli) -> None:
    tag = "layerscope-test/loaded:verify"
    upper = layer_tar(("etc/.wh.passwd", b""), ("tmp/.wh..wh..opq", b""), ("tmp/new", b"x"))
    containerd.load(saved_image(tag, [busybox_tar(), upper]), tag)
    containerd.remove(containerd.create(tag))  # so that it is unpacked
    whole(containerd, there, tag)
    assert saved(containerd, tag)


def test_tampered_layer_is_named(containerd: Engine, there: Cli) -> None:
    """A change of each kind, each of another path of the layer that the second step made."""
    tag = containerd.build("layerscope-test/tampered:1", STEPS.replace("echo one", "echo ten"), buildkit=True)
    fs = Path(there.ok("image", tag, "--json").json["layers"][1]["diff_dir"])
    (fs / "app/conf/one").write_bytes(b"two\n")
    (fs / "app/extra").write_bytes(b"x")
    (fs / "app/data/big").chmod(0o640)
    os.chown(fs / "app/data", 1, 1)
    (fs / "app/fifo").unlink()
    (fs / "app/conf/soft").unlink()
    (fs / "app/conf/soft").symlink_to("two")
    os.setxattr(fs / "app/conf", "user.note", b"x")
    os.truncate(fs / "app/holes", 7)
    answer = verify(there, tag, code=1)
    assert [layer["verdict"] for layer in answer["layers"]] == ["ok", "differs", "ok", "ok"]
    found = {(one["path"], one["problem"]) for one in answer["layers"][1]["differences"]}
    assert found >= {
        ("app/conf/hard", "content"),  # the same file, and the first of its names in the tar
        ("app/extra", "extra"),
        ("app/data/big", "mode"),
        ("app/data", "owner"),
        ("app/fifo", "missing"),
        ("app/conf/soft", "target"),
        ("app/conf", "xattr"),
        ("app/holes", "size"),
    }
    assert {path for path, _ in found} <= {
        *("app", "app/conf/one", "app/conf/hard", "app/extra", "app/data/big", "app/data", "app/fifo"),
        *("app/conf/soft", "app/conf", "app/holes"),
    }
    containerd.docker("rmi", tag)
    containerd.images.remove(tag)


def test_damaged_blobs_are_named(containerd: Engine, there: Cli) -> None:
    tag = containerd.build("layerscope-test/damaged:1", STEPS.replace("echo new", "echo damaged"), buildkit=True)
    blobs = containerd_root(containerd) / "io.containerd.content.v1.content/blobs/sha256"

    target = containerd.inspect(tag)["Id"].removeprefix("sha256:")
    document = json.loads((blobs / target).read_bytes())
    while "manifests" in document:
        document = json.loads((blobs / document["manifests"][0]["digest"].removeprefix("sha256:")).read_bytes())
    blob = blobs / document["layers"][1]["digest"].removeprefix("sha256:")
    whole_blob = blob.read_bytes()
    for damaged, code in ((whole_blob[:-100], "blob-size-mismatch"), (None, "missing-blob")):
        blob.unlink()
        if damaged is not None:
            blob.write_bytes(damaged)
        answer = verify(there, tag, code=1 if damaged is not None else 3)
        expected = "differs" if damaged is not None else "unverifiable"
        assert answer["layers"][1]["verdict"] == expected and answer["layers"][1]["reasons"]
        problems = there("check", "--json").json["problems"]
        assert code in {one["code"] for one in problems if one["path"] == str(blob)}
    blob.write_bytes(whole_blob)
    whole(containerd, there, tag)
