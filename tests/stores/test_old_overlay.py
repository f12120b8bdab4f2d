"""A data root of the old graph driver `overlay`, without an engine: what a real one left, and what damage comes to.

The truth of what each layer did stands here, by hand, as the Dockerfiles in `fixtures/make_old_overlay.py` have it;
sizes and `docker diff` are the engine's, noted when the fixture was made.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.dataroot import FakeRoot
from tests.stores.offline import InProcess, Offline

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"
TOLD = json.loads((FIXTURES / "old-overlay.json").read_text())
LETTERS = {"added": "A", "modified": "C", "deleted": "D"}
LOADED, BUILT = "old/loaded:1", "old/built:1"

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="owners are compared: root unpacks them as they were")

STEPS = [
    {
        "added": "bin dev etc etc/app etc/app/conf etc/passwd proc srv srv/data srv/data/deep srv/data/deep/file"
        " srv/data/link srv/data/one srv/here srv/pipe sys var var/old var/old/a var/old/b"
    },
    {"modified": "etc/app/conf", "metadata": "etc/passwd", "deleted": "var/old/a"},
    {"added": "srv/.env srv/empty", "modified": "srv/here"},
    {"added": "var/old/new", "modified": "srv/data/deep", "deleted": "srv/.env var/old/b"},
]
"""What each layer of the loaded image did, base first."""
MORE_STEPS = [
    {"added": "built", "modified": "etc/app/conf", "deleted": "srv/empty"},
    {"modified": "etc/app/conf", "metadata": "srv", "deleted": "built"},
]
"""And what those did that were built on top of it."""
HIDDEN = {
    ("etc/app/conf", 0): 1, ("etc/passwd", 0): 1, ("var/old/a", 0): 1, ("srv/here", 0): 2, ("srv/.env", 2): 3,
    ("var/old/b", 0): 3, ("srv/data/deep/file", 0): 3, ("etc/app/conf", 1): 4, ("etc/app/conf", 4): 5,
    ("built", 4): 5,
}  # fmt: skip
"""By path and layer of every hidden file of the built image: the layer that hides it."""


def unpack(target: Path) -> None:
    """The data root; an ordinary user gets marks as a rootless engine makes them."""
    target.mkdir()
    with tarfile.open(FIXTURES / "old-overlay.tar.gz") as tar:
        tar.extraction_filter = lambda member, _path: member  # it is our own
        tar.extractall(target)
        for member in tar:
            if member.issym():  # whose times it leaves out
                os.utime(target / member.name, (member.mtime, member.mtime), follow_symlinks=False)
            for header, value in member.pax_headers.items():
                if header.startswith("SCHILY.xattr."):
                    set_xattr(target / member.name, header.removeprefix("SCHILY.xattr."), value.encode())


def set_xattr(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        os.setxattr(path, name.replace("trusted.", "user.", 1), value)


@pytest.fixture
def old(cli: InProcess, tmp_path: Path) -> Offline:
    """layerscope on that data root."""
    unpack(tmp_path / "docker")
    return Offline(cli, tmp_path / "docker")


def directory(old: Offline, image: str, layer: int) -> Path:
    """A layer's directory in `overlay/`."""
    return Path(old.json("image", image)["layers"][layer]["diff_dir"]).parent


# -- what a real engine left -------------------------------------------------------------------------------------


def test_images_and_containers(old: Offline) -> None:
    answer = old.json("ls")
    assert old.names() == ([BUILT, LOADED], ["visitor"])
    assert {item["driver"] for item in (*answer["images"], *answer["containers"])} == {"overlay"}
    assert answer["warnings"] == []


@pytest.mark.parametrize(("image", "steps"), [(LOADED, STEPS), (BUILT, STEPS + MORE_STEPS)])
def test_what_each_step_did(old: Offline, image: str, steps: list[dict[str, str]]) -> None:
    answer = old.json("image", image, "--files")
    assert answer["warnings"] == []
    for layer, step in zip(answer["layers"], steps, strict=True):
        done = {(item["change"], item["path"]) for item in layer["changed"]}
        assert done == {(change, path) for change, paths in step.items() for path in paths.split()}, layer["index"]


def test_every_hidden_file_and_what_hides_it(old: Offline) -> None:
    hidden = old.json("image", BUILT, "--hidden")["hidden_paths"]
    assert {(item["path"], item["layer"]): item["hidden_by"]["layer"] for item in hidden} == HIDDEN


@pytest.mark.parametrize("image", [LOADED, BUILT])
def test_sizes_are_those_of_docker_history(old: Offline, image: str) -> None:
    """The driver records a layer's size without the length of its symlinks."""
    layers = old.json("image", image)["layers"][::-1]
    assert [layer["recorded_bytes"] for layer in layers] == TOLD["history"][image]
    links = {0: len("data"), 2: len("empty")}
    for layer in layers:
        assert layer["size_bytes"] == layer["recorded_bytes"] + links.get(layer["index"], 0)


def test_container_changes_are_those_of_docker_diff(old: Offline) -> None:
    answer = old.json("container", "visitor")
    assert [layer["role"] for layer in answer["layers"]][-2:] == ["init", "upper"]
    assert sorted(f"{LETTERS[item['change']]} /{item['path']}" for item in answer["changes"]) == TOLD["diff"]
    assert answer["warnings"] == []


def test_disk_space_of_a_layer_is_that_of_what_it_changed(old: Offline) -> None:
    """du(1) of the tree counts all that the tree shares, too."""
    layer = old.json("image", LOADED)["layers"][1]
    place = Path(layer["diff_dir"])
    own = ("", "etc", "etc/app", "etc/app/conf", "etc/passwd", "var", "var/old")
    assert layer["allocated_bytes"] == sum((place / path).stat().st_blocks * 512 for path in own)


def test_deleted_secret_is_found_and_read(old: Offline) -> None:
    (finding,) = (
        item for item in old.json("audit", LOADED, "--exit-zero")["findings"] if item["exposure"] == "deleted"
    )
    assert (finding["path"], finding["layer"]["index"], finding["hidden_by"]["layer"]) == ("srv/.env", 2, 3)
    assert Path(finding["on_disk_path"]).read_text().startswith("TOKEN=ghp_")
    assert old("cat", BUILT, "srv/.env", "--layer", "2").out.startswith("TOKEN=ghp_")
    assert [event["event"] for event in old.json("trace", BUILT, "srv/.env")["events"]] == ["added", "deleted"]


def test_two_heights_of_an_image(old: Offline) -> None:
    differences = old.json("diff", f"{LOADED}@1", f"{LOADED}@2")
    changes = {(item["change"], item["path"]) for item in differences["changes"]}
    assert {("added", "srv/.env"), ("added", "srv/empty"), ("modified", "srv/here"), ("modified", "srv")} == changes


@pytest.mark.parametrize("part", ["", "/root", "/root/srv/.env"])
def test_owner_of_a_tree(old: Offline, part: str) -> None:
    place = directory(old, LOADED, 2)
    (owner,) = old.json("owner", f"{place}{part}")["directories"]
    assert (owner["path"], owner["class"], owner["created_by"]) == (
        str(place), "image-layer", old.json("image", LOADED)["layers"][2]["created_by"],
    )  # fmt: skip
    assert sorted((image["references"], image["layer"]) for image in owner["images"]) == [
        ([BUILT], 2),
        ([LOADED], 2),
    ]
    assert [(one["name"], one["role"]) for one in owner["containers"]] == [("visitor", "lower")]
    assert all(Path(item["path"]).exists() for item in owner["evidence"])


def test_owner_of_upper_directories(old: Offline) -> None:
    found = [
        old.json("owner", str(Path(layer["diff_dir"]).parent))["directories"][0]
        for layer in old.json("container", "visitor")["layers"][4:]
    ]
    assert [owner["class"] for owner in found] == [
        "image-layer",
        "image-layer",
        "container-init",
        "container-upper",
    ]
    assert [[one["role"] for one in owner["containers"]] for owner in found] == [
        ["lower"], ["lower"], ["init"], ["upper"],
    ]  # fmt: skip


def test_directory_that_nothing_refers_to_is_not_called_an_orphan(old: Offline) -> None:
    """Files in it may be hard links: what would be freed, and whether it is safe, is not judged."""
    place = old.path / "overlay" / ("ab" * 32)
    (place / "root").mkdir(parents=True)
    (owner,) = old.json("owner", str(place))["directories"]
    assert (owner["class"], owner["suspected"]) == ("unknown", "unreferenced")


# -- copies and damage -------------------------------------------------------------------------------------------


def test_copy_without_hard_links_is_warned_of_and_read(old: Offline, tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", "--no-preserve=links", str(old.path), str(tmp_path / "copy")], check=True)
    copy = Offline(old.cli, tmp_path / "copy")
    assert {code for code, _ in copy.warns("image", LOADED)} == {"hard-links-lost"}
    answer = copy.json("image", LOADED, "--files")
    for layer, step in zip(answer["layers"], STEPS, strict=True):
        assert {item["path"] for item in layer["changed"]} == set(" ".join(step.values()).split()), layer["index"]


def test_layer_that_is_gone_is_an_error_that_names_it(old: Offline) -> None:
    place = directory(old, LOADED, 1)
    shutil.rmtree(place)
    failure = old.fails("image", LOADED)
    assert failure.message == f"{place} has neither root nor upper"
    assert old("image", BUILT).code == 3
    assert old.names() == ([BUILT, LOADED], ["visitor"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [("", "is missing or names no directory of overlay"), ("../../etc", "is missing or names no directory of")],
)
def test_lower_id_that_names_nothing(old: Offline, damage: str, message: str) -> None:
    (directory(old, BUILT, 4) / "lower-id").write_text(damage)
    assert message in old.fails("image", BUILT).message


def test_lower_id_that_names_another_layer_is_a_warning(old: Offline) -> None:
    place = directory(old, BUILT, 4) / "lower-id"
    other = directory(old, LOADED, 0).name
    place.write_text(other)
    answer = old.json("image", BUILT)
    assert [warning["code"] for warning in answer["warnings"]] == ["chain-mismatch"]
    assert other in answer["warnings"][0]["message"]


def test_link_in_the_place_of_a_tree_is_not_followed(old: Offline, tmp_path: Path) -> None:
    place = directory(old, LOADED, 1)
    shutil.rmtree(place / "root")
    (place / "root").symlink_to(tmp_path)
    assert "symlink" in old.fails("image", LOADED).message


@pytest.mark.parametrize("command", [["df"], ["orphans"], ["check"], ["reuse", "--remove", LOADED]])
def test_questions_that_are_not_put_to_this_store_say_so(old: Offline, command: list[str]) -> None:
    failure = old.fails(*command)
    assert "(overlay)" in failure.message
    assert "verify" in failure.hint


# -- others --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aufs", "btrfs", "devicemapper", "fuse-overlayfs", "vfs", "windowsfilter", "zfs"])
def test_driver_that_is_not_supported_is_named(cli: InProcess, tmp_path: Path, name: str) -> None:
    (tmp_path / "docker/image" / name).mkdir(parents=True)
    failure = Offline(cli, tmp_path / "docker").fails("ls")
    assert f"storage driver {name}," in failure.message
    assert "overlay2 and overlay" in failure.hint


def test_storage_of_podman_is_named(cli: InProcess, tmp_path: Path) -> None:
    for name in ("overlay", "overlay-images", "overlay-layers", "overlay-containers"):
        (tmp_path / "storage" / name).mkdir(parents=True)
    assert "Podman" in Offline(cli, tmp_path / "storage").fails("ls").message


# -- verify --------------------------------------------------------------------------------------------------------


def differences(old: Offline, image: str) -> set[tuple[int, str, str]]:
    """Layer, path and problem of all that differs from the layers' tars."""
    result = old("verify", image, "--json")
    assert result.code in (0, 1), result.snapshot()
    return {
        (index, item["path"], item["problem"])
        for index, layer in enumerate(result.json["layers"])
        for item in layer["differences"]
    }


@root_only
def test_layers_are_what_their_tars_were(old: Offline) -> None:
    result = old("verify", "--all", "--json")
    assert (result.code, {layer["verdict"] for layer in result.json["layers"]}) == (0, {"ok"}), result.snapshot()


@root_only
@pytest.mark.parametrize(
    ("layer", "change", "found"),
    [
        # A file is one inode in all trees: its content is that of the layer that brought it.
        (3, "echo two > srv/data/one; touch -r srv/data/link srv/data/one", {(0, "srv/data/link", "content")}),
        (3, "cp -p srv/data/one x; mv x srv/data/one", {(3, "srv/data/one", "extra")}),
        (3, "rm srv/data/one", {(3, "srv/data/one", "missing")}),
        (3, "rm var/old/new", {(3, "var/old/new", "missing")}),
        (3, "rm -r srv/empty", {(3, "srv/empty", "missing")}),
        (3, "echo > srv/.env", {(3, "srv/.env", "kind")}),
        (3, "mkdir -p srv/new/dir", {(3, "srv/new", "extra"), (3, "srv/new/dir", "extra")}),
        (4, "echo > new", {(4, "new", "extra")}),
        (5, "rm etc/app/conf", {(5, "etc/app/conf", "missing")}),
    ],
)
def test_what_was_changed_since_is_named(
    old: Offline, layer: int, change: str, found: set[tuple[int, str, str]]
) -> None:
    place = Path(old.json("image", BUILT)["layers"][layer]["diff_dir"])
    # The times of directories are another matter.
    times = {path: path.stat().st_mtime_ns for path in [place, *place.rglob("*")] if path.is_dir()}
    subprocess.run(["sh", "-ec", change], cwd=place, check=True)
    for path, time in times.items():
        if path.exists():
            os.utime(path, ns=(time, time))
    assert {item for item in differences(old, BUILT) if item[2] != "mtime"} >= found
    assert {item[:2] for item in differences(old, BUILT)} <= {item[:2] for item in found} | {(0, "srv/data/one")}


# -- beside another store ------------------------------------------------------------------------------------------


def test_store_beside_overlay2_is_counted_by_itself(old: Offline) -> None:
    """As on a host that was switched to overlay2: both are listed, and the space of the old one is its own."""
    root = FakeRoot(old.path / "other")
    root.container("web", root.image("app:1", [root.layer({"file": "x"})]))
    for name in ("overlay2", "image/overlay2"):
        (root.path / name).rename(old.path / name)
    for container in (root.path / "containers").iterdir():
        container.rename(old.path / "containers" / container.name)
    shutil.rmtree(root.path)
    assert old.names() == (["app:1", BUILT, LOADED], ["visitor", "web"])
    assert [store["driver"] for store in old.json("ls")["stores"]] == ["overlay2", "overlay"]
    (other,) = old.json("df")["other_stores"]
    places = [str(old.path / name) for name in ("overlay", "image/overlay")]
    du = subprocess.run(["du", "-s", "-c", "-B1", *places], capture_output=True, text=True, check=True)
    assert (other["driver"], other["path"]) == ("overlay", places[0])
    assert other["allocated_bytes"] == int(du.stdout.splitlines()[-1].split()[0])
    assert old.json("container", "visitor")["source"]["driver"] == "overlay"
    assert old.json("owner", directory(old, LOADED, 2).name)["directories"][0]["class"] == "image-layer"
