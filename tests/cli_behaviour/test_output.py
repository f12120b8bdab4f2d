"""`-o FILE`: a regular file is written whole or not at all, anything else is written to and never replaced."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.dataroot import FakeRoot
from tests.stores.offline import InProcess, failure_of, unprivileged

LS = ("ls", "--json")


@pytest.mark.parametrize(
    "command", [LS, ("files", "shop/web:1"), ("cat", "shop/web:1", "etc/passwd"), ("schema",)], ids=" ".join
)
def test_file_holds_what_standard_output_would(shop: InProcess, tmp_path: Path, command: tuple[str, ...]) -> None:
    result = shop(*command, "--output", "answer")
    assert (result.code, result.out, result.err) == (0, "", "")
    assert (tmp_path / "answer").read_text() == shop.ok(*command).out


def test_dash_is_standard_output(shop: InProcess, tmp_path: Path) -> None:
    assert shop.ok(*LS, "-o", "-").out == shop.ok(*LS).out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_new_file_gets_the_mode_of_a_new_file(shop: InProcess, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        shop.ok("ls", "-o", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_replaced_file_keeps_its_mode(shop: InProcess, tmp_path: Path, mode: int) -> None:
    old = tmp_path / "old"
    old.write_text("old")
    old.chmod(mode)
    shop.ok("ls", "-o", "old")
    assert stat.S_IMODE(old.stat().st_mode) == mode
    assert old.read_text() == shop.ok("ls").out


def test_who_reads_the_old_file_keeps_it_whole(shop: InProcess, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("old")
    with old.open() as reader:
        shop.ok("ls", "-o", "old")
        assert reader.read() == "old", "it was replaced, not written over"


def test_symlink_stays_and_its_target_is_replaced(shop: InProcess, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/real").write_text("old")
    (tmp_path / "link").symlink_to("elsewhere/real")
    (tmp_path / "dangling").symlink_to("elsewhere/new")
    for name, target in (("link", "real"), ("dangling", "new")):
        shop.ok("ls", "-o", name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "elsewhere" / target).read_text() == shop.ok("ls").out
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "link", "dangling"}


@pytest.mark.parametrize(
    "command",
    [("image", "shop/web:1", "--layer", "99"), ("cat", "shop/web:1", "srv/shop/.env"), ("image", "nothing")],
    ids=" ".join,
)
def test_an_error_leaves_the_old_file(shop: InProcess, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "old").write_text("old")
    failure_of(shop(*command, "-o", "old"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_an_error_in_the_middle_of_an_answer_leaves_the_old_file(
    shop: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerscope.overlay import walk

    real = walk.Walker.listing

    def broken(self: walk.Walker, frame: walk.Frame) -> walk.Listing:
        if frame.path == "srv":
            raise RuntimeError("in the middle")
        return real(self, frame)

    monkeypatch.setattr(walk.Walker, "listing", broken)
    (tmp_path / "old").write_text("old")
    result = shop("files", "shop/web:1", "-o", "old")
    assert result.code == 3 and "in the middle" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_content_that_cannot_be_read_is_no_fault_of_the_output(
    shop: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_content: object) -> object:
        yield b"first"
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("layerscope.overlay.content.read_chunks", broken)
    (tmp_path / "old").write_text("old")
    for output in ((), ("-o", "old")):
        result = shop("cat", "shop/web:1", "etc/passwd", *output)
        assert result.code == 3
        assert result.err.startswith("error: 'etc/passwd' can't be read: Input/output error\nhint: ")
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"


def test_null_device_is_written_to(shop: InProcess) -> None:
    before = os.stat("/dev/null")
    assert shop.ok("ls", "-o", "/dev/null").out == ""
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode) and (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


@pytest.mark.parametrize("name", ["pipe", "link-to-pipe"])
def test_fifo_is_written_to(shop: InProcess, tmp_path: Path, name: str) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    (tmp_path / "link-to-pipe").symlink_to("pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    shop.ok("ls", "-o", name)
    reader.join(20)
    assert read == [shop.ok("ls").out]
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link-to-pipe"}


def test_descriptor_of_the_caller_is_written_to(shop: InProcess) -> None:
    """`-o >(command)` of a shell: the link in /dev/fd leads to no path."""
    read, write = os.pipe()
    shop.ok("ls", "-o", f"/dev/fd/{write}")
    os.close(write)
    with open(read) as pipe:
        assert pipe.read() == shop.ok("ls").out


@pytest.mark.parametrize("where", ["nothing/file", "file/below", "", ".", "loop", "/proc/nothing", "n" * 300])
def test_what_cannot_be_written_is_named(shop: InProcess, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "loop").symlink_to("loop")
    failure = failure_of(shop("ls", "-o", where))
    assert f"can't write to {where}" in failure.message and "directory" in failure.hint
    assert {path.name for path in tmp_path.iterdir()} == {"file", "loop"}


def test_directory_that_may_not_be_written_to(cli: Cli, tmp_path: Path) -> None:
    root = FakeRoot(tmp_path / "root")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    failure = failure_of(unprivileged(["ls", "--data-root", str(root.path), "-o", f"{closed}/file"]))
    assert "Permission denied" in failure.message
