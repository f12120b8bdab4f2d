"""Renamed directories and metacopy files: curated cases, and the kernel is the judge of each."""

from __future__ import annotations

import pytest

from layerscope.analysis.summary import summarize
from layerscope.model import XattrFamily
from layerscope.overlay.resolve import Reason
from layerscope.overlay.walk import Walker
from tests.kernel import can_mount
from tests.layers import (
    DIRECTORY,
    FIFO,
    OPAQUE,
    WHITEOUT,
    Content,
    Node,
    directory,
    file,
    hidden,
    metacopy,
    redirect,
    symlink,
)
from tests.overlay.conftest import Judge

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not can_mount(), reason="mounting overlayfs needs root"),
]

METACOPY = "metacopy=on"


# -- redirects -----------------------------------------------------------------------------------------------


def test_relative_redirect_shows_the_sibling(judge: Judge) -> None:
    verdict = judge({"d/old/a": "1"}, {"d/old": WHITEOUT, "d/new": redirect("old"), "d/new/b": "2"})
    assert verdict.paths == ["d", "d/new", "d/new/a", "d/new/b"]


def test_absolute_redirect_shows_a_directory_from_anywhere(judge: Judge) -> None:
    verdict = judge({"x/y/a": "1"}, {"x/y": WHITEOUT, "new/deep": redirect("/x/y")})
    assert verdict.paths == ["new", "new/deep", "new/deep/a", "x"]


def test_redirects_in_a_chain_of_layers(judge: Judge) -> None:
    verdict = judge(
        {"a/one": "1"},
        {"a": WHITEOUT, "b": redirect("a"), "b/two": "2"},
        {"b": WHITEOUT, "c": redirect("/b"), "c/three": "3"},
        {"c": WHITEOUT, "d": redirect("c"), "d/four": "4"},
    )
    assert verdict.paths == ["d", "d/four", "d/one", "d/three", "d/two"]


def test_redirect_of_a_directory_above_rewrites_the_path_below(judge: Judge) -> None:
    verdict = judge(
        {"a/s/one": "1", "a/t/two": "2"},
        {"a": WHITEOUT, "b": redirect("a"), "b/s": WHITEOUT, "b/u": redirect("s")},
        {"x": redirect("/b/u"), "y": redirect("/b/t"), "b/t": WHITEOUT},
    )
    assert "x/one" in verdict.paths
    assert "y/two" in verdict.paths


def test_absolute_redirect_leads_around_an_opaque_parent(judge: Judge) -> None:
    verdict = judge({"a/deep/one": "1"}, {"p": OPAQUE, "p/q": redirect("/a/deep")}, {"p/q/two": "2"})
    assert verdict.paths == ["a", "a/deep", "a/deep/one", "p", "p/q", "p/q/one", "p/q/two"]


def test_redirect_to_what_its_own_layer_deletes_shows_what_is_below(judge: Judge) -> None:
    verdict = judge({"a/one": "1"}, {"a": WHITEOUT}, {"b": redirect("/a")})
    assert verdict.paths == ["b"], "the whiteout lies between the redirect and its target"


@pytest.mark.parametrize("target", ["nowhere", "/nowhere", "/no/where", "/a/b/c/d"])
def test_redirect_to_a_missing_path_shows_the_directory_alone(judge: Judge, target: str) -> None:
    assert judge({"a/x": "1"}, {"d": redirect(target), "d/y": "2"}).paths == ["a", "a/x", "d", "d/y"]


@pytest.mark.parametrize("below", [file("1"), symlink("a"), FIFO], ids=["file", "symlink", "fifo"])
def test_redirect_to_what_is_no_directory_shows_the_directory_alone(judge: Judge, below: Node) -> None:
    assert judge({"a": below}, {"d": redirect("a"), "e": redirect("/a/b")}).paths == ["a", "d", "e"]


def test_redirect_does_not_go_through_symlinks(judge: Judge) -> None:
    verdict = judge({"real/in/x": "1", "link": symlink("real")}, {"d": redirect("/link/in"), "e": redirect("link")})
    assert verdict.paths == ["d", "e", "link", "real", "real/in", "real/in/x"]


@pytest.mark.parametrize("way", [file("1"), symlink("c"), metacopy(1), OPAQUE, WHITEOUT])
def test_redirect_ends_at_what_is_no_merged_directory_on_its_way(judge: Judge, way: Node) -> None:
    layers: list[Content] = [{"a/b/x": "1", "c/b/y": "2"}, {"a": way}, {"d": redirect("/a/b")}]
    assert "d/x" not in judge(*layers, extra=METACOPY, metacopy=True).paths


def test_renamed_directory_replaces_the_one_that_was_there(judge: Judge) -> None:
    verdict = judge({"a/x": "1", "b/y": "2"}, {"a": redirect("b"), "b": WHITEOUT})
    assert verdict.paths == ["a", "a/y"]
    assert hidden(verdict.stack)["a/x", 0] == (1, "replaced", "a")


def test_redirects_lead_back_to_what_another_redirect_had_replaced(judge: Judge) -> None:
    verdict = judge(
        {"a/x": "1", "b/y": "2"},
        {"a": redirect("b"), "b": WHITEOUT, "c": redirect("/a")},
        {"a": redirect("/c"), "c": WHITEOUT},
        extra="redirect_dir=on",
    )
    assert verdict.paths == ["a", "a/x"]
    found = summarize(Walker(verdict.stack), jobs=1)
    assert (found.merged.files, found.hidden[Reason.REPLACED].files) == (1, 1), "b/y is hidden, a/x is not"


def test_redirect_of_an_opaque_directory_is_not_followed(judge: Judge) -> None:
    assert judge({"a/x": "1"}, {"a": WHITEOUT, "b": redirect("a", opaque=b"y"), "b/y": "2"}).paths == ["b", "b/y"]


@pytest.mark.parametrize("target", ["", "a/b", "/a/", "//a", "/a//b", "./a"])
def test_redirect_that_is_no_valid_path_is_refused(judge: Judge, target: str) -> None:
    verdict = judge({"a/b/x": "1"}, {"d": redirect(target), "d/y": "2"})
    assert verdict.errors == {"d": "EINVAL"}
    assert "d/y" not in verdict.paths


@pytest.mark.parametrize("target", ["..", ".", "/..", "/a/../../../etc", "/a/./b", "/../a", "/"])
def test_redirect_upwards_never_leaves_the_layer(judge: Judge, target: str) -> None:
    verdict = judge(
        {"a/b/x": "1", "etc/passwd": "layer's own"}, {"d": DIRECTORY, "d/e": redirect(target), "d/y": "2"}
    )
    assert "d/e/x" not in verdict.paths
    assert verdict.text("etc/passwd") == "layer's own"


@pytest.mark.parametrize("length", [200, 255, 256, 257, 300])
def test_long_redirects(judge: Judge, length: int) -> None:
    name = ("/" + "n" * 99) * 3
    target = name[:length].rstrip("/")
    judge({target.lstrip("/") + "/x": "1"}, {"d": redirect(target)})


def test_redirect_ends_at_a_zero_byte(judge: Judge) -> None:
    assert "d/x" in judge({"a/x": "1"}, {"a": WHITEOUT, "d": redirect("a\0b")}).paths


def test_redirect_to_itself_is_the_same_as_none(judge: Judge) -> None:
    verdict = judge({"d/a": "1"}, {"d": redirect("d"), "d/b": "2"}, {"d": redirect("/d"), "d/c": "3"})
    assert verdict.paths == ["d", "d/a", "d/b", "d/c"]


def test_redirect_on_the_root_of_a_layer_means_nothing(judge: Judge) -> None:
    assert judge({"a/x": "1", "b": ""}, {".": redirect("/a"), "c": ""}).paths == ["a", "a/x", "b", "c"]


@pytest.mark.parametrize(
    ("extra", "follow"),
    [("redirect_dir=on", True), ("redirect_dir=follow", True), ("redirect_dir=nofollow", False)],
)
def test_redirect_options(judge: Judge, extra: str, follow: bool) -> None:
    verdict = judge(
        {"a/x": "1", "c/z": "2"},
        {"a": WHITEOUT, "b": redirect("a"), "b/y": "3", "c/z": WHITEOUT},
        extra=extra,
        follow_redirects=follow,
    )
    if follow:
        assert verdict.paths == ["b", "b/x", "b/y", "c"]
    else:
        assert verdict.errors == {"b": "EPERM"}
        assert verdict.paths == ["c"]
        assert hidden(verdict.stack)["b/y", 1] == (1, "unreadable", "b")


def test_redirect_is_refused_even_when_nothing_lies_at_its_end(judge: Judge) -> None:
    verdict = judge({}, {"b": redirect("a"), "b/y": "1"}, extra="redirect_dir=nofollow", follow_redirects=False)
    assert verdict.errors == {"b": "EPERM"}


def test_redirect_under_userxattr_is_refused(judge: Judge) -> None:
    verdict = judge({"a/x": "1"}, {"d": redirect("a"), "d/y": "2"}, family=XattrFamily.USER)
    assert verdict.errors == {"d": "EPERM"}


def test_redirect_over_a_file_and_under_a_whiteout(judge: Judge) -> None:
    verdict = judge(
        {"a/x": "1", "d": "file"},
        {"d": redirect("a"), "d/y": "2"},
        {"e": redirect("/d"), "e/z": "3"},
        {"d": WHITEOUT},
    )
    assert "d" not in verdict.paths
    assert "e/x" in verdict.paths


# -- metacopy ------------------------------------------------------------------------------------------------


def test_metacopy_file_has_the_content_of_the_one_below(judge: Judge) -> None:
    verdict = judge(
        {"f": file("content", mode=0o600)}, {"f": metacopy(7, mode=0o751)}, extra=METACOPY, metacopy=True
    )
    assert verdict.text("f") == "content"
    assert verdict.seen("f").mode == 0o751


def test_metacopy_chain_ends_at_the_first_file_with_data(judge: Judge) -> None:
    verdict = judge(
        {"f": "deepest"}, {"f": "content"}, {"f": metacopy(7)}, {"f": metacopy(7)}, {"f": metacopy(7)},
        extra=METACOPY, metacopy=True,
    )  # fmt: skip
    assert verdict.text("f") == "content"


@pytest.mark.parametrize("target", ["old", "/d/old"])
def test_metacopy_file_that_was_renamed(judge: Judge, target: str) -> None:
    verdict = judge(
        {"d/old": "content"}, {"d/old": WHITEOUT, "d/new": metacopy(7, target)}, extra=METACOPY, metacopy=True
    )
    assert verdict.paths == ["d", "d/new"]
    assert verdict.text("d/new") == "content"


def test_metacopy_chain_with_renames_of_files_and_directories(judge: Judge) -> None:
    verdict = judge(
        {"a/one": "content"},
        {"a": WHITEOUT, "b": redirect("a"), "b/one": WHITEOUT, "b/two": metacopy(7, "one")},
        {"b/two": WHITEOUT, "c/three": metacopy(7, "/b/two")},
        {"c": WHITEOUT, "d": redirect("/c")},
        extra=f"redirect_dir=on,{METACOPY}",
        metacopy=True,
    )
    assert verdict.text("d/three") == "content"


def test_metacopy_off_refuses_the_file(judge: Judge) -> None:
    verdict = judge({"f": "content", "g": "1"}, {"f": metacopy(7)}, extra="metacopy=off")
    assert verdict.errors == {"f": "EPERM"}
    assert verdict.paths == ["g"]
    assert hidden(verdict.stack)["f", 1] == (1, "unreadable", "f")


@pytest.mark.parametrize("cover", [OPAQUE, WHITEOUT, file("x")])
def test_refused_path_in_a_hidden_directory_does_not_exist(judge: Judge, cover: Node) -> None:
    verdict = judge({"d/f": "content"}, {"d/f": metacopy(7)}, {"d": cover}, extra="metacopy=off")
    assert verdict.errors == {}
    assert "d/f" not in verdict.paths


def test_metacopy_under_userxattr_is_refused(judge: Judge) -> None:
    verdict = judge({"f": "content"}, {"f": metacopy(7)}, family=XattrFamily.USER)
    assert verdict.errors == {"f": "EPERM"}


NO_DATA: dict[str, tuple[Content, ...]] = {
    "nothing": ({"f": metacopy(7)},),
    "whiteout": ({"f": "content"}, {"f": WHITEOUT}, {"f": metacopy(7)}),
    "directory": ({"f/x": "content"}, {"f": metacopy(7)}),
    "symlink": ({"f": symlink("x"), "x": "content"}, {"f": metacopy(7)}),
    "opaque": ({"d/f": "content"}, {"d": OPAQUE, "d/f": metacopy(7)}),
    "missing": ({"g": "content"}, {"f": metacopy(7, "/nowhere")}),
    "only-metacopy": ({"f": metacopy(7)}, {"f": metacopy(7)}),
}


@pytest.mark.parametrize("case", NO_DATA)
def test_metacopy_without_data_is_an_error(judge: Judge, case: str) -> None:
    verdict = judge(*NO_DATA[case], extra=METACOPY, metacopy=True)
    assert set(verdict.errors.values()) == {"EIO"}


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        (b"", True),
        (b"\0\4\0\0", True),
        (b"\0", False),
        (b"\0\4\0", False),
        (b"\0\4\0\0\0", True),
        (b"\1\4\0\0", True),
    ],
)
def test_metacopy_value(judge: Judge, value: bytes, valid: bool) -> None:
    verdict = judge({"f": "content"}, {"f": metacopy(7, value=value)}, extra=METACOPY, metacopy=True)
    assert verdict.errors == ({} if valid else {"f": "EIO"})


def test_metacopy_mark_on_a_directory_means_nothing(judge: Judge) -> None:
    verdict = judge({"d/a": "1"}, {"d": directory(metacopy=b"")}, extra=METACOPY, metacopy=True)
    assert verdict.paths == ["d", "d/a"]


def test_redirect_without_metacopy_on_a_file_means_nothing(judge: Judge) -> None:
    verdict = judge({"a": "1", "f": "2"}, {"f": file("own", redirect=b"/a")}, extra=METACOPY, metacopy=True)
    assert verdict.text("f") == "own"


def test_metacopy_over_a_file_of_another_size(judge: Judge) -> None:
    judge({"f": "content", "g": "content"}, {"f": metacopy(3), "g": metacopy(99)}, extra=METACOPY, metacopy=True)
