"""What a store holds: its images with their recorded sizes, its containers. Reads records, walks nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from layerscope.errors import CorruptStoreError, StoragePermissionError
from layerscope.model import CacheId, Caution, ChainId, Warn
from layerscope.stores.base import Store
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.images import ImageRecord, build_steps, chain_ids


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image; sizes are None when a layer's record is missing or holds none."""

    record: ImageRecord
    size_bytes: int | None
    """As Docker recorded it when it made the layers."""
    shared_bytes: int | None
    """The part that other images hold as well."""
    cache_id: CacheId | None
    """The directory of its top layer."""


@dataclass(frozen=True, slots=True)
class ListedContainer:
    record: ContainerRecord
    cache_id: CacheId | None
    """The directory of its upper layer."""


@dataclass(frozen=True, slots=True)
class Inventory:
    images: list[ListedImage]
    containers: list[ListedContainer]


def take_inventory(store: Store, warn: Warn, *, intermediate: bool = False) -> Inventory:
    """List a store: images by name, untagged ones last, containers by name.

    Untagged steps of the legacy builder are listed only if ``intermediate``. A broken record is a warning.
    """
    steps = set() if intermediate else build_steps(store.images())
    images = [image for image in store.images() if image.id not in steps]
    holders: Counter[ChainId] = Counter()
    for image in images:
        holders.update(chain_ids(image.diff_ids))
    return Inventory(
        sorted(
            (_image(store, image, holders, warn) for image in images),
            key=lambda item: (not item.record.references, item.record.name),
        ),
        sorted(
            (_container(store, container, warn) for container in store.containers()),
            key=lambda item: item.record.name,
        ),
    )


def _image(store: Store, image: ImageRecord, holders: Counter[ChainId], warn: Warn) -> ListedImage:
    try:
        layers = store.image_layers(image)
    except (CorruptStoreError, StoragePermissionError) as error:
        warn(Caution("broken-image", store.source.data_root, error.message))
        return ListedImage(image, None, None, None)
    if any(layer.size_bytes is None for layer in layers):
        return ListedImage(image, None, None, layers[-1].cache_id)
    sizes = [(layer.size_bytes or 0, holders[layer.chain_id] > 1) for layer in layers]
    return ListedImage(
        image,
        sum(size for size, _ in sizes),
        sum(size for size, shared in sizes if shared),
        layers[-1].cache_id if layers else None,
    )


def _container(store: Store, container: ContainerRecord, warn: Warn) -> ListedContainer:
    try:
        mount = store.container_mount(container)
    except (CorruptStoreError, StoragePermissionError) as error:
        warn(Caution("broken-container", store.source.data_root, error.message))
        mount = None
    return ListedContainer(container, mount.mount_id if mount is not None else None)
