"""``reuse --remove`` on a real engine: what it predicts is what du(1) loses by `docker rmi`, to the byte."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from tests.cli import Cli
from tests.dockerd import BASE, Engine


def used(engine: Engine) -> tuple[int, int]:
    """The bytes of overlay2/, and of what layerdb and imagedb keep."""
    root = engine.data_root
    sizes = []
    for places in (["overlay2"], ["image/overlay2/layerdb", "image/overlay2/imagedb"]):
        told = subprocess.run(
            ["du", "-s", "--block-size=1", *(str(root / place) for place in places)],
            capture_output=True,
            text=True,
            check=True,
        )
        sizes.append(sum(int(line.split()[0]) for line in told.stdout.splitlines()))
    return sizes[0], sizes[1]


def predict(cli: Cli, *names: str) -> dict[str, Any]:
    removal: dict[str, Any] = cli.ok("reuse", "--remove", *names, "--json").json["removal"]
    assert removal["complete"]
    return removal


def remove(engine: Engine, cli: Cli, *names: str, refused: bool = False) -> dict[str, Any]:
    """Predict, remove, measure; insist on the same number. Gives the prediction."""
    told = predict(cli, *names)
    layers, records = used(engine)
    if refused:
        with pytest.raises(AssertionError):
            engine.docker("rmi", *names)
    else:
        engine.docker("rmi", *names)
    now = used(engine)
    assert (told["layers_bytes"], told["records_bytes"]) == (layers - now[0], records - now[1])
    assert told["freed_bytes"] == told["layers_bytes"] + told["records_bytes"]
    return told


def outcomes(told: dict[str, Any]) -> list[str]:
    return [image["outcome"] for image in told["images"] if image["asked"]]


def build(engine: Engine, name: str, *steps: str, buildkit: bool = False) -> str:
    return engine.build(f"layerscope-test/{name}", "FROM BASE\n" + "\n".join(steps), buildkit=buildkit)


BIG = (
    "RUN dd if=/dev/urandom of=/{} bs=1024 count=300 && mkdir /d{} && ln /{} /d{}/hard && truncate -s 9999999 /h{}"
)


def big(name: str) -> str:
    return BIG.replace("{}", name)


def test_a_built_image_with_its_steps(engine: Engine, cli: Cli) -> None:
    """The legacy builder leaves an image for each step; they go with the last."""
    name = build(
        engine, "reuse:steps", big("a"), "RUN rm /a", "ENV A=b", "RUN ln -s a /l && rm -r /tmp && touch /tmp"
    )
    told = remove(engine, cli, name)
    assert outcomes(told) == ["removed"]
    assert len(told["freed_layers"]) == 3
    assert sum(not image["asked"] for image in told["images"]) == 3


def test_layers_shared_inside_the_set_and_with_others(engine: Engine, cli: Cli) -> None:
    low = build(engine, "reuse:low", big("low"))
    engine.docker("tag", low, "layerscope-test/reuse:same")
    one = engine.build("layerscope-test/reuse:one", f"FROM {low}\n{big('one')}")
    two = engine.build("layerscope-test/reuse:two", f"FROM {low}\n{big('two')}")
    alone = [predict(cli, name)["layers_bytes"] for name in (one, two)]
    both = predict(cli, one, two)
    assert both["layers_bytes"] == sum(alone)  # the layer that both stand on is held by `low`, too
    whole = predict(cli, one, two, low, "layerscope-test/reuse:same")
    assert whole["layers_bytes"] > both["layers_bytes"]
    assert outcomes(predict(cli, low)) == ["untagged"]
    assert outcomes(predict(cli, low, "layerscope-test/reuse:same")) == ["has-children"]
    assert outcomes(remove(engine, cli, low)) == ["untagged"]
    remove(engine, cli, "layerscope-test/reuse:same", two)
    remove(engine, cli, one)


def test_containers_keep_their_images(engine: Engine, cli: Cli) -> None:
    name = build(engine, "reuse:used", big("used"))
    container = engine.create(name)
    told = remove(engine, cli, name, refused=True)
    assert (outcomes(told), told["freed_bytes"]) == (["in-use"], 0)
    engine.remove(container)
    assert outcomes(remove(engine, cli, name)) == ["removed"]


def test_an_image_by_its_id(engine: Engine, cli: Cli) -> None:
    identifier = engine.inspect(build(engine, "reuse:id", big("id")))["Id"]
    assert outcomes(remove(engine, cli, identifier)) == ["removed"]


def test_the_build_cache_keeps_layers(engine: Engine, cli: Cli) -> None:
    name = build(engine, "reuse:bk", big("bk"), "RUN rm /bk", buildkit=True)
    told = remove(engine, cli, name)
    assert outcomes(told) == ["removed"]
    assert told["freed_layers"] == []
    assert {layer["kind"] for layer in told["kept_layers"]} == {"build-cache"}
    assert told["layers_bytes"] == 0


@pytest.mark.skipif(
    os.environ.get("LAYERSCOPE_TEST_ENGINE") != "private",
    reason="prunes the build cache: only on an engine of our own",
)
def test_an_image_whose_cache_is_pruned(engine: Engine, cli: Cli) -> None:
    name = build(engine, "reuse:pruned", big("pruned"), "RUN rm /pruned", buildkit=True)
    engine.docker("builder", "prune", "--all", "--force")
    told = remove(engine, cli, name)
    assert len(told["freed_layers"]) + len(told["kept_layers"]) >= 2


def test_imported_images(engine: Engine, cli: Cli) -> None:
    from tests.dockerd import busybox_tar

    engine.docker("import", "-", "layerscope-test/reuse:imported", stdin=busybox_tar() + bytes(512))
    assert outcomes(remove(engine, cli, "layerscope-test/reuse:imported")) == ["removed"]


def test_the_table_of_the_specimens(engine: Engine, cli: Cli, classic: str, buildkit: str) -> None:
    answer = cli.ok("reuse", classic, buildkit, "--json").json
    sizes = {image["references"][0]: image for image in answer["images"]}
    for name in (classic, buildkit):
        assert sizes[name]["size_bytes"] == engine.inspect(name)["Size"]
        assert sizes[name]["shared_bytes"] + sizes[name]["unique_bytes"] == sizes[name]["size_bytes"]
    (pair,) = answer["pairs"]
    assert pair["layers"] == 1
    assert pair["shared_bytes"] == engine.inspect(BASE)["Size"]
    assert len(answer["layers"]) == sum(len(engine.inspect(n)["RootFS"]["Layers"]) for n in (classic, buildkit)) - 1
    assert len(cli.ok("reuse", "--format", "dot").out.splitlines()) > 10
    assert len(cli.ok("reuse", "--format", "mermaid").out.splitlines()) > 10
