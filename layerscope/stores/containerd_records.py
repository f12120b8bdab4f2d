"""All that containerd's databases record: ``meta.db`` of every namespace, ``metadata.db`` of the snapshotter.

Sources: containerd ``core/metadata/buckets.go`` and ``core/snapshots/storage/bolt.go``. Each database is read
in one transaction; what a value can't be is left out here and counts as no reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from layerscope.stores.boltdb import Bucket, read_bolt
from layerscope.stores.boltvalues import text_of, time_of, uvarint_of, varint_of
from layerscope.stores.records import DataRoot
from layerscope.stores.snapshots import META, METADATA, Kind

Labels = Mapping[str, str]
_KINDS: Final = {bytes([kind]): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A snapshot as a client knows it."""

    key: str
    name: str
    """What the snapshotter calls it; empty where the record is damaged."""
    parent: str | None
    """The key of the snapshot below."""
    labels: Labels


@dataclass(frozen=True, slots=True)
class BlobRecord:
    digest: str
    size_bytes: int | None
    labels: Labels


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a client keeps until it is done with it."""

    id: str
    created_ns: int | None
    labels: Labels
    snapshots: tuple[tuple[str, str], ...]
    """Snapshotter and key of each."""
    content: tuple[str, ...]
    images: tuple[str, ...]
    ingests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NameRecord:
    """The name of an image."""

    name: str
    target: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class ContainerEntry:
    """A container; Docker's name no snapshot."""

    id: str
    snapshotter: str
    snapshot: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class IngestRecord:
    """A download that was begun."""

    ref: str
    place: str
    """Its name in the content store: the SHA-256 of that names its directory."""
    expires_ns: int | None
    expected: str | None


@dataclass(frozen=True, slots=True)
class NamespaceRecords:
    name: str
    images: Mapping[str, NameRecord]
    containers: Mapping[str, ContainerEntry]
    snapshots: Mapping[str, Mapping[str, KeyRecord]]
    """By snapshotter, then by key."""
    blobs: Mapping[str, BlobRecord]
    leases: Mapping[str, LeaseRecord]
    ingests: Mapping[str, IngestRecord]
    sandboxes: Mapping[str, Labels]


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot as its snapshotter knows it."""

    name: str
    number: int | None
    """Of its directory; None where the record is damaged."""
    parent: str | None
    kind: Kind | None
    size_bytes: int | None
    inodes: int | None

    @property
    def key(self) -> str:
        """What its client calls it."""
        return self.name.split("/", 2)[-1]


def read_all_namespaces(root: DataRoot) -> dict[str, NamespaceRecords] | None:
    """Every namespace by name; None without a ``meta.db``.

    Raises CorruptStoreError, StoragePermissionError, or StoreBusyError.
    """
    return read_bolt(root, META, lambda top: {text: _namespace(text, b) for text, b in _named(top, b"v1")})


def read_all_snapshots(root: DataRoot) -> dict[str, SnapshotRecord] | None:
    """Every snapshot of the snapshotter by name; None without a ``metadata.db``.

    Raises CorruptStoreError, StoragePermissionError, or StoreBusyError.
    """
    return read_bolt(root, METADATA, _snapshots)


def _namespace(name: str, bucket: Bucket) -> NamespaceRecords:
    return NamespaceRecords(
        name,
        {text: _image(text, record) for text, record in _named(bucket, b"images")},
        {text: _container(text, record) for text, record in _named(bucket, b"containers")},
        {
            snapshotter: {text_of(key): _key(text_of(key), record) for key, record in keys.buckets()}
            for snapshotter, keys in _named(bucket, b"snapshots")
        },
        {text: _blob(text, record) for text, record in _named(bucket, b"content", b"blob")},
        {text: _lease(text, record) for text, record in _named(bucket, b"leases")},
        {text: _ingest(text, record) for text, record in _named(bucket, b"content", b"ingests")},
        {text: _Fields(record).labels for text, record in _named(bucket, b"sandboxes")},
    )


def _named(bucket: Bucket, *path: bytes) -> Iterator[tuple[str, Bucket]]:
    """The buckets in the bucket at a path."""
    below = bucket.bucket(*path)
    for key, record in below.buckets() if below is not None else ():
        yield text_of(key), record


class _Fields:
    """A record, read at once: field by field would look each up from the top."""

    def __init__(self, record: Bucket) -> None:
        self.values: dict[bytes, bytes] = {}
        self.buckets: dict[bytes, Bucket] = {}
        for key, value in record.items():
            if isinstance(value, Bucket):
                self.buckets[key] = value
            else:
                self.values[key] = value

    def text(self, name: bytes) -> str:
        return text_of(self.values.get(name))

    def keys(self, name: bytes) -> tuple[str, ...]:
        """The keys of a bucket in the record."""
        below = self.buckets.get(name)
        return tuple(text_of(key) for key, _ in below.items()) if below is not None else ()

    @property
    def labels(self) -> Labels:
        below = self.buckets.get(b"labels")
        return {text_of(key): text_of(value) for key, value in below.values()} if below is not None else {}


def _image(name: str, record: Bucket) -> NameRecord:
    fields = _Fields(record)
    target = fields.buckets.get(b"target")
    return NameRecord(name, text_of(target.get(b"digest")) if target is not None else "", fields.labels)


def _container(name: str, record: Bucket) -> ContainerEntry:
    fields = _Fields(record)
    return ContainerEntry(name, fields.text(b"snapshotter"), fields.text(b"snapshotKey"), fields.labels)


def _key(key: str, record: Bucket) -> KeyRecord:
    fields = _Fields(record)
    return KeyRecord(key, fields.text(b"name"), fields.text(b"parent") or None, fields.labels)


def _blob(digest: str, record: Bucket) -> BlobRecord:
    fields = _Fields(record)
    return BlobRecord(digest, varint_of(fields.values.get(b"size")), fields.labels)


def _lease(identifier: str, record: Bucket) -> LeaseRecord:
    fields = _Fields(record)
    below = fields.buckets.get(b"snapshots")
    snapshots = [
        (text_of(name), text_of(key))
        for name, keys in (below.buckets() if below is not None else ())
        for key, _ in keys.items()
    ]
    return LeaseRecord(
        identifier,
        time_of(fields.values.get(b"createdat")),
        fields.labels,
        tuple(snapshots),
        fields.keys(b"content"),
        fields.keys(b"images"),
        fields.keys(b"ingests"),
    )


def _ingest(ref: str, record: Bucket) -> IngestRecord:
    fields = _Fields(record)
    expires = time_of(fields.values.get(b"expireat"))
    return IngestRecord(ref, fields.text(b"ref"), expires, fields.text(b"expected") or None)


def _snapshots(top: Bucket) -> dict[str, SnapshotRecord]:
    return {name: _snapshot(name, record) for name, record in _named(top, b"v1", b"snapshots")}


def _snapshot(name: str, record: Bucket) -> SnapshotRecord:
    fields = _Fields(record)
    return SnapshotRecord(
        name,
        uvarint_of(fields.values.get(b"id")) or None,
        fields.text(b"parent") or None,
        _KINDS.get(fields.values.get(b"kind", b"")),
        varint_of(fields.values.get(b"size")),
        varint_of(fields.values.get(b"inodes")),
    )
