"""Every class of directory is told from the others, and nothing is called an orphan that may not be one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from layerscope.analysis import orphans as module
from layerscope.analysis.footprint import Footprint, footprint
from layerscope.analysis.orphans import Survey, find_orphan, find_orphans
from layerscope.analysis.purpose import CONTAINERD_REMEDIES, ORPHANS, REMEDIES, Purpose
from layerscope.analysis.references import References, find_references
from layerscope.model import CacheId, Cautions, OverlayOptions
from layerscope.stores.overlay2 import Overlay2Store
from layerscope.stores.records import DataRoot
from tests.boltwriter import BoltWriter
from tests.dataroot import FakeRoot, StoredContainer, StoredImage, write
from tests.kernel import can_mount

CACHED = "c" * 25
LOST, SECOND = "d" * 64, "e" * 64
LINK = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass
class Host:
    root: FakeRoot
    image: StoredImage
    web: StoredContainer

    def survey(self, min_age: float = 0) -> Survey:
        self.cautions = Cautions()
        return find_orphans(self.disk(), min_age, self.cautions)

    def disk(self) -> Overlay2Store:
        return Overlay2Store(DataRoot(str(self.root.path)), OverlayOptions(), Cautions())

    def classes(self, min_age: float = 0) -> dict[str, str]:
        """The class of everything that is not in use, by its name."""
        used = {Purpose.IMAGE, Purpose.UPPER, Purpose.INIT, Purpose.BUILD}
        items = self.survey(min_age).items
        return {os.path.basename(item.path): item.purpose.value for item in items if item.purpose not in used}

    def plant(self, name: str, content: str = "x") -> Path:
        directory = self.root.overlay2 / name
        write(directory / "diff/file", content)
        return directory

    def forget(self, container: StoredContainer, *, mount: bool) -> None:
        """Remove a container and leave its layers, and the record of its mount unless that goes as well."""
        shutil.rmtree(container.config.parent)
        if mount:
            shutil.rmtree(container.mount)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    root = FakeRoot(tmp_path / "docker")
    image = root.image("app:1", [root.layer({"a": "1"}), root.layer({"b": "2"}, buildkit=True)])
    web = root.container("web", image)
    (root.overlay2 / CACHED / "diff").mkdir(parents=True)
    (root.path / "buildkit").mkdir()
    BoltWriter(root.path / "buildkit/snapshots.db").commit({CACHED.encode(): {}})
    BoltWriter(root.path / "buildkit/metadata_v2.db").commit({b"_main": {}})
    return Host(root, image, web)


def test_what_is_in_use_is_told_and_not_walked(host: Host) -> None:
    survey = host.survey()
    assert {os.path.basename(item.path): item.purpose for item in survey.items} == {
        **{layer.directory.cache_id: Purpose.IMAGE for layer in host.image.layers},
        host.web.upper.cache_id: Purpose.UPPER,
        host.web.init.cache_id: Purpose.INIT,
        CACHED: Purpose.BUILD,
    }
    assert all(item.evidence for item in survey.items)
    assert {item.allocated_bytes for item in survey.items} == {None}
    assert survey.unreadable == () and survey.orphans == ()


def test_planted_directory_is_unreferenced_whatever_its_name(host: Host) -> None:
    host.plant(LOST)
    host.plant("opaque-bug-check123")
    (host.root.overlay2 / "backingFsBlockDev").write_text("")
    assert host.classes() == {LOST: "unreferenced", "opaque-bug-check123": "unreferenced"}


def test_orphan_size_is_what_du_says(host: Host) -> None:
    directory = host.plant(LOST, "x" * 100_000)
    os.link(directory / "diff/file", directory / "diff/again")
    with (directory / "diff/sparse").open("wb") as file:
        file.truncate(10_000_000)
    write(directory / "merged/not/counted", "y" * 50_000)
    (orphan,) = host.survey().orphans
    blocks = sum(
        os.lstat(path).st_blocks
        for path in (directory, directory / "diff", directory / "diff/file", directory / "diff/sparse")
    )
    assert orphan.allocated_bytes == blocks * 512


@pytest.mark.parametrize(("mount", "sign"), [(False, "no container"), (True, "no record")])
def test_leaked_upper_and_init_are_told_with_and_without_their_record(host: Host, mount: bool, sign: str) -> None:
    host.forget(host.web, mount=mount)
    survey = host.survey()
    found = {item.cache_id: item.purpose for item in survey.orphans}
    assert found == {host.web.upper.cache_id: Purpose.LEAKED_UPPER, host.web.init.cache_id: Purpose.LEAKED_INIT}
    assert all(sign in item.signs[0] for item in survey.orphans)


def test_leaked_upper_is_told_by_its_lower_file_alone(host: Host) -> None:
    host.forget(host.web, mount=True)
    alone = host.root.overlay2 / LOST
    host.web.upper.path.rename(alone)
    assert host.classes()[LOST] == "leaked-upper"


def test_half_removed_layer_is_told_with_and_without_its_directory(host: Host) -> None:
    host.plant(LOST)
    sha256 = host.root.layerdb / "sha256"
    write(sha256 / f"{'1' * 64}-77-removing/cache-id", LOST)
    write(sha256 / f"{'2' * 64}-78-removing/cache-id", SECOND)
    (sha256 / f"{'3' * 64}-79-removing").mkdir()
    assert host.classes() == {
        LOST: "half-removed",
        f"{'2' * 64}-78-removing": "half-removed",
        f"{'3' * 64}-79-removing": "half-removed",
    }


def test_unfinished_registration_is_told(host: Host) -> None:
    host.plant(LOST)
    write(host.root.layerdb / "tmp/write-set-1/cache-id", LOST)
    assert host.classes() == {LOST: "unfinished"}


def test_dangling_link_is_told_and_a_good_one_not(host: Host) -> None:
    (host.root.overlay2 / "l" / LINK).symlink_to(f"../{LOST}/diff")
    (host.root.overlay2 / "l" / LINK[::-1]).symlink_to("/etc")
    survey = host.survey()
    assert {os.path.basename(item.path) for item in survey.orphans} == {LINK, LINK[::-1]}
    assert {item.purpose for item in survey.orphans} == {Purpose.DANGLING_LINK}


def test_layer_of_no_image_is_spare_and_one_below_a_container_is_not(host: Host) -> None:
    other = host.root.image(None, [host.root.layer({"other": "1"})])
    other.config.unlink()
    assert host.classes() == {other.layers[0].directory.cache_id: "spare-layer"}
    host.image.config.unlink()
    assert host.classes() == {
        other.layers[0].directory.cache_id: "unknown",  # repositories.json names an image that can't be read
        **{layer.directory.cache_id: "container-lower" for layer in host.image.layers},
    }


# -- what must not be called an orphan -----------------------------------------------------------------------


def test_young_directory_is_not_judged(host: Host) -> None:
    host.plant(LOST)
    (host.root.overlay2 / "l" / LINK).symlink_to("../nothing/diff")
    assert host.classes(60) == {LOST: "too-young", LINK: "too-young"}
    assert {item.suspected for item in host.survey(60).items} == {
        None,
        Purpose.UNREFERENCED,
        Purpose.DANGLING_LINK,
    }


def test_change_deep_in_an_old_tree_makes_it_young(host: Host) -> None:
    directory = host.plant(LOST)
    write(directory / "diff/a/b/c/old", "1")
    found = footprint(str(directory), set())
    assert found is not None
    time.sleep(0.02)
    (directory / "diff/a/b/c/old").unlink()
    later = footprint(str(directory), set())
    assert later is not None and later.changed_ns > found.changed_ns


def test_removal_that_just_began_is_young(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is old, but the record of the layer was renamed a moment ago."""
    host.plant(LOST)
    monkeypatch.setattr(module, "footprint", lambda *_: Footprint(0, 10**9, complete=True))
    assert host.classes(60) == {LOST: "unreferenced"}
    write(host.root.layerdb / "sha256" / f"{'1' * 64}-77-removing/cache-id", LOST)
    assert host.classes(60) == {LOST: "too-young"}


def between_looks(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have something happen after the first look at the references."""
    looks: list[References] = []

    def find(root: DataRoot) -> References:
        if looks:
            act()
        looks.append(find_references(root))
        return looks[-1]

    monkeypatch.setattr(module, "find_references", find)


def test_what_is_gone_by_the_second_look_is_not_told(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = host.plant(LOST)
    between_looks(monkeypatch, lambda: shutil.rmtree(directory))
    assert host.classes() == {}


def test_what_is_referred_to_at_the_second_look_is_not_judged(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.plant(LOST)
    mount = host.root.layerdb / "mounts" / SECOND / "mount-id"
    between_looks(monkeypatch, lambda: write(mount, LOST))
    assert host.classes() == {LOST: "too-young"}


def test_what_loses_its_link_meanwhile_is_being_removed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.plant(LOST)
    link = host.root.overlay2 / "l" / LINK
    link.symlink_to(f"../{LOST}/diff")
    assert host.classes() == {LOST: "unreferenced"}
    between_looks(monkeypatch, link.unlink)
    assert host.classes() == {LOST: "too-young"}


def test_unreferenced_directory_below_one_in_use_is_unknown(host: Host) -> None:
    """The record of a container's init layer is lost: without that layer the container can't start."""
    (host.web.mount / "init-id").unlink()
    survey = host.survey()
    (item,) = (item for item in survey.items if item.purpose is Purpose.UNKNOWN)
    assert (item.cache_id, item.suspected) == (host.web.init.cache_id, Purpose.LEAKED_INIT)
    assert host.web.upper.cache_id in item.signs[-1]


LOSSES: dict[str, Callable[[Host], object]] = {
    "cache-id": lambda host: write(host.image.layers[0].record / "cache-id", "../.."),
    "mount-id": lambda host: (host.web.mount / "mount-id").unlink(),
    "layerdb": lambda host: shutil.rmtree(host.root.layerdb),
    "containers": lambda host: shutil.rmtree(host.root.path / "containers"),
    "snapshots": lambda host: write(host.root.path / "buildkit/snapshots.db", "x" * 9000),
    "metadata": lambda host: write(host.root.path / "buildkit/metadata_v2.db", "x" * 9000),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_no_orphan_where_a_source_is_lost(host: Host, loss: str) -> None:
    host.plant(LOST)
    LOSSES[loss](host)
    survey = host.survey()
    assert survey.orphans == ()
    (item,) = (item for item in survey.items if item.cache_id == LOST)
    assert (item.purpose, item.suspected) == (Purpose.UNKNOWN, Purpose.UNREFERENCED)
    assert {caution.code for caution in host.cautions} >= {"unreadable-source"}


@pytest.mark.kernel
@pytest.mark.skipif(not can_mount(), reason="mounts an overlay, which takes root")
def test_live_mount_holds_a_directory(host: Host) -> None:
    directory = host.plant(LOST)
    for name in ("work", "merged"):
        (directory / name).mkdir()
    options = f"lowerdir={host.image.layers[0].directory.diff},upperdir={directory}/diff,workdir={directory}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(directory / "merged")], check=True)
    try:
        assert host.classes() == {LOST: "mounted"}
    finally:
        subprocess.run(["umount", str(directory / "merged")], check=True)


# -- the rest ------------------------------------------------------------------------------------------------


def test_one_directory_is_judged_as_all_are(host: Host) -> None:
    host.plant(LOST)
    host.plant(SECOND)
    item = find_orphan(host.disk(), LOST, (), 0, Cautions())
    assert item is not None and item.purpose is Purpose.UNREFERENCED
    young = find_orphan(host.disk(), LOST, (), 60, Cautions())
    assert young is not None and young.purpose is Purpose.YOUNG
    assert find_orphan(host.disk(), CacheId("f" * 64), (), 0, Cautions()) is None


def test_every_class_has_a_remedy_and_no_orphan_is_removed_by_us() -> None:
    assert set(CONTAINERD_REMEDIES) == set(Purpose)
    for remedies in (REMEDIES, CONTAINERD_REMEDIES):
        assert all(remedy.note for remedy in remedies.values())
        assert not any("rm -r" in f"{remedy.command} {remedy.note}" for remedy in remedies.values())
    assert Purpose.YOUNG not in ORPHANS and Purpose.UNKNOWN not in ORPHANS


def test_hostile_names_and_deep_trees_are_survived(host: Host) -> None:
    (host.root.overlay2 / "esc\x1b[31m\udcff\n").mkdir()
    (host.root.overlay2 / "l" / "not\nutf8\udcff").symlink_to("../\x1b/diff")
    write(host.root.layerdb / "mounts/\x1b[31m/mount-id", LOST)
    deep = host.plant(SECOND) / "diff"
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    try:
        found = host.classes()
    finally:
        subprocess.run(["rm", "-rf", str(deep)], check=True)  # deeper than Python's own way can go
    assert found[SECOND] == "unreferenced"
    assert len(found) == 4
