"""What a layer did to a path, compared with what was visible just below it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from layerscope.model import Caution, Warn, ignore
from layerscope.overlay.content import same_content
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import PathVersions, Version
from layerscope.overlay.tree import LayerTree


class Change(StrEnum):
    ADDED = "added"
    MODIFIED = "modified"
    METADATA = "metadata"
    """Same content; other owner, mode, time or xattr. For a directory: other owner, mode or xattr."""
    DELETED = "deleted"
    UNCHANGED = "unchanged"
    """A directory that is there only for what lies in it, an exact copy, or what a redirect shows here."""


def change_of(
    versions: PathVersions, version: Version, data_trees: Sequence[LayerTree] = (), warn: Warn = ignore
) -> Change:
    """What the layer of ``version`` did to the path.

    Files of equal size are compared byte for byte. Where one can't be read the answer is ``modified``, with a
    warning.
    """
    below = version.below
    if version.entry.kind is Kind.WHITEOUT:
        return Change.DELETED
    if version.moved:
        return Change.UNCHANGED
    if below is None:
        return Change.ADDED
    try:
        if not same_content(versions, version, below, data_trees):
            return Change.MODIFIED
        return Change.UNCHANGED if same_attributes(version, below) else Change.METADATA
    except OSError as error:
        warn(
            Caution(
                "unreadable-file",
                error.filename or version.directory.on_disk(version.entry.name),
                f"can't be compared with the version below it ({error.strerror}); counted as modified",
            )
        )
        return Change.MODIFIED


def same_attributes(upper: Version, lower: Version) -> bool:
    """Whether two versions of one kind have the same owner, mode, xattrs and, but for directories, time.

    A directory's time changes with everything that is made in it, so it says nothing of the directory.
    """
    one, other = upper.entry.stat, lower.entry.stat
    return (
        one.st_mode == other.st_mode
        and one.st_uid == other.st_uid
        and one.st_gid == other.st_gid
        and (upper.entry.is_directory or one.st_mtime_ns == other.st_mtime_ns)
        and upper.directory.xattrs(upper.entry.name) == lower.directory.xattrs(lower.entry.name)
    )
