"""The classic store on disk: images and containers of the ``overlay2`` graph driver, without a daemon.

Sources: moby ``daemon/graphdriver/overlay2/overlay.go`` (``link``, ``lower``, ``l/``) and
``daemon/internal/layer`` (layerdb). Both describe a chain of layers. The ``lower`` files are what the engine
mounts, so they decide; where layerdb says something else, that is a warning with both values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

from layerscope.errors import CorruptStoreError
from layerscope.model import CacheId, Caution, LinkId, OverlayOptions, Role, Warn
from layerscope.stores import records
from layerscope.stores.classic import ENGINE_DATA, ClassicStore, LayerDirectory
from layerscope.stores.layerdb import LayerRecord
from layerscope.stores.records import DataRoot
from layerscope.stores.stacks import Place

DRIVER: Final = "overlay2"
_LINK_TARGET: Final = re.compile(r"\.\./([^/]+)/diff")


class LayerDirectories:
    """The directories of ``overlay2/``: where a layer's content is and what lies below it."""

    def __init__(self, root: DataRoot, warn: Warn) -> None:
        self.root = root
        self.warn = warn

    def diff_dir(self, cache_id: CacheId) -> str:
        """The absolute path of a layer's content. Raises CorruptStoreError when there is none."""
        if not self.root.has_directory(DRIVER, cache_id, "diff"):
            raise CorruptStoreError(
                f"the layer directory {self.root.join(DRIVER, cache_id, 'diff')} is missing",
                "this layer's content is gone from the disk: remove the image or container and get it again",
            )
        return self.root.join(DRIVER, cache_id, "diff")

    def link_id(self, cache_id: CacheId) -> LinkId | None:
        """The short name of a layer, from its ``link`` file; None with a warning when that is damaged."""
        link_id = self._read_link_id(cache_id)
        if link_id is None:
            path = self.root.join(DRIVER, cache_id, "link")
            self.warn(Caution("broken-link", path, "is missing or holds no short name of a layer"))
        return link_id

    def _read_link_id(self, cache_id: CacheId) -> LinkId | None:
        try:
            return records.link_id(self.root.text(DRIVER, cache_id, "link"))
        except CorruptStoreError:
            return None

    def chain(self, top: CacheId) -> list[CacheId]:
        """The directories that the engine mounts for ``top``, base first. Raises CorruptStoreError."""
        lower = self.root.text(DRIVER, top, "lower")
        below = [self._lower_entry(entry, top) for entry in lower.split(":")] if lower is not None else []
        chain = [top, *below][::-1]
        if len(set(chain)) < len(chain):
            raise CorruptStoreError(
                f"{self.root.join(DRIVER, top, 'lower')} names a layer twice",
                "the file is damaged; the engine can't mount this layer either",
            )
        return chain

    def _lower_entry(self, entry: str, top: CacheId) -> CacheId:
        prefix, _, name = entry.partition("/")
        link_id = records.link_id(name)
        if prefix != "l" or link_id is None:
            raise CorruptStoreError(
                f"{self.root.join(DRIVER, top, 'lower')} has an entry that is no short link: {entry[:80]!r}",
                "entries look like l/ABCDEFGHIJKLMNOPQRSTUVWXYZ; the file is damaged or forged",
            )
        path = self.root.join(DRIVER, "l", link_id)
        target = self.root.link(DRIVER, "l", link_id)
        match = _LINK_TARGET.fullmatch(target) if target is not None else None
        cache_id = records.cache_id(match[1]) if match is not None else None
        if cache_id is not None:
            return cache_id
        claimed = self._by_link.get(link_id, [])
        wrong = "is missing" if target is None else f"points to {target[:80]!r}"
        if len(claimed) != 1:
            raise CorruptStoreError(
                f"the short link {path} {wrong}, and {len(claimed) or 'no'} layers have it in their `link` file",
                f"what lies below {top} can't be told any more: remove the image or container and get it again",
            )
        (recovered,) = claimed
        self.warn(Caution("missing-link", path, f"{wrong}; taken from {self.root.join(DRIVER, recovered, 'link')}"))
        return recovered

    @cached_property
    def _by_link(self) -> dict[LinkId, list[CacheId]]:
        """Every layer by its ``link`` file. The engine does not look there: it fails where a link is lost."""
        found: dict[LinkId, list[CacheId]] = {}
        for name in self.root.names(DRIVER):
            cache_id = records.cache_id(name)
            link_id = self._read_link_id(cache_id) if cache_id is not None else None
            if cache_id is not None and link_id is not None:
                found.setdefault(link_id, []).append(cache_id)
        return found


class Overlay2Store(ClassicStore):
    """Images, containers and layers of a data root whose graph driver is ``overlay2``."""

    def __init__(
        self, root: DataRoot, options: OverlayOptions, warn: Warn, *, others: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(root, DRIVER, options, warn, others)
        self.directories = LayerDirectories(root, warn)

    def places(
        self,
        name: str,
        expected: Sequence[CacheId],
        layers: Sequence[LayerRecord],
        roles: Mapping[CacheId, Role],
        seen: Sequence[CacheId] | None,
    ) -> list[Place]:
        chain = self.directories.chain(expected[-1]) if expected else []
        self.compare(name, "layerdb", expected, "the `lower` files", chain)
        if seen is not None:  # the engine's own answer wins
            self.compare(name, ENGINE_DATA, seen, "the disk", chain)
            chain = list(seen)
        known = {record.cache_id: record for record in layers}
        return [
            Place(
                cache_id=cache_id,
                diff_dir=self.directories.diff_dir(cache_id),
                record=known.get(cache_id),
                role=roles.get(cache_id, Role.IMAGE),
                link_id=self.directories.link_id(cache_id),
            )
            for cache_id in chain
        ]

    def layer_directory(self, record: LayerRecord) -> LayerDirectory:
        return LayerDirectory(self.directories.diff_dir(record.cache_id))

    def told_by_engine(self, data: Mapping[str, str]) -> list[CacheId] | None:
        upper, lower = data.get("UpperDir"), data.get("LowerDir")
        if not upper:
            return None
        paths = [upper, *(lower.split(":") if lower else ())]
        return [self.driver_path(path, ["diff"]) for path in reversed(paths)]
