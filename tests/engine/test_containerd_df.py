"""df of the containerd image store on a real engine: du(1) and `docker system df` are the oracles."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from layerscope.stores.containerd_records import read_all_snapshots
from layerscope.stores.records import DataRoot
from layerscope.stores.snapshots import Kind
from tests.cli import Cli, validator
from tests.containerd_engine import GRAPHDRIVER, engine_directory, engine_in_tree
from tests.dockerd import BASE, Engine
from tests.engine.test_containerd import containerd_root
from tests.engine.test_owner_orphans import DOCKERFILE, work, working

TAG = "layerscope-test/df:1"
SECONDS = 3
COME_AND_GO = {"engine-usage", "broken-container", "container-mismatch", "broken-image", "image-mismatch"}
"""What may be said of images and containers that are made or removed at this moment."""


def du(*paths: object) -> int:
    """What is allocated below directories, each inode once."""
    told = subprocess.run(["du", "-scx", "-B1", *map(str, paths)], capture_output=True, text=True, check=True)
    return int(told.stdout.split("\n")[-2].split("\t")[0])


def df(cli: Cli, *options: str, host: str | None = None) -> Any:
    answer = cli.ok("df", "--json", *options, **({"DOCKER_HOST": host} if host is not None else {})).json
    validator("df").validate(answer)
    return answer


def category(answer: Any, name: str) -> Any:
    return next(one for one in answer["categories"] if one["category"] == name)


def bytes_of(answer: Any, name: str) -> int:
    number = category(answer, name)["allocated_bytes"]
    assert isinstance(number, int)
    return number


@pytest.fixture(scope="module")
def busy(containerd: Engine) -> Iterator[Engine]:
    """An engine with images by both builders, build cache and a container that wrote something."""
    containerd.build(TAG, DOCKERFILE.format(salt="df"), buildkit=True)
    containerd.build("layerscope-test/df:2", DOCKERFILE.format(salt="df too"))
    container = containerd.run(TAG, "dd if=/dev/zero of=/written bs=64k count=20", "--name=df")
    yield containerd
    if container in containerd.containers:
        containerd.remove(container)


def test_sums_are_those_of_du(busy: Engine, cli: Cli) -> None:
    for _ in range(20):  # until the engine writes nothing meanwhile
        before, answer = du(busy.data_root), df(cli, host=busy.host)
        if du(busy.data_root) == before:
            break
    root = containerd_root(busy)
    others = sum(one["allocated_bytes"] for one in answer["outside"] if "/io.containerd." in one["path"])
    assert answer["storage_bytes"] == sum(one["allocated_bytes"] for one in answer["categories"])
    assert answer["storage_bytes"] + others == du(root)
    assert answer["total_bytes"] == du(busy.data_root)
    assert answer["complete"]


def snapshot_bytes(engine: Engine) -> int:
    """What the snapshotter recorded of Docker's snapshots, and what those take that are still written to."""
    directories = containerd_root(engine) / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    records = read_all_snapshots(DataRoot(str(containerd_root(engine)))) or {}
    return sum(
        (record.size_bytes or 0) if record.kind is Kind.COMMITTED else du(directories / str(record.number) / "fs")
        for name, record in records.items()
        if name.startswith("moby/") and record.kind is not Kind.VIEW
    )


def test_steps_from_docker_system_df_add_up(busy: Engine, cli: Cli) -> None:
    """Docker's figure for images is what the snapshotter recorded of every snapshot, and what the others take."""
    for _ in range(20):  # until containerd collects nothing meanwhile
        before, answer = snapshot_bytes(busy), df(cli, host=busy.host)
        if snapshot_bytes(busy) == before:
            break
        time.sleep(0.5)
    told = {one["name"]: one for one in answer["engine"]}
    for one in told.values():
        assert one["claimed_bytes"] + sum(step["bytes"] for step in one["steps"]) == one["allocated_bytes"]
    assert told["images"]["claimed_bytes"] == before
    assert abs(sum(step["bytes"] for step in told["containers"]["steps"] if step["reason"] == "recorded")) <= 4096


def test_layers_that_are_packed_and_unpacked_are_named(busy: Engine, cli: Cli) -> None:
    answer = df(cli, host=busy.host)
    (store,) = answer["stores"]
    blobs = containerd_root(busy) / "io.containerd.content.v1.content/blobs/sha256"
    packed = set()
    for name in busy.docker("images", "--quiet", "--no-trunc", "--all").split():
        manifest = json.loads((blobs / name.removeprefix("sha256:")).read_bytes())
        while "manifests" in manifest:
            manifest = json.loads((blobs / manifest["manifests"][0]["digest"].removeprefix("sha256:")).read_bytes())
        packed |= {layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]}
    assert store["packed_twice_bytes"] == sum((blobs / name).stat().st_blocks * 512 for name in packed)
    assert "are layers that are unpacked as well" in cli.ok("df", DOCKER_HOST=busy.host).out


def test_reclaimable_is_what_pruning_frees(busy: Engine, cli: Cli) -> None:
    """Containers, then build cache, then images: the disk gets smaller by what was told each time."""
    root = containerd_root(busy)
    busy.remove(busy.run(BASE, "true"))  # collects what was garbage already
    for command, names in (
        (["container", "prune", "--force"], ("containers",)),
        (["builder", "prune", "--all", "--force"], ("build-cache",)),
        (["image", "prune", "--all", "--force"], ("images", "blobs")),
    ):
        told = df(cli, "--data-root", str(busy.data_root))
        before, databases = du(root), du(*databases_of(root))
        busy.docker(*command)
        freed = before - du(root) - (databases - du(*databases_of(root)))
        if names == ("images", "blobs"):
            blobs = sum(
                one["allocated_bytes"] for one in category(told, "blobs")["classes"] if one["class"] == "image-blob"
            )
            assert category(told, "images")["reclaimable_bytes"] <= freed
            assert freed <= category(told, "images")["reclaimable_bytes"] + blobs
        elif names == ("containers",):
            assert freed == category(told, "containers")["reclaimable_bytes"]
        else:
            blobs = sum(
                one["allocated_bytes"] for one in category(told, "blobs")["classes"] if one["class"] == "build-blob"
            )
            assert category(told, "build-cache")["reclaimable_bytes"] <= freed
            assert freed <= category(told, "build-cache")["reclaimable_bytes"] + blobs

    busy.containers.clear()
    busy.import_base()


def databases_of(root: Any) -> list[Any]:
    places = ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db")
    return [root / place for place in places]


def test_working_engine_is_measured_all_the_same(containerd: Engine, cli: Cli) -> None:
    asked = 0
    with working(containerd, work):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            answer = df(cli, host=containerd.host)
            assert answer["storage_bytes"] > 0
            assert {one["code"] for one in answer["warnings"]} <= COME_AND_GO
            asked += 1
    assert asked > 1


def test_both_stores_are_added_up(containerd: Engine, tmp_path: Any) -> None:
    with engine_directory() as base:
        with engine_in_tree(base, GRAPHDRIVER) as before:
            before.import_base()
        with engine_in_tree(base) as now:
            now.import_base()
            cli = Cli(tmp_path, {"DOCKER_HOST": now.host})
            answer = df(cli)
            assert [store["source"]["driver"] for store in answer["stores"]] == ["overlayfs", "overlay2"]
            assert answer["stores"][1]["storage_bytes"] == du(now.data_root / "overlay2", now.data_root / "image")
            assert answer["total_bytes"] == du(now.data_root)
            table = cli.ok("df").out
            assert table.count("LAYERS AND IMAGES") == 2
            surveys = cli.ok("orphans", "--json").json
            assert {entry["driver"] for entry in surveys["entries"]} == {"overlayfs", "overlay2"}
            word = next(entry["cache_id"] for entry in surveys["entries"] if entry["driver"] == "overlay2")
            assert cli.ok("owner", word, "--json").json["driver"] == "overlay2"
            for command, field in (("verify", "layers"), ("reuse", "images")):
                told = cli.ok(command, *(["--all"] if command == "verify" else []), "--json").json
                assert {one["driver"] for one in told[field]} == {"overlayfs", "overlay2"}
            checked = cli.ok("check", "--json").json
            assert [store["driver"] for store in checked["stores"]] == ["overlayfs", "overlay2"]
            assert {one["code"] for one in checked["problems"]} == {"second-store"}
