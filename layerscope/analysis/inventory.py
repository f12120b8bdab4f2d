"""What a store holds: its images with their recorded sizes, its containers. Reads records, walks nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from layerscope.errors import CorruptStoreError, StoragePermissionError, UnsupportedStoreError
from layerscope.model import CacheId, Caution, ChainId, Source, Warn
from layerscope.stores.base import Store
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.images import ImageRecord, build_steps, chain_ids


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image; sizes are None when a layer's record is missing or holds none."""

    record: ImageRecord
    driver: str | None
    """Of the store that has it."""
    size_bytes: int | None
    """As Docker recorded it when it made the layers."""
    shared_bytes: int | None
    """The part that other images hold as well."""
    cache_id: CacheId | None
    """The directory of its top layer."""


@dataclass(frozen=True, slots=True)
class ListedContainer:
    record: ContainerRecord
    driver: str | None
    cache_id: CacheId | None
    """The directory of its upper layer."""


@dataclass(frozen=True, slots=True)
class Inventory:
    sources: list[Source]
    """The stores that were listed, the one in use first."""
    images: list[ListedImage]
    containers: list[ListedContainer]


def take_inventory(store: Store, warn: Warn, *, intermediate: bool = False) -> Inventory:
    """List a store: images by name, untagged ones last, containers by name.

    Untagged steps of the legacy builder are listed only if ``intermediate``. A broken record is a warning.
    """
    return Inventory(
        [part.source for part in store.parts],
        sorted(
            (image for part in store.parts for image in _images(part, warn, intermediate)),
            key=lambda item: (not item.record.references, item.record.name),
        ),
        sorted(
            (_container(part, container, warn) for part in store.parts for container in part.containers()),
            key=lambda item: item.record.name,
        ),
    )


def _images(store: Store, warn: Warn, intermediate: bool) -> Iterator[ListedImage]:
    steps = set() if intermediate else build_steps(store.images())
    images = [image for image in store.images() if image.id not in steps]
    holders: Counter[ChainId] = Counter()
    for image in images:
        holders.update(chain_ids(image.diff_ids))
    for image in images:
        yield _image(store, image, holders, warn)


def _image(store: Store, image: ImageRecord, holders: Counter[ChainId], warn: Warn) -> ListedImage:
    driver = store.source.driver
    try:
        layers = store.image_layers(image)
    except (CorruptStoreError, StoragePermissionError, UnsupportedStoreError) as error:
        code = "not-unpacked" if isinstance(error, UnsupportedStoreError) else "broken-image"
        warn(Caution(code, store.source.storage, error.message))
        return ListedImage(image, driver, None, None, None)
    if any(layer.size_bytes is None for layer in layers):
        return ListedImage(image, driver, None, None, layers[-1].cache_id or None)
    sizes = [(layer.size_bytes or 0, holders[layer.chain_id] > 1) for layer in layers]
    return ListedImage(
        image,
        driver,
        sum(size for size, _ in sizes),
        sum(size for size, shared in sizes if shared),
        (layers[-1].cache_id or None) if layers else None,
    )


def _container(store: Store, container: ContainerRecord, warn: Warn) -> ListedContainer:
    try:
        mount = store.container_mount(container)
    except (CorruptStoreError, StoragePermissionError) as error:
        warn(Caution("broken-container", store.source.storage, error.message))
        mount = None
    return ListedContainer(container, store.source.driver, mount.mount_id if mount is not None else None)
