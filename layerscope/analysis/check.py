"""``check``: whether a store is whole, all problems in one run, without reading the content of layers.

The engine may be at work meanwhile: what looks wrong is looked at again, and only what stays wrong is told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from layerscope.analysis.check_containerd import ContainerdLook, containerd_problems, look_at_containerd
from layerscope.analysis.check_directories import directory_problems
from layerscope.analysis.check_records import record_problems
from layerscope.analysis.check_stores import size_problems, store_problems
from layerscope.analysis.problems import Problem
from layerscope.analysis.store_state import State, read_state
from layerscope.model import Source, Tick, Warn, no_tick
from layerscope.stores.base import Store
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.disk import disks
from layerscope.stores.overlay2 import Overlay2Store

PATIENCE_SECONDS: Final = (0.2, 1.0)
"""How long to wait before looking again. A record is written within a moment, also on a busy disk."""


class Checked:
    """The answer: the problems, and how much was looked at."""

    def __init__(self, problems: Sequence[Problem], look: State | ContainerdLook, source: Source) -> None:
        self.problems = tuple(problems)
        self.source = source
        """The store that it is of."""
        self.layers = len(look.layers) if isinstance(look, State) else len(look.state.numbers)
        self.directories = len(look.directories)
        self.images = len(look.images)
        self.containers = len(look.containers)


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
    more: list[Callable[[], Iterator[Problem]]] = []
    if disks(store)[0] is disk:
        more.append(lambda: store_problems(store, disk, warn))
    if sizes:
        more.append(lambda: size_problems(state, warn, tick))
    problems += [problem for find in more for problem in find()]
    return Checked(_sorted(problems), state, disk.source)


def check_containerd(store: Store, disk: ContainerdStore, warn: Warn) -> Checked:
    """The same for a containerd root. ``store`` tells what other stores there are, where this is the first."""
    look = look_at_containerd(disk)
    problems = list(containerd_problems(look))
    for seconds in PATIENCE_SECONDS:
        if not problems:
            break
        time.sleep(seconds)
        look = look_at_containerd(disk)
        still = {_key(problem) for problem in problems}
        problems = [problem for problem in containerd_problems(look) if _key(problem) in still]
    if disks(store)[0] is disk:
        problems += store_problems(store, disk, warn)
    return Checked(_sorted(problems), look, disk.source)


def check_all(store: Store, *, sizes: bool, warn: Warn, tick: Tick = no_tick) -> list[Checked]:
    """Check every store, the one in use first."""
    return [
        check(store, disk, sizes=sizes, warn=warn, tick=tick)
        if isinstance(disk, Overlay2Store)
        else check_containerd(store, disk, warn)
        for disk in disks(store)
    ]


def _sorted(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(set(problems), key=lambda one: (one.kind.severity, one.code, one.path, one.message))


def _look(disk: Overlay2Store) -> tuple[State, list[Problem]]:
    state = read_state(disk)
    return state, [*directory_problems(state), *record_problems(state)]


def _key(problem: Problem) -> tuple[str, str, str]:
    return problem.code, problem.path, problem.message
