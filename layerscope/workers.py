"""Runs one function in several processes: tasks out, results in, as they come.

Forked, so that a worker starts with what its parent has read and costs milliseconds. A worker that dies is an
error, not a hang; when the caller stops listening (an error, Ctrl-C) all workers are stopped at once.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from layerscope.errors import WorkerDiedError

Task = TypeVar("Task")
Result = TypeVar("Result")


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def run(make: Callable[[], Callable[[Task], Result]], tasks: deque[Task], count: int) -> Iterator[Result]:
    """Yield the result of every task, in the order in which they are done.

    Each worker calls ``make`` once and puts its tasks to what that returns. The caller may append to ``tasks``
    while it takes results. An exception in a worker is raised here.
    """
    import multiprocessing
    from multiprocessing.connection import wait

    context = multiprocessing.get_context("fork")
    connections: list[Any] = []
    processes = {}
    try:
        with _interrupts_held():
            for _ in range(count):
                ours, theirs = context.Pipe()
                connections.append(ours)
                process = context.Process(target=_serve, args=(theirs, list(connections), make), daemon=True)
                process.start()
                theirs.close()
                processes[ours] = process
        idle = deque(connections)
        busy: set[Any] = set()
        while tasks or busy:
            while tasks and idle:
                worker = idle.popleft()
                worker.send(tasks.popleft())
                busy.add(worker)
            for ready in wait([*busy]):
                yield _answer(ready)
                busy.discard(ready)
                idle.append(ready)
    finally:
        for connection, process in processes.items():
            process.terminate()
            process.join()
            process.close()
            connection.close()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hear Ctrl-C only after this: a worker that was forked and is not yet on our list would be left behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _answer(connection: Any) -> Any:
    try:
        succeeded, value = connection.recv()
    except (EOFError, ConnectionResetError) as error:
        raise WorkerDiedError(
            "a worker process died before it was done", "the machine may be out of memory; try --jobs 1"
        ) from error
    if not succeeded:
        raise value
    return value


def _serve(
    connection: Any,
    of_parent: list[Any],
    make: Callable[[], Callable[[Task], Result]],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, too, and stops us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for inherited in of_parent:
        inherited.close()  # else a worker would outlive a killed parent
    work = make()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[bool, object] = (True, work(task))
        except Exception as error:
            answer = (False, error)
        connection.send(answer)
