"""The specimen image on a real engine: Docker's own answers are the truth."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest

from tests.cli import Cli
from tests.dockerd import Engine


def visible_paths(cli: Cli, target: str) -> dict[str, dict[str, Any]]:
    """The visible version of every path, by exact path."""
    lines = cli.ok("files", target, "--visible", "--format", "jsonl").lines
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        found.setdefault(exact(line), line)
    return found


def exact(line: dict[str, Any]) -> str:
    """The exact path of a line, undecodable bytes as Python's file system names have them."""
    import base64
    import os

    return os.fsdecode(base64.b64decode(line["path_b64"])) if "path_b64" in line else line["path"]


def test_history_is_that_of_docker_history(engine: Engine, specimen: str, cli: Cli) -> None:
    told = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", specimen).split("\n")
    steps = cli.ok("image", specimen, "--json").json["history"]
    assert [step["created_by"] or "" for step in reversed(steps)] == told


def test_sizes_are_those_of_docker_history(engine: Engine, specimen: str, cli: Cli) -> None:
    answer = cli.ok("image", specimen, "--json").json
    told = engine.docker("history", "--human=false", "--format", "{{.Size}}", specimen).split("\n")
    by_layer = {layer["index"]: layer["recorded_bytes"] for layer in answer["layers"]}
    ours = [0 if step["layer"] is None else by_layer[step["layer"]] for step in reversed(answer["history"])]
    assert [int(size) for size in told] == ours
    assert engine.inspect(specimen)["Size"] == sum(by_layer.values())


def test_classic_layer_sizes_equal_what_layerdb_recorded(engine: Engine, classic: str, cli: Cli) -> None:
    for layer in cli.ok("image", classic, "--json").json["layers"]:
        assert layer["size_bytes"] == layer["recorded_bytes"]


def test_buildkit_layer_sizes_differ_only_by_the_length_of_symlinks(
    engine: Engine, buildkit: str, cli: Cli
) -> None:
    """BuildKit records the payload of the layer's tar, in which a symlink has none."""
    answer = cli.ok("image", buildkit, "--json").json
    links: dict[int, int] = {}
    for line in cli.ok("files", buildkit, "--format", "jsonl").lines:
        if line["kind"] == "symlink":
            links[line["layer"]] = links.get(line["layer"], 0) + line["size_bytes"]
    assert answer["layers"][0]["recorded_bytes"] == answer["layers"][0]["size_bytes"]  # docker import's own
    for layer in answer["layers"][1:]:
        assert layer["size_bytes"] == layer["recorded_bytes"] + links.get(layer["index"], 0)


def test_chain_is_that_of_docker_inspect(engine: Engine, specimen: str, cli: Cli) -> None:
    answer = cli.ok("image", specimen, "--json").json
    told = engine.inspect(specimen)
    assert [layer["diff_id"] for layer in answer["layers"]] == told["RootFS"]["Layers"]
    data = told["GraphDriver"]["Data"]
    directories = [data["UpperDir"], *data["LowerDir"].split(":")]
    assert [layer["diff_dir"] for layer in reversed(answer["layers"])] == directories
    assert answer["warnings"] == []


@pytest.mark.parametrize("state", ["created", "running", "exited"])
def test_visible_paths_are_those_of_docker_export(engine: Engine, specimen: str, cli: Cli, state: str) -> None:
    container = engine.create(specimen)
    if state != "created":
        engine.docker("start", container)
    if state == "exited":
        engine.docker("kill", container)
    ours = visible_paths(cli, container)
    exported: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(fileobj=io.BytesIO(engine.docker_bytes("export", container))) as tar:
        for member in tar:
            exported[member.name.rstrip("/")] = member
    assert ours.keys() == exported.keys()
    for path, member in exported.items():
        line = ours[path]
        assert line["mode"] == f"{member.mode & 0o7777:04o}", path
        assert (line["uid"], line["gid"]) == (member.uid, member.gid), path
        if member.issym():
            assert line["target"] == member.linkname
        if member.isreg():
            assert line["size_bytes"] == member.size, path
    engine.remove(container)


def test_every_layer_event_is_seen(engine: Engine, specimen: str, cli: Cli) -> None:
    lines = cli.ok("files", specimen, "--format", "jsonl").lines
    changes = {line["change"] for line in lines}
    reasons = {line["hidden_by"]["reason"] for line in lines if line["hidden_by"]}
    kinds = {line["kind"] for line in lines}
    assert changes == {"added", "modified", "metadata", "deleted", "unchanged"}
    assert reasons == {"whiteout", "opaque", "overwritten", "replaced"}
    assert kinds == {"file", "directory", "symlink", "whiteout", "char", "block", "fifo"}


def test_what_each_step_did(engine: Engine, specimen: str, cli: Cli) -> None:
    """The events of the specimen, step by step: the same for both builders."""
    answer = cli.ok("image", specimen, "--files", "--json").json
    done = {}
    for layer in answer["layers"]:
        step = layer["created_by"].removeprefix("RUN ").removeprefix("/bin/sh -c ").removesuffix(" # buildkit")
        done[step[:30]] = [(item["change"], item["kind"], item["path"]) for item in layer["changed"]]
    assert done["echo ONE > /app/conf/one && ec"[:30]] == [
        ("modified", "file", "app/conf/one"),
        ("modified", "file", "app/conf/two"),
    ]
    assert done["cp /app/conf/three /tmp/three "[:30]] == [("metadata", "file", "app/conf/three")]
    assert done["chmod 600 /app/conf/one"] == [("metadata", "file", "app/conf/one")]
    assert done["rm /app/cache/a"] == [("deleted", "whiteout", "app/cache/a")]
    assert ("deleted", "whiteout", "app/cache") in done["rm -r /app/cache && touch /gon"]
    assert done["rm /app/conf/three"] == [("deleted", "whiteout", "app/conf/three")]
    assert done["echo again > /app/conf/three"] == [("added", "file", "app/conf/three")]
    assert ("modified", "symlink", "srv/site") in done["rm /srv/site && ln -s /app/con"]
    assert ("modified", "file", "swap/dir") in done["rm -r /swap/dir && echo now a "]
    assert ("modified", "directory", "swap/file") in done["rm -r /swap/dir && echo now a "]
    assert done["rm /root/.aws/credentials"] == [("deleted", "whiteout", "root/.aws/credentials")]
    assert done["echo 'GITHUB_TOKEN=' > /app/.e"] == [("modified", "file", "app/.env")]


def test_hidden_and_visible_bytes_are_all_bytes(engine: Engine, specimen: str, cli: Cli) -> None:
    answer = cli.ok("image", specimen, "--json").json
    assert sum(layer["size_bytes"] for layer in answer["layers"]) == (
        answer["merged"]["size_bytes"] + answer["hidden"]["size_bytes"]
    )
    reasons = answer["hidden"]["by_reason"].values()
    assert answer["hidden"]["files"] == sum(reason["files"] for reason in reasons)
    assert answer["hidden"]["size_bytes"] == sum(layer["hides"]["size_bytes"] for layer in answer["layers"])
    assert answer["hidden"]["size_bytes"] == sum(layer["hidden"]["size_bytes"] for layer in answer["layers"])


def test_shared_layers_name_the_other_image(engine: Engine, classic: str, buildkit: str, cli: Cli) -> None:
    base = cli.ok("image", classic, "--json").json["layers"][0]
    assert buildkit in [reference for user in base["shared_with"] for reference in user["references"]]
    assert classic not in [reference for user in base["shared_with"] for reference in user["references"]]


def test_secrets_that_later_layers_hide_can_still_be_read(engine: Engine, specimen: str, cli: Cli) -> None:
    trace = cli.ok("trace", specimen, "/root/.aws/credentials", "--json").json
    assert [event["event"] for event in trace["events"]] == ["added", "deleted"]
    assert trace["visible_layer"] is None
    added = trace["events"][0]["layer"]
    assert "AKIAQYLPMN5HHHFPZAM2" in cli.ok("cat", specimen, "root/.aws/credentials", "--layer", str(added)).out
    gone = cli("cat", specimen, "root/.aws/credentials")
    assert gone.code == 3
    assert f"--layer {added}" in gone.err
