"""``df``: every byte below a data root in one place, each directory in the right one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from layerscope.analysis import orphans
from layerscope.analysis.disk_usage import CATEGORIES
from layerscope.analysis.purpose import Purpose
from layerscope.errors import EngineError
from layerscope.stores import engine_usage
from layerscope.stores.engine_usage import EngineUsage, parse_usage, read_engine_usage
from tests.analysis.test_space import du
from tests.boltwriter import BoltWriter
from tests.cli import validator
from tests.dataroot import FakeRoot, write
from tests.stores.offline import InProcess, Offline, unprivileged


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    """Something of every category."""
    root = FakeRoot(tmp_path / "docker")
    base = root.layer({"base": "x" * 5000})
    web = root.image("web:1", [base, root.layer({"web": "x" * 9000}, buildkit=True)])
    api = root.image("api:1", [base, root.layer({"api": "x" * 13000})])
    root.container("stopped", web, upper={"log": "x"})
    root.container("running", web, upper={"log": "x" * 20000}, Running=True)
    stored = root.directory("c" * 25, {"cached": "x" * 6000})
    shared = api.layers[1].directory.cache_id
    (root.path / "buildkit").mkdir()
    BoltWriter(root.path / "buildkit/snapshots.db").commit(
        {stored.cache_id.encode(): {}, api.layers[1].chain_id.encode(): {b"committed": shared.encode()}}
    )
    BoltWriter(root.path / "buildkit/metadata_v2.db").commit({b"_main": {}})
    root.directory("e" * 64, {"leaked": "x" * 7000})
    for container in (root.path / "containers").iterdir():
        write(container / f"{container.name}-json.log", "line\n" * 3000)
    write(root.path / "volumes/data/_data/file", "x" * 30000)
    write(root.path / "volumes/metadata.db", "x")
    write(root.path / "tmp/rest", "x")
    write(root.path / "engine-id", "x")
    return root


@pytest.fixture
def cli(tmp_path: Path) -> InProcess:
    return InProcess(tmp_path)


@pytest.fixture(autouse=True)
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything was made long ago."""
    now = orphans.time.time_ns
    monkeypatch.setattr(orphans.time, "time_ns", lambda: now() + 10**9 * 86400)


def df(cli: InProcess, root: FakeRoot, *options: str) -> Any:
    result = cli.ok("df", "--json", "--data-root", str(root.path), *options)
    return result.json


def categories(answer: Any) -> dict[str, Any]:
    return {item["category"]: item for item in answer["categories"]}


def test_everything_below_the_data_root_is_counted_once(cli: InProcess, root: FakeRoot) -> None:
    answer = df(cli, root)
    assert answer["total_bytes"] == du(root.path)
    assert answer["storage_bytes"] + answer["outside_bytes"] == answer["total_bytes"]
    assert answer["storage_bytes"] == du(root.overlay2, root.path / "image")
    assert sum(item["allocated_bytes"] for item in answer["categories"]) == answer["storage_bytes"]
    assert sum(item["allocated_bytes"] for item in answer["outside"]) == answer["outside_bytes"]
    assert answer["complete"] and answer["warnings"] == [] and answer["engine"] is None


def test_each_directory_is_in_the_category_of_who_holds_it(cli: InProcess, root: FakeRoot) -> None:
    found = categories(df(cli, root))
    assert {name: item["directories"] for name, item in found.items()} == {
        "images": 3, "containers": 4, "build-cache": 1, "leaked": 1, "undecided": 0, "metadata": 0,
    }  # fmt: skip
    layers = [path for path in root.overlay2.iterdir() if path.name not in ("c" * 25, "e" * 64, "l")]
    own = {path.read_text() for path in root.layerdb.glob("mounts/*/*-id")}
    assert found["containers"]["allocated_bytes"] == du(*(root.overlay2 / name for name in own))
    assert found["images"]["allocated_bytes"] == du(*(path for path in layers if path.name not in own))
    assert found["build-cache"]["allocated_bytes"] == du(root.overlay2 / ("c" * 25))
    assert found["leaked"]["allocated_bytes"] == du(root.overlay2 / ("e" * 64))
    assert found["leaked"]["classes"][0]["class"] == "unreferenced"


def test_reclaimable_is_what_nothing_in_use_holds(cli: InProcess, root: FakeRoot) -> None:
    found = categories(df(cli, root))
    stopped = {path.read_text() for path in root.layerdb.glob(f"mounts/{_id(root, 'stopped')}/*-id")}
    assert found["containers"]["reclaimable_bytes"] == du(*(root.overlay2 / name for name in stopped))
    assert found["images"]["reclaimable_bytes"] == 0, (
        "web has containers, and the build cache holds what is api's alone"
    )
    assert found["images"]["in_build_cache_bytes"] > 13000
    assert found["build-cache"]["reclaimable_bytes"] == found["build-cache"]["allocated_bytes"]
    BoltWriter(root.path / "buildkit/snapshots.db").commit({b"c" * 25: {}})
    found = categories(df(cli, root))
    assert 13000 < found["images"]["reclaimable_bytes"] < found["images"]["allocated_bytes"]
    assert found["images"]["in_build_cache_bytes"] == 0


def _id(root: FakeRoot, name: str) -> str:
    (found,) = [
        path.parent.name
        for path in root.path.glob("containers/*/config.v2.json")
        if f'"/{name}"' in path.read_text()
    ]
    return found


def test_logs_and_volumes_are_listed_by_name(cli: InProcess, root: FakeRoot) -> None:
    outside = {(item["kind"], item["name"]): item for item in df(cli, root)["outside"]}
    for name in ("stopped", "running"):
        log = root.path / "containers" / _id(root, name) / f"{_id(root, name)}-json.log"
        assert outside["container-log", name]["allocated_bytes"] == du(log)
    assert outside["volume", "data"]["allocated_bytes"] == du(root.path / "volumes/data")
    assert ("other", "tmp") in outside and ("other", "buildkit") in outside


def test_hard_links_between_layers_count_once(cli: InProcess, root: FakeRoot) -> None:
    diffs = sorted(root.overlay2.glob("*/diff"))
    for number, diff in enumerate(diffs[1:]):
        big = diffs[0] / "big"
        big.write_bytes(b"x" * 100_000)
        os.link(big, diff / f"linked{number}")
    assert df(cli, root)["total_bytes"] == du(root.path)


def test_several_processes_give_the_same_answer(cli: InProcess, root: FakeRoot) -> None:
    strip = lambda answer: {**answer, "filesystem": None}  # noqa: E731
    assert strip(df(cli, root, "--jobs", "1")) == strip(df(cli, root, "--jobs", "3"))


def test_what_can_not_be_told_is_undecided_not_leaked(cli: InProcess, root: FakeRoot) -> None:
    (root.path / "buildkit/snapshots.db").write_bytes(b"x" * 8192)
    answer = df(cli, root)
    found = categories(answer)
    assert (found["leaked"]["directories"], found["undecided"]["directories"]) == (0, 2)
    assert answer["warnings"] != [] and answer["total_bytes"] == du(root.path)


def test_unreadable_directory_makes_the_answer_incomplete(tmp_path: Path, root: FakeRoot) -> None:
    secret = root.path / "volumes/data/_data/secret"
    secret.mkdir(mode=0)
    result = unprivileged(["df", "--json", "--data-root", str(root.path)])
    validator("df").validate(result.json)
    assert result.code == 0 and not result.json["complete"]
    assert [item["path"] for item in result.json["warnings"]] == [str(secret)]
    secret.chmod(0o700)


def test_every_class_of_directory_has_a_category() -> None:
    assert set(CATEGORIES) == set(Purpose)


def test_table_fits_a_narrow_terminal(cli: InProcess, root: FakeRoot) -> None:
    out = cli.ok("df", "--data-root", str(root.path), COLUMNS="80").out
    assert max(map(len, out.splitlines()[1:])) <= 80
    for word in ("images", "build cache", "docker builder prune --all", "running", "data", "below the data root"):
        assert word in out


def test_data_root_without_a_store_is_refused(tmp_path: Path, cli: InProcess) -> None:
    Offline(cli, tmp_path / "empty").path.mkdir()
    assert cli("df", "--data-root", str(tmp_path / "empty")).code == 3


# -- what the engine says ------------------------------------------------------------------------------------


def test_engines_up_to_api_1_51_list_everything() -> None:
    answer = {
        "LayersSize": 10,
        "Containers": [{"SizeRw": 3}, {}],
        "BuildCache": [{"Size": 5, "Shared": False}, {"Size": 7, "Shared": True}],
        "Volumes": [{"UsageData": {"Size": 11}}, {"UsageData": {"Size": -1}}, {"UsageData": None}],
    }
    assert parse_usage(answer) == EngineUsage(10, 3, 5, 11)
    assert parse_usage({"LayersSize": 0, "Containers": None, "BuildCache": None}) == EngineUsage(0, 0, 0, 0)


def test_engines_from_api_1_52_on_add_it_up() -> None:
    answer = {
        "ImageUsage": {"TotalSize": 10},
        "ContainerUsage": {"TotalSize": 3},
        "BuildCacheUsage": {"TotalSize": 5},
    }
    assert parse_usage({**answer, "VolumeUsage": {"TotalSize": 11}}) == EngineUsage(10, 3, 5, 11)


class Busy:
    """An engine that answers one question at a time."""

    def __init__(self, message: str, times: int) -> None:
        self.message = message
        self.times = times

    def ask(self, _question: object) -> dict[str, Any]:
        self.times -= 1
        if self.times >= 0:
            raise EngineError(self.message)
        return {"LayersSize": 1}


def test_busy_engine_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_usage, "_PATIENCE_SECONDS", (0, 0))
    busy = "a disk usage operation is already running"
    assert read_engine_usage(Busy(busy, 2)).images_bytes == 1  # type: ignore[arg-type]
    with pytest.raises(EngineError):
        read_engine_usage(Busy(busy, 3))  # type: ignore[arg-type]
    with pytest.raises(EngineError):
        read_engine_usage(Busy("no such thing", 1))  # type: ignore[arg-type]
