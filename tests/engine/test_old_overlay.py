"""The old graph driver `overlay` on a real engine, 20.10: the same answers as on overlay2, and as the kernel's.

Images get there in three ways, which leave different things: from a tar (import, load, pull: trees of hard links),
by the old builder (the same), by BuildKit (upper directories, of which each began as a copy of the last).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layerscope.model import Cautions, Stack
from layerscope.stores.base import find_target
from layerscope.stores.open import open_store
from tests.cli import Cli
from tests.conftest import REQUIRED
from tests.dockerd import BASE, Engine
from tests.engine.test_container_diff import EVERY_CHANGE, docker_diff, layerscope_diff
from tests.engine.test_containerd import files_of, hidden_files, without_visibility
from tests.engine.test_unusual_images import layer_tar, saved_image
from tests.kernel import difference, kernel_view, layerscope_view, mounted
from tests.with_engine import private_engine

LAST_ENGINE = 23
"""The major version of the last engine that has this driver."""
CLASSIC, BUILDKIT, STEPS = (
    "layerscope-test/specimen:classic",
    "layerscope-test/specimen:buildkit",
    "layerscope-test/steps:1",
)
FEW_STEPS = """FROM BASE
RUN mkdir -p /a/b /c && echo one > /a/b/file && echo two > /c/file && ln /c/file /c/hard && mkfifo /c/pipe
RUN echo ONE > /a/b/file && chmod 600 /c/file
RUN rm -r /c && mkdir /c && echo three > /c/new
RUN rm -r /a/b && echo file > /a/b && cp -p /etc/passwd /p && cat /p > /etc/passwd && rm /p
"""


@pytest.fixture(scope="module")
def old(engine: Engine, classic: str) -> Iterator[Engine]:
    """An engine with that driver, the specimen, and a container that changed something."""
    if os.environ.get("LAYERSCOPE_TEST_ENGINE") != "private":
        pytest.skip("an engine with the driver overlay is started only in `make test`")
    version = engine.docker("version", "--format", "{{.Server.Version}}")
    if int(version.partition(".")[0]) > LAST_ENGINE:
        pytest.skip(f"the engine {version} has the driver overlay no more")
    with private_engine("--storage-driver=overlay") as environment:
        if not environment:
            pytest.fail("no engine with the driver overlay") if REQUIRED else pytest.skip("it did not start")
        host = environment["DOCKER_HOST"]
        found = Engine(engine.docker_path, host, Path(host.removeprefix("unix://")).parent / "root")
        found.docker("load", stdin=engine.docker_bytes("save", classic, BASE))
        found.build_specimen(BUILDKIT, buildkit=True)
        found.build(STEPS, FEW_STEPS)
        found.run(CLASSIC, EVERY_CHANGE, "--name=changed")
        yield found


@pytest.fixture
def there(old: Engine, tmp_path: Path) -> Cli:
    """The command line on that engine."""
    return Cli(tmp_path, {"DOCKER_HOST": old.host})


def stack_of(old: Engine, target: str) -> Stack:
    return find_target(open_store(str(old.data_root), None, None, Cautions()), target).stack


# -- the same as on overlay2 -----------------------------------------------------------------------------------


def test_changes_and_hidden_files_are_those_of_overlay2(old: Engine, there: Cli, cli: Cli) -> None:
    """Of the same image. A directory that overlay2 has as opaque shows here by what is gone from it."""
    ours, theirs = (run.ok("image", CLASSIC, "--files", "--hidden", "--json").json for run in (there, cli))
    assert (ours["source"]["driver"], theirs["source"]["driver"]) == ("overlay", "overlay2")
    assert ours["warnings"] == []
    opaque = 0
    for layer, other in zip(ours["layers"], theirs["layers"], strict=True):
        assert files_of(layer) == files_of(other)
        for field in ("diff_id", "chain_id", "created_by", "size_bytes", "hidden", "hides"):
            assert layer[field] == other[field], (layer["created_by"], field)
        if other["counts"]["opaque"]:
            opaque += 1
        else:
            assert layer["counts"] == other["counts"]
            assert without_visibility(layer) == without_visibility(other)
    assert opaque == 3
    assert hidden_files(ours) == hidden_files(theirs)
    assert ours["merged"] == theirs["merged"]
    assert ours["history"] == theirs["history"]


def test_audit_finds_what_it_finds_on_overlay2(old: Engine, there: Cli, cli: Cli) -> None:
    def found(run: Cli) -> list[tuple[Any, ...]]:
        answer = run.ok("audit", CLASSIC, "--json", "--exit-zero").json
        return [
            (
                item["rule_id"], item["exposure"], item["path"], item["line"], item["fingerprint"],
                item["layer"] and item["layer"]["index"], item["hidden_by"] and item["hidden_by"]["layer"],
            )
            for item in answer["findings"]
        ]  # fmt: skip

    assert found(there) == found(cli)
    assert len(found(there)) > 5


# -- the kernel and the engine ---------------------------------------------------------------------------------


@pytest.mark.kernel
@pytest.mark.parametrize("target", [CLASSIC, BUILDKIT, STEPS, "changed"])
def test_every_height_is_what_the_kernel_shows(old: Engine, tmp_path: Path, target: str) -> None:
    stack = stack_of(old, target)
    for layer in stack:
        ours = layerscope_view(stack.up_to(layer.index))
        place = Path(layer.diff_dir)
        if place.name == "root":
            assert difference(kernel_view(place, ours), ours) == []
            continue
        lower = old.data_root / "overlay" / (place.parent / "lower-id").read_text() / "root"
        with mounted(tmp_path / "merged", f"lowerdir={place}:{lower}") as point:
            assert difference(kernel_view(point, ours), ours) == [], layer


@pytest.mark.kernel
@pytest.mark.parametrize(("state", "tag"), [("created", BUILDKIT), ("running", CLASSIC), ("exited", BUILDKIT)])
def test_container_changes_are_those_of_docker_diff(old: Engine, there: Cli, state: str, tag: str) -> None:
    container = old.create(tag)
    if state != "created":
        old.docker("start", container)
        old.docker("exec", container, "sh", "-c", EVERY_CHANGE + "rm /.dockerenv")
    if state == "running":
        merged = Path(old.inspect(container)["GraphDriver"]["Data"]["MergedDir"])
        ours = layerscope_view(stack_of(old, container))
        assert difference(kernel_view(merged, ours), ours) == []
    if state == "exited":
        old.docker("kill", container)
    answer = there.ok("container", container, "--json").json
    assert [layer["role"] for layer in answer["layers"][-3:]] == ["image", "init", "upper"]
    assert answer["warnings"] == []
    assert layerscope_diff(there, container) == docker_diff(old, container)
    old.remove(container)


@pytest.mark.parametrize("tag", [CLASSIC, BUILDKIT, STEPS])
def test_chain_history_and_sizes_are_those_of_docker(old: Engine, there: Cli, tag: str) -> None:
    answer = there.ok("image", tag, "--json").json
    assert [layer["diff_id"] for layer in answer["layers"]] == old.inspect(tag)["RootFS"]["Layers"]
    lines = old.docker("history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", tag)
    sizes = [layer["recorded_bytes"] for layer in answer["layers"]]
    ours = [
        f"{0 if step['layer'] is None else sizes[step['layer']]} {step['created_by'] or ''}"
        for step in reversed(answer["history"])
    ]
    assert ours == lines.split("\n")


@pytest.mark.parametrize("tag", [CLASSIC, STEPS])
def test_layer_sizes_differ_from_the_recorded_ones_by_the_length_of_symlinks(
    old: Engine, there: Cli, tag: str
) -> None:
    """This driver records the payload of the layer's tar, in which a symlink has none."""
    links: dict[int, int] = {}
    for line in there.ok("files", tag, "--format", "jsonl").lines:
        if line["kind"] == "symlink":
            links[line["layer"]] = links.get(line["layer"], 0) + line["size_bytes"]
    for layer in there.ok("image", tag, "--json").json["layers"]:
        assert layer["size_bytes"] == layer["recorded_bytes"] + links.get(layer["index"], 0)


def test_what_each_step_did(old: Engine, there: Cli) -> None:
    layers = there.ok("image", STEPS, "--files", "--json").json["layers"][1:]
    done = [[(item["change"], item["kind"], item["path"]) for item in layer["changed"]] for layer in layers]
    assert done == [
        [
            ("added", "directory", "a"), ("added", "directory", "a/b"), ("added", "file", "a/b/file"),
            ("added", "directory", "c"), ("added", "file", "c/file"), ("added", "file", "c/hard"),
            ("added", "fifo", "c/pipe"),
        ],
        [("modified", "file", "a/b/file"), ("metadata", "file", "c/file")],
        [
            ("deleted", "whiteout", "c/file"), ("deleted", "whiteout", "c/hard"), ("added", "file", "c/new"),
            ("deleted", "whiteout", "c/pipe"),
        ],
        [("modified", "file", "a/b"), ("metadata", "file", "etc/passwd")],
    ]  # fmt: skip


def test_image_without_layers(old: Engine, there: Cli) -> None:
    """Its container's init layer is the only tree."""
    tag = "layerscope-test/nothing:1"
    old.load(saved_image(tag, []), tag)
    container = old.create(tag)
    assert layerscope_diff(there, container) == docker_diff(old, container) == set()
    assert [layer["role"] for layer in there.ok("container", container, "--json").json["layers"]] == [
        "init",
        "upper",
    ]
    old.remove(container)


def test_every_layer_is_verified(old: Engine, there: Cli) -> None:
    """Trees that were unpacked from a tar, those of the old builder, and BuildKit's upper directories."""
    layers = there.ok("verify", "--all", "--json").json["layers"]
    assert {layer["verdict"] for layer in layers} == {"ok"}
    assert len(layers) > 50


# -- with and without the engine -------------------------------------------------------------------------------

COMMANDS = [
    ["ls", "--all"],
    ["image", BUILDKIT, "--files", "--hidden"],
    ["container", "changed", "--layers", "--files"],
    ["diff", CLASSIC, "container:changed"],
    ["trace", CLASSIC, "app/conf/one"],
]


def without_source(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in ("source", "stores")}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_offline_is_online(old: Engine, there: Cli, command: list[str]) -> None:
    online = there.ok(*command, "--json").json
    offline = there.ok(*command, "--json", "--data-root", str(old.data_root)).json
    assert (online["source"]["kind"], offline["source"]["kind"]) == ("docker-api", "data-root")
    assert without_source(online) == without_source(offline)
    assert online["warnings"] == []


def changed_paths(cli: Cli, *arguments: str) -> tuple[list[str], set[tuple[int, str, str]]]:
    """The codes of warnings; layer, change and path of all that the layers of the specimen changed."""
    answer = cli.ok("image", CLASSIC, "--files", "--json", *arguments).json
    return [warning["code"] for warning in answer["warnings"]], {
        (layer["index"], item["change"], item["path"]) for layer in answer["layers"] for item in layer["changed"]
    }


def test_copied_disk(old: Engine, there: Cli, tmp_path: Path) -> None:
    """With hard links nothing is lost, without them only changes of nothing but the time."""
    warnings, original = changed_paths(there)
    assert warnings == []
    for options in (["-a"], ["-a", "--no-preserve=links"]):
        root = tmp_path / "docker"
        root.mkdir()
        for name in ("image", "overlay", "containers"):
            subprocess.run(["cp", *options, str(old.data_root / name), str(root)], check=True)
        warnings, found = changed_paths(there, "--data-root", str(root))
        if options == ["-a"]:
            assert (warnings, found) == ([], original)
        else:
            assert set(warnings) == {"hard-links-lost"}
            assert original - found == {(4, "metadata", "app/conf/three"), (6, "metadata", "app/data/small")}
            assert found - original == set()
        subprocess.run(["rm", "-r", str(root)], check=True)


# -- both drivers on one disk ------------------------------------------------------------------------------------


def test_store_that_was_left_behind_is_listed_beside_the_one_in_use(old: Engine, tmp_path: Path) -> None:
    """As on a host that was switched to overlay2."""
    with private_engine() as environment:
        host = environment["DOCKER_HOST"]
        now = Engine(old.docker_path, host, Path(host.removeprefix("unix://")).parent / "root")
        now.load(saved_image("layerscope-test/new:1", [layer_tar(("new", b"x"))]), "layerscope-test/new:1")
        for name in ("overlay", "image/overlay", "containers"):
            source = str(old.data_root / name)
            subprocess.run(["cp", "-a", source, str((now.data_root / name).parent)], check=True)
        cli = Cli(tmp_path, {"DOCKER_HOST": host})
        answer = cli.ok("ls", "--json").json
        assert [(store["driver"], store["in_use"]) for store in answer["stores"]] == [
            ("overlay2", True),
            ("overlay", False),
        ]
        assert {(item["driver"], item["name"]) for item in answer["containers"]} == {("overlay", "changed")}
        assert answer["warnings"] == []
        left = cli.ok("container", "changed", "--json").json
        assert left["source"]["driver"] == "overlay"
        assert "STORE" in cli.ok("ls").out
