"""Random layers as hypothesis strategies, for what holds of every stack and needs no kernel."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from layerscope.model import Stack, XattrFamily
from tests.kernel import remove_tree, stack_of
from tests.layers import (
    DIRECTORY,
    FIFO,
    OPAQUE,
    WHITEOUT,
    Content,
    HardLink,
    Node,
    directory,
    file,
    make_layers,
    symlink,
)

USER = XattrFamily.USER
"""The family that needs no privilege: what is tested here is not what marks mean."""

STACKS = int(os.environ.get("LAYERSCOPE_RANDOM_STACKS", "12"))
"""Random stacks a test."""

NAMES = ("a", "b", "c")
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
nodes = st.one_of(
    st.binary(max_size=9000).map(file),
    st.integers(0, 99_999).map(lambda size: file(b"x", hole=size)),
    st.sampled_from([DIRECTORY, DIRECTORY, OPAQUE, WHITEOUT, symlink("a"), FIFO, directory(opaque=b"x")]),
    paths.map(HardLink),
)
contents = st.lists(st.dictionaries(paths, nodes, max_size=10), min_size=1, max_size=5)
redirects = st.sampled_from(["/a", "b", "/b/c", "/a/b"]).map(lambda path: directory(redirect=path.encode()))
contents_with_redirects = st.lists(
    st.dictionaries(paths, st.one_of(nodes, redirects), max_size=10), min_size=2, max_size=4
)
quick = settings(max_examples=STACKS, deadline=None, suppress_health_check=[HealthCheck.too_slow])

Drawn = Mapping[str, Node | HardLink]
"""A layer by path, as it is drawn: not all of it can lie in one directory."""


@contextmanager
def stack_from(layers: list[Drawn], family: XattrFamily = USER) -> Iterator[Stack]:
    """A stack of random layers, without what can't lie in one directory."""
    work = Path(tempfile.mkdtemp(prefix="layerscope-random-"))
    try:
        yield stack_of(make_layers(work, *map(possible, layers), family=family), family, follow_redirects=True)
    finally:
        remove_tree(work)


def possible(content: Drawn) -> Content:
    """The part of a random description that one directory can hold."""
    kept: dict[str, Node | HardLink] = {}
    for path, node in sorted(content.items(), key=lambda item: (isinstance(item[1], HardLink), item[0])):
        above = [path[:at] for at, letter in enumerate(path) if letter == "/"]
        if any(not is_directory(kept.get(parent, DIRECTORY)) for parent in above):
            continue
        if not is_directory(node) and any(other.startswith(path + "/") for other in kept):
            continue
        if isinstance(node, HardLink) and is_directory(kept.get(node.to, DIRECTORY)):
            continue
        kept[path] = node
    return kept


def is_directory(node: Node | HardLink) -> bool:
    return isinstance(node, Node) and node.format == DIRECTORY.format
