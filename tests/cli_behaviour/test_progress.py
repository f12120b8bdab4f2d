"""Long work shows that it goes on, on a terminal's standard error and nowhere else."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from layerscope.cli import output
from layerscope.cli.options import Common
from layerscope.cli.output import Progress
from layerscope.cli.session import Session
from tests.cli import Cli
from tests.cli_behaviour.terminal import on_terminal, slowly
from tests.stores.offline import InProcess


class Screen(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(output, "time", clock)
    return clock


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(output, "sys", SimpleNamespace(stderr=screen))
    return screen


def test_short_work_shows_nothing(clock: Clock, screen: Screen) -> None:
    progress = Progress(enabled=True)
    clock.now += 0.99
    progress(5_000)
    progress.clear()
    assert screen.getvalue() == ""


def test_work_over_a_second_shows_how_many_paths_were_read(clock: Clock, screen: Screen) -> None:
    progress = Progress(enabled=True)
    progress(1_000)
    clock.now += 1.0
    progress(234)
    assert screen.getvalue() == "\r1,234 paths read …"


def test_the_counter_is_not_written_more_often_than_eyes_can_follow(clock: Clock, screen: Screen) -> None:
    progress = Progress(enabled=True)
    clock.now += 1.0
    for _ in range(1000):
        clock.now += 0.001
        progress(1)
    assert 9 <= screen.getvalue().count("\r") <= 11


def test_the_counter_is_removed(clock: Clock, screen: Screen) -> None:
    progress = Progress(enabled=True)
    clock.now += 2.0
    progress(1)
    progress.clear()
    progress.clear()
    assert screen.getvalue().count("\r\x1b[K") == 1 and screen.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_shown_where_it_is_turned_off_or_no_terminal(
    clock: Clock, screen: Screen, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(screen, "isatty", lambda: terminal)
    progress = Progress(enabled=not terminal)
    clock.now += 5.0
    progress(1)
    progress.clear()
    assert screen.getvalue() == ""


LONG = (
    ("image", "shop/web:1", "--jobs", "1"),
    ("files", "shop/web:1", "--format", "jsonl"),
    ("diff", "shop/web:1", "shop/worker:1"),
    ("extract", "shop/web:1", "var", "--to", "out"),
)


@pytest.mark.parametrize("command", LONG, ids=" ".join)
def test_a_walk_shows_progress_while_its_answer_goes_elsewhere(
    shop_process: Cli, shop: InProcess, tmp_path: Path, command: tuple[str, ...]
) -> None:
    with (tmp_path / "answer").open("wb") as answer:
        run = on_terminal(shop_process, command, stdout=answer.fileno(), program=slowly(0.01, 0.01))
        with run as running:
            assert running.finish() == 0
    assert b"paths read" in running.shown
    assert running.shown.endswith(b"\r\x1b[K"), "it is removed in the end"
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert (tmp_path / "answer").read_text() == shop.ok(*command).out, "progress is no part of the answer"


def test_progress_can_be_turned_off(shop_process: Cli) -> None:
    command = ("image", "shop/web:1", "--jobs", "1", "--no-progress")
    with on_terminal(shop_process, command, stdout=subprocess.DEVNULL, program=slowly(0.01, 0.01)) as running:
        assert running.finish() == 0
    assert running.shown == b""


@pytest.mark.parametrize("common", [Common(quiet=True), Common(no_progress=True)])
def test_options_that_turn_progress_off(screen: Screen, common: Common) -> None:
    assert not Session(common, "image", frozenset()).progress.enabled
    assert Session(Common(), "image", frozenset()).progress.enabled


def test_a_pipe_gets_no_progress(shop_process: Cli) -> None:
    read, write = os.pipe()
    command = ("image", "shop/web:1", "--jobs", "1")
    with on_terminal(shop_process, command, stderr=write, program=slowly(0.01, 0.01)) as running:
        os.close(write)
        assert running.finish() == 0
    with open(read, "rb") as told:
        assert told.read() == b""


def test_lines_on_the_terminal_are_progress_enough(shop_process: Cli) -> None:
    """Where the answer itself goes to the terminal line by line, a counter would be in its way."""
    with on_terminal(shop_process, ("files", "shop/web:1"), program=slowly(0.01, 0.01)) as running:
        assert running.finish() == 0
    assert b"paths read" not in running.shown and b"srv/shop/.env" in running.shown
