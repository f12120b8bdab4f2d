"""What ``check`` finds in layerdb, among images, containers and the build cache. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from layerscope.analysis.problems import Code, Problem
from layerscope.analysis.standing import Standing
from layerscope.analysis.store_state import LayerState, State
from layerscope.model import CacheId, Caution, ChainId
from layerscope.stores.buildkit import SNAPSHOTS
from layerscope.stores.evidence import BUILDKIT_NAME
from layerscope.stores.images import chain_id as chain_id_of
from layerscope.stores.images import chain_ids

_IMAGES: Final = {
    "broken-image": Code.BROKEN_IMAGE,
    "changed-image-config": Code.IMAGE_ID,
    "broken-parent": Code.BROKEN_PARENT,
    "broken-references": Code.BROKEN_REFERENCES,
}
_CONTAINERS: Final = {"other-driver": Code.OTHER_DRIVER}
"""What the readers of images and containers call a problem. Anything else about a container breaks it."""
_GOING: Final = frozenset({"removing", "dead"})
"""States of containers whose layers may be gone already."""


def record_problems(state: State) -> Iterator[Problem]:
    """The problems of the records, in no order."""
    standing = Standing(state)
    yield from _layers(state, standing)
    yield from _mounts(state, standing)
    yield from _images(state)
    yield from _containers(state)
    yield from _build_cache(state, standing)


def _layers(state: State, standing: Standing) -> Iterator[Problem]:
    for path in state.removing:
        yield Problem(Code.HALF_REMOVED, state.root.join(path), "is a layer whose removal was not finished")
    holders: defaultdict[CacheId, list[ChainId]] = defaultdict(list)
    for chain_id, layer in state.layers.items():
        users = standing.users_of_layer(chain_id)
        for name, wrong in layer.broken:
            yield Problem(Code.BROKEN_LAYER, state.layer_path(layer.name, name), wrong, users)
        if not layer.has_tar_split:
            path = state.layer_path(layer.name, "tar-split.json.gz")
            yield Problem(Code.MISSING_TAR_SPLIT, path, "is missing", users)
        yield from _identity(state, chain_id, layer, users)
        if layer.cache_id is not None:
            holders[layer.cache_id].append(chain_id)
    for cache_id, chains in holders.items():
        if len(chains) > 1:
            names = ", ".join(chain_id.removeprefix("sha256:")[:12] for chain_id in sorted(chains))
            path, users = state.directory_path(cache_id), standing.users_of_directory(cache_id)
            yield Problem(Code.SHARED_DIRECTORY, path, f"belongs to {len(chains)} layers: {names}", users)


def _identity(state: State, chain_id: ChainId, layer: LayerState, users: tuple[str, ...]) -> Iterator[Problem]:
    if layer.parent is not None and layer.parent not in state.layers:
        path = state.layer_path(layer.name, "parent")
        yield Problem(Code.MISSING_PARENT, path, f"names {layer.parent}, which is not in layerdb", users)
    if layer.diff_id is not None and all(name != "parent" for name, _ in layer.broken):
        made_of = chain_id_of(layer.parent, layer.diff_id)
        if made_of != chain_id:
            message = f"holds {layer.diff_id} on {layer.parent or 'nothing'}, whose chain_id is {made_of}"
            yield Problem(Code.CHAIN_ID, state.layer_path(layer.name), message, users)


def _mounts(state: State, standing: Standing) -> Iterator[Problem]:
    for mount in state.mounts.values():
        users = (standing.container_name(mount.name),)
        for name, wrong in mount.broken:
            yield Problem(Code.BROKEN_MOUNT, state.mount_path(mount.name, name), wrong, users)
        if mount.parent is not None and mount.parent not in state.layers:
            path = state.mount_path(mount.name, "parent")
            yield Problem(Code.MISSING_PARENT, path, f"names {mount.parent}, which is not in layerdb", users)


def _images(state: State) -> Iterator[Problem]:
    for caution in state.image_trouble:
        yield _of_caution(caution, _IMAGES.get(caution.code, Code.BROKEN_IMAGE))
    for image in state.images:
        for index, chain_id in enumerate(chain_ids(image.diff_ids)):
            if chain_id not in state.layers:
                message = f"has as layer {index} {chain_id}, which is not in layerdb"
                yield Problem(Code.MISSING_LAYER, image.config_path or image.id, message, (image.name,))


def _containers(state: State) -> Iterator[Problem]:
    for caution in state.container_trouble:
        yield _of_caution(caution, _CONTAINERS.get(caution.code, Code.BROKEN_CONTAINER))
    for container in state.containers:
        if container.id not in state.mounts and container.state not in _GOING:
            message = "has no read-write layer in layerdb"
            yield Problem(Code.NO_MOUNT, state.root.join("containers", container.id), message, (container.name,))


def _build_cache(state: State, standing: Standing) -> Iterator[Problem]:
    for source in state.build_trouble:
        if source.path == state.root.join(SNAPSHOTS) and not any(
            len(name) == BUILDKIT_NAME and name not in standing.referenced for name in state.directories
        ):
            continue  # it is missing, and with it nothing that could be told of it
        yield Problem(Code.BUILD_CACHE, source.path, source.message)


def _of_caution(caution: Caution, code: Code) -> Problem:
    return Problem(code, caution.path or "-", caution.message)
