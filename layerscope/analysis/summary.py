"""Counts a whole stack: what each layer holds and did, what the merged tree shows, what is hidden and why.

Sizes: "size" is what Docker counts, the ``st_size`` of everything but directories (moby
``daemon/internal/directory/directory_unix.go``); "allocated" is ``st_blocks`` × 512 of everything, as du(1). An
inode with several names counts once a layer, and is hidden only when all its names are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

from layerscope.analysis.change import change_of
from layerscope.analysis.moved import Moved, Redirected
from layerscope.analysis.totals import Amount, LayerTotals, Link, Summary
from layerscope.model import Caution, Cautions, Tick, Warn, ignore, no_tick
from layerscope.overlay.entry import Entry, Kind
from layerscope.overlay.resolve import Contributor, Hider, PathVersions, Version
from layerscope.overlay.walk import Frame, PackedFrame, Walker, descend, lone
from layerscope.workers import run, usable_cores

BLOCK_BYTES: Final = 512
ALONE_UP_TO: Final = 12_000
"""Paths that one process counts before it asks for help: about what starting workers costs."""
SHARE: Final = 20_000
"""Paths that a worker counts before it gives back the rest of its directories."""
MOST_JOBS: Final = 8


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
        stat = place.directory.stat()
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
