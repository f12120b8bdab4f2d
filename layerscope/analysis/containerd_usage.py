"""``df`` of the containerd image store: what a containerd root takes on disk, and for what.

Every snapshot and blob counts once, for the first of these that holds it: images, containers, build cache. A layer
of an image is there twice, packed as a blob and unpacked as a snapshot; that is told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from layerscope.analysis.collection import collected
from layerscope.analysis.containerd_orphans import survey_with_state
from layerscope.analysis.containerd_state import ContainerdState
from layerscope.analysis.disk_usage import (
    CATEGORIES,
    STOPPED,
    Category,
    DiskUsage,
    LayerSpace,
    OutsideKind,
    OutsideSpace,
    file_system,
    mounts_below,
    outside_of,
    outside_trees,
)
from layerscope.analysis.orphans import Item
from layerscope.analysis.space import BLOCK_BYTES, Measured, Shape, Space, Spaces, Tree, measure
from layerscope.model import CacheId, Caution, Tick, Warn, no_tick
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.content_store import BLOBS, INGESTS
from layerscope.stores.packed_layers import packed_layers
from layerscope.stores.records import DataRoot
from layerscope.stores.snapshots import DIRECTORIES

_ORDER: Final = list(Category)
_CONTENT: Final = os.path.dirname(INGESTS)
_SNAPSHOTTER: Final = os.path.dirname(DIRECTORIES)
_OWN: Final = (_CONTENT, _SNAPSHOTTER)
OTHER_SNAPSHOTTER: Final = "io.containerd.snapshotter."


def containerd_usage(
    disk: ContainerdStore,
    containers: Sequence[ContainerRecord],
    min_age_seconds: float,
    warn: Warn,
    *,
    jobs: int | None = None,
    tick: Tick = no_tick,
) -> DiskUsage:
    """Measure a containerd root, and what the engine's data root has besides.

    Classified is as ``orphans`` does. Raises LayerscopeError when the directories can't be read.
    """
    root = disk.root
    survey, state = survey_with_state(disk, min_age_seconds, warn)
    for source in survey.unreadable:
        warn(Caution("unreadable-reference", source.path, source.message))
    items = [item for item in survey.items if os.path.lexists(item.path)]
    items.sort(key=lambda item: (_ORDER.index(CATEGORIES[item.purpose]), len(item.path), item.path))
    blobs = {item.path: item for item in items if os.path.dirname(item.path) == root.join(BLOBS)}
    directories = [item for item in items if item.path not in blobs]
    trees = [Tree(os.path.relpath(item.path, root.path), Shape.SNAPSHOT) for item in directories]
    rest = [tree for tree in _rest(root) if not tree.path or root.is_directory(tree.path)]
    mounted = mounts_below(root, warn, ())
    spaces = measure(root.path, [*trees, *rest], mounted, warn, jobs=jobs, tick=tick)
    files = _files(root, warn)
    taken = {item.path: measured for item, measured in zip(directories, spaces.trees, strict=False)}
    taken |= {path: Measured(apart=files.pop(os.path.basename(path), Space())) for path in blobs}
    foreign, metadata = _split(disk, rest, spaces.trees[len(trees) :])
    reclaimable = _Reclaimable(state, containers)
    outside, mounts, complete = _outside(disk, containers, warn, jobs, tick)
    return DiskUsage(
        layers=tuple(LayerSpace(item, taken[item.path], reclaimable(item)) for item in items),
        metadata_bytes=metadata + sum(space.allocated_bytes for space in files.values()),
        outside=(*outside, *foreign),
        filesystem=file_system(root, DIRECTORIES),
        mounts=tuple(sorted({*spaces.mounts, *mounts})),
        complete=spaces.complete and complete,
        is_docker=disk.docker is not None,
        twice_bytes=_twice(disk, state, taken, warn),
    )


def _rest(root: DataRoot) -> Iterable[Tree]:
    """All of a containerd root but its snapshots, blobs and downloads."""
    yield Tree("", Shape.FLAT)
    for name in root.names():
        if name not in _OWN and root.is_directory(name):
            yield Tree(name)
    for place in (*_OWN, DIRECTORIES, INGESTS):
        yield Tree(place, Shape.FLAT)
    for above, below in ((_CONTENT, INGESTS), (_SNAPSHOTTER, DIRECTORIES)):
        for name in root.names(above):
            place = f"{above}/{name}"
            if place != below and root.is_directory(place) and not BLOBS.startswith(place):
                yield Tree(place)
    for place in (os.path.dirname(BLOBS), BLOBS):
        # The blobs are counted by themselves, and of these directories nothing else.
        for name in root.names(place):
            if f"{place}/{name}" != BLOBS and root.is_directory(place, name):
                yield Tree(f"{place}/{name}")


def _files(root: DataRoot, warn: Warn) -> dict[str, Space]:
    """The space of each file among the blobs, by name; the directories themselves under names that no file has."""
    found: dict[str, Space] = {}
    for place in (os.path.dirname(BLOBS), BLOBS):
        try:
            found[f"{place}/"] = Space(directory_bytes=os.lstat(root.join(place)).st_blocks * BLOCK_BYTES)
            with os.scandir(root.join(place)) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        stat = entry.stat(follow_symlinks=False)
                        found[entry.name] = Space(stat.st_blocks * BLOCK_BYTES, 0, stat.st_size)
        except FileNotFoundError:
            continue
        except OSError as error:
            warn(Caution("unreadable-directory", root.join(place), f"not counted: {error.strerror}"))
    return found


def _split(
    disk: ContainerdStore, trees: Sequence[Tree], measured: Sequence[Measured]
) -> tuple[list[OutsideSpace], int]:
    """What snapshotters of other kinds take, and the sum of all else."""
    foreign, metadata = [], 0
    for tree, one in zip(trees, measured, strict=True):
        if tree.path.startswith(OTHER_SNAPSHOTTER) and tree.path.partition("/")[0] != _SNAPSHOTTER:
            apparent = one.apart.apparent_bytes + one.rest.apparent_bytes
            path = disk.root.join(tree.path)
            if disk.docker is not None:
                path = path.removeprefix(disk.docker.join(""))
            foreign.append(OutsideSpace(OutsideKind.OTHER, tree.path, path, one.allocated_bytes, apparent))
        else:
            metadata += one.allocated_bytes
    return foreign, metadata


def _outside(
    disk: ContainerdStore, containers: Sequence[ContainerRecord], warn: Warn, jobs: int | None, tick: Tick
) -> tuple[tuple[OutsideSpace, ...], tuple[str, ...], bool]:
    """What the engine's data root holds besides, without the containerd root, should that lie in it."""
    docker = disk.containerdb.root if disk.containerdb is not None else None
    if docker is None:
        return (), (), True
    nested = os.path.relpath(disk.root.path, docker.path)
    inside = not nested.startswith("..")
    trees = outside_trees(docker, ())
    if inside:
        trees = [*_around(docker, nested), *(tree for tree in trees if tree.path != nested.partition("/")[0])]
    spaces: Spaces = measure(docker.path, trees, mounts_below(docker, warn, ()), warn, jobs=jobs, tick=tick)
    names: Mapping[str, str] = {container.id: container.name for container in containers}
    found = outside_of(trees, spaces, names)
    return found, spaces.mounts, spaces.complete


def _around(docker: DataRoot, nested: str) -> list[Tree]:
    """The directories above a containerd root in a data root, and what else is in them."""
    found, above = [], ""
    for name in nested.split("/"):
        if above:
            others = (other for other in docker.names(above) if other != name)
            found += [Tree(f"{above}/{other}") for other in others if docker.is_directory(above, other)]
            found.append(Tree(above, Shape.FLAT))
        above = f"{above}/{name}" if above else name
    return found


class _Reclaimable:
    """Knows what pruning would free: of images that no container uses, stopped containers, or the build cache."""

    def __init__(self, state: ContainerdState, containers: Sequence[ContainerRecord]) -> None:
        self.state = state
        own = state.namespaces.get(state.namespace)
        used = {container.image_id for container in containers}
        images = {name: image.target for name, image in own.images.items()} if own is not None else {}
        stopped = {container.id for container in containers if container.state in STOPPED}
        leases = own.leases if own is not None else ()
        builds = [lease for lease in leases if lease.partition("-")[0] in state.build_ids]
        self.gone: dict[Category, set[CacheId | str]] = {}
        for category, names, given_up in (
            (Category.IMAGES, {name for name, target in images.items() if target not in used}, ()),
            (Category.CONTAINERS, (), stopped),
            (Category.BUILD_CACHE, (), builds),
        ):
            found = collected(state, images=names, leases=given_up)
            self.gone[category] = {*found.snapshots, *found.blobs}

    def __call__(self, item: Item) -> bool:
        name = item.cache_id if item.cache_id is not None else f"sha256:{os.path.basename(item.path)}"
        category = CATEGORIES[item.purpose]
        if category is Category.BLOBS:
            return any(name in gone for gone in self.gone.values())
        return name in self.gone.get(category, ())


def _twice(disk: ContainerdStore, state: ContainerdState, taken: Mapping[str, Measured], warn: Warn) -> int:
    """What the blobs take of layers that are unpacked as well."""
    content = disk.imagedb.content
    unpacked = {
        content.root.join(content.path(layer.digest))
        for layer in packed_layers(content, disk.images(), warn)
        if state.key(state.namespace, layer.chain_id) is not None
    }
    return sum(taken[path].allocated_bytes for path in unpacked if path in taken)
