"""What ``check`` has to measure: the sizes of layers against layerdb, and a second store on the host."""

from __future__ import annotations

import os
from collections.abc import Iterator

from layerscope.analysis.other_stores import other_stores, unused_bytes
from layerscope.analysis.problems import Code, Problem
from layerscope.analysis.space import Shape, Tree, measure
from layerscope.analysis.standing import Standing
from layerscope.analysis.store_state import State
from layerscope.model import Tick, Warn
from layerscope.stores.base import Store
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.overlay2 import DRIVER, Overlay2Store


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


def store_problems(store: Store, disk: Overlay2Store | ContainerdStore, warn: Warn) -> Iterator[Problem]:
    """Where there are several stores: those that the engine does not use, with their bytes."""
    for other in other_stores(store, disk, warn):
        if other.in_use:
            path = disk.root.join(DRIVER) if isinstance(disk, Overlay2Store) else disk.root.path
            yield _second(str(disk.source.driver), path, "which is not in use", unused_bytes(disk, warn))
        else:
            use = (
                "which is not in use"
                if other.in_use is False
                else f"beside {disk.source.driver}; which is in use can't be told"
            )
            yield _second(other.driver, other.path, use, other.allocated_bytes)


def _second(driver: str, path: str, use: str, taken: int) -> Problem:
    return Problem(Code.SECOND_STORE, path, f"is a store of the driver {driver}, {use}; it takes {taken} bytes")
