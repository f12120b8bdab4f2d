"""The classic layer store, ``image/<driver>/layerdb``: which directory holds a layer, and what mounts it.

Source: moby ``daemon/internal/layer/filestore.go``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

from layerscope.errors import CorruptStoreError
from layerscope.model import CacheId, Caution, ChainId, DiffId, Warn
from layerscope.stores import images, records
from layerscope.stores.records import DataRoot

LONGEST_SIZE: Final = 18
"""Digits of an exabyte: a longer number is no size, and may be longer than Python converts."""


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer of the store."""

    chain_id: ChainId
    diff_id: DiffId
    cache_id: CacheId
    parent: ChainId | None
    size_bytes: int | None
    """As Docker counted it when it made the layer; None when the record is missing or no number."""


@dataclass(frozen=True, slots=True)
class MountRecord:
    """The read-write layer of a container."""

    mount_id: CacheId
    init_id: CacheId | None
    parent: ChainId | None
    """chain_id of the image's top layer; None for an image without layers."""


class LayerDb:
    """The layers below ``image/<driver>/layerdb`` of a data root."""

    def __init__(self, root: DataRoot, driver: str, warn: Warn) -> None:
        self.root = root
        self.warn = warn
        self.driver = driver
        self.base = f"image/{driver}/layerdb"
        self._layers: dict[ChainId, LayerRecord | None] = {}
        self._held: dict[str, DataRoot] = {}
        """The directories in which the records are, kept open: thousands of records are read in them."""

    def place(self, chain_id: ChainId) -> str:
        """Where the record of a layer lies, relative to the data root."""
        return f"{self.base}/sha256/{chain_id.removeprefix('sha256:')}"

    def all(self) -> list[ChainId]:
        """The layers that have a record, whole or not, sorted. Raises CorruptStoreError.

        Other names, such as ``<id>-<random>-removing``, are no layers.
        """
        names = (f"sha256:{name}" for name in self.root.names(self.base, "sha256"))
        return [chain_id for name in names if (chain_id := records.chain_id(name)) is not None]

    def layer(self, chain_id: ChainId) -> LayerRecord | None:
        """The record of a layer; None when the store has none. Raises CorruptStoreError."""
        if chain_id not in self._layers:
            self._layers[chain_id] = self._read_layer(chain_id)
        return self._layers[chain_id]

    def _read_layer(self, chain_id: ChainId) -> LayerRecord | None:
        with self._record("sha256", chain_id.removeprefix("sha256:")) as record:
            return self._layer(chain_id, record) if record is not None else None

    def _layer(self, chain_id: ChainId, record: DataRoot) -> LayerRecord:
        cache_id = records.cache_id(record.text("cache-id"))
        if cache_id is None:
            self._corrupt(record, "cache-id", f"names no directory of {self.driver}")
        diff_id = records.diff_id(record.text("diff"))
        if diff_id is None:
            self._corrupt(record, "diff", "holds no diff_id")
        parent = self._parent(record)
        made_of = images.chain_id(parent, diff_id)
        if made_of != chain_id:
            message = f"holds the layer {diff_id} on {parent or 'nothing'}, whose chain_id is {made_of}"
            self.warn(Caution("layerdb-mismatch", record.path, message))
        return LayerRecord(chain_id, diff_id, cache_id, parent, self._size(record))

    def _parent(self, record: DataRoot) -> ChainId | None:
        text = record.text("parent")
        parent = records.chain_id(text)
        if text is not None and parent is None:
            self._corrupt(record, "parent", "holds no chain_id")
        return parent

    def _size(self, record: DataRoot) -> int | None:
        wrong = "is missing or no size"
        try:
            text = record.text("size")
        except CorruptStoreError as error:
            text, wrong = None, error.message
        if text is not None and text.isdecimal() and len(text) <= LONGEST_SIZE:
            return int(text)
        self.warn(Caution("broken-size", record.join("size"), wrong))
        return None

    def chain(self, top: ChainId) -> list[LayerRecord]:
        """The layers from the base up to ``top``, by their ``parent`` files. Raises CorruptStoreError."""
        found: list[LayerRecord] = []
        seen: set[ChainId] = set()
        current: ChainId | None = top
        while current is not None:
            if current in seen:
                raise CorruptStoreError(
                    f"the layer {current} is its own ancestor in {self.root.join(self.base)}",
                    "the `parent` files of layerdb go in a circle; they are damaged",
                )
            seen.add(current)
            record = self.layer(current)
            if record is None:
                raise CorruptStoreError(
                    f"the layer {current} is not in {self.root.join(self.base)}",
                    "something of this chain was removed or damaged; `layerscope ls` shows what is whole",
                )
            found.append(record)
            current = record.parent
        return found[::-1]

    def mount(self, container_id: str) -> MountRecord | None:
        """The mount of a container, or None. Raises CorruptStoreError."""
        with self._record("mounts", container_id) as record:
            return self._mount(record) if record is not None else None

    def _mount(self, record: DataRoot) -> MountRecord:
        mount_id = records.cache_id(record.text("mount-id"))
        if mount_id is None:
            self._corrupt(record, "mount-id", f"names no directory of {self.driver}")
        init_text = record.text("init-id")
        init_id = records.cache_id(init_text)
        if init_text is not None and init_id is None:
            self._corrupt(record, "init-id", f"names no directory of {self.driver}")
        return MountRecord(mount_id, init_id, self._parent(record))

    @contextmanager
    def _record(self, kind: str, name: str) -> Iterator[DataRoot | None]:
        """The directory of a record; None when there is none. Raises CorruptStoreError."""
        if kind not in self._held:
            held = self.root.held(self.base, kind)
            if held is None:
                yield None
                return
            self._held[kind] = held
        with self._held[kind].inside(name) as record:
            yield record

    def _corrupt(self, record: DataRoot, name: str, what: str) -> NoReturn:
        raise CorruptStoreError(
            f"{record.join(name)} is missing or {what}",
            "the record is damaged; remove what uses it and get it again",
        )
