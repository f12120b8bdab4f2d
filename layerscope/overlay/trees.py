"""Chooses how a layer is read: as a directory of changes, as one that holds the layers below, too, or as a tar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerscope.model import Accumulated, XattrFamily
from layerscope.overlay.accumulated import AccumulatedTree
from layerscope.overlay.layers import Tree
from layerscope.overlay.tree import LayerTree, OpenDirectories

if TYPE_CHECKING:
    from layerscope.tars.layer import TarLayer


def open_tree(
    path: str,
    family: XattrFamily,
    more: Accumulated | None = None,
    *,
    tar: TarLayer | None = None,
    pool: OpenDirectories | None = None,
) -> Tree:
    """The content of a layer whose directory is ``path``; ``more`` is what the layer says of it.

    Of a layer in a ``tar`` the tree is read now. Raises OSError when not even its first byte can be.
    """
    if tar is not None:
        from layerscope.overlay.tar_tree import TarTree  # what it needs takes time to import

        tree = TarTree(tar, family)
        tree.root().open()
        return tree
    if more is None:
        return LayerTree(path, family, pool=pool)
    return AccumulatedTree(path, family, more, pool=pool)
