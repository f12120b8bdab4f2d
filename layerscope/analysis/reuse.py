"""What images share: the tree of their layers, and why layers that look alike are stored twice. Walks nothing.

Sizes are those that the engine recorded when it made the layers (layerdb ``size``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from layerscope.errors import CorruptStoreError, StoragePermissionError
from layerscope.model import Caution, ChainId, DiffId, HistoryStep, ImageId, Warn
from layerscope.stores.base import Store
from layerscope.stores.images import ImageRecord, build_steps, chain_ids

MOST_IN_PAIRS: Final = 60
"""Images that are compared each with each; beyond that the tree says it all and the pairs nothing."""


@dataclass(slots=True)
class Node:
    """A layer in the tree of all chains, with what lies on it."""

    chain_id: ChainId
    diff_id: DiffId
    parent: Node | None
    step: HistoryStep | None
    size_bytes: int | None = None
    """Null where the record is missing or holds none."""
    cache_id: str | None = None
    children: list[Node] = field(default_factory=list)
    images: list[ImageId] = field(default_factory=list)
    """The images asked about that hold the layer."""
    tops: list[ImageId] = field(default_factory=list)
    """Those of them that end here."""
    holders: int = 0
    """How many images of the host hold the layer, asked about or not."""

    @property
    def created_by(self) -> str | None:
        return (self.step.created_by or self.step.comment) if self.step is not None else None


@dataclass(frozen=True, slots=True)
class SharingImage:
    """An image, and how much of it other images of the host hold as well."""

    record: ImageRecord
    size_bytes: int | None
    shared_bytes: int | None
    unique_bytes: int | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images and the layers that both have: a common beginning of their chains."""

    one: ImageId
    other: ImageId
    layers: int
    shared_bytes: int


class TwiceReason(StrEnum):
    """Why layers that look alike are stored more than once."""

    OTHER_PARENT = "other-parent"
    """The same diff_id on another parent: a layer is shared only with all that is below it."""
    OTHER_CONTENT = "other-content"
    """The same instruction on the same parent, and another diff_id."""


@dataclass(frozen=True, slots=True)
class Twice:
    """Layers that could be one, or look so."""

    reason: TwiceReason
    nodes: tuple[Node, ...]
    same_instruction: bool
    same_files: bool | None = None
    """For ``OTHER_CONTENT``: whether all files agree in name, size and CRC-64; None where that can't be told."""
    attributes: tuple[str, ...] = ()
    """For the same files: what in their tar headers differs, of ``mode``, ``owner``, ``mtime``, ``xattrs``."""
    first_difference: str | None = None
    """For other files: a path in which they differ."""

    @property
    def wasted_bytes(self) -> int:
        """What all but one of them take, by recorded size."""
        sizes = sorted(node.size_bytes or 0 for node in self.nodes)
        return sum(sizes[:-1])


@dataclass(frozen=True, slots=True)
class Reuse:
    """The answer."""

    images: list[SharingImage]
    roots: list[Node]
    """The tree: base layers, each with what lies on it, in the order of the images."""
    pairs: list[Pair] | None
    """None for more than ``MOST_IN_PAIRS`` images."""
    twice: list[Twice]


Compare = Callable[[ChainId, ChainId], tuple[bool | None, tuple[str, ...], str | None]]
"""Compares two layers by their tar-splits: same files, differing attributes, a differing path."""


def cannot_compare(_one: ChainId, _other: ChainId) -> tuple[bool | None, tuple[str, ...], str | None]:
    """For a store that keeps no tar-splits: whether the files are the same is not told."""
    return None, (), None


def find_reuse(
    store: Store, images: Sequence[ImageRecord], everything: Sequence[ImageRecord], compare: Compare, warn: Warn
) -> Reuse:
    """What ``images`` share among each other and with ``everything`` on the host. A broken image is a warning.

    Untagged steps of the legacy builder count for nothing: they go with the image above them.
    """
    steps = build_steps(everything)
    holders: dict[ChainId, int] = {}
    for image in everything:
        if image.id not in steps:
            for chain_id in chain_ids(image.diff_ids):
                holders[chain_id] = holders.get(chain_id, 0) + 1
    nodes: dict[ChainId, Node] = {}
    roots: list[Node] = []
    sharing = []
    for image in images:
        chain = _insert(image, nodes, roots, holders)
        try:
            for node, record in zip(chain, store.image_layers(image), strict=True):
                node.size_bytes, node.cache_id = record.size_bytes, record.cache_id
        except (CorruptStoreError, StoragePermissionError) as error:
            warn(Caution("broken-image", store.source.data_root, error.message))
        sharing.append(_sharing(image, chain))
    return Reuse(sharing, roots, _pairs(images, nodes), [*_other_parent(nodes), *_other_content(nodes, compare)])


def _insert(
    image: ImageRecord, nodes: dict[ChainId, Node], roots: list[Node], holders: Mapping[ChainId, int]
) -> list[Node]:
    steps = {step.layer: step for step in image.history if step.layer is not None}
    chain: list[Node] = []
    parent: Node | None = None
    for index, (diff_id, chain_id) in enumerate(zip(image.diff_ids, chain_ids(image.diff_ids), strict=True)):
        node = nodes.get(chain_id)
        if node is None:
            node = nodes[chain_id] = Node(chain_id, diff_id, parent, steps.get(index))
            node.holders = holders.get(chain_id, 0)
            (roots if parent is None else parent.children).append(node)
        node.images.append(image.id)
        chain.append(node)
        parent = node
    if parent is not None:
        parent.tops.append(image.id)
    return chain


def _sharing(image: ImageRecord, chain: Sequence[Node]) -> SharingImage:
    sizes = [(node.size_bytes, node.holders > 1) for node in chain]
    if any(size is None for size, _ in sizes):
        return SharingImage(image, None, None, None)
    shared = sum(size or 0 for size, is_shared in sizes if is_shared)
    total = sum(size or 0 for size, _ in sizes)
    return SharingImage(image, total, shared, total - shared)


def _pairs(images: Sequence[ImageRecord], nodes: Mapping[ChainId, Node]) -> list[Pair] | None:
    if len(images) > MOST_IN_PAIRS:
        return None
    found = []
    chains = {image.id: chain_ids(image.diff_ids) for image in images}
    for index, one in enumerate(images):
        for other in images[index + 1 :]:
            layers = size = 0
            for mine, theirs in zip(chains[one.id], chains[other.id], strict=False):
                if mine != theirs:
                    break
                layers += 1
                size += nodes[mine].size_bytes or 0
            if layers:
                found.append(Pair(one.id, other.id, layers, size))
    return found


def _groups(nodes: Iterable[Node], key: Callable[[Node], object]) -> Iterator[tuple[Node, ...]]:
    found: dict[object, list[Node]] = {}
    for node in nodes:
        found.setdefault(key(node), []).append(node)
    return (tuple(group) for group in found.values() if len(group) > 1)


def _other_parent(nodes: Mapping[ChainId, Node]) -> Iterator[Twice]:
    for group in _groups(nodes.values(), lambda node: node.diff_id):
        if any(node.size_bytes for node in group):  # an empty layer wastes nothing
            yield Twice(TwiceReason.OTHER_PARENT, group, len({node.created_by for node in group}) == 1)


def _other_content(nodes: Mapping[ChainId, Node], compare: Compare) -> Iterator[Twice]:
    """Layers made by the same instruction on the same parent; each is compared with the first of them."""
    alike = (node for node in nodes.values() if node.created_by is not None)
    for first, *others in _groups(
        alike, lambda node: (node.parent.chain_id if node.parent is not None else None, node.created_by)
    ):
        for other in others:
            if first.size_bytes or other.size_bytes:
                told = compare(first.chain_id, other.chain_id)
                yield Twice(TwiceReason.OTHER_CONTENT, (first, other), True, *told)
