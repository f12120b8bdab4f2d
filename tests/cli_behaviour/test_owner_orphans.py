"""owner and orphans on the command line: exit codes, the JSON contract, what they refuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.dataroot import FakeRoot, StoredContainer, write
from tests.stores.offline import InProcess, Offline, unprivileged

LOST = "d" * 64


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path / "docker")


@pytest.fixture
def web(root: FakeRoot) -> StoredContainer:
    return root.container("web", root.image("app:1", [root.layer({"a": "1"})]))


@pytest.fixture
def offline(root: FakeRoot, web: StoredContainer, tmp_path: Path) -> Offline:
    return Offline(InProcess(tmp_path), root.path)


def plant(root: FakeRoot) -> None:
    write(root.overlay2 / LOST / "diff/file", "x")


def test_fail_exits_1_for_an_orphan_and_0_without(root: FakeRoot, offline: Offline) -> None:
    assert offline("orphans", "--fail", "--min-age", "0").code == 0
    plant(root)
    assert offline("orphans", "--min-age", "0").code == 0
    assert offline("orphans", "--fail", "--min-age", "0").code == 1
    assert offline("orphans", "--fail").code == 0, "too young to be judged"


def test_fail_exits_3_where_a_source_can_not_be_read(root: FakeRoot, offline: Offline) -> None:
    plant(root)
    write(root.path / "buildkit/snapshots.db", "x" * 9000)
    done = offline("orphans", "--fail", "--min-age", "0")
    assert done.code == 3
    assert "unknown, maybe unreferenced" in done.out
    assert "snapshots.db" in done.err


def test_lost_source_is_no_warning_where_all_is_in_use(root: FakeRoot, offline: Offline) -> None:
    write(root.path / "buildkit/snapshots.db", "x" * 9000)
    done = offline("orphans", "--fail", "--min-age", "0")
    assert (done.code, done.err) == (0, "")
    assert offline.json("orphans")["unreadable"] != []


def test_orphans_in_json(root: FakeRoot, offline: Offline, web: StoredContainer) -> None:
    plant(root)
    answer = offline.json("orphans", "--min-age", "0s")
    assert {entry["cache_id"]: entry["class"] for entry in answer["entries"]} == {
        LOST: "unreferenced",
        web.upper.cache_id: "container-upper",
        web.init.cache_id: "container-init",
        next(entry["cache_id"] for entry in answer["entries"] if entry["class"] == "image-layer"): "image-layer",
    }
    assert answer["orphans"] == 1
    assert answer["orphan_bytes"] == sum(entry["allocated_bytes"] or 0 for entry in answer["entries"]) > 0
    commands = {kind["class"]: kind["command"] for kind in answer["classes"]}
    assert commands["container-upper"] == "docker rm CONTAINER" and commands["unreferenced"] is None


def test_owner_in_json(offline: Offline, web: StoredContainer) -> None:
    answer = offline.json("owner", f"{web.upper.diff}/etc/\udcff")
    assert answer["inside"].endswith("\\xff") and answer["inside_b64"]
    (found,) = answer["directories"]
    assert (found["class"], found["commands"]) == ("container-upper", ["docker rm web"])
    assert [use["role"] for use in found["containers"]] == ["upper"]
    assert all(os.path.exists(item["path"]) for item in found["evidence"])


@pytest.mark.parametrize("duration", ["", "soon", "10 m", "-1", "1w", "10m!", "1.5h", "m"])
def test_duration_that_is_none_is_refused(offline: Offline, duration: str) -> None:
    assert "is no duration" in offline.fails("orphans", "--min-age", duration, code=2).message


@pytest.mark.parametrize(
    ("duration", "seconds"), [("0", 0), ("90s", 90), ("10m", 600), ("10min", 600), ("1h30m", 5400), ("2d", 172800)]
)
def test_durations(offline: Offline, duration: str, seconds: int) -> None:
    assert offline.json("orphans", "--min-age", duration)["min_age_seconds"] == seconds


@pytest.mark.parametrize("arguments", [("orphans",), ("owner", "web")])
def test_other_formats_are_refused(offline: Offline, arguments: tuple[str, ...]) -> None:
    offline.fails(*arguments, "--format", "sarif", code=2)


def test_word_for_nothing_fails_with_a_hint(offline: Offline) -> None:
    assert "layerscope container web" in offline.fails("owner", "web").hint


@pytest.mark.parametrize("arguments", [("orphans",), ("owner", LOST)])
def test_data_root_that_may_not_be_read_is_an_error(root: FakeRoot, arguments: tuple[str, ...]) -> None:
    plant(root)
    root.overlay2.chmod(0)
    try:
        done = unprivileged([*arguments, "--data-root", str(root.path)])
    finally:
        root.overlay2.chmod(0o755)
    assert done.code == 3
    assert "no permission to read" in done.err and "hint: " in done.err


def test_neither_writes_anything(root: FakeRoot, offline: Offline, web: StoredContainer, cli: Cli) -> None:
    plant(root)
    before = {path: os.lstat(path) for path in [root.path, *root.path.rglob("*")]}
    offline("orphans", "--min-age", "0", "--all")
    offline("owner", web.upper.cache_id)
    offline("owner", LOST)
    assert {path: os.lstat(path) for path in [root.path, *root.path.rglob("*")]} == before
