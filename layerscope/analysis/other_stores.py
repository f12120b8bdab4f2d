"""The stores on a host beside the one that is looked at, and the space that they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from layerscope.analysis.space import Tree, measure
from layerscope.model import Caution, Warn
from layerscope.stores.base import Store
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.locate import CLASSIC, other_drivers
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


def other_stores(store: Store, disk: Overlay2Store | ContainerdStore, warn: Warn) -> Iterator[OtherStore]:
    """The other image store of the host, then what engines kept with storage drivers that can't be read."""
    told = {str(part.source.driver) for part in store.parts}
    for part in store.parts if len(store.parts) > 1 else ():
        source = part.source
        if source.driver == disk.source.driver or source.storage is None:
            continue
        if source.driver in CLASSIC:
            root = DataRoot(source.storage)
            taken = _bytes(root, [source.driver, f"image/{source.driver}"], warn)
            yield OtherStore(source.driver, root.join(source.driver), source.in_use, taken)
        else:
            taken = _bytes(DataRoot(source.storage), [""], warn)
            yield OtherStore(str(source.driver), source.storage, source.in_use, taken)
    docker = disk.root if isinstance(disk, Overlay2Store) else disk.docker
    if docker is None:
        return
    for driver in other_drivers(docker):
        if driver not in told:
            taken = _bytes(docker, [driver, f"image/{driver}"], warn)
            yield OtherStore(driver, docker.join(driver), False, taken)


def unused_bytes(disk: Overlay2Store | ContainerdStore, warn: Warn) -> int:
    """What a store takes, for when it is the one that is not in use."""
    if isinstance(disk, ContainerdStore):
        return _bytes(disk.root, [""], warn)
    return _bytes(disk.root, [DRIVER, f"image/{DRIVER}"], warn)


def _bytes(root: DataRoot, places: Sequence[str], warn: Warn) -> int:
    present = [Tree(place) for place in places if not place or root.is_directory(place)]
    try:
        spaces = measure(root.path, present, (), warn)
    except OSError as error:
        warn(Caution("unreadable-directory", root.path, f"not counted: {error.strerror}"))
        return 0
    return sum(tree.allocated_bytes for tree in spaces.trees)
