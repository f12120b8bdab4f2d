"""What to audit: targets with the texts of their configurations, from a store."""

from __future__ import annotations

from collections.abc import Iterator

from layerscope.analysis.audit import Skipped, Subject
from layerscope.analysis.configuration import ConfigText, container_texts, image_texts
from layerscope.errors import CorruptStoreError, StoragePermissionError, UnsupportedStoreError
from layerscope.model import Caution, Target, TargetKind, Warn
from layerscope.stores.base import Record, Store
from layerscope.stores.images import ImageRecord, build_steps


def all_subjects(store: Store, warn: Warn, *, intermediate: bool) -> tuple[list[Subject], list[Skipped]]:
    """Every image and container of a store, images by name first, and those that can't be read.

    Untagged steps of the legacy builder are left out unless ``intermediate``.
    """
    steps = set() if intermediate else build_steps(store.images())
    images = [image for image in store.images() if image.id not in steps]
    records: list[Record] = [
        *sorted(images, key=lambda image: (not image.references, image.name)),
        *sorted(store.containers(), key=lambda container: container.name),
    ]
    subjects: list[Subject] = []
    skipped = [
        Skipped(record.names[0] if record.names else record.id, record.error.message) for record in store.broken()
    ]
    for record in records:
        try:
            subjects.append(subject_of(store, _target(store, record)))
        except (CorruptStoreError, StoragePermissionError, UnsupportedStoreError) as error:
            skipped.append(Skipped(record.name, error.message))
            warn(Caution("not-scanned", None, f"{record.name}: {error.message}"))
    return subjects, skipped


def _target(store: Store, record: Record) -> Target:
    return store.image_target(record) if isinstance(record, ImageRecord) else store.container_target(record)


def subject_of(store: Store, target: Target) -> Subject:
    """A target with its configuration; for a container that of its image, too."""
    return Subject(target, tuple(_texts(store, target)))


def _texts(store: Store, target: Target) -> Iterator[ConfigText]:
    if target.kind is TargetKind.MOUNT:
        return
    image_id = target.image_id if target.kind is TargetKind.CONTAINER else target.id
    image = next((image for image in store.images() if image.id == image_id), None)
    if image is not None:
        yield from image_texts(image, target.stack)
    if target.kind is TargetKind.CONTAINER:
        container = next((one for one in store.containers() if one.id == target.id), None)
        if container is not None:
            yield from container_texts(container)
