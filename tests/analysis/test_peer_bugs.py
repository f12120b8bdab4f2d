"""What other tools get wrong about layers, one test a case. Where overlayfs can be mounted the kernel judges, too.

The cases of whole stores (a container without ``mount-id``, hosts without containers, stale ``lower`` entries,
dangling links, directories with 25 characters) are in ``tests/stores``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from layerscope.analysis.change import change_of
from layerscope.analysis.compare import compare
from layerscope.analysis.summary import summarize
from layerscope.analysis.totals import Summary
from layerscope.analysis.trace import in_layer, locate
from layerscope.model import Stack
from layerscope.overlay.content import open_content
from layerscope.overlay.walk import Walker
from tests import dataroot
from tests.dataroot import FakeRoot
from tests.kernel import can_mount, stack_of
from tests.layers import (
    DIRECTORY,
    OPAQUE,
    WHITEOUT,
    Content,
    HardLink,
    Node,
    character,
    file,
    hidden,
    make_layers,
    shown,
    symlink,
)
from tests.overlay.conftest import Judge
from tests.random_layers import USER
from tests.stores.offline import InProcess, Offline

Build = Callable[..., Stack]


@pytest.fixture(
    params=[
        "alone",
        pytest.param(
            "judged",
            marks=[
                pytest.mark.kernel,
                pytest.mark.skipif(not can_mount(), reason="mounting overlayfs needs root"),
            ],
        ),
    ]
)
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Build:
    """Makes a stack of layers, base first; the kernel agrees with what layerscope makes of it."""

    def alone(*layers: Content, metacopy: bool = False) -> Stack:
        return stack_of(make_layers(tmp_path, *layers, family=USER), USER, metacopy=metacopy)

    def judged(*layers: Content, metacopy: bool = False) -> Stack:
        return Judge(tmp_path)(*layers, extra="metacopy=on" if metacopy else "", metacopy=metacopy).stack

    return judged if request.param == "judged" else alone


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path / "docker")


@pytest.fixture
def offline(root: FakeRoot, tmp_path: Path) -> Offline:
    return Offline(InProcess(tmp_path), root.path)


def totals(stack: Stack) -> Summary:
    return summarize(Walker(stack), jobs=1)


def hidden_bytes(stack: Stack) -> int:
    return sum(amount.size_bytes for amount in totals(stack).hidden.values())


def text(stack: Stack, path: str, layer: int) -> str:
    walker = Walker(stack)
    versions = locate(walker, path)
    with open_content(versions, in_layer(versions, layer)) as content:
        return content.read().decode()


# Case 1. The mark is ignored and what lay below is listed as unmodified, or it is looked for only where a test for
# whiteouts has caught it before.
def test_opaque_directory(build: Build) -> None:
    stack = build({"d/old": "secret"}, {"d": OPAQUE, "d/new": ""})
    assert shown(stack) == {"d": 1, "d/new": 1}
    assert hidden(stack)["d/old", 0] == (1, "opaque", "d")
    assert totals(stack).layers[1].opaque == 1


# Case 2. The tree is marked as removed and no byte of it as wasted, because only leaves are counted.
def test_whole_subtree_behind_one_whiteout(build: Build) -> None:
    stack = build({"dir/a/b/c": "12345", "dir/a/d": "123", "dir/e": "1"}, {"dir": WHITEOUT})
    assert shown(stack) == {}
    assert hidden_bytes(stack) == 9
    assert totals(stack).layers[1].deleted == 1


# Case 3. Both copies of a file count as wasted.
def test_only_the_hidden_one_of_two_copies_is_wasted(build: Build) -> None:
    stack = build({"a": "12345", "b": "123456789"}, {"b": file("123456789", mtime=1), "copy": "12345"})
    assert hidden_bytes(stack) == 9
    assert list(hidden(stack)) == [("b", 0)]


# Case 4. Only type, content hash, mode and owner are compared.
@pytest.mark.parametrize(
    ("lower", "upper", "change"),
    [
        (symlink("one"), symlink("two"), "modified"),
        (HardLink("x"), HardLink("y"), "modified"),
        (character(1, 3), character(1, 5), "modified"),
        (file("x"), file("x", xattrs={"user.note": b"1"}), "metadata"),
        (file("x"), file("x", xattrs={"security.capability": b"\1\0\0\2" + bytes(16)}), "metadata"),
        (file("x"), file("x", mtime=1), "metadata"),
    ],
    ids=["symlink", "hard-link", "device-number", "xattr", "capability", "time"],
)
def test_change_of_what_is_no_content(
    build: Build, lower: Node | HardLink, upper: Node | HardLink, change: str
) -> None:
    base: Content = {"x": "one", "y": "two"}
    try:
        stack = build({**base, "p": lower}, {**base, "p": upper})
    except PermissionError:
        pytest.skip("needs root")
    walker = Walker(stack)
    versions = locate(walker, "p")
    assert versions.visible is not None
    assert change_of(versions, versions.visible) == change


# Case 5. The children of a directory that became a file stay in the merged tree.
def test_directory_replaced_by_a_file_and_the_reverse(build: Build) -> None:
    stack = build({"d/x": "12", "f": "1"}, {"d": "file", "f/y": "2"})
    assert shown(stack) == {"d": 1, "f": 1, "f/y": 1}
    assert set(hidden(stack)) == {("d", 0), ("d/x", 0), ("f", 0)}


# Case 6. After a whiteout of a name that is nowhere below, the rest of its layer goes uncounted.
def test_whiteout_of_a_name_that_is_nowhere(build: Build) -> None:
    stack = build({"a": "1"}, {"0-nothing": WHITEOUT, "a": "22", "d/nothing": WHITEOUT, "z": "333"})
    assert shown(stack) == {"a": 1, "d": 1, "z": 1}
    top = totals(stack).layers[1]
    assert (top.size_bytes, top.added, top.modified, top.deleted) == (5, 2, 1, 0)


# Case 7. A ratio divides by zero.
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_image_of_no_layers_one_layer_empty_layers(root: FakeRoot, offline: Offline, layers: int) -> None:
    root.image("app:1", [root.layer({}) for _ in range(layers)])
    answer = offline.json("image", "app:1", "--files", "--hidden")
    assert answer["merged"]["size_bytes"] == answer["hidden"]["size_bytes"] == 0
    assert len(answer["layers"]) == layers
    assert offline("image", "app:1").code == 0


# Case 8. A symlink in an upper layer is followed on the analyst's own machine.
def test_symlink_to_a_directory_of_this_machine(build: Build, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/file").touch()
    stack = build({"x": ""}, {"host": symlink(str(tmp_path / "host")), "doc": symlink("/usr/share/doc")})
    assert shown(stack) == {"doc": 1, "host": 1, "x": 0}
    assert [d.path for d in compare(Walker(stack.up_to(0)), Walker(stack))] == ["doc", "host"]


# Case 9. An absolute link that is valid only inside of the container is listed as deleted.
def test_absolute_link_that_leads_nowhere_on_this_machine(build: Build) -> None:
    stack = build({"only/inside": "x", "old": symlink("/only/inside")}, {"link": symlink("/only/inside")})
    assert shown(stack)["link"] == 1
    assert shown(stack)["old"] == 0
    found = [(d.path, d.change) for d in compare(Walker(stack.up_to(0)), Walker(stack))]
    assert found == [("link", "added")]


# Case 10. The list of lower directories is applied in reverse: the base wins over the top.
def test_order_of_layers(build: Build, root: FakeRoot, offline: Offline) -> None:
    stack = build({"f": "base"}, {"f": "middle"}, {"f": "top"})
    assert shown(stack) == {"f": 2}
    image = root.image("app:1", [root.layer({"f": "base"}), root.layer({"f": "image"})])
    root.container("web", image, upper={"f": "container"})
    assert offline("cat", "image:app:1", "f").out == "image"
    assert offline("cat", "container:web", "f").out == "container"


# Case 13. With more than about 74 layers the options of a mount no longer fit into one page.
def test_more_layers_than_a_mount_option_string_holds(root: FakeRoot, offline: Offline) -> None:
    root.image("app:1", [root.layer({"f": str(index), f"d/{index}": "x"}) for index in range(125)])
    answer = offline.json("image", "app:1")
    assert len(answer["layers"]) == 125
    assert answer["merged"]["files"] == 126
    assert offline("cat", "app:1", "f").out == "124"


# Case 19. All whiteouts of a mount are one inode, and are taken for hard-linked files.
def test_whiteouts_that_share_an_inode(build: Build) -> None:
    stack = build({"a": "1", "b": "22"}, {"a": WHITEOUT, "b": HardLink("a"), "d/c": HardLink("a")})
    assert shown(stack) == {"d": 1}
    found = totals(stack)
    assert (found.layers[1].deleted, found.layers[1].size_bytes, hidden_bytes(stack)) == (2, 0, 3)


# Case 20. The bytes of a hard-linked file count once a name; apparent and allocated size are mixed up.
def test_hard_links_and_sparse_files(build: Build) -> None:
    stack = build({"a": "12345", "b": HardLink("a"), "big": file(hole=1 << 20)}, {"b": WHITEOUT, "big": WHITEOUT})
    (base, _), found = totals(stack).layers, totals(stack)
    assert base.size_bytes == 5 + (1 << 20)
    assert base.allocated_bytes < 1 << 16
    assert found.merged.size_bytes == 5
    assert hidden_bytes(stack) == 1 << 20, "the other name still shows"


# Case 21. Layers are unpacked over one another: the value that was overwritten at the same path is lost.
def test_value_overwritten_at_the_same_path_is_still_there(build: Build, root: FakeRoot, offline: Offline) -> None:
    stack = build({"key": "old-secret"}, {"key": "dummy"}, {"key": WHITEOUT}, {"key": "new"})
    assert [text(stack, "key", layer) for layer in (0, 1, 3)] == ["old-secret", "dummy", "new"]
    root.image("app:1", [root.layer({"key": "old-secret"}), root.layer({"key": "dummy"})])
    assert offline("cat", "app:1", "key", "--layer", "0").out == "old-secret"


# Case 24. The merged view of a running container counts on top of its layers.
def test_merged_directory_of_a_container_does_not_count(root: FakeRoot, offline: Offline) -> None:
    image = root.image("app:1", [root.layer({"f": "12345"})])
    web = root.container("web", image, upper={"new": "123"})
    before = offline.json("container", "web")
    for name in ("merged", "work/work"):
        (web.upper.path / name).mkdir(parents=True, exist_ok=True)
        (web.upper.path / name / "f").write_bytes(bytes(100_000))
    after = offline.json("container", "web")
    assert after["layers"] == before["layers"]
    assert after["layers"][-1]["size_bytes"] == 3


NAMES = [
    "new\nline",
    "\x1b[31mred",
    "<script>",
    "not-utf8-\udcff",
    "a:b",
    "a,b",
    "tab\t",
    "\u202egnp.exe",
    "e\u0301",
]


# Case 25. Tables break, terminals are written to, readers crash.
@pytest.mark.parametrize("mark", ["", dataroot.WHITEOUT])
def test_names_that_are_meant_to_hurt(root: FakeRoot, offline: Offline, mark: str | dataroot.Mark) -> None:
    base = {f"d/{name}": "x" for name in NAMES}
    root.image("app:1", [root.layer(base), root.layer(dict.fromkeys(base, mark))])
    lines = offline("files", "app:1", "--format", "jsonl").out.splitlines()
    paths = []
    for line in lines:
        item = json.loads(line)
        exact = item.get("path_b64")
        paths.append(base64.b64decode(exact).decode(errors="surrogateescape") if exact else item["path"])
    assert sorted(set(paths)) == sorted(["d", *base])
    assert len(paths) == 2 + 2 * len(NAMES)
    for command in (["files"], ["image", "--files", "--hidden"], ["trace"]):
        for path in base if command == ["trace"] else [None]:
            if path is not None and not path.isascii():
                continue  # a command line of this test runner is text
            name, *options = command
            out = offline(name, "app:1", *options, *([path] if path else [])).out
            assert all(character.isprintable() or character == "\n" for character in out)


# Case 26. A wrong verdict on what hides what.
@pytest.mark.parametrize(
    ("layers", "visible", "hiders"),
    [
        (
            [{"d/a": "1"}, {"d": OPAQUE, "d/a": WHITEOUT}],
            {"d": 1},
            {("d", 0): (1, "opaque", "d"), ("d/a", 0): (1, "opaque", "d")},
        ),
        (
            [{"d/e/a": "1"}, {"d/e": OPAQUE, "d/e/b": "2"}, {"d": WHITEOUT}],
            {},
            {
                ("d", 0): (2, "whiteout", "d"),
                ("d", 1): (2, "whiteout", "d"),
                ("d/e", 0): (1, "opaque", "d/e"),
                ("d/e", 1): (2, "whiteout", "d"),
                ("d/e/a", 0): (1, "opaque", "d/e"),
                ("d/e/b", 1): (2, "whiteout", "d"),
            },
        ),
        (
            [{"d/a": "1"}, {"d": WHITEOUT}, {"d": DIRECTORY, "d/b": "2"}],
            {"d": 2, "d/b": 2},
            {("d", 0): (1, "whiteout", "d"), ("d/a", 0): (1, "whiteout", "d")},
        ),
    ],
    ids=["whiteout-in-opaque", "opaque-in-whiteout", "made-again"],
)
def test_marks_inside_of_marks(
    build: Build,
    layers: list[Content],
    visible: dict[str, int],
    hiders: dict[tuple[str, int], tuple[int, str, str]],
) -> None:
    stack = build(*layers)
    assert shown(stack) == visible
    assert hidden(stack) == hiders


# Case 27. A file without its data is read as zeros and reported as changed.
def test_metacopy_file(build: Build) -> None:
    stack = build({"f": "content"}, {"f": file(hole=7, mode=0o600, metacopy=b"")}, metacopy=True)
    assert text(stack, "f", 1) == "content"
    (only,) = compare(Walker(stack.up_to(0)), Walker(stack))
    assert (only.change, only.content_changed) == ("modified", False)
    walker = Walker(stack)
    versions = locate(walker, "f")
    assert versions.visible is not None
    assert change_of(versions, versions.visible) == "metadata"


# Case 28. Names of archives that lie literally in a layer are taken for marks.
def test_wh_names_that_lie_in_a_layer(build: Build) -> None:
    stack = build({"a": "1", "d/b": "2"}, {".wh.a": "", "d/.wh..wh..opq": "", ".wh.d": DIRECTORY})
    assert set(shown(stack)) == {".wh.a", ".wh.d", "a", "d", "d/.wh..wh..opq", "d/b"}
    assert hidden(stack) == {}
