"""Says of a file in a layer whether its target still shows it, and if not, which layer hides it and why."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from layerscope.analysis.moved import Moved, Redirected
from layerscope.errors import LayerscopeError
from layerscope.model import Caution, Layer, Stack, Warn, XattrFamily
from layerscope.overlay.resolve import Hider, Reason
from layerscope.overlay.trees import open_tree
from layerscope.overlay.walk import Walker


class Exposure(StrEnum):
    """How a secret can be reached."""

    VISIBLE = "visible"
    """Everybody who runs the image or enters the container sees the file."""
    DELETED = "deleted"
    """A later layer took the path away: by a whiteout, an opaque directory, or another type in its place."""
    OVERWRITTEN = "overwritten"
    """A later layer holds another version of the file."""
    CONFIG = "config"
    """It stands in the configuration or history."""


class Fate(NamedTuple):
    """What became of one version of a file."""

    exposure: Exposure
    hider: Hider | None = None
    """With the index of the layer in the target's stack."""
    shown_at: str | None = None
    """The path at which the target shows it, where that is another than its own: it was renamed."""


class Fates:
    """Decides the files of one stack. ``redirects``: something in its layers is marked as renamed."""

    def __init__(self, stack: Stack, warn: Warn, *, redirects: bool) -> None:
        self._walker, self._layers = _open(stack, warn)
        self._positions = {layer.index: position for position, layer in enumerate(self._layers)}
        self._moved = Moved(self._walker, _redirected(self._walker) if redirects else {})
        self._warn = warn
        self._decided: dict[tuple[int, str], Fate] = {}

    def of(self, layer: Layer, path: str) -> Fate:
        """The fate of the version of ``path`` (from the layer's root) that a layer holds."""
        key = (layer.index, path)
        if key not in self._decided:
            self._decided[key] = self._decide(layer, path)
        return self._decided[key]

    def _decide(self, layer: Layer, path: str) -> Fate:
        last: Hider | None = None
        reason = "changed while it was read"
        try:
            for place, version in self._moved.versions(self._positions[layer.index], path):
                if version.hidden_by is None:
                    return Fate(Exposure.VISIBLE, shown_at=place if place != path else None)
                last = max(last or version.hidden_by, version.hidden_by)
        except OSError as error:
            last, reason = None, f"a directory on the way can't be read ({error.strerror})"
        if last is None:
            message = f"{reason}; what it holds is told as visible"
            self._warn(Caution("unsettled-file", layer.place_of(path), message))
            return Fate(Exposure.VISIBLE)
        exposure = Exposure.OVERWRITTEN if last.reason is Reason.OVERWRITTEN else Exposure.DELETED
        return Fate(exposure, last._replace(layer=self._layers[last.layer].index))


def _open(stack: Stack, warn: Warn) -> tuple[Walker, Sequence[Layer]]:
    """A walker over the stack; without the layers that can't be opened, which is a warning."""
    try:
        return Walker(stack, warn), stack.layers
    except LayerscopeError as error:
        kept = tuple(layer for layer in stack if _opens(layer))
        message = f"{error.message}; what it hides is shown as visible"
        warn(Caution("unreadable-layer", None, message))
        return Walker(Stack(kept, stack.options, stack.data_dirs), warn), kept


def _opens(layer: Layer) -> bool:
    try:
        open_tree(layer.diff_dir, XattrFamily.TRUSTED, tar=layer.tar).root().open()
    except OSError:
        return False
    return True


def _redirected(walker: Walker) -> Redirected:
    """What redirects show at another path than its own. Walks the whole stack: only where there are any."""
    found: Redirected = {}
    for listing in walker.walk():
        for versions in listing.shared:
            for version in versions.versions:
                if version.introduced:
                    found.setdefault((version.layer, version.source), set()).add(versions.path)
    return found
