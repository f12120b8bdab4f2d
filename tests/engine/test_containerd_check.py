"""check of the containerd image store on a real engine: whole at rest and at work, and damage is named."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from tests.cli import Cli, validator
from tests.dockerd import BASE, Engine
from tests.engine.test_containerd import containerd_root
from tests.engine.test_containerd_owner_orphans import owner
from tests.engine.test_owner_orphans import DOCKERFILE, work, working

SECONDS = 5
TAG = "layerscope-test/check:1"


def check(cli: Cli, engine: Engine, code: int = 0) -> list[dict[str, Any]]:
    answer = cli("check", "--json", DOCKER_HOST=engine.host)
    assert answer.code == code, answer.json["problems"]
    validator("check").validate(answer.json)
    assert answer.json["checked"]["images"] > 0
    problems: list[dict[str, Any]] = answer.json["problems"]
    return problems


def test_engine_at_rest_and_at_work_is_whole(containerd: Engine, cli: Cli) -> None:
    containerd.build(TAG, DOCKERFILE.format(salt="check"), buildkit=True)
    container = containerd.create(TAG)
    assert check(cli, containerd) == []
    checked = 0
    with working(containerd, work):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert check(cli, containerd) == []
            checked += 1
    assert checked > 2
    containerd.remove(container)


def test_damage_is_found_and_named(containerd: Engine, cli: Cli) -> None:
    """What is taken away here is given back: the engine never saw it."""
    containerd.build("layerscope-test/check:2", DOCKERFILE.format(salt="check too"), buildkit=True)
    container = containerd.create("layerscope-test/check:2")
    top = Path(owner(containerd, container).path)
    told = cli.ok("image", "layerscope-test/check:2", "--json", DOCKER_HOST=containerd.host).json
    layer = Path(told["layers"][-1]["diff_dir"])
    blobs = containerd_root(containerd) / "io.containerd.content.v1.content/blobs/sha256"
    for path, codes in (
        (layer.parent, {"missing-directory"}),
        (layer, {"missing-diff"}),
        (top / "work", {"missing-work"}),
        (blobs / told["target"]["id"].removeprefix("sha256:"), {"missing-blob"}),
    ):
        aside = containerd.data_root.parent / "aside"
        shutil.move(path, aside)
        try:
            problems = check(cli, containerd, code=1)
            assert {one["code"] for one in problems} >= codes
            assert any(one["path"] == str(path) and one["affects"] for one in problems)
        finally:
            shutil.move(aside, path)
    assert check(cli, containerd) == []
    containerd.docker("start", container)
    containerd.remove(container)
    containerd.docker("run", "--rm", "--network=none", BASE, "true")
