"""Both image stores of one host: the one in use, and the one that was in use before a switch.

An engine shows the images and containers of one of them; those of the other use as much disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from layerscope.model import ContainerId, ImageId, Source, Target
from layerscope.stores.base import Store
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.images import ImageRecord
from layerscope.stores.layerdb import LayerRecord, MountRecord
from layerscope.stores.records import BrokenRecord


class BothStores:
    """What several stores hold, in their order: the one in use comes first."""

    def __init__(self, parts: Sequence[Store]) -> None:
        self._parts = tuple(parts)

    @property
    def parts(self) -> tuple[Store, ...]:
        return self._parts

    @property
    def source(self) -> Source:
        return self._parts[0].source

    def images(self) -> list[ImageRecord]:
        """Each once: two graph drivers may hold the same image, and the store in use is the one to show it."""
        found: dict[ImageId, ImageRecord] = {}
        for part in self._parts:
            for image in part.images():
                found.setdefault(image.id, image)
        return [*found.values()]

    def containers(self) -> list[ContainerRecord]:
        return [container for part in self._parts for container in part.containers()]

    def broken(self) -> list[BrokenRecord]:
        return [record for part in self._parts for record in part.broken()]

    def image_layers(self, image: ImageRecord) -> Sequence[LayerRecord]:
        return self._holders[image.id].image_layers(image)

    def container_mount(self, container: ContainerRecord) -> MountRecord:
        return self._holders[container.id].container_mount(container)

    def image_target(self, image: ImageRecord) -> Target:
        return self._holders[image.id].image_target(image)

    def container_target(self, container: ContainerRecord) -> Target:
        return self._holders[container.id].container_target(container)

    @cached_property
    def _holders(self) -> dict[ImageId | ContainerId, Store]:
        """Which store an id belongs to: one has digests of configurations, the other those of manifests."""
        found: dict[ImageId | ContainerId, Store] = {}
        for part in reversed(self._parts):
            found.update((image.id, part) for image in part.images())
            found.update((container.id, part) for container in part.containers())
        return found
