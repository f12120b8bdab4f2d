"""The host commands on damaged and hostile containerd roots: an answer or an error, never a traceback."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from layerscope.analysis import check as check_module
from layerscope.analysis import containerd_orphans
from tests.containerdroot import APP, FakeContainerd
from tests.stores.offline import InProcess

COMMANDS = (
    ["orphans", "--all"],
    ["orphans", "--json", "--min-age", "0"],
    ["df"],
    ["check"],
    ["reuse"],
    ["reuse", "--remove", "app:1"],
    ["verify", "--all", "--jobs", "1"],
    ["owner", "1"],
    ["owner", "web"],
)
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f\u202e\udc80-\udcff]")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containerd_orphans, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(check_module, "PATIENCE_SECONDS", (0,))


@pytest.fixture
def root(tmp_path: Path) -> FakeContainerd:
    """With names that would act on a terminal, in use and not."""
    root = FakeContainerd(tmp_path / "docker/containerd/daemon", docker=tmp_path / "docker")
    image = root.image(APP, [root.packed({"a": "a"}), root.packed({"b": "b"})])
    root.container("web", image)
    root.lease("pull\x1b[31m\n", [image.snapshots[0].key])
    root.snapshot("esc\x1b[31m\n\u202e", None, {"x\x1b[31m": "x"})
    root.snapshot("held\x1b[32m", None, {})
    root.lease("bell\x07", ["held\x1b[32m"])
    root.write()
    return root


def run(root: FakeContainerd, command: list[str]) -> None:
    assert root.docker is not None
    result = InProcess(root.docker.parent)(*command, "--data-root", str(root.docker))
    assert result.code in (0, 1, 3), result.snapshot()
    assert "Traceback" not in result.err
    assert not RAW.search(result.out + result.err), command


def test_no_name_acts_on_the_terminal(root: FakeContainerd) -> None:
    for command in COMMANDS:
        run(root, command)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_are_an_answer_or_an_error(root: FakeContainerd, seed: int) -> None:
    chance = random.Random(seed)
    paths = [root.meta_path, root.metadata_path, *sorted(root.blobs.iterdir())]
    for path in chance.sample(paths, 3):
        data = bytearray(path.read_bytes())
        for _ in range(chance.choice((1, 3, 20))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data[: chance.choice((len(data), len(data), chance.randrange(len(data))))])
        for command in chance.sample(COMMANDS, 4):
            run(root, command)
