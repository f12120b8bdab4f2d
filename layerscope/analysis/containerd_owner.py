"""Whose a snapshot or blob of a containerd root is: image, containers, build cache, with what says so."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator
from typing import Final

from layerscope.analysis.containerd_orphans import Look, find_containerd_orphan, remedies_of
from layerscope.analysis.containerd_places import find_containerd_place
from layerscope.analysis.orphans import Item
from layerscope.analysis.owner import Answer, ContainerUse, ImageUse, Owner
from layerscope.analysis.purpose import ORPHANS, Purpose
from layerscope.errors import TargetNotFoundError
from layerscope.model import CacheId, ContainerId, DiffId, LayerUser, Role, Warn
from layerscope.stores import records
from layerscope.stores.buildkit import BuildRecord
from layerscope.stores.containerd import INIT, ContainerdStore
from layerscope.stores.content_store import INGESTS
from layerscope.stores.evidence import Evidence, Witness
from layerscope.stores.images import ImageRecord, build_steps, chain_ids
from layerscope.stores.layerdb import LayerRecord
from layerscope.stores.livemounts import PROC
from layerscope.stores.snapshots import DIRECTORIES, SNAPSHOTTER

_LEASED: Final = (Purpose.LEAKED_UPPER, Purpose.LEAKED_INIT, Purpose.LEAKED_LEASE, Purpose.HELD)


_VERBS: Final = {Witness.IMAGE: "images rm", Witness.CONTAINER: "containers rm"}


def find_containerd_owner(
    disk: ContainerdStore, text: str, min_age_seconds: float, warn: Warn, proc: str = PROC
) -> Answer:
    """Whose the snapshot or blob is that a word stands for. Raises TargetNotFoundError or AmbiguousTargetError."""
    look = Look(disk, warn, proc)
    place = find_containerd_place(disk, look.state, text, proc)
    search = _Search(disk, look, min_age_seconds, warn, proc)
    if place.other is not None:
        return Answer(place, (search.blob(place.other),))
    return Answer(place, tuple(search.snapshot(name) for name in place.names))


class _Search:
    def __init__(self, disk: ContainerdStore, look: Look, min_age_seconds: float, warn: Warn, proc: str) -> None:
        self.disk = disk
        self.look = look
        self.state = look.state
        self.min_age_seconds = min_age_seconds
        self.warn = warn
        self.proc = proc

    def snapshot(self, name: str) -> Owner:
        item = self._judged(self.look.directory(name))
        keys = [key for key in self._keys(name) if key[0] == self.state.namespace]
        key = keys[0][1] if keys else None
        images = tuple(self._images(key)) if key is not None else ()
        layer = self._layer(name, key)
        return Owner(
            name,
            item.path,
            self.disk.root.is_directory(DIRECTORIES, name),
            item.purpose,
            layer=layer,
            images=images,
            containers=tuple(self._containers(name)),
            builds=tuple(self._builds(name)),
            evidence=item.evidence,
            signs=item.signs,
            suspected=item.suspected,
            remedies=remedies_of(self.disk),
            extra_commands=self._commands(item),
            is_docker=self.disk.docker is not None,
        )

    def blob(self, path: str) -> Owner:
        name = os.path.basename(path)
        download = os.path.dirname(path) == self.disk.root.join(INGESTS)
        item = self._judged(self.look.download(name) if download else self.look.blob(name))
        roots = [one.holder for one in item.evidence if one.witness is Witness.IMAGE]
        return Owner(
            name if download else f"sha256:{name}",
            path,
            os.path.lexists(path),
            item.purpose,
            images=tuple(self._images_of_blob(roots)),
            builds=tuple(self._builds_of_blob(item.evidence)),
            evidence=item.evidence,
            signs=item.signs,
            suspected=item.suspected,
            remedies=remedies_of(self.disk),
            extra_commands=self._commands(item),
            is_docker=self.disk.docker is not None,
        )

    def _judged(self, item: Item) -> Item:
        """An orphan, looked at again; one that went meanwhile is as it was."""
        if item.purpose not in ORPHANS:
            return item
        if not item.evidence and not os.path.lexists(item.path):
            raise TargetNotFoundError(
                f"{item.path} is not there, and nothing refers to it",
                "it may have been removed just now; `layerscope orphans` lists what is left over",
            )
        again = find_containerd_orphan(self.disk, item.path, self.min_age_seconds, self.warn, self.proc)
        return again if again is not None else item

    # -- who holds it ----------------------------------------------------------------------------------------

    def _keys(self, name: str) -> list[tuple[str, str]]:
        """The namespaces that know a directory's snapshot, and its key in each."""
        found = [record for number, record in self.state.numbers.items() if number == name]
        return [(namespace, key.key) for record in found for namespace, key in self.state.keys.get(record.name, ())]

    def _layer(self, name: str, key: str | None) -> LayerRecord | None:
        """The layer of an image that a snapshot is, where an image says so."""
        for image in self.disk.images():
            chain = chain_ids(image.diff_ids)
            if key in chain:
                index = chain.index(records.chain_id(key) or chain[0])
                size = next((one.size_bytes for number, one in self.state.numbers.items() if number == name), None)
                diff_id: DiffId = image.diff_ids[index]
                below = chain[index - 1] if index else None
                return LayerRecord(chain[index], diff_id, CacheId(name), below, size)
        return None

    def _images(self, key: str) -> Iterator[ImageUse]:
        """The images of the namespace with that layer, without the untagged steps of the legacy builder."""
        found = [image for image in self.disk.images() if key in chain_ids(image.diff_ids)]
        steps = build_steps(found)
        for image in found:
            if image.id not in steps:
                index = list(chain_ids(image.diff_ids)).index(records.chain_id(key) or chain_ids(image.diff_ids)[0])
                step = next((step for step in image.history if step.layer == index), None)
                yield _image_use(image, index, (step.created_by or step.comment) if step is not None else None)

    def _images_of_blob(self, names: Iterable[str]) -> Iterator[ImageUse]:
        known = self.state.namespaces.get(self.state.namespace)
        targets = {known.images[name].target for name in names if known is not None and name in known.images}
        for image in self.disk.images():
            if image.id in targets:
                yield _image_use(image, None, None)

    def _containers(self, name: str) -> Iterator[ContainerUse]:
        """Docker's containers, and those of other namespaces, whose chain the snapshot is in."""
        wanted = {key for namespace, key in self._keys(name) if namespace == self.state.namespace}
        for container in self.disk.containers():
            own = container.snapshot or container.id
            chain = [record.key for record in self.state.down_from(self.state.namespace, own)]
            met = wanted.intersection(chain)
            if met:
                role = _role(next(iter(met)), own)
                yield ContainerUse(
                    container.id, container.name, container.state, container.image, role, self.state.meta_path
                )
        for namespace, key in self._keys(name):
            if namespace != self.state.namespace:
                yield from self._foreign(namespace, key)

    def _foreign(self, namespace: str, wanted: str) -> Iterator[ContainerUse]:
        for entry in self.state.namespaces[namespace].containers.values():
            chain = [record.key for record in self.state.down_from(namespace, entry.snapshot)]
            if entry.snapshotter == SNAPSHOTTER and wanted in chain:
                role = _role(wanted, entry.snapshot)
                name = f"{namespace}: {entry.id}"
                yield ContainerUse(
                    ContainerId(entry.id), name, "unknown", None, role, self.state.meta_path, namespace
                )

    def _commands(self, item: Item) -> tuple[str, ...]:
        """What gives up the leases that are all that keeps it, and what it is to other clients than Docker."""
        leased = (item.suspected or item.purpose) in _LEASED
        found = []
        for one in sorted(item.evidence, key=lambda one: one.witness is not Witness.CONTAINER):  # they come first
            other, separator, rest = one.holder.partition(": ")
            where, what = (other, rest) if separator else (self.state.namespace, one.holder)
            verb = _VERBS.get(one.witness)
            foreign = separator or self.disk.docker is None
            if (one.witness is Witness.LEASE and leased) or (verb is not None and foreign):
                found.append(f"ctr -n {shlex.quote(where)} {verb or 'leases rm'} {shlex.quote(what)}")
        return tuple(dict.fromkeys(found))

    def _builds(self, name: str) -> Iterator[BuildRecord]:
        return (build for build in self.state.builds if build.cache_id == name)

    def _builds_of_blob(self, evidence: Iterable[Evidence]) -> Iterator[BuildRecord]:
        ids = {one.holder.removesuffix("-variants") for one in evidence if one.witness is Witness.LEASE}
        return (build for build in self.state.builds if build.id in ids)


def _role(key: str, own: str) -> Role:
    if key == own:
        return Role.UPPER
    return Role.INIT if key == f"{own}{INIT}" else Role.LOWER


def _image_use(image: ImageRecord, index: int | None, created_by: str | None) -> ImageUse:
    user = LayerUser(image.id, image.references)
    return ImageUse(user, index, len(image.diff_ids), created_by, image.config_path or "")
