"""Decides, for one path, which version the kernel shows, and which layer hides each of the others.

A merged directory is a set of *contributors*: real directories of layers, visible or hidden. To know who hid a
version first and what lay just below it, the versions of a name are put on one after the other, as the layers
were: after each step there is a set of visible ones, and what leaves that set is hidden by the step.

Once hidden at a height of the stack, a version stays hidden at every greater height: what cut it off is still
in the way, unless a redirect leads around it. So each version has one ``hidden_by``: the lowest layer that hides
it for good.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from layerscope.model import OverlayOptions
from layerscope.overlay.entry import NO_MARKS, Entry, Kind
from layerscope.overlay.layers import Directory
from layerscope.overlay.lookup import Hit, Lookup, Place, lookup


class Reason(StrEnum):
    """Why a version is hidden."""

    WHITEOUT = "whiteout"
    OPAQUE = "opaque"
    OVERWRITTEN = "overwritten"
    REPLACED = "replaced"
    """By something of another type, or by a directory that was renamed here (redirect)."""
    UNREADABLE = "unreadable"
    """The kernel refuses the path with an error, because of a mark that its mount options do not allow."""


class Hider(NamedTuple):
    """What hides a version: a layer, the reason, and the path at which it cuts."""

    layer: int
    reason: Reason
    path: str


class Contributor(NamedTuple):
    """A real directory in a merged one.

    ``since`` is the height of the stack from which it takes part: its own layer, or the layer of the redirect
    that led to it.
    """

    layer: int
    directory: Directory
    since: int
    hidden: Hider | None

    @property
    def height(self) -> tuple[int, int]:
        return (self.since, self.layer)

    @property
    def hidden_at_once(self) -> bool:
        """Whether a redirect led to what holds this directory when it was hidden there already."""
        return self.hidden is not None and self.hidden.layer <= self.since


class Version(NamedTuple):
    """One layer's entry for a path."""

    layer: int
    entry: Entry
    directory: Directory
    """The real directory that holds the entry."""
    since: int
    visible: bool
    hidden_by: Hider | None
    below: Version | None = None
    """The version that was visible before this one was put on top."""
    moved: bool = False
    """It lies elsewhere in its layer: a redirect shows it here, or a directory above it."""
    introduced: bool = False
    """It is here by the redirect of a version of this very path."""
    data: Version | None = None
    """For a metacopy file: the version that holds its content, unless that lies in a data-only layer."""

    @property
    def source(self) -> str:
        """Its path in its own layer."""
        return f"{self.directory.path}/{self.entry.name}".lstrip("/")


class PathVersions(NamedTuple):
    """All versions of one path, the top layer first."""

    path: str
    versions: tuple[Version, ...]
    error: int = 0
    """The errno with which the kernel refuses the path; 0 if it does not."""
    data_redirect: str | None = None
    """Where the content of a visible metacopy file lies in the data-only layers."""

    @property
    def visible(self) -> Version | None:
        """The version that gives the path its attributes, or None when the path does not exist."""
        return next((version for version in self.versions if version.visible), None)

    def hides(self, version: Version) -> int:
        """How many lower versions of this very path a version hides (a directory counts as one)."""
        return sum(
            1
            for other in self.versions
            if other.hidden_by is not None
            and other.hidden_by.layer == version.layer
            and other.hidden_by.path == self.path
        )


class _Draft:
    """A version while it is decided."""

    __slots__ = ("below", "data", "directory", "entry", "hidden_by", "introduced", "layer", "origin", "since")

    def __init__(
        self, origin: Contributor, place: Place, entry: Entry, below: _Draft | None, *, introduced: bool = False
    ) -> None:
        self.origin = origin
        """The contributor that holds it, or whose redirect leads to it: hidden with that one."""
        self.layer, self.directory = place
        self.entry = entry
        self.since = origin.since
        self.below = below
        self.hidden_by = origin.hidden if origin.hidden_at_once else None
        self.introduced = introduced
        self.data: _Draft | None = None

    @property
    def key(self) -> tuple[int, str, str]:
        return (self.layer, self.directory.path, self.entry.name)


Candidate = tuple[Contributor, Entry]


def resolve(
    path: str,
    name: str,
    candidates: Sequence[Candidate],
    contributors: Sequence[Contributor],
    roots: Sequence[Place],
    options: OverlayOptions,
    *,
    data_layers: bool = False,
) -> PathVersions:
    """Decide all versions of ``name``.

    ``candidates`` are the entries of that name in ``contributors``; ``roots`` are the layers' root
    directories, top first. Raises OSError where a redirect leads to a directory that can't be read.
    """
    candidates = sorted(candidates, key=lambda candidate: candidate[0].height)
    if all(simple(entry) for _, entry in candidates):
        drafts = _stack_up(path, candidates)
        return PathVersions(path, _finish(path, drafts))
    return _Heights(path, name, contributors, roots, options, data_layers).decide(candidates)


def simple(entry: Entry) -> bool:
    """Whether an entry can be decided without following a redirect or looking for data."""
    marks = entry.marks
    return marks is NO_MARKS or not (
        marks.redirect or marks.redirect_invalid or marks.metacopy or marks.metacopy_invalid
    )


def _stack_up(path: str, candidates: Sequence[Candidate]) -> list[_Draft]:
    """Put plain versions on top of each other, base first."""
    drafts: list[_Draft] = []
    visible: list[_Draft] = []
    for contributor, entry in candidates:
        visible = _still_visible(visible, contributor.since)
        below = visible[-1] if visible else None
        place = Place(contributor.layer, contributor.directory)
        draft = _Draft(contributor, place, entry, below)
        drafts.append(draft)
        if contributor.hidden_at_once:
            continue
        merges = below is not None and below.entry.is_directory and entry.is_directory and not entry.marks.opaque
        if not merges:
            _hide(visible, contributor.layer, entry, path)
            visible = []
        if entry.kind is not Kind.WHITEOUT:
            visible.append(draft)
    _still_visible(visible, None)
    return drafts


def _still_visible(visible: list[_Draft], height: int | None) -> list[_Draft]:
    """Hide what lies in a directory that is hidden at ``height`` (None: at the top of the stack)."""
    rest = []
    for draft in visible:
        hidden = draft.origin.hidden
        if hidden is not None and (height is None or hidden.layer <= height):
            draft.hidden_by = hidden
        else:
            rest.append(draft)
    return rest


def _hide(drafts: Sequence[_Draft], layer: int, by: Entry, path: str) -> None:
    for draft in drafts:
        draft.hidden_by = Hider(layer, _reason(draft.entry, by), path)


def _reason(hidden: Entry, by: Entry) -> Reason:
    if by.kind is Kind.WHITEOUT:
        return Reason.WHITEOUT
    if by.is_directory and hidden.is_directory:
        return Reason.OPAQUE if by.marks.opaque else Reason.REPLACED
    if by.is_directory or hidden.is_directory:
        return Reason.REPLACED
    return Reason.OVERWRITTEN


def _finish(path: str, drafts: Sequence[_Draft]) -> tuple[Version, ...]:
    """Freeze the drafts, the top layer first."""
    done: dict[int, Version] = {}
    parent = path.rpartition("/")[0]
    # Introduced ones first: they stand on nothing, and others may take their content from them.
    for draft in sorted(drafts, key=lambda draft: not draft.introduced):
        hidden_by = draft.hidden_by
        if draft.entry.kind is Kind.WHITEOUT:
            hidden_by = draft.origin.hidden
        done[id(draft)] = Version(
            layer=draft.layer,
            entry=draft.entry,
            directory=draft.directory,
            since=draft.since,
            visible=hidden_by is None and draft.entry.kind is not Kind.WHITEOUT,
            hidden_by=hidden_by,
            below=done[id(draft.below)] if draft.below is not None else None,
            moved=draft.introduced or draft.directory.path != parent,
            introduced=draft.introduced,
            data=done[id(draft.data)] if draft.data is not None else None,
        )
    return tuple(sorted(done.values(), key=lambda version: (version.layer, version.since), reverse=True))


class _Heights:
    """Decides a name whose versions carry redirects or metacopy marks: one kernel lookup a height."""

    def __init__(
        self,
        path: str,
        name: str,
        contributors: Sequence[Contributor],
        roots: Sequence[Place],
        options: OverlayOptions,
        data_layers: bool,
    ) -> None:
        self.path = path
        self.name = name
        self.contributors = contributors
        self.roots = roots
        self.options = options
        self.data_layers = data_layers
        self.drafts: dict[tuple[int, str, str], _Draft] = {}
        self.visible: list[_Draft] = []

    def decide(self, candidates: Sequence[Candidate]) -> PathVersions:
        result = Lookup(())
        error = 0
        for contributor, entry in candidates:
            below = self._visible_at(contributor.since)
            own = _Draft(contributor, Place(contributor.layer, contributor.directory), entry, below)
            self.drafts[own.key] = own
            if contributor.hidden_at_once:
                continue
            result = self._put_on(contributor, own)
            error = result.error if contributor.hidden is None else 0
        top_alive = _still_visible(self.visible, None)
        return PathVersions(
            self.path,
            _finish(self.path, list(self.drafts.values())),
            error,
            result.data_redirect if top_alive else None,
        )

    def _visible_at(self, height: int) -> _Draft | None:
        self.visible = _still_visible(self.visible, height)
        return self.visible[-1] if self.visible else None

    def _put_on(self, contributor: Contributor, own: _Draft) -> Lookup:
        entry = own.entry
        result = self._lookup_at(contributor.height)
        now: list[_Draft] = []
        for hit in reversed(result.hits):
            draft = self.drafts.get(_key(hit))
            if draft is None:
                draft = self._introduce(hit, contributor)
            elif draft not in self.visible and draft is not own:
                # Hidden by now, but a redirect leads back to it: what hides the redirect hides it, too.
                draft.hidden_by = None
                draft.origin, draft.since = contributor, contributor.since
            now.append(draft)
        if len(now) == 2 and entry.marks.metacopy:
            own.data = now[0]
        alive = {draft.key for draft in now}
        _hide([draft for draft in self.visible if draft.key not in alive], contributor.layer, entry, self.path)
        if own.key not in alive and entry.kind is not Kind.WHITEOUT:
            own.hidden_by = Hider(contributor.layer, Reason.UNREADABLE, self.path)
        self.visible = now
        return result

    def _introduce(self, hit: Hit, through: Contributor) -> _Draft:
        """A version that lies elsewhere and shows up here, through a redirect in a contributor's entry."""
        draft = _Draft(through, hit.place, hit.entry, None, introduced=True)
        self.drafts[draft.key] = draft
        return draft

    def _lookup_at(self, height: tuple[int, int]) -> Lookup:
        """The kernel's lookup in the stack as it was at ``height``."""
        since, _layer = height
        places = [
            Place(contributor.layer, contributor.directory)
            for contributor in sorted(self.contributors, key=lambda c: c.layer, reverse=True)
            if contributor.height <= height and (contributor.hidden is None or contributor.hidden.layer > since)
        ]
        roots = [root for root in self.roots if root.layer <= since]
        return lookup(self.name, places, roots, self.options, data_layers=self.data_layers)


def _key(hit: Hit) -> tuple[int, str, str]:
    return (hit.place.layer, hit.place.directory.path, hit.entry.name)


def error_name(number: int) -> str:
    """``EPERM`` for 1: how people know errors."""
    return errno.errorcode.get(number, str(number))
