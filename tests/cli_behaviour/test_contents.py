"""`cat` and `extract`: any version of any file, exact; never beyond the image or the directory that is named."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.cli_behaviour.terminal import on_terminal
from tests.dataroot import DIRECTORY, WHITEOUT, FakeRoot, Symlink
from tests.stores.offline import InProcess, Offline, failure_of

BINARY = bytes(range(256)) * 2000
"""Longer than what is read at once."""
OUTSIDE = "the analyst's own file"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of this machine that an image's links point to."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text(OUTSIDE)
    return tmp_path / "outside"


@pytest.fixture
def offline(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> Offline:
    """An image of three layers with every kind of file and link, `app:1`."""
    monkeypatch.chdir(tmp_path)
    root = FakeRoot(tmp_path / "root")
    links = {
        "links/relative": "../data/binary",
        "links/absolute": "/data/binary",
        "links/to-link": "absolute",
        "links/up": "../../../../../../data/binary",
        "links/host": f"{outside}/file",
        "links/passwd": "/etc/passwd",
        "links/loop": "loop",
        "links/nowhere": "nothing",
        "links/directory": "/data",
        "links/self": "/proc/self/environ",
    }
    base = {
        "data/binary": BINARY,
        "data/versions": "first\n",
        "data/empty": "",
        "gone/file": "deleted with its directory\n",
        "plain": DIRECTORY,
        **{path: Symlink(target) for path, target in links.items()},
    }
    layers = [
        root.layer(base),
        root.layer({"data/versions": "second\n", "gone": WHITEOUT}),
        root.layer({"data/versions": WHITEOUT}),
    ]
    image = root.image("app:1", layers)
    diff = image.layers[0].directory.diff
    os.mkfifo(diff / "data/fifo")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(diff / "data")  # a socket's path is short
        server.bind("socket")
        monkeypatch.chdir(tmp_path)
    if os.geteuid() == 0:
        os.mknod(diff / "data/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(diff / "data/disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    (diff / "data/versions").chmod(0o4750)
    os.utime(diff / "data/versions", ns=(1, 1_600_000_000_123_456_789))
    return Offline(InProcess(tmp_path), root.path)


# -- cat -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["data/binary", "/data/binary", "data//./binary"])
def test_cat_is_exact(offline: Offline, tmp_path: Path, path: str) -> None:
    assert offline("cat", "app:1", path, "-o", "copy").code == 0
    assert (tmp_path / "copy").read_bytes() == BINARY


def test_cat_to_standard_output_is_exact(offline: Offline, tmp_path: Path) -> None:
    result = Cli(tmp_path)("cat", "app:1", "data/binary", "--data-root", str(offline.path))
    assert (result.code, os.fsencode(result.out)) == (0, BINARY)


def test_cat_of_an_empty_file_is_empty(offline: Offline) -> None:
    result = offline("cat", "app:1", "data/empty")
    assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize("name", ["relative", "absolute", "to-link", "up", "directory/binary"])
def test_cat_follows_links_inside_the_image(offline: Offline, tmp_path: Path, name: str) -> None:
    """As in a container: `/` is the image's root, and `..` of it the root again."""
    assert offline("cat", "app:1", f"links/{name}", "-o", "copy").code == 0
    assert (tmp_path / "copy").read_bytes() == BINARY


@pytest.mark.parametrize("name", ["host", "passwd", "self", "loop", "nowhere", "directory"])
def test_cat_follows_no_link_out_of_the_image(offline: Offline, name: str) -> None:
    failure = offline.fails("cat", "app:1", f"links/{name}")
    assert OUTSIDE not in failure.message


def test_cat_reads_hidden_versions(offline: Offline) -> None:
    assert offline("cat", "app:1", "data/versions", "--layer", "0").out == "first\n"
    assert offline("cat", "app:1", "data/versions", "--layer", "1").out == "second\n"
    assert offline("cat", "app:1", "gone/file", "--layer", "0").out == "deleted with its directory\n"


def test_cat_says_where_a_hidden_file_still_is(offline: Offline) -> None:
    failure = offline.fails("cat", "app:1", "data/versions")
    assert "layer 2" in failure.message and "--layer 1" in failure.hint
    failure = offline.fails("cat", "app:1", "gone/file")
    assert "layer 1" in failure.message and "--layer 0" in failure.hint
    assert "0, 1" in offline.fails("cat", "app:1", "data/versions", "--layer", "2").hint.replace("1, 0", "0, 1")


@pytest.mark.parametrize("name", ["fifo", "socket", "null", "disk"])
@pytest.mark.parametrize("layer", [(), ("--layer", "0")])
def test_cat_opens_only_files(offline: Offline, name: str, layer: tuple[str, ...]) -> None:
    """Opening a FIFO would wait for ever, opening a device do who knows what."""
    if name in ("null", "disk") and os.geteuid() != 0:
        pytest.skip("takes root to make a device")
    assert "not a file" in offline.fails("cat", "app:1", f"data/{name}", *layer).message


def test_cat_escapes_on_a_terminal_only(tmp_path: Path) -> None:
    """Also a character that begins in one piece of what is read and ends in the next."""
    root = FakeRoot(tmp_path / "root")
    text = "\x1b[2J\tbüro\n" + "x" * (262143 - 11) + "é日\u202e"
    root.image("app:1", [root.layer({"file": text.encode() + b"\xff\n"})])
    cli = Cli(tmp_path, {"LAYERSCOPE_DATA_ROOT": str(root.path)})
    with on_terminal(cli, ("cat", "app:1", "file")) as running:
        assert running.finish() == 0
    shown = running.shown.decode().replace("\r\n", "\n")
    assert shown == text.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e") + "\\xff\n"


# -- extract ---------------------------------------------------------------------------------------------------


def test_extract_writes_below_the_directory_that_is_named(offline: Offline, tmp_path: Path) -> None:
    result = offline("extract", "app:1", "data/binary", "--to", "new/deep")
    assert result.code == 0 and "below new/deep" in result.out
    assert (tmp_path / "new/deep/binary").read_bytes() == BINARY


def test_extract_keeps_modes_and_times(offline: Offline, tmp_path: Path) -> None:
    offline("extract", "app:1", "data/versions", "--layer", "0", "--to", "out")
    status = (tmp_path / "out/versions").stat()
    assert stat.S_IMODE(status.st_mode) == 0o750, "without the set-user-id bit"
    assert status.st_mtime_ns == 1_600_000_000_123_456_789
    offline("extract", "app:1", "data/versions", "--layer", "0", "--to", "own", "--owners")
    assert stat.S_IMODE((tmp_path / "own/versions").stat().st_mode) == 0o4750


def test_extract_leaves_out_special_files_and_says_so(offline: Offline, tmp_path: Path) -> None:
    result = offline("extract", "app:1", "data", "--to", "out")
    assert result.code == 0
    special = {"fifo", "socket"} | ({"null", "disk"} if os.geteuid() == 0 else set())
    assert {path.name for path in (tmp_path / "out/data").iterdir()} == {"binary", "empty"}
    assert {line.split(": ")[1] for line in result.err.splitlines()} == {f"data/{name}" for name in special}
    assert f"left out {len(special)}" in result.out


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root to make a device")
def test_extract_makes_devices_when_asked(offline: Offline, tmp_path: Path) -> None:
    assert offline("extract", "app:1", "data", "--to", "out", "--devices").err == ""
    assert stat.S_ISFIFO((tmp_path / "out/data/fifo").lstat().st_mode)
    null = (tmp_path / "out/data/null").lstat()
    assert stat.S_ISCHR(null.st_mode) and null.st_rdev == os.makedev(1, 3)


def test_extract_writes_links_as_links(offline: Offline, tmp_path: Path, outside: Path) -> None:
    offline("extract", "app:1", "links", "--to", "out")
    assert os.readlink(tmp_path / "out/links/host") == f"{outside}/file"
    assert os.readlink(tmp_path / "out/links/loop") == "loop"


@pytest.mark.parametrize("there", ["file", "directory", "link to a file", "link to a directory", "dangling link"])
def test_extract_replaces_nothing(offline: Offline, tmp_path: Path, outside: Path, there: str) -> None:
    (tmp_path / "out").mkdir()
    place = tmp_path / "out/data"
    match there:
        case "file":
            place.write_text("mine")
        case "directory":
            place.mkdir()
        case "link to a file":
            place.symlink_to(outside / "file")
        case "link to a directory":
            place.symlink_to(outside)
        case "dangling link":
            place.symlink_to(outside / "new")
    failure = offline.fails("extract", "app:1", "data", "--to", "out")
    assert "exists" in failure.message and "out" in failure.message
    assert [path.name for path in outside.iterdir()] == ["file"] and (outside / "file").read_text() == OUTSIDE
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]
    assert place.is_symlink() or place.is_dir() or place.read_text() == "mine"


def test_destination_may_be_a_link_of_the_user(offline: Offline, tmp_path: Path) -> None:
    """The directory is the user's own word; only what is below it comes from the image."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert offline("extract", "app:1", "data/binary", "--to", "link").code == 0
    assert (tmp_path / "real/binary").read_bytes() == BINARY


@pytest.mark.parametrize("destination", ["file", "file/below", "", "dangling"])
def test_destination_that_is_no_directory(offline: Offline, tmp_path: Path, destination: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nothing")
    assert "directory" in offline.fails("extract", "app:1", "data", "--to", destination).hint
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "nothing").exists()


def test_extract_of_what_is_hidden_needs_its_layer(offline: Offline, tmp_path: Path) -> None:
    assert "--layer 0" in offline.fails("extract", "app:1", "gone/file", "--to", "out").hint
    assert not (tmp_path / "out").exists(), "nothing was made for a run that could not succeed"
    assert offline("extract", "app:1", "gone", "--layer", "0", "--to", "out").code == 0
    assert (tmp_path / "out/gone/file").read_text() == "deleted with its directory\n"


def test_output_file_holds_the_report_and_not_the_content(offline: Offline, tmp_path: Path) -> None:
    result = offline("extract", "app:1", "data/binary", "--to", "out", "--json", "-o", "report.json")
    assert (result.code, result.out) == (0, "")
    assert '"size_bytes": 512000' in (tmp_path / "report.json").read_text()


def test_failed_extract_names_the_place(offline: Offline, tmp_path: Path) -> None:
    failure = failure_of(offline("extract", "app:1", "data", "--to", "/proc/nothing"))
    assert "/proc/nothing" in failure.message
