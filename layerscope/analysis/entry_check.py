"""Compares the entries of a layer's tar with the layer's directory, one by one, all but the content of files.

Nothing is followed: directories are opened by descriptor from the layer's root; names come from tar-split and are
untrusted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from layerscope.analysis.attributes import (
    KINDS,
    Difference,
    Owners,
    Problem,
    differing_attributes,
    differing_device,
    differing_xattrs,
    same_attributes,
)
from layerscope.analysis.tar_names import TarNames, tar_path
from layerscope.model import Accumulated, XattrFamily
from layerscope.overlay.entry import Entry, Kind, kind_of
from layerscope.overlay.markers import UNREADABLE
from layerscope.overlay.tree import Directory
from layerscope.stores.tarsplit import Member
from layerscope.tars.header import HARD_LINK, Header

MOST_DIFFERENCES: Final = 1000
"""Differences of one layer that are named; the others are counted."""
MOST_REASONS: Final = 20
MOST_RENAMED: Final = 1000
GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


@dataclass(slots=True)
class Findings:
    """What was found wrong with one layer."""

    differences: list[Difference] = field(default_factory=list)
    omitted: int = 0
    """Differences beyond ``MOST_DIFFERENCES``."""
    unsettled: list[str] = field(default_factory=list)
    """What could not be compared, and why."""

    def add(self, differences: Iterable[Difference]) -> None:
        for difference in differences:
            if len(self.differences) < MOST_DIFFERENCES:
                self.differences.append(difference)
            else:
                self.omitted += 1

    def unsettle(self, reason: str) -> None:
        if len(self.unsettled) < MOST_REASONS and reason not in self.unsettled:
            self.unsettled.append(reason)


class Place(NamedTuple):
    """Where the content of a regular file lies."""

    path: str
    directory: Directory
    name: str
    is_metacopy: bool
    """The layer holds only attributes: the content is in a layer below."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """How a layer's tar appears on this disk."""

    family: XattrFamily
    owners: Owners
    all_xattrs: bool
    """Whether all xattrs come from the tar: the engine unpacked the layer. Else it made the tar."""
    devices: bool
    """Whether the engine could make device nodes; a rootless one can't."""
    more: Accumulated | None = None
    """For a layer whose directory holds the layers below, too."""
    lower: str | None = None
    """For such an upper directory: the tree that it is mounted over."""


class EntryCheck:
    """Compares one entry after the other; ``finish`` when there are no more."""

    def __init__(self, diff_dir: str, expectations: Expectations, findings: Findings) -> None:
        self.expectations = expectations
        self.findings = findings
        self.names = TarNames(diff_dir, expectations.family, expectations.more, expectations.lower)
        self._inside: Directory | None = None
        self._renamed: list[str] = []
        """Directories that a build renamed, which take an engine that mounts with ``redirect_dir=on``."""
        self._linked: dict[tuple[int, int], tuple[str, Header, os.stat_result]] = {}

    @contextmanager
    def working(self) -> Iterator[None]:
        """Where ``check`` works: it changes the working directory, as names reach their xattrs fastest from there.

        Raises OSError when the layer's directory can't be opened.
        """
        root = self.names.root
        with root.tree.pool.inside(root.fd()):
            self._inside = root
            yield
            self._inside = None

    def _enter(self, directory: Directory) -> None:
        if directory is not self._inside:
            os.fchdir(directory.fd())
            self._inside = directory

    def check(self, member: Member) -> Place | None:
        """Compare an entry; gives where its content lies, when it is a regular file of the right size."""
        header = member.header
        if header is None:
            return None
        try:
            place = tar_path(member.name)
            kind = KINDS[header.type]
        except ValueError as error:
            self.findings.unsettle(str(error))
            return None
        except KeyError:
            self.findings.unsettle(f"{member.name!r} is a tar entry of the unknown type {header.type!r}")
            return None
        if place.is_opaque:
            self.names.opaque.add(place.path)
            return None
        path = place.path
        directory, name = self.names.expect(path) if path else (self.names.root, "")
        try:
            if place.is_whiteout:
                self._compare_whiteout(directory, name, path)
                return None
            self._enter(directory)
            stat = os.lstat(name or ".")
            found = kind_of(stat)
            if header.type == HARD_LINK:
                self._compare_hard_link(path, header, stat)
            elif kind is not found:
                self._differ(path, Problem.KIND, kind, found)
                return None
            elif found is Kind.SYMLINK:
                target = os.readlink(name)
                if target != header.link:
                    self._differ(path, Problem.TARGET, header.link, target)
            elif found is Kind.CHAR or found is Kind.BLOCK:
                self.findings.add(differing_device(path, header, stat))
            self._compare_attributes(path, header, stat)
            metacopy = self._compare_xattrs(name or ".", path, header)
            if found is not Kind.FILE or header.type == HARD_LINK:
                return None
            if stat.st_size != member.size:
                self._differ(path, Problem.SIZE, str(member.size), str(stat.st_size))
                return None
            return Place(path, directory, name, metacopy)
        except OSError as error:
            self._not_there(path, error, kind)
            return None

    def _not_there(self, path: str, error: OSError, kind: Kind | None) -> None:
        if error.errno not in GONE:
            self.findings.unsettle(f"{path!r} can't be read: {error.strerror}")
        elif any(path.startswith(f"{renamed}/") for renamed in self._renamed):
            self.findings.unsettle(f"{path!r} lies in a layer below, from where its directory was renamed")
        elif kind not in (Kind.CHAR, Kind.BLOCK) or self.expectations.devices:
            self._differ(path, Problem.MISSING, kind or "hard link", None)

    def _differ(self, path: str, problem: Problem, expected: str | None, found: str | None) -> None:
        self.findings.add([Difference(path, problem, expected, found)])

    def _compare_whiteout(self, directory: Directory, name: str, path: str) -> None:
        more = self.expectations.more
        try:
            entry = directory.get(name)
        except OSError as error:
            if more is None or error.errno not in GONE:
                raise
            entry = None  # with all of its directory
        self._inside = None  # it leaves the directory that we worked in
        if more is not None and entry is None:
            self.names.deleted.add(path)  # it is gone without a mark
        elif entry is None:
            self._differ(path, Problem.MISSING, Kind.WHITEOUT, None)
        elif entry.kind is not Kind.WHITEOUT:
            self._differ(path, Problem.KIND, Kind.WHITEOUT, entry.kind)

    def _compare_hard_link(self, path: str, header: Header, stat: os.stat_result) -> None:
        try:
            target = tar_path(header.link)
            directory, name = self.names.expect(target.path)
            other = os.stat(name, dir_fd=directory.fd(), follow_symlinks=False)
        except (OSError, ValueError):
            self._differ(path, Problem.HARD_LINK, header.link, None)
            return
        if not os.path.samestat(stat, other):
            self._differ(path, Problem.HARD_LINK, header.link, None)

    def _compare_attributes(self, path: str, header: Header, stat: os.stat_result) -> None:
        if stat.st_nlink > 1 and header.type != b"5":
            # All names of a file have one owner, mode and time: those of the last in the tar.
            self._linked[stat.st_dev, stat.st_ino] = (path, header, stat)
        elif not same_attributes(header, stat, self.expectations.owners):
            self.findings.add(differing_attributes(path, header, stat, self.expectations.owners))

    def _compare_xattrs(self, name: str, path: str, header: Header) -> bool:
        """Compare xattrs; gives whether overlayfs calls the file a metacopy."""
        found = _xattrs(name)
        if not found and not header.xattrs:
            return False
        family = self.expectations.family
        redirect = family + "redirect"
        if redirect in found and not self.expectations.all_xattrs and len(self._renamed) < MOST_RENAMED:
            self._renamed.append(path)
            del found[redirect]
        opaque = family + "opaque"
        if header.xattrs.get(opaque) == b"y":
            self.names.opaque.add(path)
        found_or_expected = {key: value for key, value in found.items() if key != opaque or key in header.xattrs}
        self.findings.add(
            differing_xattrs(
                path, header.xattrs, found_or_expected, family, all_in_tar=self.expectations.all_xattrs
            )
        )
        return family + "metacopy" in found

    def finish(self) -> None:
        """Compare what only shows at the end: attributes of hard links, opaque directories, extra files."""
        for path, header, stat in self._linked.values():
            self.findings.add(differing_attributes(path, header, stat, self.expectations.owners))
        if self.expectations.more is not None:
            self._finish_accumulated()
            return
        opaque = self.expectations.family + "opaque"
        for path in self.names.not_opaque():
            self._differ(path, Problem.XATTR, f"{opaque}=y", None)
        for unexpected in self.names.unexpected(self.findings.unsettle):
            if unexpected.entry is None:
                self._differ(unexpected.path, Problem.XATTR, None, f"{opaque}=y")
            else:
                self._differ(unexpected.path, Problem.EXTRA, None, _description(unexpected.entry))

    def _finish_accumulated(self) -> None:
        """What only shows beside the directory that this one began as. Marks of opaque directories are not kept."""
        for unexpected in self.names.unexpected_beside(self.findings.unsettle):
            entry = unexpected.entry
            if entry is not None and entry.kind is Kind.WHITEOUT:
                self._differ(unexpected.path, Problem.MISSING, "what the layer below has", None)
            elif entry is not None:
                self._differ(unexpected.path, Problem.EXTRA, None, _description(entry))


def _xattrs(name: str) -> dict[str, bytes]:
    """All xattrs of a name in the working directory, as they are stored."""
    try:
        names = os.listxattr(name, follow_symlinks=False)
        return {x: os.getxattr(name, x, follow_symlinks=False) for x in names} if names else {}
    except OSError as error:
        if error.errno in UNREADABLE:
            return {}
        raise


def _description(entry: Entry) -> str:
    return f"{entry.kind} of {entry.stat.st_size} bytes" if entry.kind is Kind.FILE else entry.kind
