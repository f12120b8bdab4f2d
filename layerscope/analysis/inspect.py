"""One target, inspected: its totals, and if asked for its changed and hidden paths and a container's changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from layerscope.analysis.change import Change, change_of
from layerscope.analysis.compare import Difference, compare
from layerscope.analysis.moved import Moved
from layerscope.analysis.summary import count_layers, summarize
from layerscope.analysis.totals import Amount, LayerTotals, Merged, Summary
from layerscope.model import Role, Stack, Target, TargetKind, Tick, Warn, ignore, no_tick
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import PathVersions, Reason, Version
from layerscope.overlay.walk import Walker, in_tree_order


class ChangedPath(NamedTuple):
    """A path that a layer added, changed or deleted."""

    path: str
    change: Change
    version: Version
    hides: int


class HiddenPath(NamedTuple):
    """A version of a path, not a directory, that a later layer hides."""

    path: str
    version: Version


@dataclass(slots=True)
class Inspection:
    """What there is to say of one stack."""

    target: Target
    totals: list[LayerTotals | None]
    """By layer, base first; None for a layer that was not counted."""
    merged: Merged | None = None
    hidden: dict[Reason, Amount] | None = None
    incomplete: bool = False
    changed_paths: list[list[ChangedPath]] | None = None
    """By layer, base first, each in tree order."""
    hidden_paths: list[HiddenPath] | None = None
    changes: list[Difference] = field(default_factory=list)
    """For a container: what ``docker diff`` reports."""
    copied_up: list[Difference] = field(default_factory=list)
    """For a container: files that were copied to its upper layer and look the same; ``docker diff`` is silent."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to do beside the least."""

    changed_paths: bool = False
    hidden_paths: bool = False
    image_layers: bool = False
    """For a container: count its image's layers, too, which takes a walk through all of them."""


def inspect(
    target: Target, wanted: Wanted, *, jobs: int | None = None, warn: Warn = ignore, tick: Tick = no_tick
) -> Inspection:
    """Walk a target's stack. Raises LayerscopeError where a layer's directory can't be opened.

    Of a container only its own layers are counted, unless more is ``wanted``.
    """
    walker = Walker(target.stack, warn)
    found = Inspection(target, [None] * len(target.stack))
    is_container = target.kind is TargetKind.CONTAINER
    if is_container and not (wanted.image_layers or wanted.changed_paths or wanted.hidden_paths):
        own = [layer.index for layer in target.stack if layer.role in (Role.INIT, Role.UPPER)]
        for index, totals in count_layers(walker, own, warn, tick).items():
            found.totals[index] = totals
    else:
        summary = summarize(walker, jobs=jobs, warn=warn, tick=tick)
        found.totals, found.merged, found.hidden = [*summary.layers], summary.merged, summary.hidden
        _list_paths(walker, found, wanted, summary, tick)
    if is_container:
        below = Walker(below_upper(target.stack), warn)
        differences = compare(below, walker, warn, tick)
        found.changes = [difference for difference in differences if difference.change is not None]
        found.copied_up = [difference for difference in differences if difference.change is None]
        found.incomplete = below.incomplete
    found.incomplete = found.incomplete or walker.incomplete
    return found


def below_upper(stack: Stack) -> Stack:
    """A container's stack without its upper layer: what ``docker diff`` compares with."""
    top = len(stack) - 1
    return stack.up_to(top - 1) if top >= 0 and stack.layers[top].role is Role.UPPER else stack


def _list_paths(walker: Walker, found: Inspection, wanted: Wanted, summary: Summary, tick: Tick) -> None:
    if not (wanted.changed_paths or wanted.hidden_paths):
        return
    changed: list[list[ChangedPath]] = [[] for _ in walker.stack]
    hidden: list[HiddenPath] = []
    moved = Moved(walker, summary.moved)
    for versions in in_tree_order(walker.walk()):
        tick(1)
        for version in versions.versions:
            change = _change(walker, versions, version) if wanted.changed_paths else None
            if change is not None:
                path = ChangedPath(versions.path, change, version, versions.hides(version))
                changed[version.layer].append(path)
            if wanted.hidden_paths and _counts_as_hidden(versions.path, version, moved):
                hidden.append(HiddenPath(versions.path, version))
    found.changed_paths = changed if wanted.changed_paths else None
    found.hidden_paths = hidden if wanted.hidden_paths else None


def _change(walker: Walker, versions: PathVersions, version: Version) -> Change | None:
    """What a layer did to a path, or None when that is not worth a line."""
    if version.moved:
        return None  # it has its line at its own path
    change = change_of(versions, version, walker.data_trees)
    return None if change is Change.UNCHANGED and not version.entry.marks.opaque else change


def _counts_as_hidden(path: str, version: Version, moved: Moved) -> bool:
    return (
        version.hidden_by is not None
        and version.entry.kind not in (Kind.DIRECTORY, Kind.WHITEOUT)
        and moved.counts_as_hidden(version.layer, version.source, path)
    )
