"""Records of layers and mounts in ``layerdb`` that are lost, damaged or forged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.dataroot import FakeRoot, StoredContainer, StoredImage, write
from tests.stores.offline import Offline

GARBAGE = {
    "empty": b"",
    "binary": b"\x00\xff\xfe\x80" * 16,
    "parent directory": b"..",
    "path": b"../../../../etc",
    "absolute": b"/etc/passwd",
    "id and path": b"a" * 64 + b"/../x",
    "upper case": b"A" * 64,
    "too long": b"a" * 65,
    "two lines": b"a" * 64 + b"\n" + b"b" * 64,
    "escapes": b"\x1b]0;x\x07",
    "endless": b"a" * 1_000_000,
}


@pytest.fixture
def app(root: FakeRoot) -> StoredImage:
    """The image that breaks in its top layer; `healthy:1` shares the base."""
    base = root.layer({"base": "1"})
    root.image("healthy:1", [base, root.layer({"healthy": "1"})])
    return root.image("app:1", [base, root.layer({"app": "123"})])


@pytest.fixture
def web(root: FakeRoot, app: StoredImage) -> StoredContainer:
    root.container("healthy", app)
    return root.container("web", app)


@pytest.fixture(params=GARBAGE.values(), ids=GARBAGE.keys())
def garbage(request: pytest.FixtureRequest) -> bytes:
    content: bytes = request.param
    return content


def spoil(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)


# -- layers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cache-id", "diff", "parent"])
def test_garbage_in_a_layer_record_is_an_error_for_its_image_only(
    app: StoredImage, web: StoredContainer, offline: Offline, name: str, garbage: bytes
) -> None:
    path = app.layers[1].record / name
    spoil(path, garbage)
    assert str(path) in offline.fails("image", "app:1").message
    assert str(path) in offline.fails("container", "web").message
    answer = offline.json("ls")
    sizes = {image["references"][0]: image["size_bytes"] for image in answer["images"]}
    assert sizes == {"healthy:1": 2, "app:1": None}
    assert [warning["code"] for warning in answer["warnings"]] == ["broken-image"]
    assert offline.json("image", "healthy:1")["warnings"] == []


@pytest.mark.parametrize("name", ["cache-id", "diff"])
def test_layer_record_that_lacks_a_file_is_an_error(app: StoredImage, offline: Offline, name: str) -> None:
    (app.layers[1].record / name).unlink()
    assert f"{app.layers[1].record}/{name} is missing" in offline.fails("image", "app:1").message


def test_layer_record_that_is_gone_is_an_error_that_names_the_layer(
    app: StoredImage, web: StoredContainer, offline: Offline
) -> None:
    shutil.rmtree(app.layers[1].record)
    assert (
        f"layer 1 of app:1 ({app.layers[1].chain_id}) is not in layerdb" in offline.fails("image", "app:1").message
    )
    assert app.layers[1].chain_id in offline.fails("container", "web").message
    assert offline.json("image", "healthy:1")["warnings"] == []


@pytest.mark.parametrize("what", ["file", "symlink"])
def test_layer_record_that_is_no_directory_is_never_followed(
    root: FakeRoot, app: StoredImage, offline: Offline, what: str
) -> None:
    record = app.layers[1].record
    record.rename(root.path / "kept")
    record.symlink_to(root.path / "kept") if what == "symlink" else record.write_text("")
    assert "through a symlink or a file" in offline.fails("image", "app:1").message


@pytest.mark.parametrize(
    "content", [None, b"", b"-1", b"1.5", b"1e3", b"0x10", b"\xff", b"1_000", b"9" * 19, b"9" * 5000]
)
def test_size_that_is_none_is_a_warning(app: StoredImage, offline: Offline, content: bytes | None) -> None:
    spoil(app.layers[1].record / "size", content)
    layers = offline.json("image", "app:1")["layers"]
    assert [layer["recorded_bytes"] for layer in layers] == [1, None]
    assert layers[1]["size_bytes"] == 3
    assert offline("ls").code == 0
    place = f"image/overlay2/layerdb/sha256/{app.layers[1].chain_id.removeprefix('sha256:')}/size"
    assert offline.warns("ls") == offline.warns("image", "app:1") == [("broken-size", place)]


def test_record_that_names_another_layer_than_its_chain_id_is_a_warning(app: StoredImage, offline: Offline) -> None:
    """The image's configuration says what the layer is; layerdb is the second witness."""
    forged = "sha256:" + "0" * 64
    (app.layers[1].record / "diff").write_text(forged)
    answer = offline.json("image", "app:1")
    assert [layer["diff_id"] for layer in answer["layers"]] == [layer.diff_id for layer in app.layers]
    (warning,) = answer["warnings"]
    assert warning["code"] == "layerdb-mismatch"
    assert forged in warning["message"]


def test_two_layers_in_one_directory_are_a_warning(app: StoredImage, offline: Offline) -> None:
    (app.layers[1].record / "cache-id").write_text(app.layers[0].directory.cache_id)
    assert offline.warns("image", "app:1") == [("chain-mismatch", "overlay2")]


@pytest.mark.parametrize("length", [1, 2])
def test_parents_in_a_circle_end(app: StoredImage, web: StoredContainer, offline: Offline, length: int) -> None:
    """A container's layers are found by `parent`; an image's are not, so there it is a warning."""
    layer = app.layers[2 - length]
    write(layer.record / "parent", app.layers[1].chain_id)
    assert "is its own ancestor" in offline.fails("container", "web", warnings=1).message
    assert [code for code, _ in offline.warns("image", "app:1")] == ["layerdb-mismatch"]
    assert offline.names() == (["app:1", "healthy:1"], ["healthy", "web"])


def test_interrupted_removal_of_a_layer_does_not_matter(app: StoredImage, offline: Offline) -> None:
    record = app.layers[0].record
    shutil.copytree(record, record.with_name(f"{record.name}-123456-removing"))
    assert offline.json("image", "app:1")["warnings"] == []


# -- mounts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mount-id", "init-id", "parent"])
def test_garbage_in_a_mount_record_is_an_error_for_its_container_only(
    web: StoredContainer, offline: Offline, name: str, garbage: bytes
) -> None:
    spoil(web.mount / name, garbage)
    assert str(web.mount / name) in offline.fails("container", "web").message
    answer = offline.json("ls")
    assert {c["name"]: c["cache_id"] is None for c in answer["containers"]} == {"healthy": False, "web": True}
    assert [warning["code"] for warning in answer["warnings"]] == ["broken-container"]
    assert offline.json("container", "healthy")["warnings"] == []


@pytest.mark.parametrize("name", ["init-id", "parent"])
def test_mount_record_that_lacks_what_some_containers_lack_is_a_warning(
    web: StoredContainer, offline: Offline, name: str
) -> None:
    """The `lower` file still has the layers: what layerdb does not say of them is left out."""
    before = offline.json("container", "web")
    (web.mount / name).unlink()
    after = offline.json("container", "web")
    assert [layer["cache_id"] for layer in after["layers"]] == [layer["cache_id"] for layer in before["layers"]]
    assert offline.warns("container", "web") == [("chain-mismatch", "overlay2")]


def test_container_without_a_mount_record_is_an_error(web: StoredContainer, offline: Offline) -> None:
    """As in the state `dead`, or after a crash of the engine."""
    shutil.rmtree(web.mount)
    assert "the container web has no mount in layerdb" in offline.fails("container", "web").message
    assert offline.names()[1] == ["healthy", "web"]


def test_mount_id_that_names_an_image_layer_is_a_warning(
    app: StoredImage, web: StoredContainer, offline: Offline
) -> None:
    (web.mount / "mount-id").write_text(app.layers[1].directory.cache_id)
    assert ("chain-mismatch", "overlay2") in offline.warns("container", "web")
