"""What every store offers, and how a name that the user typed finds its image or container.

Resolution follows Docker's (moby ``daemon/images/image.go``, ``daemon/container.go``): an image is found by
its whole id, then by reference, then by a unique prefix of its id; a container by whole id, by name, then by a
unique prefix.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from layerscope.errors import AmbiguousTargetError, TargetNotFoundError
from layerscope.model import Source, Target, TargetKind, short_id
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.images import ImageRecord
from layerscope.stores.layerdb import LayerRecord, MountRecord
from layerscope.stores.records import BrokenRecord
from layerscope.stores.references import parse

_HEX_PREFIX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
MOST_CANDIDATES: Final = 8

Record = ImageRecord | ContainerRecord


class Store(Protocol):
    """A place that layers come from."""

    @property
    def source(self) -> Source: ...

    @property
    def parts(self) -> Sequence[Store]:
        """Itself; or the stores that it is made of, the one in use first."""
        ...

    def images(self) -> Sequence[ImageRecord]:
        """Every image, by id."""
        ...

    def containers(self) -> Sequence[ContainerRecord]:
        """Every container, by id."""
        ...

    def broken(self) -> Sequence[BrokenRecord]:
        """The images and containers that ``images`` and ``containers`` leave out because they can't be read."""
        ...

    def image_layers(self, image: ImageRecord) -> Sequence[LayerRecord]:
        """The records of an image's layers, base first. Raises CorruptStoreError."""
        ...

    def container_mount(self, container: ContainerRecord) -> MountRecord:
        """The record of a container's read-write layer. Raises CorruptStoreError."""
        ...

    def image_target(self, image: ImageRecord) -> Target:
        """The image with its stack. Raises LayerscopeError."""
        ...

    def container_target(self, container: ContainerRecord) -> Target:
        """The container with its stack. Raises LayerscopeError."""
        ...


def find_target(store: Store, text: str, kind: TargetKind | None = None) -> Target:
    """Resolve what the user typed, among images, containers or both.

    ``image:…`` and ``container:…`` choose where a name is both. Raises TargetNotFoundError or
    AmbiguousTargetError.
    """
    record = find_record(store, text, kind)
    if isinstance(record, ImageRecord):
        return store.image_target(record)
    return store.container_target(record)


def find_record(store: Store, text: str, kind: TargetKind | None = None) -> Record:
    """The image or container that ``text`` names.

    Raises TargetNotFoundError, AmbiguousTargetError, or what is wrong with the record when it can't be read.
    """
    typed, asked = text, kind
    for prefix, chosen in (("image:", TargetKind.IMAGE), ("container:", TargetKind.CONTAINER)):
        if typed.startswith(prefix) and kind in (None, chosen):
            text, kind = typed.removeprefix(prefix), chosen
    images = store.images() if kind is not TargetKind.CONTAINER else ()
    containers = store.containers() if kind is not TargetKind.IMAGE else ()
    exact: list[Record] = [
        *_images_named(images, text),
        *(c for c in containers if text.removeprefix("/") in (c.id, c.name)),
    ]
    if typed != text and asked is not TargetKind.CONTAINER:
        # An image, too, may be called `image` or `container`, and `image:1` then means its tag.
        exact += [image for image in _images_named(store.images(), typed) if image not in exact]
    found = exact or _by_prefix(images, containers, text)
    if len(found) > 1:
        found = _in_use(store, found) or found
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousTargetError(
            f'"{text}" fits {len(found)} images or containers: {_list(found, _drivers(store))}',
            _how_to_choose(found, text),
        )
    for record in store.broken():
        if kind in (None, record.kind) and _fits(record, text):
            raise record.error
    raise TargetNotFoundError(f"no {_searched(kind)} is called {text!r}", _suggest(text, images, containers))


def _in_use(store: Store, found: Sequence[Record]) -> list[Record]:
    """Those in the store that the engine uses, where it is known: what Docker means by the name."""
    first = store.parts[0]
    ids = {record.id for record in _records(first)} if first.source.in_use else set()
    return [record for record in found if record.id in ids]


def _drivers(store: Store) -> dict[str, str]:
    """Which store has a record, by its id; nothing where there is only one."""
    if len(store.parts) == 1:
        return {}
    return {record.id: str(part.source.driver) for part in store.parts for record in _records(part)}


def _records(store: Store) -> list[Record]:
    return [*store.images(), *store.containers()]


def _images_named(images: Sequence[ImageRecord], text: str) -> list[ImageRecord]:
    for image in images:
        if text in (image.id, image.id.removeprefix("sha256:")):
            return [image]
    reference = parse(text)
    found = [
        image
        for image in images
        if text in image.references or (reference is not None and reference.key in image.references)
    ]
    if not found and reference is not None and reference.digest is not None:
        # In containerd an image's id is the digest that it was pulled by: its names go with it.
        found = [
            image for image in images if image.id == reference.digest and _has_repository(image, reference.name)
        ]
    return found


def _has_repository(image: ImageRecord, name: str) -> bool:
    return any(own is not None and own.name == name for own in map(parse, image.references))


def _by_prefix(images: Sequence[ImageRecord], containers: Sequence[ContainerRecord], text: str) -> list[Record]:
    match = _HEX_PREFIX.fullmatch(text)
    if match is None:
        return []
    found: list[Record] = [i for i in images if i.id.removeprefix("sha256:").startswith(match[1])]
    if not text.startswith("sha256:"):
        found += [c for c in containers if c.id.startswith(match[1])]
    return found


def _fits(record: BrokenRecord, text: str) -> bool:
    """Whether ``text`` names a record that can't be read: by id, its start, or a name."""
    reference, match = parse(text), _HEX_PREFIX.fullmatch(text)
    return (
        text.removeprefix("/") in (record.id, *record.names)
        or (reference is not None and reference.key in record.names)
        or (match is not None and record.id.removeprefix("sha256:").startswith(match[1]))
    )


def _searched(kind: TargetKind | None) -> str:
    return kind.value if kind else "image or container"


def _list(found: Sequence[Record], drivers: Mapping[str, str]) -> str:
    shown = [_describe(record, drivers.get(record.id)) for record in found[:MOST_CANDIDATES]]
    more = len(found) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _describe(record: Record, driver: str | None) -> str:
    kind, name = "container", record.name
    if isinstance(record, ImageRecord):
        kind, name = "image", record.references[0] if record.references else ""
    beside = ", ".join(part for part in (name, driver) if part)
    return f"{kind} {short_id(record.id)}" + (f" ({beside})" if beside else "")


def _how_to_choose(found: Sequence[Record], text: str) -> str:
    kinds = {isinstance(record, ImageRecord) for record in found}
    if len(kinds) == 2 and len(found) == 2:
        return f"say image:{text} or container:{text}"
    return "give more digits of the id, or a whole name"


def _suggest(text: str, images: Sequence[ImageRecord], containers: Sequence[ContainerRecord]) -> str:
    names = [name for image in images for name in image.references] + [c.name for c in containers]
    # `redsi` is near `redis:7` only when the tag is not counted.
    near = difflib.get_close_matches(text, names, n=3) or [
        name for name in names if difflib.SequenceMatcher(None, text, name.rpartition(":")[0] or name).ratio() > 0.7
    ]
    if near:
        return f"did you mean {' or '.join(near[:3])}?"
    return "`layerscope ls` lists what there is"
