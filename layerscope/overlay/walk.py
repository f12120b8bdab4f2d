"""Walks all layers of a stack at once: one merge of directory listings, in tree order.

For one merged directory it lists every real directory that takes part, visible or hidden, decides each name,
and goes on with its subdirectories. Memory is bounded by depth × fan-out, never by the number of files.
Hidden subtrees are walked too; each of their versions says what hides it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from layerscope.errors import CorruptStoreError, StoragePermissionError
from layerscope.model import Caution, Layer, Stack, Warn, XattrFamily, ignore
from layerscope.overlay.entry import Entry, Kind, sort_key
from layerscope.overlay.layers import Directory, Tree, warn_of_tar
from layerscope.overlay.lookup import Place
from layerscope.overlay.resolve import (
    Candidate,
    Contributor,
    Hider,
    PathVersions,
    Version,
    resolve,
    simple,
)
from layerscope.overlay.tree import Content, LayerTree, OpenDirectories
from layerscope.overlay.trees import open_tree


class Frame(NamedTuple):
    """A merged directory to visit: its path in the merged tree (``""`` is the root) and who takes part."""

    path: str
    contributors: tuple[Contributor, ...]

    def under(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


PackedFrame = tuple[str, list[tuple[int, str, int, Hider | None]]]


@dataclass(slots=True)
class Listing:
    """One merged directory, decided.

    Most names exist in one layer only and carry no mark: ``single`` holds those, by contributor, as they were
    read: directories and everything else. All others are in ``shared``. No order inside either.
    """

    frame: Frame
    single: list[tuple[Contributor, list[Entry], list[Entry]]] = field(default_factory=list)
    shared: list[PathVersions] = field(default_factory=list)

    def paths(self) -> list[PathVersions]:
        """Every name of the directory, ordered bytewise."""
        found = list(self.shared)
        for contributor, directories, others in self.single:
            found += [lone(self.frame.under(entry.name), contributor, entry) for entry in directories]
            found += [lone(self.frame.under(entry.name), contributor, entry) for entry in others]
        found.sort(key=lambda item: sort_key(item.path))
        return found


class Walker:
    """Reads the layer directories of a stack. Raises at once when a layer's root can't be opened."""

    def __init__(self, stack: Stack, warn: Warn = ignore) -> None:
        self.stack = stack
        self.warn = warn
        pool = OpenDirectories()
        family = stack.options.xattrs
        self.trees = [_tree(layer, family, pool) for layer in stack]
        told = [warn_of_tar(layer, warn) for layer in stack]
        self.incomplete = not all(told)
        self.data_trees = [LayerTree(path, family, pool=pool) for path in stack.data_dirs]
        roots = [tree.root() for tree in self.trees]
        for root in (*roots, *(tree.root() for tree in self.data_trees)):
            _open_root(root)
        self.roots = tuple(Place(index, root) for index, root in reversed(list(enumerate(roots))))
        self.root_frame = Frame(
            "", tuple(Contributor(index, root, index, None) for index, root in enumerate(roots))
        )

    def walk(self, pending: list[Frame] | None = None) -> Iterator[Listing]:
        """Yield a listing of every merged directory, parents first, names bytewise.

        ``pending`` are the directories still to visit, the next one last; what is left in it when the caller
        stops is what was not visited. Without it the walk starts at the root.
        """
        pending = [self.root_frame] if pending is None else pending
        while pending:
            listing = self.listing(pending.pop())
            pending += reversed(self.children(listing))
            yield listing

    def listing(self, frame: Frame) -> Listing:
        """Read one merged directory and decide its names."""
        listing = Listing(frame)
        read = [(contributor, self._content(contributor)) for contributor in frame.contributors]
        several = _in_several([content for _, content in read])
        for contributor, content in read:
            for entry in chain(*content) if several else ():
                if entry.name in several:
                    several[entry.name].append((contributor, entry))
            directories, others, marked = _without(several, content)
            for entry in marked:
                if not simple(entry):
                    listing.shared.append(self._resolve(frame, entry.name, [(contributor, entry)]))
                elif entry.kind is Kind.DIRECTORY:
                    directories.append(entry)
                else:
                    others.append(entry)
            if directories or others:
                listing.single.append((contributor, directories, others))
        for name, candidates in several.items():
            listing.shared.append(self._resolve(frame, name, candidates))
        return listing

    def children(self, listing: Listing) -> list[Frame]:
        """The merged directories below a listing, ordered bytewise."""
        frame = listing.frame
        frames: list[Frame] = []
        for (layer, directory, since, hidden), directories, _ in listing.single:
            frames += [
                Frame(frame.under(entry.name), (Contributor(layer, directory.sub(entry.name), since, hidden),))
                for entry in directories
            ]
        frames += [child for child in map(descend, listing.shared) if child.contributors]
        frames.sort(key=lambda child: sort_key(child.path))
        return frames

    def find(self, frame: Frame, name: str) -> PathVersions:
        """Decide one name of a merged directory without listing it."""
        candidates: list[Candidate] = []
        for contributor in frame.contributors:
            try:
                entry = contributor.directory.get(name)
            except OSError as error:
                self._unreadable(contributor.directory, error)
                continue
            if entry is not None:
                candidates.append((contributor, entry))
        return self._resolve(frame, name, candidates)

    def trace(self, path: str) -> Iterator[PathVersions]:
        """Decide a path component by component, from the root down; stops where no directory goes on."""
        frame = self.root_frame
        for name in path.split("/"):
            versions = self.find(frame, name)
            yield versions
            frame = descend(versions)

    def pack(self, frame: Frame) -> PackedFrame:
        """A directory to visit as plain data, for another process."""
        return (frame.path, [(c.layer, c.directory.path, c.since, c.hidden) for c in frame.contributors])

    def unpack(self, packed: PackedFrame) -> Frame:
        path, contributors = packed
        return Frame(
            path,
            tuple(
                Contributor(layer, self.trees[layer].directory(where), since, hidden)
                for layer, where, since, hidden in contributors
            ),
        )

    def _resolve(self, frame: Frame, name: str, candidates: Sequence[Candidate]) -> PathVersions:
        return resolve(
            frame.under(name),
            name,
            candidates,
            frame.contributors,
            self.roots,
            self.stack.options,
            data_layers=bool(self.data_trees),
        )

    def entries(self, contributor: Contributor) -> list[Entry]:
        """All names of one directory that takes part, in no order."""
        directories, others, marked = self._content(contributor)
        return directories + others + marked

    def _content(self, contributor: Contributor) -> Content:
        try:
            return contributor.directory.content()
        except OSError as error:
            self._unreadable(contributor.directory, error)
            return Content([], [], [])

    def _unreadable(self, directory: Directory, error: OSError) -> None:
        self.incomplete = True
        if isinstance(error, FileNotFoundError):
            message = "vanished while it was read; the totals leave it out"
        else:
            message = f"can't be read ({error.strerror}); the totals leave it out"
        self.warn(Caution("unreadable-directory", directory.on_disk(), message))


def descend(versions: PathVersions) -> Frame:
    """The merged directory at a path: all its versions that are directories, visible or hidden."""
    return Frame(
        versions.path,
        tuple(
            Contributor(v.layer, v.directory.sub(v.entry.name), v.since, v.hidden_by)
            for v in reversed(versions.versions)
            if v.entry.kind is Kind.DIRECTORY
        ),
    )


def in_tree_order(listings: Iterable[Listing]) -> Iterator[PathVersions]:
    """Flatten a walk: a directory, then its children by name, bytewise."""
    stack: list[tuple[str, Iterator[PathVersions]]] = []
    for listing in listings:
        path = listing.frame.path
        while stack:
            inside, rest = stack[-1]
            reached = False
            if _is_parent(inside, path):
                for item in rest:
                    yield item
                    if item.path == path:
                        reached = True
                        break
            else:
                yield from rest
            if reached:
                break
            stack.pop()
        stack.append((path, iter(listing.paths())))
    while stack:
        yield from stack.pop()[1]


def _is_parent(directory: str, path: str) -> bool:
    return path.rpartition("/")[0] == directory and path != ""


def _in_several(read: Sequence[Content]) -> dict[str, list[Candidate]]:
    """The names that more than one directory holds, each with room for its candidates."""
    if len(read) < 2:
        return {}
    seen: set[str] = set()
    several: dict[str, list[Candidate]] = {}
    for content in read:
        for entry in chain(*content):
            if entry.name in seen:
                several.setdefault(entry.name, [])
            else:
                seen.add(entry.name)
    return several


def _without(several: Collection[str], content: Content) -> Content:
    """The names that only this directory holds."""
    if not several:
        return content
    return Content(*([entry for entry in entries if entry.name not in several] for entries in content))


def lone(path: str, contributor: Contributor, entry: Entry) -> PathVersions:
    """The only version of a path."""
    hidden = contributor.hidden
    visible = hidden is None and entry.kind is not Kind.WHITEOUT
    version = Version(
        contributor.layer,
        entry,
        contributor.directory,
        contributor.since,
        visible,
        hidden,
        moved=contributor.directory.path != path.rpartition("/")[0],
    )
    return PathVersions(path, (version,))


def _tree(layer: Layer, family: XattrFamily, pool: OpenDirectories) -> Tree:
    try:
        return open_tree(layer.diff_dir, family, layer.accumulated, tar=layer.tar, pool=pool)
    except OSError as error:
        raise CorruptStoreError(
            f"the layer {layer.diff_dir} can't be read: {error.strerror}",
            "the archive is damaged or was not written to its end; save the image again",
        ) from error


def _open_root(root: Directory) -> None:
    try:
        root.open()
    except PermissionError as error:
        raise StoragePermissionError(
            f"no permission to read the layer directory {root.on_disk()}",
            "run it as root (sudo), or point --data-root at a copy that you may read",
        ) from error
    except OSError as error:
        raise CorruptStoreError(
            f"the layer directory {root.on_disk()} can't be opened: {error.strerror}",
            "a layer of this stack is gone from the disk; `layerscope ls` shows what is still whole",
        ) from error
