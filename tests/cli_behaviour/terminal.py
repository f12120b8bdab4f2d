"""A terminal to run layerscope on: a pty whose keys reach the foreground processes, as a user's do."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.cli import Cli

SLOW = """
import sys, time
from layerscope.analysis import summary
from layerscope.cli import output
pause, output.FIRST_AFTER_SECONDS = float(sys.argv.pop(1)), float(sys.argv.pop(1))
summary.ALONE_UP_TO = summary.SHARE = 1  # hand out work, and tell of it, directory by directory
def slow_disk(event, arguments):
    if event == "os.scandir" and isinstance(arguments[0], int):
        time.sleep(pause)
sys.addaudithook(slow_disk)
from layerscope.__main__ import main
main()
"""
"""Runs layerscope with a pause at every directory of a layer, and another wait until progress is shown."""

INTERRUPT = b"\x03"
PATIENCE_SECONDS = 20


@dataclass
class Running:
    """layerscope in the foreground of a terminal."""

    process: subprocess.Popen[bytes]
    master: int
    shown: bytes = b""
    """What the terminal has shown so far."""

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def children(self) -> set[int]:
        with suppress(FileNotFoundError):
            path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            return {int(pid) for pid in path.read_text().split()}
        return set()

    def wait_for_children(self, count: int) -> set[int]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(found := self.children()) < count:
            assert time.monotonic() < deadline and self.process.poll() is None, self.shown
            time.sleep(0.01)
        return found

    def wait_for(self, text: bytes) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.shown:
            assert time.monotonic() < deadline and self.process.poll() is None, self.shown
            self._read(0.05)

    def finish(self) -> int:
        """Wait for the end; gives the exit code."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self._read(0.02)
        self._read(0)
        return self.process.returncode

    def _read(self, seconds: float) -> None:
        with suppress(OSError):  # EIO: nobody has the terminal open any more
            while select.select([self.master], [], [], seconds)[0]:
                self.shown += os.read(self.master, 65536)


def _own_terminal() -> None:
    """In the child: its keys are for this session, and Ctrl-C is heard though the tests may run with `&`."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def on_terminal(
    cli: Cli,
    command: Sequence[str],
    *,
    stdout: int | None = None,
    stderr: int | None = None,
    program: Sequence[str] = ("-m", "layerscope"),
) -> Iterator[Running]:
    """Start Python on a terminal of its own; standard output and standard error go elsewhere where asked."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *program, *command],
        stdin=slave,
        stdout=slave if stdout is None else stdout,
        stderr=slave if stderr is None else stderr,
        cwd=cli.directory,
        env={**cli.clean_environment(), **cli.environment},
        start_new_session=True,
        preexec_fn=_own_terminal,  # noqa: PLW1509
    )
    os.close(slave)
    try:
        yield Running(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def slowly(pause: float, first: float = 1.0) -> tuple[str, ...]:
    """The program that pauses at every directory of a layer; see ``SLOW``."""
    return ("-c", SLOW, str(pause), str(first))
