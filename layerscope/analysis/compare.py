"""What differs between two merged trees: a container and its image, two images, two heights of one image.

The rules of what counts as a change are those of ``docker diff`` (moby/go-archive ``changes.go``,
``changes_linux.go``), so that the answer is the same; but only directories in which the two trees have other
contributors are looked at, where Docker walks both trees whole.
"""

from __future__ import annotations

import os
import stat as st
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from layerscope.model import Caution, Tick, Warn, ignore, no_tick
from layerscope.overlay.content import same_content
from layerscope.overlay.entry import Entry, Kind, sort_key
from layerscope.overlay.resolve import Contributor, PathVersions, Version, error_name
from layerscope.overlay.walk import Frame, Walker, descend

CAPABILITY = "security.capability"
SECOND = 1_000_000_000


class DiffKind(StrEnum):
    """Docker's A, C and D."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


class Difference(NamedTuple):
    """One path that differs."""

    path: str
    change: DiffKind | None
    """None for a file that lies in the newer tree's own layers and looks the same: only copied up."""
    kind: Kind
    size_bytes: int | None
    """Of the newer version, of the deleted one for a deletion; None for directories."""
    content_changed: bool | None
    """For files that both trees have: whether the content differs. True for added files, None for the rest."""


class _View(NamedTuple):
    """A directory of one merged tree: who contributes to it. None where the tree has no such directory."""

    walker: Walker
    frame: Frame | None

    def find(self, name: str, warn: Warn) -> tuple[Version | None, _View, PathVersions | None]:
        """The visible version of a name, and the directory below it."""
        if self.frame is None:
            return None, self, None
        found = self.walker.find(self.frame, name)
        if found.error:
            warn(unreadable_path(found))
        return found.visible, _View(self.walker, visible_part(descend(found))), found


def unreadable_path(versions: PathVersions) -> Caution:
    """The warning for a path that the kernel refuses to look up."""
    return Caution(
        "refused-path",
        versions.path,
        f"the kernel answers {error_name(versions.error)}: its mount options do not allow a redirect or metacopy"
        " mark here, or the mark is invalid",
    )


def visible_part(frame: Frame) -> Frame | None:
    """The contributors that are visible; None when there are none, and so no directory."""
    contributors = tuple(c for c in frame.contributors if c.hidden is None)
    return Frame(frame.path, contributors) if contributors else None


def compare(old: Walker, new: Walker, warn: Warn = ignore, tick: Tick = no_tick) -> list[Difference]:
    """All paths that differ between two merged trees, sorted bytewise by path."""
    found = _Comparison(warn, tick)
    pending = [(_View(old, visible_part(old.root_frame)), _View(new, visible_part(new.root_frame)))]
    while pending:  # no recursion: a tree may be deeper than Python's stack
        pending += found.directories(*pending.pop())
    return sorted(found.with_parents(), key=lambda difference: sort_key(difference.path))


class _Comparison:
    def __init__(self, warn: Warn, tick: Tick) -> None:
        self.warn = warn
        self.tick = tick
        self.found: list[Difference] = []
        self.same_directories: dict[str, Difference] = {}
        """Directories that look the same in both trees: a change inside makes them changed."""

    def directories(self, old: _View, new: _View) -> list[tuple[_View, _View]]:
        """Compare what lies in one directory. Gives the directories below that are still to be compared."""
        path = (new.frame or old.frame or Frame("", ())).path
        below = []
        for name in _names_to_compare(old, new):
            old_version, old_below, _ = old.find(name, self.warn)
            new_version, new_below, versions = new.find(name, self.warn)
            self.tick(1)
            self._entry(f"{path}/{name}" if path else name, old_version, new_version, versions, new.walker)
            # What lay in a directory that is gone or became a file is not listed: its own line says it.
            if new_version is not None and new_version.entry.is_directory:
                below.append((old_below, new_below))
        return below

    def _entry(
        self,
        path: str,
        old: Version | None,
        new: Version | None,
        versions: PathVersions | None,
        walker: Walker,
    ) -> None:
        if new is None or versions is None:
            if old is not None:
                self.found.append(Difference(path, DiffKind.DELETED, old.entry.kind, _size(old.entry), None))
            return
        entry = new.entry
        if old is None:
            content = True if entry.kind is Kind.FILE else None
            self.found.append(Difference(path, DiffKind.ADDED, entry.kind, _size(entry), content))
            return
        different = stat_different(old.entry, entry) or _capability(old) != _capability(new)
        change = DiffKind.MODIFIED if different else None
        if change is None and os.path.samestat(old.entry.stat, entry.stat):
            return
        content = _content_changed(versions, new, old, walker, self.warn)
        difference = Difference(path, change, entry.kind, _size(entry), content)
        if change is None and entry.is_directory:
            self.same_directories[path] = difference
        else:
            self.found.append(difference)

    def with_parents(self) -> list[Difference]:
        """The differences, and every directory that has one inside (moby ``FileInfo.addChanges``)."""
        parents = []
        for difference in self.found:
            path = difference.path
            while difference.change is not None and path:
                path = path.rpartition("/")[0]
                parent = self.same_directories.pop(path, None)
                if parent is not None:
                    parents.append(parent._replace(change=DiffKind.MODIFIED))
        return self.found + parents


def _content_changed(versions: PathVersions, new: Version, old: Version, walker: Walker, warn: Warn) -> bool | None:
    if new.entry.kind is not Kind.FILE:
        return None
    try:
        return not same_content(versions, new, old, walker.data_trees)
    except OSError as error:
        warn(
            Caution(
                "unreadable-file",
                new.directory.on_disk(new.entry.name),
                f"can't be compared ({error.strerror}); counted as changed",
            )
        )
        return True


def stat_different(old: Entry, new: Entry) -> bool:
    """Docker's comparison (``statDifferent``): mode, owner, device; and where no "directory bit" is, size and time.

    That bit of the file type is also set in block devices' and sockets', so Docker leaves out their times, too.
    """
    one, other = old.stat, new.stat
    if (one.st_mode, one.st_uid, one.st_gid, one.st_rdev) != (
        other.st_mode,
        other.st_uid,
        other.st_gid,
        other.st_rdev,
    ):
        return True
    if one.st_mode & st.S_IFDIR:
        return False
    return one.st_size != other.st_size or not same_time(one.st_mtime_ns, other.st_mtime_ns)


def same_time(one: int, other: int) -> bool:
    """Docker's ``sameFsTime``: equal, or in the same second where one of them has no fraction (a tar's)."""
    if one == other:
        return True
    return one // SECOND == other // SECOND and (one % SECOND == 0 or other % SECOND == 0)


def _capability(version: Version) -> bytes | None:
    if version.entry.kind is not Kind.FILE:
        return None
    return version.directory.xattrs(version.entry.name).get(CAPABILITY)


def _size(entry: Entry) -> int | None:
    return None if entry.is_directory else entry.stat.st_size


def _names_to_compare(old: _View, new: _View) -> list[str]:
    """The names that can differ: those in the directories that only one of the two trees has here.

    Below their last difference both trees read the same directories in the same order, so a name that only those
    hold is the same in both.
    """
    old_contributors = old.frame.contributors if old.frame is not None else ()
    new_contributors = new.frame.contributors if new.frame is not None else ()
    shared = 0
    for one, other in zip(_by_layer(old_contributors), _by_layer(new_contributors), strict=False):
        if _place(one) != _place(other):
            break
        shared += 1
    names: set[str] = set()
    for view, contributors in ((old, old_contributors), (new, new_contributors)):
        for contributor in _by_layer(contributors)[shared:]:
            names.update(entry.name for entry in view.walker.entries(contributor))
    return sorted(names, key=sort_key)


def _by_layer(contributors: Sequence[Contributor]) -> list[Contributor]:
    """Base first."""
    return sorted(contributors, key=lambda contributor: contributor.layer)


def _place(contributor: Contributor) -> tuple[str, str]:
    return (contributor.directory.tree.key, contributor.directory.path)
