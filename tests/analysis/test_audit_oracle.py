"""What an audit calls visible is what a mount of the same layers shows; what it finds is what lies on disk."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from layerscope.analysis.audit import Means, Subject, audit
from layerscope.analysis.exposure import Exposure
from layerscope.analysis.findings import Finding
from layerscope.model import Cautions, Stack, Target, TargetKind, XattrFamily
from layerscope.secrets.engine import Scanner
from layerscope.secrets.rules_file import own_rules
from tests.kernel import can_mount, mount_options, mounted, remove_tree, stack_of
from tests.secrets.specimens import github_token

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not can_mount(), reason="mounting overlayfs needs root"),
]

STACKS = int(os.environ.get("LAYERSCOPE_RANDOM_STACKS", "170")) // 3
TOKEN = re.compile(r"ghp_[A-Za-z0-9]{36}")
paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)


@cache
def means() -> Means:
    scanner = Scanner(own_rules().select(only=["github-personal-access-token"]))
    return Means(scanner, scanner, jobs=1, reveal=True)


def _write(root: Path, path: str, other: str, number: int) -> None:
    if (root / path).is_dir():
        raise IsADirectoryError
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"token={github_token(number)}\n")


def _remove(root: Path, path: str, other: str, number: int) -> None:
    remove_tree(root / path) if (root / path).is_dir() else (root / path).unlink()


def _replace(root: Path, path: str, other: str, number: int) -> None:
    _remove(root, path, other, number)
    (root / path).mkdir()


OPERATIONS: dict[str, Callable[[Path, str, str, int], object]] = {
    "write": _write,
    "remove": _remove,
    "replace": _replace,
    "rename": lambda root, path, other, number: os.rename(root / path, root / other),
    "link": lambda root, path, other, number: os.link(root / other, root / path),
    "chmod": lambda root, path, other, number: os.chmod(root / path, 0o700 + number % 0o100),
}
Operations = list[list[tuple[str, str, str, int]]]
numbers = st.integers(0, 999)
operation = st.one_of(
    st.tuples(st.just("write"), paths, paths, numbers),
    st.tuples(st.sampled_from(sorted(OPERATIONS)), paths, paths, numbers),
)
kernel_options = st.sampled_from(["", "redirect_dir=on", "redirect_dir=on,metacopy=on"])


def make(work: Path, operations: Operations, extra: str) -> list[Path]:
    """Layers that the kernel wrote in mounts, base first."""
    layers: list[Path] = []
    for index, made in enumerate(operations):
        upper = work / f"layer{index}"
        upper.mkdir()
        (work / f"work{index}").mkdir()
        options = (
            mount_options(layers, XattrFamily.TRUSTED, extra) + f",upperdir={upper},workdir={work}/work{index}"
        )
        if layers:
            with mounted(work / "merged", options) as root:
                apply(root, made)
        else:
            apply(upper, made)
        layers.append(upper)
    return layers


def apply(root: Path, operations: list[tuple[str, str, str, int]]) -> None:
    for name, path, other, number in operations:
        with suppress(OSError):
            OPERATIONS[name](root, path, other, number)


def tokens_in(root: Path) -> set[tuple[str, str]]:
    """Path and token of every file below a directory."""
    found = set()
    for base, _, names in os.walk(root):
        for name in names:
            place = Path(base, name)
            if place.is_file() and not place.is_symlink():
                for token in TOKEN.findall(place.read_bytes().decode("latin-1")):
                    found.add((str(place.relative_to(root)), token))
    return found


def findings(stack: Stack) -> tuple[Finding, ...]:
    cautions = Cautions()
    target = Target(TargetKind.MOUNT, None, "stack", stack)
    found = audit([Subject(target)], means(), warn=cautions)
    assert list(cautions) == []
    return found.findings


@settings(max_examples=STACKS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(operations=st.lists(st.lists(operation, max_size=8), min_size=2, max_size=5), extra=kernel_options)
@example(
    [[("write", "a/b", "", 1)], [("rename", "a", "c", 0)], [("chmod", "c/b", "", 0)]], "redirect_dir=on,metacopy=on"
)
@example([[("write", "a/b", "", 1)], [("rename", "a", "c", 0)], [("remove", "c", "", 0)]], "redirect_dir=on")
@example(
    [[("write", "a", "", 1)], [("rename", "a", "b", 1)], [("write", "b", "", 2)]], "redirect_dir=on,metacopy=on"
)
@example([[("write", "a/b/c", "", 1)], [("rename", "a/b", "c", 1)], [("rename", "c", "b", 2)]], "redirect_dir=on")
@example([[("write", "a", "", 1)], [("link", "b", "a", 1), ("chmod", "a", "", 2)], [("remove", "a", "", 0)]], "")
@example(
    [[("write", "b", "a", 0), ("write", "a/a", "a", 0)], [("write", "a", "a", 0), ("link", "a/b", "a/a", 0)]],
    "redirect_dir=on,metacopy=on",
)
def test_visible_is_what_a_mount_shows_and_all_is_found(operations: Operations, extra: str) -> None:
    work = Path(tempfile.mkdtemp(prefix="layerscope-audit-"))
    try:
        layers = make(work, operations, extra)
        with mounted(work / "merged", mount_options(layers, XattrFamily.TRUSTED, extra)) as root:
            shown = tokens_in(root)
        found = findings(stack_of(layers, metacopy="metacopy=on" in extra))
        visible = {
            (one.shown_at or one.path, (one.secret or b"").decode())
            for one in found
            if one.exposure is Exposure.VISIBLE
        }
        # A place on disk is told once, though several names of a mount may show it: hard links to a renamed file.
        assert visible <= shown
        assert {token for _, token in visible} == {token for _, token in shown}
        on_disk = {(index, *place) for index, layer in enumerate(layers) for place in tokens_in(layer)}
        assert {(one.layer.index, one.path, (one.secret or b"").decode()) for one in found if one.layer} == on_disk
        for one in found:
            assert (one.hidden_by is None) is (one.exposure is Exposure.VISIBLE)
            if one.hidden_by is not None and one.layer is not None:
                assert one.hidden_by.layer.index > one.layer.index
    finally:
        remove_tree(work)
