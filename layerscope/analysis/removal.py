"""What ``docker rmi`` of a set of images would remove, and what stays and why.

Sources: moby ``daemon/images/image_delete.go`` (names, conflicts, pruning of untagged parents) and
``daemon/internal/layer/layer_store.go`` (``releaseLayer``: a layer goes when nothing refers to it, and then its
parent). Layers of which BuildKit has a snapshot stay until the build cache is pruned.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from layerscope.analysis.footprint import footprint
from layerscope.model import ChainId, ImageId, Tick, Warn, no_tick, short_id
from layerscope.stores.base import Store
from layerscope.stores.buildkit import read_build_cache
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.images import ImageRecord, chain_ids
from layerscope.stores.layerdb import LayerRecord
from layerscope.stores.overlay2 import DRIVER, Overlay2Store
from layerscope.stores.references import parse
from layerscope.stores.stacks import layer_instructions

BLOCK_BYTES: Final = 512


class Outcome(StrEnum):
    """What becomes of an image."""

    REMOVED = "removed"
    UNTAGGED = "untagged"
    """It only loses names: it has others."""
    IN_USE = "in-use"
    """The engine refuses: containers use it."""
    HAS_CHILDREN = "has-children"
    """It stays, without a name, as images that stay were built on it."""


class PinKind(StrEnum):
    """What keeps a layer on disk that no image would hold any more."""

    CONTAINER = "container"
    BUILD_CACHE = "build-cache"
    LAYER = "layer"
    """A layer on top of it that stays."""
    BUILD_HISTORY = "build-history"
    """What BuildKit tells of a past build, in containerd."""
    LEASE = "lease"
    """A lease, a label or another client of containerd."""


@dataclass(frozen=True, slots=True)
class RemovedImage:
    """An image of the set, or a step of the legacy builder that goes with one."""

    record: ImageRecord
    outcome: Outcome
    kept_by: tuple[str, ...] = ()
    """Names that it keeps, containers that use it, or images that were built on it."""
    asked: bool = True


@dataclass(frozen=True, slots=True)
class FreedLayer:
    record: LayerRecord
    created_by: str | None
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class PinnedLayer:
    """A layer that only images of the set hold, and that stays nevertheless."""

    record: LayerRecord
    created_by: str | None
    kind: PinKind
    holder: str


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """A blob of containerd that only images of the set lead to, and that stays nevertheless."""

    digest: str
    allocated_bytes: int
    kind: PinKind
    holder: str


@dataclass(frozen=True, slots=True)
class Removal:
    """The answer: ``freed_bytes`` = ``layers_bytes`` + ``records_bytes`` + ``blobs_bytes``."""

    images: list[RemovedImage]
    layers: list[FreedLayer]
    """Base first within an image."""
    pinned: list[PinnedLayer]
    layers_bytes: int
    """Directories in ``overlay2/``, with all that the driver keeps in them, and their short links."""
    records_bytes: int
    """What layerdb and imagedb keep of the layers and images; in containerd, snapshots that are no layers: init
    layers that the legacy builder left between them."""
    complete: bool
    blobs: int = 0
    """Of containerd, that go: manifests, configurations and packed layers."""
    blobs_bytes: int = 0
    kept_blobs: list[KeptBlob] = field(default_factory=list)

    @property
    def freed_bytes(self) -> int:
        return self.layers_bytes + self.records_bytes + self.blobs_bytes


def plan_removal(
    store: Store, disk: Overlay2Store, wanted: Sequence[tuple[ImageRecord, str]], warn: Warn, tick: Tick = no_tick
) -> Removal:
    """What removing images frees; ``wanted`` has each with the text that the user named it by.

    Raises LayerscopeError when something that may hold layers can't be read: then nothing exact can be said.
    """
    images = RemovedImages(store).remove(wanted)
    gone = [item.record for item in images if item.outcome is Outcome.REMOVED]
    freed, pinned = _Layers(store, disk, warn).released(gone)
    steps = layer_instructions(item.record for item in images)
    space = _Space(disk, warn, tick)
    layers = [FreedLayer(record, steps.get(record.chain_id), space.of_layer(record)) for record in freed]
    records_bytes = sum(space.of_record(record) for record in freed) + sum(space.of_image(image) for image in gone)
    return Removal(
        images=images,
        layers=layers,
        pinned=[PinnedLayer(record, steps.get(record.chain_id), *pin) for record, pin in pinned],
        layers_bytes=sum(layer.freed_bytes for layer in layers),
        records_bytes=records_bytes,
        complete=space.complete,
    )


class _Space:
    """The disk space that goes with layers and images: allocated, each inode once, as du(1) counts."""

    def __init__(self, disk: Overlay2Store, warn: Warn, tick: Tick) -> None:
        self.disk = disk
        self.warn = warn
        self.tick = tick
        self.complete = True
        self._seen: set[tuple[int, int]] = set()

    def of_layer(self, record: LayerRecord) -> int:
        """Its directory with all that the driver keeps beside ``diff``, and its short link."""
        allocated = self._directory(DRIVER, record.cache_id)
        link_id = self.disk.directories.link_id(record.cache_id)
        return allocated + (self._file(DRIVER, "l", link_id) if link_id is not None else 0)

    def of_record(self, record: LayerRecord) -> int:
        return self._directory(self.disk.layerdb.place(record.chain_id))

    def of_image(self, image: ImageRecord) -> int:
        name = image.id.removeprefix("sha256:")
        imagedb = self.disk.imagedb
        return self._file(imagedb.contents, name) + self._directory(imagedb.base, "imagedb/metadata/sha256", name)

    def _directory(self, *parts: str) -> int:
        found = footprint(self.disk.root.join(*parts), self._seen, self.warn, self.tick)
        self.complete = self.complete and (found is None or found.complete)
        return found.allocated_bytes if found is not None else 0

    def _file(self, *parts: str) -> int:
        try:
            return os.lstat(self.disk.root.join(*parts)).st_blocks * BLOCK_BYTES
        except FileNotFoundError:
            return 0


class RemovedImages:
    """Plays the removal of images through."""

    def __init__(self, store: Store) -> None:
        self.by_id = {image.id: image for image in store.images()}
        self.names = {image.id: set(image.references) for image in store.images()}
        self.users: dict[ImageId, list[str]] = {}
        for container in store.containers():
            if container.image_id is not None:
                self.users.setdefault(container.image_id, []).append(container.name)
        self.gone: set[ImageId] = set()

    def remove(self, wanted: Sequence[tuple[ImageRecord, str]]) -> list[RemovedImage]:
        for image, text in wanted:
            self._take_name(image, text)
        asked = list(dict.fromkeys(image.id for image, _ in wanted))
        pending = list(asked)
        while pending:  # until nothing more goes: an image may wait for one that was built on it
            left = [identifier for identifier in pending if not self._go(identifier)]
            if len(left) == len(pending):
                break
            pending = left
        steps = [identifier for identifier in self.gone if identifier not in asked]
        return [
            *(self._outcome(identifier) for identifier in asked),
            *(RemovedImage(self.by_id[step], Outcome.REMOVED, asked=False) for step in sorted(steps)),
        ]

    def _take_name(self, image: ImageRecord, text: str) -> None:
        names = self.names[image.id]
        reference = parse(text)
        if reference is None or reference.key not in image.references:
            names.clear()  # named by its id: all of it is meant
            return
        names.discard(reference.key)
        if not any(name.startswith(f"{reference.name}:") for name in names):
            # With the last tag of a repository its digests go, too.
            names -= {name for name in names if name.startswith(f"{reference.name}@")}

    def _children(self, identifier: ImageId) -> list[ImageRecord]:
        return [image for image in self.by_id.values() if image.parent == identifier and image.id not in self.gone]

    def _go(self, identifier: ImageId) -> bool:
        """Remove an image if it can go, and with it the nameless steps that it was built on."""
        image: ImageRecord | None = self.by_id[identifier]
        removed = False
        while (
            image is not None
            and image.id not in self.gone
            and not self.names[image.id]
            and image.id not in self.users
            and not self._children(image.id)
        ):
            self.gone.add(image.id)
            removed = True
            image = self.by_id.get(image.parent) if image.parent is not None else None
        return removed or identifier in self.gone

    def _outcome(self, identifier: ImageId) -> RemovedImage:
        image = self.by_id[identifier]
        if identifier in self.gone:
            return RemovedImage(image, Outcome.REMOVED)
        if self.names[identifier]:
            return RemovedImage(image, Outcome.UNTAGGED, tuple(sorted(self.names[identifier])))
        if identifier in self.users:
            return RemovedImage(image, Outcome.IN_USE, tuple(sorted(self.users[identifier])))
        children = tuple(sorted(_name(child) for child in self._children(identifier)))
        return RemovedImage(image, Outcome.HAS_CHILDREN, children)


def _name(image: ImageRecord) -> str:
    return image.references[0] if image.references else short_id(image.id)


Pin = tuple[PinKind, str]


class _Layers:
    """Which layers nothing refers to once some images are gone."""

    def __init__(self, store: Store, disk: Overlay2Store, warn: Warn) -> None:
        self.images = store.images()
        self.layerdb = disk.layerdb
        self.pins: dict[ChainId, Pin] = {}
        names: Mapping[str, ContainerRecord] = {container.id: container for container in store.containers()}
        for name in disk.root.names(disk.layerdb.base, "mounts"):
            mount = disk.layerdb.mount(name)
            if mount is not None and mount.parent is not None:
                holder = names[name].name if name in names else f"mount {name} without a container"
                self.pins[mount.parent] = (PinKind.CONTAINER, holder)
        for snapshot in read_build_cache(disk.root, disk.layerdb, warn).snapshots:
            if snapshot.chain_id is not None:
                self.pins.setdefault(snapshot.chain_id, (PinKind.BUILD_CACHE, snapshot.key))
        self.children: dict[ChainId, list[ChainId]] = {}
        for chain_id in disk.layerdb.all():
            record = disk.layerdb.layer(chain_id)
            if record is not None and record.parent is not None:
                self.children.setdefault(record.parent, []).append(chain_id)

    def released(self, gone: Sequence[ImageRecord]) -> tuple[list[LayerRecord], list[tuple[LayerRecord, Pin]]]:
        """The layers that go with these images, and those that only they hold and that stay; base first.

        Raises CorruptStoreError.
        """
        ids = {image.id for image in gone}
        held = {chain_id for image in self.images if image.id not in ids for chain_id in chain_ids(image.diff_ids)}
        height = {chain_id: index for image in gone for index, chain_id in enumerate(chain_ids(image.diff_ids))}
        freed: dict[ChainId, LayerRecord] = {}
        pinned: list[tuple[LayerRecord, Pin]] = []
        for chain_id in sorted(height.keys() - held, key=lambda item: (-height[item], item)):
            record = self.layerdb.layer(chain_id)
            if record is None:
                continue
            above = next((child for child in self.children.get(chain_id, ()) if child not in freed), None)
            if chain_id in self.pins:
                pinned.append((record, self.pins[chain_id]))
            elif above is not None:
                pinned.append((record, (PinKind.LAYER, above)))
            else:
                freed[chain_id] = record
        return list(reversed(freed.values())), pinned[::-1]
