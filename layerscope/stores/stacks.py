"""Makes stacks and targets of what a store knows: the part that is the same for every store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from layerscope.model import (
    Accumulated,
    CacheId,
    Caution,
    ChainId,
    HistoryStep,
    ImageId,
    Layer,
    LayerUser,
    LinkId,
    OverlayOptions,
    Role,
    Source,
    Stack,
    Target,
    TargetKind,
)
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.images import ImageRecord, build_steps, chain_ids
from layerscope.stores.layerdb import LayerRecord

if TYPE_CHECKING:
    from layerscope.tars.layer import TarLayer


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of a chain."""

    cache_id: CacheId | None
    diff_dir: str
    record: LayerRecord | None
    """None for a layer that is part of no image."""
    role: Role = Role.IMAGE
    link_id: LinkId | None = None
    snapshot: str | None = None
    accumulated: Accumulated | None = None
    tar: TarLayer | None = None


def image_target(
    image: ImageRecord,
    places: Sequence[Place],
    images: Sequence[ImageRecord],
    options: OverlayOptions,
    source: Source,
) -> Target:
    """An image with its stack; ``places`` base first, ``images`` all that the store has."""
    stack = _stack(places, image, layer_users(images, image.id), options)
    return Target(
        kind=TargetKind.IMAGE,
        id=image.id,
        name=image.name,
        stack=stack,
        references=image.references,
        history=_history(image, stack),
        source=source,
    )


def container_target(
    container: ContainerRecord,
    image: ImageRecord | None,
    places: Sequence[Place],
    images: Sequence[ImageRecord],
    options: OverlayOptions,
    source: Source,
) -> Target:
    """A container with its stack: its image's layers, its init layer, its upper layer."""
    stack = _stack(places, image, layer_users(images, container.image_id), options)
    return Target(
        kind=TargetKind.CONTAINER,
        id=container.id,
        name=container.name,
        stack=stack,
        history=_history(image, stack) if image is not None else (),
        image_id=container.image_id,
        image=container.image,
        state=container.state,
        source=source,
    )


def _stack(
    places: Sequence[Place],
    image: ImageRecord | None,
    users: Mapping[ChainId, Sequence[LayerUser]],
    options: OverlayOptions,
) -> Stack:
    steps = _steps(image) if image is not None else {}
    layers = []
    for index, place in enumerate(places):
        record = place.record
        step = steps.get(record.chain_id) if record is not None else None
        layers.append(
            Layer(
                index=index,
                role=place.role,
                diff_dir=place.diff_dir,
                diff_id=record.diff_id if record is not None else None,
                chain_id=record.chain_id if record is not None else None,
                cache_id=place.cache_id,
                link_id=place.link_id,
                snapshot=place.snapshot,
                tar=place.tar,
                created_by=(step.created_by or step.comment) if step is not None else None,
                created=step.created if step is not None else None,
                shared_with=tuple(users.get(record.chain_id, ())) if record is not None else (),
                recorded_bytes=record.size_bytes if record is not None else None,
                accumulated=place.accumulated,
            )
        )
    return Stack(tuple(layers), options)


def _steps(image: ImageRecord) -> dict[ChainId, HistoryStep]:
    """The history step that made each layer."""
    chain = chain_ids(image.diff_ids)
    return {chain[step.layer]: step for step in image.history if step.layer is not None}


def _history(image: ImageRecord, stack: Stack) -> tuple[HistoryStep, ...]:
    """An image's history with its layers as they are numbered in the stack, which may have others between them."""
    chain = chain_ids(image.diff_ids)
    index = {layer.chain_id: layer.index for layer in stack}
    return tuple(
        step if step.layer is None else replace(step, layer=index.get(chain[step.layer], step.layer))
        for step in image.history
    )


def layer_users(images: Sequence[ImageRecord], but: ImageId | None) -> dict[ChainId, list[LayerUser]]:
    """Which images hold a layer, all ``but`` one. Untagged steps of the legacy builder are left out."""
    steps = build_steps(images)
    found: dict[ChainId, list[LayerUser]] = {}
    for image in images:
        if image.id != but and image.id not in steps:
            for chain_id in chain_ids(image.diff_ids):
                found.setdefault(chain_id, []).append(LayerUser(image.id, image.references))
    return found


def layer_instructions(images: Iterable[ImageRecord]) -> dict[ChainId, str | None]:
    """The instruction that made each layer of these images, by the first of them that has it."""
    found: dict[ChainId, str | None] = {}
    for image in images:
        chain = chain_ids(image.diff_ids)
        for step in image.history:
            if step.layer is not None:
                found.setdefault(chain[step.layer], step.created_by or step.comment)
    return found


def chain_mismatch(
    path: str, name: str, one_name: str, one: Sequence[str], other_name: str, other: Sequence[str]
) -> Caution | None:
    """What to say when two witnesses name different layers, base first; None when they agree."""
    if list(one) == list(other):
        return None
    return Caution(
        "chain-mismatch",
        path,
        f"the layers of {name}, base first, are {' '.join(one) or '(none)'} in {one_name}"
        f" but {' '.join(other) or '(none)'} in {other_name}",
    )
