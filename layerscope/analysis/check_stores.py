"""What ``check`` has to measure: the sizes of layers against layerdb, and a second store on the host."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from layerscope.analysis.problems import Code, Problem
from layerscope.analysis.space import Shape, Tree, measure
from layerscope.analysis.standing import Standing
from layerscope.analysis.store_state import State
from layerscope.errors import LayerscopeError
from layerscope.model import Source, Tick, Warn
from layerscope.stores.base import Store
from layerscope.stores.locate import other_drivers
from layerscope.stores.overlay2 import DRIVER, Overlay2Store
from layerscope.stores.records import DataRoot


def size_problems(state: State, warn: Warn, tick: Tick) -> Iterator[Problem]:
    """Layers whose files add up to another size than was recorded when they were made.

    The engine records the length of everything but directories, BuildKit that of regular files alone (moby
    ``daemon/graphdriver/fsdiff.go``, ``daemon/internal/builder-next/adapters/snapshot``).
    """
    layers = [
        (chain_id, layer)
        for chain_id, layer in state.layers.items()
        if layer.size_bytes is not None and layer.cache_id in state.directories
    ]
    device = os.stat(state.root.join(DRIVER)).st_dev
    trees = [Tree(f"{DRIVER}/{layer.cache_id}", Shape.LAYER, device) for _, layer in layers]
    spaces = measure(state.root.path, trees, (), warn, tick=tick)
    standing = Standing(state)
    for (chain_id, layer), measured in zip(layers, spaces.trees, strict=True):
        found = measured.apart
        if layer.size_bytes not in (found.apparent_bytes, found.apparent_bytes - found.symlink_bytes):
            message = f"says {layer.size_bytes} bytes, {DRIVER}/{layer.cache_id}/diff holds {found.apparent_bytes}"
            path = state.layer_path(layer.name, "size")
            yield Problem(Code.SIZE, path, message, standing.users_of_layer(chain_id))


def store_problems(store: Store, disk: Overlay2Store, warn: Warn) -> Iterator[Problem]:
    """Every store on the host but the one in use, or but this one where that can't be told, with its bytes."""
    sources = [part.source for part in store.parts]
    if len(sources) > 1:
        left = [source for source in sources if source.in_use is False] or [
            source for source in sources if source.driver != DRIVER
        ]
        for source in left:
            taken = _taken(source, warn)
            known = "not in use" if source.in_use is False else "beside overlay2; which is in use can't be told"
            message = f"the {source.driver} store, {known}, takes {taken} bytes"
            yield Problem(Code.SECOND_STORE, source.storage or "-", message)
    for driver in other_drivers(disk.root):
        places = [place for place in (driver, f"image/{driver}") if disk.root.is_directory(*place.split("/"))]
        taken = _bytes(disk.root, places, warn)
        message = f"the store of the storage driver {driver}, not in use, takes {taken} bytes"
        yield Problem(Code.SECOND_STORE, disk.root.join(driver), message)


def _taken(source: Source, warn: Warn) -> int:
    if source.containerd_root is not None:
        return _bytes(DataRoot(source.containerd_root), [""], warn)
    root = DataRoot(source.data_root or "/")
    return _bytes(
        root, [place for place in (DRIVER, f"image/{DRIVER}") if root.is_directory(*place.split("/"))], warn
    )


def _bytes(root: DataRoot, places: Sequence[str], warn: Warn) -> int:
    try:
        spaces = measure(root.path, [Tree(place) for place in places], (), warn)
    except (LayerscopeError, OSError):
        return 0
    return sum(tree.allocated_bytes for tree in spaces.trees)
