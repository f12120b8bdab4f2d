"""``check``: whether the classic store is whole, all problems in one run, without reading the content of layers.

The engine may be at work meanwhile: what looks wrong is looked at again, and only what stays wrong is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from layerscope.analysis.check_directories import directory_problems
from layerscope.analysis.check_records import record_problems
from layerscope.analysis.check_stores import size_problems, store_problems
from layerscope.analysis.problems import Problem
from layerscope.analysis.store_state import State, read_state
from layerscope.model import Tick, Warn, no_tick
from layerscope.stores.base import Store
from layerscope.stores.overlay2 import Overlay2Store

PATIENCE_SECONDS: Final = (0.2, 1.0)
"""How long to wait before looking again. A record is written within a moment, also on a busy disk."""


class Checked:
    """The answer: the problems, and how much was looked at."""

    def __init__(self, problems: Sequence[Problem], state: State) -> None:
        self.problems = tuple(problems)
        self.layers = len(state.layers)
        self.directories = len(state.directories)
        self.images = len(state.images)
        self.containers = len(state.containers)


def check(store: Store, disk: Overlay2Store, *, sizes: bool, warn: Warn, tick: Tick = no_tick) -> Checked:
    """Look for everything that can be wrong with the structure; with ``sizes`` also hold every layer's size against
    layerdb, which takes a walk over all layers.

    Errors come first, then by code and path. Raises LayerscopeError where whole directories can't be read.
    """
    state, problems = _look(disk)
    for seconds in PATIENCE_SECONDS:
        if not problems:
            break
        time.sleep(seconds)
        state, again = _look(disk)
        still = {_key(problem) for problem in problems}
        problems = [problem for problem in again if _key(problem) in still]
    more: list[Callable[[], Iterator[Problem]]] = [lambda: store_problems(store, disk, warn)]
    if sizes:
        more.append(lambda: size_problems(state, warn, tick))
    problems += [problem for find in more for problem in find()]
    return Checked(sorted(problems, key=lambda one: (one.kind.severity, one.code, one.path, one.message)), state)


def _look(disk: Overlay2Store) -> tuple[State, list[Problem]]:
    state = read_state(disk)
    return state, [*directory_problems(state), *record_problems(state)]


def _key(problem: Problem) -> tuple[str, str, str]:
    return problem.code, problem.path, problem.message
