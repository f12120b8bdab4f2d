"""Which files of a data root refer to directories of ``overlay2/``.

Sources: moby ``daemon/internal/layer/filestore.go`` (``cache-id``, ``mount-id``, ``init-id``), ``layerdb/tmp`` and
``-removing`` for what was interrupted; BuildKit's databases (see ``buildkit``). Whatever can't be read is told: it
may have held a reference.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from layerscope.errors import LayerscopeError
from layerscope.model import CacheId, Cautions, ignore
from layerscope.stores import records
from layerscope.stores.buildkit import METADATA, SNAPSHOTS, read_build_cache
from layerscope.stores.layerdb import LayerDb
from layerscope.stores.overlay2 import DRIVER
from layerscope.stores.records import DataRoot

LAYERDB: Final = f"image/{DRIVER}/layerdb"
_PATIENCE_SECONDS: Final = 0.2
"""How long the engine takes at most to write or remove the files of a read-write layer."""
BUILDKIT_NAME: Final = 25
"""Characters in the names that BuildKit gives to directories."""


class Witness(StrEnum):
    """What kind of record refers to a directory."""

    LAYER = "layer"
    """A layer of layerdb. ``holder`` is its chain_id."""
    REMOVED_LAYER = "removed-layer"
    """A layer whose removal was interrupted. ``holder`` is its directory in layerdb."""
    UNFINISHED_LAYER = "unfinished-layer"
    """A layer that is being registered, or was when the engine died. ``holder`` is its directory in layerdb."""
    UPPER = "upper"
    """The read-write layer of a container or build (``mount-id``). ``holder`` is its name in layerdb."""
    INIT = "init"
    """The init layer of a container (``init-id``). ``holder`` is its name in layerdb."""
    CONTAINER = "container"
    """A container whose read-write or init layer it is. ``holder`` is its id."""
    IMAGE = "image"
    """An image of containerd that leads to it. ``holder`` is its name in full."""
    BUILD_SNAPSHOT = "build-snapshot"
    """A snapshot of BuildKit. ``holder`` is its key."""
    BUILD_RECORD = "build-record"
    """A record of the build cache. ``holder`` is its id."""
    LEASE = "lease"
    """A lease of containerd. ``holder`` is its id."""
    LABEL = "gc-root"
    """It is labelled as something that containerd is to keep. ``holder`` is its key or digest."""
    INGEST = "ingest"
    """A download of containerd that was begun. ``holder`` is its reference."""
    SANDBOX = "sandbox"
    """A sandbox of containerd. ``holder`` is its id."""
    SNAPSHOT = "snapshot"
    """A record of containerd's snapshotter, whose directory it is. ``holder`` is its name."""
    KEY = "snapshot-key"
    """A namespace of containerd that has the snapshot, or the blob. ``holder`` is the namespace."""
    MOUNT = "mount"
    """A live mount. ``holder`` is its mount point."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A reference to a directory of ``overlay2/``, or to a snapshot's; ``path`` is the file that says so."""

    cache_id: CacheId
    witness: Witness
    holder: str
    path: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something that may refer to directories and can't be read."""

    path: str
    message: str


Found = Iterator[Evidence | Unreadable]


def layer_evidence(root: DataRoot, driver: str = DRIVER) -> Found:
    """The layers in layerdb: finished, being removed and unfinished."""
    return _guarded(root, _layers(root, f"image/{driver}/layerdb"))


def mount_evidence(root: DataRoot, driver: str = DRIVER) -> Found:
    """The read-write layers in layerdb, and the containers that they belong to."""
    return _guarded(root, _mounts(root, f"image/{driver}/layerdb"))


def build_evidence(root: DataRoot, driver: str = DRIVER) -> Found:
    """The snapshots and records of BuildKit."""
    return _guarded(root, _builds(root, driver))


def _guarded(root: DataRoot, found: Found) -> Found:
    """What is found until something can't be read, and then that."""
    try:
        yield from found
    except LayerscopeError as error:
        yield Unreadable(root.path, error.message)


def _layers(root: DataRoot, layerdb: str) -> Found:
    with root.inside(layerdb, "sha256") as layers:
        if layers is None:
            yield Unreadable(root.join(layerdb, "sha256"), "is missing, so nothing says which layers there are")
            return
        for name in layers.names():
            chain_id = records.chain_id(f"sha256:{name}")
            if chain_id is not None:
                yield from _reference(layers, name, "cache-id", Witness.LAYER, chain_id)
            else:
                yield from _reference(layers, name, "cache-id", Witness.REMOVED_LAYER, name, required=False)
    for name in root.names(layerdb, "tmp"):
        place = f"{layerdb}/tmp/{name}"
        yield from _reference(root, place, "cache-id", Witness.UNFINISHED_LAYER, name, required=False)


def _mounts(root: DataRoot, layerdb: str) -> Found:
    if not root.has_directory("containers"):
        yield Unreadable(root.join("containers"), "is missing, so nothing says which containers there are")
    found: list[Evidence | Unreadable] = []
    with root.inside(layerdb, "mounts") as mounts:
        if mounts is not None:
            changing: list[str] = []
            for name in mounts.names():
                found += _guarded(root, _mount(mounts, name, changing))
            if changing:
                time.sleep(_PATIENCE_SECONDS)
            for name in changing:
                found += _guarded(root, _mount(mounts, name))
    yield from found
    containers = set(root.names("containers"))  # now: a container's layer is made before its directory
    for item in found:
        if isinstance(item, Evidence) and item.holder in containers:
            yield Evidence(item.cache_id, Witness.CONTAINER, item.holder, root.join("containers", item.holder))


def _mount(mounts: DataRoot, name: str, changing: list[str] | None = None) -> Found:
    """One read-write layer. One whose ``mount-id`` is not there yet or no more is put into ``changing``."""
    files = mounts.names(name)
    if files and "mount-id" not in files and changing is not None:
        changing.append(name)
        return
    final = changing is None and bool(files)
    yield from _reference(mounts, name, "mount-id", Witness.UPPER, name, required=final)
    if "init-id" in files:
        yield from _reference(mounts, name, "init-id", Witness.INIT, name, required=False)


def _reference(
    root: DataRoot, place: str, name: str, witness: Witness, holder: str, *, required: bool = True
) -> Found:
    """What a record of layerdb refers to. One that vanished with its directory refers to nothing."""
    path = root.join(place, name)
    try:
        text = root.text(place, name)
        if text is None and (not required or not root.has_directory(place)):
            return
    except LayerscopeError as error:
        yield Unreadable(path, error.message)
        return
    if text == "" and witness is Witness.UNFINISHED_LAYER:
        return  # the file is made, and its content not written yet: a reader may come in between
    cache_id = records.cache_id(text)
    if cache_id is None:
        yield Unreadable(path, "is missing" if text is None else "names no directory of overlay2")
    else:
        yield Evidence(cache_id, witness, holder, path)


def _builds(root: DataRoot, driver: str) -> Found:
    made_by_buildkit = (name for name in root.names(driver) if len(name) == BUILDKIT_NAME)
    if "snapshots.db" not in root.names("buildkit") and any(made_by_buildkit):
        yield Unreadable(root.join(SNAPSHOTS), "is missing, though there are directories that BuildKit made")
    broken = Cautions()
    cache = read_build_cache(root, LayerDb(root, driver, ignore), broken)
    for caution in broken:
        yield Unreadable(caution.path or root.join("buildkit"), caution.message)
    for snapshot in cache.snapshots:
        if snapshot.cache_id is not None:
            yield Evidence(snapshot.cache_id, Witness.BUILD_SNAPSHOT, snapshot.key, root.join(SNAPSHOTS))
    for record in cache.records:
        if record.cache_id is not None:
            yield Evidence(record.cache_id, Witness.BUILD_RECORD, record.id, root.join(METADATA))
