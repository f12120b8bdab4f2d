"""``df``: what the storage of a data root takes on disk, and for what.

Every directory of ``overlay2/`` counts once, for the first of these that holds it: images, containers, build
cache; so a layer that an image and the build cache share is the image's. Whatever else lies below the data root is
listed beside it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from layerscope.analysis.orphans import Item, find_orphans
from layerscope.analysis.purpose import ORPHANS, Purpose
from layerscope.analysis.space import Measured, Shape, Spaces, Tree, measure
from layerscope.errors import LayerscopeError
from layerscope.model import Caution, ChainId, Tick, Warn, no_tick
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.evidence import Witness
from layerscope.stores.mountinfo import read_mountinfo
from layerscope.stores.overlay2 import DRIVER, Overlay2Store
from layerscope.stores.records import DataRoot

STOPPED: Final = frozenset({"created", "exited", "dead"})
"""The states of containers that `docker container prune` removes."""


class Category(StrEnum):
    """What space is taken for, in the order in which a directory is assigned."""

    IMAGES = "images"
    CONTAINERS = "containers"
    BUILD_CACHE = "build-cache"
    BLOBS = "blobs"
    """Of the containerd image store: manifests, configurations and packed layers, of images and of builds."""
    LEAKED = "leaked"
    UNDECIDED = "undecided"
    """Directories that are no orphans for certain: too young, or not everything could be read."""
    METADATA = "metadata"
    """The records in ``image/``, and ``overlay2/`` itself with its short links."""


CATEGORIES: Final = {
    Purpose.IMAGE: Category.IMAGES,
    Purpose.UPPER: Category.CONTAINERS,
    Purpose.INIT: Category.CONTAINERS,
    Purpose.LOWER: Category.CONTAINERS,
    Purpose.BUILD: Category.BUILD_CACHE,
    Purpose.IMAGE_BLOB: Category.BLOBS,
    Purpose.BUILD_BLOB: Category.BLOBS,
    Purpose.HISTORY: Category.BLOBS,
    Purpose.DOWNLOAD: Category.BLOBS,
    Purpose.HELD: Category.UNDECIDED,
    Purpose.MOUNTED: Category.UNDECIDED,
    Purpose.SPARE: Category.UNDECIDED,
    Purpose.YOUNG: Category.UNDECIDED,
    Purpose.UNKNOWN: Category.UNDECIDED,
    **dict.fromkeys(sorted(ORPHANS), Category.LEAKED),
}
_ORDER: Final = list(Category)


class OutsideKind(StrEnum):
    """What lies below the data root, outside of the layer storage."""

    LOG = "container-log"
    CONTAINER = "container-files"
    """Configurations of containers, and what they have besides logs."""
    VOLUME = "volume"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class LayerSpace:
    """A directory of ``overlay2/``, or a snapshot or blob of containerd, measured."""

    item: Item
    measured: Measured
    """``apart`` is its ``diff/``, or a snapshot's ``fs/``."""
    reclaimable: bool
    """Whether pruning its category would free it."""

    @property
    def category(self) -> Category:
        return CATEGORIES[self.item.purpose]

    @property
    def in_build_cache(self) -> bool:
        return any(one.witness in (Witness.BUILD_SNAPSHOT, Witness.BUILD_RECORD) for one in self.item.evidence)


@dataclass(frozen=True, slots=True)
class OutsideSpace:
    kind: OutsideKind
    name: str
    """Of the container, the volume, or the entry of the data root."""
    path: str
    """Relative to the data root."""
    allocated_bytes: int
    apparent_bytes: int


@dataclass(frozen=True, slots=True)
class FileSystem:
    """The file system that the layers are on."""

    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """``storage_bytes`` + ``outside_bytes`` = ``total_bytes``, what du(1) says of the data root."""

    layers: tuple[LayerSpace, ...]
    """By category, then by name."""
    metadata_bytes: int
    outside: tuple[OutsideSpace, ...]
    """By kind, then the largest first."""
    filesystem: FileSystem
    mounts: tuple[str, ...]
    """What lies below the data root and is not counted because it is mounted there, sorted."""
    complete: bool
    """False when something could not be read: the sums are then too small."""
    is_docker: bool = True
    """Whether the commands that prune are Docker's; else it is another client's namespace of containerd."""
    twice_bytes: int = 0
    """Of the containerd image store: the blobs of layers that are unpacked as well."""

    def of(self, category: Category) -> list[LayerSpace]:
        return [layer for layer in self.layers if layer.category is category]

    def category_bytes(self, category: Category) -> int:
        if category is Category.METADATA:
            return self.metadata_bytes
        return sum(layer.measured.allocated_bytes for layer in self.of(category))

    @property
    def storage_bytes(self) -> int:
        """Images + containers + build cache + leaked + undecided + metadata."""
        return sum(map(self.category_bytes, Category))

    @property
    def outside_bytes(self) -> int:
        return sum(item.allocated_bytes for item in self.outside)

    @property
    def total_bytes(self) -> int:
        return self.storage_bytes + self.outside_bytes


def disk_usage(
    disk: Overlay2Store,
    containers: Sequence[ContainerRecord],
    min_age_seconds: float,
    warn: Warn,
    *,
    jobs: int | None = None,
    tick: Tick = no_tick,
) -> DiskUsage:
    """Measure a data root; ``containers`` as who knows them best names them.

    Directories are classified as ``orphans`` does. Raises LayerscopeError when ``overlay2/`` can't be read.
    """
    root = disk.root
    survey = find_orphans(disk, min_age_seconds, warn)
    for source in survey.unreadable:
        warn(Caution("unreadable-reference", source.path, source.message))
    items = [item for item in survey.items if os.path.dirname(item.path) == root.join(DRIVER)]
    items.sort(key=lambda item: (_ORDER.index(CATEGORIES[item.purpose]), item.path))
    device = os.stat(root.join(DRIVER)).st_dev
    layers = [Tree(f"{DRIVER}/{os.path.basename(item.path)}", Shape.LAYER, device) for item in items]
    metadata = [Tree(DRIVER, Shape.FLAT, device), Tree(f"{DRIVER}/l", Shape.PLAIN, device), Tree("image")]
    outside = outside_trees(root, (DRIVER, "image"))
    trees = [*layers, *(tree for tree in metadata if root.is_directory(tree.path)), *outside]
    spaces = measure(root.path, trees, mounts_below(root, warn, (DRIVER,)), warn, jobs=jobs, tick=tick)
    reclaimable = _Reclaimable(disk, containers, warn)
    return DiskUsage(
        layers=tuple(
            LayerSpace(item, measured, reclaimable(item))
            for item, measured in zip(items, spaces.trees[: len(items)], strict=True)
        ),
        metadata_bytes=sum(one.allocated_bytes for one in spaces.trees[len(items) : -len(outside)]),
        outside=outside_of(outside, spaces, {container.id: container.name for container in containers}),
        filesystem=file_system(root, DRIVER),
        mounts=spaces.mounts,
        complete=spaces.complete,
    )


class _Reclaimable:
    """Knows which directories pruning would free: of images, stopped containers, or the build cache."""

    def __init__(self, disk: Overlay2Store, containers: Sequence[ContainerRecord], warn: Warn) -> None:
        self.disk = disk
        self.warn = warn
        self.stopped = {container.id for container in containers if container.state in STOPPED}
        self.used = self._chains([container.id for container in containers])
        self.used_by_running = self._chains([c.id for c in containers if c.id not in self.stopped])

    def _chains(self, containers: Sequence[str]) -> set[ChainId]:
        """The layers that containers stand on."""
        found: set[ChainId] = set()
        for identifier in containers:
            try:
                mount = self.disk.layerdb.mount(identifier)
                if mount is not None and mount.parent is not None and mount.parent not in found:
                    found.update(layer.chain_id for layer in self.disk.layerdb.chain(mount.parent))
            except LayerscopeError:
                continue  # orphans has warned of it
        return found

    def __call__(self, item: Item) -> bool:
        chains = {one.holder for one in item.evidence if one.witness is Witness.LAYER}
        witnesses = {one.witness for one in item.evidence}
        match item.purpose:
            case Purpose.IMAGE:
                cached = witnesses & {Witness.BUILD_SNAPSHOT, Witness.BUILD_RECORD}
                return not cached and chains.isdisjoint(self.used)
            case Purpose.UPPER | Purpose.INIT:
                return all(one.holder in self.stopped for one in item.evidence if one.witness is Witness.CONTAINER)
            case Purpose.LOWER:
                return chains.isdisjoint(self.used_by_running)
            case Purpose.BUILD:
                return True
            case _:
                return False


def mounts_below(root: DataRoot, warn: Warn, counted: Collection[str]) -> list[str]:
    """Where something is mounted below a root, without the places that are counted wherever they are."""
    try:
        mounts = read_mountinfo("/proc/self/mountinfo")
    except OSError as error:
        warn(Caution("mounts-unknown", "/proc/self/mountinfo", f"can't be read: {error.strerror}"))
        return []
    points = {mount.point for mount in mounts if mount.point.startswith(root.join(""))}
    return sorted(points - {root.join(place) for place in counted})


def outside_trees(root: DataRoot, storage: Collection[str]) -> list[Tree]:
    """All of a data root but ``storage``, containers and volumes one by one. The root itself comes last."""
    found = []
    for name in root.names():
        if name in storage or not root.is_directory(name):
            continue
        if name in ("containers", "volumes"):
            shape = Shape.CONTAINER if name == "containers" else Shape.PLAIN
            below = [one for one in root.names(name) if root.is_directory(name, one)]
            found += [Tree(f"{name}/{one}", shape) for one in below]
        found.append(Tree(name, Shape.FLAT if name in ("containers", "volumes") else Shape.PLAIN))
    return [*found, Tree("", Shape.FLAT)]


def outside_of(trees: Sequence[Tree], spaces: Spaces, names: Mapping[str, str]) -> tuple[OutsideSpace, ...]:
    found = []
    for tree, measured in zip(trees, spaces.trees[-len(trees) :], strict=True):
        place, _, name = tree.path.partition("/")
        whole, logs = measured.rest, measured.apart
        if place == "containers" and name:
            name = names.get(name, name)
            found.append(OutsideSpace(OutsideKind.LOG, name, tree.path, logs.allocated_bytes, logs.apparent_bytes))
            kind = OutsideKind.CONTAINER
        else:
            kind = OutsideKind.VOLUME if name and place == "volumes" else OutsideKind.OTHER
            name = name if kind is OutsideKind.VOLUME else tree.path or "."
        found.append(OutsideSpace(kind, name, tree.path, whole.allocated_bytes, whole.apparent_bytes))
    order = list(OutsideKind)
    return tuple(sorted(found, key=lambda item: (order.index(item.kind), -item.allocated_bytes, item.path)))


def file_system(root: DataRoot, place: str) -> FileSystem:
    """The file system that a directory is on. Raises OSError."""
    state = os.statvfs(root.join(place))
    return FileSystem(state.f_blocks * state.f_frsize, (state.f_blocks - state.f_bfree) * state.f_frsize)
