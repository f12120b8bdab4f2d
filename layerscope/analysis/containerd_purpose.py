"""What each snapshot and blob of a containerd root is there for, with the evidence. Reads nothing.

A lease counts for who took it: Docker takes one a container, named by its id, and BuildKit one a record of its
cache, named by the record's (moby ``daemon/containerd/image_snapshot.go``; BuildKit ``cache/manager.go``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import cached_property
from typing import Final

from layerscope.analysis.containerd_state import ContainerdState
from layerscope.analysis.purpose import Purpose
from layerscope.model import CacheId, ContainerId
from layerscope.stores import records
from layerscope.stores.containerd import INIT
from layerscope.stores.containerd_records import KeyRecord
from layerscope.stores.evidence import Evidence, Witness
from layerscope.stores.reachable import Node, Root, RootKind
from layerscope.stores.snapshots import SNAPSHOTTER

HISTORY: Final = "_history"
"""How the namespace ends in which BuildKit keeps what it tells of past builds."""
TEMPORARY: Final = "buildkit/lease.temporary"
_BUILD_LEASE: Final = re.compile(r"([0-9a-z]{25})(?:-view|-variants)?")
_WITNESSES: Final = {
    RootKind.IMAGE: Witness.IMAGE,
    RootKind.CONTAINER: Witness.CONTAINER,
    RootKind.LEASE: Witness.LEASE,
    RootKind.LABEL: Witness.LABEL,
    RootKind.INGEST: Witness.INGEST,
    RootKind.SANDBOX: Witness.SANDBOX,
}
_BLOB_PURPOSES: Final = {
    Purpose.IMAGE: Purpose.IMAGE_BLOB,
    Purpose.BUILD: Purpose.BUILD_BLOB,
    Purpose.LOWER: Purpose.HELD,
}
NOBODY: Final = CacheId("")
"""For evidence of blobs, which are no directories."""


class _Sake(IntEnum):
    """For whose sake containerd keeps something, the weightiest first."""

    IMAGE = 0
    CONTAINER = 1
    BUILD = 2
    HISTORY = 3
    OTHER = 4
    NOBODY = 5
    """A lease that is left over."""


_PURPOSES: Final = {
    _Sake.IMAGE: Purpose.IMAGE,
    _Sake.CONTAINER: Purpose.LOWER,
    _Sake.BUILD: Purpose.BUILD,
    _Sake.HISTORY: Purpose.HISTORY,
    _Sake.OTHER: Purpose.HELD,
    _Sake.NOBODY: Purpose.LEAKED_LEASE,
}


class ContainerdPurposes:
    """Knows the class of every snapshot and blob of a state."""

    def __init__(self, state: ContainerdState, chains: Iterable[str]) -> None:
        """``chains`` are the chain_ids of the layers of all images that can be read."""
        self.state = state
        self.chains = frozenset(chains)

    # -- snapshots -------------------------------------------------------------------------------------------

    def of_directory(self, cache_id: CacheId) -> tuple[Purpose, tuple[Evidence, ...]]:
        """The class of a directory of the snapshotter, and what it follows from."""
        record = self.state.numbers.get(cache_id)
        mounted = self._mounted.get(cache_id, [])
        if record is None:
            return (Purpose.MOUNTED if mounted else Purpose.UNREFERENCED), tuple(mounted)
        evidence = [Evidence(cache_id, Witness.SNAPSHOT, record.name, self.state.metadata_path)]
        found = []
        for namespace, key in self.state.keys.get(record.name, ()):
            purpose, said = self._of_key(cache_id, namespace, key)
            found.append(purpose)
            evidence += said
        purpose = min(found, key=_ORDER.index, default=Purpose.UNKEYED)
        if mounted and purpose in (Purpose.GARBAGE, Purpose.UNKEYED):
            purpose = Purpose.MOUNTED
        return purpose, (*evidence, *mounted)

    @cached_property
    def _mounted(self) -> dict[CacheId, list[Evidence]]:
        found: dict[CacheId, list[Evidence]] = {}
        for evidence in self.state.mounts:
            found.setdefault(evidence.cache_id, []).append(evidence)
        return found

    def _of_key(self, cache_id: CacheId, namespace: str, key: KeyRecord) -> tuple[Purpose, list[Evidence]]:
        node = Node(namespace, SNAPSHOTTER, key.key)
        roots = self.state.kept.get(node, ())
        said = [Evidence(cache_id, Witness.KEY, namespace, self.state.meta_path)]
        own = self._own_container(namespace, key.key)
        if own is not None:
            witness = Witness.INIT if key.key.endswith(INIT) else Witness.UPPER
            said.append(Evidence(cache_id, witness, own, self.state.meta_path))
        said += self._roots(cache_id, node, roots)
        said += self._builds(cache_id, namespace, key.key)
        if own is not None and self._exists(own):
            docker = self.state.docker
            assert docker is not None
            said.append(Evidence(cache_id, Witness.CONTAINER, own, docker.join("containers", own)))
        entry = self._entries.get(node)
        if entry is not None or (own is not None and self._exists(own)):
            below_image = key.key.endswith(INIT) and any(root.kind is RootKind.IMAGE for root in roots)
            if not below_image:
                return (Purpose.INIT if key.key.endswith(INIT) and own is not None else Purpose.UPPER), said
        return self._kept_for(node, roots, own), said

    def _kept_for(self, node: Node, roots: tuple[Root, ...], own: ContainerId | None) -> Purpose:
        sake = min((self._sake(root) for root in roots), default=None)
        if node.key in self.chains and node.namespace == self.state.namespace:
            sake = _Sake.IMAGE
        elif node in self._below_containers:
            sake = min(sake if sake is not None else _Sake.CONTAINER, _Sake.CONTAINER)
        elif sake in (None, _Sake.NOBODY) and node in self._build_nodes:
            sake = _Sake.BUILD
        if sake is None:
            return Purpose.GARBAGE
        if sake is _Sake.NOBODY and own is not None:
            return Purpose.LEAKED_INIT if node.key.endswith(INIT) else Purpose.LEAKED_UPPER
        return _PURPOSES[sake]

    def _own_container(self, namespace: str, key: str) -> ContainerId | None:
        """The Docker container whose upper or init layer a snapshot is, by its key."""
        return records.container_id(key.removesuffix(INIT)) if namespace == self.state.namespace else None

    def _exists(self, identifier: ContainerId) -> bool:
        return self.state.containers is not None and identifier in self.state.containers

    @cached_property
    def _entries(self) -> dict[Node, str]:
        """The snapshots that containers of containerd itself write to, as nerdctl and Kubernetes make them."""
        return {
            Node(namespace.name, one.snapshotter, one.snapshot): one.id
            for namespace in self.state.namespaces.values()
            for one in namespace.containers.values()
            if one.snapshot
        }

    @cached_property
    def _below_containers(self) -> set[Node]:
        found: set[Node] = set()
        for identifier in self.state.containers or ():
            for record in self.state.down_from(self.state.namespace, identifier):
                node = Node(self.state.namespace, SNAPSHOTTER, record.key)
                if node in found:
                    break
                found.add(node)
        return found

    @cached_property
    def _build_nodes(self) -> set[Node]:
        found: set[Node] = set()
        for build in self.state.builds:
            for record in self.state.down_from(self.state.namespace, build.snapshot):
                found.add(Node(self.state.namespace, SNAPSHOTTER, record.key))
        return found

    # -- who keeps it ----------------------------------------------------------------------------------------

    def purpose_of_root(self, root: Root) -> Purpose:
        """The class of what nothing but this keeps."""
        return _PURPOSES[self._sake(root)]

    def _sake(self, root: Root) -> _Sake:
        if root.kind is RootKind.IMAGE:
            return _Sake.IMAGE
        if root.kind is RootKind.CONTAINER:
            return _Sake.CONTAINER
        if root.namespace.endswith(HISTORY):
            return _Sake.HISTORY
        return self.lease_sake(root) if root.kind is RootKind.LEASE else _Sake.OTHER

    def lease_sake(self, root: Root) -> _Sake:
        """Whose a lease is, by its id; of Docker's namespace it can be told when the one who took it is gone."""
        lease = self.state.namespaces[root.namespace].leases[root.holder]
        if root.namespace != self.state.namespace or self.state.docker is None:
            return _Sake.OTHER
        if TEMPORARY in lease.labels:
            return _Sake.BUILD
        container = records.container_id(lease.id)
        if container is not None and self.state.containers is not None:
            return _Sake.CONTAINER if container in self.state.containers else _Sake.NOBODY
        build = _BUILD_LEASE.fullmatch(lease.id)
        if build is not None:
            if build[1] in self.state.build_ids:
                return _Sake.BUILD
            return _Sake.NOBODY if self.state.has_builds else _Sake.OTHER
        return _Sake.OTHER

    def _roots(self, cache_id: CacheId, node: Node, roots: tuple[Root, ...]) -> Iterator[Evidence]:
        """The images, and the leases on this very thing; those on what lies above where there is nothing else."""
        direct = [root for root in roots if root.kind is not RootKind.LEASE or node in self._leased(root)]
        for root in direct or roots:
            holder = root.holder if root.namespace == self.state.namespace else f"{root.namespace}: {root.holder}"
            yield Evidence(cache_id, _WITNESSES[root.kind], holder, self.state.meta_path)

    def _leased(self, root: Root) -> set[Node]:
        if root not in self._leases:
            lease = self.state.namespaces[root.namespace].leases[root.holder]
            self._leases[root] = {Node(root.namespace, *resource) for resource in lease.snapshots} | {
                Node(root.namespace, None, digest) for digest in lease.content
            }
        return self._leases[root]

    @cached_property
    def _leases(self) -> dict[Root, set[Node]]:
        return {}

    def _builds(self, cache_id: CacheId, namespace: str, key: str) -> Iterator[Evidence]:
        if namespace == self.state.namespace:
            for build in self._builds_by_key.get(key, ()):
                yield Evidence(cache_id, Witness.BUILD_RECORD, build, self.state.builds_path)

    @cached_property
    def _builds_by_key(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for build in self.state.builds:
            found.setdefault(build.snapshot, []).append(build.id)
        return found

    # -- blobs -----------------------------------------------------------------------------------------------

    def of_blob(self, digest: str) -> tuple[Purpose, tuple[Evidence, ...]]:
        """The class of a blob, and what it follows from."""
        found, evidence = [], []
        for namespace in self.state.namespaces.values():
            node = Node(namespace.name, None, digest)
            roots = self.state.kept.get(node, ())
            if digest in namespace.blobs:
                evidence.append(Evidence(NOBODY, Witness.KEY, namespace.name, self.state.meta_path))
                if not roots:
                    found.append(Purpose.GARBAGE)
            if roots:
                evidence += self._roots(NOBODY, node, roots)
                purpose = _PURPOSES[min(self._sake(root) for root in roots)]
                found.append(_BLOB_PURPOSES.get(purpose, purpose))
        return min(found, key=_ORDER.index, default=Purpose.UNREFERENCED), tuple(evidence)

    def of_ingest(self, name: str) -> tuple[Purpose, tuple[Evidence, ...]]:
        """The class of a download, by the name of its directory."""
        records_ = self.state.ingests.get(name, ())
        evidence = tuple(Evidence(NOBODY, Witness.INGEST, one.ref, self.state.meta_path) for _, one in records_)
        alive = any(one.expires_ns is None or one.expires_ns >= self.state.read_ns for _, one in records_)
        if not records_:
            return Purpose.UNFINISHED, evidence
        return (Purpose.DOWNLOAD if alive else Purpose.GARBAGE), evidence


_ORDER: Final = list(Purpose)
