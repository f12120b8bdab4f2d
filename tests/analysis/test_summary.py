"""The totals of a stack: what each layer did, what is hidden, by what and whose; each inode once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given

from layerscope.analysis.summary import count_layers, summarize
from layerscope.analysis.totals import LayerTotals, Summary
from layerscope.model import XattrFamily
from layerscope.overlay.resolve import Reason
from layerscope.overlay.walk import Walker
from tests.kernel import stack_of
from tests.layers import (
    DIRECTORY,
    FIFO,
    OPAQUE,
    WHITEOUT,
    Content,
    HardLink,
    directory,
    file,
    make_layers,
    symlink,
)
from tests.random_layers import Drawn, contents, quick, stack_from

USER = XattrFamily.USER


def totals(work: Path, *contents: Content, metacopy: bool = True) -> Summary:
    stack = stack_of(make_layers(work, *contents, family=USER), USER, follow_redirects=True, metacopy=metacopy)
    return summarize(Walker(stack), jobs=1)


def counts(layer: LayerTotals) -> dict[str, int]:
    """The counts that are not zero."""
    named = ("added", "modified", "metadata", "deleted", "opaque")
    return {name: getattr(layer, name) for name in named if getattr(layer, name)}


def reasons(found: Summary) -> dict[str, tuple[int, int]]:
    """Files and bytes by reason, where there are any."""
    return {r.value: (a.files, a.size_bytes) for r, a in found.hidden.items() if a.files or a.size_bytes}


# -- what layers did -----------------------------------------------------------------------------------------


def test_counts_of_each_layer(tmp_path: Path) -> None:
    found = totals(
        tmp_path,
        {"d/a": "1", "d/b": "2", "d/c": "3", "l": symlink("d"), "p": FIFO},
        {"d/a": "changed", "d/b": file("2", mode=0o600), "d/c": WHITEOUT, "d/new": "4"},
        {"d": OPAQUE, "e": directory(mode=0o700), "l": symlink("e")},
        {"e": directory(mode=0o711), "nothing": WHITEOUT, "d": DIRECTORY},
    )
    assert [counts(layer) for layer in found.layers] == [
        {"added": 6},
        {"modified": 1, "metadata": 1, "deleted": 1, "added": 1},
        {"opaque": 1, "added": 1, "modified": 1},
        {"metadata": 1},
    ]


def test_only_whiteouts_that_hide_something_are_deletions(tmp_path: Path) -> None:
    found = totals(tmp_path, {"a": "1"}, {"a": WHITEOUT, "b": WHITEOUT}, {"a": WHITEOUT}, {"c/d": WHITEOUT})
    assert [layer.deleted for layer in found.layers] == [0, 1, 0, 0]


def test_path_made_again_is_added_again(tmp_path: Path) -> None:
    found = totals(tmp_path, {"a": "1"}, {"a": WHITEOUT}, {"a": "2"})
    assert [counts(layer) for layer in found.layers] == [{"added": 1}, {"deleted": 1}, {"added": 1}]


# -- what is hidden, and why ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upper", "reason"),
    [
        ({"d": WHITEOUT}, "whiteout"),
        ({"d/x": WHITEOUT, "d/e": WHITEOUT}, "whiteout"),
        ({"d": OPAQUE}, "opaque"),
        ({"d": "file"}, "replaced"),
        ({"d": symlink("x")}, "replaced"),
        ({"d/x": "other", "d/e/y": "other"}, "overwritten"),
        ({"d/x": symlink("y"), "d/e/y": FIFO}, "overwritten"),
        ({"d/x/deep": "", "d/e/y/deep": ""}, "replaced"),
    ],
)
def test_reason(tmp_path: Path, upper: Content, reason: str) -> None:
    found = totals(tmp_path, {"d/x": "123", "d/e/y": "4567"}, upper)
    assert reasons(found) == {reason: (2, 7)}
    assert (found.layers[0].hidden.files, found.layers[0].hidden.size_bytes) == (2, 7)
    hides = found.layers[1].hides
    assert hides is not None
    assert (hides.files, hides.size_bytes) == (2, 7)


def test_hidden_files_count_for_the_layer_that_hid_them_first(tmp_path: Path) -> None:
    found = totals(tmp_path, {"d/x": "123"}, {"d/x": "45"}, {"d": WHITEOUT}, {"d": "f"})
    assert reasons(found) == {"overwritten": (1, 3), "whiteout": (1, 2)}
    assert [layer.hides.files for layer in found.layers if layer.hides] == [0, 1, 1, 0]
    assert [layer.hidden.size_bytes for layer in found.layers] == [3, 2, 0, 0]


def test_refused_paths_have_a_reason_of_their_own(tmp_path: Path) -> None:
    found = totals(tmp_path, {"f": "1234567"}, {"f": file(hole=7, metacopy=b"")}, metacopy=False)
    assert reasons(found) == {"unreadable": (1, 7), "overwritten": (1, 7)}
    assert found.merged.files == 0


def test_metacopy_file_shares_its_data_with_the_one_below(tmp_path: Path) -> None:
    found = totals(tmp_path, {"f": "1234567"}, {"f": file(hole=7, mode=0o600, metacopy=b"")})
    assert reasons(found) == {}
    assert (found.merged.files, found.merged.size_bytes) == (1, 7)
    assert counts(found.layers[1]) == {"metadata": 1}


def test_every_reason_is_in_the_answer(tmp_path: Path) -> None:
    assert list(totals(tmp_path, {}).hidden) == list(Reason)


# -- inodes --------------------------------------------------------------------------------------------------


def test_hard_links_count_once_a_layer(tmp_path: Path) -> None:
    found = totals(tmp_path, {"a": "12345", "b": HardLink("a"), "d/c": HardLink("a")}, {"e": "12345"})
    assert [layer.size_bytes for layer in found.layers] == [5, 5]
    assert (found.merged.files, found.merged.size_bytes) == (4, 10)
    assert found.layers[0].allocated_bytes == 4096 * 3, "two directories and one file"


def test_hard_link_is_hidden_when_its_last_name_is(tmp_path: Path) -> None:
    base: Content = {"a": "12345", "b": HardLink("a"), "c": HardLink("a")}
    found = totals(tmp_path / "1", base, {"a": WHITEOUT, "b": "new"})
    assert reasons(found) == {"whiteout": (1, 0), "overwritten": (1, 0)}
    assert found.merged.size_bytes == 5 + 3
    found = totals(tmp_path / "2", base, {"a": WHITEOUT, "b": WHITEOUT, "c": WHITEOUT})
    assert reasons(found) == {"whiteout": (3, 5)}
    assert found.merged.size_bytes == 0


def test_hard_link_with_names_outside_of_the_layer(tmp_path: Path) -> None:
    (layer,) = make_layers(tmp_path, {"a": "12345"})
    (tmp_path / "outside").hardlink_to(layer / "a")
    found = summarize(Walker(stack_of([layer])), jobs=1)
    assert (found.layers[0].size_bytes, found.merged.size_bytes) == (5, 5)
    assert found.links == {}


def test_shared_whiteouts_hide_all_their_names_and_weigh_nothing(tmp_path: Path) -> None:
    found = totals(tmp_path, {"a": "1", "b": "22"}, {"a": WHITEOUT, "b": HardLink("a"), "c": HardLink("a")})
    assert counts(found.layers[1]) == {"deleted": 2}
    assert found.layers[1].size_bytes == 0
    assert reasons(found) == {"whiteout": (2, 3)}


def test_sparse_files_have_two_sizes(tmp_path: Path) -> None:
    found = totals(tmp_path, {"big": file(b"x", hole=1 << 30)})
    assert found.layers[0].size_bytes == found.merged.size_bytes == (1 << 30) + 1
    assert found.layers[0].allocated_bytes < 1 << 20


def test_symlinks_weigh_their_target_and_directories_nothing(tmp_path: Path) -> None:
    found = totals(tmp_path, {"l": symlink("12345"), "d": DIRECTORY, "e/f": ""})
    assert found.layers[0].size_bytes == 5
    assert (found.merged.files, found.merged.directories, found.merged.symlinks) == (1, 2, 1)


def test_stack_of_nothing(tmp_path: Path) -> None:
    found = totals(tmp_path)
    assert found.layers == []
    assert found.merged.size_bytes == 0


# -- some layers only ----------------------------------------------------------------------------------------


@quick
@given(contents)
def test_top_layers_counted_alone_have_the_same_totals(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        whole = summarize(Walker(stack), jobs=1)
        own = range(max(0, len(stack) - 2), len(stack))
        alone = count_layers(Walker(stack), own)
    for index in own:
        expected = whole.layers[index]
        expected.hides = None
        assert alone[index] == expected
