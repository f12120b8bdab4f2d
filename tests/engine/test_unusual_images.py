"""Images that other tools stumble over, made by a real engine."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.dockerd import Engine, add
from tests.kernel import mounted


def saved_image(tag: str, layers: list[bytes], config: dict[str, object] | None = None) -> bytes:
    """A `docker save` archive of layer tars."""
    diff_ids = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": f"step {index}"} for index in range(len(layers))],
    }
    manifest = [
        {
            "Config": "config.json",
            "RepoTags": [tag],
            "Layers": [f"layer{index}.tar" for index in range(len(layers))],
        }
    ]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "config.json", json.dumps(image).encode())
        add(tar, "manifest.json", json.dumps(manifest).encode())
        for index, layer in enumerate(layers):
            add(tar, f"layer{index}.tar", layer)
    return buffer.getvalue()


def layer_tar(*entries: tuple[str, bytes]) -> bytes:
    """A layer of files; a name that ends in ``/`` is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in entries:
            if name.endswith("/"):
                add(tar, name.rstrip("/"), kind=tarfile.DIRTYPE, mode=0o755)
            else:
                add(tar, name, content)
    return buffer.getvalue()


def test_image_of_125_layers(engine: Engine, cli: Cli) -> None:
    """As many as Docker allows: far more than fit into a mount option string with whole paths."""
    tag = "layerscope-test/deep:1"
    layers = [layer_tar(("same", str(n).encode()), (f"own{n}", b"x")) for n in range(125)]
    engine.load(saved_image(tag, layers), tag)
    answer = cli.ok("image", tag, "--json").json
    assert len(answer["layers"]) == 125
    assert answer["merged"]["files"] == 126
    assert answer["hidden"]["by_reason"]["overwritten"]["files"] == 124
    assert cli.ok("cat", tag, "same").out == "124"
    container = engine.create(tag, command=["none"])
    assert len(cli.ok("container", container, "--json").json["layers"]) == 127


def test_image_from_scratch_with_files(engine: Engine, cli: Cli) -> None:
    tag = engine.build("layerscope-test/scratch:1", "FROM scratch\nCOPY one /one\n", files={"one": b"1"})
    answer = cli.ok("image", tag, "--json").json
    assert [layer["counts"]["added"] for layer in answer["layers"]] == [1]
    container = engine.create(tag, command=["none"])
    roles = [layer["role"] for layer in cli.ok("container", container, "--json").json["layers"]]
    assert roles == ["image", "init", "upper"]


@pytest.mark.parametrize("buildkit", [False, True], ids=["classic", "buildkit"])
def test_image_from_scratch_without_layers(engine: Engine, cli: Cli, buildkit: bool) -> None:
    tag = engine.build(f"layerscope-test/nothing:{int(buildkit)}", "FROM scratch\nENV A=b\n", buildkit=buildkit)
    answer = cli.ok("image", tag, "--json").json
    assert answer["layers"] == []
    assert [step["layer"] for step in answer["history"]] == [None]
    assert answer["merged"]["files"] == 0
    assert "(no layers)" in cli.ok("image", tag).out or "(no layer)" in cli.ok("image", tag).out
    container = engine.create(tag, command=["none"])
    found = cli.ok("container", container, "--json").json
    assert [layer["role"] for layer in found["layers"]] == ["init", "upper"]
    assert cli.ok("container", container, "--layers", "--json").json["merged"]["files"] > 0


def test_image_without_a_tag(engine: Engine, cli: Cli) -> None:
    tag = engine.build("layerscope-test/untagged:1", "FROM BASE\nRUN echo untagged > /untagged\n")
    identifier = engine.inspect(tag)["Id"]
    engine.docker("create", "--name", "keeps-untagged", tag, "none")
    engine.containers.append("keeps-untagged")
    # A build that takes the name away leaves the image without one.
    engine.build("layerscope-test/untagged:1", "FROM BASE\nRUN echo other > /untagged\n")
    answer = cli.ok("image", identifier.removeprefix("sha256:")[:12], "--json").json
    assert answer["target"]["references"] == []
    assert identifier in [image["id"] for image in cli.ok("ls", "--json").json["images"]]
    answer = cli.ok("container", "keeps-untagged", "--json").json
    assert answer["target"]["image_id"] == identifier
    assert answer["layers"][0]["diff_id"] is not None


def test_layer_xattrs_that_a_hostile_image_brings(engine: Engine, cli: Cli) -> None:
    """Overlay marks in a layer's tar: whatever the engine puts on disk, the kernel and layerscope agree."""
    from layerscope.model import Cautions
    from layerscope.stores.base import find_target
    from layerscope.stores.open import open_store
    from tests.kernel import difference, kernel_view, layerscope_view, mount_options

    def marked(name: str, value: str, kind: bytes = tarfile.DIRTYPE) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            add(tar, "d", kind=kind, mode=0o755, xattrs={name: value})
            add(tar, "e", kind=tarfile.REGTYPE, xattrs={"trusted.overlay.metacopy": "", "user.note": "x"})
        return buffer.getvalue()

    tag = "layerscope-test/hostile:1"
    layers = [
        layer_tar(("d/", b""), ("d/secret", b"s"), ("other/", b""), ("other/file", b"o"), ("e", b"data")),
        marked("trusted.overlay.opaque", "y"),
        marked("trusted.overlay.redirect", "/other"),
        marked("user.overlay.opaque", "y"),
    ]
    engine.load(saved_image(tag, layers), tag)
    target = find_target(open_store(None, engine.host, None, Cautions()), tag)
    directories = [layer.diff_dir for layer in target.stack]
    with tempfile.TemporaryDirectory() as point:
        options = mount_options([Path(directory) for directory in directories], target.stack.options.xattrs)
        with mounted(Path(point), options) as root:
            ours = layerscope_view(target.stack)
            assert difference(kernel_view(root, ours), ours) == []


def test_intermediate_images_of_the_legacy_builder_are_listed_on_request(
    engine: Engine, classic: str, cli: Cli
) -> None:
    few = {image["id"] for image in cli.ok("ls", "--json").json["images"]}
    many = {image["id"] for image in cli.ok("ls", "--all", "--json").json["images"]}
    assert few == set(engine.docker("images", "--quiet", "--no-trunc").split())
    assert many == set(engine.docker("images", "--all", "--quiet", "--no-trunc").split())
    assert few < many
