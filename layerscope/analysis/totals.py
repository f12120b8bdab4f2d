"""The totals of a stack, and how parts of them add up. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from layerscope.analysis.change import Change
from layerscope.analysis.moved import Redirected
from layerscope.overlay.resolve import Hider, Reason


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
