"""``orphans`` and ``owner`` of every store on a host."""

from __future__ import annotations

from layerscope.analysis.containerd_orphans import find_containerd_orphans
from layerscope.analysis.containerd_owner import find_containerd_owner
from layerscope.analysis.orphans import Survey, find_orphans
from layerscope.analysis.owner import Answer, find_owner
from layerscope.errors import TargetNotFoundError
from layerscope.model import Source, Tick, Warn, no_tick
from layerscope.stores.base import Store
from layerscope.stores.classic import ClassicStore
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.disk import disks, every_disk
from layerscope.stores.overlay2 import Overlay2Store


def find_all_orphans(store: Store, min_age_seconds: float, warn: Warn, tick: Tick = no_tick) -> list[Survey]:
    """What everything is there for, of each store, the one in use first. Raises LayerscopeError."""
    return [
        find_orphans(disk, min_age_seconds, warn, tick)
        if isinstance(disk, Overlay2Store)
        else find_containerd_orphans(disk, min_age_seconds, warn, tick)
        for disk in disks(store)
    ]


def find_owner_anywhere(store: Store, text: str, min_age_seconds: float, warn: Warn) -> tuple[Answer, Source]:
    """Whose the thing is that a word stands for, and the store that has it: the first where it means anything.

    Raises TargetNotFoundError, AmbiguousTargetError or another LayerscopeError.
    """
    missed: TargetNotFoundError | None = None
    for disk in every_disk(store):
        try:
            return _owner_in(disk, text, min_age_seconds, warn), disk.source
        except TargetNotFoundError as error:
            missed = missed or error
    assert missed is not None
    raise missed


def _owner_in(disk: ClassicStore | ContainerdStore, text: str, min_age_seconds: float, warn: Warn) -> Answer:
    if isinstance(disk, ClassicStore):
        return find_owner(disk, text, min_age_seconds, warn)
    return find_containerd_owner(disk, text, min_age_seconds, warn)
