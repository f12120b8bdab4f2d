"""Ctrl-C and closed pipes end a run at once, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.cli_behaviour.terminal import INTERRUPT, on_terminal, slowly
from tests.stores.offline import InProcess

AT_ONCE_SECONDS = 2.0
FOREVER = "60"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_interrupt_ends_a_walk_at_once(shop_process: Cli, tmp_path: Path, jobs: str) -> None:
    old = tmp_path / "answer"
    old.write_text("old")
    command = ("image", "shop/web:1", "--jobs", jobs, "-o", "answer")
    with on_terminal(shop_process, command, program=slowly(0.1, 0.0)) as running:
        running.wait_for(b"paths read")
        workers = running.wait_for_children(2) if jobs == "2" else set()
        pressed = time.monotonic()
        running.press(INTERRUPT)
        assert running.finish() == 130
    assert time.monotonic() - pressed < AT_ONCE_SECONDS
    assert b"Traceback" not in running.shown and b"error" not in running.shown
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    assert [path.name for path in tmp_path.iterdir()] == ["answer"] and old.read_text() == "old"


def test_interrupt_in_the_middle_of_an_answer_leaves_no_half_file(shop_process: Cli, tmp_path: Path) -> None:
    command = ("files", "shop/web:1", "--format", "jsonl", "-o", "answer")
    with on_terminal(shop_process, command, program=slowly(0.05, 0.0)) as running:
        running.wait_for(b"paths read")
        running.press(INTERRUPT)
        assert running.finish() == 130
    assert list(tmp_path.iterdir()) == []
    assert b"Traceback" not in running.shown


@pytest.mark.parametrize("module", ["typer", "layerscope.analysis.inventory"])
def test_interrupt_while_layerscope_still_starts(shop_process: Cli, module: str) -> None:
    """Much of a short run is imports: a key pressed meanwhile is no accident to tell of, either."""
    script = f"""
import builtins, sys
real = builtins.__import__
def slow_import(name, *rest, **named):
    if name == {module!r} and name not in sys.modules:
        print("importing", flush=True)
        import time; time.sleep({FOREVER})
    return real(name, *rest, **named)
builtins.__import__ = slow_import
from layerscope.__main__ import main
main()
"""
    with on_terminal(shop_process, ("ls",), program=("-c", script)) as running:
        running.wait_for(b"importing")
        running.press(INTERRUPT)
        assert running.finish() == 130
    assert b"Traceback" not in running.shown


def test_a_killed_run_leaves_no_worker(shop_process: Cli) -> None:
    command = ("image", "shop/web:1", "--jobs", "2")
    with on_terminal(shop_process, command, program=slowly(0.1)) as running:
        workers = running.wait_for_children(2)
        running.process.kill()
        running.process.wait()
    deadline = time.monotonic() + AT_ONCE_SECONDS
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    """Whether a process still runs; a dead one may wait for an init that never asks for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


PIPED = (
    ("ls",),
    ("files", "shop/web:1", "--format", "jsonl"),
    ("ls", "-o", "/dev/stdout"),
    ("--help",),
    ("image", "--help"),
)


@pytest.mark.parametrize("command", PIPED, ids=" ".join)
def test_a_pipe_that_nobody_reads_ends_the_run_quietly(shop_process: Cli, command: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = _run(shop_process, command, write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_head_gets_its_line(shop_process: Cli) -> None:
    """In the middle of an answer, too: `| head -1` takes a line and goes."""
    with subprocess.Popen(["head", "-1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as head:
        assert head.stdin is not None and head.stdout is not None
        command = ("files", "shop/web:1", "--format", "jsonl")
        done = _run(shop_process, command, head.stdin.fileno(), program=slowly(0.05))
        head.stdin.close()
        assert head.stdout.read().startswith(b'{"path": "bin"')
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("ls",), "standard output"),
        (("cat", "shop/web:1", "usr/lib/libc.so"), "standard output"),
        (("cat", "shop/web:1", "usr/lib/libc.so", "-o", "/dev/full"), "/dev/full"),
    ],
)
def test_a_full_disk_is_named(shop_process: Cli, command: tuple[str, ...], named: str) -> None:
    with open("/dev/full", "wb") as full:
        done = _run(shop_process, command, full.fileno())
    assert done.returncode == 3
    lines = done.stderr.decode().splitlines()
    assert lines[0] == f"error: can't write to {named}: No space left on device"
    assert len(lines) == 2 and lines[1].startswith("hint: ")


def test_help_on_a_full_disk_is_no_traceback(shop_process: Cli) -> None:
    with open("/dev/full", "wb") as full:
        done = _run(shop_process, ("--help",), full.fileno())
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr and b"No space left on device" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_accident(
    shop_process: Cli, shop: InProcess, closed: str, tmp_path: Path
) -> None:
    shell = f'"{sys.executable}" -m layerscope ls -o kept --verbose {closed}'
    done = subprocess.run(
        ["bash", "-c", shell],
        capture_output=True,
        cwd=tmp_path,
        env={**shop_process.clean_environment(), **shop_process.environment},
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "kept").read_text() == shop.ok("ls").out


def _run(
    cli: Cli, command: tuple[str, ...], stdout: int, program: tuple[str, ...] = ("-m", "layerscope")
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *program, *command],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=cli.directory,
        env={**cli.clean_environment(), **cli.environment},
        timeout=60,
    )
