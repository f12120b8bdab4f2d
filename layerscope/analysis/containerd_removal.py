"""What ``docker rmi`` of a set of images frees with the containerd image store: snapshots and blobs.

Docker takes the names away and has containerd collect garbage before it answers (moby
``daemon/containerd/image_delete.go``: ``images.SynchronousDelete``), so the collection is played through.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from layerscope.analysis.collection import Collected, collected
from layerscope.analysis.containerd_purpose import ContainerdPurposes
from layerscope.analysis.containerd_state import ContainerdState, read_containerd_state
from layerscope.analysis.footprint import footprint
from layerscope.analysis.purpose import Purpose
from layerscope.analysis.removal import (
    BLOCK_BYTES,
    FreedLayer,
    KeptBlob,
    Outcome,
    PinKind,
    PinnedLayer,
    Removal,
    RemovedImage,
    RemovedImages,
)
from layerscope.errors import CorruptStoreError, UnsupportedStoreError
from layerscope.model import CacheId, ChainId, Tick, Warn, no_tick
from layerscope.stores import records
from layerscope.stores.base import Store
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.content_store import BLOBS
from layerscope.stores.images import ImageRecord, chain_ids
from layerscope.stores.layerdb import LayerRecord
from layerscope.stores.reachable import Node, Root, RootKind
from layerscope.stores.snapshots import DIRECTORIES, SNAPSHOTTER
from layerscope.stores.stacks import layer_instructions

_KINDS = {
    Purpose.LOWER: PinKind.CONTAINER,
    Purpose.UPPER: PinKind.CONTAINER,
    Purpose.BUILD: PinKind.BUILD_CACHE,
    Purpose.HISTORY: PinKind.BUILD_HISTORY,
}


def plan_containerd_removal(
    store: Store,
    disk: ContainerdStore,
    wanted: Sequence[tuple[ImageRecord, str]],
    warn: Warn,
    tick: Tick = no_tick,
) -> Removal:
    """What removing images frees; ``wanted`` has each with the text that the user named it by.

    What is garbage already goes at the same time and is no part of it. Raises LayerscopeError when something that
    may hold layers can't be read, or the namespace is no engine's: then nothing exact can be said.
    """
    if disk.docker is None:
        raise UnsupportedStoreError(
            f"what removing images of the namespace {disk.snapshots.namespace} does can't be told without the data"
            " root of an engine, which has the containers",
            "of a Docker engine give it with --data-root DIR; other clients have rules of their own",
        )
    images = RemovedImages(store).remove(wanted)
    state = read_containerd_state(disk)
    for source in state.unreadable:
        raise CorruptStoreError(
            f"{source.path} {source.message}",
            "what may hold the layers can't be told; `layerscope check` tells more",
        )
    return _Plan(disk, state, warn, tick).of(
        images, [one.record for one in images if one.outcome is Outcome.REMOVED]
    )


class _Plan:
    def __init__(self, disk: ContainerdStore, state: ContainerdState, warn: Warn, tick: Tick) -> None:
        self.disk = disk
        self.state = state
        self.warn = warn
        self.tick = tick
        self.complete = True
        self.purposes = ContainerdPurposes(state, ())
        self._seen: set[tuple[int, int]] = set()

    def of(self, images: Sequence[RemovedImage], gone: Sequence[ImageRecord]) -> Removal:
        own = self.state.namespaces.get(self.state.namespace)
        ids = {image.id for image in gone}
        names = [name for name, image in own.images.items() if image.target in ids] if own is not None else []
        found = collected(self.state, images=names)
        layers = {layer.cache_id: (layer, made) for layer, made in self._layers(gone)}
        freed = [FreedLayer(*layers[name], self._directory(name)) for name in layers if name in found.snapshots]
        others = sum(self._directory(name) for name in found.snapshots if name not in layers)
        pinned = [
            PinnedLayer(layer, made, *pin)
            for name, (layer, made) in layers.items()
            if name not in found.snapshots and (pin := self._pin(layer.chain_id, found)) is not None
        ]
        blobs = {digest: self._blob(digest) for digest in found.blobs}
        return Removal(
            images=list(images),
            layers=freed,
            pinned=pinned,
            layers_bytes=sum(layer.freed_bytes for layer in freed),
            records_bytes=others,
            complete=self.complete,
            blobs=len(blobs),
            blobs_bytes=sum(blobs.values()),
            kept_blobs=list(self._kept_blobs(names, found)),
        )

    def _layers(self, gone: Sequence[ImageRecord]) -> Iterator[tuple[LayerRecord, str | None]]:
        """The layers of these images, base first within each."""
        made_by = layer_instructions(gone)
        seen: set[ChainId] = set()
        for image in gone:
            below: ChainId | None = None
            for diff_id, chain_id in zip(image.diff_ids, chain_ids(image.diff_ids), strict=True):
                name = self.state.directory_of(self.state.namespace, chain_id)
                if name is not None and chain_id not in seen:
                    seen.add(chain_id)
                    size = self.state.numbers[name].size_bytes
                    yield LayerRecord(chain_id, diff_id, name, below, size), made_by.get(chain_id)
                below = chain_id

    def _pin(self, chain_id: ChainId, found: Collected) -> tuple[PinKind, str] | None:
        """What keeps a layer that no image would hold any more."""
        return self._keeper(found.kept.get(Node(self.state.namespace, SNAPSHOTTER, chain_id), ()))

    def _keeper(self, roots: Sequence[Root]) -> tuple[PinKind, str] | None:
        """The weightiest of those who keep something; None where an image is among them."""
        if not roots or any(root.kind is RootKind.IMAGE for root in roots):
            return None
        purpose, root = min(((self.purposes.purpose_of_root(root), root) for root in roots), key=_weight)
        return _KINDS.get(purpose, PinKind.LEASE), self._holder(root)

    def _holder(self, root: Root) -> str:
        container = records.container_id(root.holder)
        names = {one.id: one.name for one in self.disk.containers()}
        return names.get(container, root.holder) if container is not None else root.holder

    def _kept_blobs(self, names: Sequence[str], found: Collected) -> Iterator[KeptBlob]:
        """The blobs that only these images led to, and that stay nevertheless."""
        gone = {Root(RootKind.IMAGE, self.state.namespace, name) for name in names}
        for node, roots in self.state.kept.items():
            if node.snapshotter is None and gone.intersection(roots) and node.key not in found.blobs:
                still = [root for other, held in found.kept.items() if other[1:] == node[1:] for root in held]
                pin = self._keeper(still)
                if pin is not None:
                    yield KeptBlob(node.key, self._blob(node.key), *pin)

    def _directory(self, name: CacheId) -> int:
        found = footprint(self.disk.root.join(DIRECTORIES, name), self._seen, self.warn, self.tick)
        self.complete = self.complete and (found is None or found.complete)
        return found.allocated_bytes if found is not None else 0

    def _blob(self, digest: str) -> int:
        try:
            return os.lstat(self.disk.root.join(BLOBS, digest.removeprefix("sha256:"))).st_blocks * BLOCK_BYTES
        except FileNotFoundError:
            return 0


def _weight(item: tuple[Purpose, Root]) -> tuple[int, Root]:
    return list(Purpose).index(item[0]), item[1]
