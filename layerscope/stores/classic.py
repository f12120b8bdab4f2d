"""What the stores of all graph drivers have in common: records in ``image/<driver>``, a directory for each layer.

Source: moby ``daemon/internal/layer`` (layerdb), ``daemon/internal/image``. What a driver keeps in its directories,
and how they make a stack, is its own affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Self

from layerscope.errors import CorruptStoreError
from layerscope.model import Accumulated, CacheId, OverlayOptions, Role, Source, Target, Warn
from layerscope.stores import records, stacks
from layerscope.stores.containers import ContainerDb, ContainerRecord
from layerscope.stores.images import ImageDb, ImageRecord, chain_ids
from layerscope.stores.layerdb import LayerDb, LayerRecord, MountRecord
from layerscope.stores.records import BrokenRecord, DataRoot
from layerscope.stores.stacks import Place

ENGINE_DATA: Final = "the engine's GraphDriver data"


@dataclass(frozen=True, slots=True)
class LayerDirectory:
    """Where the content of an image's layer is, and what of it is not the layer's."""

    path: str
    more: Accumulated | None = None
    lower: str | None = None
    """The tree that it is mounted over, for an upper directory that may hold copies from there."""


class ClassicStore(ABC):
    """Images, containers and layers of a data root, as one graph driver keeps them."""

    def __init__(
        self,
        root: DataRoot,
        driver: str,
        options: OverlayOptions,
        warn: Warn,
        others: frozenset[str] = frozenset(),
    ) -> None:
        """``others`` are drivers whose containers another store reads."""
        self.root = root
        self.driver = driver
        self.options = options
        self.warn = warn
        self.source = Source("data-root", driver, root.path)
        self.layerdb = LayerDb(root, driver, warn)
        self.imagedb = ImageDb(root, driver, warn)
        self.containerdb = ContainerDb(root, driver, warn, others)

    @abstractmethod
    def places(
        self,
        name: str,
        expected: Sequence[CacheId],
        layers: Sequence[LayerRecord],
        roles: Mapping[CacheId, Role],
        seen: Sequence[CacheId] | None,
    ) -> list[Place]:
        """The directories of a stack, base first. Raises CorruptStoreError.

        ``expected`` is the chain as layerdb has it; ``seen`` what the engine named as ``told_by_engine`` reads it.
        """

    @abstractmethod
    def layer_directory(self, record: LayerRecord) -> LayerDirectory:
        """Where the content of an image's layer is. Raises CorruptStoreError."""

    @abstractmethod
    def told_by_engine(self, data: Mapping[str, str]) -> list[CacheId] | None:
        """The directories that an engine's ``GraphDriver.Data`` names, base first; None where it names none.

        Raises CorruptStoreError.
        """

    @property
    def parts(self) -> tuple[Self]:
        return (self,)

    def images(self) -> list[ImageRecord]:
        return self._images

    def containers(self) -> list[ContainerRecord]:
        return self._containers

    def broken(self) -> list[BrokenRecord]:
        self.images()
        self.containers()
        return [*self.imagedb.broken, *self.containerdb.broken]

    @cached_property
    def _images(self) -> list[ImageRecord]:
        return self.imagedb.all()

    @cached_property
    def _containers(self) -> list[ContainerRecord]:
        return self.containerdb.all()

    def image_layers(self, image: ImageRecord) -> list[LayerRecord]:
        """The layer records of an image, base first. Raises CorruptStoreError when one is missing."""
        found = []
        for index, (diff_id, chain_id) in enumerate(zip(image.diff_ids, chain_ids(image.diff_ids), strict=True)):
            record = self.layerdb.layer(chain_id)
            if record is None:
                raise CorruptStoreError(
                    f"layer {index} of {image.name} ({chain_id}) is not in layerdb",
                    "the engine can't use this image either; remove it and get it again",
                )
            found.append(replace(record, diff_id=diff_id))
        return found

    def container_mount(self, container: ContainerRecord) -> MountRecord:
        """The record of a container's read-write layer. Raises CorruptStoreError when there is none."""
        mount = self.layerdb.mount(container.id)
        if mount is None:
            raise CorruptStoreError(
                f"the container {container.name} has no mount in layerdb",
                "its read-write layer was never made or is already removed; there is nothing to show",
            )
        return mount

    def image_target(
        self,
        image: ImageRecord,
        *,
        seen: Sequence[CacheId] | None = None,
        images: Sequence[ImageRecord] | None = None,
    ) -> Target:
        """The image with its stack.

        ``seen`` is what another witness reports (see ``places``); ``images`` all images as that witness names them.
        """
        layers = self.image_layers(image)
        places = self.places(image.name, [record.cache_id for record in layers], layers, {}, seen)
        images = self.images() if images is None else images
        return stacks.image_target(image, places, images, self.options, self.source)

    def container_target(
        self,
        container: ContainerRecord,
        *,
        seen: Sequence[CacheId] | None = None,
        images: Sequence[ImageRecord] | None = None,
    ) -> Target:
        """The container with its stack: the image's layers, its init layer, its upper layer."""
        mount = self.container_mount(container)
        layers = self.layerdb.chain(mount.parent) if mount.parent is not None else []
        expected = [record.cache_id for record in layers]
        expected += [mount.init_id] if mount.init_id is not None else []
        expected.append(mount.mount_id)
        images = self.images() if images is None else images
        image = next((image for image in images if image.id == container.image_id), None)
        roles = {mount.mount_id: Role.UPPER}
        if mount.init_id is not None:
            roles[mount.init_id] = Role.INIT
        places = self.places(container.name, expected, layers, roles, seen)
        return stacks.container_target(container, image, places, images, self.options, self.source)

    def driver_path(self, path: str, content: Sequence[str]) -> CacheId:
        """Which directory of the driver a path of the engine's names. Raises CorruptStoreError.

        ``content`` are the names that a layer's content has in it.
        """
        prefix = self.root.join(self.driver, "")
        name, _, rest = path.removeprefix(prefix).partition("/")
        cache_id = records.cache_id(name)
        if not path.startswith(prefix) or rest not in content or cache_id is None:
            raise CorruptStoreError(
                f"the engine names a layer directory outside its data root: {path!r}",
                f"expected {prefix}<id>/{content[0]}; read the right disk with --data-root",
            )
        return cache_id

    def compare(
        self, name: str, one_name: str, one: Sequence[CacheId], other_name: str, other: Sequence[CacheId]
    ) -> None:
        """Warn where two witnesses name different directories."""
        caution = stacks.chain_mismatch(self.root.join(self.driver), name, one_name, one, other_name, other)
        if caution is not None:
            self.warn(caution)
