"""Directories that redirects show elsewhere: each file counts once, where it is seen or was seen last."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given

from layerscope.analysis.change import Change
from layerscope.analysis.inspect import Inspection, Wanted, inspect
from layerscope.model import Stack, Target, TargetKind, XattrFamily
from tests.kernel import stack_of
from tests.layers import WHITEOUT, Content, file, make_layers, redirect
from tests.random_layers import Drawn, contents_with_redirects, quick, stack_from

USER = XattrFamily.USER


def inspected(stack: Stack) -> Inspection:
    target = Target(TargetKind.MOUNT, None, "test", stack)
    return inspect(target, Wanted(changed_paths=True, hidden_paths=True), jobs=1)


def seen(work: Path, *contents: Content) -> tuple[Inspection, list[tuple[int, str, str]]]:
    """The inspection, and its hidden paths: layer, path, and ``reason layer``."""
    stack = stack_of(make_layers(work, *contents, family=USER), USER, follow_redirects=True, metacopy=True)
    found = inspected(stack)
    listed = []
    for path, version in found.hidden_paths or ():
        assert version.hidden_by is not None
        listed.append((version.layer, path, f"{version.hidden_by.reason} {version.hidden_by.layer}"))
    return found, listed


def test_files_of_a_renamed_directory_are_not_hidden(tmp_path: Path) -> None:
    found, listed = seen(tmp_path, {"old/f": "123"}, {"old": WHITEOUT, "new": redirect("old")})
    assert listed == []
    assert found.merged is not None
    assert (found.merged.files, found.merged.size_bytes) == (1, 3)
    assert found.totals[0] is not None
    assert (found.totals[0].size_bytes, found.totals[0].added) == (3, 2)


def test_directory_renamed_twice(tmp_path: Path) -> None:
    _, listed = seen(
        tmp_path,
        {"a/f": "1"},
        {"a": WHITEOUT, "b": redirect("a")},
        {"b": WHITEOUT, "c": redirect("b")},
        {"c/g": "2"},
    )
    assert listed == []


def test_renamed_and_then_deleted_counts_once_where_it_was_last(tmp_path: Path) -> None:
    found, listed = seen(
        tmp_path,
        {"a/f": "123"},
        {"a": WHITEOUT, "b": redirect("a")},
        {"b": WHITEOUT, "c": redirect("b")},
        {"c": WHITEOUT},
    )
    assert listed == [(0, "c/f", "whiteout 3")]
    assert found.hidden is not None
    assert sum(amount.size_bytes for amount in found.hidden.values()) == 3


def test_file_overwritten_after_the_rename(tmp_path: Path) -> None:
    _, listed = seen(
        tmp_path, {"a/f": "1", "a/g": "2"}, {"a": WHITEOUT, "b": redirect("a")}, {"b/f": "new", "b/g": WHITEOUT}
    )
    assert listed == [(0, "b/f", "overwritten 2"), (0, "b/g", "whiteout 2")]


def test_file_hidden_before_the_rename_stays_hidden_at_its_own_path(tmp_path: Path) -> None:
    found, listed = seen(tmp_path, {"a/f": "1"}, {"a/f": "22"}, {"a": WHITEOUT, "b": redirect("a")})
    assert [(layer, reason) for layer, _, reason in listed] == [(0, "overwritten 1")]
    assert found.merged is not None
    assert found.merged.size_bytes == 2


def test_copy_of_a_directory_that_is_also_at_its_own_place(tmp_path: Path) -> None:
    _, listed = seen(tmp_path, {"a/f": "1"}, {"b": redirect("/a")}, {"b": WHITEOUT})
    assert listed == [], "it still shows as a/f"


def test_renamed_metacopy_file_does_not_hide_its_data(tmp_path: Path) -> None:
    _, listed = seen(
        tmp_path, {"old": "1234"}, {"old": WHITEOUT, "new": file(hole=4, metacopy=b"", redirect=b"old")}
    )
    assert listed == []


@quick
@given(contents_with_redirects)
def test_listed_paths_are_what_the_totals_count(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        found = inspected(stack)
    assert found.hidden is not None
    assert found.hidden_paths is not None
    assert found.changed_paths is not None
    assert sum(amount.files for amount in found.hidden.values()) == len(found.hidden_paths)
    places = [(item.version.layer, item.version.source) for item in found.hidden_paths]
    assert len(places) == len(set(places)), "no file is listed twice"
    for totals, changed in zip(found.totals, found.changed_paths, strict=True):
        assert totals is not None
        for change in (Change.ADDED, Change.MODIFIED, Change.METADATA):
            assert getattr(totals, change) == sum(item.change is change for item in changed)
        assert totals.deleted == sum(item.change is Change.DELETED and item.hides > 0 for item in changed)
        assert totals.opaque == sum(item.version.entry.marks.opaque for item in changed)
