"""Who stands on a directory of ``overlay2/``: the chains of a ``State``, and the names of images and containers."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

from layerscope.analysis.store_state import State
from layerscope.model import CacheId, ChainId
from layerscope.stores.images import chain_ids


class Standing:
    """What the records of a store say about each other."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._chains: dict[ChainId, tuple[CacheId, ...] | None] = {}

    def chain(self, top: ChainId) -> tuple[CacheId, ...] | None:
        """The directories from a layer down to its base, top first; None where a record is missing or broken."""
        pending: list[ChainId] = []
        current: ChainId | None = top
        while current is not None and current not in self._chains and current not in pending:
            pending.append(current)
            layer = self.state.layers.get(current)
            current = layer.parent if layer is not None else None
        circle = current is not None and current not in self._chains
        for chain_id in reversed(pending):
            layer = self.state.layers.get(chain_id)
            chain: tuple[CacheId, ...] | None = None
            if (
                layer is not None
                and layer.cache_id is not None
                and not circle
                and not self._parent_broken(chain_id)
            ):
                below = () if layer.parent is None else self._chains[layer.parent]
                chain = None if below is None else (layer.cache_id, *below)
            self._chains[chain_id] = chain
        return self._chains[top]

    def _parent_broken(self, chain_id: ChainId) -> bool:
        return any(name == "parent" for name, _ in self.state.layers[chain_id].broken)

    @cached_property
    def below(self) -> dict[CacheId, tuple[CacheId, ...]]:
        """What layerdb says lies below each directory, top first; without those of which it can't be told."""
        found: dict[CacheId, tuple[CacheId, ...]] = {}
        for chain_id in self.state.layers:
            chain = self.chain(chain_id)
            if chain is not None:
                found[chain[0]] = chain[1:]
        for mount in self.state.mounts.values():
            image = () if mount.parent is None else self.chain(mount.parent)
            if image is None or mount.broken:
                continue
            if mount.init_id is not None:
                found[mount.init_id] = image
            if mount.mount_id is not None:
                found[mount.mount_id] = (mount.init_id, *image) if mount.init_id is not None else image
        return found

    @cached_property
    def referenced(self) -> dict[CacheId, str]:
        """The directories that a record names, and the file that does."""
        found: dict[CacheId, str] = {}
        for build in self.state.builds:
            found.setdefault(build.cache_id, build.path)
        for mount in self.state.mounts.values():
            for cache_id, name in ((mount.mount_id, "mount-id"), (mount.init_id, "init-id")):
                if cache_id is not None:
                    found[cache_id] = self.state.mount_path(mount.name, name)
        for layer in self.state.layers.values():
            if layer.cache_id is not None:
                found[layer.cache_id] = self.state.layer_path(layer.name, "cache-id")
        return found

    def users_of_directory(self, cache_id: CacheId) -> tuple[str, ...]:
        """The images and containers that hold a directory, by name."""
        names = [name for chain_id in self._layers[cache_id] for name in self.users_of_layer(chain_id)]
        return tuple(dict.fromkeys([*names, *self._own[cache_id]]))

    def users_of_layer(self, chain_id: ChainId) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._by_layer[chain_id]))

    def container_name(self, holder: str) -> str:
        return self._container_names.get(holder, holder)

    @cached_property
    def _container_names(self) -> dict[str, str]:
        return {container.id: container.name for container in self.state.containers}

    @cached_property
    def _layers(self) -> defaultdict[CacheId, list[ChainId]]:
        found: defaultdict[CacheId, list[ChainId]] = defaultdict(list)
        for chain_id, layer in self.state.layers.items():
            if layer.cache_id is not None:
                found[layer.cache_id].append(chain_id)
        return found

    @cached_property
    def _own(self) -> defaultdict[CacheId, list[str]]:
        """The containers that have a directory for themselves."""
        found: defaultdict[CacheId, list[str]] = defaultdict(list)
        for mount in self.state.mounts.values():
            for cache_id in (mount.mount_id, mount.init_id):
                if cache_id is not None and mount.name in self._container_names:
                    found[cache_id].append(self.container_name(mount.name))
        return found

    @cached_property
    def _by_layer(self) -> defaultdict[ChainId, list[str]]:
        found: defaultdict[ChainId, list[str]] = defaultdict(list)
        for image in self.state.images:
            for chain_id in chain_ids(image.diff_ids):
                found[chain_id].append(image.name)
        for mount in self.state.mounts.values():
            current, seen = mount.parent, set[ChainId]()
            while current is not None and current not in seen and mount.name in self._container_names:
                seen.add(current)
                found[current].append(self.container_name(mount.name))
                layer = self.state.layers.get(current)
                current = layer.parent if layer is not None else None
        return found
