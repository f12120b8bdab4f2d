"""Data-only layers: curated cases, and the kernel is the judge of each."""

from __future__ import annotations

import errno

import pytest

from tests.kernel import can_mount
from tests.layers import FIFO, OPAQUE, WHITEOUT, Content, file, metacopy, redirect, symlink
from tests.overlay.conftest import Judge

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not can_mount(), reason="mounting overlayfs needs root"),
]

METACOPY = "metacopy=on"


def test_data_only_layer_gives_content_and_no_names(judge: Judge) -> None:
    verdict = judge({"f": metacopy(7, "/objects/1")}, data=[{"objects/1": "content", "objects/2": "other"}])
    assert verdict.paths == ["f"]


def test_first_data_only_layer_that_has_the_file_wins(judge: Judge) -> None:
    verdict = judge(
        {"f": metacopy(5, "/1"), "g": metacopy(6, "/2"), "d/h": metacopy(5, "/x/3")},
        data=[{"1": "first"}, {"1": "secnd", "2": "second"}, {"2": "third!", "x/3": "third"}],
    )
    assert verdict.paths == ["d", "d/h", "f", "g"]


def test_data_only_layer_with_something_else_than_a_file(judge: Judge) -> None:
    verdict = judge(
        {
            "link": metacopy(4, "/a"),
            "dir": metacopy(4, "/b"),
            "fifo": metacopy(4, "/c"),
            "through": metacopy(4, "/l/d"),
        },
        data=[{"a": symlink("real"), "real": "1234", "b/x": "", "c": FIFO, "l": symlink("m"), "m/d": "1234"}],
    )
    assert verdict.paths == ["dir", "fifo", "link", "through"]
    assert all(isinstance(verdict.seen(path).content, int) for path in verdict.paths)


def test_later_data_only_layer_stands_in_for_something_else_than_a_file(judge: Judge) -> None:
    verdict = judge({"f": metacopy(4, "/a")}, data=[{"a/x": ""}, {"a": "1234"}])
    assert verdict.paths == ["f"]


@pytest.mark.parametrize("path", ["/d/../a", "/./a", "/../a", "/d/../../data0/a", "/none/../a", "/a/..", "/l/../a"])
def test_path_upwards_stays_in_its_data_only_layer(judge: Judge, path: str) -> None:
    verdict = judge({"f": metacopy(4, path)}, data=[{"a": "1234", "d/x": "", "l": symlink("d")}])
    assert verdict.paths == ["f"]


def test_whiteout_in_a_data_only_layer_is_no_whiteout(judge: Judge) -> None:
    judge(
        {"f": metacopy(4, "/a"), "g": metacopy(4, "/b")},
        data=[{"a": WHITEOUT, "b": file(whiteout=b"")}, {"a": "1234"}],
    )


def test_metacopy_without_its_data_only_file(judge: Judge) -> None:
    verdict = judge(
        {"f": metacopy(7, "/nowhere"), "g": metacopy(7, "sibling"), "h": metacopy(7)}, data=[{"sibling": "content"}]
    )
    assert verdict.seen("f").content == errno.ENOENT, "it is missed only when the file is opened"
    assert set(verdict.errors) == {"g", "h"}


def test_data_only_content_through_several_layers(judge: Judge) -> None:
    verdict = judge(
        {"f": metacopy(7, "/1"), "d/g": metacopy(7, "/1")},
        {"f": metacopy(7, mode=0o600)},
        {"d": redirect("/d"), "e": redirect("/d"), "d/g": WHITEOUT},
        data=[{"1": "content"}],
        extra=METACOPY,
        metacopy=True,
    )
    assert verdict.seen("f").mode == 0o600


def test_ordinary_layers_above_data_only_ones(judge: Judge) -> None:
    verdict = judge(
        {"f": metacopy(7, "/1"), "g": "1", "d/x": "2"},
        {"f": WHITEOUT, "g": "new", "d": OPAQUE},
        {"f": "again"},
        data=[{"1": "content", "d/y": "3"}],
    )
    assert verdict.paths == ["d", "f", "g"]
    assert verdict.text("f") == "again"


def test_layer_between_a_metacopy_file_and_its_data_only_layer(judge: Judge) -> None:
    layers: list[Content] = [{}, {"f": metacopy(7, "/1")}]
    assert judge(*layers, data=[{"1": "content"}]).errors == {"f": "EPERM"}


def test_layer_between_a_metacopy_file_and_its_data_only_layer_with_metacopy_on(judge: Judge) -> None:
    layers: list[Content] = [{}, {"f": metacopy(7, "/1")}]
    assert judge(*layers, data=[{"1": "content"}], extra=METACOPY, metacopy=True).paths == ["f"]
