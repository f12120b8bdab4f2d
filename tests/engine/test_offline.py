"""The same answers with the daemon and without, from its own disk and from a copy of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli import Cli, Result
from tests.dockerd import Engine

NEEDED = ("image", "overlay2", "containers")


@pytest.fixture(scope="module")
def container(engine: Engine, classic: str) -> str:
    """A container that has changed something."""
    return engine.run(
        classic, "echo more >> /app/conf/one; rm -r /srv; mkdir /srv; echo x > /srv/x", "--name=changed"
    )


@pytest.fixture(scope="module")
def copied_root(
    engine: Engine, classic: str, buildkit: str, container: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A copy of the engine's data root at another path, as an analyst gets it."""
    root = tmp_path_factory.mktemp("disk with a space, a comma: and a colon") / "docker"
    root.mkdir()
    for name in NEEDED:
        subprocess.run(["cp", "--archive", str(engine.data_root / name), str(root)], check=True)
    return root


COMMANDS = [
    ["ls"],
    ["ls", "--all"],
    ["image", "{classic}"],
    ["image", "{buildkit}", "--files", "--hidden"],
    ["image", "{classic}", "--layer", "3"],
    ["container", "changed"],
    ["container", "changed", "--layers", "--files", "--hidden"],
    ["diff", "{classic}", "{buildkit}"],
    ["diff", "{classic}", "container:changed"],
    ["diff", "{classic}@3", "{classic}@9"],
    ["files", "{buildkit}"],
    ["files", "changed"],
    ["trace", "{classic}", "app/conf/one"],
    ["trace", "changed", "srv/www/index.html"],
]


def comparable(result: Result, root: Path | None = None) -> Any:
    """A document without its sources, and with paths below ``root`` as if they were at /ROOT."""
    text = result.out.replace(json.dumps(str(root))[1:-1], "/ROOT") if root else result.out
    return {key: value for key, value in json.loads(text).items() if key not in ("source", "stores")}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_offline_is_online(
    engine: Engine, classic: str, buildkit: str, container: str, cli: Cli, command: list[str]
) -> None:
    arguments = [word.format(classic=classic, buildkit=buildkit) for word in command]
    online = cli.ok(*arguments, "--json")
    offline = cli.ok(*arguments, "--json", "--data-root", str(engine.data_root))
    assert online.json["source"]["kind"] == "docker-api"
    assert offline.json["source"]["kind"] == "data-root"
    assert comparable(online) == comparable(offline)
    assert online.json["warnings"] == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_copied_data_root_gives_the_same_answers(
    engine: Engine, classic: str, buildkit: str, copied_root: Path, cli: Cli, command: list[str]
) -> None:
    arguments = [word.format(classic=classic, buildkit=buildkit) for word in command]
    here = cli.ok(*arguments, "--json", "--data-root", str(engine.data_root))
    copied = cli.ok(*arguments, "--json", "--data-root", str(copied_root))
    assert comparable(here, engine.data_root) == comparable(copied, copied_root)


def test_cat_and_extract_read_a_copied_data_root(copied_root: Path, classic: str, cli: Cli, tmp_path: Path) -> None:
    assert cli.ok("cat", classic, "app/conf/one", "--data-root", str(copied_root)).out == "ONE\n"
    cli.ok("extract", classic, "app", "--to", str(tmp_path / "out"), "--data-root", str(copied_root))
    assert (tmp_path / "out/app/conf/one").read_text() == "ONE\n"


def test_missing_short_link_is_recovered(copied_root: Path, classic: str, cli: Cli) -> None:
    layer = cli.ok("image", classic, "--json", "--data-root", str(copied_root)).json["layers"][2]
    link = copied_root / "overlay2" / "l" / layer["link_id"]
    target = link.readlink()
    link.unlink()
    try:
        answer = cli.ok("image", classic, "--json", "--data-root", str(copied_root)).json
        assert [warning["code"] for warning in answer["warnings"]] == ["missing-link"]
        assert answer["warnings"][0]["path"] == str(link)
        assert answer["layers"][2]["cache_id"] == layer["cache_id"]
    finally:
        link.symlink_to(target)


def test_dead_container_is_still_shown(copied_root: Path, container: str, cli: Cli) -> None:
    path = copied_root / "containers" / container / "config.v2.json"
    saved = path.read_text()
    config = json.loads(saved)
    config["State"].update(Dead=True, Running=False)
    path.write_text(json.dumps(config))
    try:
        answer = cli.ok("container", "changed", "--json", "--data-root", str(copied_root)).json
        assert answer["target"]["state"] == "dead"
        assert answer["changes"]
    finally:
        path.write_text(saved)


def test_disk_that_disagrees_with_the_engine_is_a_warning(engine: Engine, classic: str, cli: Cli) -> None:
    """The engine's names win; the difference is said, with both values."""
    path = engine.data_root / "image/overlay2/repositories.json"
    saved = path.read_bytes()
    path.write_bytes(saved.replace(classic.encode(), b"layerscope-test/other:9"))
    try:
        answer = cli.ok("image", classic, "--json").json
        messages = [warning["message"] for warning in answer["warnings"]]
        assert any(classic in message and "layerscope-test/other:9" in message for message in messages)
        assert answer["target"]["references"] == [classic]
    finally:
        path.write_bytes(saved)


def test_nothing_is_written_below_the_data_root(copied_root: Path, classic: str, cli: Cli) -> None:
    """Not even an access time changes; but for symlinks, which readlink(2) always touches."""
    paths = [copied_root, *copied_root.rglob("*")]

    def state() -> dict[str, tuple[int, ...]]:
        found = {}
        for path in paths:
            s = path.lstat()
            accessed = 0 if path.is_symlink() else s.st_atime_ns
            found[str(path)] = (s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, accessed)
        return found

    for path in paths:
        os.utime(path, ns=(1, path.lstat().st_mtime_ns), follow_symlinks=False)
    before = state()
    for command in (["ls"], ["image", classic, "--files"], ["container", "changed"], ["diff", classic, "changed"]):
        cli.ok(*command, "--data-root", str(copied_root))
    cli.ok("cat", classic, "app/data/big", "--data-root", str(copied_root))
    assert state() == before
