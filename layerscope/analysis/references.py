"""Who refers to the directories of ``overlay2/``: the union of all that may, with the evidence for each.

What ``owner`` and ``orphans`` stand on. A directory that nothing refers to is only called unreferenced when
everything could be read that might have referred to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from layerscope.model import CacheId
from layerscope.stores.evidence import Evidence, Unreadable, build_evidence, layer_evidence, mount_evidence
from layerscope.stores.livemounts import mounted_evidence
from layerscope.stores.records import DataRoot


class Verdict(StrEnum):
    """What the evidence says about a directory."""

    REFERENCED = "referenced"
    UNREFERENCED = "unreferenced"
    UNKNOWN = "unknown"
    """Nothing that could be read refers to it, and not everything could be read."""


@dataclass(frozen=True, slots=True)
class References:
    """The evidence for every directory that anything refers to, whether the directory is there or not."""

    evidence: Mapping[CacheId, tuple[Evidence, ...]]
    unreadable: tuple[Unreadable, ...] = ()

    def of(self, cache_id: CacheId) -> tuple[Evidence, ...]:
        return self.evidence.get(cache_id, ())

    def verdict(self, cache_id: CacheId) -> Verdict:
        if cache_id in self.evidence:
            return Verdict.REFERENCED
        return Verdict.UNKNOWN if self.unreadable else Verdict.UNREFERENCED


def find_references(root: DataRoot) -> References:
    """Collect what refers to the directories of a data root.

    The engine may change any of it meanwhile: a reference that moves from a build to an image is met twice or once,
    as builds are read first, but one that moves the other way may be missed, and a directory is made before its
    record. So who means to call a directory unreferenced collects twice, and leaves young ones alone.
    """
    found: dict[CacheId, dict[Evidence, None]] = {}
    unreadable: dict[Unreadable, None] = {}
    for source in (mounted_evidence, build_evidence, mount_evidence, layer_evidence):
        for item in source(root):
            if isinstance(item, Unreadable):
                unreadable.setdefault(item)
            else:
                found.setdefault(item.cache_id, {}).setdefault(item)
    return References({cache_id: tuple(items) for cache_id, items in sorted(found.items())}, tuple(unreadable))
