"""Counts a whole stack: what each layer holds and did, what the merged tree shows, what is hidden and why.

Sizes: "size" is what Docker counts, the ``st_size`` of everything but directories (moby
``daemon/internal/directory/directory_unix.go``); "allocated" is ``st_blocks`` × 512 of everything, as du(1). An
inode with several names counts once a layer, and is hidden only when all its names are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from layerscope.analysis.change import Change, change_of
from layerscope.analysis.moved import Moved, Redirected
from layerscope.model import Caution, Cautions, Warn, ignore
from layerscope.overlay.entry import Entry, Kind
from layerscope.overlay.resolve import Contributor, Hider, PathVersions, Reason, Version
from layerscope.overlay.walk import Frame, PackedFrame, Walker, descend, lone
from layerscope.workers import run, usable_cores

BLOCK_BYTES: Final = 512
ALONE_UP_TO: Final = 12_000
"""Paths that one process counts before it asks for help: about what starting workers costs."""
SHARE: Final = 20_000
"""Paths that a worker counts before it gives back the rest of its directories."""
MOST_JOBS: Final = 8
Tick = Callable[[int], None]


def no_tick(_paths: int) -> None:
    """Shows no progress."""


@dataclass(slots=True)
class Amount:
    """A number of files (everything but directories and whiteouts) and their bytes."""

    files: int = 0
    size_bytes: int = 0

    def add(self, other: Amount) -> None:
        self.files += other.files
        self.size_bytes += other.size_bytes


@dataclass(slots=True)
class LayerTotals:
    """One layer: what it holds, what it did to the layers below, and what became of it."""

    size_bytes: int = 0
    allocated_bytes: int = 0
    added: int = 0
    modified: int = 0
    metadata: int = 0
    deleted: int = 0
    """Whiteouts that hide something."""
    opaque: int = 0
    hidden: Amount = field(default_factory=Amount)
    """What of this layer the layers above hide."""
    hides: Amount | None = field(default_factory=Amount)
    """What of the layers below this layer hides first; None where that was not counted."""

    def count(self, change: Change) -> None:
        match change:
            case Change.ADDED:
                self.added += 1
            case Change.MODIFIED:
                self.modified += 1
            case Change.METADATA:
                self.metadata += 1
            case Change.DELETED:
                self.deleted += 1
            case Change.UNCHANGED:
                pass

    def add(self, other: LayerTotals) -> None:
        self.size_bytes += other.size_bytes
        self.allocated_bytes += other.allocated_bytes
        self.added += other.added
        self.modified += other.modified
        self.metadata += other.metadata
        self.deleted += other.deleted
        self.opaque += other.opaque
        self.hidden.add(other.hidden)
        if self.hides is not None and other.hides is not None:
            self.hides.add(other.hides)


@dataclass(slots=True)
class Merged:
    """The tree that a mount shows, its root directory not counted."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    other: int = 0
    size_bytes: int = 0

    def add(self, other: Merged) -> None:
        self.files += other.files
        self.directories += other.directories
        self.symlinks += other.symlinks
        self.other += other.other
        self.size_bytes += other.size_bytes


@dataclass(slots=True)
class Link:
    """An inode with several names, while they come in."""

    names: int
    expected: int
    size_bytes: int
    allocated_bytes: int
    visible: bool
    hider: Hider | None
    """What hides its names; of several the least, so that it is always the same."""

    def add(self, other: Link) -> None:
        self.names += other.names
        self.visible = self.visible or other.visible
        if other.hider is not None and (self.hider is None or other.hider < self.hider):
            self.hider = other.hider


@dataclass(slots=True)
class Summary:
    """The totals of a stack."""

    layers: list[LayerTotals]
    merged: Merged = field(default_factory=Merged)
    hidden: dict[Reason, Amount] = field(default_factory=lambda: {reason: Amount() for reason in Reason})
    links: dict[tuple[int, int, int], Link] = field(default_factory=dict)
    """Inodes (layer, device, inode) of which not all names were seen yet."""
    moved: Redirected = field(default_factory=dict)
    """What redirects show at another path than its own, and where."""

    def add(self, other: Summary) -> None:
        """Take in the totals of another part of the same stack."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.add(theirs)
        self.merged.add(other.merged)
        for reason, amount in other.hidden.items():
            self.hidden[reason].add(amount)
        for key, link in other.links.items():
            if key in self.links:
                self.links[key].add(link)
            else:
                self.links[key] = link
        for source, paths in other.moved.items():
            self.moved.setdefault(source, set()).update(paths)

    def hide(self, layer: int, hider: Hider, amount: Amount) -> None:
        self.layers[layer].hidden.add(amount)
        hides = self.layers[hider.layer].hides
        if hides is not None:
            hides.add(amount)
        self.hidden[hider.reason].add(amount)

    def link(self, key: tuple[int, int, int], link: Link, *, settle: bool = True) -> None:
        """Note one name of an inode; the last one settles it, so that few are open at a time."""
        known = self.links.get(key)
        if known is None:
            self.links[key] = known = link
        else:
            known.add(link)
        if settle and known.names >= known.expected:
            del self.links[key]
            self._settle(key[0], known)

    def settle_links(self) -> None:
        """Decide the inodes that are still open: the rest of their names lies outside the stack."""
        for (layer, _device, _inode), link in self.links.items():
            self._settle(layer, link)
        self.links.clear()

    def _settle(self, layer: int, link: Link) -> None:
        totals = self.layers[layer]
        totals.size_bytes += link.size_bytes
        totals.allocated_bytes += link.allocated_bytes
        if link.visible:
            self.merged.size_bytes += link.size_bytes
        elif link.hider is not None:
            self.hide(layer, link.hider, Amount(0, link.size_bytes))


def summarize(walker: Walker, *, jobs: int | None = None, warn: Warn = ignore, tick: Tick = no_tick) -> Summary:
    """Walk a whole stack and count it, a large one in ``jobs`` processes (default: one a core).

    ``tick`` is called with the number of paths seen since it was called last.
    """
    jobs = min(usable_cores(), MOST_JOBS) if jobs is None else jobs
    summary = _count_all(walker, {}, jobs, warn, tick)
    if summary.moved:
        # What a redirect shows elsewhere is not hidden at its own path; now that it is known, count again.
        summary = _count_all(walker, summary.moved, jobs, ignore, tick)
    count_roots(walker, summary)
    summary.settle_links()
    return summary


def count_layers(
    walker: Walker, layers: Collection[int], warn: Warn = ignore, tick: Tick = no_tick
) -> dict[int, LayerTotals]:
    """Count only some layers at the top of a stack, by walking their own directories alone.

    What they hide below them is not counted: that would take a look at everything that lies there.
    """
    counter = _Counter(walker, {}, warn)
    pending = [walker.root_frame]
    while pending:
        frame = pending.pop()
        own = [contributor for contributor in frame.contributors if contributor.layer in layers]
        names = {entry.name for contributor in own for entry in walker.entries(contributor)}
        for name in names:
            versions = walker.find(frame, name)
            counter.shared(versions)
            tick(1)
            below = descend(versions)
            if any(contributor.layer in layers for contributor in below.contributors):
                pending.append(below)
    count_roots(walker, counter.summary)
    counter.summary.settle_links()
    found = {index: counter.summary.layers[index] for index in layers}
    for totals in found.values():
        totals.hides = None
    return found


def count_roots(walker: Walker, summary: Summary) -> None:
    """Add what the layers' root directories themselves take up."""
    for place in walker.roots:
        stat = os.fstat(place.directory.fd())
        summary.layers[place.layer].allocated_bytes += stat.st_blocks * BLOCK_BYTES


def _count_all(walker: Walker, moved: Redirected, jobs: int, warn: Warn, tick: Tick) -> Summary:
    pending = [walker.root_frame]
    limit = ALONE_UP_TO if jobs > 1 else SHARE
    counter = _Counter(walker, moved, warn)
    tick(counter.take(pending, limit))
    while pending and jobs == 1:
        tick(counter.take(pending, SHARE))
    if pending:
        for part in _count_in_workers(walker, pending, moved, jobs):
            counter.summary.add(part.summary)
            walker.incomplete = walker.incomplete or part.incomplete
            for caution in part.cautions:
                warn(caution)
            tick(part.seen)
    return counter.summary


class _Part(NamedTuple):
    """What a worker found in its share, and what it left."""

    summary: Summary
    left: list[PackedFrame]
    cautions: list[Caution]
    incomplete: bool
    seen: int


def _count_in_workers(walker: Walker, pending: list[Frame], moved: Redirected, jobs: int) -> Iterator[_Part]:
    """Hand out directories; a worker that has counted its share gives back the ones it did not reach."""

    def make() -> Callable[[list[PackedFrame]], _Part]:
        cautions = Cautions()
        own = Walker(walker.stack, cautions)  # its own descriptors: forked ones share their position

        def work(packed: list[PackedFrame]) -> _Part:
            cautions.found.clear()
            counter = _Counter(own, moved, cautions)
            frames = [own.unpack(frame) for frame in packed]
            seen = counter.take(frames, SHARE)
            left = [own.pack(frame) for frame in frames]
            return _Part(counter.summary, left, list(cautions), own.incomplete, seen)

        return work

    tasks: deque[list[PackedFrame]] = deque()
    _deal([walker.pack(frame) for frame in pending], tasks, jobs)
    for part in run(make, tasks, jobs):
        _deal(part.left, tasks, jobs)
        yield part


def _deal(frames: list[PackedFrame], tasks: deque[list[PackedFrame]], jobs: int) -> None:
    """Make tasks of directories: enough of them that no worker idles, dealt like cards."""
    hands = min(len(frames), max(1, 2 * jobs - len(tasks)))
    for hand in range(hands):
        tasks.append(frames[hand::hands])


class _Counter:
    """Layers are counted where their files lie ("at home"), the merged tree where the mount shows them."""

    def __init__(self, walker: Walker, moved: Redirected, warn: Warn) -> None:
        self.walker = walker
        self.summary = Summary([LayerTotals() for _ in walker.stack])
        self.data_trees = walker.data_trees
        self.moved = Moved(walker, moved)
        self.warn = warn

    def take(self, pending: list[Frame], limit: int) -> int:
        """Count the directories in ``pending`` and below, until ``limit`` paths are seen. Says how many were."""
        seen = 0
        for listing in self.walker.walk(pending):
            for contributor, directories, others in listing.single:
                self.single(listing.frame, contributor, directories, others)
                seen += len(directories) + len(others)
            for versions in listing.shared:
                self.shared(versions)
            seen += len(listing.shared)
            if seen >= limit:
                break
        return seen

    def single(self, frame: Frame, contributor: Contributor, directories: list[Entry], others: list[Entry]) -> None:
        """Count names that only one layer has. The hot loop: most of a stack passes here."""
        layer, directory, _since, hider = contributor
        if self.moved and hider is not None:  # where redirects are about, each may be seen elsewhere
            for entry in directories + others:
                self.shared(lone(frame.under(entry.name), contributor, entry))
            return
        at_home = directory.path == frame.path
        visible = hider is None
        opaque = sum(entry.marks.opaque for entry in directories)
        blocks = sum(entry.stat.st_blocks for entry in directories)
        size = symlinks = other = whiteouts = 0
        for entry in others:
            _name, kind, stat, _marks = entry
            if kind is not Kind.FILE:
                if kind is Kind.SYMLINK:
                    symlinks += 1
                elif kind is Kind.WHITEOUT:
                    whiteouts += 1
                else:
                    other += 1
            if stat.st_nlink == 1:
                size += stat.st_size
                blocks += stat.st_blocks
            elif kind is not Kind.WHITEOUT or stat.st_blocks:
                self._link(layer, entry, at_home, visible, hider)
        present = len(others) - whiteouts
        if at_home:
            totals = self.summary.layers[layer]
            totals.size_bytes += size
            totals.allocated_bytes += blocks * BLOCK_BYTES
            totals.added += len(directories) + present
            totals.opaque += opaque
        if visible:
            merged = self.summary.merged
            merged.files += present - symlinks - other
            merged.directories += len(directories)
            merged.symlinks += symlinks
            merged.other += other
            merged.size_bytes += size
        elif hider is not None:
            self.summary.hide(layer, hider, Amount(present, size))

    def shared(self, versions: PathVersions) -> None:
        """Count a path that several layers have, or that carries marks."""
        shown = versions.visible
        for version in versions.versions:
            self._version(versions, version, version is shown)
        if shown is not None:
            self._merged(shown.entry)

    def _version(self, versions: PathVersions, version: Version, shown: bool) -> None:
        layer, entry, hider = version.layer, version.entry, version.hidden_by
        stat, is_whiteout = entry.stat, entry.kind is Kind.WHITEOUT
        totals = self.summary.layers[layer]
        if version.introduced:
            self.summary.moved.setdefault((layer, version.source), set()).add(versions.path)
        at_home = not version.moved
        if at_home:
            totals.opaque += entry.marks.opaque
            if not is_whiteout or versions.hides(version):
                totals.count(change_of(versions, version, self.data_trees, self.warn))
        if entry.is_directory:
            totals.allocated_bytes += stat.st_blocks * BLOCK_BYTES if at_home else 0
            return
        if hider is not None and not self.moved.counts_as_hidden(layer, version.source, versions.path):
            hider = None
        if stat.st_nlink > 1:
            if not is_whiteout or stat.st_blocks:
                self._link(layer, entry, at_home, shown, None if is_whiteout else hider)
        elif at_home:
            totals.allocated_bytes += stat.st_blocks * BLOCK_BYTES
            totals.size_bytes += stat.st_size
        if hider is not None and not is_whiteout:
            self.summary.hide(layer, hider, Amount(1, stat.st_size if stat.st_nlink == 1 else 0))

    def _merged(self, entry: Entry) -> None:
        merged = self.summary.merged
        match entry.kind:
            case Kind.FILE:
                merged.files += 1
            case Kind.DIRECTORY:
                merged.directories += 1
                return
            case Kind.SYMLINK:
                merged.symlinks += 1
            case _:
                merged.other += 1
        if entry.stat.st_nlink == 1:
            merged.size_bytes += entry.stat.st_size

    def _link(self, layer: int, entry: Entry, at_home: bool, visible: bool, hider: Hider | None) -> None:
        stat = entry.stat
        link = Link(int(at_home), stat.st_nlink, stat.st_size, stat.st_blocks * BLOCK_BYTES, visible, hider)
        # While redirects are about, a name may still come up at another path: settle all at the end.
        self.summary.link((layer, stat.st_dev, stat.st_ino), link, settle=not self.moved)
