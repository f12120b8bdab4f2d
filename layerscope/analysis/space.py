"""The disk space of many directory trees at once: ``st_blocks`` × 512, each inode once, in several processes.

As du(1) with ``--one-file-system``: nothing that is mounted below is entered, be it another file system or a
directory bound to another place.
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from stat import S_ISDIR, S_ISLNK
from typing import Final, NamedTuple

from layerscope.model import Caution, Cautions, Tick, Warn, XattrFamily, no_tick
from layerscope.overlay.tree import Directory, LayerTree
from layerscope.workers import run, usable_cores

BLOCK_BYTES: Final = 512
ALONE_UP_TO: Final = 15_000
"""Names that one process counts before it asks for help: about what starting workers costs."""
SHARE: Final = 30_000
"""Names that a worker counts before it gives back the rest of its directories."""
MOST_JOBS: Final = 8


class Shape(StrEnum):
    """Which entries of a tree's top are counted apart from the rest, and which are left out."""

    PLAIN = "plain"
    FLAT = "flat"
    """Only the directory itself and its files: the directories in it are trees of their own."""
    LAYER = "layer"
    """A directory of ``overlay2/``: ``diff/`` is counted apart, ``merged/`` not entered."""
    SNAPSHOT = "snapshot"
    """A directory of containerd's snapshotter: ``fs/`` is counted apart."""
    CONTAINER = "container"
    """A directory of ``containers/``: its logs are counted apart (moby ``daemon/logger``)."""

    def is_apart(self, name: str) -> bool:
        if self is Shape.LAYER:
            return name == "diff"
        if self is Shape.SNAPSHOT:
            return name == "fs"
        return self is Shape.CONTAINER and ("-json.log" in name or name == "local-logs")


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory to measure."""

    path: str
    """Relative to the data root; ``""`` is the root."""
    shape: Shape = Shape.PLAIN
    device: int | None = None
    """The file system to stay on; None: that of the data root."""


@dataclass(slots=True)
class Space:
    """Sums over a tree, or over a part of it."""

    file_bytes: int = 0
    """Allocated for everything but directories."""
    directory_bytes: int = 0
    """Allocated for the directories themselves."""
    apparent_bytes: int = 0
    """``st_size`` of everything but directories: what Docker counts (moby ``daemon/internal/directory``)."""
    symlink_bytes: int = 0
    """The part of it that are symlinks, which BuildKit does not count."""

    @property
    def allocated_bytes(self) -> int:
        return self.file_bytes + self.directory_bytes

    def __add__(self, other: Space) -> Space:
        return Space(
            self.file_bytes + other.file_bytes,
            self.directory_bytes + other.directory_bytes,
            self.apparent_bytes + other.apparent_bytes,
            self.symlink_bytes + other.symlink_bytes,
        )


@dataclass(slots=True)
class Measured:
    """What a tree takes: the entries that its shape counts apart, and the rest."""

    apart: Space = field(default_factory=Space)
    rest: Space = field(default_factory=Space)

    @property
    def allocated_bytes(self) -> int:
        return self.apart.allocated_bytes + self.rest.allocated_bytes


@dataclass(frozen=True, slots=True)
class Spaces:
    """The measured trees, in the order asked."""

    trees: tuple[Measured, ...]
    mounts: tuple[str, ...]
    """What was not entered because something is mounted there: absolute paths, sorted."""
    complete: bool
    """False when something could not be read: the sums are then too small."""


def measure(
    root: str,
    trees: Sequence[Tree],
    mounted: Collection[str],
    warn: Warn,
    *,
    jobs: int | None = None,
    tick: Tick = no_tick,
) -> Spaces:
    """Measure trees below ``root``, staying out of the mount points ``mounted`` (absolute paths).

    An inode with names in several trees counts for the first of them. ``tick`` is called with the number of names
    seen since it was called last. Raises OSError when the root itself can't be read.
    """
    counter = _Counter(root, trees, frozenset(mounted), warn)
    pending = [counter.place(_Packed(tree.path, index, False, True)) for index, tree in enumerate(trees)][::-1]
    jobs = min(usable_cores(), MOST_JOBS) if jobs is None else jobs
    tick(counter.take(pending, ALONE_UP_TO if jobs > 1 else SHARE))
    while pending and jobs == 1:
        tick(counter.take(pending, SHARE))
    found = counter.found
    for share in _count_in_workers(counter, pending, jobs):
        found.add(share.found)
        for caution in share.cautions:
            warn(caution)
        tick(share.seen)
    found.settle()
    measured = tuple(Measured(found.spaces[index, True], found.spaces[index, False]) for index in range(len(trees)))
    return Spaces(measured, tuple(sorted(found.mounts)), found.complete)


class _Packed(NamedTuple):
    """A directory to count, as it is sent to a worker."""

    path: str
    tree: int
    apart: bool
    is_top: bool


class _Place(NamedTuple):
    directory: Directory
    tree: int
    apart: bool
    is_top: bool


@dataclass(slots=True)
class _Link:
    """An inode with several names, in one part of one tree."""

    blocks: int
    size: int
    names: int
    is_symlink: bool
    met: int = 0

    def add_size(self, space: Space) -> None:
        space.apparent_bytes += self.size
        space.symlink_bytes += self.size if self.is_symlink else 0


_Part = tuple[int, bool]
"""The number of a tree, and whether the part that is counted apart."""


class _Found:
    """The sums so far."""

    def __init__(self) -> None:
        self.spaces: defaultdict[_Part, Space] = defaultdict(Space)
        self.links: dict[tuple[int, bool, int, int], _Link] = {}
        """By part, device and inode: those of which not all names were met."""
        self.mounts: set[str] = set()
        self.complete = True

    def link(self, part: _Part, stat: os.stat_result) -> None:
        link = _Link(stat.st_blocks, stat.st_size, stat.st_nlink, S_ISLNK(stat.st_mode))
        self.links.setdefault((*part, stat.st_dev, stat.st_ino), link).met += 1

    def settle_whole(self) -> None:
        """Count the inodes of which all names were met: no other part can have one."""
        whole = [key for key, link in self.links.items() if link.met >= link.names]
        for key in whole:
            link = self.links.pop(key)
            space = self.spaces[key[:2]]
            link.add_size(space)
            space.file_bytes += link.blocks * BLOCK_BYTES

    def add(self, other: _Found) -> None:
        for part, space in other.spaces.items():
            self.spaces[part] += space
        for key, link in other.links.items():
            known = self.links.setdefault(key, link)
            known.met += link.met if known is not link else 0
        self.mounts |= other.mounts
        self.complete = self.complete and other.complete

    def settle(self) -> None:
        """Count the other inodes, each for the first part that has it; in each its size, as Docker does."""
        counted: set[tuple[int, int]] = set()
        for (index, apart, *inode), link in sorted(self.links.items(), key=lambda item: item[0]):
            space = self.spaces[index, apart]
            link.add_size(space)
            if (inode[0], inode[1]) not in counted:
                counted.add((inode[0], inode[1]))
                space.file_bytes += link.blocks * BLOCK_BYTES
        self.links.clear()


class _Counter:
    def __init__(self, root: str, trees: Sequence[Tree], mounted: frozenset[str], warn: Warn) -> None:
        self.root = root
        self.trees = trees
        self.mounted = mounted
        self.mount_names = frozenset(path.rpartition("/")[2] for path in mounted)
        self.warn = warn
        self.found = _Found()
        self.device = os.stat(root).st_dev
        # Nothing here looks at marks, so their family does not matter.
        self.layer_tree = LayerTree(root, XattrFamily.TRUSTED)

    def place(self, packed: _Packed) -> _Place:
        return _Place(Directory(self.layer_tree, packed.path, None), *packed[1:])

    def take(self, pending: list[_Place], limit: int) -> int:
        """Count the directories in ``pending`` and below, until ``limit`` names are seen. Says how many were."""
        seen = 0
        while pending and seen < limit:
            place = pending.pop()
            try:
                seen += 1 + self._count(place, pending)
            except FileNotFoundError:
                continue  # gone: it takes no space any more
            except OSError as error:
                self.found.complete = False
                where = place.directory.on_disk()
                self.warn(Caution("unreadable-directory", where, f"not counted: {error.strerror}"))
        self.found.settle_whole()
        return seen

    def _count(self, place: _Place, pending: list[_Place]) -> int:
        directory, index, apart, is_top = place
        tree = self.trees[index]
        fd = directory.fd()
        stat = os.fstat(fd)
        if stat.st_dev != (tree.device or self.device) or self._is_mounted(directory):
            self.found.mounts.add(directory.on_disk())
            return 0
        space = self.found.spaces[index, apart]
        space.directory_bytes += stat.st_blocks * BLOCK_BYTES
        if is_top and tree.shape is not Shape.PLAIN:
            return self._count_top(place, tree.shape, pending)
        count = blocks = size = symlinks = 0
        with os.scandir(fd) as entries:
            for item in entries:  # the hot loop
                count += 1
                if item.is_dir(follow_symlinks=False):
                    pending.append(_Place(directory.sub(item.name), index, apart, False))
                    continue
                try:
                    stat = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.st_nlink > 1:
                    self.found.link((index, apart), stat)
                else:
                    blocks += stat.st_blocks
                    size += stat.st_size
                    if item.is_symlink():
                        symlinks += stat.st_size
        space.file_bytes += blocks * BLOCK_BYTES
        space.apparent_bytes += size
        space.symlink_bytes += symlinks
        return count

    def _count_top(self, place: _Place, shape: Shape, pending: list[_Place]) -> int:
        """The top of a tree whose entries are not all treated alike."""
        directory, index, _, _ = place
        names = os.listdir(directory.fd())
        for name in names:
            apart = shape.is_apart(name)
            try:
                stat = os.stat(name, dir_fd=directory.fd(), follow_symlinks=False)
            except FileNotFoundError:
                continue
            below = directory.sub(name)
            if not S_ISDIR(stat.st_mode):
                self.found.link((index, apart), stat)
            elif shape is Shape.LAYER and name == "merged":
                self._count_merged(below, stat, index)
            elif shape is not Shape.FLAT:
                pending.append(_Place(below, index, apart, False))
        return len(names)

    def _count_merged(self, merged: Directory, stat: os.stat_result, index: int) -> None:
        """What is mounted there belongs to other directories. Without a mount it should be empty."""
        if stat.st_dev != (self.trees[index].device or self.device) or self._is_mounted(merged):
            return
        self.found.spaces[index, False].directory_bytes += stat.st_blocks * BLOCK_BYTES
        if os.listdir(merged.fd()):
            message = "not counted: it should be empty while nothing is mounted there; a copy of a live data root?"
            self.warn(Caution("merged-not-empty", merged.on_disk(), message))
            self.found.complete = False

    def _is_mounted(self, directory: Directory) -> bool:
        name = directory.path.rpartition("/")[2]
        return name in self.mount_names and directory.on_disk() in self.mounted


class _Share(NamedTuple):
    """What a worker found, and the directories that it did not reach."""

    found: _Found
    left: list[_Packed]
    cautions: list[Caution]
    seen: int


def _count_in_workers(counter: _Counter, pending: list[_Place], jobs: int) -> Iterator[_Share]:
    def make() -> Callable[[list[_Packed]], _Share]:
        def work(packed: list[_Packed]) -> _Share:
            cautions = Cautions()
            own = _Counter(counter.root, counter.trees, counter.mounted, cautions)
            places = [own.place(item) for item in packed]
            seen = own.take(places, SHARE)
            return _Share(own.found, _pack(places), list(cautions), seen)

        return work

    tasks: deque[list[_Packed]] = deque()
    _deal(_pack(pending), tasks, jobs)
    pending.clear()
    if tasks:
        for share in run(make, tasks, jobs):
            _deal(share.left, tasks, jobs)
            yield share


def _pack(places: Sequence[_Place]) -> list[_Packed]:
    return [_Packed(place.directory.path, *place[1:]) for place in places]


def _deal(places: list[_Packed], tasks: deque[list[_Packed]], jobs: int) -> None:
    """Make tasks of directories: enough of them that no worker idles, dealt like cards."""
    hands = min(len(places), max(1, 2 * jobs - len(tasks)))
    for hand in range(hands):
        tasks.append(places[hand::hands])
