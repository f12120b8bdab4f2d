"""The classic store on disk: images and containers of the ``overlay2`` graph driver, without a daemon.

Sources: moby ``daemon/graphdriver/overlay2/overlay.go`` (``link``, ``lower``, ``l/``) and
``daemon/internal/layer`` (layerdb). Both describe a chain of layers. The ``lower`` files are what the engine
mounts, so they decide; where layerdb says something else, that is a warning with both values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

from layerscope.errors import CorruptStoreError
from layerscope.model import CacheId, Caution, LinkId, OverlayOptions, Role, Source, Target, Warn
from layerscope.stores import records, stacks
from layerscope.stores.containers import ContainerDb, ContainerRecord
from layerscope.stores.images import ImageDb, ImageRecord, chain_ids
from layerscope.stores.layerdb import LayerDb, LayerRecord, MountRecord
from layerscope.stores.records import BrokenRecord, DataRoot
from layerscope.stores.stacks import Place

DRIVER: Final = "overlay2"
_LINK_TARGET: Final = re.compile(r"\.\./([^/]+)/diff")


class LayerDirectories:
    """The directories of ``overlay2/``: where a layer's content is and what lies below it."""

    def __init__(self, root: DataRoot, warn: Warn) -> None:
        self.root = root
        self.warn = warn

    def diff_dir(self, cache_id: CacheId) -> str:
        """The absolute path of a layer's content. Raises CorruptStoreError when there is none."""
        if not self.root.has_directory(DRIVER, cache_id, "diff"):
            raise CorruptStoreError(
                f"the layer directory {self.root.join(DRIVER, cache_id, 'diff')} is missing",
                "this layer's content is gone from the disk: remove the image or container and get it again",
            )
        return self.root.join(DRIVER, cache_id, "diff")

    def link_id(self, cache_id: CacheId) -> LinkId | None:
        """The short name of a layer, from its ``link`` file; None with a warning when that is damaged."""
        link_id = self._read_link_id(cache_id)
        if link_id is None:
            path = self.root.join(DRIVER, cache_id, "link")
            self.warn(Caution("broken-link", path, "is missing or holds no short name of a layer"))
        return link_id

    def _read_link_id(self, cache_id: CacheId) -> LinkId | None:
        try:
            return records.link_id(self.root.text(DRIVER, cache_id, "link"))
        except CorruptStoreError:
            return None

    def chain(self, top: CacheId) -> list[CacheId]:
        """The directories that the engine mounts for ``top``, base first. Raises CorruptStoreError."""
        lower = self.root.text(DRIVER, top, "lower")
        below = [self._lower_entry(entry, top) for entry in lower.split(":")] if lower is not None else []
        chain = [top, *below][::-1]
        if len(set(chain)) < len(chain):
            raise CorruptStoreError(
                f"{self.root.join(DRIVER, top, 'lower')} names a layer twice",
                "the file is damaged; the engine can't mount this layer either",
            )
        return chain

    def _lower_entry(self, entry: str, top: CacheId) -> CacheId:
        prefix, _, name = entry.partition("/")
        link_id = records.link_id(name)
        if prefix != "l" or link_id is None:
            raise CorruptStoreError(
                f"{self.root.join(DRIVER, top, 'lower')} has an entry that is no short link: {entry[:80]!r}",
                "entries look like l/ABCDEFGHIJKLMNOPQRSTUVWXYZ; the file is damaged or forged",
            )
        path = self.root.join(DRIVER, "l", link_id)
        target = self.root.link(DRIVER, "l", link_id)
        match = _LINK_TARGET.fullmatch(target) if target is not None else None
        cache_id = records.cache_id(match[1]) if match is not None else None
        if cache_id is not None:
            return cache_id
        claimed = self._by_link.get(link_id, [])
        wrong = "is missing" if target is None else f"points to {target[:80]!r}"
        if len(claimed) != 1:
            raise CorruptStoreError(
                f"the short link {path} {wrong}, and {len(claimed) or 'no'} layers have it in their `link` file",
                f"what lies below {top} can't be told any more: remove the image or container and get it again",
            )
        (recovered,) = claimed
        self.warn(Caution("missing-link", path, f"{wrong}; taken from {self.root.join(DRIVER, recovered, 'link')}"))
        return recovered

    @cached_property
    def _by_link(self) -> dict[LinkId, list[CacheId]]:
        """Every layer by its ``link`` file. The engine does not look there: it fails where a link is lost."""
        found: dict[LinkId, list[CacheId]] = {}
        for name in self.root.names(DRIVER):
            cache_id = records.cache_id(name)
            link_id = self._read_link_id(cache_id) if cache_id is not None else None
            if cache_id is not None and link_id is not None:
                found.setdefault(link_id, []).append(cache_id)
        return found


class Overlay2Store:
    """Images, containers and layers of a data root whose graph driver is ``overlay2``."""

    def __init__(
        self, root: DataRoot, options: OverlayOptions, warn: Warn, *, others: frozenset[str] = frozenset()
    ) -> None:
        """``others`` are drivers whose containers another store reads."""
        self.root = root
        self.options = options
        self.warn = warn
        self.source = Source("data-root", DRIVER, root.path)
        self.directories = LayerDirectories(root, warn)
        self.layerdb = LayerDb(root, DRIVER, warn)
        self.imagedb = ImageDb(root, DRIVER, warn)
        self.containerdb = ContainerDb(root, DRIVER, warn, others)

    @property
    def parts(self) -> tuple[Overlay2Store]:
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

        ``seen`` is the chain that another witness reports, base first; ``images`` all images as that witness
        names them.
        """
        layers = self.image_layers(image)
        chain = [record.cache_id for record in layers]
        if layers:
            mounted = self.directories.chain(chain[-1])
            self._compare(image.name, "layerdb", chain, "the `lower` files", mounted)
            chain = mounted
        chain = self._agree(image.name, seen, chain)
        places = self._places(chain, layers, {})
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
        chain = self.directories.chain(mount.mount_id)
        self._compare(container.name, "layerdb", expected, "the `lower` files", chain)
        chain = self._agree(container.name, seen, chain)
        images = self.images() if images is None else images
        image = next((image for image in images if image.id == container.image_id), None)
        roles = {mount.mount_id: Role.UPPER}
        if mount.init_id is not None:
            roles[mount.init_id] = Role.INIT
        places = self._places(chain, layers, roles)
        return stacks.container_target(container, image, places, images, self.options, self.source)

    def _places(
        self, chain: Sequence[CacheId], layers: Sequence[LayerRecord], roles: Mapping[CacheId, Role]
    ) -> list[Place]:
        known = {record.cache_id: record for record in layers}
        return [
            Place(
                cache_id=cache_id,
                diff_dir=self.directories.diff_dir(cache_id),
                record=known.get(cache_id),
                role=roles.get(cache_id, Role.IMAGE),
                link_id=self.directories.link_id(cache_id),
            )
            for cache_id in chain
        ]

    def _agree(self, name: str, seen: Sequence[CacheId] | None, chain: list[CacheId]) -> list[CacheId]:
        """The engine's own answer wins; a disk that says otherwise is a warning."""
        if seen is None:
            return chain
        self._compare(name, "the engine's GraphDriver data", seen, "the disk", chain)
        return list(seen)

    def _compare(
        self, name: str, one_name: str, one: Sequence[CacheId], other_name: str, other: Sequence[CacheId]
    ) -> None:
        caution = stacks.chain_mismatch(self.root.join(DRIVER), name, one_name, one, other_name, other)
        if caution is not None:
            self.warn(caution)
