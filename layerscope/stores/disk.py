"""The stores on disk behind any store: what questions about a whole data root are put to."""

from __future__ import annotations

from layerscope.errors import UnsupportedStoreError
from layerscope.stores.base import Store
from layerscope.stores.classic import ClassicStore
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.docker_api import DockerApiStore, Engine
from layerscope.stores.overlay import OverlayStore
from layerscope.stores.overlay2 import Overlay2Store


def overlay2_disk(store: Store) -> Overlay2Store:
    """The overlay2 store on disk that ``store`` is, or that the engine behind it uses.

    Raises UnsupportedStoreError.
    """
    for part in store.parts:
        disk = part.disk if isinstance(part, DockerApiStore) else part
        if isinstance(disk, Overlay2Store):
            return disk
    old = any(isinstance(disk, OverlayStore) for disk in every_disk(store))
    raise UnsupportedStoreError(
        f"this question can't be put to the store at {store.source.data_root} ({store.source.driver}) yet",
        "of this graph driver layerscope shows images and containers; `owner`, `reuse` and `verify` work, too"
        if old
        else "supported: the classic image store with the overlay2 graph driver",
    )


def classic_disk(store: Store) -> ClassicStore:
    """The same, whatever its graph driver: for questions that the records answer. Raises UnsupportedStoreError."""
    for part in store.parts:
        disk = part.disk if isinstance(part, DockerApiStore) else part
        if isinstance(disk, ClassicStore):
            return disk
    return overlay2_disk(store)


def disks(store: Store) -> list[Overlay2Store | ContainerdStore]:
    """Every store on disk that a store is made of, the one in use first; a legacy one is left out.

    Raises UnsupportedStoreError when there is no other.
    """
    found: list[Overlay2Store | ContainerdStore] = []
    for part in store.parts:
        disk = part.disk if isinstance(part, DockerApiStore) else part
        if isinstance(disk, (Overlay2Store, ContainerdStore)):
            found.append(disk)
    return found or [overlay2_disk(store)]


def every_disk(store: Store) -> list[ClassicStore | ContainerdStore]:
    """The same with legacy ones."""
    parts = [part.disk if isinstance(part, DockerApiStore) else part for part in store.parts]
    return [disk for disk in parts if isinstance(disk, (ClassicStore, ContainerdStore))]


def disk_of(part: Store) -> ClassicStore | ContainerdStore | None:
    """What a part of a store has on disk; None for an archive."""
    return next(iter(every_disk(part)), None)


def engine_of(store: Store) -> Engine | None:
    """The running engine behind a store; None where a disk is read alone."""
    return next((part.engine for part in store.parts if isinstance(part, DockerApiStore)), None)
