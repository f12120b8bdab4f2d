"""What redirects show at another path than its own, so that it counts once: where it is seen, or was last.

A directory that was renamed twice comes up at three paths: its own, where it went first and where it is now.
Each place says for itself whether it is visible there. A file is hidden only if it is so at all of them, and then
the one that hid it last is what took it away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from layerscope.overlay.resolve import Version
from layerscope.overlay.walk import Frame, Walker, descend

Source = tuple[int, str]
"""A layer and a path in it."""

Redirected = dict[Source, set[str]]
"""By what lies elsewhere: the paths at which redirects show it."""

FRAMES_KEPT = 64


class Moved:
    """Decides what a redirect shows elsewhere. Empty for nearly every stack, and then it costs nothing."""

    def __init__(self, walker: Walker, redirected: Mapping[Source, set[str]]) -> None:
        self.redirected = redirected
        self._walker = walker
        self._frames: dict[str, Frame] = {}

    def __bool__(self) -> bool:
        return bool(self.redirected)

    def counts_as_hidden(self, layer: int, source: str, path: str) -> bool:
        """Whether a version that is hidden at ``path`` is hidden everywhere, and this is the place to count it.

        ``source`` is its path in its layer.
        """
        if not self.redirected:
            return True
        last = None
        for place in self._elsewhere(layer, source):
            version = self._version_at(place, layer, source)
            if version is None:
                continue
            if version.hidden_by is None:
                return False
            last = max(last or (-1, ""), (version.hidden_by.layer, place))
        if last is None:
            return True  # no redirect shows it: it counts at its own path
        if path == source:
            return False
        own = self._version_at(source, layer, source)
        return last[1] == path and (own is None or own.hidden_by is not None)

    def versions(self, layer: int, source: str) -> Iterator[tuple[str, Version]]:
        """Every path at which an entry of a layer comes up, with what becomes of it there; its own path first."""
        for place in (source, *self._elsewhere(layer, source)):
            version = self._version_at(place, layer, source)
            if version is not None:
                yield place, version

    def _elsewhere(self, layer: int, source: str) -> Iterator[str]:
        """The other paths at which an entry of a layer comes up."""
        above = source
        while above:
            for place in self.redirected.get((layer, above), ()):
                yield place + source[len(above) :]
            above = above.rpartition("/")[0]

    def _version_at(self, path: str, layer: int, source: str) -> Version | None:
        parent, _, name = path.rpartition("/")
        found = self._walker.find(self._frame(parent), name)
        return next((v for v in found.versions if v.layer == layer and v.source == source), None)

    def _frame(self, path: str) -> Frame:
        frame = self._frames.get(path)
        if frame is None:
            frame = self._walker.root_frame
            for above in self._walker.trace(path) if path else ():
                frame = descend(above)
            if len(self._frames) >= FRAMES_KEPT:
                self._frames.clear()
            self._frames[path] = frame
        return frame
