"""``reuse`` on synthetic data roots: sums, the tree, what is stored twice, and what a removal would leave."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from tests.cli import validator
from tests.dataroot import Content, FakeRoot, StoredImage
from tests.stores.offline import InProcess, Offline
from tests.tarlayers import Tar, tar_image


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path / "docker")


@pytest.fixture
def offline(root: FakeRoot, tmp_path: Path) -> Offline:
    return Offline(InProcess(tmp_path), root.path)


def layer(root: FakeRoot, name: str, size: int, *, buildkit: bool = False) -> Content:
    return root.layer({name: "x" * size}, buildkit=buildkit)


def named(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {image["references"][0]: image for image in answer["images"]}


def removal(offline: Offline, *names: str) -> dict[str, Any]:
    told: dict[str, Any] = offline.json("reuse", "--remove", *names)["removal"]
    return told


def outcomes(told: dict[str, Any]) -> list[str]:
    return [image["outcome"] for image in told["images"] if image["asked"]]


def allocated(*paths: Path) -> int:
    """What du(1) says of these."""
    seen = set()
    total = 0
    for top in paths:
        for path in (top, *top.rglob("*")):
            stat = path.lstat()
            if (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                total += stat.st_blocks * 512
    return total


def test_shared_and_unique_are_of_the_whole_host(root: FakeRoot, offline: Offline) -> None:
    base, more = layer(root, "base", 1000), layer(root, "more", 200)
    root.image("a:1", [base, more, layer(root, "a", 30)])
    root.image("b:1", [base, more, layer(root, "b", 4)])
    root.image("c:1", [base])
    sizes = {
        name: (image["size_bytes"], image["shared_bytes"], image["unique_bytes"])
        for name, image in named(offline.json("reuse")).items()
    }
    assert sizes == {"a:1": (1230, 1200, 30), "b:1": (1204, 1200, 4), "c:1": (1000, 1000, 0)}
    alone = offline.json("reuse", "a:1")
    assert named(alone)["a:1"]["shared_bytes"] == 1200
    assert [node["holders"] for node in alone["layers"]] == [3, 2, 1]


def test_pairs_share_the_beginning_of_their_chains(root: FakeRoot, offline: Offline) -> None:
    base, more, other = layer(root, "base", 1000), layer(root, "more", 200), layer(root, "other", 1)
    ids = {
        name: root.image(name, layers).id
        for name, layers in {"a:1": [base, more], "b:1": [base, more, other], "c:1": [base], "d:1": [other]}.items()
    }
    pairs = {frozenset(p["images"]): (p["layers"], p["shared_bytes"]) for p in offline.json("reuse")["pairs"]}
    assert pairs == {
        frozenset((ids["a:1"], ids["b:1"])): (2, 1200),
        frozenset((ids["a:1"], ids["c:1"])): (1, 1000),
        frozenset((ids["b:1"], ids["c:1"])): (1, 1000),
    }


def test_the_tree_has_every_layer_once_and_parents_first(root: FakeRoot, offline: Offline) -> None:
    base = layer(root, "base", 10)
    a = root.image("a:1", [base, layer(root, "a", 1)])
    b = root.image("b:1", [base, layer(root, "b", 1)])
    seen: set[str | None] = {None}
    nodes = offline.json("reuse")["layers"]
    for node in nodes:
        assert node["parent"] in seen
        seen.add(node["chain_id"])
    assert len(nodes) == 3
    assert nodes[0]["images"] == sorted([a.id, b.id], key=[a.id, b.id].index)
    table = offline("reuse").out
    assert "├─" in table
    assert "└─" in table
    assert "= a:1" in table


def test_the_same_layer_on_another_parent_is_told(root: FakeRoot, offline: Offline) -> None:
    same = layer(root, "same", 500)
    root.image("a:1", [layer(root, "one", 1), same])
    root.image("b:1", [layer(root, "two", 1), same])
    (twice,) = [item for item in offline.json("reuse")["not_shared"] if item["reason"] == "other-parent"]
    assert (len(twice["layers"]), twice["wasted_bytes"], twice["same_instruction"]) == (2, 500, True)
    assert "the same content takes 500 B more than once" in offline("reuse").out


STEP = [{"created_by": "COPY a /a"}]


def twice_of(root: FakeRoot, offline: Offline, one: bytes, other: bytes) -> dict[str, Any]:
    for name, tar in (("a:1", one), ("b:1", other)):
        image = tar_image(root, name, [tar], history=STEP)
        (image.layers[0].record / "size").write_text("7")
    (twice,) = offline.json("reuse")["not_shared"]
    assert twice["reason"] == "other-content"
    told: dict[str, Any] = twice
    return told


def test_the_same_files_with_other_times_are_told(root: FakeRoot, offline: Offline) -> None:
    """What building twice comes to: the same content by CRC-64, and another digest because of the times."""
    one = Tar().directory("d").file("d/a", "content").bytes()
    other = Tar().directory("d", mtime=5).file("d/a", "content", mtime=5, mode=0o600).bytes()
    twice = twice_of(root, offline, one, other)
    assert twice["same_files"] is True
    assert twice["differing_attributes"] == ["mode", "mtime"]
    assert "what differs: modes, times" in offline("reuse").out


@pytest.mark.parametrize(
    "other",
    [
        Tar().file("a", "CONTENT").bytes(),
        Tar().file("a", "content").file("b", "").bytes(),
        Tar().symlink("a", "content").bytes(),
    ],
)
def test_other_files_are_told(root: FakeRoot, offline: Offline, other: bytes) -> None:
    twice = twice_of(root, offline, Tar().file("a", "content").bytes(), other)
    assert twice["same_files"] is False
    assert twice["differing_path"] in ("a", "b")


def test_what_cannot_be_told_is_not_told(root: FakeRoot, offline: Offline) -> None:
    for name, size in (("a:1", 5), ("b:1", 6)):
        root.image(name, [layer(root, "a", size)], history=STEP)
    (twice,) = offline.json("reuse")["not_shared"]
    assert (twice["same_files"], twice["differing_attributes"], twice["differing_path"]) == (None, [], None)


def test_a_broken_image_is_a_warning(root: FakeRoot, offline: Offline) -> None:
    root.image("whole:1", [layer(root, "a", 5)])
    broken = root.image("broken:1", [layer(root, "b", 6)])
    shutil.rmtree(broken.layers[0].record)
    answer = offline.json("reuse")
    assert named(answer)["broken:1"]["size_bytes"] is None
    assert named(answer)["whole:1"]["size_bytes"] == 5
    assert "broken-image" in {warning["code"] for warning in answer["warnings"]}


def test_no_images(offline: Offline) -> None:
    assert offline.json("reuse")["images"] == []
    assert offline("reuse").out == "No images.\n"


# -- removal ---------------------------------------------------------------------------------------------------


def test_a_removal_frees_directories_links_and_records(root: FakeRoot, offline: Offline) -> None:
    base = layer(root, "base", 10_000)
    root.image("kept:1", [base])
    image = root.image("gone:1", [base, layer(root, "a", 100_000), layer(root, "b", 5)])
    told = removal(offline, "gone:1")
    own = image.layers[1:]
    places = [path for item in own for path in (item.directory.path, item.directory.link)]
    assert told["layers_bytes"] == allocated(*places)
    assert told["records_bytes"] == allocated(*(item.record for item in own), image.config)
    assert [item["cache_id"] for item in told["freed_layers"]] == [item.directory.cache_id for item in own]
    assert told["command"] == "docker rmi gone:1"


def test_layers_shared_inside_the_set_count_once(root: FakeRoot, offline: Offline) -> None:
    base = layer(root, "base", 10_000)
    images = [root.image(f"{name}:1", [base, layer(root, name, 5)]) for name in "ab"]
    alone = sum(removal(offline, f"{name}:1")["layers_bytes"] for name in "ab")
    both = removal(offline, "a:1", "b:1")
    shared = images[0].layers[0].directory
    assert both["layers_bytes"] == alone + allocated(shared.path, shared.link)
    assert len(both["freed_layers"]) == 3


def test_merged_is_never_counted(root: FakeRoot, offline: Offline) -> None:
    image = root.image("a:1", [layer(root, "a", 5)])
    before = removal(offline, "a:1")["freed_bytes"]
    merged = image.layers[0].directory.path / "merged"
    merged.mkdir()
    (merged / "big").write_bytes(bytes(100_000))
    assert removal(offline, "a:1")["freed_bytes"] == before


def test_names_keep_an_image(root: FakeRoot, offline: Offline) -> None:
    digest = "a@sha256:" + "1" * 64
    root.image(["a:1", "a:2", digest], [layer(root, "a", 5)])
    told = removal(offline, "a:1")
    assert (outcomes(told), told["images"][0]["kept_by"], told["freed_bytes"]) == (["untagged"], ["a:2", digest], 0)
    assert outcomes(removal(offline, "a:1", "a:2")) == ["removed"]  # the digest goes with the last tag


def test_containers_keep_images_and_leftover_mounts_layers(root: FakeRoot, offline: Offline) -> None:
    image = root.image("a:1", [layer(root, "a", 5)])
    web = root.container("web", image)
    told = removal(offline, "a:1")
    assert (outcomes(told), told["images"][0]["kept_by"], told["freed_bytes"]) == (["in-use"], ["web"], 0)
    shutil.rmtree(web.config.parent)
    told = removal(offline, "a:1")
    assert (outcomes(told), told["freed_layers"]) == (["removed"], [])
    assert [item["kind"] for item in told["kept_layers"]] == ["container"]


def test_a_layer_of_no_image_keeps_those_below_it(root: FakeRoot, offline: Offline) -> None:
    base = layer(root, "base", 5)
    root.image("a:1", [base])
    forgotten = root.image("b:1", [base, layer(root, "b", 5)])
    forgotten.config.unlink()
    del root.repositories["b"]
    root.repositories_path.write_text(json.dumps({"Repositories": root.repositories}))
    told = removal(offline, "a:1")
    assert told["freed_layers"] == []
    assert [(item["kind"], item["kept_by"]) for item in told["kept_layers"]] == [
        ("layer", forgotten.layers[1].chain_id)
    ]


def stack_of_steps(root: FakeRoot) -> list[StoredImage]:
    """Images as the legacy builder makes them: one for each step, the last one named."""
    contents = [layer(root, f"step{number}", 5) for number in range(3)]
    images: list[StoredImage] = []
    for height in range(1, 4):
        name = "a:1" if height == 3 else None
        images.append(root.image(name, contents[:height], parent=images[-1] if images else None))
    return images


def test_steps_of_the_legacy_builder_go_with_their_image(root: FakeRoot, offline: Offline) -> None:
    stack_of_steps(root)
    told = removal(offline, "a:1")
    assert [image["asked"] for image in told["images"]] == [True, False, False]
    assert len(told["freed_layers"]) == 3
    assert len(offline.json("reuse")["images"]) == 1


def test_an_image_that_others_were_built_on_only_loses_its_name(root: FakeRoot, offline: Offline) -> None:
    base = layer(root, "base", 5)
    low = root.image("low:1", [base])
    root.image("high:1", [base, layer(root, "high", 5)], parent=low)
    told = removal(offline, "low:1")
    assert (outcomes(told), told["images"][0]["kept_by"]) == (["has-children"], ["high:1"])
    for order in (("low:1", "high:1"), ("high:1", "low:1")):
        told = removal(offline, *order)
        assert outcomes(told) == ["removed", "removed"]
        assert len(told["freed_layers"]) == 2


def test_by_id_all_names_are_meant(root: FakeRoot, offline: Offline) -> None:
    image = root.image(["a:1", "b:1"], [layer(root, "a", 5)])
    assert outcomes(removal(offline, image.id)) == ["removed"]


def test_nothing_exact_without_the_build_cache(root: FakeRoot, offline: Offline) -> None:
    root.image("a:1", [layer(root, "a", 5)])
    (root.path / "buildkit").mkdir()
    (root.path / "buildkit/snapshots.db").write_bytes(os.urandom(8192))
    assert "snapshots.db" in offline.fails("reuse", "--remove", "a:1").message


def test_what_goes_must_be_named(offline: Offline) -> None:
    assert "name the images" in offline.fails("reuse", "--remove", code=2).message


@settings(max_examples=6, deadline=None)
@given(some.lists(some.lists(some.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=5, unique_by=tuple))
def test_removing_everything_frees_every_layer_once(chains: list[list[int]]) -> None:
    """However images overlap: all of them together free all directories, and parts never more than the whole."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        root = FakeRoot(Path(place, "docker"))
        contents = [layer(root, f"l{number}", 10 * number) for number in range(4)]
        names = []
        for index, chain in enumerate(chains):
            names.append(f"image{index}:1")
            root.image(names[-1], [contents[number] for number in chain])
        offline = Offline(InProcess(Path(place)), root.path)
        whole = removal(offline, *names)
        assert whole["layers_bytes"] == allocated(root.overlay2) - sum(
            path.stat().st_blocks * 512 for path in (root.overlay2, root.overlay2 / "l")
        )
        parts = [removal(offline, name)["layers_bytes"] for name in names]
        assert sum(parts) <= whole["layers_bytes"]
        answer = offline.json("reuse")
        assert sum(image["unique_bytes"] for image in answer["images"]) <= sum(
            node["size_bytes"] for node in answer["layers"]
        )


# -- graphs ----------------------------------------------------------------------------------------------------


def test_graphs_are_safe_against_what_instructions_hold(root: FakeRoot, offline: Offline) -> None:
    hostile = [{"created_by": 'RUN echo "]; x" -> "<script>\\" \x1b[31m\n'}]
    root.image("a:1", [layer(root, "a", 5)], history=hostile)
    dot = offline("reuse", "--format", "dot").out
    assert dot.startswith("digraph reuse {\n")
    assert '\\"]; x\\" -> \\"<script>' in dot
    mermaid = offline("reuse", "--format", "mermaid").out
    assert mermaid.startswith("flowchart LR\n")
    assert "<script>" not in mermaid
    assert all(line.count('"') in (0, 2) for line in mermaid.splitlines())
    assert "\x1b" not in dot + mermaid


def test_graphs_are_no_format_of_other_commands(root: FakeRoot, offline: Offline) -> None:
    root.image("a:1", [layer(root, "a", 5)])
    assert offline.fails("ls", "--format", "dot", code=2)
    assert offline.fails("reuse", "--remove", "a:1", "--format", "dot", code=2)
    validator("reuse").validate(offline("reuse", "--json").json)
