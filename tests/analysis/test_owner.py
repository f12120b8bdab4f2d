"""Every word for a directory finds it, and the answer names everybody who holds it, and nobody else."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from layerscope.analysis.owner import Answer, Owner, find_owner
from layerscope.analysis.purpose import Purpose
from layerscope.errors import AmbiguousTargetError, LayerscopeError, TargetNotFoundError
from layerscope.model import Cautions, OverlayOptions, Role
from layerscope.stores.overlay2 import Overlay2Store
from layerscope.stores.records import DataRoot
from tests.boltwriter import BoltWriter
from tests.dataroot import FakeRoot, StoredContainer, StoredImage, StoredLayer, write

CACHED = "c" * 25
LOST = "d" * 64


@dataclass
class Host:
    root: FakeRoot
    proc: Path
    app: StoredImage
    tool: StoredImage
    web: StoredContainer
    job: StoredContainer

    def ask(self, word: str | Path) -> Answer:
        self.cautions = Cautions()
        disk = Overlay2Store(DataRoot(str(self.root.path)), OverlayOptions(), self.cautions)
        return find_owner(disk, str(word), 0, self.cautions, str(self.proc))

    def one(self, word: str | Path) -> Owner:
        (owner,) = self.ask(word).owners
        return owner

    @property
    def base(self) -> StoredLayer:
        """Of both images."""
        return self.app.layers[0]

    @property
    def top(self) -> StoredLayer:
        """Of the one image."""
        return self.app.layers[1]

    def process(self, number: int, *lines: str) -> Path:
        write(self.proc / str(number) / "mountinfo", "".join(f"{line}\n" for line in lines))
        return self.proc / str(number)

    def mount_line(self, container: StoredContainer, point: str = "/") -> str:
        lower = ":".join(f"l/{layer.directory.link_id}" for layer in reversed(self.app.layers))
        options = f"rw,lowerdir={lower},upperdir={container.upper.diff},workdir={container.upper.path}/work"
        return f"36 35 0:50 / {point} rw,relatime - overlay overlay {options}"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    root = FakeRoot(tmp_path / "docker")
    base = root.layer({"etc/passwd": "root"})
    same = root.layer({"same": "1"})
    app = root.image("app:1", [base, root.layer({"b": "2"}, buildkit=True), same])
    tool = root.image("tool:1", [base, same], history=[{"created_by": "ADD base"}, {"created_by": "RUN tool"}])
    (root.overlay2 / CACHED / "diff").mkdir(parents=True)
    (root.path / "buildkit").mkdir()
    BoltWriter(root.path / "buildkit/snapshots.db").commit({CACHED.encode(): {}})
    BoltWriter(root.path / "buildkit/metadata_v2.db").commit(
        {b"_main": {CACHED.encode(): {b"cache.description": b'{"value": "mount / from exec make"}'}}}
    )
    host = Host(root, tmp_path / "proc", app, tool, root.container("web", app), root.container("job", tool))
    host.process(1, "25 1 8:1 / / rw - ext4 /dev/sda1 rw")
    (host.proc / "self").symlink_to("1")
    return host


# -- whose it is ---------------------------------------------------------------------------------------------


def test_shared_layer_names_all_who_hold_it(host: Host) -> None:
    owner = host.one(host.base.directory.cache_id)
    assert owner.purpose is Purpose.IMAGE and owner.exists
    assert owner.layer is not None and owner.layer.chain_id == host.base.chain_id
    assert {(use.image.name, use.index, use.layers, use.created_by) for use in owner.images} == {
        ("app:1", 0, 3, "RUN step 0"),
        ("tool:1", 0, 2, "ADD base"),
    }
    assert {(use.name, use.role) for use in owner.containers} == {("web", Role.LOWER), ("job", Role.LOWER)}
    assert [item.path for item in owner.evidence] == [str(host.base.record / "cache-id")]
    for path in [use.path for use in (*owner.images, *owner.containers)]:
        assert os.path.isfile(path)


def test_layer_of_one_image_names_no_other(host: Host) -> None:
    owner = host.one(host.top.directory.cache_id)
    assert [use.image.name for use in owner.images] == ["app:1"]
    assert [(use.name, use.role) for use in owner.containers] == [("web", Role.LOWER)]
    assert owner.created_by == "RUN step 1"


def test_same_content_on_another_parent_is_another_layer(host: Host) -> None:
    ours, theirs = host.app.layers[2], host.tool.layers[1]
    assert ours.diff_id == theirs.diff_id
    assert [use.image.name for use in host.one(ours.chain_id).images] == ["app:1"]
    assert [use.image.name for use in host.one(theirs.chain_id).images] == ["tool:1"]
    answer = host.ask(ours.diff_id)
    assert {owner.name for owner in answer.owners} == {ours.directory.cache_id, theirs.directory.cache_id}


def test_own_layers_of_a_container(host: Host) -> None:
    for directory, purpose, role in (
        (host.web.upper, Purpose.UPPER, Role.UPPER),
        (host.web.init, Purpose.INIT, Role.INIT),
    ):
        owner = host.one(directory.cache_id)
        assert owner.purpose is purpose
        assert [(use.name, use.role) for use in owner.containers] == [("web", role)]
        assert owner.images == ()


def test_build_cache_names_its_record(host: Host) -> None:
    owner = host.one(CACHED)
    assert owner.purpose is Purpose.BUILD
    assert [build.description for build in owner.builds] == ["mount / from exec make"]


def test_containers_are_found_by_layerdb_where_the_lower_file_is_gone(host: Host) -> None:
    (host.web.upper.path / "lower").unlink()
    owner = host.one(host.top.directory.cache_id)
    assert [(use.name, use.path) for use in owner.containers] == [("web", str(host.web.mount / "parent"))]


def test_layer_without_its_link_file_keeps_its_owners(host: Host) -> None:
    write(host.base.directory.path / "link", "")
    assert {use.name for use in host.one(host.base.directory.cache_id).containers} == {"web", "job"}


def test_build_steps_of_the_legacy_builder_are_left_out(host: Host) -> None:
    step = host.root.image(None, [host.root.layer({"s": "1"})])
    final = host.root.image("legacy:1", [host.root.layer({"s": "1"}), host.root.layer({"t": "1"})], parent=step)
    names = {use.image.name for use in host.one(final.layers[0].directory.cache_id).images}
    assert names == {"legacy:1"}


def test_image_that_can_not_be_read_is_told(host: Host) -> None:
    host.tool.config.write_text("{")
    assert {use.image.name for use in host.one(host.base.directory.cache_id).images} == {"app:1"}
    assert "broken-image" in {caution.code for caution in host.cautions}


def test_nothing_holds_a_planted_directory(host: Host) -> None:
    (host.root.overlay2 / LOST / "diff").mkdir(parents=True)
    owner = host.one(LOST)
    assert (owner.purpose, owner.evidence, owner.containers, owner.images) == (Purpose.UNREFERENCED, (), (), ())


def test_leaked_layers_are_judged_as_orphans_does(host: Host) -> None:
    shutil.rmtree(host.web.config.parent)
    assert host.one(host.web.upper.cache_id).purpose is Purpose.LEAKED_UPPER
    assert host.one(host.web.init.cache_id).purpose is Purpose.LEAKED_INIT
    (host.root.layerdb / "sha256/x").mkdir()
    write(host.root.path / "buildkit/snapshots.db", "x" * 9000)
    owner = host.one(host.web.upper.cache_id)
    assert (owner.purpose, owner.suspected) == (Purpose.UNKNOWN, Purpose.LEAKED_UPPER)


def test_layer_whose_directory_is_gone_still_has_its_owners(host: Host) -> None:
    shutil.rmtree(host.top.directory.path)
    owner = host.one(host.root.overlay2 / host.top.directory.cache_id / "diff/b")
    assert not owner.exists
    assert [use.image.name for use in owner.images] == ["app:1"]


# -- what a word stands for ----------------------------------------------------------------------------------


def test_every_word_for_a_layer_finds_it(host: Host) -> None:
    directory = host.top.directory
    words = [
        directory.cache_id,
        directory.cache_id[:12],
        directory.link_id,
        host.top.chain_id,
        host.top.chain_id.removeprefix("sha256:"),
        host.top.diff_id,
        str(directory.path),
        f"{directory.path}/",
        f"{directory.diff}/b",
        f"{directory.path}/merged/any/thing",
        f"{directory.path}/work/../link",
        str(directory.link),
        f"{directory.link}/b",
        str(host.top.record),
        str(host.top.record / "diff"),
        f"overlay2/{directory.cache_id}/diff",
        f"overlay2/{directory.cache_id}/merged/not/there",
        f"l/{directory.link_id}",
        f"{directory.cache_id}/diff",
        f"lowerdir=l/{directory.link_id}:l/{host.base.directory.link_id}",
        f"ro,lowerdir={directory.diff}:/x",
    ]
    assert {word: host.one(word).name for word in words} == dict.fromkeys(words, directory.cache_id)


def test_every_word_for_a_container_finds_its_upper_layer(host: Host) -> None:
    upper, line = host.web.upper, host.mount_line(host.web)
    host.process(4242, line, "99 36 8:1 /data /data rw - ext4 /dev/sda1 rw")
    words = [
        upper.cache_id,
        upper.cache_id[:10],
        str(host.web.config),
        str(host.web.mount),
        line,
        f"overlay /somewhere overlay {line.rpartition(' ')[2]} 0 0",
        f"upperdir={upper.diff},workdir={upper.path}/work",
        f"{upper.path}/merged/etc",
        "4242",
        "/proc/4242",
        "/proc/4242/root",
        "/proc/4242/root/etc/passwd",
    ]
    assert {word: host.one(word).name for word in words} == dict.fromkeys(words, upper.cache_id)
    assert host.ask("/proc/4242/root/etc/passwd").place.inside == "etc/passwd"
    assert host.one(host.web.mount / "init-id").name == host.web.init.cache_id
    assert host.one(f"{upper.cache_id[:10]}-init").name == host.web.init.cache_id
    with pytest.raises(TargetNotFoundError, match="the ext4 mount at /data"):
        host.ask("/proc/4242/root/data/x")


def test_record_of_an_image_stands_for_its_top_layer(host: Host) -> None:
    assert host.one(host.app.config).name == host.app.layers[-1].directory.cache_id


def test_mount_point_stands_for_its_upper_layer(host: Host, tmp_path: Path) -> None:
    point = tmp_path / "mnt"
    (point / "sub").mkdir(parents=True)
    (host.proc / "self").unlink()
    (host.proc / "self").symlink_to(
        host.process(7, "25 1 8:1 / / rw - ext4 /dev/sda1 rw", host.mount_line(host.web, str(point)))
    )
    assert host.one(point).name == host.web.upper.cache_id
    assert host.ask(point / "sub").place.inside == "sub"


def test_relative_path_starts_from_the_working_directory(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(host.base.directory.diff)
    assert host.one("etc/passwd").name == host.base.directory.cache_id
    assert host.one(".").name == host.base.directory.cache_id
    assert host.one("../link").name == host.base.directory.cache_id


def test_data_root_is_found_under_another_path(host: Host, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(host.root.path)
    word = tmp_path / "link/overlay2" / host.base.directory.cache_id / "diff/etc"
    assert host.one(word).name == host.base.directory.cache_id


def test_symlink_in_a_layer_is_not_followed(host: Host) -> None:
    (host.base.directory.diff / "out").symlink_to(host.top.directory.diff)
    answer = host.ask(host.base.directory.diff / "out/b")
    assert (answer.owners[0].name, answer.place.inside) == (host.base.directory.cache_id, "out/b")


def test_lost_short_link_is_found_by_its_file(host: Host) -> None:
    host.base.directory.link.unlink()
    assert host.one(host.base.directory.link_id).name == host.base.directory.cache_id
    shutil.rmtree(host.base.directory.path)
    with pytest.raises(TargetNotFoundError, match="leads to no layer"):
        host.ask(host.base.directory.link_id)


def test_start_of_several_names_is_refused(host: Host) -> None:
    for end in "ab":
        (host.root.overlay2 / ("9" * 63 + end) / "diff").mkdir(parents=True)
    with pytest.raises(AmbiguousTargetError, match="start of 2 directories"):
        host.ask("999")
    host.process(999, host.mount_line(host.web))
    with pytest.raises(AmbiguousTargetError, match="a process and the start"):
        host.ask("999")
    (host.proc / "999/mountinfo").write_text("25 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    with pytest.raises(AmbiguousTargetError, match="start of 2 directories"):
        host.ask("999")


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("nothing", "stands for nothing", "give a path"),
        ("web", "stands for nothing", "it is a container: `layerscope container web`"),
        ("app:1", "stands for nothing", "it is an image"),
        ("1", "process 1 is on the ext4 mount at /", ""),
        ("7777777", "mounts of process 7777777", "ended"),
        ("A" * 26, "leads to no layer", ""),
        ("sha256:" + "0" * 64, "stands for nothing", ""),
        ("f" * 64, "stands for nothing", ""),
        ("{root}", "is not in a layer", "data root itself"),
        ("{root}/overlay2", "is not in a layer", "orphans --all"),
        ("{root}/overlay2/l", "is not in a layer", ""),
        ("{root}/volumes/x/_data", "is not in a layer", "docker volume ls"),
        ("{root}/overlay2/" + "f" * 64 + "/diff", "is not there, and nothing refers", ""),
        ("{root}/containers/" + "f" * 64, "has no layers here", ""),
        ("/nonexistent/path", "stands for nothing", ""),
        ("lowerdir=/a:/b", "has no layers in", "another engine"),
        ("lowerdir=", "has no layers in", ""),
        ("", "stands for nothing", ""),
        ("../../..", "stands for nothing|is on the ext4 mount", ""),
        ("\x1b[31m", "stands for nothing", ""),
    ],
)
def test_word_that_stands_for_nothing_says_why(host: Host, word: str, message: str, hint: str) -> None:
    with pytest.raises(LayerscopeError) as caught:
        host.ask(word.replace("{root}", str(host.root.path)))
    assert re.search(message, caught.value.message), caught.value.message
    assert hint in (caught.value.hint or "")
    assert caught.value.hint
