"""The judge of the curated cases: the kernel, for a stack at every height."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from layerscope.analysis import summary as counting
from layerscope.model import Stack, XattrFamily
from layerscope.overlay.content import open_content
from tests.kernel import Seen, View, difference, kernel_view, layerscope_view, mounted, stack_of
from tests.layers import Content, hidden, make_layer, make_layers, walk


class Verdict(NamedTuple):
    """What the kernel shows of a stack; layerscope said the same."""

    stack: Stack
    view: View

    @property
    def paths(self) -> list[str]:
        """All paths that exist, in tree order."""
        return sorted(path for path, seen in self.view.items() if isinstance(seen, Seen))

    @property
    def errors(self) -> dict[str, str]:
        """The paths that the kernel refuses, and how."""
        return {path: errno.errorcode[seen] for path, seen in self.view.items() if isinstance(seen, int)}

    def seen(self, path: str) -> Seen:
        found = self.view[path]
        assert isinstance(found, Seen)
        return found

    def text(self, path: str) -> str:
        """The content of a visible file, read from the layer that the kernel takes it from."""
        versions = next(found for found in walk(self.stack) if found.path == path)
        assert versions.visible is not None
        with open_content(versions, versions.visible) as content:
            return content.read().decode()


@dataclass(frozen=True)
class Judge:
    """Makes layers, lets the kernel mount them, and compares every path with what layerscope sees."""

    work: Path

    def __call__(
        self,
        *contents: Content,
        family: XattrFamily = XattrFamily.TRUSTED,
        extra: str = "",
        follow_redirects: bool | None = None,
        metacopy: bool = False,
        data: Sequence[Content] = (),
    ) -> Verdict:
        """``contents`` base first, ``extra`` more mount options, ``data`` the data-only layers in order of lookup.

        Skips when the kernel refuses to mount it.
        """
        layers = make_layers(self.work, *contents, family=family)
        data_dirs = [make_layer(self.work / f"data{index}", content) for index, content in enumerate(data)]
        # A mount without upper needs two layers; with data-only ones below it needs one.
        below = [] if data else [make_layer(self.work / "empty", {})]
        stack = stack_of(
            [*below, *layers],
            family,
            follow_redirects=follow_redirects,
            metacopy=metacopy,
            data_dirs=tuple(map(str, data_dirs)),
        )
        view: View = {}
        for height in range(len(below), len(stack)):
            view = self._judge(stack.up_to(height), extra)
        if not (extra or data):
            assert_hiders_agree_with_heights(stack)
        # Without the empty layer, so that indices are those of ``contents``.
        plain = tuple(replace(layer, index=index) for index, layer in enumerate(stack.layers[len(below) :]))
        return Verdict(replace(stack, layers=plain), view)

    def _judge(self, stack: Stack, extra: str) -> View:
        lower = ":".join(layer.diff_dir for layer in reversed(stack.layers))
        lower += "".join(f"::{path}" for path in stack.data_dirs)
        own = "userxattr" if stack.options.xattrs is XattrFamily.USER else "index=off"
        options = ",".join(part for part in (own, extra, f"lowerdir={lower}") if part)
        with ExitStack() as mounts:
            try:
                root = mounts.enter_context(mounted(self.work / "merged", options))
            except OSError as error:
                if error.errno != errno.EINVAL or not (extra or stack.data_dirs):
                    raise
                pytest.skip(f"this kernel does not mount an overlay with {extra or 'data-only layers'}: {error}")
            ours = layerscope_view(stack)
            truth = kernel_view(root, ours)
        problems = difference(truth, ours)
        assert not problems, "\n".join(problems) + f"\nwith {len(stack)} layers"
        return truth


def assert_hiders_agree_with_heights(stack: Stack) -> None:
    """What hides a version is the first layer with which the version is visible no more."""
    by = {place: hider[0] for place, hider in hidden(stack).items()}
    for height in range(len(stack)):
        gone = {place for place, layer in by.items() if layer <= height and place[1] <= height}
        assert set(hidden(stack.up_to(height))) == gone


@pytest.fixture
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few dozen paths keep several workers busy."""
    monkeypatch.setattr(counting, "ALONE_UP_TO", 5)
    monkeypatch.setattr(counting, "SHARE", 7)


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    return Judge(tmp_path)
