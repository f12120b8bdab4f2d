"""What goes wrong is a line that names the thing and one that says what to do, and an exit code of the README."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli import Cli, Result
from tests.dataroot import OPAQUE, FakeRoot
from tests.stores.offline import InProcess, failure_of, unprivileged

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="takes root to become nobody")

USAGE = (
    ("imag", "x"),
    ("imgae", "x"),
    ("image",),
    ("image", "shop/web:1", "another"),
    ("image", "shop/web:1", "--fils"),
    ("image", "shop/web:1", "--layers"),
    ("image", "shop/web:1", "--layer"),
    ("image", "shop/web:1", "--layer", "top"),
    ("image", "shop/web:1", "--layer", "-1"),
    ("image", "shop/web:1", "--jobs", "0"),
    ("image", "shop/web:1", "--format", "xml"),
    ("image", "shop/web:1", "--format", "jsonl"),
    ("image", "shop/web:1", "--json", "--format", "table"),
    ("image", "shop/web:1", "--data-root", "a", "--host", "b"),
    ("image", "shop/web:1", "--color", "sometimes"),
    ("image", "shop/web:1", "--overlay-options", "metacopy=maybe"),
    ("image", "shop/web:1", "--overlay-options", "volatile"),
    ("ls", "--format", "jsonl"),
    ("ls", "-x"),
    ("container",),
    ("overlay",),
    ("overlay", "/mnt", "--lowerdir", "a"),
    ("overlay", "/mnt", "--upperdir", "a"),
    ("overlay", "--upperdir", "a"),
    ("diff", "shop/web:1"),
    ("trace", "shop/web:1"),
    ("trace", "shop/web:1", "etc", "--format", "jsonl"),
    ("cat", "shop/web:1", "etc/passwd", "--json"),
    ("extract", "shop/web:1", "etc"),
    ("schema", "nothing"),
    ("--data-root", "x", "ls"),
    ("--nothing",),
    ("-x",),
)

FAILED = (
    ("image", "shop/wab:1"),
    ("image", "shop-web-1"),
    ("image", ""),
    ("image", "a b"),
    ("image", "sha256:" + "0" * 64),
    ("image", "shop/web:1", "--layer", "7"),
    ("image", "shop/web:1", "--layer", "99999999999999999999"),
    ("container", "shop/web:1"),
    ("container", "shop-web-2"),
    ("container", "shop-web-1", "--layer", "9"),
    ("overlay", "/proc"),
    ("overlay", "/nonexistent"),
    ("overlay", "--lowerdir", "nothing"),
    ("overlay", "--lowerdir", "a::b:c"),
    ("diff", "shop/web:1", "shop/nothing"),
    ("diff", "shop/web:1@7", "shop/web:1"),
    ("files", "nothing"),
    ("files", "lowerdir="),
    ("trace", "shop/web:1", "etc/passwords"),
    ("trace", "shop/web:1", "/"),
    ("trace", "shop/web:1", ""),
    ("trace", "shop/web:1", "../etc/passwd"),
    ("trace", "shop/web:1", "etc/passwd/below"),
    ("trace", "shop/web:1", "\udcff\x1b[31m"),
    ("trace", "shop/web:1", "n" * 5000),
    ("cat", "shop/web:1", "etc"),
    ("cat", "shop/web:1", "srv/shop/.env"),
    ("cat", "shop/web:1", "srv/shop/.env", "--layer", "5"),
    ("cat", "shop/web:1", "srv/shop/.env", "--layer", "70"),
    ("extract", "shop/web:1", "nothing", "--to", "out"),
    ("extract", "shop/web:1", "srv/shop/.env", "--to", "out"),
    ("extract", "shop/web:1", "etc", "--to", "out", "--layer", "3"),
    ("ls", "--data-root", "/nonexistent"),
    ("ls", "--data-root", "/dev/null"),
    ("ls", "--data-root", "/"),
    ("ls", "-o", "/nonexistent/file"),
    ("ls", "x"),
    ("ls", "/etc/passwd"),
    ("image", "./x.tar"),
    ("image", "/etc/passwd"),
    ("ls", "--host", "nonsense://"),
)


@pytest.mark.parametrize("command", USAGE, ids=" ".join)
def test_usage_errors(command: tuple[str, ...], shop: InProcess) -> None:
    failure_of(shop(*command), code=2)


@pytest.mark.parametrize("command", FAILED, ids=lambda command: " ".join(command)[:60].encode("ascii", "replace"))
def test_failures(command: tuple[str, ...], shop: InProcess, tmp_path: Path) -> None:
    failure = failure_of(shop(*command), code=3)
    assert (failure.message + failure.hint).isprintable() and not failure.warnings
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        (("imag", "x"), "image"),
        (("containr", "x"), "container"),
        (("image", "shop/web:1", "--fils"), "--files"),
        (("image", "shop/web:1", "--hiden"), "--hidden"),
        (("image", "shop/wab:1"), "shop/web:1"),
        (("image", "shop/web"), "shop/web:1"),
        (("container", "shop-web"), "shop-web-1"),
        (("schema", "nothing"), "image"),
        (("image", "shop/web:1", "--format", "xml"), "json"),
        (("image", "shop/web:1", "--format", "jsonl"), "table, json"),
        (("cat", "shop/web:1", "srv/shop/.env"), "--layer 4"),
        (("cat", "shop/web:1", "srv/shop/.env", "--layer", "5"), "4"),
        (("image", "shop/web:1", "--layer", "7"), "0 to 6"),
        (("cat", "shop/web:1", "etc"), "extract"),
    ],
)
def test_what_was_meant_is_named(command: tuple[str, ...], meant: str, shop: InProcess) -> None:
    assert meant in shop(*command).err


def test_without_a_command_the_help_is_shown_as_an_error(shop: InProcess) -> None:
    result = shop()
    assert (result.code, result.out) == (2, "")
    assert "Usage: layerscope" in result.err and "image" in result.err


@pytest.mark.parametrize("command", [("image", "shop/wab:1"), ("ls", "--json", "--format", "table")])
def test_debug_shows_where_an_error_comes_from(command: tuple[str, ...], shop: InProcess) -> None:
    plain, debugged = shop(*command), shop(*command, "--debug")
    assert "Traceback" not in plain.err
    assert debugged.err.startswith("Traceback (most recent call last)") and debugged.err.endswith(plain.err)
    assert (debugged.code, debugged.out) == (plain.code, "")


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_a_bug_is_said_to_be_one_and_is_no_failed_gate(
    debug: tuple[str, ...], shop: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object, **_named: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("layerscope.analysis.inventory.take_inventory", broken)
    result = shop("ls", *debug)
    assert (result.code, result.out) == (3, "")
    lines = result.err.splitlines()
    assert lines[-2] == r"error: layerscope failed: ZeroDivisionError: two\x0alines"
    assert lines[-1] == "hint: this is a bug; run it again with --debug and report what it prints"
    assert ("Traceback" in result.err) == bool(debug)


def test_quiet_hides_warnings_and_never_the_error(shop: InProcess, tmp_path: Path) -> None:
    root = FakeRoot(tmp_path / "root")
    root.image("app:1", [root.layer({"a": "b"})])
    (root.image_path / "imagedb/content/sha256" / ("0" * 64)).write_text("{")
    loud = shop("image", "nothing", "--data-root", str(root.path))
    quiet = shop("image", "nothing", "--data-root", str(root.path), "--quiet")
    assert failure_of(loud).warnings and not failure_of(quiet).warnings
    assert shop("ls", "-q", "--data-root", str(root.path)).err == ""


def test_many_warnings_of_one_kind_are_counted(shop: InProcess, tmp_path: Path) -> None:
    root = FakeRoot(tmp_path / "root")
    for number in range(14):
        (root.image_path / "imagedb/content/sha256" / f"{number:064x}").write_text("{")
    result = shop.ok("ls", "--data-root", str(root.path))
    lines = result.err.splitlines()
    assert len(lines) == 11 and all(line.startswith("warning: ") for line in lines)
    assert lines[-1].startswith("warning: 4 more warnings of the kind ")
    assert len(shop.ok("ls", "--json", "--data-root", str(root.path)).json["warnings"]) == 14


# -- what an ordinary user meets -------------------------------------------------------------------------------


@contextmanager
def _listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0o600)
        yield


def test_no_engine_answers(tmp_path: Path) -> None:
    """In a process of its own: the client of a failed connection leaves its socket to the end of it."""
    host = "tcp://127.0.0.1:1"
    failure = failure_of(Cli(tmp_path)("ls", "--host", host))
    assert host in failure.message and "--data-root" in failure.hint


@as_root
def test_socket_that_may_not_be_used(public: Path, tmp_path: Path) -> None:
    path = public / "engine.sock"  # where nobody gets at it, but for its own mode
    with _listening(path):
        failure = failure_of(Cli(tmp_path).as_nobody("ls", "--host", f"unix://{path}"))
    assert str(path) in failure.message and "ermission" in failure.message
    assert "sudo" in failure.hint and "docker" in failure.hint


@as_root
def test_data_root_that_may_not_be_read(tmp_path: Path) -> None:
    root = FakeRoot(tmp_path / "root")
    root.image("app:1", [root.layer({"a": "b"})])
    root.path.chmod(0o700)
    failure = failure_of(Cli(tmp_path).as_nobody("ls", "--data-root", str(root.path)))
    assert str(root.path) in failure.message and "sudo" in failure.hint


@as_root
def test_data_root_of_root_read_by_nobody_says_what_it_cannot_know(public: Path, tmp_path: Path) -> None:
    """All can be read but the trusted xattrs, which are for root alone."""
    root = FakeRoot(public / "root")
    root.image("app:1", [root.layer({"dir/old": "x"}), root.layer({"dir": OPAQUE})])
    result = Cli(tmp_path).as_nobody("image", "app:1", "--data-root", str(root.path))
    assert result.code == 0, result.snapshot()
    assert result.err.startswith("warning: ") and "trusted.overlay" in result.err


def test_layer_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    root = FakeRoot(tmp_path / "root")
    image = root.image("app:1", [root.layer({"open/file": "x", "closed/file": "x"})])
    closed = image.layers[0].directory.diff / "closed"
    closed.chmod(0)
    result: Result = unprivileged(["image", "app:1", "--data-root", str(root.path)])
    closed.chmod(0o755)
    assert result.code == 0 and "Incomplete" in result.out
    assert f"warning: {closed}: " in result.err
