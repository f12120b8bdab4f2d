"""The walk: sums that add up, an order that holds, and the same answer from several processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from layerscope.analysis.summary import summarize
from layerscope.analysis.totals import Summary
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import PathVersions
from layerscope.overlay.walk import Walker
from tests.kernel import stack_of
from tests.layers import (
    OPAQUE,
    WHITEOUT,
    Content,
    HardLink,
    directory,
    make_layers,
    walk,
)
from tests.overlay.conftest import assert_hiders_agree_with_heights
from tests.random_layers import USER, Drawn, contents, contents_with_redirects, quick, stack_from

# -- sums ----------------------------------------------------------------------------------------------------


@quick
@given(contents)
def test_bytes_of_all_layers_are_merged_and_hidden_bytes(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        found = summarize(Walker(stack), jobs=1)
    total = sum(totals.size_bytes for totals in found.layers)
    assert total == found.merged.size_bytes + sum(amount.size_bytes for amount in found.hidden.values())
    assert_hidden_adds_up(found)


@quick
@given(contents_with_redirects)
def test_hidden_bytes_are_the_same_by_reason_by_layer_and_by_who_hides_them(
    layers: list[Drawn],
) -> None:
    with stack_from(layers) as stack:
        found = summarize(Walker(stack), jobs=1)
    assert_hidden_adds_up(found)


def assert_hidden_adds_up(found: Summary) -> None:
    for amount in ("files", "size_bytes"):
        by_reason = sum(getattr(hidden, amount) for hidden in found.hidden.values())
        assert by_reason == sum(getattr(layer.hidden, amount) for layer in found.layers)
        assert by_reason == sum(getattr(layer.hides, amount) for layer in found.layers)


@quick
@given(contents)
def test_sums_are_those_of_the_version_stream(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        found = summarize(Walker(stack), jobs=1)
        stream = walk(stack)
    visible = [versions.visible for versions in stream if versions.visible is not None]
    kinds = [version.entry.kind for version in visible]
    merged = found.merged
    assert merged.files == kinds.count(Kind.FILE)
    assert merged.directories == kinds.count(Kind.DIRECTORY)
    assert merged.symlinks == kinds.count(Kind.SYMLINK)
    assert merged.other == len(kinds) - merged.files - merged.directories - merged.symlinks
    inodes = {
        (version.entry.stat.st_dev, version.entry.stat.st_ino): version.entry.stat.st_size
        for version in visible
        if not version.entry.is_directory
    }
    assert merged.size_bytes == sum(inodes.values())
    files = [
        version
        for versions in stream
        for version in versions.versions
        if version.hidden_by is not None and version.entry.kind not in (Kind.DIRECTORY, Kind.WHITEOUT)
    ]
    assert sum(amount.files for amount in found.hidden.values()) == len(files)


@quick
@given(contents)
def test_allocated_bytes_of_a_layer_are_what_du_counts(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        found = summarize(Walker(stack), jobs=1)
        directories = [layer.diff_dir for layer in stack]
        counted = subprocess.run(["du", "-s", "--block-size=1", *directories], capture_output=True, check=True)
    du = [int(line.split()[0]) for line in counted.stdout.splitlines()]
    assert [totals.allocated_bytes for totals in found.layers] == du


@quick
@given(contents)
def test_first_layer_that_hides_a_version_is_named(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        assert_hiders_agree_with_heights(stack)


@quick
@given(contents_with_redirects)
def test_stream_is_in_tree_order_and_names_every_entry(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        stream = walk(stack)
        on_disk = {
            (layer.index, os.path.relpath(os.path.join(base, name), layer.diff_dir))
            for layer in stack
            for base, directories, files in os.walk(layer.diff_dir)
            for name in directories + files
        }
    order = [[os.fsencode(name) for name in versions.path.split("/")] for versions in stream]
    assert order == sorted(order), "a directory, then its children by name, bytewise"
    assert len({versions.path for versions in stream}) == len(stream)
    at_home = [(v.layer, versions.path) for versions in stream for v in versions.versions if not v.moved]
    assert sorted(at_home) == sorted(on_disk), "each entry of each layer once"


# -- several processes ---------------------------------------------------------------------------------------


BUSY: tuple[Content, ...] = (
    {f"d{i}/e{j}/{k}": f"{i}{j}{k}" * i for i in range(4) for j in range(3) for k in range(4)} | {"x": "1"},
    {"d0": OPAQUE, "d0/e0/new": "2", "d1": WHITEOUT, "d2/e1": "file", "x": WHITEOUT, "d3/h": HardLink("d2/e1")},
    {"d1/e0/0": "again", "d4": directory(redirect=b"/d3"), "d3": WHITEOUT, "d2/e0/0": "changed", "y/x": "3"},
)


@pytest.mark.parametrize("jobs", [2, 3])
def test_more_processes_find_the_same(tmp_path: Path, small_shares: None, jobs: int) -> None:
    stack = stack_of(make_layers(tmp_path, *BUSY, family=USER), USER, follow_redirects=True)
    alone, together = (summarize(Walker(stack), jobs=count) for count in (1, jobs))
    assert together == alone
    assert alone.merged.files > 20


@settings(quick, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents_with_redirects)
def test_random_stacks_are_the_same_in_two_processes(small_shares: None, layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        assert summarize(Walker(stack), jobs=2) == summarize(Walker(stack), jobs=1)


def test_frames_sent_to_another_process_give_the_same_versions(tmp_path: Path) -> None:
    stack = stack_of(make_layers(tmp_path, *BUSY, family=USER), USER, follow_redirects=True)
    here, there = Walker(stack), Walker(stack)
    listed = [facts(listing.paths()) for listing in here.walk()]
    pending = [there.root_frame]
    sent = []
    while pending:
        listing = there.listing(there.unpack(there.pack(pending.pop())))
        pending += reversed(there.children(listing))
        sent.append(facts(listing.paths()))
    assert sent == listed


def facts(stream: list[PathVersions]) -> list[tuple[object, ...]]:
    """The stream without descriptors: comparable between walks."""
    return [
        (versions.path, versions.error, v.layer, v.source, v.since, v.visible, v.hidden_by, v.moved, v.entry.marks)
        for versions in stream
        for v in versions.versions
    ]
