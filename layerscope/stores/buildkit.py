"""BuildKit's build cache in the classic store: its records and the directories of ``overlay2/`` that they hold.

Sources: moby ``daemon/internal/builder-next/adapters/snapshot/snapshot.go`` (``snapshots.db``) and BuildKit
``cache/{metadata,manager,refs}.go`` (``metadata_v2.db``). A record has a snapshot. The directory of a snapshot is
named by its key, from a commit on by ``committed``, and by layerdb where the snapshot is a layer of an image that
BuildKit did not make. Which records a running build uses is in the engine's memory only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from layerscope.errors import CorruptStoreError
from layerscope.model import CacheId, Caution, ChainId, Warn
from layerscope.stores import records
from layerscope.stores.boltdb import Bucket, read_bolt
from layerscope.stores.layerdb import LayerDb
from layerscope.stores.records import DataRoot
from layerscope.timestamps import from_nanoseconds

SNAPSHOTS: Final = "buildkit/snapshots.db"
METADATA: Final = "buildkit/metadata_v2.db"
REGULAR: Final = "regular"
_RECORD_ID: Final = re.compile(rb"[0-9a-z]{25}")
_SIZE: Final = re.compile(rb"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class BuildSnapshot:
    """An entry of ``snapshots.db``."""

    key: str
    """BuildKit's id of 25 characters, or the chain_id of an image's layer."""
    parent: str | None
    """The key of the snapshot below."""
    cache_id: CacheId | None
    """Its directory in ``overlay2/``; None when layerdb does not have it."""
    chain_id: ChainId | None
    """What layerdb calls it; None while it is build cache only."""
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """A record of the build cache, as ``docker system df --verbose`` lists it.

    With the containerd image store ``cache_id`` names a snapshot's directory.
    """

    id: str
    kind: str
    """``regular``, ``source.local``, ``exec.cachemount``, ``source.git.checkout``, ``frontend`` or ``internal``."""
    description: str
    """The instruction, mostly: ``mount / from exec /bin/sh -c …``."""
    parent: str | None
    """The record below."""
    snapshot: str
    """The key of its snapshot."""
    cache_id: CacheId | None
    """Its directory in ``overlay2/``; None when the snapshot is gone, or not made yet."""
    chain_id: ChainId | None
    """The layer that it became; None while it is build cache only."""
    size_bytes: int | None
    """As BuildKit recorded it; None as long as nobody asked it for the size."""
    created: str | None
    last_used: str | None
    usage_count: int
    duplicate_of: str | None
    """The record that stands for the same directory; ``docker system df`` lists that one alone."""


@dataclass(frozen=True, slots=True)
class BuildCache:
    """The two databases. They are read one after the other: a build may change one meanwhile."""

    snapshots: tuple[BuildSnapshot, ...] = ()
    """By key."""
    records: tuple[BuildRecord, ...] = ()
    """By id."""

    def shared(self, chain_ids: Collection[ChainId]) -> set[str]:
        """The ids of records that hold layers of images with these ``chain_ids``, or lie below such a record.

        Pruning leaves their directories in place (BuildKit ``cache/manager.go``, ``markShared``).
        """
        by_id = {record.id: record for record in self.records}
        found: set[str] = set()
        for record in self.records:
            below: BuildRecord | None = record if record.chain_id in chain_ids else None
            while below is not None and below.id not in found:
                found.add(below.id)
                below = by_id.get(below.parent) if below.parent is not None else None
        return found


def read_build_cache(root: DataRoot, layerdb: LayerDb, warn: Warn) -> BuildCache:
    """The build cache of a data root, empty where none ever was. A broken record is a warning.

    Raises CorruptStoreError, StoragePermissionError, or StoreBusyError when a database can't be read.
    """
    entries = read_bolt(root, SNAPSHOTS, _contents) or {}
    metadata = read_bolt(root, METADATA, lambda top: _contents(top.bucket(b"_main"))) or {}
    reader = _Reader(root, layerdb, warn)
    snapshots = {key: reader.snapshot(key, entry) for key, entry in entries.items()}
    return BuildCache(tuple(snapshots.values()), tuple(reader.records(metadata, snapshots)))


def read_containerd_records(
    root: DataRoot, snapshotter: str, snapshots: Mapping[str, BuildSnapshot], warn: Warn
) -> list[BuildRecord] | None:
    """The build cache of an engine with the containerd image store; None where there is none.

    Its snapshots are containerd's, by their keys. Raises CorruptStoreError, StoragePermissionError, or
    StoreBusyError.
    """
    place = containerd_metadata(snapshotter)
    metadata = read_bolt(root, place, lambda top: _contents(top.bucket(b"_main")))
    if metadata is None:
        return None
    return list(_Reader(root, LayerDb(root, "", warn), warn, place).records(metadata, snapshots))


def containerd_metadata(snapshotter: str) -> str:
    """Where BuildKit keeps its records when its snapshots are containerd's, relative to the data root."""
    return f"buildkit/containerd-{snapshotter}/metadata_v2.db"


_Entry = Mapping[bytes, bytes]


def _contents(bucket: Bucket | None) -> dict[str, _Entry]:
    """The values of all buckets in a bucket."""
    if bucket is None:
        return {}
    return {key.decode("utf-8", "backslashreplace"): dict(entry.values()) for key, entry in bucket.buckets()}


class _Reader:
    def __init__(self, root: DataRoot, layerdb: LayerDb, warn: Warn, metadata: str = METADATA) -> None:
        self.root = root
        self.layerdb = layerdb
        self.warn = warn
        self.metadata = metadata

    def snapshot(self, key: str, entry: _Entry) -> BuildSnapshot:
        chain_id = records.chain_id(key) or records.chain_id(_text(entry.get(b"chainid")))
        committed = _text(entry.get(b"committed"))
        size = entry.get(b"size", b"")
        if chain_id is not None and committed is None:
            cache_id = self._layer_directory(chain_id)
        else:
            cache_id = records.cache_id(committed or key)
            if cache_id is None:
                self._warn(SNAPSHOTS, key, f"names no directory of overlay2: {(committed or key)[:80]!r}")
        return BuildSnapshot(
            key=key,
            parent=_text(entry.get(b"parent")),
            cache_id=cache_id,
            chain_id=chain_id,
            size_bytes=int(size) if _SIZE.fullmatch(size) else None,
        )

    def _layer_directory(self, chain_id: ChainId) -> CacheId | None:
        try:
            layer = self.layerdb.layer(chain_id)
        except CorruptStoreError as error:
            self.warn(Caution("broken-build-record", self.root.join(SNAPSHOTS), error.message))
            return None
        return layer.cache_id if layer is not None else None

    def records(
        self, metadata: Mapping[str, _Entry], snapshots: Mapping[str, BuildSnapshot]
    ) -> Iterable[BuildRecord]:
        values = {identifier: self._values(identifier, entry) for identifier, entry in metadata.items()}
        for identifier, value in values.items():
            twin = _string(value, "cache.equalMutable")
            holder = twin or identifier
            key = _string(values.get(holder, {}), "cache.snapshot") or holder
            snapshot = snapshots.get(key)
            yield BuildRecord(
                id=identifier,
                kind=_string(value, "cache.recordType") or REGULAR,
                description=_string(value, "cache.description") or "",
                parent=_string(value, "cache.parent"),
                snapshot=key,
                cache_id=snapshot.cache_id if snapshot is not None else None,
                chain_id=snapshot.chain_id if snapshot is not None else None,
                size_bytes=_size(value, snapshot),
                created=_time(value, "cache.createdAt"),
                last_used=_time(value, "cache.lastUsedAt"),
                usage_count=_number(value, "cache.usageCount") or 0,
                duplicate_of=twin,
            )

    def _values(self, identifier: str, entry: _Entry) -> dict[str, object]:
        """The values of a record; one that can't be read is left out, and an emptied one is None."""
        if not _RECORD_ID.fullmatch(identifier.encode()):
            self._warn(self.metadata, identifier, "is no id of a record")
        found: dict[str, object] = {}
        for name, text in entry.items():
            try:
                value = json.loads(text) if text else {}
                found[name.decode()] = value.get("value") if isinstance(value, dict) else None
            except (ValueError, RecursionError) as error:
                self._warn(self.metadata, identifier, f"has no readable {name[:80]!r} ({str(error)[:80]})")
        return found

    def _warn(self, place: str, key: str, what: str) -> None:
        self.warn(Caution("broken-build-record", self.root.join(place), f"{key[:80]!r} {what}"))


def _text(value: bytes | None) -> str | None:
    return value.decode("utf-8", "backslashreplace") if value else None


def _string(values: Mapping[str, object], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) and value else None


def _number(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _time(values: Mapping[str, object], name: str) -> str | None:
    nanoseconds = _number(values, name)
    return from_nanoseconds(nanoseconds) if nanoseconds is not None else None


def _size(values: Mapping[str, object], snapshot: BuildSnapshot | None) -> int | None:
    recorded = _number(values, "snapshot.size")
    return recorded if recorded is not None or snapshot is None else snapshot.size_bytes
