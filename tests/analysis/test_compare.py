"""What counts as a difference between two trees. Whether `docker diff` says the same is asked of an engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given

from layerscope.analysis.compare import Difference, DiffKind, compare, stat_different
from layerscope.model import Cautions, Stack
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import Version
from layerscope.overlay.walk import Walker
from tests.kernel import stack_of
from tests.layers import (
    DIRECTORY,
    FIFO,
    OPAQUE,
    SOCKET,
    WHITEOUT,
    Content,
    HardLink,
    Node,
    character,
    directory,
    file,
    make_layers,
    symlink,
    walk,
)
from tests.random_layers import USER, Drawn, contents, contents_with_redirects, quick, stack_from

LETTERS = {"added": "A", "modified": "C", "deleted": "D", None: "-"}


def differences(old: Stack, new: Stack) -> list[Difference]:
    cautions = Cautions()
    found = compare(Walker(old, cautions), Walker(new, cautions), cautions)
    assert list(cautions) == []
    return found


def short(found: Sequence[Difference]) -> list[str]:
    """``C d/f``, and for files `=` (same content) or `!` (other content)."""
    content = {True: "!", False: "=", None: ""}
    return [f"{LETTERS[d.change]}{content[d.content_changed]} {d.path}" for d in found]


def diff(work: Path, base: Content, *upper: Content) -> list[str]:
    """What upper layers change."""
    stack = stack_of(make_layers(work, base, *upper, family=USER), USER, follow_redirects=True, metacopy=True)
    return short(differences(stack.up_to(0), stack))


# -- what happened -------------------------------------------------------------------------------------------


def test_added_changed_deleted_and_the_directories_they_lie_in(tmp_path: Path) -> None:
    assert diff(
        tmp_path,
        {"a/b/old": "1", "a/b/gone": "2", "a/c/same": "3", "z": "4"},
        {"a/b/old": "changed", "a/b/gone": WHITEOUT, "a/n/new": "5", "z": WHITEOUT},
    ) == ["C a", "C a/b", "D a/b/gone", "C! a/b/old", "A a/n", "A! a/n/new", "D z"]


def test_what_lay_in_a_deleted_directory_is_not_listed(tmp_path: Path) -> None:
    assert diff(tmp_path, {"d/e/f": "1", "d/g": "2"}, {"d": WHITEOUT}) == ["D d"]


def test_directory_that_became_something_else(tmp_path: Path) -> None:
    assert diff(tmp_path, {"d/e/f": "1"}, {"d": "file"}) == ["C! d"]
    assert diff(tmp_path / "2", {"d/e": "1"}, {"d": symlink("x")}) == ["C d"]


def test_something_else_that_became_a_directory(tmp_path: Path) -> None:
    assert diff(tmp_path, {"d": "file"}, {"d/e": "1"}) == ["C d", "A! d/e"]


def test_directory_deleted_and_made_again(tmp_path: Path) -> None:
    found = diff(tmp_path, {"d/old": "1", "d/same": "2"}, {"d": WHITEOUT}, {"d/same": "2", "d/new": "3"})
    assert found == ["C d", "A! d/new", "D d/old", "-= d/same"]


def test_opaque_directory_with_the_same_names(tmp_path: Path) -> None:
    assert diff(tmp_path, {"d/x": "1"}, {"d": OPAQUE, "d/x": "1"}) == ["-= d/x"]


def test_whiteout_of_nothing_and_empty_layers_change_nothing(tmp_path: Path) -> None:
    assert diff(tmp_path, {"a": "1"}, {"no": WHITEOUT}, {}) == []


def test_deleted_and_made_again_the_same(tmp_path: Path) -> None:
    assert diff(tmp_path, {"a": "1"}, {"a": WHITEOUT}, {"a": "1"}) == ["-= a"]


def test_renamed_directory_is_one_deleted_and_one_added(tmp_path: Path) -> None:
    found = diff(tmp_path, {"old/f": "1"}, {"old": WHITEOUT, "new": directory(redirect=b"old")})
    assert found == ["A new", "A! new/f", "D old"]


# -- what counts as a change ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (file("same"), file("same"), "-="),
        (file("same"), file("SAME"), "-!"),
        (file("same"), file("longer"), "C!"),
        (file("same"), file("same", mtime=1), "C="),
        (file("same"), file("same", mode=0o600), "C="),
        (file("same"), file("same", xattrs={"user.x": b"1"}), "-="),
        (file("same"), file(hole=4, metacopy=b""), "-="),
        (symlink("a"), symlink("a"), "-"),
        (symlink("a"), symlink("longer"), "C"),
        (symlink("a"), symlink("b"), "-"),
        (symlink("a"), file("a"), "C!"),
        (DIRECTORY, directory(mode=0o700), "C"),
        (FIFO, Node(FIFO.format, mtime=1), "C"),
        (SOCKET, Node(SOCKET.format, mtime=1), "-"),
        (FIFO, file(""), "C!"),
    ],
)
def test_second_version(tmp_path: Path, lower: Node, upper: Node, expected: str) -> None:
    assert diff(tmp_path, {"p": lower}, {"p": upper}) == [f"{expected} p"]


@pytest.mark.parametrize("upper", [directory(mtime=1), directory(xattrs={"user.x": b"1"}), OPAQUE])
def test_time_and_xattrs_of_a_directory_are_no_change(tmp_path: Path, upper: Node) -> None:
    assert diff(tmp_path, {"p": DIRECTORY}, {"p": upper}) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        (file("x"), file("x", owner=(1, 0)), "C="),
        (file("x"), file("x", owner=(0, 1)), "C="),
        (DIRECTORY, directory(owner=(1, 1)), "C"),
        (character(1, 3), character(1, 3), "-"),
        (character(1, 3), character(1, 5), "C"),
        (file("x"), file("x", xattrs={"security.capability": b"\1\0\0\2" + bytes(16)}), "C="),
    ],
)
def test_second_version_of_what_only_root_makes(tmp_path: Path, lower: Node, upper: Node, expected: str) -> None:
    assert diff(tmp_path, {"p": lower}, {"p": upper}) == [f"{expected} p"]


@pytest.mark.parametrize(
    ("one", "other", "changed"),
    [
        (5_000_000_000, 5_000_000_000, False),
        (5_000_000_000, 5_999_999_999, False),
        (5_000_000_001, 5_000_000_002, True),
        (5_999_999_999, 6_000_000_000, True),
        (0, -1, True),
    ],
)
def test_time_without_fraction_equals_the_whole_second(tmp_path: Path, one: int, other: int, changed: bool) -> None:
    layers = make_layers(tmp_path, {"f": "x"}, {"f": "x"})
    os.utime(layers[0] / "f", ns=(one, one))
    os.utime(layers[1] / "f", ns=(other, other))
    stack = stack_of(layers)
    for old, new in ((stack.up_to(0), stack), (stack_of(layers[1:]), stack_of(layers[:1]))):
        assert short(differences(old, new)) == [f"{'C' if changed else '-'}= f"]


def test_change_of_a_hard_link_is_a_change_of_that_name_only(tmp_path: Path) -> None:
    assert diff(tmp_path, {"a": "1", "b": HardLink("a")}, {"b": "2", "c": HardLink("b")}) == ["-! b", "A! c"]


def test_sizes_and_kinds(tmp_path: Path) -> None:
    stack = stack_of(make_layers(tmp_path, {"gone": "12345", "d/x": ""}, {"gone": WHITEOUT, "d/n": "12"}))
    found = {d.path: (d.kind, d.size_bytes) for d in differences(stack.up_to(0), stack)}
    assert found == {"gone": (Kind.FILE, 5), "d": (Kind.DIRECTORY, None), "d/n": (Kind.FILE, 2)}


# -- any two trees -------------------------------------------------------------------------------------------


def test_trees_without_a_common_layer(tmp_path: Path) -> None:
    base = make_layers(tmp_path / "a", {"same": "1", "old": "2", "d/x": "3"}, {"d/y": "4"})
    other = make_layers(tmp_path / "b", {"d/y": "4", "same": "1"}, {"new": "5"}, {"d/x": "other"})
    assert short(differences(stack_of(base), stack_of(other))) == [
        "C d", "C! d/x", "-= d/y", "A! new", "D old", "-= same",
    ]  # fmt: skip


def test_order_of_layers_matters(tmp_path: Path) -> None:
    one, other = make_layers(tmp_path, {"f": "first", "a": "1"}, {"f": "second", "b": "2"})
    assert short(differences(stack_of([one, other]), stack_of([other, one]))) == ["C! f"]


def test_stack_without_layers_is_an_empty_tree(tmp_path: Path) -> None:
    full = stack_of(make_layers(tmp_path, {"d/f": "1"}))
    empty = stack_of([])
    assert short(differences(empty, full)) == ["A d", "A! d/f"]
    assert short(differences(full, empty)) == ["D d"]
    assert differences(empty, empty) == []


def brute_force(old: Stack, new: Stack) -> set[tuple[str, DiffKind | None]]:
    """The same rules, over two whole trees, without what is only copied up."""
    before, after = ({v.path: v.visible for v in walk(stack) if v.visible is not None} for stack in (old, new))
    found = {path: _change(before.get(path), version) for path, version in after.items()}
    for path in before:
        parent = path.rpartition("/")[0]
        holds = after.get(parent)
        if path not in after and (not parent or (holds is not None and holds.entry.is_directory)):
            found[path] = DiffKind.DELETED
    for path in [path for path, change in found.items() if change is not None]:
        while path := path.rpartition("/")[0]:
            found[path] = found[path] or DiffKind.MODIFIED
    return {(path, change) for path, change in found.items() if change is not None}


def _change(old: Version | None, new: Version) -> DiffKind | None:
    if old is None:
        return DiffKind.ADDED
    return DiffKind.MODIFIED if stat_different(old.entry, new.entry) else None


@quick
@given(contents_with_redirects)
def test_looking_only_where_layers_differ_finds_what_a_walk_of_both_trees_finds(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        for height in range(len(stack)):
            for old, new in ((stack.up_to(height), stack), (stack, stack.up_to(height))):
                found = {(d.path, d.change) for d in differences(old, new) if d.change is not None}
                assert found == brute_force(old, new)


@quick
@given(contents, contents)
def test_any_two_stacks(layers: list[Drawn], others: list[Drawn]) -> None:
    with stack_from(layers) as old, stack_from(others) as new:
        found = {(d.path, d.change) for d in differences(old, new) if d.change is not None}
        assert found == brute_force(old, new)
        assert differences(old, old) == []
