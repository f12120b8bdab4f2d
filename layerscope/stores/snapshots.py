"""containerd's snapshots: which directory holds a layer, and what lies below it.

Sources: containerd ``core/metadata/buckets.go`` (``meta.db``: the keys that a namespace's clients use) and
``core/snapshots/storage/bolt.go`` (``metadata.db``: the snapshotter's own). Both know what lies below a snapshot.
The snapshotter's record is what it mounts, so it decides; where the other says something else, that is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NoReturn

from layerscope.errors import CorruptStoreError
from layerscope.model import CacheId, Warn
from layerscope.stores.boltdb import Bucket, read_bolt
from layerscope.stores.boltvalues import key_of, text_of, uvarint_of, varint_of
from layerscope.stores.records import DataRoot
from layerscope.stores.stacks import chain_mismatch

META: Final = "io.containerd.metadata.v1.bolt/meta.db"
SNAPSHOTTER: Final = "overlayfs"
"""The snapshotter whose directories are overlayfs layers."""
_BASE: Final = f"io.containerd.snapshotter.v1.{SNAPSHOTTER}"
METADATA: Final = f"{_BASE}/metadata.db"
DIRECTORIES: Final = f"{_BASE}/snapshots"


class Kind(IntEnum):
    """What a snapshot is for (``core/snapshots/snapshotter.go``)."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


_KINDS: Final = {bytes([kind]) for kind in Kind}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot, as its snapshotter records it."""

    name: str
    """``<namespace>/<number>/<key>``."""
    cache_id: CacheId
    """The name of its directory, a number."""
    parent: str | None
    """The name of the snapshot below."""
    kind: Kind | None
    size_bytes: int | None
    """Disk space of its files and directories, each inode once; None until it is committed."""

    @property
    def key(self) -> str:
        """What its client calls it. It may hold slashes itself."""
        return self.name.split("/", 2)[-1]


class SnapshotDb:
    """The snapshots of a namespace in a containerd root."""

    def __init__(self, root: DataRoot, namespace: str, warn: Warn) -> None:
        self.root = root
        self.namespace = namespace
        self.warn = warn
        self._known: dict[str, Snapshot] = {}

    def chain(self, key: str) -> list[Snapshot] | None:
        """A snapshot and all below it, base first; None when there is none of that ``key``.

        Raises CorruptStoreError, StoragePermissionError, or StoreBusyError.
        """
        named = read_bolt(self.root, META, lambda top: self._names(top, key))
        if not named:
            return None
        top = next(iter(named.values()))
        found = read_bolt(self.root, METADATA, lambda bucket: self._records(bucket, top))
        if found is None:
            raise CorruptStoreError(
                f"{self.root.join(METADATA)} does not exist",
                "the directories of the layers can't be told without it; copy it with the rest of the disk",
            )
        self._known.update(found)
        chain = [*self._down_from(top)][::-1]
        missing = chain[0].parent if chain else top
        if missing is not None:
            raise CorruptStoreError(
                f"the snapshot {missing} is not in {self.root.join(METADATA)}",
                "something of this chain was removed or damaged; `layerscope ls` shows what is whole",
            )
        keys = [snapshot.key for snapshot in chain]
        caution = chain_mismatch(
            self.root.path, f"the snapshot {key}", "meta.db", [*named][::-1], "metadata.db", keys
        )
        if caution is not None:
            self.warn(caution)
        return chain

    def _down_from(self, name: str) -> Iterator[Snapshot]:
        current: str | None = name
        while current is not None and current in self._known:
            yield self._known[current]
            current = self._known[current].parent

    def directory(self, snapshot: Snapshot) -> str:
        """The absolute path of a snapshot's content. Raises CorruptStoreError when there is none."""
        place = (DIRECTORIES, snapshot.cache_id, "fs")
        if not self.root.has_directory(*place):
            raise CorruptStoreError(
                f"the layer directory {self.root.join(*place)} is missing",
                "this layer's content is gone from the disk: remove the image or container and get it again",
            )
        return self.root.join(*place)

    def _names(self, top: Bucket, key: str) -> dict[str, str]:
        """The keys from ``key`` down to the base, and the snapshotter's name of each."""
        keys = top.bucket(b"v1", key_of(self.namespace), b"snapshots", SNAPSHOTTER.encode())
        found: dict[str, str] = {}
        current = key
        while keys is not None and current and current not in found:
            record = keys.bucket(key_of(current))
            name = record.get(b"name") if record is not None else None
            if record is None or not name:
                break
            found[current] = text_of(name)
            current = text_of(record.get(b"parent"))
        if current in found:
            self._refuse_circle(current, META)
        return found

    def _records(self, top: Bucket, name: str) -> dict[str, Snapshot]:
        """The snapshots from ``name`` down to one that is known already."""
        names = top.bucket(b"v1", b"snapshots")
        found: dict[str, Snapshot] = {}
        current: str | None = name
        while names is not None and current is not None and current not in self._known and current not in found:
            record = names.bucket(key_of(current))
            if record is None:
                break
            found[current] = self._snapshot(current, record)
            current = found[current].parent
        if current is not None and current in found:
            self._refuse_circle(current, METADATA)
        return found

    def _snapshot(self, name: str, record: Bucket) -> Snapshot:
        number = uvarint_of(record.get(b"id"))
        if not number:
            raise CorruptStoreError(
                f"the snapshot {name} has no valid id in {self.root.join(METADATA)}",
                "the record is damaged; remove what uses it and get it again",
            )
        kind, size = record.get(b"kind") or b"", varint_of(record.get(b"size"))
        return Snapshot(
            name=name,
            cache_id=CacheId(str(number)),
            parent=text_of(record.get(b"parent")) or None,
            kind=Kind(kind[0]) if kind in _KINDS else None,
            size_bytes=size if size is not None and size >= 0 else None,
        )

    def _refuse_circle(self, key: str, place: str) -> NoReturn:
        raise CorruptStoreError(
            f"the snapshot {key} is its own ancestor in {self.root.join(place)}",
            "the records of parents go in a circle; they are damaged",
        )
