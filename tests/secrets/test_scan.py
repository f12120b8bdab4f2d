"""The scan of whole layers: each inode once, nothing opened that is no file, and nothing left out in silence."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from layerscope.model import XattrFamily
from layerscope.overlay import tree
from layerscope.overlay.files import OpenFile
from layerscope.secrets import scan as scanning
from layerscope.secrets.engine import FileScan, Scanner
from layerscope.secrets.hits import LayerScan
from layerscope.secrets.match import Confidence
from layerscope.secrets.rules_file import own_rules
from layerscope.secrets.scan import LayerSource, scan_layers
from tests.layers import FIFO, SOCKET, WHITEOUT, Content, HardLink, character, file, make_layer, metacopy, symlink
from tests.secrets.specimens import github_token

TOKEN = github_token(1)
LINE = f"token {TOKEN}\n"


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(own_rules().select(only=["github-*", "environment-file-*"]))


class Scan:
    """Scans layer directories."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner

    def all(self, layers: Sequence[Path], jobs: int = 1) -> list[LayerScan]:
        sources = [LayerSource(str(layer), XattrFamily.TRUSTED) for layer in layers]
        found = dict(scan_layers(sources, self.scanner, jobs=jobs))
        return [found[index] for index in range(len(layers))]

    def __call__(self, layer: Path, jobs: int = 1) -> LayerScan:
        return self.all([layer], jobs)[0]


@pytest.fixture
def scan(scanner: Scanner) -> Scan:
    return Scan(scanner)


def places(found: LayerScan) -> list[tuple[str, int]]:
    return [(hit.path, hit.offset) for hit in found.hits]


def test_only_regular_files_are_opened(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content: Content = {
        "file": LINE,
        "empty": "",
        "fifo": FIFO,
        "socket": SOCKET,
        "link": symlink("file"),
        "gone": WHITEOUT,
        **({"null": character(1, 3)} if os.geteuid() == 0 else {}),
    }
    layer = make_layer(tmp_path / "layer", content)
    opened: list[str] = []
    real = tree.open_untouched

    def note(name: str, flags: int, dir_fd: int | None = None) -> int:
        if not flags & os.O_DIRECTORY:
            opened.append(name)
        return real(name, flags, dir_fd)

    monkeypatch.setattr(tree, "open_untouched", note)
    found = scan(layer)
    assert sorted(opened) == ["empty", "file"]
    assert (found.files, found.size_bytes, found.skips) == (2, len(LINE), ())
    assert places(found) == [("file", 6)]


def test_a_hard_link_is_read_once_and_told_at_each_name(scan: Scan, tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "layer", {"b/two": LINE, "a": HardLink("b/two"), "c": HardLink("b/two")})
    found = scan(layer)
    assert places(found) == [("a", 6), ("b/two", 6), ("c", 6)]
    assert (found.files, found.size_bytes) == (1, len(LINE))


def test_a_name_that_a_rule_knows_is_judged_by_itself(scan: Scan, tmp_path: Path) -> None:
    """The same inode is a credential file under one name and nothing under the other."""
    text = "DB_PASSWORD=hx72Kd9sQwzP\n"
    for first, second in ((".env", "zzz"), ("zzz", ".env")):
        layer = make_layer(tmp_path / first, {first: text, second: HardLink(first)})
        assert [hit.path for hit in scan(layer).hits] == [".env"]


def test_a_binary_of_many_names_is_scanned_once(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content: Content = {"bin/busybox": b"\x7fELF\0\0" + LINE.encode()}
    links = {f"bin/applet{number}": HardLink("bin/busybox") for number in range(50)}
    layer = make_layer(tmp_path / "layer", {**content, **links})
    scanned: list[str] = []
    real = Scanner.scan_small

    def note(self: Scanner, files: Sequence[tuple[str, bytes]]) -> list[FileScan]:
        scanned.extend(path for path, _ in files)
        return real(self, files)

    monkeypatch.setattr(Scanner, "scan_small", note)
    assert len(scan(layer).hits) == 51
    assert len(scanned) == 1


def test_a_long_hole_is_not_read(scan: Scan, tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "layer", {})
    length = 1 << 40
    with (layer / "sparse").open("wb") as sparse:
        sparse.write(LINE.encode())
        sparse.seek(length)
        sparse.write(LINE.encode())
    found = scan(layer)
    assert places(found) == [("sparse", 6), ("sparse", length + 6)]
    assert [hit.line for hit in found.hits] == [None, None]  # with zero bytes behind it, the line is none
    assert found.size_bytes == length + len(LINE)


def test_a_file_of_holes_alone_is_no_trouble(scan: Scan, tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "layer", {"hole": file(hole=1 << 40), "file": LINE})
    assert places(scan(layer)) == [("file", 6)]


@pytest.mark.skipif(os.geteuid() != 0, reason="trusted xattrs need root")
def test_a_metacopy_file_has_no_content(scan: Scan, tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "layer", {"meta": metacopy(5 << 20), "file": LINE})
    found = scan(layer)
    assert (found.files, found.redirects) == (1, False)
    moved = make_layer(tmp_path / "moved", {"meta": metacopy(5 << 20, "other")})
    assert scan(moved).redirects


def test_a_large_file_is_scanned_to_its_end(scan: Scan, tmp_path: Path) -> None:
    filler = b"x" * (20 << 20)
    layer = make_layer(tmp_path / "layer", {"large": filler + b" " + LINE.encode()})
    assert places(scan(layer)) == [("large", len(filler) + 7)]


def test_workers_change_no_result(scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "BATCH_FILES", 7)
    layers = [
        make_layer(
            tmp_path / f"layer{number}",
            {f"d{index % 5}/f{index}": f"{index}\n{LINE if index % 3 == 0 else ''}" for index in range(40)},
        )
        for number in range(3)
    ]
    layers.append(make_layer(tmp_path / "empty", {}))
    alone = scan.all(layers)
    assert [len(found.hits) for found in alone] == [14, 14, 14, 0]
    assert scan.all(layers, jobs=2) == scan.all(layers, jobs=5) == alone


def test_a_missing_layer_is_skipped_with_the_reason(scan: Scan, tmp_path: Path) -> None:
    good = make_layer(tmp_path / "good", {"file": LINE})
    gone, found = scan.all([tmp_path / "missing", good])
    assert [(skip.path, skip.lasting) for skip in gone.skips] == [("", False)]
    assert places(found) == [("file", 6)]


def test_a_file_that_vanishes_is_skipped_with_the_reason(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(tmp_path / "layer", {"a": LINE, "b": LINE, "c": LINE})
    real = tree.Directory.open_file

    def open_file(self: tree.Directory, name: str) -> Any:
        if name == "b":
            (layer / "b").unlink(missing_ok=True)
        if name == "c":
            (layer / "c").unlink()
            os.mkfifo(layer / "c")
        return real(self, name)

    monkeypatch.setattr(tree.Directory, "open_file", open_file)
    found = scan(layer)
    assert places(found) == [("a", 6)]
    assert [(skip.path, skip.reason) for skip in found.skips] == [
        ("b", "vanished before it was read"),
        ("c", "not a regular file"),
    ]
    assert not any(skip.lasting for skip in found.skips)


def test_a_file_that_changes_is_scanned_and_told(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(tmp_path / "layer", {"log": LINE})
    real = scanning._some

    def growing(file: OpenFile, size: int, offset: int) -> bytes:
        content = real(file, size, offset)
        with (layer / "log").open("a") as log:
            log.write("more\n")
        return content

    monkeypatch.setattr(scanning, "_some", growing)
    found = scan(layer)
    assert places(found) == [("log", 6)]
    assert [(skip.path, skip.reason) for skip in found.skips] == [("log", "changed while it was read")]


def test_a_file_that_breaks_the_scanner_is_told_and_ends_nothing(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make_layer(tmp_path / "layer", {"a": LINE, "bad": "boom", "c": LINE})
    real = Scanner.scan_small

    def fragile(self: Scanner, files: Sequence[tuple[str, bytes]]) -> list[FileScan]:
        if any(content == b"boom" for _, content in files):
            raise KeyError("boom")
        return real(self, files)

    monkeypatch.setattr(Scanner, "scan_small", fragile)
    found = scan(layer)
    assert places(found) == [("a", 6), ("c", 6)]
    assert [(skip.path, skip.reason) for skip in found.skips] == [("bad", "the scanner failed: KeyError")]


def test_names_that_are_no_text_survive(scan: Scan, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\n\x1b[31m")
    layer = make_layer(tmp_path / "layer", {f"{name}/{name}": LINE})
    assert places(scan(layer)) == [(f"{name}/{name}", 6)]


def test_a_deep_tree_has_no_limit(scan: Scan, tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "layer", {})
    fd = os.open(layer, os.O_RDONLY)
    name = "d" * 200
    for _ in range(60):  # far beyond PATH_MAX
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    handle = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
    os.write(handle, LINE.encode())
    os.close(handle)
    os.close(fd)
    found = scan(layer)
    assert [hit.path for hit in found.hits] == ["/".join([name] * 60 + ["file"])]


def test_documentation_of_a_package_is_less_sure(scan: Scan, tmp_path: Path) -> None:
    names = ["usr/share/man/man5/x.5", "usr/local/share/doc/x/README", "usr/share/x/README", "srv/usr/share/doc/x"]
    found = scan(make_layer(tmp_path / "layer", dict.fromkeys(names, LINE)))
    told = {hit.path: hit.told_confidence for hit in found.hits}
    assert [told[name] for name in names] == [Confidence.LOW, Confidence.LOW, Confidence.HIGH, Confidence.HIGH]
