"""Images as containerd keeps them: names in ``meta.db``, manifests and configurations in the content store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

from layerscope.errors import (
    CorruptStoreError,
    LayerscopeError,
    StoragePermissionError,
    StoreBusyError,
    UnsupportedStoreError,
)
from layerscope.model import Caution, ImageId, TargetKind, Warn
from layerscope.stores import records
from layerscope.stores.content_store import ContentStore, Manifest, Platform, host_platform, platform_of
from layerscope.stores.images import ImageRecord, chain_ids, image_record, sort_references
from layerscope.stores.metadata import NamedImage, Namespace
from layerscope.stores.records import BrokenRecord
from layerscope.stores.references import parse
from layerscope.stores.snapshots import SnapshotDb

DANGLING: Final = "moby-dangling@"
"""How Docker begins the names of images that have none (moby ``daemon/containerd/soft_delete.go``)."""


class ContainerdImages:
    """The images of a namespace."""

    def __init__(
        self,
        content: ContentStore,
        snapshots: SnapshotDb,
        named: Sequence[NamedImage],
        platform: Platform | None,
        warn: Warn,
        read_again: Callable[[], Namespace | None],
    ) -> None:
        """``read_again`` gives what the namespace holds by now."""
        self.content = content
        self.snapshots = snapshots
        self.named = named
        self.platform = platform
        self.warn = warn
        self.read_again = read_again
        self.broken: list[BrokenRecord] = []
        """The images that ``all`` left out."""

    def all(self) -> list[ImageRecord]:
        """Every readable image, by id. A broken one is a warning and left out."""
        names: dict[str, list[NamedImage]] = {}
        for named in self.named:
            names.setdefault(named.target, []).append(named)
        found = []
        for target, group in sorted(names.items()):
            references = sort_references(name for named in group for name in _reference(named.name))
            parent = next((named.parent for named in group if named.parent is not None), None)
            try:
                image = self._choose(self._candidates(target, references), references)
                found.append(replace(image, parent=records.image_id(parent)))
            except (CorruptStoreError, StoragePermissionError, UnsupportedStoreError) as error:
                if not self._is_gone(target):
                    self._leave_out(target, references or (group[0].name,), error)
        return found

    def target(self, name: str) -> ImageId | None:
        """The id of the image of that name, in full."""
        return next((records.image_id(named.target) for named in self.named if named.name == name), None)

    def for_chain(self, image: ImageRecord, keys: set[str]) -> ImageRecord | None:
        """The same image for the platform whose top layer is among these snapshots."""
        try:
            candidates = self._candidates(image.id, image.references)
        except (CorruptStoreError, StoragePermissionError):
            return None
        fitting = (one for one in candidates if one.diff_ids and chain_ids(one.diff_ids)[-1] in keys)
        return next((replace(one, parent=image.parent) for one in fitting), None)

    def _candidates(self, target: str, references: tuple[str, ...]) -> list[ImageRecord]:
        """The image for every platform that is here. Raises CorruptStoreError."""
        identifier = records.image_id(target)
        if identifier is None:
            raise CorruptStoreError(
                f"{references[0] if references else 'an image without a name'} stands for {target[:80]!r},"
                " which is no digest",
                "the record is damaged; remove the image and get it again",
            )
        manifests = self.content.manifests(identifier)
        found, error = [], None
        for manifest in manifests:
            try:
                found.append(self._image(identifier, references, manifest))
            except CorruptStoreError as failure:
                error = failure
        if error is not None and not found:
            raise error
        if not found:
            raise CorruptStoreError(
                f"no manifest of {references[0] if references else identifier} is in the content store",
                "the image was not pulled completely; pull it again",
            )
        return found

    def _image(self, identifier: ImageId, references: tuple[str, ...], manifest: Manifest) -> ImageRecord:
        config = self.content.document(manifest.config)
        path = self.content.root.join(self.content.path(manifest.config))
        if config is None:
            raise CorruptStoreError(
                f"the image configuration {path} does not exist",
                "the image was not pulled completely; pull it again",
            )
        record = image_record(identifier, references, config, None, path)
        return replace(record, config_path=path, blobs=manifest.layers)

    def _choose(self, candidates: Sequence[ImageRecord], references: tuple[str, ...]) -> ImageRecord:
        """One platform's image: the one asked for, else one that is unpacked, else this machine's."""
        platforms = {id(image): platform_of(image.config) for image in candidates}
        if self.platform is not None:
            asked = self.platform
            fitting = [one for one in candidates if (own := platforms[id(one)]) is not None and own.fits(asked)]
            if not fitting:
                here = ", ".join(sorted({str(platform) for platform in platforms.values()}))
                raise UnsupportedStoreError(
                    f"the image {references[0] if references else candidates[0].id} is not here for {asked}",
                    f"it is here for {here}; leave out --platform, or pull it for {asked}",
                )
            candidates = fitting
        if len(candidates) == 1:
            return candidates[0]
        host = host_platform()

        def rank(image: ImageRecord) -> tuple[bool, bool]:
            own = platforms[id(image)]
            return not self._is_unpacked(image), own is None or not own.fits(host)

        return min(candidates, key=rank)

    def _is_unpacked(self, image: ImageRecord) -> bool:
        try:
            return not image.diff_ids or self.snapshots.chain(chain_ids(image.diff_ids)[-1]) is not None
        except CorruptStoreError:
            return True  # and damaged: the user is to know

    def _is_gone(self, target: str) -> bool:
        """Whether the image was removed since its name was read: then nothing is broken."""
        try:
            now = self.read_again()
        except (CorruptStoreError, StoragePermissionError, StoreBusyError):
            return False
        return now is None or all(named.target != target for named in now.images)

    def _leave_out(self, target: str, names: tuple[str, ...], error: LayerscopeError) -> None:
        self.broken.append(BrokenRecord(TargetKind.IMAGE, target, names, error))
        self.warn(Caution("broken-image", self.content.root.path, f"image left out: {error.message}"))


def _reference(name: str) -> Iterable[str]:
    """How Docker shows a name of an image; not at all where it only makes it so that the image is not lost."""
    if name.startswith(DANGLING) or records.image_id(name) is not None:
        return ()  # Kubernetes gives every image a name that is a digest
    reference = parse(name)
    return (reference.key if reference is not None else name,)
