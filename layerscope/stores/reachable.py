"""What containerd's garbage collection would keep, and for whose sake. Pure.

Source: containerd ``core/metadata/gc.go`` (``scanRoots``, ``references``) and ``docs/garbage-collection.md``. Each
namespace is collected for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from layerscope.stores.containerd_records import Labels, LeaseRecord, NamespaceRecords
from layerscope.timestamps import from_rfc3339

ROOT: Final = "containerd.io/gc.root"
EXPIRES: Final = "containerd.io/gc.expire"
FLAT: Final = "containerd.io/gc.flat"
_CONTENT: Final = "containerd.io/gc.ref.content"
_SNAPSHOT: Final = "containerd.io/gc.ref.snapshot."


class RootKind(StrEnum):
    """What keeps objects."""

    IMAGE = "image"
    CONTAINER = "container"
    LEASE = "lease"
    LABEL = "label"
    """The object itself is labelled as a root."""
    INGEST = "ingest"
    SANDBOX = "sandbox"


class Root(NamedTuple):
    """Something that keeps objects of its namespace: the name of an image, the id of a lease…"""

    kind: RootKind
    namespace: str
    holder: str


class Node(NamedTuple):
    """A snapshot, or a blob (without a snapshotter)."""

    namespace: str
    snapshotter: str | None
    key: str


@dataclass(frozen=True, slots=True)
class _Start:
    root: Root
    nodes: tuple[Node, ...]
    flat: bool = False


def kept_by(records: NamespaceRecords, now_ns: int) -> dict[Node, tuple[Root, ...]]:
    """Every snapshot and blob that the collector would keep, with what it is kept for."""
    edges = _Edges(records)
    found: dict[Node, list[Root]] = {}
    for start in _starts(records, edges, now_ns):
        for node in _reach(start, edges):
            found.setdefault(node, []).append(start.root)
    return {node: tuple(dict.fromkeys(roots)) for node, roots in found.items()}


def is_expired(labels: Labels, now_ns: int) -> bool:
    """Whether a lease, or an image, is past the time to which it keeps anything."""
    told = from_rfc3339(labels.get(EXPIRES))
    return told is not None and datetime.fromisoformat(told).timestamp() * 1e9 < now_ns


class _Edges:
    """What refers to what, by labels and parents."""

    def __init__(self, records: NamespaceRecords) -> None:
        self.records = records

    def of(self, node: Node, flat: bool) -> Iterator[Node]:
        if node.snapshotter is None:
            blob = self.records.blobs.get(node.key)
            if blob is not None and not flat:
                yield from self.labelled(blob.labels)
            return
        record = self.records.snapshots.get(node.snapshotter, {}).get(node.key)
        if record is not None:
            if record.parent is not None:
                yield Node(node.namespace, node.snapshotter, record.parent)
            if not flat:
                yield from self.labelled(record.labels)

    def labelled(self, labels: Labels) -> Iterator[Node]:
        for label, value in labels.items():
            if label.startswith(_CONTENT) and label[len(_CONTENT) :][:1] in ("", ".", "/"):
                yield Node(self.records.name, None, value)
            elif label.startswith(_SNAPSHOT):
                snapshotter = label.removeprefix(_SNAPSHOT).partition("/")[0]
                yield Node(self.records.name, snapshotter, value)

    def image(self, name: str) -> Iterator[Node]:
        image = self.records.images.get(name)
        if image is not None:
            yield Node(self.records.name, None, image.target)
            yield from self.labelled(image.labels)


def _starts(records: NamespaceRecords, edges: _Edges, now_ns: int) -> Iterator[_Start]:
    name = records.name
    for image in records.images.values():
        if not is_expired(image.labels, now_ns):
            yield _Start(Root(RootKind.IMAGE, name, image.name), tuple(edges.image(image.name)))
    for container in records.containers.values():
        own = [Node(name, container.snapshotter, container.snapshot)] if container.snapshot else []
        nodes = (*own, *edges.labelled(container.labels))
        yield _Start(Root(RootKind.CONTAINER, name, container.id), nodes)
    for lease in records.leases.values():
        if not is_expired(lease.labels, now_ns):
            nodes = tuple(_leased(lease, records, edges))
            yield _Start(Root(RootKind.LEASE, name, lease.id), nodes, flat=FLAT in lease.labels)
    for blob in records.blobs.values():
        if ROOT in blob.labels:
            yield _Start(Root(RootKind.LABEL, name, blob.digest), (Node(name, None, blob.digest),))
    for snapshotter, keys in records.snapshots.items():
        for key in keys.values():
            if ROOT in key.labels:
                yield _Start(Root(RootKind.LABEL, name, key.key), (Node(name, snapshotter, key.key),))
    for ingest in records.ingests.values():
        if ingest.expected is not None and ingest.expires_ns is not None and ingest.expires_ns >= now_ns:
            yield _Start(Root(RootKind.INGEST, name, ingest.ref), (Node(name, None, ingest.expected),))
    for sandbox, labels in records.sandboxes.items():
        yield _Start(Root(RootKind.SANDBOX, name, sandbox), tuple(edges.labelled(labels)))


def _leased(lease: LeaseRecord, records: NamespaceRecords, edges: _Edges) -> Iterator[Node]:
    for snapshotter, key in lease.snapshots:
        yield Node(records.name, snapshotter, key)
    for digest in lease.content:
        yield Node(records.name, None, digest)
    for image in lease.images:
        yield from edges.image(image)


def _reach(start: _Start, edges: _Edges) -> Iterable[Node]:
    seen: dict[Node, None] = {}
    pending = list(start.nodes)[::-1]
    while pending:
        node = pending.pop()
        if node not in seen:
            seen[node] = None
            pending += edges.of(node, start.flat)
    return seen
