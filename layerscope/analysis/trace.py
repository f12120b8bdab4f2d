"""The history of one path: which layers have it, which hide it, which version shows."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from layerscope.analysis.change import Change, change_of
from layerscope.errors import PathNotFoundError
from layerscope.model import Warn, ignore
from layerscope.overlay.content import read_target
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import Hider, PathVersions, Version, error_name
from layerscope.overlay.walk import Walker

MOST_LINKS: Final = 40
"""Symlinks followed in one path, as in the kernel (``MAXSYMLINKS``)."""


class EventKind(StrEnum):
    """What happened to a path in a layer."""

    ADDED = "added"
    MODIFIED = "modified"
    METADATA = "metadata"
    UNCHANGED = "unchanged"
    DELETED = "deleted"
    """By a whiteout of its own, or with a directory above it."""


class Event(NamedTuple):
    """One layer's part in the history of a path."""

    layer: int
    kind: EventKind
    version: Version | None
    """The version that the layer holds; None where it only hides what is below."""
    hider: Hider | None
    """For a deletion: what did it."""


def locate(walker: Walker, path: str) -> PathVersions:
    """All versions of a path, hidden ones too, without following symlinks. Raises PathNotFoundError."""
    clean = normalise(path)
    versions = None
    for versions in walker.trace(clean):
        if not versions.versions and not versions.error:
            raise _not_found(versions.path, path)
        if versions.path != clean and all(v.entry.kind is not Kind.DIRECTORY for v in versions.versions):
            raise _not_found(versions.path, path, versions.visible)
    if versions is None:
        raise PathNotFoundError(f"{path!r} is the root of the image", "name a path below it, like etc/passwd")
    return versions


def normalise(path: str) -> str:
    """A path relative to the image root, without ``.`` and empty components. Raises PathNotFoundError."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise PathNotFoundError(f"{path!r} leads upwards", "name the path from the image's root, without `..`")
    return "/".join(parts)


def _not_found(reached: str, path: str, link: Version | None = None) -> PathNotFoundError:
    if link is not None and link.entry.kind is Kind.SYMLINK:
        target = read_target(link)
        return PathNotFoundError(
            f"{reached!r} on the way to {path!r} is a symlink to {target!r}", "ask for the path behind it"
        )
    what = "is not a directory in any layer" if link is not None else "is in no layer"
    return PathNotFoundError(f"{reached!r} {what}", "`layerscope files TARGET` lists every path, hidden ones too")


def history(walker: Walker, versions: PathVersions, warn: Warn = ignore) -> list[Event]:
    """What happened to a path, base layer first."""
    events: dict[tuple[int, int], Event] = {}
    for version in reversed(versions.versions):
        change = change_of(versions, version, walker.data_trees, warn)
        if change is Change.DELETED and not versions.hides(version):
            change = Change.UNCHANGED
        height = (version.since if version.moved else version.layer, version.layer)
        events[height] = Event(version.layer, EventKind(change.value), version, None)
    for version in versions.versions:
        hider = version.hidden_by
        if hider is None or version.entry.kind is Kind.WHITEOUT:
            continue
        if hider.path != versions.path:
            events.setdefault((hider.layer, -1), Event(hider.layer, EventKind.DELETED, None, hider))
        else:
            key = (hider.layer, hider.layer)
            event = events.get(key)
            if event is not None and event.kind is EventKind.DELETED:
                events[key] = event._replace(hider=hider)
    return [events[height] for height in sorted(events)]


def follow(walker: Walker, path: str) -> PathVersions:
    """The visible path behind symlinks, resolved inside the merged tree as in a container.

    Raises PathNotFoundError when it does not exist, or only in hidden versions.
    """
    left = normalise(path).split("/")
    done: list[str] = []
    links = 0
    versions: PathVersions | None = None
    while left:
        name = left.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            done = done[:-1]
            continue
        versions = locate(walker, "/".join([*done, name]))
        visible = versions.visible
        if visible is None:
            raise _hidden(versions)
        if visible.entry.kind is not Kind.SYMLINK:
            done.append(name)
            continue
        links += 1
        if links > MOST_LINKS:
            raise PathNotFoundError(f"too many symlinks on the way to {path!r}", "they may go in a circle")
        target = read_target(visible)
        if target.startswith("/"):
            done = []
        left = target.split("/") + left
    if versions is None:
        raise PathNotFoundError(f"{path!r} is the root of the image", "name a path below it, like etc/passwd")
    return locate(walker, "/".join(done)) if done else versions


def _hidden(versions: PathVersions) -> PathNotFoundError:
    if versions.error:
        return PathNotFoundError(
            f"the kernel refuses {versions.path!r}: {error_name(versions.error)}",
            "name the layer whose version you want: --layer N",
        )
    kept = [version for version in versions.versions if version.entry.kind is not Kind.WHITEOUT]
    if not kept or kept[0].hidden_by is None:
        return PathNotFoundError(f"{versions.path!r} is not there", "`layerscope files TARGET` lists every path")
    hider = kept[0].hidden_by
    return PathNotFoundError(
        f"{versions.path!r} is hidden by layer {hider.layer} ({hider.reason} of {hider.path!r})",
        f"its last version is in layer {kept[0].layer}: --layer {kept[0].layer}",
    )


def in_layer(versions: PathVersions, layer: int) -> Version:
    """The version of a path that one layer holds. Raises PathNotFoundError."""
    for version in versions.versions:
        if version.layer == layer and version.entry.kind is not Kind.WHITEOUT:
            return version
    have = ", ".join(str(v.layer) for v in versions.versions if v.entry.kind is not Kind.WHITEOUT)
    raise PathNotFoundError(
        f"layer {layer} holds no version of {versions.path!r}",
        f"these layers do: {have}" if have else "no layer does",
    )


def refuse_directory(versions: PathVersions, version: Version) -> None:
    """Raise PathNotFoundError unless a version is a regular file."""
    kind = version.entry.kind
    if kind is Kind.DIRECTORY:
        raise PathNotFoundError(
            f"{versions.path!r} is a directory", "`layerscope extract` writes whole directories"
        )
    if kind is not Kind.FILE:
        target = f" to {read_target(version)!r}" if kind is Kind.SYMLINK else ""
        raise PathNotFoundError(f"{versions.path!r} is a {kind}{target}, not a file", "only files have content")
