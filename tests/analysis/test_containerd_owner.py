"""owner on containerd roots made by hand: what words stand for, and who holds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerscope.analysis import containerd_orphans
from layerscope.analysis.containerd_owner import find_containerd_owner
from layerscope.analysis.owner import Answer, Owner
from layerscope.analysis.purpose import Purpose
from layerscope.errors import AmbiguousTargetError, TargetNotFoundError
from layerscope.model import Cautions, Role
from tests.analysis.test_containerd_orphans import LOST, opened
from tests.analysis.test_containerd_orphans import proc as proc  # a fixture
from tests.containerdroot import APP, FakeContainerd, Image, Snapshot
from tests.stores.offline import InProcess


@pytest.fixture
def root(tmp_path: Path) -> FakeContainerd:
    return FakeContainerd(tmp_path / "docker/containerd/daemon", docker=tmp_path / "docker")


@pytest.fixture
def image(root: FakeContainerd) -> Image:
    return root.image(APP, [root.layer({"a": "a"}), root.layer({"b": "b"})])


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containerd_orphans, "_PATIENCE_SECONDS", 0)


def ask(root: FakeContainerd, word: str, proc: Path) -> Answer:
    root.write()
    return find_containerd_owner(opened(root), word, 0, Cautions(), proc=str(proc))


def owner(root: FakeContainerd, word: str, proc: Path) -> Owner:
    (found,) = ask(root, word, proc).owners
    return found


def test_words_for_a_snapshot(root: FakeContainerd, image: Image, proc: Path) -> None:
    web, upper = root.container("web", image)
    base, top = image.snapshots
    diff_id = root.layer({"b": "b"}).diff_id
    docker = root.docker
    words: list[tuple[str, Snapshot, str | None, bool]] = [
        (str(top.fs), top, None, False),
        (f"{top.fs}/b/c", top, "b/c", False),
        (str(top.fs.parent / "work"), top, None, False),
        (f"snapshots/{top.number}", top, None, False),
        (f"{top.number}/fs/b", top, "b", False),
        (str(top.number), top, None, False),
        (top.key, top, None, False),
        (top.key[:30], top, None, False),
        (top.key.removeprefix("sha256:"), top, None, False),
        (top.name, top, None, False),
        (diff_id, top, None, False),
        (base.key, base, None, False),
        (web, upper, None, False),
        (web[:12], upper, None, False),
        (f"{docker}/containers/{web}/config.v2.json", upper, None, False),
        (f"{docker}/rootfs/overlayfs/{web}/etc/passwd", upper, "etc/passwd", True),
        (f"overlay / overlay rw,lowerdir={top.fs},upperdir={upper.fs},workdir=/w 0 0", upper, None, False),
    ]
    for word, snapshot, inside, merged in words:
        found = ask(root, word, proc)
        assert [one.name for one in found.owners] == [str(snapshot.number)], word
        assert (found.place.inside, found.place.merged) == (inside, merged), word


def test_process_is_found_by_its_mounts(root: FakeContainerd, image: Image, proc: Path) -> None:
    _, upper = root.container("web", image)
    lower = image.snapshots[1].fs
    process = proc / "4711"
    (process / "ns").mkdir(parents=True)
    (process / "ns/mnt").symlink_to("mnt:[7]")
    options = f"rw,lowerdir={lower},upperdir={upper.fs},workdir={upper.fs.parent}/work"
    (process / "mountinfo").write_text(f"60 29 0:44 / / rw - overlay overlay {options}\n")
    for word in ("4711", "/proc/4711", "/proc/4711/root/etc/passwd"):
        assert owner(root, word, proc).name == str(upper.number)
    found = owner(root, "4711", proc)
    assert [one.holder for one in found.evidence if one.witness.value == "mount"] == ["/"]
    (proc / str(upper.number)).symlink_to("4711")
    with pytest.raises(AmbiguousTargetError):
        ask(root, str(upper.number), proc)


def test_images_containers_and_instruction(root: FakeContainerd, image: Image, proc: Path) -> None:
    web, upper = root.container("web", image, Running=True)
    other = root.image("docker.io/library/other:1", [root.layer({"a": "a"}), root.layer({"c": "c"})])
    base = owner(root, image.snapshots[0].key, proc)
    told = {(use.image.references, use.index, use.layers) for use in base.images}
    assert told == {(("app:1",), 0, 2), (("other:1",), 0, 2)}
    assert base.created_by == "RUN step 0"
    assert [(use.id, use.role) for use in base.containers] == [(web, Role.LOWER)]
    assert base.layer is not None
    assert (base.layer.chain_id, base.layer.parent) == (image.snapshots[0].key, None)
    assert {use.image.references for use in owner(root, other.snapshots[1].key, proc).images} == {("other:1",)}
    assert [(use.id, use.role) for use in owner(root, f"{web}-init", proc).containers] == [(web, Role.INIT)]
    assert owner(root, str(upper.number), proc).purpose is Purpose.UPPER


def test_blobs(root: FakeContainerd, image: Image, proc: Path) -> None:
    for word in (image.config.digest, str(image.config.path), image.config.digest[:20]):
        found = owner(root, word, proc)
        assert (found.name, found.path, found.exists) == (image.config.digest, str(image.config.path), True)
        assert found.purpose is Purpose.IMAGE_BLOB
        assert [(use.image.references, use.index) for use in found.images] == [(("app:1",), None)]


def test_leaked_layer_is_told_with_the_very_command(root: FakeContainerd, image: Image, proc: Path) -> None:
    upper = root.snapshot(LOST, image.snapshots[-1], {"x": ""}, kind=2)
    root.lease(LOST, [LOST])
    found = owner(root, str(upper.number), proc)
    assert found.purpose is Purpose.LEAKED_UPPER
    assert found.extra_commands == (f"ctr -n moby leases rm {LOST}",)


def test_foreign_namespace_is_named(root: FakeContainerd, image: Image, proc: Path) -> None:
    root.meta[b"k8s.io"] = {
        b"snapshots": {b"overlayfs": {b"pod": {b"name": b"k8s.io/9/pod"}}},
        b"containers": {b"pod-1": {b"snapshotter": b"overlayfs", b"snapshotKey": b"pod"}},
    }
    root.snapshots[b"k8s.io/9/pod"] = {b"id": b"\x5a", b"kind": b"\x02"}
    (root.directories / "90/fs").mkdir(parents=True)
    found = owner(root, "90", proc)
    assert [(use.name, use.role) for use in found.containers] == [("k8s.io: pod-1", Role.UPPER)]
    assert ("container", "k8s.io: pod-1") in {(one.witness.value, one.holder) for one in found.evidence}


@pytest.mark.parametrize(
    "word", ["nothing", "sha256:ffff", "ffffff", "9999999", "/nowhere", "../..", "", "snapshots/77"]
)
def test_words_that_stand_for_nothing(root: FakeContainerd, image: Image, proc: Path, word: str) -> None:
    with pytest.raises(TargetNotFoundError):
        ask(root, word, proc)


def test_start_of_several_is_ambiguous(root: FakeContainerd, image: Image, proc: Path) -> None:
    for name in ("same-1", "same-2"):
        root.snapshot(name, None, {})
    with pytest.raises(AmbiguousTargetError, match="same-1, same-2"):
        ask(root, "same", proc)


def test_namespace_of_another_client_is_told_with_its_own_commands(tmp_path: Path, proc: Path) -> None:
    """Docker's commands would do nothing there; what they would remove can't be told, and is not."""
    root = FakeContainerd(tmp_path / "containerd", namespace="k8s.io")
    image = root.image(APP, [root.packed({"a": "a"})])
    top = root.snapshot("pod", image.snapshots[0], {}, kind=2)
    root.meta[b"k8s.io"][b"containers"] = {b"pod-1": {b"snapshotter": b"overlayfs", b"snapshotKey": b"pod"}}
    root.write()
    cli = InProcess(tmp_path)
    place = ("--containerd-root", str(root.path), "--namespace", "k8s.io")
    (found,) = cli.ok("owner", str(top.number), "--json", *place).json["directories"]
    assert found["commands"] == ["ctr -n k8s.io containers rm pod-1"]
    (found,) = cli.ok("owner", image.snapshots[0].key, "--json", *place).json["directories"]
    assert found["commands"] == ["ctr -n k8s.io containers rm pod-1", f"ctr -n k8s.io images rm {APP}"]
    for command in (["orphans"], ["df"], ["check"], ["verify", "--all", "--jobs", "1"], ["reuse"]):
        assert "docker " not in cli.ok(*command, *place).out
    refused = cli("reuse", "--remove", "app:1", *place)
    assert (refused.code, refused.out) == (3, "")
