"""Layers that are whole trees: what is read of them is what the same layers are as directories of changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from layerscope.analysis.summary import summarize
from layerscope.analysis.totals import LayerTotals, Merged
from layerscope.model import Accumulated, Layer, Role, Sameness, Stack
from layerscope.overlay.accumulated import lost_links
from layerscope.overlay.entry import Kind
from layerscope.overlay.walk import Walker
from tests.kernel import View, layerscope_view, remove_tree, stack_of
from tests.layers import (
    DIRECTORY,
    FIFO,
    MADE,
    OPAQUE,
    WHITEOUT,
    Content,
    Node,
    directory,
    file,
    make_layer,
    make_layers,
    shown,
    symlink,
    walk,
)
from tests.random_layers import USER, Drawn, contents, possible, quick
from tests.trees import as_trees, tree_stack


@contextmanager
def both(layers: Sequence[Content]) -> Iterator[tuple[Stack, Stack]]:
    """The same layers as directories of changes, and as whole trees."""
    work = Path(tempfile.mkdtemp(prefix="layerscope-trees-"))
    try:
        diffs = make_layers(work, *layers, family=USER)
        yield stack_of(diffs, USER, follow_redirects=True), tree_stack(as_trees(diffs, work, USER), USER)
    finally:
        remove_tree(work)


def told_apart(layers: list[Drawn]) -> list[Content]:
    """Possible layers in which no symlink or FIFO is like another: copies of the same can't be told apart."""
    found: list[Content] = []
    for layer, content in enumerate(map(possible, layers)):
        found.append({
            path: replace(node, mtime=MADE + 1000 * layer + number)
            if isinstance(node, Node) and node.format in (FIFO.format, symlink("").format)
            else node
            for number, (path, node) in enumerate(content.items())
        })  # fmt: skip
    return found


def visible(stack: Stack) -> View:
    """What is seen, but for the sizes of directories, which tell of their file system."""
    return {
        path: seen if isinstance(seen, int) or seen.kind != "directory" else seen._replace(size=0)
        for path, seen in layerscope_view(stack).items()
    }


def hiders(stack: Stack) -> dict[tuple[str, int], int]:
    """By path and layer: which layer hides that version of a file."""
    return {
        (versions.path, version.layer): version.hidden_by.layer
        for versions in walk(stack)
        for version in versions.versions
        if version.hidden_by is not None and version.entry.kind not in (Kind.DIRECTORY, Kind.WHITEOUT)
    }


def totals(stack: Stack) -> tuple[Merged, list[LayerTotals]]:
    """What `image` counts, but for the disk space, which a tree's directories take otherwise."""
    summary = summarize(Walker(stack), jobs=1)
    return summary.merged, [replace(layer, allocated_bytes=0) for layer in summary.layers]


@quick
@given(contents)
def test_tree_of_each_height_shows_what_the_changes_show(drawn: list[Drawn]) -> None:
    with both(told_apart(drawn)) as (changes, trees):
        for height in range(len(changes)):
            assert visible(trees.up_to(height)) == visible(changes.up_to(height))


@quick
@given(contents)
def test_file_is_hidden_by_the_same_layer(drawn: list[Drawn]) -> None:
    with both(told_apart(drawn)) as (changes, trees):
        assert hiders(trees) == hiders(changes)


def without_opaque(layers: list[Drawn]) -> list[Drawn]:
    return [{path: DIRECTORY if node == OPAQUE else node for path, node in layer.items()} for layer in layers]


@quick
@given(contents.map(without_opaque))
def test_counts_are_the_same_where_no_directory_is_opaque(drawn: list[Drawn]) -> None:
    with both(told_apart(drawn)) as (changes, trees):
        assert totals(trees) == totals(changes)


# -- what a tree is compared with ------------------------------------------------------------------------------


def two_trees(tmp_path: Path, base: Content, top: Content) -> list[Path]:
    return as_trees(make_layers(tmp_path, base, top, family=USER), tmp_path, USER)


def own_paths(stack: Stack, layer: int) -> dict[str, Kind]:
    """What a layer has of its own."""
    return {
        versions.path: version.entry.kind
        for versions in walk(stack)
        for version in versions.versions
        if version.layer == layer
    }


def test_directory_is_listed_for_what_changed_below_it_or_for_itself(tmp_path: Path) -> None:
    base = {
        "deep/er/est/file": "x", "deep/other/file": "x", "quiet/sub/file": "x", "mode": DIRECTORY,
        "gone/file": "x", "gone/kept": "x",
    }  # fmt: skip
    top = {"deep/er/est/file": "y", "mode": directory(mode=0o700), "gone/file": WHITEOUT}
    assert own_paths(tree_stack(two_trees(tmp_path, base, top), USER), 1) == {
        "deep": Kind.DIRECTORY, "deep/er": Kind.DIRECTORY, "deep/er/est": Kind.DIRECTORY,
        "deep/er/est/file": Kind.FILE, "mode": Kind.DIRECTORY, "gone": Kind.DIRECTORY, "gone/file": Kind.WHITEOUT,
    }  # fmt: skip


def test_file_that_was_written_again_is_its_layers_own_though_it_is_the_same(tmp_path: Path) -> None:
    """As on overlay2, where such a copy takes up space, too."""
    trees = two_trees(tmp_path, {"same": "x", "kept": "y"}, {"same": "x"})
    assert own_paths(tree_stack(trees, USER), 1) == {"same": Kind.FILE}


def test_marks_in_a_whole_tree_mean_nothing(tmp_path: Path) -> None:
    """An image may bring such xattrs along; the driver mounts one tree, in which they have no effect."""
    base, top = two_trees(tmp_path, {"d/a": "x", "d/b": "x"}, {"d/c": "y"})
    os.setxattr(top / "d", f"{USER}opaque", b"y")
    os.setxattr(top / "d", f"{USER}redirect", b"/elsewhere")
    os.setxattr(base / "d/a", f"{USER}metacopy", b"")
    assert shown(tree_stack([base, top], USER)) == {"d": 1, "d/a": 0, "d/b": 0, "d/c": 1}


def test_tree_deeper_than_pythons_stack(tmp_path: Path) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    here = os.open(".", os.O_RDONLY)
    try:
        for tree in (base, top):
            tree.mkdir()
            os.chdir(tree)
            for _ in range(2500):
                os.mkdir("d")
                os.utime("d", (MADE, MADE))
                os.chdir("d")
        Path("file").write_text("x")
    finally:
        os.fchdir(here)
        os.close(here)
    directories, files = 0, 0
    for listing in Walker(tree_stack([base, top], USER)).walk():
        directories += sum(version.layer == 1 for path in listing.paths() for version in path.versions)
        files += sum(path.path.endswith("/file") for path in listing.paths())
    subprocess.run(["rm", "-r", str(base), str(top)], check=True)  # pytest gives up at such a depth
    assert (directories, files) == (2501, 1)


# -- copies ----------------------------------------------------------------------------------------------------


def copied(trees: list[Path], work: Path, *options: str) -> list[Path]:
    """The trees without their hard links."""
    for tree in trees:
        (work / "copy").mkdir(exist_ok=True)
        subprocess.run(["cp", *options, str(tree), str(work / "copy")], check=True)
    return [work / "copy" / tree.name for tree in trees]


@pytest.mark.parametrize("options", [["-r"], ["-r", "--preserve=mode,timestamps"]], ids=" ".join)
def test_trees_copied_without_links_are_told_apart_by_content(tmp_path: Path, options: list[str]) -> None:
    base = {
        "kept": "x",
        "changed": "same size",
        "touched": "x",
        "gone": "x",
        "mode": "x",
        "d/e/f": "x",
        "empty": "",
    }
    top = {"changed": "SAME SIZE", "touched": file("x", mtime=1), "gone": WHITEOUT, "mode": file("x", mode=0o600)}
    trees = two_trees(tmp_path, base, top)
    assert not lost_links(str(trees[1]), str(trees[0]))
    trees = copied(trees, tmp_path, *options)
    assert lost_links(str(trees[1]), str(trees[0]))
    found = own_paths(tree_stack(trees, USER, Sameness.CONTENT), 1)
    assert found == {"changed": Kind.FILE, "gone": Kind.WHITEOUT, "mode": Kind.FILE}


def test_links_are_not_taken_for_lost_where_all_was_written_anew(tmp_path: Path) -> None:
    trees = two_trees(tmp_path, {"a": "x", "b": "y"}, {"a": file("x", mode=0o600), "b": "other"})
    assert not lost_links(str(trees[1]), str(trees[0]))


# -- upper directories that began as a copy --------------------------------------------------------------------


def upper_stack(*paths: Path) -> Stack:
    """A whole tree, and upper directories of which each began as a copy of the last."""
    tree, first, *others = map(str, paths)
    layers = [Layer(0, Role.IMAGE, tree, accumulated=Accumulated(None, Sameness.INODE, is_tree=True))]
    layers.append(Layer(1, Role.INIT, first))
    for index, (below, path) in enumerate(zip([first, *others], others, strict=False), 2):
        layers.append(Layer(index, Role.UPPER, path, accumulated=Accumulated(below, Sameness.COPY, is_tree=False)))
    return Stack(tuple(layers), stack_of([], USER, follow_redirects=True).options)


def test_upper_directory_shows_only_what_came_after_the_copy(tmp_path: Path) -> None:
    tree, init = make_layers(
        tmp_path, {"etc/hosts": "image", "old": "x"}, {".dockerenv": "", "etc/hosts": ""}, family=USER
    )
    upper = tmp_path / "upper"
    shutil.copytree(init, upper)
    assert own_paths(upper_stack(tree, init, upper), 2) == {}
    (upper / ".dockerenv").unlink()  # the tree has no such name: the kernel leaves no whiteout
    (upper / "etc/hosts").write_text("written")
    (upper / "new").write_text("x")
    assert own_paths(upper_stack(tree, init, upper), 2) == {
        ".dockerenv": Kind.WHITEOUT, "etc": Kind.DIRECTORY, "etc/hosts": Kind.FILE, "new": Kind.FILE,
    }  # fmt: skip
    assert shown(upper_stack(tree, init, upper)) == {"etc": 2, "etc/hosts": 2, "old": 0, "new": 2}


def test_directory_made_anew_over_a_copied_one_has_only_what_came_after(tmp_path: Path) -> None:
    """The copy was removed, and the directory made again is opaque: nothing in it comes from the copy."""
    tree, init = make_layers(tmp_path, {"d/image": "x"}, {"d": directory(), "d/copied": "x"}, family=USER)
    upper = make_layer(tmp_path / "upper", {"d": OPAQUE, "d/copied": "x"}, USER)
    assert shown(upper_stack(tree, init, upper)) == {"d": 2, "d/copied": 2}


def test_mark_that_was_copied_hides_nothing_twice(tmp_path: Path) -> None:
    tree, first = make_layers(tmp_path, {"d/image": "x"}, {"d": OPAQUE, "d/kept": "x"}, family=USER)
    upper = tmp_path / "upper"
    shutil.copytree(first, upper)
    (upper / "d/new").write_text("x")
    assert shown(upper_stack(tree, first, upper)) == {"d": 2, "d/kept": 1, "d/new": 2}
