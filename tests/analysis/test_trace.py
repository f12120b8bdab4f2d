"""The history of one path: each kind of event, and what the path's name may lead to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from layerscope.analysis.trace import follow, history, in_layer, locate, refuse_directory
from layerscope.errors import PathNotFoundError
from layerscope.model import Stack, XattrFamily
from layerscope.overlay.walk import Walker
from tests.kernel import stack_of
from tests.layers import (
    DIRECTORY,
    FIFO,
    OPAQUE,
    WHITEOUT,
    Content,
    Node,
    character,
    directory,
    file,
    make_layers,
    symlink,
)

USER = XattrFamily.USER


def stack(work: Path, *contents: Content) -> Stack:
    return stack_of(make_layers(work, *contents, family=USER), USER, follow_redirects=True, metacopy=True)


def events(work: Path, path: str, *contents: Content) -> list[tuple[int, str]]:
    """Layer and event, base first."""
    walker = Walker(stack(work, *contents))
    return [(event.layer, event.kind.value) for event in history(walker, locate(walker, path))]


# -- events --------------------------------------------------------------------------------------------------


def test_file_added_changed_deleted_and_made_again(tmp_path: Path) -> None:
    layers: list[Content] = [{"x": ""}, {"f": "one"}, {"f": "two2"}, {}, {"f": WHITEOUT}, {}, {"f": "again"}]
    assert events(tmp_path, "f", *layers) == [(1, "added"), (2, "modified"), (4, "deleted"), (6, "added")]


@pytest.mark.parametrize(
    ("upper", "event"),
    [
        (file("same"), "unchanged"),
        (file("same", mtime=1), "metadata"),
        (file("same", mode=0o600), "metadata"),
        (file("same", xattrs={"user.x": b"1"}), "metadata"),
        (file("SAME"), "modified"),
        (file("longer"), "modified"),
        (file("sam\0"), "modified"),
        (file("", hole=4), "modified"),
        (symlink("same"), "modified"),
        (FIFO, "modified"),
        (DIRECTORY, "modified"),
        (file(hole=4, metacopy=b""), "unchanged"),
        (file(hole=4, mode=0o700, metacopy=b""), "metadata"),
    ],
)
def test_second_version_of_a_file(tmp_path: Path, upper: Node, event: str) -> None:
    assert events(tmp_path, "f", {"f": "same"}, {"f": upper}) == [(0, "added"), (1, event)]


@pytest.mark.parametrize(
    ("lower", "upper", "event"),
    [
        (symlink("a"), symlink("a"), "unchanged"),
        (symlink("a"), symlink("b"), "modified"),
        (symlink("a"), file("a"), "modified"),
        (DIRECTORY, DIRECTORY, "unchanged"),
        (DIRECTORY, directory(mtime=1), "unchanged"),
        (directory(mode=0o755), directory(mode=0o700), "metadata"),
        (DIRECTORY, directory(xattrs={"user.x": b"1"}), "metadata"),
        (DIRECTORY, file("x"), "modified"),
        (FIFO, FIFO, "unchanged"),
    ],
)
def test_second_version_of_other_types(tmp_path: Path, lower: Node, upper: Node, event: str) -> None:
    assert events(tmp_path, "p", {"p": lower}, {"p": upper})[-1] == (1, event)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
@pytest.mark.parametrize("node", [file("x", owner=(1, 0)), file("x", owner=(0, 1)), directory(owner=(0, 1))])
def test_other_owner(tmp_path: Path, node: Node) -> None:
    before = replace(node, owner=(0, 0))
    assert events(tmp_path, "p", {"p": before}, {"p": node}, {"p": node}) == [
        (0, "added"), (1, "metadata"), (2, "unchanged"),
    ]  # fmt: skip


def test_directory_that_is_opaque_stands_on_what_it_hides(tmp_path: Path) -> None:
    made = events(tmp_path, "d", {"d/x": ""}, {"d": OPAQUE}, {"d/y": ""})
    assert made == [(0, "added"), (1, "unchanged"), (2, "unchanged")]


def test_path_deleted_with_a_directory_above_it(tmp_path: Path) -> None:
    walker = Walker(stack(tmp_path, {"a/b/c": "1"}, {}, {"a": WHITEOUT}, {"a/b/c": "2"}))
    found = history(walker, locate(walker, "a/b/c"))
    assert [(event.layer, event.kind.value) for event in found] == [(0, "added"), (2, "deleted"), (3, "added")]
    assert found[1].version is None
    assert found[1].hider is not None
    assert (found[1].hider.reason, found[1].hider.path) == ("whiteout", "a")


@pytest.mark.parametrize(("above", "reason"), [(OPAQUE, "opaque"), (file("x"), "replaced"), (FIFO, "replaced")])
def test_path_that_goes_with_its_directory(tmp_path: Path, above: Node, reason: str) -> None:
    walker = Walker(stack(tmp_path, {"d/f": "1"}, {"d/f": "2"}, {"d": above}))
    found = history(walker, locate(walker, "d/f"))
    assert [(event.layer, event.kind.value) for event in found] == [(0, "added"), (1, "modified"), (2, "deleted")]
    assert found[2].hider is not None
    assert (found[2].hider.reason, found[2].hider.path) == (reason, "d")


def test_whiteout_of_nothing_is_no_event_of_deletion(tmp_path: Path) -> None:
    assert events(tmp_path, "f", {"x": ""}, {"f": WHITEOUT}, {"f": "1"}) == [(1, "unchanged"), (2, "added")]


def test_second_whiteout_deletes_nothing_more(tmp_path: Path) -> None:
    made = events(tmp_path, "f", {"f": "1"}, {"f": WHITEOUT}, {"f": WHITEOUT})
    assert made == [(0, "added"), (1, "deleted"), (2, "unchanged")]


def test_directory_replaced_by_file_and_back(tmp_path: Path) -> None:
    made = events(tmp_path, "p/x", {"p/x": "1"}, {"p": "file"}, {"p/x": "2"})
    assert made == [(0, "added"), (1, "deleted"), (2, "added")]
    assert events(tmp_path / "2", "p", {"p/x": "1"}, {"p": "file"}, {"p/x": "2"}) == [
        (0, "added"), (1, "modified"), (2, "modified"),
    ]  # fmt: skip


def test_device_number_is_content(tmp_path: Path) -> None:
    try:
        made = events(tmp_path, "n", {"n": character(1, 3)}, {"n": character(1, 5)}, {"n": character(1, 5)})
    except PermissionError:
        pytest.skip("making devices needs root")
    assert made == [(0, "added"), (1, "modified"), (2, "unchanged")]


def test_renamed_directory_brings_its_files_along(tmp_path: Path) -> None:
    layers: list[Content] = [
        {"old/f": "1"}, {"old": WHITEOUT, "new": directory(redirect=b"old")}, {"new/f": "2"},
    ]  # fmt: skip
    walker = Walker(stack(tmp_path, *layers))
    found = history(walker, locate(walker, "new/f"))
    assert [(event.layer, event.kind.value) for event in found] == [(0, "unchanged"), (2, "modified")]
    assert found[0].version is not None
    assert found[0].version.source == "old/f"
    away = [(event.layer, event.kind.value) for event in history(walker, locate(walker, "old/f"))]
    assert away == [(0, "added"), (1, "deleted")]


# -- paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/etc/passwd", "etc/passwd", "./etc//passwd", "etc/./passwd/", "//etc/passwd"])
def test_path_is_taken_from_the_images_root(tmp_path: Path, path: str) -> None:
    assert locate(Walker(stack(tmp_path, {"etc/passwd": "x"})), path).path == "etc/passwd"


@pytest.mark.parametrize("path", ["..", "etc/../etc/passwd", "/../../etc/passwd", "", "/", "."])
def test_path_that_leads_upwards_or_nowhere_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(PathNotFoundError):
        locate(Walker(stack(tmp_path, {"etc/passwd": "x"})), path)


@pytest.mark.parametrize("path", ["no", "etc/no", "etc/passwd/no", "link/passwd", "etc/" + "x" * 300])
def test_path_that_no_layer_has(tmp_path: Path, path: str) -> None:
    with pytest.raises(PathNotFoundError) as refused:
        locate(Walker(stack(tmp_path, {"etc/passwd": "x", "link": symlink("etc")})), path)
    assert refused.value.hint


def test_symlinks_resolve_inside_the_image(tmp_path: Path) -> None:
    walker = Walker(
        stack(
            tmp_path,
            {"etc/passwd": "image's own", "a/abs": symlink("/etc/passwd"), "a/rel": symlink("../etc/passwd")},
            {"a/up": symlink("../../../../etc/passwd"), "dir": symlink("a"), "chain": symlink("dir/abs")},
        )
    )
    for path in ("etc/passwd", "a/abs", "a/rel", "a/up", "dir/rel", "chain"):
        assert follow(walker, path).path == "etc/passwd"


@pytest.mark.parametrize("target", ["loop", "/loop", "./loop", "other"])
def test_symlinks_in_a_circle_end(tmp_path: Path, target: str) -> None:
    walker = Walker(stack(tmp_path, {"loop": symlink(target), "other": symlink("loop")}))
    with pytest.raises(PathNotFoundError):
        follow(walker, "loop")


def test_following_to_a_deleted_path_names_the_layer_that_still_has_it(tmp_path: Path) -> None:
    walker = Walker(stack(tmp_path, {"f": "1"}, {"link": symlink("f")}, {"f": WHITEOUT}))
    with pytest.raises(PathNotFoundError) as refused:
        follow(walker, "link")
    assert "hidden by layer 2" in refused.value.message
    assert "--layer 0" in str(refused.value.hint)


def test_version_of_a_layer(tmp_path: Path) -> None:
    walker = Walker(stack(tmp_path, {"f": "1", "d/x": ""}, {"f": "2"}, {"f": WHITEOUT}))
    versions = locate(walker, "f")
    assert in_layer(versions, 0).entry.stat.st_size == 1
    for layer in (2, 3, 99):
        with pytest.raises(PathNotFoundError) as refused:
            in_layer(versions, layer)
        assert "1, 0" in str(refused.value.hint)
    directories = locate(walker, "d")
    with pytest.raises(PathNotFoundError):
        refuse_directory(directories, in_layer(directories, 0))
