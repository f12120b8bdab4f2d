"""Workers come and go with the run that asked for them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from layerscope.errors import WorkerDiedError
from layerscope.workers import run


def children() -> set[str]:
    return set(Path("/proc/thread-self/children").read_text().split())


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    before = children()  # an engine that other tests started
    yield
    assert children() <= before


def test_results_come_as_they_are_done_and_tasks_may_be_added() -> None:
    tasks = deque([1, 2, 3])
    found = []
    for number in run(lambda: lambda task: task * 10, tasks, 2):
        found.append(number)
        if number == 10:
            tasks.append(4)
    assert sorted(found) == [10, 20, 30, 40]


def test_interrupt_while_workers_start_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst moment: the worker is forked, and nobody has written down that it is there."""
    real = ForkProcess.start

    def start(process: ForkProcess) -> None:
        real(process)
        # To this thread: the process may have others, of whoever runs the tests.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    monkeypatch.setattr(ForkProcess, "start", start)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(run(lambda: lambda task: time.sleep(60), deque([1, 2]), 2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()


def test_worker_that_is_killed_is_an_error_and_no_hang() -> None:
    with pytest.raises(WorkerDiedError):
        list(run(lambda: lambda task: os.kill(os.getpid(), signal.SIGKILL), deque([1]), 2))


def test_exception_of_a_worker_is_raised_here() -> None:
    def fail(task: int) -> None:
        raise ValueError(f"task {task}")

    with pytest.raises(ValueError, match="task 7"):
        list(run(lambda: fail, deque([7]), 1))
