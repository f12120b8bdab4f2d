"""Whiteouts, opaque directories, types, xattr families: curated cases, and the kernel is the judge of each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from layerscope.model import XattrFamily
from tests.kernel import can_mount
from tests.layers import (
    DIRECTORY,
    FIFO,
    OPAQUE,
    SOCKET,
    WHITEOUT,
    Content,
    HardLink,
    Node,
    block,
    character,
    directory,
    file,
    hidden,
    shown,
    symlink,
)
from tests.overlay.conftest import Judge

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not can_mount(), reason="mounting overlayfs needs root"),
]

XWHITEOUTS = directory(opaque=b"x")
"""A directory that says it holds xattr whiteouts; readdir looks for them only there."""


# -- whiteouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "below",
    [file("x"), symlink("kept"), FIFO, SOCKET, character(1, 3), directory(mode=0o700), WHITEOUT],
    ids=["file", "symlink", "fifo", "socket", "device", "directory", "whiteout"],
)
def test_whiteout_hides_whatever_lies_below(judge: Judge, below: Node) -> None:
    assert judge({"gone": below, "kept": ""}, {"gone": WHITEOUT}).paths == ["kept"]


def test_whiteout_hides_a_whole_subtree(judge: Judge) -> None:
    verdict = judge({"d/e/f": "x", "d/g": "y"}, {"d/h": "z"}, {"d": WHITEOUT})
    assert verdict.paths == []
    assert set(hidden(verdict.stack).values()) == {(2, "whiteout", "d")}


def test_whiteout_in_the_base_layer_and_of_a_name_that_is_nowhere(judge: Judge) -> None:
    assert judge({"a": WHITEOUT, "b": "1"}, {"c": WHITEOUT, "d/e": WHITEOUT, "f": "2"}).paths == ["b", "d", "f"]


@pytest.mark.parametrize(
    "mark",
    [character(0, 0, mode=0), character(0, 0, mode=0o7777), Node(0o020000, owner=(1000, 1000), xattrs={})],
    ids=["no-permissions", "all-permissions", "other-owner"],
)
def test_whiteout_is_one_whatever_its_mode_and_owner(judge: Judge, mark: Node) -> None:
    assert judge({"a": "x"}, {"a": mark}).paths == []


@pytest.mark.parametrize(
    "node", [character(0, 1), character(1, 0), block(0, 0)], ids=["char-0:1", "char-1:0", "block-0:0"]
)
def test_other_device_numbers_are_no_whiteout(judge: Judge, node: Node) -> None:
    verdict = judge({"a": "x", "d/b": "y"}, {"a": node, "d": node})
    assert verdict.paths == ["a", "d"]
    assert verdict.seen("a").kind in ("char", "block")


def test_hard_linked_whiteouts_each_hide_their_own_name(judge: Judge) -> None:
    verdict = judge(
        {"a": "1", "b": "2", "c": "3"}, {"a": WHITEOUT, "b": HardLink("a"), "new": HardLink("a")}, {"b": "4"}
    )
    assert verdict.paths == ["b", "c"]


def test_path_below_a_whiteout_made_again_shows_only_what_came_later(judge: Judge) -> None:
    verdict = judge({"d/old": "1", "d/e/old": "2"}, {"d": WHITEOUT}, {"d/new": "3", "d/e/new": "4"})
    assert verdict.paths == ["d", "d/e", "d/e/new", "d/new"]
    assert hidden(verdict.stack)["d/e/old", 0] == (1, "whiteout", "d")


def test_file_deleted_made_again_deleted_again(judge: Judge) -> None:
    verdict = judge({"a": "1"}, {"a": WHITEOUT}, {"a": "2"}, {"a": WHITEOUT}, {"a": "3"}, {"a": WHITEOUT})
    assert verdict.paths == []
    assert hidden(verdict.stack) == {
        ("a", 0): (1, "whiteout", "a"),
        ("a", 2): (3, "whiteout", "a"),
        ("a", 4): (5, "whiteout", "a"),
    }


# -- whiteouts by xattr --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(XattrFamily))
@pytest.mark.parametrize("value", [b"", b"y", b"anything"])
def test_xattr_whiteout_hides_what_lies_below(judge: Judge, family: XattrFamily, value: bytes) -> None:
    verdict = judge(
        {"d/gone": "x", "d/sub/gone": "y", "d/kept": "z"},
        {"d": XWHITEOUTS, "d/gone": file(whiteout=value), "d/sub": file(whiteout=value)},
        family=family,
    )
    assert verdict.paths == ["d", "d/kept"], "the directory itself is not opaque"


def test_xattr_whiteout_counts_also_where_its_directory_does_not_say_so(judge: Judge) -> None:
    verdict = judge({"d/gone": "x"}, {"d/gone": file(whiteout=b"")})
    assert verdict.paths == ["d"]


@pytest.mark.parametrize("parent", [DIRECTORY, XWHITEOUTS])
def test_file_with_content_is_no_xattr_whiteout(judge: Judge, parent: Node) -> None:
    verdict = judge({"d/a": "below"}, {"d": parent, "d/a": file("content", whiteout=b"")})
    assert verdict.text("d/a") == "content"


def test_xattr_whiteout_is_a_regular_file_and_nothing_else(judge: Judge) -> None:
    verdict = judge(
        {"d/link": "1", "d/sub/old": "2"},
        {"d": XWHITEOUTS, "d/link": symlink("elsewhere", whiteout=b""), "d/sub": directory(whiteout=b"")},
    )
    assert verdict.paths == ["d", "d/link", "d/sub", "d/sub/old"]


def test_xattr_whiteout_with_holes_or_hard_links(judge: Judge) -> None:
    verdict = judge(
        {"d/a": "1", "d/b": "2", "d/c": "3"},
        {"d": XWHITEOUTS, "d/a": file(whiteout=b""), "d/b": HardLink("d/a"), "d/c": file(hole=1, whiteout=b"")},
    )
    assert verdict.paths == ["d", "d/c"]


def test_path_deleted_by_xattr_whiteout_and_made_again(judge: Judge) -> None:
    verdict = judge(
        {"d/e/old": "1"}, {"d": XWHITEOUTS, "d/e": file(whiteout=b"")}, {"d/e/new": "2"}, {"d": XWHITEOUTS}
    )
    assert verdict.paths == ["d", "d/e", "d/e/new"]
    assert hidden(verdict.stack)["d/e/old", 0] == (1, "whiteout", "d/e")


# -- opaque directories --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(XattrFamily))
def test_opaque_directory_hides_lower_siblings(judge: Judge, family: XattrFamily) -> None:
    verdict = judge({"d/old": "x", "d/e/f": "y"}, {"d": OPAQUE, "d/new": "z"}, family=family)
    assert verdict.paths == ["d", "d/new"]
    assert set(hidden(verdict.stack).values()) == {(1, "opaque", "d")}


@pytest.mark.parametrize("value", [b"n", b"yes", b"Y", b"", b"x", b"y\0", b"y\n", b"1", b"\0"])
def test_opaque_is_the_one_byte_y_and_nothing_else(judge: Judge, value: bytes) -> None:
    verdict = judge({"d/old": "x"}, {"d": directory(opaque=value), "d/new": "z"})
    assert verdict.paths == ["d", "d/new", "d/old"]


def test_opaque_directory_in_the_middle_hides_only_what_is_below_it(judge: Judge) -> None:
    verdict = judge({"d/a": "1"}, {"d": OPAQUE, "d/b": "2"}, {"d/c": "3"}, {"d/d": "4"})
    assert verdict.paths == ["d", "d/b", "d/c", "d/d"]


def test_opaque_mark_on_a_file_or_on_a_layers_root_hides_nothing(judge: Judge) -> None:
    root = directory(opaque=b"y")
    verdict = judge({"a": "1", "f": "2"}, {".": root, "f": file("3", opaque=b"y")}, {".": root, "b": "4"})
    assert verdict.paths == ["a", "b", "f"]


def test_opaque_directory_over_nothing(judge: Judge) -> None:
    assert judge({"a": ""}, {"d": OPAQUE, "d/x": "", "e": OPAQUE}).paths == ["a", "d", "d/x", "e"]


def test_whiteout_in_an_opaque_directory_hides_what_came_after_it(judge: Judge) -> None:
    verdict = judge(
        {"d/a": "1"}, {"d": OPAQUE, "d/a": WHITEOUT, "d/b": "2"}, {"d/a": "3", "d/b": WHITEOUT}, {"d/c": "4"}
    )
    assert verdict.paths == ["d", "d/a", "d/c"]
    assert hidden(verdict.stack)["d/a", 0] == (1, "opaque", "d")


def test_hidden_subtree_under_opaque_under_whiteout_under_opaque(judge: Judge) -> None:
    verdict = judge(
        {"a/b/c/one": "1"},
        {"a/b/c": OPAQUE, "a/b/c/two": "2"},
        {"a/b": WHITEOUT},
        {"a/b/c/three": "3"},
        {"a": OPAQUE, "a/b/c/four": "4"},
        {"a/b/c": DIRECTORY, "a/b/c/five": "5"},
    )
    assert verdict.paths == ["a", "a/b", "a/b/c", "a/b/c/five", "a/b/c/four"]
    reasons = hidden(verdict.stack)
    assert reasons["a/b/c/one", 0] == (1, "opaque", "a/b/c")
    assert reasons["a/b/c/two", 1] == (2, "whiteout", "a/b")
    assert reasons["a/b/c/three", 3] == (4, "opaque", "a")
    assert reasons["a", 3] == (4, "opaque", "a")


# -- types ---------------------------------------------------------------------------------------------------

OTHER_TYPES = {
    "file": file("f"), "symlink": symlink("d2"), "fifo": FIFO, "socket": SOCKET, "device": character(1, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_directory_over_another_type_over_directory_does_not_merge(judge: Judge, name: str) -> None:
    verdict = judge({"d/old": "1", "d2/x": ""}, {"d": OTHER_TYPES[name]}, {"d/new": "2"})
    assert verdict.paths == ["d", "d/new", "d2", "d2/x"]
    assert hidden(verdict.stack)["d/old", 0] == (1, "replaced", "d")
    assert hidden(verdict.stack)["d", 1] == (2, "replaced", "d")


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_other_type_over_directory_hides_its_children(judge: Judge, name: str) -> None:
    verdict = judge({"d/e/f": "1"}, {"d/e/g": "2"}, {"d": OTHER_TYPES[name]})
    assert verdict.paths == ["d"]
    assert set(hidden(verdict.stack).values()) == {(2, "replaced", "d")}


def test_directories_take_turns_with_files(judge: Judge) -> None:
    layers: list[Content] = [{"x/a": "1"}, {"x": "2"}, {"x/b": "3"}, {"x/c": "4"}, {"x": "5"}, {"x/d": "6"}]
    verdict = judge(*layers)
    assert verdict.paths == ["x", "x/d"]
    assert [hidden(verdict.stack)[path][0] for path in [("x/a", 0), ("x", 1), ("x/b", 2), ("x/c", 3)]] == [
        1,
        2,
        4,
        4,
    ]


def test_merged_directory_has_the_attributes_of_its_top(judge: Judge) -> None:
    verdict = judge(
        {"d": directory(mode=0o700, owner=(1, 2), xattrs={"user.low": b"1"}), "d/a": ""},
        {"d": directory(mode=0o1777, owner=(3, 4), mtime=5, xattrs={"user.high": b"2"}), "d/b": ""},
    )
    seen = verdict.seen("d")
    assert (seen.mode, seen.uid, seen.gid, seen.xattrs) == (0o1777, 3, 4, (("user.high", b"2"),))
    assert verdict.paths == ["d", "d/a", "d/b"]


def test_symlinks_to_directories_are_not_followed(judge: Judge) -> None:
    verdict = judge({"real/a": "1"}, {"link": symlink("real")}, {"link/b": "2"}, {"other": symlink("/etc")})
    assert verdict.paths == ["link", "link/b", "other", "real", "real/a"]


def test_hard_link_broken_by_a_later_layer(judge: Judge) -> None:
    verdict = judge(
        {"a": "same", "b": HardLink("a"), "d/c": HardLink("a")},
        {"b": "new", "e": HardLink("b")},
        {"d/c": WHITEOUT, "e": WHITEOUT},
    )
    assert shown(verdict.stack) == {"a": 0, "b": 1, "d": 2}
    assert (verdict.text("a"), verdict.text("b")) == ("same", "new")


# -- families, escaped and private xattrs --------------------------------------------------------------------


@pytest.mark.parametrize("family", list(XattrFamily))
def test_marks_of_the_other_family_mean_nothing(judge: Judge, family: XattrFamily) -> None:
    other = next(one for one in XattrFamily if one is not family)
    verdict = judge(
        {"d/old": "1", "e/f": "2", "g": "3", "m": "4"},
        {
            "d": directory(xattrs={other + "opaque": b"y"}),
            "e": directory(xattrs={other + "opaque": b"x", other + "redirect": b"/d"}),
            "e/f": file(xattrs={other + "whiteout": b""}),
            "g": file(xattrs={other + "whiteout": b""}),
            "m": file(hole=4, xattrs={other + "metacopy": b"", other + "redirect": b"/g"}),
        },
        family=family,
    )
    assert verdict.paths == ["d", "d/old", "e", "e/f", "g", "m"]
    assert verdict.text("g") == ""
    assert verdict.text("m") == "\0\0\0\0"


@pytest.mark.parametrize("family", list(XattrFamily))
def test_escaped_xattrs_are_no_marks_and_lose_one_level(judge: Judge, family: XattrFamily) -> None:
    escaped = {
        family + "overlay.opaque": b"y",
        family + "overlay.overlay.redirect": b"/deep",
    }
    verdict = judge(
        {"d/old": "1", "e": "2"},
        {"d": directory(xattrs=escaped), "e": file(xattrs={family + "overlay.whiteout": b""})},
        family=family,
    )
    assert verdict.paths == ["d", "d/old", "e"]
    names = [name for name, _ in verdict.seen("d").xattrs]
    assert family + "opaque" in names
    assert family + "overlay.redirect" in names


@pytest.mark.parametrize("family", list(XattrFamily))
def test_private_xattrs_are_not_shown_and_similar_ones_are(judge: Judge, family: XattrFamily) -> None:
    base = family.rstrip(".")
    verdict = judge(
        {"a": file("x", xattrs={family + "unknown": b"1", base: b"2", base + "y": b"3", "user.mine": b"4"})},
        {"b": file("y", origin=b"", nlink=b"U+1", protattr=b"a"), "d": directory(impure=b"y", uuid=bytes(16))},
        family=family,
    )
    assert [name for name, _ in verdict.seen("a").xattrs] == sorted([base, base + "y", "user.mine"])
    assert verdict.seen("b").xattrs == verdict.seen("d").xattrs == ()


def test_wh_files_of_archives_are_ordinary_names(judge: Judge) -> None:
    verdict = judge({"a": "1", "d/b": "2"}, {".wh.a": "", "d/.wh..wh..opq": ""})
    assert verdict.paths == [".wh.a", "a", "d", "d/.wh..wh..opq", "d/b"]


# -- an unprivileged user's mount ----------------------------------------------------------------------------

IN_NAMESPACE = """
import sys
from pathlib import Path
from layerscope.model import XattrFamily
from tests.kernel import difference, kernel_view, layerscope_view, mount_options, mounted, stack_of
from tests.layers import DIRECTORY, OPAQUE, WHITEOUT, directory, file, make_layers
work = Path(sys.argv[1])
family = XattrFamily.USER
layers = make_layers(
    work,
    {"d/old": "1", "e/a": "2", "f": "3", "g/x": "4"},
    {"d": OPAQUE, "d/new": "5", "e": directory(opaque=b"x"), "e/a": file(whiteout=b""), "f": WHITEOUT},
    {"g": DIRECTORY, "g/y": "6"},
    family=family,
)
with mounted(work / "merged", mount_options(layers, family)) as root:
    ours = layerscope_view(stack_of(layers, family))
    truth = kernel_view(root, ours)
assert difference(truth, ours) == [], difference(truth, ours)
assert sorted(truth) == ["d", "d/new", "e", "g", "g/x", "g/y"], sorted(truth)
"""


def test_overlay_of_an_unprivileged_user_namespace(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    command = [str(unshare), "--user", "--map-root-user", "--mount", "--propagation", "private"]
    if unshare is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("unshare(1) cannot make a user namespace here")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*command, sys.executable, "-c", IN_NAMESPACE, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
