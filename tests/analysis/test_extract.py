"""Extraction: what is written is what the layer holds, and nothing is written anywhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from layerscope.analysis.extract import Extracted, ExtractOptions, extract
from layerscope.analysis.trace import locate
from layerscope.errors import OutputError
from layerscope.model import Cautions, XattrFamily
from layerscope.overlay.walk import Walker
from tests.kernel import stack_of
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
    make_layers,
    symlink,
)

USER = XattrFamily.USER
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="making devices and giving files away needs root")


class Taken:
    """Extracts from layers into ``out``, beside them."""

    def __init__(self, work: Path, *contents: Content) -> None:
        self.layers = make_layers(work, *contents, family=USER)
        self.out = work / "out"
        self.cautions = Cautions()

    def __call__(
        self, path: str, layer: int | None = None, *, devices: bool = False, owners: bool = False
    ) -> Extracted:
        walker = Walker(stack_of(self.layers, USER, follow_redirects=True, metacopy=True))
        options = ExtractOptions(layer, devices, owners)
        return extract(walker, locate(walker, path), str(self.out), options, self.cautions)

    @property
    def written(self) -> list[str]:
        return sorted(
            os.path.relpath(os.path.join(base, name), self.out)
            for base, directories, files in os.walk(self.out)
            for name in directories + files
        )


# -- what is written -----------------------------------------------------------------------------------------


def test_visible_versions_of_a_directory(tmp_path: Path) -> None:
    take = Taken(
        tmp_path,
        {"app/old": "1", "app/same": "2", "app/sub/x": "3", "app/gone/y": "4", "other": "5"},
        {"app/old": "changed", "app/gone": WHITEOUT, "app/link": symlink("old"), "app/empty": DIRECTORY},
    )
    done = take("app")
    assert take.written == ["app", "app/empty", "app/link", "app/old", "app/same", "app/sub", "app/sub/x"]
    assert (take.out / "app/old").read_text() == "changed"
    assert os.readlink(take.out / "app/link") == "old"
    assert (done.files, done.directories, done.symlinks, done.other, done.size_bytes) == (3, 3, 1, 0, 9)
    assert done.skipped == []


def test_versions_of_one_layer_hidden_ones_too(tmp_path: Path) -> None:
    take = Taken(
        tmp_path, {"d/a": "first", "d/b": "kept"}, {"d/a": "second"}, {"d": WHITEOUT}, {"d": OPAQUE, "d/new": "x"}
    )
    take("d", layer=0)
    assert take.written == ["d", "d/a", "d/b"]
    assert (take.out / "d/a").read_text() == "first"


def test_single_file_lands_under_its_own_name(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"very/deep/file": "x"})
    take("/very/deep/file")
    assert take.written == ["file"]


def test_modes_and_times_are_kept_of_read_only_directories_too(tmp_path: Path) -> None:
    take = Taken(
        tmp_path,
        {
            "d": directory(mode=0o500, mtime=111),
            "d/f": file("x", mode=0o640, mtime=222),
            "d/g": file("x", mode=0o000, mtime=0),
            "d/s": symlink("f"),
            "d/e": directory(mode=0o1777, mtime=333),
            "d/e/x": file("y", mtime=-5),
        },
    )
    take("d")
    found = {path: os.lstat(take.out / path) for path in take.written}
    assert {path: stat.S_IMODE(found[path].st_mode) for path in ("d", "d/f", "d/g", "d/e")} == {
        "d": 0o500, "d/f": 0o640, "d/g": 0o000, "d/e": 0o1777,
    }  # fmt: skip
    assert {path: status.st_mtime for path, status in found.items()} == {
        "d": 111, "d/f": 222, "d/g": 0, "d/e": 333, "d/e/x": -5, "d/s": 1_700_000_000,
    }  # fmt: skip
    (take.out / "d").chmod(0o700)


@needs_root
def test_set_user_id_bits_and_owners_only_together(tmp_path: Path) -> None:
    content: Content = {
        "d": directory(mode=0o2755, owner=(5, 6)),
        "d/su": file("x", mode=0o4755, owner=(7, 8)),
        "d/sg": file("x", mode=0o2755, owner=(7, 8)),
    }
    for owners in (False, True):
        take = Taken(tmp_path / str(owners), content)
        take("d", owners=owners)
        modes = [stat.S_IMODE(os.stat(take.out / path).st_mode) for path in ("d", "d/su", "d/sg")]
        assert modes == ([0o2755, 0o4755, 0o2755] if owners else [0o755, 0o755, 0o755])
        given = {(os.stat(take.out / path).st_uid, os.stat(take.out / path).st_gid) for path in ("d/su", "d/sg")}
        assert given == {(7, 8) if owners else (os.geteuid(), os.getegid())}


def test_hard_links_come_out_as_files_of_their_own(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"d/a": "same", "d/b": HardLink("d/a")})
    take("d")
    assert [(take.out / path).read_text() for path in ("d/a", "d/b")] == ["same", "same"]
    (take.out / "d/a").write_text("mine")
    assert (tmp_path / "layer0/d/a").read_text() == "same", "never a link to the layer's own inode"


def test_sparse_files_stay_sparse(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"big": file("head", hole=1 << 30), "hole": file(hole=1 << 40), "empty": ""})
    for name in ("big", "hole", "empty"):
        take(name)
    assert os.stat(take.out / "big").st_size == (1 << 30) + 4
    assert os.stat(take.out / "hole").st_size == 1 << 40
    assert os.stat(take.out / "big").st_blocks + os.stat(take.out / "hole").st_blocks < 64
    with (take.out / "big").open("rb") as file_:
        assert file_.read(4) == b"head"


def test_metacopy_file_has_its_content_and_its_own_mode(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"f": file("content", mode=0o600)}, {"f": file(hole=7, mode=0o751, metacopy=b"")})
    take("f")
    assert (take.out / "f").read_text() == "content"
    assert stat.S_IMODE((take.out / "f").stat().st_mode) == 0o751


def test_renamed_directory_comes_under_its_new_name(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"old/a": "1"}, {"old": WHITEOUT, "new": directory(redirect=b"old"), "new/b": "2"})
    take("new")
    assert take.written == ["new", "new/a", "new/b"]


def test_hostile_names(tmp_path: Path) -> None:
    names = ["new\nline", "\x1b[2J", "not-utf8-\udcff", "-rf", "a:b"]
    take = Taken(tmp_path, {f"d/{name}": name.encode(errors="surrogateescape") for name in names})
    take("d")
    assert take.written == sorted(["d", *(f"d/{name}" for name in names)])


def test_deep_tree(tmp_path: Path) -> None:
    path = "/".join(["d"] * 300)
    take = Taken(tmp_path, {f"{path}/f": "bottom"})
    assert take("d").directories == 300
    assert (take.out / path / "f").read_text() == "bottom"


# -- what is left out ----------------------------------------------------------------------------------------


def test_special_files_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"d/fifo": FIFO, "d/socket": SOCKET, "d/file": "x"})
    done = take("d")
    assert take.written == ["d", "d/file"]
    assert done.skipped == ["d/fifo", "d/socket"]
    assert [caution.code for caution in take.cautions] == ["not-extracted", "not-extracted"]
    take.out = tmp_path / "again"
    done = take("d", devices=True)
    assert stat.S_ISFIFO(os.stat(take.out / "d/fifo").st_mode)
    assert stat.S_ISSOCK(os.stat(take.out / "d/socket").st_mode)
    assert (done.other, done.skipped) == (2, [])


@needs_root
def test_devices_only_if_asked_for_and_whiteouts_never(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"d/null": character(1, 3), "d/disk": block(8, 1), "d/gone": WHITEOUT})
    take("d")
    assert take.written == ["d"]
    take.out = tmp_path / "again"
    take("d", devices=True)
    assert take.written == ["d", "d/disk", "d/null"]
    made = os.stat(take.out / "d/null")
    assert (os.major(made.st_rdev), os.minor(made.st_rdev)) == (1, 3)
    take.out = tmp_path / "by-layer"
    take("d", 0, devices=True)
    assert take.written == ["d", "d/disk", "d/null"]


@needs_root
def test_modes_times_and_owners_of_special_files(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"null": Node(stat.S_IFCHR, device=(1, 3), mode=0o666, owner=(5, 6), mtime=7)})
    take("null", devices=True, owners=True)
    made = os.stat(take.out / "null")
    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid, made.st_mtime) == (0o666, 5, 6, 7)


def test_file_that_cannot_be_read_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"d/f": file(hole=7, metacopy=b""), "d/ok": "x"})
    done = take("d", layer=0)
    assert done.skipped == ["d/f"]
    assert take.written == ["d", "d/ok"]


# -- nothing is written elsewhere ----------------------------------------------------------------------------


def test_nothing_that_exists_is_replaced(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"f": "new", "d/x": "new", "s": symlink("new")})
    take.out.mkdir()
    for name in ("f", "s"):
        (take.out / name).write_text("precious")
    (take.out / "d").mkdir()
    (take.out / "d/mine").write_text("precious")
    for path in ("f", "d", "s"):
        with pytest.raises(OutputError):
            take(path)
    assert take.written == ["d", "d/mine", "f", "s"]
    assert (take.out / "f").read_text() == (take.out / "s").read_text() == "precious"


@pytest.mark.parametrize("dangling", [False, True])
def test_symlinks_in_the_destination_are_not_followed(tmp_path: Path, dangling: bool) -> None:
    take = Taken(tmp_path, {"f": "new", "d/x": "new"})
    take.out.mkdir()
    outside = tmp_path / "outside"
    if not dangling:
        outside.mkdir()
    for name in ("f", "d"):
        (take.out / name).symlink_to(outside)
        with pytest.raises(OutputError):
            take(name)
    assert not outside.exists() or not any(outside.iterdir())


def test_symlinks_in_the_layer_are_written_and_never_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    # Below the top layer's symlink lies a directory of the same name, with a file that must not land outside.
    take = Taken(
        tmp_path,
        {"d/way/file": "x", "d/up": symlink("../../outside"), "d/up2/x": "y"},
        {"d/way": symlink(str(outside)), "d/abs": symlink("/etc/passwd")},
    )
    take("d")
    assert take.written == ["d", "d/abs", "d/up", "d/up2", "d/up2/x", "d/way"]
    assert os.readlink(take.out / "d/way") == str(outside)
    assert not any(outside.iterdir())


def test_destination_that_is_made_and_destination_that_can_not_be(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"f": "x"})
    take.out = tmp_path / "some/new/place"
    take("f")
    assert take.written == ["f"]
    take.out = tmp_path / "some/new/place/f"
    with pytest.raises(OutputError):
        take("f")


def test_the_layer_is_never_written_to(tmp_path: Path) -> None:
    take = Taken(tmp_path, {"d": directory(mtime=9), "d/f": file("x", mtime=9, mode=0o444)})
    layer = take.layers[0]
    before = [(os.lstat(layer / path).st_ctime_ns, os.lstat(layer / path).st_mtime) for path in ("", "d", "d/f")]
    take("d")
    after = [(os.lstat(layer / path).st_ctime_ns, os.lstat(layer / path).st_mtime) for path in ("", "d", "d/f")]
    assert before == after
