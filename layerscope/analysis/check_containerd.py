"""What ``check`` finds in a containerd root: keys, snapshots, directories, blobs and images against each other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from layerscope.analysis.containerd_state import ContainerdState, read_containerd_state
from layerscope.analysis.problems import Code, Problem
from layerscope.errors import LayerscopeError
from layerscope.model import Cautions, ignore
from layerscope.stores import records
from layerscope.stores.containerd import INIT, ContainerdStore
from layerscope.stores.containerd_records import KeyRecord, SnapshotRecord
from layerscope.stores.containers import ContainerDb, ContainerRecord
from layerscope.stores.content_store import BLOBS, LARGEST_DOCUMENT, ContentStore
from layerscope.stores.images import ImageRecord, chain_ids
from layerscope.stores.packed_layers import PackedLayer, packed_layers
from layerscope.stores.reachable import Node, RootKind
from layerscope.stores.records import BrokenRecord
from layerscope.stores.snapshots import DIRECTORIES, SNAPSHOTTER, Kind

UNCOMPRESSED = "containerd.io/uncompressed"
_UNPACKED = f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"
_GOING = frozenset({"removing", "dead"})
"""States of containers whose layers may be gone already."""


@dataclass(slots=True)
class ContainerdLook:
    """A containerd root, with what lies on disk; records are read before what they refer to."""

    disk: ContainerdStore
    state: ContainerdState
    images: list[ImageRecord]
    broken_images: list[BrokenRecord]
    containers: list[ContainerRecord]
    trouble: Cautions
    packed: list[PackedLayer]
    directories: dict[str, frozenset[str]] = field(default_factory=dict)
    """What is in each directory of the snapshotter."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Of the blobs on disk, by digest."""


def look_at_containerd(disk: ContainerdStore) -> ContainerdLook:
    """Read everything but the content of layers. Raises LayerscopeError when a database can't be read."""
    state = read_containerd_state(disk)
    for source in state.unreadable:
        if source.path == disk.root.path:
            raise LayerscopeError(source.message, "without that database nothing can be checked")
    trouble = Cautions()
    containers = []
    if disk.docker is not None and disk.containerdb is not None:
        containers = ContainerDb(disk.docker, SNAPSHOTTER, trouble, disk.containerdb.others).all()
    images = disk.images()
    quiet = ContentStore(disk.root, ignore)
    look = ContainerdLook(
        disk, state, images, list(disk.imagedb.broken), containers, trouble, packed_layers(quiet, images, ignore)
    )
    with disk.root.inside(DIRECTORIES) as below:
        for name in below.names() if below is not None else ():
            if below is not None and below.is_directory(name):
                look.directories[name] = frozenset(below.names(name))
    with disk.root.inside(BLOBS) as below:
        for name in below.names() if below is not None else ():
            size = below.size(name) if below is not None else None
            if size is not None:
                look.sizes[f"sha256:{name}"] = size
    return look


def containerd_problems(look: ContainerdLook) -> Iterator[Problem]:
    """The problems, in no order."""
    check = _Check(look)
    yield from check.snapshots()
    yield from check.images()
    yield from check.blobs()
    yield from check.containers()


class _Check:
    def __init__(self, look: ContainerdLook) -> None:
        self.look = look
        self.state = look.state
        self.root = look.disk.root
        self.names = {container.id: container.name for container in look.containers}

    def users(self, node: Node) -> tuple[str, ...]:
        """The images and containers that something is kept for, by name."""
        found: dict[str, None] = {}
        for root in self.state.kept.get(node, ()):
            if root.kind is RootKind.IMAGE:
                found[_familiar(root.holder)] = None
            elif root.kind in (RootKind.LEASE, RootKind.CONTAINER):
                container = records.container_id(root.holder)
                if container is not None and container in self.names:
                    found[self.names[container]] = None
        return tuple(found)

    # -- snapshots -------------------------------------------------------------------------------------------

    def snapshots(self) -> Iterator[Problem]:
        holders: dict[int, list[SnapshotRecord]] = {}
        for record in self.state.snapshots.values():
            if record.number is None:
                yield Problem(Code.BROKEN_SNAPSHOT, self.state.metadata_path, f"{record.name} has no valid id")
            else:
                holders.setdefault(record.number, []).append(record)
        for number, several in holders.items():
            if len(several) > 1:
                names = ", ".join(sorted(record.name for record in several))
                path = self.root.join(DIRECTORIES, str(number))
                yield Problem(Code.SHARED_DIRECTORY, path, f"belongs to {len(several)} snapshots: {names}")
        for namespace in self.state.namespaces.values():
            for key in namespace.snapshots.get(SNAPSHOTTER, {}).values():
                node = Node(namespace.name, SNAPSHOTTER, key.key)
                if node in self.state.kept:  # the rest is garbage, which may be in the middle of its removal
                    yield from self._snapshot(node, key)

    def _snapshot(self, node: Node, key: KeyRecord) -> Iterator[Problem]:
        users, meta = self.users(node), self.state.meta_path
        if not key.name:
            yield Problem(Code.BROKEN_SNAPSHOT, meta, f"the key {key.key} names no snapshot", users)
            return
        record = self.state.snapshots.get(key.name)
        if record is None:
            message = f"has no {key.name}, the snapshot of the key {key.key}"
            yield Problem(Code.NO_SNAPSHOT, self.state.metadata_path, message, users)
            return
        below = self.state.key(node.namespace, key.parent) if key.parent is not None else None
        if key.parent is not None and below is None:
            message = f"the snapshot {key.key} lies on {key.parent}, which is not there"
            yield Problem(Code.MISSING_PARENT, meta, message, users)
        elif (below.name if below is not None else None) != record.parent:
            message = (
                f"{record.name} lies on {record.parent or 'nothing'}, by meta.db on"
                f" {below.name if below is not None else 'nothing'}"
            )
            yield Problem(Code.SNAPSHOT_PARENT, self.state.metadata_path, message, users)
        elif record.parent is not None and record.parent not in self.state.snapshots:
            message = f"{record.name} lies on {record.parent}, which is not there"
            yield Problem(Code.MISSING_PARENT, self.state.metadata_path, message, users)
        yield from self._directory(record, users)

    def _directory(self, record: SnapshotRecord, users: tuple[str, ...]) -> Iterator[Problem]:
        if record.number is None:
            return
        path = self.root.join(DIRECTORIES, str(record.number))
        names = self.look.directories.get(str(record.number))
        if names is None:
            yield Problem(Code.MISSING_DIRECTORY, path, f"of the snapshot {record.key} is not there", users)
        elif "fs" not in names:
            yield Problem(Code.MISSING_DIFF, f"{path}/fs", "is not there", users)
        elif record.kind is Kind.ACTIVE and "work" not in names:
            yield Problem(Code.MISSING_WORK, f"{path}/work", "is not there", users)

    # -- images ----------------------------------------------------------------------------------------------

    def images(self) -> Iterator[Problem]:
        for broken in self.look.broken_images:
            yield Problem(Code.BROKEN_IMAGE, self.state.meta_path, broken.error.message, broken.names)
        for image in self.look.images:
            yield from self._unpacked(image)

    def _unpacked(self, image: ImageRecord) -> Iterator[Problem]:
        """Whether the chain of an image that is unpacked is the one that its configuration says."""
        own = self.state.namespaces.get(self.state.namespace)
        config = "sha256:" + (image.config_path or "").rpartition("/")[2]
        blob = own.blobs.get(config) if own is not None else None
        top = blob.labels.get(_UNPACKED) if blob is not None else None
        chain = chain_ids(image.diff_ids)
        if top is None or not chain:
            return  # it is not unpacked: making a container unpacks it
        where = self.root.join(BLOBS, config.removeprefix("sha256:"))
        if top != chain[-1]:
            message = f"its layers make the chain_id {chain[-1]}, and it is unpacked as {top}"
            yield Problem(Code.CHAIN_ID, where, message, (image.name,))
            return
        below = [key.key for key in self.state.down_from(self.state.namespace, top)]
        found = [key for key in below if not key.endswith(INIT)][::-1]
        if not found:
            message = f"is unpacked as {top}, which is not there"
            yield Problem(Code.MISSING_LAYER, where, message, (image.name,))
        elif found != list(chain):
            message = f"its {len(chain)} layers lie on each other in another order: {', '.join(found)}"
            yield Problem(Code.LOWER_ORDER, where, message, (image.name,))

    # -- blobs -----------------------------------------------------------------------------------------------

    def blobs(self) -> Iterator[Problem]:
        for namespace in self.state.namespaces.values():
            for blob in namespace.blobs.values():
                node = Node(namespace.name, None, blob.digest)
                size = self.look.sizes.get(blob.digest)
                path = self._blob_path(blob.digest)
                if node not in self.state.kept:
                    continue
                if size is None:
                    yield Problem(Code.MISSING_BLOB, path, "is recorded and not there", self.users(node))
                elif blob.size_bytes is not None and size != blob.size_bytes:
                    message = f"has {size} bytes, by meta.db {blob.size_bytes}"
                    yield Problem(Code.BLOB_SIZE, path, message, self.users(node))
        yield from self._documents()
        for layer in self.look.packed:
            yield from self._layer(layer)

    def _documents(self) -> Iterator[Problem]:
        """Whether manifests and configurations are what their names say."""
        configs = {"sha256:" + (image.config_path or "").rpartition("/")[2] for image in self.look.images}
        packed = {layer.digest for layer in self.look.packed}
        for digest in sorted({image.id for image in self.look.images} | configs | self._manifests()):
            size = self.look.sizes.get(digest)
            if size is None or digest in packed or size > LARGEST_DOCUMENT:
                continue
            name = digest.removeprefix("sha256:")
            try:
                content = self.root.content(BLOBS, name, largest=LARGEST_DOCUMENT)
            except LayerscopeError:
                continue
            if content is not None and (found := hashlib.sha256(content).hexdigest()) != name:
                users = self.users(Node(self.state.namespace, None, digest))
                yield Problem(Code.BLOB_DIGEST, self._blob_path(digest), f"has the digest sha256:{found}", users)

    def _manifests(self) -> set[str]:
        return {layer.manifest for layer in self.look.packed}

    def _layer(self, layer: PackedLayer) -> Iterator[Problem]:
        own = self.state.namespaces.get(self.state.namespace)
        blob = own.blobs.get(layer.digest) if own is not None else None
        manifest = Node(self.state.namespace, None, layer.manifest)
        path, users = self._blob_path(layer.digest), self.users(manifest)
        if blob is None:
            if layer.digest not in self.look.sizes:
                yield Problem(Code.DISCARDED_BLOB, path, f"of the layer {layer.chain_id} is not there", users)
            return
        told = blob.labels.get(UNCOMPRESSED)
        if told is not None and told != layer.diff_id:
            message = f"is labelled as {told}, by the image's configuration it is {layer.diff_id}"
            yield Problem(Code.DIFF_ID, path, message, users)
        size = self.look.sizes.get(layer.digest)
        if size is not None and layer.size_bytes is not None and layer.size_bytes != size == blob.size_bytes:
            message = f"has {size} bytes, by the manifest {layer.size_bytes}"
            yield Problem(Code.BLOB_SIZE, path, message, users)

    def _blob_path(self, digest: str) -> str:
        return self.root.join(BLOBS, digest.removeprefix("sha256:"))

    # -- containers ------------------------------------------------------------------------------------------

    def containers(self) -> Iterator[Problem]:
        for caution in self.look.trouble:
            code = Code.OTHER_DRIVER if caution.code == "other-driver" else Code.BROKEN_CONTAINER
            yield Problem(code, caution.path or self.root.path, caution.message)
        for container in self.look.containers:
            key = self.state.key(self.state.namespace, container.id)
            if key is None and container.state not in _GOING:
                message = f"has no snapshot of the container {container.name}"
                yield Problem(Code.NO_MOUNT, self.state.meta_path, message, (container.name,))


def _familiar(name: str) -> str:
    return name.removeprefix("docker.io/").removeprefix("library/")
