"""All that may refer to the snapshots and blobs of a containerd root, read at one moment.

What ``orphans``, ``owner``, ``df``, ``check`` and ``reuse --remove`` stand on for the containerd image store. Every
namespace counts: what one has forgotten, another may use.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from layerscope.errors import LayerscopeError
from layerscope.model import CacheId, Cautions, ChainId, ContainerId
from layerscope.stores import records
from layerscope.stores.boltvalues import key_of
from layerscope.stores.buildkit import BuildRecord, BuildSnapshot, containerd_metadata, read_containerd_records
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.containerd_records import (
    IngestRecord,
    KeyRecord,
    NamespaceRecords,
    SnapshotRecord,
    read_all_namespaces,
    read_all_snapshots,
)
from layerscope.stores.evidence import Evidence, Unreadable
from layerscope.stores.livemounts import PROC
from layerscope.stores.reachable import Node, Root, kept_by
from layerscope.stores.records import DataRoot
from layerscope.stores.snapshot_mounts import mounted_snapshots
from layerscope.stores.snapshots import META, METADATA, SNAPSHOTTER


@dataclass(slots=True)
class _Read:
    """The pieces, in the order in which they were read."""

    mounts: list[Evidence] = field(default_factory=list)
    snapshots: dict[str, SnapshotRecord] = field(default_factory=dict)
    namespaces: dict[str, NamespaceRecords] = field(default_factory=dict)
    builds: list[BuildRecord] = field(default_factory=list)
    has_builds: bool = False
    containers: set[ContainerId] | None = None
    unreadable: list[Unreadable] = field(default_factory=list)


class ContainerdState:
    """A containerd root at one moment. ``namespace`` is the one that the store shows."""

    def __init__(self, root: DataRoot, docker: DataRoot | None, namespace: str, read: _Read) -> None:
        self.root = root
        self.docker = docker
        self.namespace = namespace
        self.namespaces: Mapping[str, NamespaceRecords] = read.namespaces
        self.snapshots: Mapping[str, SnapshotRecord] = read.snapshots
        """By the name that the snapshotter has for each."""
        self.mounts = read.mounts
        self.builds = read.builds
        self.has_builds = read.has_builds
        """Whether BuildKit's records are here: else nothing says which of its leases are left over."""
        self.containers = read.containers
        """Docker's, by id; None where the engine's data root is not known or can't be read."""
        self.unreadable = read.unreadable
        self.read_ns = time.time_ns()

    @property
    def meta_path(self) -> str:
        return self.root.join(META)

    @property
    def metadata_path(self) -> str:
        return self.root.join(METADATA)

    @property
    def builds_path(self) -> str:
        assert self.docker is not None
        return self.docker.join(containerd_metadata(SNAPSHOTTER))

    @cached_property
    def kept(self) -> dict[Node, tuple[Root, ...]]:
        """What containerd's own collector would keep, and for whose sake."""
        found: dict[Node, tuple[Root, ...]] = {}
        for namespace in self.namespaces.values():
            found.update(kept_by(namespace, self.read_ns))
        return found

    @cached_property
    def numbers(self) -> dict[CacheId, SnapshotRecord]:
        """The snapshots by the names of their directories."""
        return {
            CacheId(str(record.number)): record for record in self.snapshots.values() if record.number is not None
        }

    @cached_property
    def keys(self) -> dict[str, list[tuple[str, KeyRecord]]]:
        """Who knows a snapshot: namespaces with their records, by the snapshotter's name for it."""
        found: dict[str, list[tuple[str, KeyRecord]]] = {}
        for namespace in self.namespaces.values():
            for record in namespace.snapshots.get(SNAPSHOTTER, {}).values():
                found.setdefault(record.name, []).append((namespace.name, record))
        return found

    @cached_property
    def ingests(self) -> dict[str, list[tuple[str, IngestRecord]]]:
        """Downloads that were begun, by the name of their directory (``plugins/content/local``, ``ingestRoot``)."""
        found: dict[str, list[tuple[str, IngestRecord]]] = {}
        for namespace in self.namespaces.values():
            for record in namespace.ingests.values():
                place = "sha256:" + hashlib.sha256(key_of(record.place)).hexdigest()
                found.setdefault(place.removeprefix("sha256:"), []).append((namespace.name, record))
        return found

    @cached_property
    def build_ids(self) -> set[str]:
        return {record.id for record in self.builds}

    def key(self, namespace: str, key: str) -> KeyRecord | None:
        """A snapshot as a namespace knows it."""
        known = self.namespaces.get(namespace)
        return known.snapshots.get(SNAPSHOTTER, {}).get(key) if known is not None else None

    def directory_of(self, namespace: str, key: str) -> CacheId | None:
        """The directory of a snapshot."""
        known = self.key(namespace, key)
        record = self.snapshots.get(known.name) if known is not None else None
        return CacheId(str(record.number)) if record is not None and record.number is not None else None

    def down_from(self, namespace: str, key: str) -> Iterator[KeyRecord]:
        """A snapshot and those below it, top first, as far as they are known."""
        seen: set[str] = set()
        current: str | None = key
        while current is not None and current not in seen:
            seen.add(current)
            record = self.key(namespace, current)
            if record is None:
                return
            yield record
            current = record.parent


def read_containerd_state(disk: ContainerdStore, proc: str = PROC) -> ContainerdState:
    """Read everything. What can't be read is in ``unreadable``, and no error.

    What refers is read after what is referred to: a snapshot is made before its key, and a container after its own.
    """
    root, docker = disk.root, disk.containerdb.root if disk.containerdb is not None else None
    read = _Read()
    for item in mounted_snapshots(root, proc):
        if isinstance(item, Evidence):
            read.mounts.append(item)
        else:
            read.unreadable.append(item)
    _read_databases(read, root)
    if docker is not None:
        _read_builds(read, docker, disk.snapshots.namespace)
        _read_containers(read, docker)
    return ContainerdState(root, docker, disk.snapshots.namespace, read)


def _read_databases(read: _Read, root: DataRoot) -> None:
    try:
        snapshots, namespaces = read_all_snapshots(root), read_all_namespaces(root)
    except LayerscopeError as error:
        read.unreadable.append(Unreadable(root.path, error.message))
        return
    for place, found in ((METADATA, snapshots), (META, namespaces)):
        if found is None:
            read.unreadable.append(
                Unreadable(root.join(place), "is missing, so nothing says which snapshots there are")
            )
    read.snapshots, read.namespaces = snapshots or {}, namespaces or {}
    for record in read.snapshots.values():
        if record.number is None:
            read.unreadable.append(Unreadable(root.join(METADATA), f"{record.name[:80]!r} names no directory"))
    for namespace in read.namespaces.values():
        for key in namespace.snapshots.get(SNAPSHOTTER, {}).values():
            if not key.name:
                read.unreadable.append(Unreadable(root.join(META), f"{key.key[:80]!r} names no snapshot"))


def _read_builds(read: _Read, docker: DataRoot, namespace: str) -> None:
    known = read.namespaces.get(namespace)
    snapshots = {}
    for key, record in known.snapshots.get(SNAPSHOTTER, {}).items() if known is not None else ():
        held = read.snapshots.get(record.name)
        if held is not None and held.number is not None:
            chain_id: ChainId | None = records.chain_id(key)
            cache_id = CacheId(str(held.number))
            snapshots[key] = BuildSnapshot(key, record.parent, cache_id, chain_id, held.size_bytes)
    broken = Cautions()
    try:
        found = read_containerd_records(docker, SNAPSHOTTER, snapshots, broken)
    except LayerscopeError as error:
        read.unreadable.append(Unreadable(docker.join(containerd_metadata(SNAPSHOTTER)), error.message))
        return
    read.has_builds = found is not None
    read.builds = found or []
    for caution in broken:
        read.unreadable.append(Unreadable(caution.path or docker.join("buildkit"), caution.message))


def _read_containers(read: _Read, docker: DataRoot) -> None:
    try:
        if not docker.has_directory("containers"):
            path = docker.join("containers")
            read.unreadable.append(Unreadable(path, "is missing, so nothing says which containers there are"))
            return
        ids = (records.container_id(name) for name in docker.names("containers"))
        read.containers = {identifier for identifier in ids if identifier is not None}
    except LayerscopeError as error:
        read.unreadable.append(Unreadable(docker.join("containers"), error.message))
