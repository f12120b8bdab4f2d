"""Whose a directory of ``overlay2/`` (or ``overlay/``) is: layer, images, containers, build cache; what says so.

Only what can tell of this one directory is read. Where nothing in use holds it, it is judged as ``orphans`` does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from layerscope.analysis.mount_places import Place
from layerscope.analysis.orphans import find_orphan
from layerscope.analysis.places import find_place
from layerscope.analysis.purpose import ORPHANS, REMEDIES, LayersInUse, Purpose, Remedy, purpose_of
from layerscope.errors import LayerscopeError, TargetNotFoundError
from layerscope.model import CacheId, Caution, ChainId, ContainerId, DiffId, LayerUser, LinkId, Role, Warn
from layerscope.stores import records
from layerscope.stores.buildkit import BuildRecord, read_build_cache
from layerscope.stores.classic import ClassicStore
from layerscope.stores.evidence import (
    Evidence,
    Found,
    Witness,
    build_evidence,
    layer_evidence,
    mount_evidence,
)
from layerscope.stores.images import ImageRecord, build_steps, chain_ids
from layerscope.stores.layerdb import LayerRecord
from layerscope.stores.livemounts import PROC, mounted_evidence
from layerscope.stores.overlay2 import Overlay2Store

_NOT_JUDGED: Final = Remedy(None, "leave it alone: whether it is left over is not judged for this graph driver")
_OWN_MOUNTS: Final = (Witness.UPPER, Witness.INIT)


@dataclass(frozen=True, slots=True)
class ImageUse:
    """An image that holds the layer."""

    image: LayerUser
    index: int | None
    """Of the layer; 0 is the base. None for a blob."""
    layers: int
    created_by: str | None
    path: str
    """The configuration that says so."""


@dataclass(frozen=True, slots=True)
class ContainerUse:
    """A container that the directory is a layer of."""

    id: ContainerId
    name: str
    state: str
    image: str | None
    """As it was named when the container was made."""
    role: Role
    path: str
    """The file that says so."""
    namespace: str | None = None
    """Of containerd, where it is no container of Docker's."""


@dataclass(frozen=True, slots=True)
class Owner:
    """One directory, and all that has to do with it."""

    name: str
    path: str
    exists: bool
    purpose: Purpose
    link_id: LinkId | None = None
    layer: LayerRecord | None = None
    images: tuple[ImageUse, ...] = ()
    containers: tuple[ContainerUse, ...] = ()
    builds: tuple[BuildRecord, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    signs: tuple[str, ...] = ()
    """What its class follows from beside the evidence, in words."""
    suspected: Purpose | None = None
    """What it would be, when it is too young or sources can't be read."""
    remedies: Mapping[Purpose, Remedy] = field(default_factory=lambda: REMEDIES)
    extra_commands: tuple[str, ...] = ()
    """What frees it, or gives it up for others than Docker, where that is known better than by its class alone."""
    is_docker: bool = True
    """Whether the images and containers are Docker's."""

    @property
    def created_by(self) -> str | None:
        return next((use.created_by for use in self.images if use.created_by is not None), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a word stands for, and whose each directory is; several only for a diff_id."""

    place: Place
    owners: tuple[Owner, ...]


def find_owner(disk: ClassicStore, text: str, min_age_seconds: float, warn: Warn, proc: str = PROC) -> Answer:
    """Whose the directory is that a word stands for.

    Raises TargetNotFoundError, AmbiguousTargetError or another LayerscopeError.
    """
    place = find_place(disk, text, proc)
    return Answer(place, tuple(_Search(disk, name, place, min_age_seconds, warn).run() for name in place.names))


class _Search:
    def __init__(self, disk: ClassicStore, name: str, place: Place, min_age_seconds: float, warn: Warn) -> None:
        self.disk = disk
        self.root = disk.root
        self.name = name
        self.cache_id = records.cache_id(name)
        self.chain_id = place.chain_id
        self.min_age_seconds = min_age_seconds
        self.warn = warn
        self.link_id = self._link_id()
        self.mounts: list[Evidence] = []

    def run(self) -> Owner:
        exists = self.root.is_directory(self.disk.driver, self.name)
        evidence = tuple(dict.fromkeys(self._evidence())) if self.cache_id is not None else ()
        layer = self._layer(evidence)
        images = self._images(layer)
        below = tuple(self._containers(evidence, layer))
        holders = LayersInUse(
            by_images={layer.chain_id} if layer is not None and images else (),
            by_containers={layer.chain_id} if layer is not None and below else (),
        )
        purpose = purpose_of(evidence, holders)
        signs: tuple[str, ...] = ()
        suspected = None
        remedies: Mapping[Purpose, Remedy] = REMEDIES
        if purpose in ORPHANS:
            if not exists and not evidence:
                raise TargetNotFoundError(
                    f"{self.root.join(self.disk.driver, self.name)} is not there, and nothing refers to it",
                    "it may have been removed just now; `layerscope orphans` lists what is left over",
                )
            if not isinstance(self.disk, Overlay2Store):
                purpose, suspected, signs = Purpose.UNKNOWN, purpose, ("nothing in use refers to it",)
                remedies = {**REMEDIES, Purpose.UNKNOWN: _NOT_JUDGED}
            elif item := find_orphan(self.disk, self.name, evidence, self.min_age_seconds, self.warn):
                purpose, signs, suspected = item.purpose, item.signs, item.suspected
                evidence = item.evidence or evidence
        return Owner(
            self.name,
            self.root.join(self.disk.driver, self.name),
            exists,
            purpose,
            self.link_id,
            layer,
            images,
            below,
            self._builds(evidence),
            evidence,
            signs,
            suspected,
            remedies,
        )

    def _link_id(self) -> LinkId | None:
        try:
            return records.link_id(self.root.text(self.disk.driver, self.name, "link"))
        except LayerscopeError:
            return None

    # -- evidence --------------------------------------------------------------------------------------------

    def _evidence(self) -> Iterator[Evidence]:
        """What refers to the directory; the search for its layer ends where it is found."""
        driver = self.disk.driver
        yield from self._of_this(mounted_evidence(self.root, driver=driver))
        yield from self._of_this(build_evidence(self.root, driver))
        self.mounts = [item for item in mount_evidence(self.root, driver) if isinstance(item, Evidence)]
        yield from self._of_this(iter(self.mounts))
        if self.chain_id is not None:
            path = self.root.join(self.disk.layerdb.place(self.chain_id), "cache-id")
            yield Evidence(CacheId(self.name), Witness.LAYER, self.chain_id, path)
            return
        for item in self._of_this(layer_evidence(self.root, driver)):
            yield item
            if item.witness is Witness.LAYER:
                return

    def _of_this(self, found: Found) -> Iterator[Evidence]:
        for item in found:
            if isinstance(item, Evidence) and item.cache_id == self.cache_id:
                yield item

    # -- who holds it ----------------------------------------------------------------------------------------

    def _layer(self, evidence: Iterable[Evidence]) -> LayerRecord | None:
        for item in evidence:
            if item.witness is Witness.LAYER:
                try:
                    return self.disk.layerdb.layer(ChainId(item.holder))
                except LayerscopeError as error:
                    self.warn(Caution("broken-layer", item.path, error.message))
        return None

    def _images(self, layer: LayerRecord | None) -> tuple[ImageUse, ...]:
        """The images that hold the layer, without the untagged steps of the legacy builder."""
        if layer is None:
            return ()
        found: list[tuple[ImageRecord, int, list[ChainId]]] = []
        for image in self._images_naming(layer.diff_id):
            chain = chain_ids(image.diff_ids)
            if layer.chain_id in chain:
                found.append((image, chain.index(layer.chain_id), chain))
        steps = build_steps(image for image, _, _ in found)
        return tuple(
            ImageUse(
                LayerUser(image.id, image.references),
                index,
                len(chain),
                next((step.created_by or step.comment for step in image.history if step.layer == index), None),
                image.config_path or "",
            )
            for image, index, chain in found
            if image.id not in steps
        )

    def _images_naming(self, diff_id: DiffId) -> Iterator[ImageRecord]:
        """The images whose configuration may name a layer: of the others not even the JSON is parsed."""
        imagedb = self.disk.imagedb
        references = imagedb.references()
        wanted = diff_id.encode()
        with self.root.inside(imagedb.contents) as contents:
            for name in contents.names() if contents is not None else ():
                identifier = records.image_id(f"sha256:{name}")
                if identifier is None or contents is None:
                    continue
                try:
                    content = contents.content(name)
                    whole = content is not None and hashlib.sha256(content).hexdigest() == name
                    if content is not None and (wanted in content or not whole):
                        yield imagedb.read(identifier, references.get(identifier, ()))
                except LayerscopeError as error:
                    path = self.root.join(imagedb.contents, name)
                    self.warn(Caution("broken-image", path, f"image left out: {error.message}"))

    def _containers(self, evidence: Iterable[Evidence], layer: LayerRecord | None) -> Iterator[ContainerUse]:
        if self.cache_id is None:
            return
        uppers = {item.holder: item for item in self.mounts if item.witness is Witness.UPPER}
        own = {item.holder: item for item in evidence if item.witness in _OWN_MOUNTS}
        real = dict.fromkeys(item.holder for item in self.mounts if item.witness is Witness.CONTAINER)
        with self.root.inside(self.disk.driver) as overlay2:
            for holder in real:
                identifier = records.container_id(holder)
                if identifier is None:
                    continue
                if holder in own:
                    role = Role.UPPER if own[holder].witness is Witness.UPPER else Role.INIT
                    yield self._container(identifier, role, own[holder].path)
                    continue
                upper = uppers.get(holder)
                path = (
                    self._lower_file(overlay2, upper, layer) if upper is not None and overlay2 is not None else None
                )
                if path is not None:
                    yield self._container(identifier, Role.LOWER, path)

    def _lower_file(self, overlay2: records.DataRoot, upper: Evidence, layer: LayerRecord | None) -> str | None:
        """The file by which the directory lies below a container's upper layer, if it does.

        The ``lower`` file is what the engine mounts; layerdb tells where that is gone.
        """
        path = self.root.join(self.disk.driver, upper.cache_id, "lower")
        try:
            lower = overlay2.text(upper.cache_id, "lower")
            if lower is not None and self.link_id is not None:
                return path if f"l/{self.link_id}" in lower.split(":") else None
            mount = self.disk.layerdb.mount(upper.holder) if layer is not None else None
            if layer is None or mount is None or mount.parent is None:
                return None
            chain = {below.chain_id for below in self.disk.layerdb.chain(mount.parent)}
            return (
                self.root.join(self.disk.layerdb.base, "mounts", upper.holder, "parent")
                if layer.chain_id in chain
                else None
            )
        except LayerscopeError as error:
            self.warn(Caution("broken-chain", path, error.message))
            return None

    def _container(self, identifier: ContainerId, role: Role, path: str) -> ContainerUse:
        try:
            container = self.disk.containerdb.read(identifier)
        except LayerscopeError as error:
            self.warn(Caution("broken-container", self.root.join("containers", identifier), error.message))
            return ContainerUse(identifier, identifier, "unknown", None, role, path)
        return ContainerUse(identifier, container.name, container.state, container.image, role, path)

    def _builds(self, evidence: Iterable[Evidence]) -> tuple[BuildRecord, ...]:
        if not any(item.witness in (Witness.BUILD_SNAPSHOT, Witness.BUILD_RECORD) for item in evidence):
            return ()
        try:
            cache = read_build_cache(self.root, self.disk.layerdb, self.warn)
        except LayerscopeError as error:
            self.warn(Caution("build-cache-unreadable", self.root.join("buildkit"), error.message))
            return ()
        return tuple(record for record in cache.records if record.cache_id == self.cache_id)
