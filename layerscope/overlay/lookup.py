"""Looks one name up in a merged directory, step by step as the kernel does.

Source: ``fs/overlayfs/namei.c`` of Linux 7.2 (``ovl_lookup_layers``, ``ovl_lookup_single``,
``ovl_check_redirect``); the rules for refusing redirects and metacopy are those since 6.16. This is the
one place where layers are ordered top first. It is exact and not fast: the walk calls it only for names with
a redirect or metacopy mark, and decides all others by the shorter rules in ``overlay.resolve``.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import NamedTuple

from layerscope.model import OverlayOptions
from layerscope.overlay.entry import Entry, Kind
from layerscope.overlay.layers import Directory


class Place(NamedTuple):
    """A real directory that contributes to a merged one: layer index and directory."""

    layer: int
    directory: Directory


class Hit(NamedTuple):
    """An entry that a lookup found, and the directory that holds it."""

    place: Place
    entry: Entry


class Lookup(NamedTuple):
    """What the kernel makes of a name.

    ``hits`` top first: several directories (merged), or one non-directory, or a metacopy file and the file
    that holds its data. Empty with ``error`` 0 is ENOENT; else ``error`` is the errno of lookup.
    ``data_redirect`` is the path to look for in data-only layers.
    """

    hits: tuple[Hit, ...]
    error: int = 0
    data_redirect: str | None = None


class _LookupError(Exception):
    def __init__(self, number: int) -> None:
        self.errno = number


class _Search:
    """The state that one lookup carries from layer to layer (``struct ovl_lookup_data``)."""

    def __init__(self, name: str, options: OverlayOptions) -> None:
        self.name = name
        self.options = options
        self.is_dir = False
        self.stop = False
        self.last = False
        self.metacopy = False
        self.redirected = False
        self.absolute_redirect = False

    def check_follow(self) -> None:
        """Refuse to go below a metacopy file or a redirect where the mount does not follow them."""
        if self.metacopy and not self.options.metacopy:
            raise _LookupError(errno.EPERM)
        if self.redirected and not self.options.follow_redirects:
            raise _LookupError(errno.EPERM)

    def in_layer(self, place: Place) -> Hit | None:
        """Look the current name up in one layer: a single name, or a path from the layer's root."""
        if not self.name.startswith("/"):
            entry = self._single(place.directory, self.name, "", "")
            return Hit(place, entry) if entry else None
        directory = place.directory
        rest = self.name[1:]
        while True:
            component, slash, post = rest.partition("/")
            prefix = self.name[: len(self.name) - len(rest)]
            entry = self._single(directory, component, prefix, slash + post)
            if entry is None:
                return None
            if not slash:
                return Hit(Place(place.layer, directory), entry)
            if not entry.is_directory:
                return None
            # A redirect met here rewrote the name for the layers below; this one goes on from what it found.
            directory = directory.sub(component)
            rest = post

    def _single(self, directory: Directory, component: str, prefix: str, post: str) -> Entry | None:
        last_element = not post
        if component in ("", ".", ".."):
            raise _LookupError(errno.EACCES)
        entry = directory.get(component)
        if entry is None:
            return None
        if entry.kind is Kind.WHITEOUT:
            self.stop = True
            return None
        if last_element and self.metacopy and entry.kind is not Kind.FILE:
            self.stop = True
            return None
        marks = entry.marks
        if not entry.is_directory:
            if self.is_dir or not last_element:
                self.stop = True
                return None
            if marks.metacopy_invalid:
                raise _LookupError(errno.EIO)
            self.metacopy = marks.metacopy
            self.stop = not marks.metacopy
            if not marks.metacopy or self.last:
                return entry
        else:
            if last_element:
                self.is_dir = True
            if self.last:
                return entry
            if marks.opaque:
                self.stop = True
                return entry
        self._follow_redirect(entry, prefix, post)
        return entry

    def _follow_redirect(self, entry: Entry, prefix: str, post: str) -> None:
        self.absolute_redirect = False
        marks = entry.marks
        if marks.redirect_invalid:
            raise _LookupError(errno.EINVAL)
        if marks.redirect is None:
            return
        self.redirected = True
        if marks.redirect.startswith("/"):
            self.absolute_redirect = True
            self.stop = False
            self.name = marks.redirect + post
        else:
            self.name = prefix + marks.redirect + post


def lookup(
    name: str,
    parents: Sequence[Place],
    roots: Sequence[Place],
    options: OverlayOptions,
    *,
    data_layers: bool = False,
) -> Lookup:
    """Look ``name`` up in the merged directory ``parents``.

    ``parents`` and ``roots`` (the root directories of all layers of the stack) are ordered top first; the last
    of ``roots`` is the bottom layer. Raises OSError where a directory can't be read.
    """
    search = _Search(name, options)
    try:
        hits = _search_layers(search, parents, roots, data_layers)
        if search.metacopy and hits and data_layers and search.absolute_redirect:
            return Lookup(tuple(hits), data_redirect=search.name)
        search.check_follow()
        if search.metacopy:
            return Lookup((), errno.EIO)
    except _LookupError as error:
        return Lookup((), error.errno)
    return Lookup(tuple(hits))


def _search_layers(
    search: _Search, parents: Sequence[Place], roots: Sequence[Place], data_layers: bool
) -> list[Hit]:
    hits: list[Hit] = []
    places = parents
    reads_redirects = search.options.follow_redirects or data_layers
    at = 0
    while at < len(places):
        place = places[at]
        search.check_follow()
        if not reads_redirects:
            search.last = at == len(places) - 1
        elif search.is_dir or not data_layers:
            search.last = place.layer == roots[-1].layer
        hit = search.in_layer(place)
        # A metacopy file between the top one and the data shows nothing of its own.
        if hit is not None and not (search.metacopy and hits):
            hits.append(hit)
        if search.stop:
            break
        if hit is not None and search.redirected and search.name.startswith("/") and places is not roots:
            places = roots
            at = next(i for i, root in enumerate(roots) if root.layer == place.layer)
        at += 1
    return hits
