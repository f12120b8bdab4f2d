"""One broken record is one warning, and everything else is still shown; asked for by name it is one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.dataroot import FakeRoot, StoredContainer, StoredImage, write
from tests.stores.offline import Offline

NOT_JSON = {
    "empty": b"",
    "truncated": b'{"rootfs": {"type": "layers", "diff_ids": ["sha256:',
    "text": b"not JSON",
    "binary": bytes(range(256)),
    "list": b"[]",
    "string": b'"x"',
    "null": b"null",
    "deep": b"[" * 200_000,
    "long number": b'{"a": ' + b"9" * 5000 + b"}",
    "NUL bytes": b"\0" * 4096,
}


@pytest.fixture
def app(root: FakeRoot) -> StoredImage:
    """The image that breaks; `healthy:1` stays whole."""
    base = root.layer({"base": "1"})
    root.image("healthy:1", [base, root.layer({"healthy": "1"})])
    return root.image("app:1", [base, root.layer({"app": "1"})])


@pytest.fixture
def web(root: FakeRoot, app: StoredImage) -> StoredContainer:
    """The container that breaks; `healthy` stays whole."""
    root.container("healthy", app)
    return root.container("web", app)


@pytest.fixture(params=NOT_JSON.values(), ids=NOT_JSON.keys())
def not_json(request: pytest.FixtureRequest) -> bytes:
    content: bytes = request.param
    return content


def relative(path: Path, root: FakeRoot) -> str:
    return str(path.relative_to(root.path))


# -- JSON ----------------------------------------------------------------------------------------------------


def test_image_config_that_is_no_object_costs_one_image(
    root: FakeRoot, app: StoredImage, offline: Offline, not_json: bytes
) -> None:
    app.config.write_bytes(not_json)
    assert offline.names() == (["healthy:1"], [])
    assert offline.warns("ls") == [("broken-image", relative(app.config, root))]
    assert offline.json("image", "healthy:1")["layers"][0]["shared_with"] == []


@pytest.mark.parametrize("named", ["app:1", "app:latest", "{id}", "{short}", "{whole}"])
def test_broken_image_is_an_error_when_it_is_asked_for(
    root: FakeRoot, app: StoredImage, offline: Offline, named: str
) -> None:
    root.repositories["app"]["app:latest"] = app.id
    root.repositories_path.write_text(json.dumps({"Repositories": root.repositories}))
    app.config.write_text("{")
    hexadecimal = app.id.removeprefix("sha256:")
    typed = named.format(id=app.id, whole=hexadecimal, short=hexadecimal[:12])
    assert f"{app.config} is not JSON" in offline.fails("image", typed, warnings=1).message


def test_image_config_that_is_gone_costs_one_image(root: FakeRoot, app: StoredImage, offline: Offline) -> None:
    app.config.unlink()
    assert offline.names() == (["healthy:1"], [])
    assert offline.warns("ls") == [("broken-image", relative(app.config, root))]
    assert "the image app:1 has no" in offline.fails("image", "app:1", warnings=1).message


def test_container_config_that_is_no_object_costs_one_container(
    root: FakeRoot, web: StoredContainer, offline: Offline, not_json: bytes
) -> None:
    web.config.write_bytes(not_json)
    assert offline.names()[1] == ["healthy"]
    assert offline.warns("ls") == [("broken-container", relative(web.config.parent, root))]
    assert str(web.config) in offline.fails("container", web.id[:12], warnings=1).message


def test_container_directory_without_config_costs_one_container(
    root: FakeRoot, web: StoredContainer, offline: Offline
) -> None:
    web.config.unlink()
    assert offline.names()[1] == ["healthy"]
    assert offline.warns("ls") == [("broken-container", relative(web.config.parent, root))]


def test_names_that_are_no_object_cost_the_names_only(
    root: FakeRoot, app: StoredImage, offline: Offline, not_json: bytes
) -> None:
    root.repositories_path.write_bytes(not_json)
    assert offline.names() == (["-", "-"], [])
    assert offline.warns("ls") == [("broken-references", "image/overlay2/repositories.json")]
    assert offline.json("image", app.id)["target"]["references"] == []


@pytest.mark.parametrize("entry", [None, 5, "x", [], {"app:1": 5}, {"app:1": "sha256:../x"}, {"app:1": ["x"]}])
def test_one_wrong_entry_among_the_names_costs_that_entry(
    root: FakeRoot, app: StoredImage, offline: Offline, entry: Any
) -> None:
    names = {**root.repositories, "app": entry}
    root.repositories_path.write_text(json.dumps({"Repositories": names}))
    assert offline.names()[0] == ["healthy:1", "-"]
    assert offline.warns("ls") == [("broken-references", "image/overlay2/repositories.json")]


@pytest.mark.parametrize("stored", [{}, {"Repositories": None}, {"Repositories": []}, {"repositories": {}}])
def test_file_of_names_without_names_is_a_warning(
    root: FakeRoot, app: StoredImage, offline: Offline, stored: Any
) -> None:
    root.repositories_path.write_text(json.dumps(stored))
    assert offline.warns("ls") == [("broken-references", "image/overlay2/repositories.json")]


def test_name_of_an_image_that_is_gone_is_one_warning(root: FakeRoot, app: StoredImage, offline: Offline) -> None:
    root.repositories["ghost"] = {"ghost:1": "sha256:" + "0" * 64}
    root.repositories_path.write_text(json.dumps({"Repositories": root.repositories}))
    assert [code for code, _ in offline.warns("ls")] == ["broken-image"]
    assert sorted(offline.names()[0]) == ["app:1", "healthy:1"]
    assert "the image ghost:1 has no" in offline.fails("image", "ghost:1", warnings=1).message


# -- image configuration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rootfs",
    [None, 5, "x", [], {"diff_ids": 5}, {"diff_ids": {}}, {"diff_ids": [5]}, {"diff_ids": [None]},
     {"diff_ids": ["sha256:../../etc"]}, {"diff_ids": ["sha256:" + "A" * 64]}, {"diff_ids": ["a" * 64]}],
    ids=str,
)  # fmt: skip
def test_image_without_valid_diff_ids_is_left_out(
    root: FakeRoot, app: StoredImage, offline: Offline, rootfs: Any
) -> None:
    root.image("broken:1", [], config={"rootfs": rootfs})
    assert sorted(offline.names()[0]) == ["app:1", "healthy:1"]
    assert "has no valid rootfs.diff_ids" in offline.fails("image", "broken:1", warnings=1).message


@pytest.mark.parametrize(
    "history",
    [5, "x", {}, ["x"], [None], [[]], [{"empty_layer": "true"}], [{"empty_layer": 1}], [{}, {}]],
    ids=str,
)
def test_history_that_can_not_be_matched_to_layers_is_refused(
    root: FakeRoot, app: StoredImage, offline: Offline, history: Any
) -> None:
    """Skipping what is no step would give every later step the layer of another."""
    root.image("broken:1", [root.layer({"a": "1"})], config={"history": history})
    assert sorted(offline.names()[0]) == ["app:1", "healthy:1"]
    assert "history" in offline.fails("image", "broken:1", warnings=1).message


@pytest.mark.parametrize("history", [None, []])
def test_no_history_is_an_image_without_history(root: FakeRoot, offline: Offline, history: Any) -> None:
    root.image("app:1", [root.layer({"a": "1"})], config={"history": history})
    assert offline.json("image", "app:1")["history"] == []


def test_config_that_was_changed_after_docker_wrote_it_is_a_warning(
    root: FakeRoot, app: StoredImage, offline: Offline
) -> None:
    """An image id is the digest of the file."""
    app.config.write_text(app.config.read_text().replace("RUN step 1", "RUN evil"))
    answer = offline.json("image", "app:1")
    assert answer["layers"][1]["created_by"] == "RUN evil"
    assert offline.warns("image", "app:1") == [("changed-image-config", relative(app.config, root))]


@pytest.mark.parametrize("content", [b"", b"garbage", b"sha256:../..", b"\xff" * 64, b"x" * 100_000])
def test_damaged_record_of_an_images_parent_costs_the_parent_only(
    root: FakeRoot, app: StoredImage, offline: Offline, content: bytes
) -> None:
    root.set_parent(app, "")
    path = root.image_path / "imagedb/metadata/sha256" / app.id.removeprefix("sha256:") / "parent"
    path.write_bytes(content)
    assert sorted(offline.names()[0]) == ["app:1", "healthy:1"]
    assert offline.warns("ls") == [("broken-parent", relative(path, root))]


@pytest.mark.parametrize("name", ["..data", "A" * 64, "a" * 63, "a" * 65, "x\x1b[2J", "a" * 64 + "\n"])
def test_stray_names_beside_images_and_containers_are_warnings(
    root: FakeRoot, web: StoredContainer, offline: Offline, name: str
) -> None:
    write(root.config_path(name), "{}")
    write(root.path / "containers" / name / "config.v2.json", "{}")
    result = offline("ls")
    assert result.code == 0
    assert "\x1b" not in result.out + result.err
    assert [code for code, _ in offline.warns("ls")] == ["broken-image", "broken-container"]


# -- containers ----------------------------------------------------------------------------------------------


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("value", [None, 5, True, [], {}, ["x"], {"Image": 5}, {"Image": ["x"]}, "", "x"], ids=str)
@pytest.mark.parametrize("key", ["Name", "Config", "State", "Image", "Created"])
def test_container_with_a_value_of_a_wrong_type_is_still_listed(
    root: FakeRoot, web: StoredContainer, offline: Offline, key: str, value: Any
) -> None:
    change(web.config, **{key: value})
    containers = offline.names()[1]
    assert "healthy" in containers
    assert len(containers) == 2
    assert offline("ls").code == 0
    assert offline.json("container", web.id)["target"]["id"] == web.id


@pytest.mark.parametrize("name", [None, "", "/", 5])
def test_container_without_a_name_goes_by_its_id(
    root: FakeRoot, web: StoredContainer, offline: Offline, name: object
) -> None:
    change(web.config, Name=name)
    assert sorted(offline.names()[1]) == sorted(["healthy", web.id])


@pytest.mark.parametrize("driver", [None, 5, "", []])
def test_container_without_a_driver_is_a_warning(
    root: FakeRoot, web: StoredContainer, offline: Offline, driver: object
) -> None:
    change(web.config, Driver=driver)
    assert offline.names()[1] == ["healthy"]
    assert offline.warns("ls") == [("broken-container", relative(web.config.parent, root))]


def test_container_of_another_driver_is_named_with_its_driver(
    root: FakeRoot, app: StoredImage, offline: Offline
) -> None:
    """A host whose engine was switched to the containerd store has both."""
    other = root.container("other", app, driver="overlayfs")
    root.container("healthy", app)
    assert offline.names()[1] == ["healthy"]
    assert offline.warns("ls") == [("other-driver", relative(other.config.parent, root))]
    failure = offline.fails("container", "other", warnings=1)
    assert failure.message == "the container other belongs to the storage driver overlayfs"


def test_container_record_that_names_another_id_is_a_warning(
    root: FakeRoot, web: StoredContainer, offline: Offline
) -> None:
    change(web.config, ID="0" * 64)
    assert offline.warns("container", "web") == [("container-mismatch", relative(web.config.parent, root))]
    assert offline.json("container", "web")["target"]["id"] == web.id


def test_container_without_mount_id_is_one_warning_among_healthy_ones(
    root: FakeRoot, app: StoredImage, web: StoredContainer, offline: Offline
) -> None:
    for number in range(3):
        root.container(f"more{number}", app)
    (web.mount / "mount-id").unlink()
    answer = offline.json("ls")
    shown = {container["name"]: container["cache_id"] is not None for container in answer["containers"]}
    assert shown == {"healthy": True, "more0": True, "more1": True, "more2": True, "web": False}
    assert [warning["code"] for warning in answer["warnings"]] == ["broken-container"]
    assert "mount-id is missing" in offline.fails("container", "web").message


def test_container_of_an_image_that_is_gone_is_shown(
    root: FakeRoot, app: StoredImage, web: StoredContainer, offline: Offline
) -> None:
    """`docker rmi --force` leaves the layers, without the steps that made them."""
    app.config.unlink()
    del root.repositories["app"]
    root.repositories_path.write_text(json.dumps({"Repositories": root.repositories}))
    answer = offline.json("container", "web")
    assert answer["warnings"] == []
    assert answer["history"] == []
    assert [layer["diff_id"] for layer in answer["layers"][:2]] == [layer.diff_id for layer in app.layers]
