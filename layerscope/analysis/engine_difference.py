"""Why `docker system df` says something else than the disk: the steps from its figure to ours, which add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from layerscope.analysis.disk_usage import Category, DiskUsage, LayerSpace, OutsideKind
from layerscope.analysis.purpose import Purpose
from layerscope.stores.engine_usage import EngineUsage


class Reason(StrEnum):
    """What Docker leaves out, or counts otherwise."""

    RECORDED = "recorded"
    """It adds up sizes that were recorded: BuildKit leaves out symlinks. Or it counted at another moment."""
    BLOCKS = "whole-blocks"
    """It adds up the lengths of files, which take whole blocks; a hole in a file takes none."""
    DIRECTORIES = "directories"
    """It does not count directories themselves."""
    DRIVER = "driver-files"
    """Nor ``link``, ``lower``, ``work`` and ``committed`` beside ``diff``."""
    INIT = "init-layers"
    """Of a container it counts the upper layer alone."""
    LOWER = "layers-without-image"
    """Nor layers that containers stand on and whose image is gone."""
    OTHERS = "other-snapshots"
    """With the containerd image store it counts every snapshot as an image's: those of containers, too."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``claimed_bytes`` + the steps = ``allocated_bytes``."""

    name: str
    """A category, or ``volumes``."""
    claimed_bytes: int
    allocated_bytes: int
    steps: tuple[tuple[Reason, int], ...]


def differences(usage: DiskUsage, claims: EngineUsage) -> list[Difference]:
    """One for each figure that the engine gave."""
    found = [
        _of_layers(usage, Category.IMAGES, claims.images_bytes),
        _of_layers(usage, Category.CONTAINERS, claims.containers_bytes),
        _of_layers(usage, Category.BUILD_CACHE, claims.build_cache_bytes),
        _of_volumes(usage, claims.volumes_bytes),
    ]
    return [item for item in found if item is not None]


def containerd_differences(usage: DiskUsage, claims: EngineUsage) -> list[Difference]:
    """The same for the containerd image store, where Docker counts blocks, and directories (``LayersSize``: moby
    ``daemon/containerd/service.go``, ``LayerDiskUsage``); of blobs it says nothing."""
    found = [
        _of_all_snapshots(usage, claims.images_bytes),
        _of_snapshots(usage, Category.CONTAINERS, claims.containers_bytes),
        _of_snapshots(usage, Category.BUILD_CACHE, claims.build_cache_bytes),
        _of_volumes(usage, claims.volumes_bytes),
    ]
    return [item for item in found if item is not None]


def _of_all_snapshots(usage: DiskUsage, claimed: int | None) -> Difference | None:
    if claimed is None:
        return None
    images = usage.of(Category.IMAGES)
    others = [one for one in usage.layers if one.item.cache_id is not None and one.category is not Category.IMAGES]
    contents, more = (sum(one.measured.apart.allocated_bytes for one in layers) for layers in (images, others))
    steps = (
        (Reason.RECORDED, contents + more - claimed),
        (Reason.OTHERS, -more),
        (Reason.DRIVER, sum(layer.measured.rest.allocated_bytes for layer in images)),
    )
    taken = usage.category_bytes(Category.IMAGES)
    return Difference(Category.IMAGES, claimed, taken, tuple(step for step in steps if step[1]))


def _of_snapshots(usage: DiskUsage, category: Category, claimed: int | None) -> Difference | None:
    if claimed is None:
        return None
    layers = usage.of(category)
    counted = [layer for layer in layers if layer.item.purpose not in (Purpose.INIT, Purpose.LOWER)]
    steps = (
        (Reason.RECORDED, sum(layer.measured.apart.allocated_bytes for layer in counted) - claimed),
        (Reason.DRIVER, sum(layer.measured.rest.allocated_bytes for layer in counted)),
        (Reason.INIT, _bytes_of(layers, Purpose.INIT)),
        (Reason.LOWER, _bytes_of(layers, Purpose.LOWER)),
    )
    return Difference(category, claimed, usage.category_bytes(category), tuple(step for step in steps if step[1]))


def _of_layers(usage: DiskUsage, category: Category, claimed: int | None) -> Difference | None:
    if claimed is None:
        return None
    layers = usage.of(category)
    counted = [layer for layer in layers if layer.item.purpose not in (Purpose.INIT, Purpose.LOWER)]
    contents = [layer.measured.apart for layer in counted]
    apparent = sum(content.apparent_bytes for content in contents)
    steps = [
        (Reason.RECORDED, apparent - claimed),
        (Reason.BLOCKS, sum(content.file_bytes for content in contents) - apparent),
        (Reason.DIRECTORIES, sum(content.directory_bytes for content in contents)),
        (Reason.DRIVER, sum(layer.measured.rest.allocated_bytes for layer in counted)),
        (Reason.INIT, _bytes_of(layers, Purpose.INIT)),
        (Reason.LOWER, _bytes_of(layers, Purpose.LOWER)),
    ]
    return Difference(category, claimed, usage.category_bytes(category), tuple(step for step in steps if step[1]))


def _bytes_of(layers: Sequence[LayerSpace], purpose: Purpose) -> int:
    return sum(layer.measured.allocated_bytes for layer in layers if layer.item.purpose is purpose)


def _of_volumes(usage: DiskUsage, claimed: int | None) -> Difference | None:
    if claimed is None:
        return None
    volumes = [item for item in usage.outside if item.kind is OutsideKind.VOLUME]
    allocated = sum(item.allocated_bytes for item in volumes)
    apparent = sum(item.apparent_bytes for item in volumes)
    steps = ((Reason.RECORDED, apparent - claimed), (Reason.BLOCKS, allocated - apparent))
    return Difference("volumes", claimed, allocated, tuple(step for step in steps if step[1]))
