"""The containerd image store: images and containers whose layers are snapshots, without a daemon.

Docker's default since 29.0 (moby ``daemon/containerd/``), and what nerdctl and Kubernetes use. An image is what a
name in ``meta.db`` leads to: a manifest, or an index with one for each platform; its id is the digest of that. Its
layers are the snapshots whose keys are its chain_ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

from layerscope.errors import CorruptStoreError, UnsupportedStoreError
from layerscope.model import (
    CacheId,
    Caution,
    ChainId,
    ContainerId,
    ImageId,
    OverlayOptions,
    Role,
    Source,
    Target,
    Warn,
)
from layerscope.stores import records, stacks
from layerscope.stores.containerd_images import ContainerdImages
from layerscope.stores.containers import ContainerDb, ContainerRecord
from layerscope.stores.content_store import ContentStore, Platform
from layerscope.stores.images import ImageRecord, chain_ids
from layerscope.stores.layerdb import LayerRecord, MountRecord
from layerscope.stores.metadata import Namespace, TaskContainer, read_namespace
from layerscope.stores.records import BrokenRecord, DataRoot
from layerscope.stores.snapshots import SNAPSHOTTER, Snapshot, SnapshotDb
from layerscope.stores.stacks import Place

INIT: Final = "-init"
"""How the key of a container's init layer ends, after the container's id."""


class ContainerdStore:
    """A namespace of a containerd root, whose snapshotter is ``overlayfs``."""

    def __init__(
        self,
        root: DataRoot,
        namespace: str,
        contents: Namespace,
        options: OverlayOptions,
        warn: Warn,
        *,
        docker: DataRoot | None = None,
        platform: Platform | None = None,
        others: frozenset[str] = frozenset(),
    ) -> None:
        """``docker`` is the data root that has the containers, where the namespace is a Docker engine's."""
        self.root = root
        self.options = options
        self.warn = warn
        self.platform = platform
        self.source = Source("data-root", SNAPSHOTTER, docker.path if docker is not None else None, root.path)
        self.snapshots = SnapshotDb(root, namespace, warn)
        self.imagedb = ContainerdImages(
            ContentStore(root, warn),
            self.snapshots,
            contents.images,
            platform,
            warn,
            lambda: read_namespace(root, namespace),
        )
        self.containerdb = ContainerDb(docker, SNAPSHOTTER, warn, others) if docker is not None else None
        self.docker = docker
        self._contents = contents

    @property
    def parts(self) -> tuple[ContainerdStore]:
        return (self,)

    def images(self) -> list[ImageRecord]:
        return self._images

    def containers(self) -> list[ContainerRecord]:
        return self._containers

    def broken(self) -> list[BrokenRecord]:
        self.images()
        self.containers()
        return [*self.imagedb.broken, *(self.containerdb.broken if self.containerdb is not None else ())]

    @cached_property
    def _images(self) -> list[ImageRecord]:
        return self.imagedb.all()

    @cached_property
    def _containers(self) -> list[ContainerRecord]:
        if self.containerdb is not None:
            return self.containerdb.all()
        found = []
        for container in self._contents.containers:
            if container.snapshotter == SNAPSHOTTER:
                found.append(_task_container(container, self.imagedb.target(container.image)))
            else:
                message = f"container {container.id} left out: it uses the snapshotter {container.snapshotter!r}"
                self.warn(Caution("other-driver", self.root.path, message))
        return found

    def image_layers(self, image: ImageRecord) -> list[LayerRecord]:
        """The layers of an image, base first.

        Raises UnsupportedStoreError when it is not unpacked, CorruptStoreError when one is missing.
        """
        return [record for record, _ in self._image_layers(image)]

    def _image_layers(self, image: ImageRecord) -> list[tuple[LayerRecord, Snapshot]]:
        chain = chain_ids(image.diff_ids)
        if not chain:
            return []
        snapshots = self.snapshots.chain(chain[-1])
        if snapshots is None:
            raise UnsupportedStoreError(
                f"the image {image.name} is not unpacked: it has no snapshot {chain[-1]}",
                "making a container of it unpacks it (`docker create`); nobody needs to start it",
            )
        found = {snapshot.key: snapshot for snapshot in snapshots}
        self._compare(image, chain, snapshots)
        known = _layer_records(image, found)
        missing = next((chain_id for chain_id in chain if chain_id not in known), None)
        if missing is not None:
            raise CorruptStoreError(
                f"layer {chain.index(missing)} of {image.name} ({missing}) is not below its top layer",
                "the records of its snapshots are damaged; remove the image and get it again",
            )
        return [(known[chain_id], found[chain_id]) for chain_id in chain]

    def _compare(self, image: ImageRecord, chain: Sequence[ChainId], snapshots: Sequence[Snapshot]) -> None:
        """The legacy builder leaves the init layers of its containers between the layers: those are no difference.

        The image as it is pushed, saved and listed does not have them.
        """
        keys = [snapshot.key for snapshot in snapshots if not _is_init(snapshot)]
        caution = stacks.chain_mismatch(
            self.root.path, image.name, "its configuration", chain, "its snapshots", keys
        )
        if caution is not None:
            self.warn(caution)

    def container_mount(self, container: ContainerRecord) -> MountRecord:
        """A container's read-write layer. Raises CorruptStoreError when there is none."""
        *below, top = self._container_chain(container)
        init = below.pop() if below and _is_init(below[-1]) else None
        return MountRecord(
            top.cache_id,
            init.cache_id if init is not None else None,
            records.chain_id(below[-1].key) if below else None,
        )

    def _container_chain(self, container: ContainerRecord) -> list[Snapshot]:
        key = container.snapshot or container.id
        snapshots = self.snapshots.chain(key)
        if snapshots is None:
            raise CorruptStoreError(
                f"the container {container.name} has no snapshot {key!r} in {self.root.path}",
                "its read-write layer was never made or is already removed; there is nothing to show",
            )
        return snapshots

    def image_target(self, image: ImageRecord, *, images: Sequence[ImageRecord] | None = None) -> Target:
        """The image with its stack: snapshots, or if it is not unpacked the blobs of its layers.

        ``images`` are all images as another witness names them.
        """
        if image.diff_ids and self.snapshots.chain(chain_ids(image.diff_ids)[-1]) is None:
            places = self._packed(image)
        else:
            places = [self._place(snapshot, record) for record, snapshot in self._image_layers(image)]
        images = self.images() if images is None else images
        return stacks.image_target(image, places, images, self.options, self.source)

    def container_target(
        self, container: ContainerRecord, *, images: Sequence[ImageRecord] | None = None
    ) -> Target:
        """The container with its stack, as it is mounted: init layers of the legacy builder are in it."""
        chain = self._container_chain(container)
        images = self.images() if images is None else images
        image = self._image_of(container, images, chain)
        known = _layer_records(image, {snapshot.key: snapshot for snapshot in chain}) if image is not None else {}
        places = []
        for snapshot in chain:
            role = Role.UPPER if snapshot is chain[-1] else Role.INIT if _is_init(snapshot) else Role.IMAGE
            places.append(self._place(snapshot, known.get(ChainId(snapshot.key)), role))
        return stacks.container_target(container, image, places, images, self.options, self.source)

    def _packed(self, image: ImageRecord) -> list[Place]:
        """The layers of an image that is not unpacked. Raises UnsupportedStoreError when one is not here."""
        chain = chain_ids(image.diff_ids)
        tars = [tar for digest in image.blobs if (tar := self.imagedb.content.layer(digest)) is not None]
        if len(tars) != len(chain) or len(image.blobs) != len(chain):
            raise UnsupportedStoreError(
                f"the image {image.name} is not unpacked, and not all of its layers were pulled: it has no snapshot"
                f" {chain[-1]}, and {len(tars)} of {len(chain)} layers",
                "pull it again; making a container of it unpacks it (`docker create`)",
            )
        return [
            Place(
                cache_id=None,
                diff_dir=tar.place,
                record=LayerRecord(chain_id, diff_id, CacheId(""), chain[index - 1] if index else None, None),
                tar=tar,
            )
            for index, (tar, diff_id, chain_id) in enumerate(zip(tars, image.diff_ids, chain, strict=True))
        ]

    def _image_of(
        self, container: ContainerRecord, images: Sequence[ImageRecord], chain: Sequence[Snapshot]
    ) -> ImageRecord | None:
        """The image of a container, for the platform that the container was made for."""
        image = next((image for image in images if image.id == container.image_id), None)
        keys = {snapshot.key for snapshot in chain}
        if image is None or not image.diff_ids or chain_ids(image.diff_ids)[-1] in keys:
            return image
        return self.imagedb.for_chain(image, keys) or image

    def _place(self, snapshot: Snapshot, record: LayerRecord | None, role: Role = Role.IMAGE) -> Place:
        return Place(
            cache_id=snapshot.cache_id,
            diff_dir=self.snapshots.directory(snapshot),
            record=record,
            role=role,
            snapshot=snapshot.key,
        )


def _task_container(container: TaskContainer, image: ImageId | None) -> ContainerRecord:
    """A container of nerdctl or Kubernetes. Whether it runs is known to those only."""
    return ContainerRecord(
        id=ContainerId(container.id),
        name=container.id,
        image=container.image or None,
        image_id=image,
        driver=container.snapshotter,
        state="unknown",
        created=None,
        config={},
        snapshot=container.snapshot,
    )


def _is_init(snapshot: Snapshot) -> bool:
    return snapshot.key.endswith(INIT) and records.container_id(snapshot.key.removesuffix(INIT)) is not None


def _layer_records(image: ImageRecord, snapshots: Mapping[str, Snapshot]) -> dict[ChainId, LayerRecord]:
    """The layers of an image that are among these snapshots."""
    found: dict[ChainId, LayerRecord] = {}
    below: ChainId | None = None
    for diff_id, chain_id in zip(image.diff_ids, chain_ids(image.diff_ids), strict=True):
        snapshot = snapshots.get(chain_id)
        if snapshot is not None:
            found[chain_id] = LayerRecord(chain_id, diff_id, snapshot.cache_id, below, snapshot.size_bytes)
        below = chain_id
    return found
