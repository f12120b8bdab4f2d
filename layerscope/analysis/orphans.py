"""What each directory of ``overlay2/`` is there for, and which are left over.

Nothing is called an orphan on one look: the directories are listed first, then all that may refer to one is read,
the suspects are walked, everything is read again, and what changed a moment ago, or meanwhile, is left open.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from layerscope.analysis.footprint import Footprint, footprint
from layerscope.analysis.purpose import ORPHANS, REMEDIES, LayersInUse, Purpose, Remedy, purpose_of
from layerscope.analysis.references import References, find_references
from layerscope.errors import LayerscopeError
from layerscope.model import CacheId, Caution, ChainId, Source, Tick, Warn, no_tick
from layerscope.stores import records
from layerscope.stores.evidence import LAYERDB, Evidence, Unreadable, Witness
from layerscope.stores.images import chain_ids
from layerscope.stores.overlay2 import DRIVER, Overlay2Store
from layerscope.stores.records import DataRoot

INIT: Final = "-init"
REMOVING: Final = "-removing"
_LINK_TARGET: Final = re.compile(r"\.\./([^/]+)/diff")
_RECORDED: Final = frozenset({Witness.REMOVED_LAYER, Witness.UNFINISHED_LAYER, Witness.UPPER, Witness.INIT})
"""Witnesses with a directory of their own in layerdb, whose age counts as well."""


@dataclass(frozen=True, slots=True)
class Item:
    """A directory of ``overlay2/``, a link of ``l/``, or a record of layerdb whose directory is gone.

    In a containerd root a directory of the snapshotter, a blob, or a download that was begun.
    """

    path: str
    purpose: Purpose
    evidence: tuple[Evidence, ...] = ()
    signs: tuple[str, ...] = ()
    """What else its class follows from, in words."""
    cache_id: CacheId | None = None
    """None for a link or record, and for a directory with a name that the engine gives to none."""
    links: tuple[str, ...] = ()
    """For what is not in use: the short links in ``l/`` that lead to it."""
    suspected: Purpose | None = None
    """What it would be, when it is too young or sources can't be read."""
    allocated_bytes: int | None = None
    """None where it was not walked: what is in use is not."""
    age_seconds: float | None = None
    """Since anything in it changed, for what was walked."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Every directory of ``overlay2/`` with its class, and what could not be read."""

    items: tuple[Item, ...]
    """By path; links after directories, records last."""
    unreadable: tuple[Unreadable, ...]
    source: Source
    """The store that it is of."""
    remedies: Mapping[Purpose, Remedy] = field(default_factory=lambda: REMEDIES)

    @property
    def orphans(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.purpose in ORPHANS)


def find_orphans(disk: Overlay2Store, min_age_seconds: float, warn: Warn, tick: Tick = no_tick) -> Survey:
    """Classify the directories of a data root. Only those that nothing in use refers to are walked.

    Raises LayerscopeError when ``overlay2/`` itself can't be read.
    """
    return _Survey(disk, min_age_seconds, warn, tick).run()


def find_orphan(
    disk: Overlay2Store, name: str, evidence: tuple[Evidence, ...], min_age_seconds: float, warn: Warn
) -> Item | None:
    """The class of one directory, judged as carefully as all; None when it is gone.

    ``evidence`` is all that the first look found, which was the caller's.
    """
    return _Survey(disk, min_age_seconds, warn, no_tick).run_one(name, evidence)


def layers_in_use(disk: Overlay2Store, references: References, warn: Warn) -> LayersInUse:
    """The layers that images hold, and those that containers stand on."""
    by_images: set[ChainId] = set()
    for image in disk.images():
        by_images.update(chain_ids(image.diff_ids))
    by_containers: set[ChainId] = set()
    holders = dict.fromkeys(
        item.holder for items in references.evidence.values() for item in items if item.witness is Witness.CONTAINER
    )
    for holder in holders:
        try:
            mount = disk.layerdb.mount(holder)
            parent = mount.parent if mount is not None else None
            if parent is not None and parent not in by_images and parent not in by_containers:
                by_containers.update(layer.chain_id for layer in disk.layerdb.chain(parent))
        except LayerscopeError as error:
            warn(Caution("broken-chain", disk.root.join(LAYERDB, "mounts", holder), error.message))
    return LayersInUse(by_images, by_containers)


class _Survey:
    def __init__(self, disk: Overlay2Store, min_age_seconds: float, warn: Warn, tick: Tick) -> None:
        self.disk = disk
        self.root = disk.root
        self.min_age_seconds = min_age_seconds
        self.warn = warn
        self.tick = tick
        self.began_ns = time.time_ns()
        self.names, self.links = _listing(self.root, warn)
        """The directories, and where the links lead."""
        self.seen: set[tuple[int, int]] = set()
        self.broken_images = False

    def run(self) -> Survey:
        first = find_references(self.root)
        layers = layers_in_use(self.disk, first, self.warn)
        self.broken_images = bool(self.disk.broken())
        items = [self._directory(name, first, layers) for name in self.names]
        items += self._dangling_links()
        items += self._records(first, layers)
        unreadable = dict.fromkeys(first.unreadable)
        suspects = [item for item in items if item.purpose in ORPHANS]
        if suspects:
            walked = {item.path: self._walked(item) for item in suspects}
            second = find_references(self.root)
            unreadable.update(dict.fromkeys(second.unreadable))
            above = self._names_above(items, suspects)
            judged = {path: self._judged(item, second, above) for path, item in walked.items()}
            items = [item for each in items if (item := judged.get(each.path, each)) is not None]
            if unreadable:
                items = [unknown_where_unread(item) for item in items]
        tell_unread(items, unreadable, self.warn)
        return Survey(tuple(items), tuple(unreadable), self.disk.source)

    def run_one(self, name: str, evidence: tuple[Evidence, ...]) -> Item | None:
        """The second look at one directory."""
        cache_id = records.cache_id(name)
        first = References({cache_id: evidence} if cache_id is not None and evidence else {})
        item = self._walked(self._directory(name, first, LayersInUse()))
        second = find_references(self.root)
        others = [self._directory(each, second, LayersInUse()) for each in self.names]
        judged = self._judged(item, second, self._names_above(others, [item]))
        if judged is not None and second.unreadable:
            judged = unknown_where_unread(judged)
        tell_unread([judged] if judged is not None else [], second.unreadable, self.warn)
        return judged

    # -- the first look --------------------------------------------------------------------------------------

    def _directory(self, name: str, references: References, layers: LayersInUse) -> Item:
        path, cache_id = self.root.join(DRIVER, name), records.cache_id(name)
        if cache_id is None:
            sign = "the engine gives no layer such a name, so nothing can refer to it"
            return Item(path, Purpose.UNREFERENCED, signs=(sign,))
        evidence = references.of(cache_id)
        purpose = purpose_of(evidence, layers)
        signs: tuple[str, ...] = ()
        if purpose is Purpose.UNREFERENCED:
            purpose, looks = self._by_its_looks(cache_id)
            signs = ("no record refers to it", *([looks] if looks is not None else []))
        elif purpose in (Purpose.LEAKED_UPPER, Purpose.LEAKED_INIT):
            signs = ("there is no container of that id",)
        elif purpose is Purpose.SPARE and self.broken_images:
            signs = ("images that can't be read may hold it",)
            return Item(path, Purpose.UNKNOWN, evidence, signs, cache_id, suspected=purpose)
        return Item(path, purpose, evidence, signs, cache_id)

    def _by_its_looks(self, cache_id: CacheId) -> tuple[Purpose, str | None]:
        """What an unreferenced directory was: containers have init layers, and stand on them."""
        if cache_id.endswith(INIT):
            return Purpose.LEAKED_INIT, "by its name an init layer"
        if f"{cache_id}{INIT}" in self.names:
            return Purpose.LEAKED_UPPER, f"there is an init layer of its name, {cache_id}{INIT}"
        try:
            first = (self.root.text(DRIVER, cache_id, "lower") or "").partition(":")[0].removeprefix("l/")
        except LayerscopeError:
            first = ""
        below = self.links.get(first)
        if below is not None and below.endswith(INIT):
            return Purpose.LEAKED_UPPER, f"its `lower` begins with an init layer, {below}"
        return Purpose.UNREFERENCED, None

    def _dangling_links(self) -> Iterable[Item]:
        for name, target in self.links.items():
            if target not in self.names:
                sign = f"leads to {target}, which is not there" if target else "does not lead to a layer"
                yield Item(self.root.join(DRIVER, "l", name), Purpose.DANGLING_LINK, signs=(sign,))

    def _records(self, references: References, layers: LayersInUse) -> Iterable[Item]:
        """Records of what is half removed or leaked whose directories are gone already."""
        told: set[str] = set()
        gone: dict[str, Item] = {}
        for cache_id, evidence in references.evidence.items():
            told.update(item.holder for item in evidence)
            purpose = purpose_of(evidence, layers)
            if cache_id not in self.names and purpose in ORPHANS:
                sign = f"its directory {cache_id} is gone; the record is left"
                path = os.path.dirname(evidence[0].path)
                gone[path] = Item(path, purpose, evidence, (sign,))
        for name in self.root.names(LAYERDB, "sha256"):
            if name.endswith(REMOVING) and name not in told:
                path = self.root.join(LAYERDB, "sha256", name)
                gone[path] = Item(path, Purpose.HALF_REMOVED, signs=("the record names no directory",))
        return [gone[path] for path in sorted(gone)]

    # -- the second look -------------------------------------------------------------------------------------

    def _walked(self, item: Item) -> Item:
        """An orphan with its size and age; one that is gone by now has neither."""
        if item.purpose is Purpose.DANGLING_LINK:
            try:
                stat = os.lstat(item.path)
            except FileNotFoundError:
                return item
            found: Footprint | None = Footprint(stat.st_blocks * 512, stat.st_ctime_ns, complete=True)
        else:
            found = footprint(item.path, self.seen, self.warn, self.tick)
        if found is None:
            return item
        changed = max([found.changed_ns, *self._record_changes(item.evidence)])
        return replace(
            item,
            links=tuple(link for link, target in self.links.items() if target == item.cache_id is not None),
            allocated_bytes=found.allocated_bytes,
            age_seconds=(self.began_ns - changed) / 1_000_000_000,
        )

    def _record_changes(self, evidence: Sequence[Evidence]) -> Iterable[int]:
        """When the records that refer to it changed: a removal that just began has renamed one."""
        for item in evidence:
            if item.witness in _RECORDED:
                try:
                    yield os.lstat(os.path.dirname(item.path)).st_ctime_ns
                except FileNotFoundError:
                    yield time.time_ns()

    def _judged(self, item: Item, references: References, above: dict[str, str]) -> Item | None:
        """The last word on a suspect: None when it is gone."""
        if item.age_seconds is None or not os.path.lexists(item.path):
            return None
        target = self.links.get(os.path.basename(item.path)) if item.purpose is Purpose.DANGLING_LINK else None
        if target is not None and self.root.is_directory(DRIVER, target):
            return None  # made between the two listings
        open_question = replace(item, suspected=item.purpose)
        if self._changed(item, references) or item.age_seconds < self.min_age_seconds:
            return replace(open_question, purpose=Purpose.YOUNG)
        holder = above.get(item.cache_id) if item.cache_id is not None else None
        if holder is not None:
            sign = f"the `lower` file of {holder}, which is in use, names it"
            return replace(open_question, purpose=Purpose.UNKNOWN, signs=(*item.signs, sign))
        return item

    def _changed(self, item: Item, references: References) -> bool:
        """Whether anything about it is another than at the first look: the engine works on it."""
        if item.cache_id is None:
            return False
        if references.of(item.cache_id) != item.evidence:
            return True
        # A removal starts with the short link.
        return any(self.root.link(DRIVER, "l", link) is None for link in item.links)

    def _names_above(self, items: Sequence[Item], suspects: Sequence[Item]) -> dict[str, str]:
        """The suspects that lie below a directory in use, by its ``lower`` file, and which that is."""
        ids = {item.cache_id for item in suspects if item.cache_id is not None}
        links = {link: target for link, target in self.links.items() if target in ids}
        found: dict[str, str] = {}
        with self.root.inside(DRIVER) as overlay2:
            for item in items if links and overlay2 is not None else ():
                if item.cache_id is None or item.purpose in ORPHANS or overlay2 is None:
                    continue
                try:
                    lower = overlay2.text(item.cache_id, "lower") or ""
                except LayerscopeError:
                    continue  # then it names nothing that could be mounted
                for entry in lower.split(":"):
                    target = links.get(entry.removeprefix("l/"))
                    if target is not None:
                        found.setdefault(target, item.cache_id)
        return found


def unknown_where_unread(item: Item) -> Item:
    """An orphan, now that not every source could be read. A link dangles whatever they say."""
    if item.purpose not in ORPHANS or item.purpose is Purpose.DANGLING_LINK:
        return item
    return replace(item, purpose=Purpose.UNKNOWN, suspected=item.purpose)


def tell_unread(items: Iterable[Item], unreadable: Iterable[Unreadable], warn: Warn) -> None:
    """Warn of what could not be read where that leaves something open."""
    if any(item.purpose is Purpose.UNKNOWN for item in items):
        for source in unreadable:
            warn(Caution("unreadable-source", source.path, f"{source.message}: what it may refer to is not known"))


def _listing(root: DataRoot, warn: Warn) -> tuple[dict[str, None], dict[str, str | None]]:
    """The directories of ``overlay2/``, and the links of ``l/`` with the names that they lead to."""
    found: dict[str, None] = {}
    with root.inside(DRIVER) as overlay2:
        if overlay2 is None:
            return found, {}
        for name in overlay2.names():
            if name == "l":
                continue
            if overlay2.is_directory(name):
                found[name] = None
            elif records.cache_id(name) is not None:
                message = "left out: it is no directory, where a layer should be"
                warn(Caution("no-layer-directory", root.join(DRIVER, name), message))
    links: dict[str, str | None] = {}
    with root.inside(DRIVER, "l") as short:
        for name in short.names() if short is not None else ():
            target = short.link(name) if short is not None else None
            if target is None:
                warn(Caution("no-short-link", root.join(DRIVER, "l", name), "left out: it is no link, or gone"))
                continue
            match = _LINK_TARGET.fullmatch(target)
            links[name] = match[1] if match is not None else None
    return found, links
