"""df on containerd roots made by hand: du(1) is the oracle, and every byte is in one category."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from layerscope.analysis import containerd_orphans
from tests.analysis.test_space import du
from tests.cli import validator
from tests.containerdroot import APP, FakeContainerd, Image
from tests.stores.offline import InProcess


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containerd_orphans, "_PATIENCE_SECONDS", 0)


@pytest.fixture
def cli(tmp_path: Path) -> InProcess:
    return InProcess(tmp_path)


@pytest.fixture(params=["inside", "beside"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> FakeContainerd:
    place = "docker/containerd/daemon" if request.param == "inside" else "containerd"
    return FakeContainerd(tmp_path / place, docker=tmp_path / "docker")


@pytest.fixture
def image(root: FakeContainerd) -> Image:
    return root.image(APP, [root.layer({"a": "a" * 9000}), root.layer({"b": "b" * 5000})])


def df(root: FakeContainerd, cli: InProcess) -> Any:
    root.write()
    answer = cli.ok("df", "--json", "--data-root", str(root.docker)).json
    validator("df").validate(answer)
    return answer


def categories(answer: Any) -> dict[str, tuple[int, int, int | None]]:
    return {
        one["category"]: (one["directories"], one["allocated_bytes"], one["reclaimable_bytes"])
        for one in answer["categories"]
    }


def test_every_byte_is_counted_once(root: FakeContainerd, image: Image, cli: InProcess) -> None:
    web, upper = root.container("web", image, upper={"written": "x" * 20_000})
    running, _ = root.container("runs", image, Running=True)
    unused = root.image("docker.io/library/unused:1", [root.layer({"a": "a" * 9000}), root.layer({"c": "c"})])
    (root.directories / "77/fs").mkdir(parents=True)
    (root.blobs / hashlib.sha256(b"stray").hexdigest()).write_bytes(b"stray")
    (root.blobs / "no digest").write_bytes(b"x")
    (root.path / "io.containerd.snapshotter.v1.native/snapshots").mkdir(parents=True)
    answer = df(root, cli)
    found = categories(answer)
    native = sum(one["allocated_bytes"] for one in answer["outside"] if "native" in one["path"])
    nested = str(root.path).startswith(f"{root.docker}/")
    assert root.docker is not None
    assert answer["storage_bytes"] + native == du(root.path)
    assert answer["total_bytes"] == du(root.docker) + (0 if nested else du(root.path))
    snapshots = [du(snapshot.fs.parent) for snapshot in (*image.snapshots, *unused.snapshots[1:])]
    assert found["images"] == (3, sum(snapshots), du(unused.snapshots[1].fs.parent))
    number = int(root.keys[f"{web}-init".encode()][b"name"].decode().split("/")[1])
    stopped = du(upper.fs.parent) + du(root.directories / str(number))
    assert (found["containers"][0], found["containers"][2]) == (4, stopped)
    assert found["blobs"][0] == 4
    assert found["leaked"][0] == 0 and found["undecided"][0] == 2  # they are too young
    assert running


def test_layers_that_are_there_packed_and_unpacked_are_told(
    root: FakeContainerd, image: Image, cli: InProcess
) -> None:
    answer = df(root, cli)
    assert [warning["code"] for warning in answer["warnings"]] == []
    assert answer["stores"][0]["packed_twice_bytes"] == 0  # its packed layers are not there
    packed = root.blobs / next(iter(_layers(image)))
    packed.write_bytes(b"x" * 5000)
    assert df(root, cli)["stores"][0]["packed_twice_bytes"] == packed.stat().st_blocks * 512


def _layers(image: Image) -> list[str]:
    manifest = json.loads(image.manifest.path.read_bytes())
    return [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
