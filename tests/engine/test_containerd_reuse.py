"""``reuse --remove`` with the containerd image store: what it predicts is what du(1) loses by `docker rmi`."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.cli import Cli
from tests.dockerd import BASE, Engine, busybox_tar
from tests.engine.test_containerd import containerd_root
from tests.engine.test_reuse import big, outcomes


@pytest.fixture(scope="module")
def swept(containerd: Engine) -> Engine:
    """An engine in which nothing waits to be collected: what is garbage goes with the first removal."""
    containerd.docker("builder", "prune", "--all", "--force")
    containerd.build("layerscope-test/reuse:sweep", "FROM BASE\nRUN echo sweep > /sweep\n")
    containerd.docker("rmi", "layerscope-test/reuse:sweep")
    containerd.images.remove("layerscope-test/reuse:sweep")
    return containerd


@pytest.fixture
def there(swept: Engine, tmp_path: Any) -> Cli:
    return Cli(tmp_path, {"DOCKER_HOST": swept.host})


def used(engine: Engine) -> tuple[dict[str, int], dict[str, int]]:
    """The bytes of each snapshot, and of each blob. BuildKit may write blobs of its own at any time."""
    snapshots = containerd_root(engine) / "io.containerd.snapshotter.v1.overlayfs/snapshots"
    blobs = containerd_root(engine) / "io.containerd.content.v1.content/blobs/sha256"
    sizes = []
    for place in (snapshots, blobs):
        command = ["du", "-s", "--block-size=1", *map(str, place.iterdir())]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        sizes.append({name: int(size) for size, name in (line.split("\t") for line in lines)})
    return sizes[0], sizes[1]


def predict(cli: Cli, *names: str) -> dict[str, Any]:
    removal: dict[str, Any] = cli.ok("reuse", "--remove", *names, "--json").json["removal"]
    assert removal["complete"]
    return removal


def remove(engine: Engine, cli: Cli, *names: str, refused: bool = False) -> dict[str, Any]:
    """Predict, remove, measure; insist on the same number. Gives the prediction."""
    told = predict(cli, *names)
    was = used(engine)
    if refused:
        with pytest.raises(AssertionError):
            engine.docker("rmi", *names)
    else:
        engine.docker("rmi", *names)
    now = used(engine)
    gone = [
        sum(size for name, size in before.items() if name not in after)
        for before, after in zip(was, now, strict=True)
    ]
    assert [told["layers_bytes"] + told["records_bytes"], told["blobs_bytes"]] == gone
    assert told["freed_bytes"] == told["layers_bytes"] + told["records_bytes"] + told["blobs_bytes"]
    return told


def build(engine: Engine, name: str, *steps: str, buildkit: bool = False) -> str:
    return engine.build(f"layerscope-test/{name}", "FROM BASE\n" + "\n".join(steps), buildkit=buildkit)


def test_a_built_image_with_its_steps(containerd: Engine, there: Cli) -> None:
    """The legacy builder leaves an image for each step, and init layers between; all go with the last."""
    name = build(containerd, "reuse:steps", big("a"), "RUN rm /a", "ENV A=b", "RUN ln -s a /l && rm -r /tmp")
    told = remove(containerd, there, name)
    assert outcomes(told) == ["removed"]
    assert len(told["freed_layers"]) == 3
    assert told["records_bytes"] > 0  # the init layers
    assert sum(not image["asked"] for image in told["images"]) == 3


def test_layers_shared_inside_the_set_and_with_others(containerd: Engine, there: Cli) -> None:
    low = build(containerd, "reuse:low", big("low"))
    containerd.docker("tag", low, "layerscope-test/reuse:same")
    one = containerd.build("layerscope-test/reuse:one", f"FROM {low}\n{big('one')}")
    two = containerd.build("layerscope-test/reuse:two", f"FROM {low}\n{big('two')}")
    assert outcomes(predict(there, low)) == ["untagged"]
    assert outcomes(remove(containerd, there, low)) == ["untagged"]
    remove(containerd, there, two)
    remove(containerd, there, one, "layerscope-test/reuse:same")


def test_containers_keep_their_images(containerd: Engine, there: Cli) -> None:
    name = build(containerd, "reuse:used", big("used"))
    container = containerd.create(name)
    told = remove(containerd, there, name, refused=True)
    assert (outcomes(told), told["freed_bytes"]) == (["in-use"], 0)
    containerd.remove(container)
    assert outcomes(remove(containerd, there, name)) == ["removed"]


def test_the_build_cache_and_history_keep_blobs(containerd: Engine, there: Cli) -> None:
    """BuildKit unpacks layers for itself, and keeps the packed ones: snapshots go, blobs stay."""
    name = build(containerd, "reuse:bk", big("bk"), "RUN rm /bk", buildkit=True)
    told = remove(containerd, there, name)
    assert outcomes(told) == ["removed"]
    assert len(told["freed_layers"]) == 2
    assert {blob["kind"] for blob in told["kept_blobs"]} >= {"build-cache", "build-history"}


def test_an_image_by_its_id_and_an_imported_one(containerd: Engine, there: Cli) -> None:
    identifier = containerd.inspect(build(containerd, "reuse:id", big("id")))["Id"]
    assert outcomes(remove(containerd, there, identifier)) == ["removed"]
    containerd.docker("import", "-", "layerscope-test/reuse:imported", stdin=busybox_tar() + bytes(512))
    told = remove(containerd, there, "layerscope-test/reuse:imported")
    assert outcomes(told) == ["removed"]


def test_sizes_are_those_that_the_snapshotter_recorded(containerd: Engine, there: Cli) -> None:
    name = build(containerd, "reuse:table", big("table"), buildkit=True)
    answer = there.ok("reuse", name, BASE, "--json").json
    sizes = {image["references"][0]: image for image in answer["images"]}
    for image in sizes.values():
        assert image["driver"] == "overlayfs"
        assert image["shared_bytes"] + image["unique_bytes"] == image["size_bytes"]
    (pair,) = answer["pairs"]
    base = there.ok("image", BASE, "--json").json["layers"][0]["recorded_bytes"]
    assert (pair["layers"], pair["shared_bytes"]) == (1, base)
    assert len(there.ok("reuse", "--format", "dot").out.splitlines()) > 5
    containerd.docker("rmi", name)
