"""Layers that are scanned while they pass by in a pipe: the same findings as when they can be read again."""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from pathlib import Path

import pytest

from layerscope.model import Cautions, XattrFamily
from layerscope.secrets import passing
from layerscope.secrets.engine import Scanner
from layerscope.secrets.hits import LayerScan
from layerscope.secrets.passing import PassingScan
from layerscope.secrets.rules_file import own_rules
from layerscope.secrets.scan import FILES_AND_ARCHIVES, LayerSource, scan_layers
from layerscope.stores.archive import ArchiveStore, open_archive
from tests.archives import oci_files, saved_files, tar_of
from tests.secrets.specimens import github_token
from tests.tarlayers import Tar

LINE = f"token = {github_token()}\n"


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(own_rules())


def packed(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def noise(size: int) -> bytes:
    return random.Random(5).randbytes(size)


LAYER = (
    Tar()
    .directory("etc")
    .file("etc/b", LINE)
    .hard_link("etc/a", "etc/b")
    .hard_link("c", "etc/b")
    .file("./etc/../plain", f"x\n{LINE}")
    .symlink("lib", "etc")
    .file("lib/through", LINE)
    .file("again", LINE)
    .file("again", "nothing any more")
    .file("gone/x", LINE)
    .file("gone", "not a directory any more")
    .file("zip", packed(inner=LINE.encode()))
    .file("large", noise(3 << 20) + LINE.encode())
    .file("large.zip", packed(inner=LINE.encode(), noise=noise(2 << 20)))
    .bytes()
)


def piped(content: bytes, scanner: Scanner) -> LayerScan:
    onlooker = PassingScan(scanner, FILES_AND_ARCHIVES, reveal=False)
    store = open_archive("-", None, Cautions(), io.BytesIO(content), onlooker)
    return onlooker.scans[layer_of(store).tar]


def layer_of(store: ArchiveStore) -> LayerSource:
    (image,) = store.images()
    layer = store.image_target(image).stack.layers[0]
    assert layer.tar is not None
    return LayerSource(layer.diff_dir, XattrFamily.TRUSTED, None, layer.tar)


def reread(content: bytes, scanner: Scanner, work: Path, jobs: int) -> LayerScan:
    (work / "image.tar").write_bytes(content)
    source = layer_of(open_archive(str(work / "image.tar"), None, Cautions()))
    ((_, scan),) = scan_layers([source], scanner, jobs=jobs)
    return scan


IMAGES = {"app:1": [LAYER]}
FORMS = {"plain": tar_of(saved_files(IMAGES)), "gzip": tar_of(oci_files(IMAGES, gzip.compress))}


@pytest.mark.parametrize("content", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_pipe_gives_what_a_file_gives(content: bytes, scanner: Scanner, tmp_path: Path, jobs: int) -> None:
    expected = reread(content, scanner, tmp_path, jobs)
    assert {hit.shown_path for hit in expected.hits} == {
        *("etc/a", "etc/b", "c", "plain", "etc/through", "zip!/inner", "large", "large.zip!/inner"),
    }
    assert piped(content, scanner) == expected


def test_a_file_that_is_too_large_to_hold_is_scanned_as_it_passes(
    scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "MOST_HELD", 1 << 20)
    scan = piped(FORMS["plain"], scanner)
    assert "large" in {hit.shown_path for hit in scan.hits}
    assert [(skip.path, skip.reason) for skip in scan.skips] == [("large.zip", passing.NOT_LOOKED_INTO)]


def test_a_layer_that_was_cut_off_gives_what_came(scanner: Scanner) -> None:
    content = tar_of({"layer.tar": LAYER})
    content = content[: content.index(b"again")]
    onlooker = PassingScan(scanner, FILES_AND_ARCHIVES, reveal=False)
    with pytest.raises(Exception, match="neither manifest"):
        open_archive("-", None, Cautions(), io.BytesIO(content), onlooker)
    (scan,) = onlooker.scans.values()
    assert {hit.path for hit in scan.hits} == {"etc/a", "etc/b", "c", "plain", "etc/through"}
