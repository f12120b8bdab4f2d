"""`overlay MOUNTPOINT` and `diff` on real mounts, in every spelling of their options: the mount is the truth."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.dataroot import OPAQUE, WHITEOUT, put
from tests.kernel import MNT_DETACH, can_mount, mounted
from tests.stores.offline import InProcess, failure_of

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not can_mount(), reason="takes root and overlayfs"),
]

_libc = ctypes.CDLL(None, use_errno=True)
FSOPEN, FSCONFIG, FSMOUNT, MOVE_MOUNT = 430, 431, 432, 429
"""Numbers of system calls, the same on every architecture but alpha."""
SET_FLAG, SET_STRING, CREATE = 0, 1, 6
EMPTY_PATH, AT_FDCWD = 0x4, -100


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    monkeypatch.chdir(tmp_path)
    return InProcess(tmp_path)


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    """Three layer directories, base first."""
    return make_layers(tmp_path, ["base", "middle", "top"])


def make_layers(place: Path, names: Sequence[str]) -> list[Path]:
    contents = (
        {"same": "1", "changed": "old", "deleted": "x", "replaced/old": "x", "dir/below": "x"},
        {"changed": "newer", "deleted": WHITEOUT, "dir/more": "y"},
        {"replaced": OPAQUE, "replaced/new": "z", "top-only": "t"},
    )
    made = []
    for name, files in zip(names, contents, strict=True):
        for path, file in files.items():
            put(place / name / path, file)
        made.append(place / name)
    return made


def shows(cli: InProcess, point: Path, directories: Sequence[Path]) -> None:
    """Insist that layerscope finds these directories, base first, and sees what the mount shows."""
    answer = cli.ok("overlay", str(point), "--json").json
    assert answer["warnings"] == []
    found = [os.fsencode(layer["diff_dir"]) if "diff_dir_b64" not in layer else b"" for layer in answer["layers"]]
    assert found == [os.fsencode(directory) for directory in directories]
    files = cli.ok("files", str(point), "--visible", "--format", "jsonl").lines
    seen = {line["path"]: line["size_bytes"] for line in files if line["kind"] == "file"}
    assert seen == {
        str(path.relative_to(point)): path.stat().st_size for path in point.rglob("*") if path.is_file()
    }
    assert answer["merged"]["size_bytes"] == sum(seen.values())


def escaped(path: Path) -> str:
    """A path as a part of `lowerdir=`: mount(8) splits at commas, the kernel at colons."""
    return str(path).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def lowerdir(layers: Sequence[Path]) -> str:
    return "lowerdir=" + ":".join(escaped(layer) for layer in reversed(layers))


def test_lower_directories(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    with mounted(tmp_path / "merged", lowerdir(layers)) as point:
        shows(cli, point, layers)


def test_upper_directory(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    with mounted(tmp_path / "merged", f"{lowerdir(layers)},upperdir={upper},workdir={work}") as point:
        (point / "same").write_text("copied up")
        (point / "dir/below").unlink()
        shows(cli, point, [*layers, upper])
        roles = [layer["role"] for layer in cli.ok("overlay", str(point), "--json").json["layers"]]
        assert roles == ["lower", "lower", "lower", "upper"]


def test_relative_directories(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    with mounted(tmp_path / "merged", "lowerdir=top:middle:base") as point:
        shows(cli, point, layers)


@pytest.mark.parametrize("elsewhere", ["/", "inside"])
def test_relative_directories_seen_from_elsewhere(
    cli: InProcess, tmp_path: Path, layers: list[Path], monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    with mounted(tmp_path / "merged", "lowerdir=top:middle:base") as point:
        monkeypatch.chdir("/" if elsewhere == "/" else layers[0])
        shows(cli, point, layers)


@pytest.mark.parametrize(
    "name",
    [
        "a space",
        "a,comma",
        "a:colon",
        "back\\slash",
        "a\ttab",
        "new\nline",
        "hash#",
        "büro 日本",
        "\\040",
        "a\\,b\\:c",
    ],
)
def test_names_that_options_must_escape(cli: InProcess, tmp_path: Path, name: str) -> None:
    layers = make_layers(tmp_path, [f"{name} 1", f"{name} 2", f"{name} 3"])
    with mounted(tmp_path / f"merged {name}", lowerdir(layers)) as point:
        shows(cli, point, layers)


def test_names_that_an_upper_directory_must_escape(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    upper, work = tmp_path / "up, per", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    with mounted(tmp_path / "merged", f"{lowerdir(layers)},upperdir={escaped(upper)},workdir={work}") as point:
        (point / "same").write_text("copied up")
        shows(cli, point, [*layers, upper])


# -- the new mount API -----------------------------------------------------------------------------------------


@contextmanager
def newly_mounted(point: Path, options: Sequence[tuple[str, str | None]]) -> Iterator[Path]:
    """An overlay made by fsopen(2), fsconfig(2), fsmount(2), move_mount(2). Skips where the kernel is too old."""
    if platform.machine() == "alpha":
        pytest.skip("system calls have other numbers here")
    point.mkdir(exist_ok=True)
    context = _libc.syscall(FSOPEN, b"overlay", 0)
    if context < 0:
        pytest.skip(f"no fsopen(2): {os.strerror(ctypes.get_errno())}")
    try:
        for name, value in options:
            kind = SET_FLAG if value is None else SET_STRING
            encoded = None if value is None else os.fsencode(value)
            if _libc.syscall(FSCONFIG, context, kind, name.encode(), encoded, 0) < 0:
                pytest.skip(f"this kernel does not take {name}: {os.strerror(ctypes.get_errno())}")
        assert _libc.syscall(FSCONFIG, context, CREATE, None, None, 0) == 0, os.strerror(ctypes.get_errno())
        mount = _libc.syscall(FSMOUNT, context, 0, 0)
    finally:
        os.close(context)
    moved = _libc.syscall(MOVE_MOUNT, mount, b"", AT_FDCWD, os.fsencode(point), EMPTY_PATH)
    os.close(mount)
    assert moved == 0, os.strerror(ctypes.get_errno())
    try:
        yield point
    finally:
        _libc.umount2(os.fsencode(point), MNT_DETACH)


@pytest.mark.parametrize("name", ["plain", "a:colon, a comma and \\"])
def test_directories_given_one_by_one(cli: InProcess, tmp_path: Path, name: str) -> None:
    layers = make_layers(tmp_path, [f"{name} 1", f"{name} 2", f"{name} 3"])
    with newly_mounted(tmp_path / "merged", [("lowerdir+", str(layer)) for layer in reversed(layers)]) as point:
        shows(cli, point, layers)


def test_data_only_directories_add_no_names(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    put(tmp_path / "data 1/object", "x")
    put(tmp_path / "data 2/object", "x")
    options = [("metacopy", "on")] + [("lowerdir+", str(layer)) for layer in reversed(layers)]
    data = [str(tmp_path / "data 1"), str(tmp_path / "data 2")]
    with newly_mounted(tmp_path / "merged", options + [("datadir+", directory) for directory in data]) as point:
        shows(cli, point, layers)
        assert cli.ok("overlay", str(point), "--json").json["options"]["data_dirs"] == data


# -- which mount -----------------------------------------------------------------------------------------------


def test_the_top_one_of_several_mounts_counts(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    with (
        mounted(tmp_path / "merged", lowerdir(layers)) as point,
        mounted(tmp_path / "merged", lowerdir(layers[:2])),
    ):
        shows(cli, point, layers[:2])


def test_a_link_to_a_mount_point_will_do(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    with mounted(tmp_path / "merged", lowerdir(layers)) as point:
        (tmp_path / "link").symlink_to("merged")
        told = [cli.ok("overlay", name).out for name in (str(point), "merged", "link", "./merged/", f"{point}/")]
        assert len(set(told)) == 1


def test_what_is_no_mount_point(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    with mounted(tmp_path / "merged", lowerdir(layers)) as point:
        inside = failure_of(cli("overlay", str(point / "dir")))
        assert "nothing is mounted" in inside.message and str(point) in inside.hint
        beside = failure_of(cli("overlay", str(layers[0])))
        assert "nothing is mounted" in beside.message
        other = failure_of(cli("overlay", "/proc"))
        assert "type proc" in other.message
    failure_of(cli("overlay", str(point)))


def test_a_layer_that_is_gone_is_named(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    with mounted(tmp_path / "merged", lowerdir(layers)) as point:
        layers[1].rename(tmp_path / "moved")
        assert str(layers[1]) in failure_of(cli("overlay", str(point))).message


# -- two mounts ------------------------------------------------------------------------------------------------


def test_diff_of_two_mounts_that_share_directories(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    uppers = {}
    with ExitStack() as stack:
        points = []
        for name in ("one", "two"):
            uppers[name] = tmp_path / f"upper-{name}"
            uppers[name].mkdir()
            (tmp_path / f"work-{name}").mkdir()
            options = f"{lowerdir(layers)},upperdir={uppers[name]},workdir={tmp_path}/work-{name}"
            points.append(stack.enter_context(mounted(tmp_path / name, options)))
        one, two = points
        assert cli.ok("diff", str(one), str(two), "--json").json["changes"] == []
        (one / "only-one").write_text("1")
        (two / "dir/only-two").write_text("2")
        (two / "same").unlink()
        (one / "changed").write_text("in one")
        (two / "changed").write_text("in two, longer")
        told = cli.ok("diff", str(one), str(two), "--json").json
    assert [(item["change"], item["path"]) for item in told["changes"]] == [
        ("modified", "changed"),
        ("modified", "dir"),
        ("added", "dir/only-two"),
        ("deleted", "only-one"),
        ("deleted", "same"),
    ]
    assert (told["old"]["name"], told["new"]["name"]) == (str(one), str(two))


def test_trace_and_cat_of_a_mount(cli: InProcess, tmp_path: Path, layers: list[Path]) -> None:
    with mounted(tmp_path / "merged", lowerdir(layers)) as point:
        assert cli.ok("cat", str(point), "changed").out == "newer"
        assert cli.ok("cat", str(point), "replaced/old", "--layer", "0").out == "x"
        events = cli.ok("trace", str(point), "deleted", "--json").json["events"]
        assert [(event["layer"], event["event"]) for event in events] == [(0, "added"), (1, "deleted")]
