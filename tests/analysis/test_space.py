"""Space on disk: du(1) is the judge, in one process and in several."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from layerscope.analysis import space
from layerscope.analysis.space import Shape, Spaces, Tree, measure
from layerscope.model import Cautions
from tests.kernel import can_mount


def du(*paths: Path) -> int:
    """What all of them take together, each inode once, on one file system.

    du counts a mount point itself, as a file of what is mounted there: the ``merged`` of running containers.
    """
    options = ["--summarize", "--one-file-system", "--block-size=1", "--total"]
    mounted = [f"--exclude={point}" for path in paths for point in _merged(path) if point.is_mount()]
    done = subprocess.run(
        ["du", *options, *mounted, *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.splitlines()[-1].split()[0])


def _merged(path: Path) -> list[Path]:
    """Where the engine mounts layers, for a data root, its ``overlay2/`` or one of the directories in it."""
    return [point for pattern in ("overlay2/*/merged", "*/merged", "merged") for point in path.glob(pattern)]


def allocated(spaces: Spaces) -> int:
    return sum(tree.allocated_bytes for tree in spaces.trees)


def quietly(root: Path, trees: list[Tree], mounted: tuple[str, ...] = (), jobs: int = 1) -> Spaces:
    cautions = Cautions()
    spaces = measure(str(root), trees, mounted, cautions, jobs=jobs)
    assert (spaces.complete, list(cautions)) == (True, [])
    return spaces


def grow(root: Path, seed: int, entries: int = 300) -> None:
    """A random tree: files of all sizes, holes, hard links within and across directories, symlinks, odd names."""
    dice = random.Random(seed)
    directories, files = [root], [root / "first"]
    root.mkdir(parents=True)
    files[0].write_bytes(b"x" * 5000)
    for number in range(entries):
        place = dice.choice(directories) / dice.choice([f"n{number}", f"\udcff{number}", f"a b\n{number}"])
        match dice.randrange(6):
            case 0:
                place.mkdir()
                directories.append(place)
            case 1:
                place.symlink_to("x" * dice.randrange(1, 200))
            case 2:
                os.link(dice.choice(files), place)
            case 3:
                with place.open("wb") as file:
                    file.truncate(dice.randrange(1 << 20))
                    file.seek(dice.randrange(1 << 20))
                    file.write(b"x")
                files.append(place)
            case _:
                place.write_bytes(b"x" * dice.choice([0, 1, 4096, 4097, dice.randrange(30_000)]))
                files.append(place)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("jobs", [1, 3])
def test_sums_are_those_of_du(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, jobs: int) -> None:
    """Also when every few names another process counts on."""
    monkeypatch.setattr(space, "ALONE_UP_TO", 20)
    monkeypatch.setattr(space, "SHARE", 25)
    for name in ("one", "two"):
        grow(tmp_path / "root" / name, seed)
    for name in os.listdir(tmp_path / "root/one")[:20]:  # inodes in both trees
        if (tmp_path / "root/one" / name).is_file():
            os.link(tmp_path / "root/one" / name, tmp_path / "root/two" / f"also {name}")
    root = tmp_path / "root"
    both = quietly(root, [Tree("one"), Tree("two")], jobs=jobs)
    assert allocated(both) == du(root / "one", root / "two")
    assert both.trees[0].allocated_bytes == du(root / "one"), "who has an inode first, counts it"
    swapped = quietly(root, [Tree("two"), Tree("one")], jobs=jobs)
    assert allocated(swapped) == allocated(both)
    assert swapped.trees[0].allocated_bytes == du(root / "two")


def test_size_is_counted_as_docker_does(tmp_path: Path) -> None:
    (tmp_path / "t/below").mkdir(parents=True)
    (tmp_path / "t/file").write_text("12345")
    os.link(tmp_path / "t/file", tmp_path / "t/below/again")
    (tmp_path / "t/link").symlink_to("1234567")
    with (tmp_path / "t/holes").open("wb") as file:
        file.truncate(1 << 20)
    (tree,) = quietly(tmp_path, [Tree("t")]).trees
    assert (tree.rest.apparent_bytes, tree.rest.symlink_bytes) == (5 + 7 + (1 << 20), 7)
    assert tree.rest.directory_bytes == sum((tmp_path / name).stat().st_blocks * 512 for name in ("t", "t/below"))


def test_shapes_count_apart_what_they_say(tmp_path: Path) -> None:
    for name in ("layer/diff/etc", "layer/work/work", "layer/merged", "box/local-logs", "box/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "layer/diff/etc/diff",
        "layer/link",
        "box/1-json.log",
        "box/1-json.log.1.gz",
        "box/config.v2.json",
    ):
        (tmp_path / name).write_text(name)
    layer, box, top = quietly(
        tmp_path, [Tree("layer", Shape.LAYER), Tree("box", Shape.CONTAINER), Tree("", Shape.FLAT)]
    ).trees
    assert layer.apart.allocated_bytes == du(tmp_path / "layer/diff")
    assert layer.allocated_bytes == du(tmp_path / "layer")
    assert box.apart.allocated_bytes == du(*(tmp_path / "box").glob("*log*"))
    assert box.allocated_bytes == du(tmp_path / "box")
    assert top.allocated_bytes == tmp_path.stat().st_blocks * 512


def test_merged_is_not_entered_and_told_when_it_should_be_empty(tmp_path: Path) -> None:
    """A directory of that name further below is an ordinary one."""
    for name in ("layer/merged", "layer/diff/merged"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(b"x" * 9000)
    cautions = Cautions()
    spaces = measure(str(tmp_path), [Tree("layer", Shape.LAYER)], (), cautions)
    assert allocated(spaces) == du(tmp_path / "layer") - du(tmp_path / "layer/merged/file")
    assert [caution.code for caution in cautions] == ["merged-not-empty"]
    assert not spaces.complete


def test_mount_points_are_not_entered_wherever_they_are(tmp_path: Path) -> None:
    """A directory that is bound there is on the same file system: only its name tells."""
    for name in ("t/bound", "t/below/bound", "bound"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_bytes(b"x" * 9000)
    mounted = (str(tmp_path / "t/bound"), str(tmp_path / "bound"))
    spaces = quietly(tmp_path, [Tree("t"), Tree("bound")], mounted)
    assert allocated(spaces) == du(tmp_path / "t") - du(tmp_path / "t/bound")
    assert spaces.mounts == tuple(sorted(mounted))


@pytest.mark.kernel
@pytest.mark.skipif(not can_mount(), reason="mounting takes root")
def test_other_file_systems_are_not_entered(tmp_path: Path) -> None:
    point = tmp_path / "t/point"
    point.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    try:
        (point / "file").write_bytes(b"x" * 9000)
        spaces = quietly(tmp_path, [Tree("t")])
        assert allocated(spaces) == du(tmp_path / "t")
        assert spaces.mounts == (str(point),)
    finally:
        subprocess.run(["umount", point], check=True)


def test_symlinks_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"x" * 9000)
    (tmp_path / "t").mkdir()
    (tmp_path / "t/link").symlink_to("../outside")
    assert allocated(quietly(tmp_path, [Tree("t")])) == du(tmp_path / "t")
    cautions = Cautions()
    spaces = measure(str(tmp_path), [Tree("t/link")], (), cautions)
    assert (allocated(spaces), spaces.complete, len(list(cautions))) == (0, False, 1)


def test_deep_trees_and_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    fd = os.open(tmp_path / "t", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 20, dir_fd=fd)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    spaces = quietly(tmp_path, [Tree("t"), Tree("gone")])
    assert [tree.allocated_bytes for tree in spaces.trees] == [du(tmp_path / "t"), 0]
    subprocess.run(["rm", "-rf", tmp_path / "t"], check=True)
