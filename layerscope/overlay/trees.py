"""Chooses how a layer is read: as a directory of changes, or as one that holds the layers below it, too."""

from __future__ import annotations

from layerscope.model import Accumulated, XattrFamily
from layerscope.overlay.accumulated import AccumulatedTree
from layerscope.overlay.tree import LayerTree, OpenDirectories


def open_tree(
    path: str, family: XattrFamily, more: Accumulated | None = None, *, pool: OpenDirectories | None = None
) -> LayerTree:
    """The content of a layer whose directory is ``path``; ``more`` is what the layer says of it."""
    if more is None:
        return LayerTree(path, family, pool=pool)
    return AccumulatedTree(path, family, more, pool=pool)
