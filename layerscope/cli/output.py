"""Where answers go: standard output or a file; and what a terminal is told meanwhile."""

from __future__ import annotations

import contextlib
import os
import stat as st
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from layerscope.errors import OutputError

FIRST_AFTER_SECONDS: Final = 1.0
EVERY_SECONDS: Final = 0.1


@contextmanager
def open_output(path: str | None) -> Iterator[IO[bytes]]:
    """The stream that the answer goes to.

    A regular file is written whole or not at all: to a temporary file beside it that then takes its name. Anything
    else that exists, a pipe or ``/dev/null``, is written to and never replaced. Raises OutputError.
    """
    try:
        if path is None or path == "-":
            sys.stdout.flush()
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif _is_special(path):
            with open(path, "wb") as stream:
                yield stream
        else:
            with _replacing(os.path.realpath(path)) as stream:
                yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        if path is None or path == "-":
            abandon_stdout()
            raise OutputError(
                f"can't write to standard output: {error.strerror}", "make room, or name a file: --output FILE"
            ) from error
        raise OutputError(
            f"can't write to {path}: {error.strerror}", "name a file in a directory that you may write to"
        ) from error


def _is_special(path: str) -> bool:
    """Whether something else than a regular file is there. Not asked of its real path: /dev/fd/1 has none."""
    try:
        return not st.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def abandon_stdout() -> None:
    """Let what is still to be written to standard output go nowhere, so that no flush at exit fails again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_closed_streams() -> None:
    """Put /dev/null in the place of standard streams that are closed: else the next file opened would be there."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


@contextmanager
def _replacing(path: str) -> Iterator[IO[bytes]]:
    directory, name = os.path.split(path)
    fd, temporary = tempfile.mkstemp(prefix=f".{name[:100]}.", dir=directory)
    try:
        with open(fd, "wb") as stream:
            yield stream
        os.chmod(temporary, _mode_of_new_file(path))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _mode_of_new_file(path: str) -> int:
    """The mode of the file that is replaced, or what open(2) would give a new one."""
    try:
        return st.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


class Progress:
    """A counter on a terminal's standard error, for work that takes longer than a second."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled and sys.stderr.isatty()
        self.count = 0
        self.started = self.shown_at = time.monotonic()
        self.shown = False

    def __call__(self, paths: int) -> None:
        """Note that some paths were seen."""
        self.count += paths
        if not self.enabled:
            return
        now = time.monotonic()
        if now - self.started >= FIRST_AFTER_SECONDS and now - self.shown_at >= EVERY_SECONDS:
            self.shown_at = now
            self.shown = True
            sys.stderr.write(f"\r{self.count:,} paths read …")
            sys.stderr.flush()

    def clear(self) -> None:
        """Remove the counter from the screen."""
        if self.shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self.shown = False
