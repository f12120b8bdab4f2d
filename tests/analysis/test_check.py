"""``check``: every problem is planted, found and named; a healthy store has none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerscope.analysis import check as check_module
from layerscope.analysis.problems import KINDS, Code, Severity
from tests.analysis.test_check_containerd import CODES as CONTAINERD_CODES
from tests.analysis.test_space import du
from tests.boltwriter import BoltWriter
from tests.cli import validator
from tests.containerdroot import FakeContainerd
from tests.dataroot import WHITEOUT, FakeRoot, StoredContainer, StoredImage, Symlink, write
from tests.stores.offline import InProcess


class Store:
    """A healthy data root with two images, a container and a build cache, and ``check`` on it."""

    def __init__(self, path: Path, cli: InProcess) -> None:
        self.root = FakeRoot(path / "docker")
        self.cli = cli
        base = self.root.layer({"etc/passwd": "root", "link": Symlink("etc")})
        self.web: StoredImage = self.root.image(
            "web:1", [base, self.root.layer({"a": "1"}, buildkit=True), self.root.layer({"a": WHITEOUT})]
        )
        self.api = self.root.image("api:1", [base])
        self.box: StoredContainer = self.root.container("box", self.web, upper={"log": "x"})
        for layer in (*self.web.layers, *self.api.layers):
            (layer.record / "tar-split.json.gz").touch()
        self.cached = self.root.directory("c" * 25, {"cached": "x"})
        (self.root.path / "buildkit").mkdir()
        self.builds({self.cached.cache_id: None})

    def builds(self, names: dict[str, Any]) -> None:
        path = self.root.path / "buildkit"
        BoltWriter(path / "snapshots.db").commit({name.encode(): {b"parent": b""} for name in names})
        BoltWriter(path / "metadata_v2.db").commit({b"_main": {}})

    def check(self, *options: str) -> tuple[int, list[dict[str, Any]]]:
        result = self.cli("check", "--json", "--data-root", str(self.root.path), *options)
        validator("check").validate(result.json)
        return result.code, result.json["problems"]

    def codes(self, *options: str) -> list[tuple[str, str]]:
        """Code and path of every problem; paths below the data root are relative to it."""
        _, problems = self.check(*options)
        return [(item["code"], item["path"].removeprefix(f"{self.root.path}/")) for item in problems]

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.root.path))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(check_module, "PATIENCE_SECONDS", (0.0,))
    return Store(tmp_path, InProcess(tmp_path))


def test_healthy_store_has_no_problems(store: Store) -> None:
    assert store.check("--sizes") == (0, [])
    table = store.cli("check", "--data-root", str(store.root.path))
    assert table.out.endswith("No problems in 2 images, 1 container, 3 layers, 6 directories\n")


Plant = Callable[[Store], Path]
"""Damages the store, and says which path must be named for it."""


def empty_link(store: Store) -> Path:
    link = store.web.layers[1].directory.path / "link"
    link.write_text("")
    return link


def no_link(store: Store) -> Path:
    link = store.box.upper.path / "link"
    link.unlink()
    return link


def wild_link(store: Store) -> Path:
    link = store.web.layers[2].directory.path / "link"
    link.write_text("../../../etc")
    return link


def link_is_a_directory(store: Store) -> Path:
    link = store.box.init.path / "link"
    link.unlink()
    link.mkdir()
    return link


def no_short_link(store: Store) -> Path:
    store.web.layers[0].directory.link.unlink()
    return store.web.layers[0].directory.link


def wrong_short_link(store: Store) -> Path:
    link = store.web.layers[0].directory.link
    link.unlink()
    link.symlink_to(f"../{store.web.layers[1].directory.cache_id}/diff")
    return link


def outside_short_link(store: Store) -> Path:
    link = store.root.overlay2 / "l" / ("A" * 26)
    link.symlink_to("/etc")
    return link


def dangling_link(store: Store) -> Path:
    link = store.root.overlay2 / "l" / ("B" * 26)
    link.symlink_to(f"../{'d' * 64}/diff")
    return link


def swapped_lower(store: Store) -> Path:
    lower = store.web.layers[2].directory.path / "lower"
    lower.write_text(":".join(reversed(lower.read_text().split(":"))))
    return lower


def short_lower(store: Store) -> Path:
    lower = store.box.upper.path / "lower"
    lower.write_text(lower.read_text().rpartition(":")[0])
    return lower


def empty_lower(store: Store) -> Path:
    lower = store.web.layers[2].directory.path / "lower"
    lower.write_text("")
    return lower


def no_lower(store: Store) -> Path:
    lower = store.web.layers[1].directory.path / "lower"
    lower.unlink()
    return lower


def unknown_lower(store: Store) -> Path:
    lower = store.web.layers[2].directory.path / "lower"
    lower.write_text(f"l/{'Z' * 26}")
    return lower


def hostile_lower(store: Store) -> Path:
    lower = store.web.layers[2].directory.path / "lower"
    lower.write_text("l/../../../../etc")
    return lower


def double_lower(store: Store) -> Path:
    lower = store.web.layers[2].directory.path / "lower"
    first = lower.read_text().split(":")[0]
    lower.write_text(f"{first}:{first}")
    return lower


def no_diff(store: Store) -> Path:
    diff = store.web.layers[1].directory.diff
    shutil.rmtree(diff)
    return diff


def no_work(store: Store) -> Path:
    work = store.box.upper.path / "work"
    work.rmdir()
    return work


def no_layer_directory(store: Store) -> Path:
    directory = store.root.directory("e" * 25, {})
    layer = store.web.layers[0]
    assert directory.path.exists()
    shutil.rmtree(directory.path)
    directory.link.unlink()
    mount = store.root.layerdb / "mounts" / ("9" * 64)
    write(mount / "mount-id", directory.cache_id)
    write(mount / "parent", layer.chain_id)
    return mount / "mount-id"


def strange_name(store: Store) -> Path:
    path = store.root.overlay2 / "backup of layers"
    path.mkdir()
    return path


def file_for_a_directory(store: Store) -> Path:
    path = store.root.overlay2 / ("f" * 64)
    path.write_text("x")
    return path


def strange_record(store: Store) -> Path:
    path = store.root.layerdb / "sha256/notes"
    path.mkdir()
    return path


def broken_cache_id(store: Store) -> Path:
    # No directory is named any more: nothing else can be told of it.
    path = store.api.layers[0].record / "cache-id"
    path.write_text("../../etc")
    return path


def no_size(store: Store) -> Path:
    path = store.web.layers[1].record / "size"
    path.unlink()
    return path


def no_tar_split(store: Store) -> Path:
    path = store.web.layers[1].record / "tar-split.json.gz"
    path.unlink()
    return path


def other_diff_id(store: Store) -> Path:
    record = store.web.layers[1].record
    (record / "diff").write_text("sha256:" + "1" * 64)
    return record


def half_removed(store: Store) -> Path:
    path = store.root.layerdb / f"sha256/{'2' * 64}-123456-removing"
    path.mkdir()
    return path


def broken_mount_id(store: Store) -> Path:
    path = store.box.mount / "mount-id"
    path.write_text("nothing")
    return path


def no_mount(store: Store) -> Path:
    shutil.rmtree(store.box.mount)
    return store.box.config.parent


def changed_config(store: Store) -> Path:
    store.web.config.write_text(store.web.config.read_text() + " ")
    return store.web.config


def no_config(store: Store) -> Path:
    store.web.config.unlink()
    return store.web.config


def config_no_json(store: Store) -> Path:
    path = store.root.config_path("3" * 64)
    path.write_text("{")
    return path


def broken_parent(store: Store) -> Path:
    store.root.set_parent(store.web, "nobody")
    return store.root.image_path / f"imagedb/metadata/sha256/{store.web.id.removeprefix('sha256:')}/parent"


def broken_references(store: Store) -> Path:
    store.root.repositories_path.write_text("[]")
    return store.root.repositories_path


def broken_container(store: Store) -> Path:
    store.box.config.write_text("no JSON")
    return store.box.config.parent


def other_driver(store: Store) -> Path:
    config = json.loads(store.box.config.read_text())
    store.box.config.write_text(json.dumps({**config, "Driver": "btrfs"}))
    return store.box.config.parent


def missing_build(store: Store) -> Path:
    store.builds({store.cached.cache_id: None, "d" * 25: None})
    return store.root.path / "buildkit/snapshots.db"


def broken_database(store: Store) -> Path:
    path = store.root.path / "buildkit/snapshots.db"
    path.write_bytes(b"x" * 8192)
    return store.root.path


def second_store(store: Store) -> Path:
    write(store.root.path / "image/btrfs/repositories.json", "{}")
    return store.root.path / "btrfs"


PLANTS: list[tuple[Plant, Code]] = [
    (empty_link, Code.BROKEN_LINK),
    (no_link, Code.BROKEN_LINK),
    (wild_link, Code.BROKEN_LINK),
    (link_is_a_directory, Code.BROKEN_LINK),
    (no_short_link, Code.MISSING_SHORT_LINK),
    (wrong_short_link, Code.WRONG_SHORT_LINK),
    (outside_short_link, Code.DANGLING_LINK),
    (dangling_link, Code.DANGLING_LINK),
    (swapped_lower, Code.LOWER_ORDER),
    (short_lower, Code.LOWER_ORDER),
    (empty_lower, Code.BROKEN_LOWER),
    (no_lower, Code.BROKEN_LOWER),
    (unknown_lower, Code.BROKEN_LOWER),
    (hostile_lower, Code.BROKEN_LOWER),
    (double_lower, Code.BROKEN_LOWER),
    (no_diff, Code.MISSING_DIFF),
    (no_work, Code.MISSING_WORK),
    (no_layer_directory, Code.MISSING_DIRECTORY),
    (strange_name, Code.UNKNOWN_ENTRY),
    (file_for_a_directory, Code.UNKNOWN_ENTRY),
    (strange_record, Code.UNKNOWN_ENTRY),
    (broken_cache_id, Code.BROKEN_LAYER),
    (no_size, Code.BROKEN_LAYER),
    (no_tar_split, Code.MISSING_TAR_SPLIT),
    (other_diff_id, Code.CHAIN_ID),
    (half_removed, Code.HALF_REMOVED),
    (broken_mount_id, Code.BROKEN_MOUNT),
    (no_mount, Code.NO_MOUNT),
    (changed_config, Code.IMAGE_ID),
    (no_config, Code.BROKEN_IMAGE),
    (config_no_json, Code.BROKEN_IMAGE),
    (broken_parent, Code.BROKEN_PARENT),
    (broken_references, Code.BROKEN_REFERENCES),
    (broken_container, Code.BROKEN_CONTAINER),
    (other_driver, Code.OTHER_DRIVER),
    (missing_build, Code.BUILD_CACHE),
    (broken_database, Code.BUILD_CACHE),
    (second_store, Code.SECOND_STORE),
]


@pytest.mark.parametrize(("plant", "code"), PLANTS, ids=[plant.__name__ for plant, _ in PLANTS])
def test_a_planted_problem_is_found_and_named_and_nothing_else(store: Store, plant: Plant, code: Code) -> None:
    path = plant(store)
    exit_code, problems = store.check()
    assert [(item["code"], item["path"]) for item in problems] == [(code.value, str(path))]
    (problem,) = problems
    assert problem["evidence"] and problem["consequence"] and problem["remedy"]
    assert exit_code == (1 if KINDS[code].severity is Severity.ERROR else 0)


def test_two_directories_with_one_short_link_are_both_named(store: Store) -> None:
    one, other = store.web.layers[0].directory, store.web.layers[1].directory
    (other.path / "link").write_text(one.link_id)
    found = store.codes()
    assert [code for code, _ in found].count("duplicate-link") == 2
    assert ("dangling-link", store.relative(other.link)) not in found, "it leads to a layer, if to a forgetful one"


def test_two_layers_with_one_directory_are_told(store: Store) -> None:
    one, other = store.web.layers[1], store.web.layers[2]
    (other.record / "cache-id").write_text(one.directory.cache_id)
    assert ("shared-directory", store.relative(one.directory.path)) in store.codes()


def test_layer_that_is_gone_from_layerdb_is_told_for_all_that_stand_on_it(store: Store) -> None:
    layer = store.web.layers[0]
    shutil.rmtree(layer.record)
    found = store.codes()
    assert sorted(found) == sorted(
        [
            ("missing-layer", store.relative(store.web.config)),
            ("missing-layer", store.relative(store.api.config)),
            ("missing-parent", store.relative(store.web.layers[1].record / "parent")),
        ]
    )


def test_lost_directory_names_who_stands_on_it(store: Store) -> None:
    layer = store.web.layers[0]
    shutil.rmtree(layer.directory.path)
    _, problems = store.check()
    (problem,) = [item for item in problems if item["code"] == "missing-directory"]
    assert sorted(problem["affects"]) == ["api:1", "box", "web:1"]
    assert problem["path"] == str(layer.record / "cache-id")


def test_parents_in_a_circle_end(store: Store) -> None:
    one, other = store.web.layers[1], store.web.layers[2]
    (one.record / "parent").write_text(other.chain_id)
    assert {code for code, _ in store.codes()} == {"chain-id-mismatch"}


def test_all_problems_are_told_in_one_run(store: Store) -> None:
    planted = [empty_link, swapped_lower, half_removed, changed_config, no_size, dangling_link, no_work]
    expected = {(dict(PLANTS)[plant].value, store.relative(plant(store))) for plant in planted}
    code, problems = store.check()
    assert {(item["code"], item["path"].removeprefix(f"{store.root.path}/")) for item in problems} == expected
    assert code == 1
    assert [item["severity"] for item in problems] == sorted(item["severity"] for item in problems)


def test_sizes_are_held_against_layerdb_only_when_asked(store: Store) -> None:
    layer = store.web.layers[0]
    (layer.directory.diff / "etc/passwd").write_text("root and more")
    assert store.codes() == []
    assert store.codes("--sizes") == [("size-mismatch", store.relative(layer.record / "size"))]


def test_sizes_with_and_without_symlinks_are_right(store: Store) -> None:
    """The engine counts the target of a symlink, BuildKit does not."""
    record = store.web.layers[0].record
    assert (record / "size").read_text() == "4"
    (record / "size").write_text("7")
    assert store.codes("--sizes") == []
    (record / "size").write_text("6")
    assert store.codes("--sizes") == [("size-mismatch", store.relative(record / "size"))]


def test_what_is_right_at_the_second_look_is_no_problem(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    link = store.web.layers[1].directory.path / "link"
    kept = link.read_text()
    link.write_text("")
    monkeypatch.setattr("time.sleep", lambda _seconds: link.write_text(kept))
    assert store.check() == (0, [])


def test_unreferenced_directories_are_left_to_orphans(store: Store) -> None:
    (store.root.overlay2 / ("a" * 64)).mkdir()
    assert store.codes() == []


def test_missing_build_database_without_a_build_is_no_problem(store: Store) -> None:
    """A layer that BuildKit made outlives its cache, and all of BuildKit's directory."""
    shutil.rmtree(store.cached.path)
    store.cached.link.unlink()
    shutil.rmtree(store.root.path / "buildkit")
    assert store.codes() == []


def test_containerd_store_beside_it_is_named_with_its_bytes(store: Store) -> None:
    place = store.root.path / "containerd/daemon"
    containerd = FakeContainerd(place, docker=store.root.path.parent / "aside")
    containerd.image("docker.io/library/left:1", [containerd.packed({"file": "x" * 50_000})])
    containerd.write()
    code, (problem,) = store.check()
    assert (code, problem["code"], problem["severity"]) == (0, "second-store", "warning")
    assert problem["path"] == str(place)
    assert f"takes {du(place)} bytes" in problem["evidence"]
    answer = store.cli.ok("df", "--json", "--data-root", str(store.root.path)).json
    assert answer["other_stores"] == [
        {"driver": "overlayfs", "path": str(place), "in_use": None, "allocated_bytes": du(place)}
    ]
    table = store.cli.ok("df", "--data-root", str(store.root.path)).out
    assert table.count("LAYERS AND IMAGES") == 2 and f"{place} (overlayfs)" in table


def test_every_code_is_planted_and_explained() -> None:
    elsewhere = {Code.DUPLICATE_LINK, Code.SHARED_DIRECTORY, Code.MISSING_LAYER, Code.MISSING_PARENT, Code.SIZE}
    elsewhere |= {Code.DISCARDED_BLOB, *map(Code, CONTAINERD_CODES)}
    assert {code for _, code in PLANTS} | elsewhere == set(Code) == set(KINDS)


def test_table_groups_problems_and_fits_narrow_terminals(store: Store) -> None:
    for plant in (empty_link, swapped_lower, dangling_link):
        plant(store)
    result = store.cli("check", "--data-root", str(store.root.path), COLUMNS="80")
    assert result.code == 1
    lines = result.out.splitlines()
    assert [line for line in lines if line.startswith(("error ", "warning "))] == [
        "error broken-link",
        "error lower-order",
        "warning dangling-link",
    ]
    assert max(map(len, lines)) <= 130, "paths are not cut"
    assert lines[-1].startswith("2 errors, 1 warning in 2 images")
