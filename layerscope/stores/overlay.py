"""The old graph driver ``overlay``, without a daemon: layers that are whole trees of hard links.

Source: moby ``daemon/graphdriver/overlay/overlay.go`` of 20.10, the last with this driver. ``overlay/<id>`` holds
either ``root``, all that an image shows up to that layer, or ``lower-id``, ``upper`` and ``work``, which the engine
mounts over the ``root`` of the layer that ``lower-id`` names. On top of one with an ``upper`` (BuildKit's layers, a
container's init layer) the next ``upper`` begins as a copy of that one, over the same ``root``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from layerscope.errors import CorruptStoreError
from layerscope.model import Accumulated, CacheId, Caution, OverlayOptions, Role, Sameness, Warn
from layerscope.overlay.accumulated import lost_links
from layerscope.stores import records
from layerscope.stores.classic import ENGINE_DATA, ClassicStore, LayerDirectory
from layerscope.stores.layerdb import LayerRecord
from layerscope.stores.records import DataRoot
from layerscope.stores.stacks import Place

DRIVER: Final = "overlay"
ROOT: Final = "root"
UPPER: Final = "upper"
LOWER_ID: Final = "lower-id"


class _Directory(NamedTuple):
    """A directory of ``overlay/``: which, where its content is, and whether that is a whole tree."""

    cache_id: CacheId
    path: str
    is_tree: bool


class OverlayStore(ClassicStore):
    """Images, containers and layers of a data root whose graph driver is ``overlay``."""

    def __init__(
        self, root: DataRoot, options: OverlayOptions, warn: Warn, *, others: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(root, DRIVER, options, warn, others)
        self._sameness: dict[tuple[str, str], Sameness] = {}

    def places(
        self,
        name: str,
        expected: Sequence[CacheId],
        layers: Sequence[LayerRecord],
        roles: Mapping[CacheId, Role],
        seen: Sequence[CacheId] | None,
    ) -> list[Place]:
        """As ``ClassicStore.places``. Only the engine's records name the layers below a tree: they decide."""
        known = {record.cache_id: record for record in layers}
        found: list[Place] = []
        tree = below = None
        for cache_id in expected:
            directory = self._directory(cache_id)
            if not directory.is_tree:
                self._check_lower(name, cache_id, tree)
            elif below is None or below.is_tree:
                tree = directory
            else:
                raise CorruptStoreError(
                    f"{directory.path} is a whole tree above {below.path}, which is none",
                    "no engine makes such a chain of layers; its records are damaged",
                )
            found.append(
                Place(
                    cache_id=cache_id,
                    diff_dir=directory.path,
                    record=known.get(cache_id),
                    role=roles.get(cache_id, Role.IMAGE),
                    accumulated=self._accumulated(directory, below),
                )
            )
            below = directory
        if seen is not None and below is not None:
            mounted = [below.cache_id] if below.is_tree or tree is None else [tree.cache_id, below.cache_id]
            self.compare(name, ENGINE_DATA, seen, "the disk", mounted)
        return found

    def layer_directory(self, record: LayerRecord) -> LayerDirectory:
        directory = self._directory(record.cache_id)
        parent = self.layerdb.layer(record.parent) if record.parent is not None else None
        below = self._directory(parent.cache_id) if parent is not None else None
        more = self._accumulated(directory, below)
        if directory.is_tree:
            return LayerDirectory(directory.path, more)
        lower = self._directory(self._lower_id(record.cache_id)).path
        return LayerDirectory(directory.path, more or Accumulated(lower, Sameness.COPY, is_tree=False), lower)

    def told_by_engine(self, data: Mapping[str, str]) -> list[CacheId] | None:
        """As ``ClassicStore.told_by_engine``: a whole tree alone, or one and the upper directory over it."""
        tree, upper, lower = data.get("RootDir"), data.get("UpperDir"), data.get("LowerDir")
        if tree:
            return [self.driver_path(tree, [ROOT])]
        if not upper or not lower:
            return None
        return [self.driver_path(lower, [ROOT]), self.driver_path(upper, [UPPER])]

    def _directory(self, cache_id: CacheId) -> _Directory:
        for name in (ROOT, UPPER):
            if self.root.has_directory(DRIVER, cache_id, name):
                return _Directory(cache_id, self.root.join(DRIVER, cache_id, name), name == ROOT)
        raise CorruptStoreError(
            f"{self.root.join(DRIVER, cache_id)} has neither {ROOT} nor {UPPER}",
            "this layer's content is gone from the disk: remove the image or container and get it again",
        )

    def _check_lower(self, name: str, cache_id: CacheId, tree: _Directory | None) -> None:
        told = self._lower_id(cache_id)
        lower = [tree.cache_id] if tree is not None else []
        self.compare(name, "layerdb", lower, f"{self.root.join(DRIVER, cache_id, LOWER_ID)}", [told])

    def _lower_id(self, cache_id: CacheId) -> CacheId:
        told = records.cache_id(self.root.text(DRIVER, cache_id, LOWER_ID))
        if told is None:
            raise CorruptStoreError(
                f"{self.root.join(DRIVER, cache_id, LOWER_ID)} is missing or names no directory of {DRIVER}",
                "the record is damaged; the engine can't mount this layer either",
            )
        return told

    def _accumulated(self, directory: _Directory, below: _Directory | None) -> Accumulated | None:
        if directory.is_tree:
            same = self._same(directory.path, below.path) if below is not None else Sameness.INODE
            return Accumulated(below.path if below is not None else None, same, is_tree=True)
        if below is None or below.is_tree:
            return None
        return Accumulated(below.path, Sameness.COPY, is_tree=False)

    def _same(self, path: str, below: str) -> Sameness:
        if (path, below) not in self._sameness:
            lost = lost_links(path, below)
            self._sameness[path, below] = Sameness.CONTENT if lost else Sameness.INODE
            if lost:
                message = (
                    f"no file of {below} is a hard link in it, as after a copy that kept none (rsync -a, cp -r):"
                    " layers are told apart by content, and a change of time alone is not seen"
                )
                self.warn(Caution("hard-links-lost", path, message))
        return self._sameness[path, below]
