"""What each snapshot and blob of a containerd root is there for, and which are left over.

As for overlay2 nothing is called an orphan on one look: what is on disk is listed first, then all that may refer to
it is read, the suspects are walked, everything is read again, and what changed meanwhile, or a moment ago, is left
open.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from layerscope.analysis.containerd_purpose import ContainerdPurposes
from layerscope.analysis.containerd_state import ContainerdState, read_containerd_state
from layerscope.analysis.footprint import Footprint, footprint
from layerscope.analysis.orphans import Item, Survey, tell_unread, unknown_where_unread
from layerscope.analysis.purpose import CONTAINERD_REMEDIES, NAMESPACE_REMEDIES, ORPHANS, Purpose, Remedy
from layerscope.model import CacheId, Caution, Tick, Warn, no_tick
from layerscope.stores import records
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.content_store import BLOBS, INGESTS
from layerscope.stores.images import chain_ids
from layerscope.stores.livemounts import PROC
from layerscope.stores.snapshots import DIRECTORIES

TEMPORARY: Final = "new-"
"""How the names of directories begin that the snapshotter has not finished."""
_PATIENCE_SECONDS: Final = 0.5
"""How long a garbage collection takes as a rule: what it is about to remove is no find."""
_SIGNS: Final = {
    Purpose.UNREFERENCED: "no record refers to it",
    Purpose.UNKEYED: "no namespace of containerd knows the snapshot",
    Purpose.GARBAGE: "no image, container, lease or label leads to it",
    Purpose.LEAKED_LEASE: "the lease is all that keeps it, and who took it is gone",
    Purpose.LEAKED_UPPER: "there is no container of that id",
    Purpose.LEAKED_INIT: "there is no container of that id",
}


def find_containerd_orphans(
    disk: ContainerdStore, min_age_seconds: float, warn: Warn, tick: Tick = no_tick, proc: str = PROC
) -> Survey:
    """Classify the snapshots, blobs and downloads of a containerd root; only suspects are walked."""
    return _Survey(disk, min_age_seconds, warn, tick, proc).run()


def survey_with_state(disk: ContainerdStore, min_age_seconds: float, warn: Warn) -> tuple[Survey, ContainerdState]:
    """The same, with what was read last: for who goes on from there."""
    work = _Survey(disk, min_age_seconds, warn, no_tick, PROC)
    survey = work.run()
    assert work.state is not None
    return survey, work.state


class Look:
    """What is on disk, with the class that everything that can be read gives it."""

    def __init__(self, disk: ContainerdStore, warn: Warn, proc: str = PROC) -> None:
        self.root = disk.root
        self.directories = self._directories(warn)
        self.blobs = [name for name in self.root.names(BLOBS) if records.diff_id(f"sha256:{name}") is not None]
        self.downloads = self.root.names(INGESTS)
        self.state: ContainerdState = read_containerd_state(disk, proc)
        chains = (chain_id for image in disk.images() for chain_id in chain_ids(image.diff_ids))
        self.purposes = ContainerdPurposes(self.state, chains)

    def items(self) -> Iterator[Item]:
        for name in self.directories:
            yield self.directory(name)
        for name in self.blobs:
            yield self.blob(name)
        for name in self.downloads:
            yield self.download(name)
        yield from self.gone()

    def directory(self, name: str) -> Item:
        path = self.root.join(DIRECTORIES, name)
        if not name.isascii() or not name.isdecimal() or name.startswith("0"):
            made = name.startswith(TEMPORARY)
            sign = "the snapshotter was making it" if made else "the snapshotter gives none such a name"
            return Item(path, Purpose.UNFINISHED if made else Purpose.UNREFERENCED, signs=(sign,))
        cache_id = CacheId(name)
        purpose, evidence = self.purposes.of_directory(cache_id)
        return Item(path, purpose, evidence, _signs(purpose), cache_id)

    def blob(self, name: str) -> Item:
        purpose, evidence = self.purposes.of_blob(f"sha256:{name}")
        return Item(self.root.join(BLOBS, name), purpose, evidence, _signs(purpose))

    def download(self, name: str) -> Item:
        purpose, evidence = self.purposes.of_ingest(name)
        signs = [] if evidence else ["containerd has no record of a download of that name"]
        if not evidence and "ref" not in self.root.names(INGESTS, name):
            signs.append("it has no `ref`, so containerd does not see it: delete it while the engine is stopped")
        return Item(self.root.join(INGESTS, name), purpose, evidence, tuple(signs))

    def gone(self) -> Iterator[Item]:
        """Records of what nothing uses whose directories are gone already."""
        present = set(self.directories)
        for cache_id, record in self.state.numbers.items():
            if cache_id in present:
                continue
            purpose, evidence = self.purposes.of_directory(cache_id)
            if purpose in ORPHANS:
                sign = f"its directory {cache_id} is gone; the record of {record.key} is left"
                path = self.root.join(DIRECTORIES, cache_id)
                yield Item(path, purpose, evidence, (*_signs(purpose), sign), cache_id)

    def _directories(self, warn: Warn) -> list[str]:
        found = []
        with self.root.inside(DIRECTORIES) as below:
            for name in below.names() if below is not None else ():
                if below is not None and below.is_directory(name):
                    found.append(name)
                else:
                    message = "left out: it is no directory, where a snapshot should be"
                    warn(Caution("no-layer-directory", self.root.join(DIRECTORIES, name), message))
        return sorted(found, key=lambda name: (len(name), name))


def remedies_of(disk: ContainerdStore) -> Mapping[Purpose, Remedy]:
    """What frees the classes of a containerd root, by whose the namespace is."""
    return CONTAINERD_REMEDIES if disk.docker is not None else NAMESPACE_REMEDIES


def _signs(purpose: Purpose) -> tuple[str, ...]:
    return (_SIGNS[purpose],) if purpose in _SIGNS else ()


class _Survey:
    def __init__(self, disk: ContainerdStore, min_age_seconds: float, warn: Warn, tick: Tick, proc: str) -> None:
        self.disk = disk
        self.min_age_seconds = min_age_seconds
        self.warn = warn
        self.tick = tick
        self.proc = proc
        self.began_ns = time.time_ns()
        self.seen: set[tuple[int, int]] = set()
        self.state: ContainerdState | None = None

    def run(self) -> Survey:
        first = Look(self.disk, self.warn, self.proc)
        self.state = first.state
        items = list(first.items())
        unreadable = dict.fromkeys(first.state.unreadable)
        suspects = [item for item in items if item.purpose in ORPHANS]
        if suspects:
            time.sleep(_PATIENCE_SECONDS)
            walked = {item.path: self._walked(item) for item in suspects}
            second = Look(self.disk, self.warn, self.proc)
            self.state = second.state
            unreadable.update(dict.fromkeys(second.state.unreadable))
            now = {item.path: item for item in second.items()}
            judged = {path: self._judged(item, now) for path, item in walked.items()}
            items = [item for each in items if (item := judged.get(each.path, each)) is not None]
            if unreadable:
                items = [unknown_where_unread(item) for item in items]
        tell_unread(items, unreadable, self.warn)
        return Survey(tuple(items), tuple(unreadable), self.disk.source, remedies_of(self.disk))

    def _walked(self, item: Item) -> Item:
        """A suspect with its size and age; what is gone from the disk has neither."""
        found = _size(item.path, self.seen, self.warn, self.tick)
        if found is None:
            return item
        age = (self.began_ns - found.changed_ns) / 1_000_000_000
        return replace(item, allocated_bytes=found.allocated_bytes, age_seconds=age)

    def _judged(self, item: Item, now: Mapping[str, Item]) -> Item | None:
        """The last word on a suspect: None when it is gone."""
        again = now.get(item.path)
        if again is None:
            return None
        same = (again.purpose, again.evidence) == (item.purpose, item.evidence)
        young = item.age_seconds is not None and item.age_seconds < self.min_age_seconds
        if not same or young:
            return replace(item, purpose=Purpose.YOUNG, suspected=item.purpose)
        return item


def _size(path: str, seen: set[tuple[int, int]], warn: Warn, tick: Tick) -> Footprint | None:
    try:
        stat = os.lstat(path)
    except FileNotFoundError:
        return None
    if os.path.isdir(path) and not os.path.islink(path):
        return footprint(path, seen, warn, tick)
    return Footprint(stat.st_blocks * 512, stat.st_ctime_ns, complete=True)


def find_containerd_orphan(
    disk: ContainerdStore, path: str, min_age_seconds: float, warn: Warn, proc: str = PROC
) -> Item | None:
    """The class of one thing, judged as carefully as all; None when it is gone."""
    survey = find_containerd_orphans(disk, min_age_seconds, warn, proc=proc)
    return next((item for item in survey.items if item.path == path), None)
