"""Data roots that are whole, in all the shapes that Docker gives them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.dataroot import OPAQUE, WHITEOUT, FakeRoot, StoredImage
from tests.stores.offline import Offline

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def app(root: FakeRoot) -> StoredImage:
    """An image of two layers, the upper one made by BuildKit, and a container of it."""
    base = root.layer({"etc/passwd": "root", "old": "12345", "d/a": "1"})
    top = root.layer({"old": WHITEOUT, "d": OPAQUE, "d/b": "22"}, buildkit=True)
    image = root.image("app:1", [base, top])
    root.container("web", image, upper={"etc/passwd": "other", "new": "x"})
    return image


def test_empty_data_root_lists_nothing(root: FakeRoot, offline: Offline) -> None:
    answer = offline.json("ls")
    assert (answer["images"], answer["containers"], answer["warnings"]) == ([], [], [])
    assert offline("ls").out.splitlines()[-3:] == ["No images.", "", "No containers."]


def test_data_root_without_image_directory_lists_nothing(root: FakeRoot, offline: Offline) -> None:
    """Also the one that an engine leaves that was started and stopped: not even `containers/` is there."""
    shutil.rmtree(root.path / "image")
    shutil.rmtree(root.path / "containers")
    assert offline.names() == ([], [])


def test_images_without_containers_are_listed(root: FakeRoot, offline: Offline) -> None:
    root.image("app:1", [root.layer({"a": "1"})])
    assert offline.names() == (["app:1"], [])


def test_chain_has_the_ids_that_docker_computes(root: FakeRoot, app: StoredImage, offline: Offline) -> None:
    layers = offline.json("image", "app:1")["layers"]
    assert [layer["index"] for layer in layers] == [0, 1]
    for layer, stored in zip(layers, app.layers, strict=True):
        assert layer["role"] == "image"
        assert layer["diff_id"] == stored.diff_id
        assert layer["chain_id"] == stored.chain_id
        assert layer["cache_id"] == stored.directory.cache_id
        assert layer["link_id"] == stored.directory.link_id
        assert layer["diff_dir"] == str(stored.directory.diff)
    assert [layer["created_by"] for layer in layers] == ["RUN step 0", "RUN step 1"]


def test_buildkit_directory_with_25_characters_is_a_layer(
    root: FakeRoot, app: StoredImage, offline: Offline
) -> None:
    assert len(app.layers[1].directory.cache_id) == 25
    assert offline.json("image", "app:1")["layers"][1]["cache_id"] == app.layers[1].directory.cache_id
    assert offline("cat", "app:1", "d/b").out == "22"


def test_container_is_image_layers_then_init_then_upper(root: FakeRoot, app: StoredImage, offline: Offline) -> None:
    answer = offline.json("container", "web")
    assert [layer["role"] for layer in answer["layers"]] == ["image", "image", "init", "upper"]
    assert [(change["change"], change["path"]) for change in answer["changes"]] == [
        ("modified", "etc"),
        ("modified", "etc/passwd"),
        ("added", "new"),
    ]
    assert answer["target"]["image_id"] == app.id
    assert answer["target"]["image"] == "app:1"


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ({}, "exited"),
        ({"Running": True}, "running"),
        ({"Running": True, "Paused": True}, "paused"),
        ({"Running": True, "Restarting": True}, "restarting"),
        ({"Dead": True}, "dead"),
        ({"RemovalInProgress": True}, "removing"),
        ({"StartedAt": "0001-01-01T00:00:00Z"}, "created"),
    ],
)
def test_state_of_a_container_is_dockers_word(
    root: FakeRoot, offline: Offline, state: dict[str, object], shown: str
) -> None:
    root.container("web", root.image("app:1", [root.layer({"a": "1"})]), **state)
    assert offline.json("ls")["containers"][0]["state"] == shown


def test_untagged_image_is_found_by_its_id(root: FakeRoot, offline: Offline) -> None:
    image = root.image(None, [root.layer({"a": "1"})])
    (listed,) = offline.json("ls")["images"]
    assert (listed["id"], listed["references"]) == (image.id, [])
    assert offline.json("image", image.id.removeprefix("sha256:")[:12])["target"]["id"] == image.id


def test_data_root_without_names_lists_images_by_id(root: FakeRoot, offline: Offline) -> None:
    image = root.image("app:1", [root.layer({"a": "1"})])
    root.repositories_path.unlink()
    answer = offline.json("ls")
    assert [listed["id"] for listed in answer["images"]] == [image.id]
    assert answer["warnings"] == []


def test_tags_come_before_digests(root: FakeRoot, offline: Offline) -> None:
    root.image([f"app@{DIGEST}", "zoo:2", "app:1"], [root.layer({"a": "1"})])
    assert offline.json("ls")["images"][0]["references"] == ["app:1", "zoo:2", f"app@{DIGEST}"]


def test_scratch_image_has_no_layers_and_its_container_two(root: FakeRoot, offline: Offline) -> None:
    root.container("bare", root.image("empty:1", []), upper={"a": "123"})
    answer = offline.json("image", "empty:1")
    assert (answer["layers"], answer["merged"]["files"], answer["hidden"]["files"]) == ([], 0, 0)
    container = offline.json("container", "bare")
    assert [layer["role"] for layer in container["layers"]] == ["init", "upper"]
    assert [change["path"] for change in container["changes"]] == ["a"]
    assert offline.json("ls")["images"][0]["layers"] == 0


def test_missing_list_of_diff_ids_is_an_image_without_layers(root: FakeRoot, offline: Offline) -> None:
    """Docker writes FROM scratch with `ENV` alone so: `"rootfs": {"type": "layers"}`."""
    root.image("empty:1", [], config={"rootfs": {"type": "layers"}})
    assert offline.json("image", "empty:1")["layers"] == []


def test_layers_in_common_are_shared_and_counted_once(root: FakeRoot, offline: Offline) -> None:
    base = root.layer({"a": "1234"})
    one = root.image("one:1", [base, root.layer({"b": "1"})])
    two = root.image("two:1", [base, root.layer({"c": "12"})])
    assert one.layers[0].directory == two.layers[0].directory
    shown = offline.json("image", "one:1")["layers"]
    assert shown[0]["shared_with"] == [{"id": two.id, "references": ["two:1"]}]
    assert shown[1]["shared_with"] == []
    sizes = {image["references"][0]: image for image in offline.json("ls")["images"]}
    assert (sizes["one:1"]["size_bytes"], sizes["one:1"]["shared_bytes"]) == (5, 4)
    assert (sizes["two:1"]["size_bytes"], sizes["two:1"]["shared_bytes"]) == (6, 4)


def test_same_layer_twice_in_one_image_is_two_layers(root: FakeRoot, offline: Offline) -> None:
    content = root.layer({"a": "1"})
    image = root.image("app:1", [content, content])
    layers = offline.json("image", "app:1")["layers"]
    assert [layer["cache_id"] for layer in layers] == [stored.directory.cache_id for stored in image.layers]
    assert layers[0]["diff_id"] == layers[1]["diff_id"]


def test_empty_steps_of_the_history_have_no_layer(root: FakeRoot, offline: Offline) -> None:
    steps = [
        {"created_by": "ADD a"},
        {"created_by": "ENV A=b", "empty_layer": True},
        {"created_by": "RUN b", "comment": "buildkit.dockerfile.v0"},
    ]
    root.image("app:1", [root.layer({"a": "1"}), root.layer({"b": "1"})], history=steps)
    answer = offline.json("image", "app:1")
    assert [(step["created_by"], step["layer"]) for step in answer["history"]] == [
        ("ADD a", 0),
        ("ENV A=b", None),
        ("RUN b", 1),
    ]
    assert [layer["created_by"] for layer in answer["layers"]] == ["ADD a", "RUN b"]


@pytest.mark.parametrize("history", [[], [{"created_by": "ADD a"}]])
def test_fewer_steps_than_layers_leave_the_upper_layers_without_one(
    root: FakeRoot, offline: Offline, history: list[dict[str, str]]
) -> None:
    """`docker import` and squashed images have them."""
    root.image("app:1", [root.layer({"a": "1"}), root.layer({"b": "1"})], history=history)
    answer = offline.json("image", "app:1")
    assert [layer["created_by"] for layer in answer["layers"]] == (["ADD a", None] if history else [None, None])
    assert answer["warnings"] == []


def test_untagged_steps_of_the_legacy_builder_are_listed_only_on_request(root: FakeRoot, offline: Offline) -> None:
    base = root.layer({"a": "1"})
    step = root.image(None, [base])
    built = root.image("app:1", [base, root.layer({"b": "1"})], parent=step)
    assert [image["id"] for image in offline.json("ls")["images"]] == [built.id]
    assert {image["id"] for image in offline.json("ls", "--all")["images"]} == {step.id, built.id}
    assert offline.json("image", "app:1")["layers"][0]["shared_with"] == []


def test_untagged_images_that_are_each_others_parent_stay_listed(root: FakeRoot, offline: Offline) -> None:
    """Nothing leads to them, so they are no steps of anything; a forged file must not hide them."""
    one, two = root.image(None, [root.layer({"a": "1"})]), root.image(None, [root.layer({"b": "1"})])
    alone = root.image(None, [root.layer({"c": "1"})])
    root.set_parent(one, two.id)
    root.set_parent(two, one.id)
    root.set_parent(alone, alone.id)
    assert {image["id"] for image in offline.json("ls")["images"]} == {one.id, two.id, alone.id}


@pytest.mark.parametrize("name", ["moved", "with space", "a:colon", "a,comma", "a,userxattr,b", "back\\slash", "ü"])
def test_data_root_works_wherever_it_is_moved(
    root: FakeRoot, app: StoredImage, offline: Offline, cli: Cli, tmp_path: Path, name: str
) -> None:
    before = {target: offline.json(*target) for target in (("image", "app:1"), ("container", "web"), ("ls",))}
    moved = tmp_path / name / "docker"
    moved.parent.mkdir()
    root.path.rename(moved)
    for target, answer in before.items():
        after = json.dumps(Offline(cli, moved).json(*target)).replace(json.dumps(str(moved))[1:-1], str(root.path))
        assert json.loads(after) == answer


def test_path_of_the_data_root_says_nothing_about_mount_options(
    root: FakeRoot, app: StoredImage, cli: Cli, tmp_path: Path
) -> None:
    moved = tmp_path / "a,userxattr,b"
    root.path.rename(moved)
    answer = Offline(cli, moved).json("image", "app:1", "--overlay-options", "metacopy=on")
    assert answer["options"]["metacopy"] is True
    plain = Offline(cli, moved).json("image", "app:1")
    assert answer["options"]["xattrs"] == plain["options"]["xattrs"]


def test_data_root_may_be_reached_through_a_symlink(
    root: FakeRoot, app: StoredImage, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(root.path)
    answer = Offline(cli, tmp_path / "link").json("image", "app:1")
    assert answer["source"]["data_root"] == str(root.path)
    assert answer["layers"][0]["diff_dir"] == str(app.layers[0].directory.diff)
