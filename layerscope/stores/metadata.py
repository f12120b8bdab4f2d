"""What containerd's ``meta.db`` says of a namespace: its images and containers.

Source: containerd ``core/metadata/buckets.go``. How Docker uses it: moby ``daemon/containerd/`` (``image.go``,
``image_builder.go``, ``soft_delete.go``). Its own containers are elsewhere (``containers``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from layerscope.stores.boltdb import Bucket, read_bolt
from layerscope.stores.boltvalues import key_of, text_of
from layerscope.stores.records import DataRoot
from layerscope.stores.snapshots import META

_PARENT: Final = b"org.mobyproject.image.parent"
"""The label of an image that the legacy builder or ``docker commit`` made."""


@dataclass(frozen=True, slots=True)
class NamedImage:
    """A name, and what it stands for. Several names may stand for the same."""

    name: str
    """In full: ``docker.io/library/busybox:1.36``."""
    target: str
    """The digest of a manifest or an index. Not checked."""
    parent: str | None
    """The target of the image that it was built on, where Docker wrote that down."""


@dataclass(frozen=True, slots=True)
class TaskContainer:
    """A container as a client other than Docker keeps it: nerdctl, Kubernetes."""

    id: str
    image: str
    snapshotter: str
    snapshot: str
    """The key of its read-write snapshot."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """What a namespace holds."""

    images: tuple[NamedImage, ...]
    """By name."""
    containers: tuple[TaskContainer, ...]
    """By id."""
    snapshotters: tuple[str, ...]
    """Those that it has snapshots of."""

    @property
    def is_used(self) -> bool:
        return bool(self.images or self.snapshotters)


def read_namespaces(root: DataRoot) -> list[str] | None:
    """The namespaces of a containerd root; None when it has no ``meta.db``.

    Raises CorruptStoreError, StoragePermissionError, or StoreBusyError.
    """
    return read_bolt(root, META, lambda top: [text_of(name) for name, _ in _buckets(top.bucket(b"v1"))])


def read_namespace(root: DataRoot, name: str) -> Namespace | None:
    """What a namespace holds; None when there is none of that name.

    Raises CorruptStoreError, StoragePermissionError, or StoreBusyError.
    """
    return read_bolt(root, META, lambda top: _namespace(top.bucket(b"v1", key_of(name))))


def _namespace(bucket: Bucket | None) -> Namespace | None:
    if bucket is None:
        return None
    return Namespace(
        tuple(_image(name, record) for name, record in _buckets(bucket.bucket(b"images"))),
        tuple(_container(name, record) for name, record in _buckets(bucket.bucket(b"containers"))),
        tuple(
            text_of(name)
            for name, keys in _buckets(bucket.bucket(b"snapshots"))
            if next(keys.buckets(), None) is not None
        ),
    )


def _buckets(bucket: Bucket | None) -> Iterator[tuple[bytes, Bucket]]:
    return bucket.buckets() if bucket is not None else iter(())


def _image(name: bytes, record: Bucket) -> NamedImage:
    target, labels = record.bucket(b"target"), record.bucket(b"labels")
    return NamedImage(
        text_of(name),
        text_of(target.get(b"digest")) if target is not None else "",
        text_of(labels.get(_PARENT)) or None if labels is not None else None,
    )


def _container(name: bytes, record: Bucket) -> TaskContainer:
    return TaskContainer(
        text_of(name),
        text_of(record.get(b"image")),
        text_of(record.get(b"snapshotter")),
        text_of(record.get(b"snapshotKey")),
    )
