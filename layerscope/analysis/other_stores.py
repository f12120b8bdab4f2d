"""The stores on a host beside the classic one that is looked at, and the space that they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from layerscope.analysis.space import Tree, measure
from layerscope.model import Caution, Warn
from layerscope.stores.base import Store
from layerscope.stores.locate import other_drivers
from layerscope.stores.overlay2 import DRIVER, Overlay2Store
from layerscope.stores.records import DataRoot


@dataclass(frozen=True, slots=True)
class OtherStore:
    driver: str
    path: str
    """Where its layers are."""
    in_use: bool | None
    """Whether the engine uses it; None where that can't be told."""
    allocated_bytes: int


def other_stores(store: Store, disk: Overlay2Store, warn: Warn) -> Iterator[OtherStore]:
    """The other image store of the host, then what engines kept with storage drivers that can't be read."""
    for part in store.parts if len(store.parts) > 1 else ():
        source = part.source
        if source.driver != DRIVER and source.storage is not None:
            yield OtherStore(
                str(source.driver), source.storage, source.in_use, _bytes(DataRoot(source.storage), [""], warn)
            )
    for driver in other_drivers(disk.root):
        taken = _bytes(disk.root, [driver, f"image/{driver}"], warn)
        yield OtherStore(driver, disk.root.join(driver), False, taken)


def unused_bytes(disk: Overlay2Store, warn: Warn) -> int:
    """What the classic store takes, for when it is the one that is not in use."""
    return _bytes(disk.root, [DRIVER, f"image/{DRIVER}"], warn)


def _bytes(root: DataRoot, places: Sequence[str], warn: Warn) -> int:
    present = [Tree(place) for place in places if not place or root.is_directory(place)]
    try:
        spaces = measure(root.path, present, (), warn)
    except OSError as error:
        warn(Caution("unreadable-directory", root.path, f"not counted: {error.strerror}"))
        return 0
    return sum(tree.allocated_bytes for tree in spaces.trees)
