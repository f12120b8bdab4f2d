"""Upper directories that began as copies, in real mounts over one tree: what each shows is what the kernel shows.

So the graph driver `overlay` keeps BuildKit's layers, and containers.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from layerscope.model import Accumulated, Layer, Role, Sameness, Stack, XattrFamily
from tests.kernel import can_mount, difference, kernel_view, layerscope_view, mount_options, mounted, remove_tree
from tests.overlay.test_kernel_oracle import apply_operations, layer_operations
from tests.trees import copy_upper

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not can_mount(), reason="mounting overlayfs needs root"),
]
STACKS = int(os.environ.get("LAYERSCOPE_RANDOM_STACKS", "25"))
FAMILY = XattrFamily.TRUSTED


@settings(
    max_examples=STACKS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(operations=layer_operations)
def test_every_height_is_what_the_kernel_shows(operations: list[list[tuple[str, str, str, int]]]) -> None:
    work = Path(tempfile.mkdtemp(prefix="layerscope-uppers-"))
    try:
        tree = work / "tree"
        tree.mkdir()
        apply_operations(tree, operations[0])
        layers = [Layer(0, Role.IMAGE, str(tree), accumulated=Accumulated(None, Sameness.INODE, is_tree=True))]
        below: Path | None = None
        for index, made in enumerate(operations[1:], 1):
            upper = work / f"upper{index}"
            (work / f"work{index}").mkdir()
            if below is None:
                upper.mkdir()
            else:
                copy_upper(below, upper, FAMILY)
            with mounted(work / "merged", f"lowerdir={tree},upperdir={upper},workdir={work}/work{index}") as root:
                apply_operations(root, made)
            more = Accumulated(str(below), Sameness.COPY, is_tree=False) if below is not None else None
            layers.append(Layer(index, Role.UPPER, str(upper), accumulated=more))
            with mounted(work / "merged", mount_options([tree, upper], FAMILY)) as root:
                ours = layerscope_view(Stack(tuple(layers)))
                assert difference(kernel_view(root, ours), ours) == []
            below = upper
    finally:
        remove_tree(work)
