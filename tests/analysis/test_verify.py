"""``verify`` on synthetic layers: what is intact is so, and every kind of change is found and named."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from layerscope.analysis.crc64 import Crc64
from tests.cli import Result
from tests.dataroot import FakeRoot, StoredImage
from tests.stores.offline import InProcess, Offline
from tests.tarlayers import Tar, crc64, family, tar_image, tar_split, write_tar_split

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="takes root")


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path / "docker")


@pytest.fixture
def offline(root: FakeRoot, tmp_path: Path) -> Offline:
    return Offline(InProcess(tmp_path), root.path)


def verify(offline: Offline, *arguments: str, code: int) -> dict[str, Any]:
    from tests.cli import validator

    result: Result = offline("verify", *arguments, "--json")
    assert result.code == code, result.snapshot()
    validator("verify").validate(result.json)
    answer: dict[str, Any] = result.json
    return answer


def problems(answer: dict[str, Any]) -> set[tuple[str, str]]:
    """Path and problem of every difference, without the times of directories, which any change touches."""
    return {(item["path"], item["problem"]) for layer in answer["layers"] for item in layer["differences"]}


BIG = bytes(range(256)) * 5000


def full() -> bytes:
    """A layer with everything in it that has a place on disk."""
    tar = Tar()
    tar.directory("etc").file("etc/passwd", "root:x:0:0\n").file("etc/empty", "")
    tar.file("etc/secret", "12345678", mode=0o4600).symlink("etc/link", "../usr/bin")
    tar.file("etc/linked", "linked").hard_link("etc/other", "etc/linked")
    tar.directory("gone").whiteout("gone/old").directory("clear").opaque("clear")
    tar.file("a/long/" + "name" * 40, "long").file("big", BIG)
    tar.file("exact", "x", pax_headers={"mtime": "1700000000.123456789"})
    tar.file("naïve", "ï").file("tagged", "x", pax_headers={"SCHILY.xattr.user.tag": "value"})
    tar.add("pipe", tarfile.FIFOTYPE).file("before-1970", "x", mtime=1)
    return tar.bytes()


# -- the checksum ----------------------------------------------------------------------------------------------


def test_crc64_of_the_check_string() -> None:
    crc = Crc64()
    assert crc.value == 0
    crc.update(b"123456789")
    assert crc.value == 0xB90956C775A41001
    assert base64.b64decode("YUdAAAAAAAA=") == crc64(b"c\n").to_bytes(8, "big")


@given(some.binary(max_size=700), some.integers(0, 700))
def test_crc64_is_that_of_the_definition_in_any_pieces(data: bytes, cut: int) -> None:
    crc = Crc64()
    crc.update(data[:cut])
    crc.update(data[cut:])
    assert crc.value == crc64(data)


# -- what is intact ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buildkit", [False, True])
def test_intact_layers_are_ok(root: FakeRoot, offline: Offline, buildkit: bool) -> None:
    tars = [Tar().directory("usr").file("usr/a", "a").bytes(), full()]
    tar_image(root, "app:1", tars, buildkit=buildkit)
    answer = verify(offline, "app:1", code=0)
    assert [layer["verdict"] for layer in answer["layers"]] == ["ok", "ok"]
    assert [layer["found_diff_id"] for layer in answer["layers"]] == [
        "sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars
    ]
    assert [layer["tar_bytes"] for layer in answer["layers"]] == [len(tar) for tar in tars]
    assert problems(answer) == set()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_understood(root: FakeRoot, offline: Offline, format: int) -> None:
    tar = (
        Tar(format)
        .directory("./", mode=0o711)
        .directory("./d")
        .file("./d/x", "x")
        .symlink("d/l", "/etc/" + "t" * 90)
    )
    if format != tarfile.USTAR_FORMAT:
        tar.file("d/" + "n" * 200, "long").symlink("d/s", "/" + "t" * 300).file("d/old", "x", mtime=2**33 + 1)
    tar_image(root, "app:1", [tar.bytes()])
    verify(offline, "app:1", code=0)


def test_global_pax_headers_are_no_files(root: FakeRoot, offline: Offline) -> None:
    """`git archive` writes one; Go's reader gives it as an entry of its own."""
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    header = tarfile.TarInfo.create_pax_global_header({"comment": "c" * 40})
    tar = header + Tar().file("x", "x").bytes()
    # As Go's reader leaves it: what fills the block of the records comes with the next header.
    parts = header.rstrip(b"\0"), header[len(header.rstrip(b"\0")) :]
    write_tar_split(
        image.layers[0].record,
        line(type=2, payload=base64.b64encode(parts[0]).decode())
        + line(type=1, name="pax_global_header")
        + line(type=2, payload=base64.b64encode(parts[1]).decode())
        + tar_split(Tar().file("x", "x").bytes()),
    )
    moved = rename(root, image, tar)
    verify(offline, moved, code=0)


def rename(root: FakeRoot, image: StoredImage, tar: bytes) -> str:
    """Give the only layer of an image the digest of this tar, and all that follows from it; gives a new name."""
    digest = hashlib.sha256(tar).hexdigest()
    layer = image.layers[0]
    (layer.record / "diff").write_text(f"sha256:{digest}")
    layer.record.rename(layer.record.with_name(digest))
    config = json.loads(image.config.read_text())
    config["rootfs"]["diff_ids"] = [f"sha256:{digest}"]
    text = json.dumps(config)
    identifier = hashlib.sha256(text.encode()).hexdigest()
    root.config_path(identifier).write_text(text)
    image.config.unlink()
    root.repositories["app"] = {"app:2": f"sha256:{identifier}"}
    root.repositories_path.write_text(json.dumps({"Repositories": root.repositories}))
    return "app:2"


def test_a_hard_link_whose_header_has_a_size_has_no_content_in_the_tar(root: FakeRoot, offline: Offline) -> None:
    """The engine itself fails to write such a tar again."""
    tar = Tar().file("one", "12345").hard_link("two", "one").bytes()
    raw = bytearray(tar)
    start = tar.index(b"two\0")
    raw[start + 124 : start + 136] = b"00000000005\0"
    raw[start + 148 : start + 156] = b" " * 8
    raw[start + 148 : start + 156] = b"%06o\0 " % sum(raw[start : start + 512])
    image = tar_image(root, "app:1", [tar])
    lines = [json.loads(line) for line in tar_split(tar).splitlines()]
    header = next(index for index, line in enumerate(lines) if line.get("name") == "two") - 1
    padding = len(base64.b64decode(lines[header]["payload"])) - 512
    lines[header]["payload"] = base64.b64encode(bytes(padding) + bytes(raw[start : start + 512])).decode()
    lines[header + 1].update(size=5, payload=base64.b64encode(bytes(8)).decode())
    write_tar_split(image.layers[0].record, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    verify(offline, rename(root, image, bytes(raw)), code=0)


# -- what was changed ----------------------------------------------------------------------------------------------


def replaced(path: Path, content: bytes) -> None:
    """Other content, the same time."""
    times = path.lstat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def relinked(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)
    os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)


def unlinked(path: Path) -> None:
    """A copy where a hard link was."""
    content, times = path.read_bytes(), path.lstat()
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o644)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def directory_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, tuple[Callable[[Path], object], tuple[str, str]]] = {
    "as much content": (lambda d: replaced(d / "etc/secret", b"87654321"), ("etc/secret", "content")),
    "one byte of a large file": (lambda d: replaced(d / "big", BIG[:-1] + b"x"), ("big", "content")),
    "more content": (lambda d: replaced(d / "etc/passwd", b"root:x:0:0\nevil:x:0:0\n"), ("etc/passwd", "size")),
    "an empty file with content": (lambda d: replaced(d / "etc/empty", b"x"), ("etc/empty", "size")),
    "no content": (lambda d: replaced(d / "etc/passwd", b""), ("etc/passwd", "size")),
    "a removed file": (lambda d: (d / "etc/passwd").unlink(), ("etc/passwd", "missing")),
    "an extra file": (lambda d: (d / "etc/cron.d").write_text("x"), ("etc/cron.d", "extra")),
    "an extra directory": (lambda d: (d / "evil/below").mkdir(parents=True), ("evil/below", "extra")),
    "an extra whiteout": (lambda d: os.mknod(d / "usr", stat.S_IFCHR, 0), ("usr", "extra")),
    "a literal whiteout": (lambda d: (d / "gone/.wh.old").write_text(""), ("gone/.wh.old", "extra")),
    "a mode": (lambda d: (d / "etc/secret").chmod(0o4644), ("etc/secret", "mode")),
    "a mode of a directory": (lambda d: (d / "etc").chmod(0o777), ("etc", "mode")),
    "a time": (lambda d: os.utime(d / "etc/passwd", (5, 5)), ("etc/passwd", "mtime")),
    "a part of a second": (lambda d: os.utime(d / "exact", ns=(0, 1_700_000_000_123_456_788)), ("exact", "mtime")),
    "a target": (lambda d: relinked(d / "etc/link", "../usr/bim"), ("etc/link", "target")),
    "a hard link": (lambda d: unlinked(d / "etc/other"), ("etc/other", "hard-link")),
    "a file by a directory": (lambda d: directory_instead(d / "etc/passwd"), ("etc/passwd", "kind")),
    "a fifo by a file": (lambda d: ((d / "pipe").unlink(), (d / "pipe").write_text("")), ("pipe", "kind")),
    "a whiteout removed": (lambda d: (d / "gone/old").unlink(), ("gone/old", "missing")),
    "a whiteout by a directory": (lambda d: directory_instead(d / "gone/old"), ("gone/old", "kind")),
    "an opaque mark removed": (lambda d: os.removexattr(d / "clear", family() + "opaque"), ("clear", "xattr")),
    "an opaque mark set": (lambda d: os.setxattr(d / "etc", family() + "opaque", b"y"), ("etc", "xattr")),
    "an implied directory opaque": (lambda d: os.setxattr(d / "a", family() + "opaque", b"y"), ("a", "xattr")),
    "an xattr": (lambda d: os.setxattr(d / "tagged", "user.tag", b"other"), ("tagged", "xattr")),
    "an xattr removed": (lambda d: os.removexattr(d / "tagged", "user.tag"), ("tagged", "xattr")),
    "an xattr more": (lambda d: os.setxattr(d / "etc/passwd", "user.more", b""), ("etc/passwd", "xattr")),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found_and_named(root: FakeRoot, offline: Offline, what: str) -> None:
    change, expected = CHANGES[what]
    image = tar_image(root, "app:1", [Tar().file("below", "x").bytes(), full()])
    change(image.layers[1].directory.diff)
    answer = verify(offline, "app:1", code=1)
    assert [layer["verdict"] for layer in answer["layers"]] == ["ok", "differs"]
    assert expected in problems(answer)
    others = {path for path, problem in problems(answer) if problem != "mtime"} - {expected[0]}
    assert others <= {"evil"}
    table = offline("verify", "app:1")
    assert table.code == 1
    assert expected[0] in table.out


@as_root
def test_changed_owners_and_devices_are_found(root: FakeRoot, offline: Offline) -> None:
    tar = Tar().file("x", "x", uid=7, gid=8).add("null", tarfile.CHRTYPE, devmajor=1, devminor=3).bytes()
    image = tar_image(root, "app:1", [tar])
    verify(offline, "app:1", code=0)
    diff = image.layers[0].directory.diff
    os.chown(diff / "x", 7, 0)
    (diff / "null").unlink()
    os.mknod(diff / "null", stat.S_IFCHR | 0o644, os.makedev(1, 5))
    os.utime(diff / "null", (1_700_000_000, 1_700_000_000))
    (layer,) = verify(offline, "app:1", code=1)["layers"]
    told = {(item["path"], item["problem"]): (item["expected"], item["found"]) for item in layer["differences"]}
    assert told == {("x", "owner"): ("7:8", "7:0"), ("null", "device"): ("1:3", "1:5")}


@as_root
def test_capabilities_in_their_newer_form_are_the_same(root: FakeRoot, offline: Offline) -> None:
    """Set in a user namespace they have a root id, which the engine leaves out of the tar."""
    old = bytes([1, 0, 0, 2]) + bytes([0, 32, 0, 0]) + bytes(12)
    tar = Tar().file("ping", "x", pax_headers={"SCHILY.xattr.security.capability": old.decode()}).bytes()
    image = tar_image(root, "app:1", [tar])
    path = image.layers[0].directory.diff / "ping"
    assert os.getxattr(path, "security.capability") == old
    verify(offline, "app:1", code=0)
    os.setxattr(path, "security.capability", bytes([1, 0, 0, 3]) + old[4:] + (5).to_bytes(4, "little"))
    verify(offline, "app:1", code=0)
    os.setxattr(path, "security.capability", bytes([1, 0, 0, 2]) + bytes([0, 0, 32, 0]) + bytes(12))
    assert problems(verify(offline, "app:1", code=1)) == {("ping", "xattr")}


def test_an_empty_xattr_is_one_that_the_engine_never_set(root: FakeRoot, offline: Offline) -> None:
    tar = Tar().file("e", "x", pax_headers={"SCHILY.xattr.user.empty": ""}).bytes()
    path = tar_image(root, "app:1", [tar]).layers[0].directory.diff / "e"
    assert os.listxattr(path) in ([], ["user.empty"])
    verify(offline, "app:1", code=0)
    if os.listxattr(path):
        os.removexattr(path, "user.empty")
    verify(offline, "app:1", code=0)
    os.setxattr(path, "user.empty", b"value")
    assert problems(verify(offline, "app:1", code=1)) == {("e", "xattr")}


def test_buildkit_directories_may_have_xattrs_that_no_tar_has(root: FakeRoot, offline: Offline) -> None:
    """The engine made the tar of such a layer out of its directory, and wrote capabilities alone."""
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()], buildkit=True)
    os.setxattr(image.layers[0].directory.diff / "x", "user.note", b"x")
    verify(offline, "app:1", code=0)


@as_root
def test_owners_are_shifted_by_userns_remap(tmp_path: Path) -> None:
    root = FakeRoot(tmp_path / "231072.231073")
    image = tar_image(root, "app:1", [Tar().file("x", "x", uid=3, gid=4).bytes()])
    path = image.layers[0].directory.diff / "x"
    os.chown(path, 231075, 231077)
    offline = Offline(InProcess(tmp_path), root.path)
    verify(offline, "app:1", code=0)
    os.chown(path, 231076, 231077)
    assert problems(verify(offline, "app:1", code=1)) == {("x", "owner")}


@as_root
def test_owners_of_an_unknown_namespace_are_not_compared(root: FakeRoot, offline: Offline) -> None:
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    os.chown(image.layers[0].directory.path, 1000, 1000)
    os.chown(image.layers[0].directory.diff / "x", 1000, 1000)
    answer = verify(offline, "app:1", code=0)
    assert [warning["code"] for warning in answer["warnings"]] == ["owners-not-compared"]


def test_a_changed_record_is_found_though_no_file_differs(root: FakeRoot, offline: Offline) -> None:
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    write_tar_split(image.layers[0].record, tar_split(Tar().file("x", "x", uname="evil").bytes()))
    (layer,) = verify(offline, "app:1", code=1)["layers"]
    assert layer["differences"] == []
    assert "every file agrees" in layer["reasons"][0]


def test_a_forged_diff_record_does_not_help(root: FakeRoot, offline: Offline) -> None:
    """Content, tar-split and layerdb changed alike: the image configuration still knows the digest."""
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    forged = Tar().file("x", "y").bytes()
    replaced(image.layers[0].directory.diff / "x", b"y")
    write_tar_split(image.layers[0].record, tar_split(forged))
    (image.layers[0].record / "diff").write_text("sha256:" + hashlib.sha256(forged).hexdigest())
    (layer,) = verify(offline, "app:1", code=1)["layers"]
    assert layer["verdict"] == "differs"
    assert layer["diff_id"] == image.layers[0].diff_id


# -- hostile disks -------------------------------------------------------------------------------------------------


def test_nothing_is_followed_out_of_a_layer(root: FakeRoot, offline: Offline, tmp_path: Path) -> None:
    """A directory replaced by a link to one that holds the very same files."""
    image = tar_image(root, "app:1", [Tar().directory("d").file("d/x", "x").bytes()])
    diff = image.layers[0].directory.diff
    (diff / "d").rename(tmp_path / "elsewhere")
    (diff / "d").symlink_to(tmp_path / "elsewhere")
    assert problems(verify(offline, "app:1", code=1)) == {("d", "kind"), ("d/x", "missing")}


def test_a_fifo_in_place_of_a_file_blocks_nobody(root: FakeRoot, offline: Offline) -> None:
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    (image.layers[0].directory.diff / "x").unlink()
    os.mkfifo(image.layers[0].directory.diff / "x")
    assert problems(verify(offline, "app:1", code=1)) == {("x", "kind")}


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


HEADER = base64.b64encode(tarfile.TarInfo("x").tobuf()).decode()
BROKEN = {
    "not gzip": b"nonsense",
    "cut off": gzip.compress(tar_split(Tar().file("x", "x").bytes()))[:-20],
    "no JSON": gzip.compress(b"{nonsense}\n"),
    "no object": gzip.compress(b"[1]\n"),
    "nested": gzip.compress(b"[" * 100_000 + b"\n"),
    "an unknown type": gzip.compress(line(type=3)),
    "no base64": gzip.compress(line(type=2, payload="***")),
    "no header": gzip.compress(line(type=2, payload="AAAA") + line(type=1, name="x", size=1)),
    "a negative size": gzip.compress(line(type=2, payload=HEADER) + line(type=1, name="x", size=-1)),
    "a size that is none": gzip.compress(line(type=2, payload=HEADER) + line(type=1, name="x", size="1")),
    "no name": gzip.compress(line(type=2, payload=HEADER) + line(type=1, size=1)),
    "a name with NUL": gzip.compress(line(type=2, payload=HEADER) + line(type=1, name="x\0y")),
    "a name that is no text": gzip.compress(line(type=2, payload=HEADER) + line(type=1, name="\ud800")),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_tar_split_is_unverifiable(root: FakeRoot, offline: Offline, what: str) -> None:
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    (image.layers[0].record / "tar-split.json.gz").write_bytes(BROKEN[what])
    (layer,) = verify(offline, "app:1", code=3)["layers"]
    assert layer["verdict"] == "unverifiable"
    assert "tar-split.json.gz" in layer["reasons"][0]
    assert layer["found_diff_id"] is None


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil"])
def test_names_that_lead_out_of_the_layer_are_not_looked_at(root: FakeRoot, offline: Offline, name: str) -> None:
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    (image.layers[0].directory.path / "evil").write_text("x")
    lines = tar_split(Tar().file("x", "x").bytes()).replace(b'"name": "x"', b'"name": "%s"' % name.encode())
    write_tar_split(image.layers[0].record, lines)
    (layer,) = verify(offline, "app:1", code=1)["layers"]
    if name.startswith("/"):
        assert ("evil", "missing") in {(item["path"], item["problem"]) for item in layer["differences"]}
    else:
        assert "outside" in layer["reasons"][0]
    assert all(item["path"] in ("x", "evil") for item in layer["differences"])


def test_sparse_members_are_unverifiable(root: FakeRoot, offline: Offline) -> None:
    tar = bytearray(Tar(tarfile.GNU_FORMAT).file("x", "x").bytes())
    image = tar_image(root, "app:1", [bytes(tar)])
    tar[156:157] = b"S"
    write_tar_split(image.layers[0].record, sparse_lines(bytes(tar)))
    (layer,) = verify(offline, "app:1", code=3)["layers"]
    assert "GNU sparse" in layer["reasons"][0]


def sparse_lines(tar: bytes) -> bytes:
    content = crc64(b"x").to_bytes(8, "big")
    return (
        line(type=2, payload=base64.b64encode(tar[:512]).decode())
        + line(type=1, name="x", size=1, payload=base64.b64encode(content).decode())
        + line(type=2, payload=base64.b64encode(tar[513:]).decode())
    )


def test_many_differences_are_counted(root: FakeRoot, offline: Offline) -> None:
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    for number in range(1005):
        (image.layers[0].directory.diff / f"extra{number}").touch()
    (layer,) = verify(offline, "app:1", code=1)["layers"]
    assert (len(layer["differences"]), layer["differences_omitted"]) == (1000, 5)


# -- which layers, and how -----------------------------------------------------------------------------------


def test_metacopy_files_have_their_content_below(root: FakeRoot, offline: Offline) -> None:
    """With `metacopy=on` a chmod in a build copies attributes up and no data; the layer's tar has all of it."""
    image = tar_image(root, "app:1", [Tar().file("x", "data").bytes(), Tar().file("x", "data", mode=0o600).bytes()])
    path = image.layers[1].directory.diff / "x"
    replaced(path, bytes(4))
    os.setxattr(path, family() + "metacopy", b"")
    verify(offline, "app:1", code=0)
    replaced(image.layers[0].directory.diff / "x", b"DATA")
    answer = verify(offline, "app:1", code=1)
    assert [layer["verdict"] for layer in answer["layers"]] == ["differs", "differs"]


def test_renamed_directories_are_unverifiable(root: FakeRoot, offline: Offline) -> None:
    """With `redirect_dir=on` a build renames a directory of a layer below by a mark; its files stay there."""
    tar = Tar().directory("new").file("new/x", "x").bytes()
    image = tar_image(root, "app:1", [tar], buildkit=True)
    (image.layers[0].directory.diff / "new/x").unlink()
    os.setxattr(image.layers[0].directory.diff / "new", family() + "redirect", b"old")
    os.utime(image.layers[0].directory.diff / "new", (1_700_000_000, 1_700_000_000))
    (layer,) = verify(offline, "app:1", code=3)["layers"]
    assert layer["verdict"] == "unverifiable"
    assert "renamed" in layer["reasons"][0]


def test_all_takes_layers_of_no_image_too(root: FakeRoot, offline: Offline) -> None:
    gone = tar_image(root, "gone:1", [Tar().file("x", "x").bytes()])
    kept = tar_image(root, "kept:1", [Tar().file("y", "y").bytes()])
    gone.config.unlink()
    del root.repositories["gone"]
    root.repositories_path.write_text(json.dumps({"Repositories": root.repositories}))
    replaced(gone.layers[0].directory.diff / "x", b"z")
    layers = {layer["chain_id"]: layer for layer in verify(offline, "--all", code=1)["layers"]}
    assert layers[gone.layers[0].chain_id]["verdict"] == "differs"
    assert layers[gone.layers[0].chain_id]["images"] == []
    assert layers[kept.layers[0].chain_id]["verdict"] == "ok"
    assert "of no image" in offline("verify", "--all").out


def test_layers_that_cannot_be_verified_say_why(root: FakeRoot, offline: Offline) -> None:
    image = tar_image(root, "app:1", [Tar().file(name, "x").bytes() for name in "abc"])
    (image.layers[0].record / "tar-split.json.gz").unlink()
    (image.layers[1].record / "cache-id").write_text("../../etc")
    answer = verify(offline, "app:1", code=3)
    assert [layer["verdict"] for layer in answer["layers"]] == ["unverifiable", "unverifiable", "ok"]
    assert "there is no" in answer["layers"][0]["reasons"][0]
    assert "cache-id" in answer["layers"][1]["reasons"][0]


def test_a_missing_directory_differs(root: FakeRoot, offline: Offline) -> None:
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    diff = image.layers[0].directory.diff
    diff.rename(diff.with_name("moved"))
    (layer,) = verify(offline, "app:1", code=1)["layers"]
    assert "is missing" in layer["reasons"][0]


def test_without_content_a_tampered_file_is_not_called_ok(root: FakeRoot, offline: Offline) -> None:
    image = tar_image(root, "app:1", [full()])
    replaced(image.layers[0].directory.diff / "etc/secret", b"87654321")
    (layer,) = verify(offline, "app:1", "--extra-only", code=0)["layers"]
    assert (layer["verdict"], layer["found_diff_id"]) == ("content-not-read", None)
    (image.layers[0].directory.diff / "extra").touch()
    assert ("extra", "extra") in problems(verify(offline, "app:1", "--extra-only", code=1))


def test_containers_stand_for_their_images(root: FakeRoot, offline: Offline) -> None:
    image = tar_image(root, "app:1", [Tar().file("x", "x").bytes()])
    root.container("web", image, upper={"x": "y"})
    answer = verify(offline, "web", code=0)
    assert [layer["verdict"] for layer in answer["layers"]] == ["ok"]
    assert [warning["code"] for warning in answer["warnings"]] == ["own-layers-not-verified"]


def test_workers_find_the_same(root: FakeRoot, offline: Offline) -> None:
    image = tar_image(root, "app:1", [Tar().file(f"x{n}", "x" * n).bytes() for n in range(12)])
    replaced(image.layers[7].directory.diff / "x7", b"1234567")
    one = verify(offline, "app:1", "--jobs", "1", code=1)
    assert verify(offline, "app:1", "--jobs", "3", code=1) == one
    assert problems(one) == {("x7", "content")}


@pytest.mark.parametrize("arguments", [(), ("--all", "app:1")])
def test_targets_or_all(root: FakeRoot, offline: Offline, arguments: tuple[str, ...]) -> None:
    tar_image(root, "app:1", [])
    assert offline.fails("verify", *arguments, code=2)
