"""Records are read as what they are: regular files of a sane size, below the root, through no symlink."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path

import pytest

from layerscope.errors import CorruptStoreError, DataRootError
from layerscope.stores import records
from layerscope.stores.records import LARGEST_RECORD, LARGEST_TEXT, DataRoot, open_data_root
from tests.dataroot import FakeRoot, StoredContainer, StoredImage
from tests.stores.offline import Offline

HEX = "0123456789abcdef" * 4


@pytest.fixture
def app(root: FakeRoot) -> StoredImage:
    root.image("healthy:1", [root.layer({"healthy": "1"})])
    return root.image("app:1", [root.layer({"app": "1"})])


@pytest.fixture
def web(root: FakeRoot, app: StoredImage) -> StoredContainer:
    root.container("healthy", app)
    return root.container("web", app)


def make_special(path: Path, kind: str, aside: Path) -> None:
    """Move a record aside and put something else where it was."""
    path.rename(aside)
    match kind:
        case "FIFO":
            os.mkfifo(path)
        case "symlink":
            path.symlink_to(aside)
        case "dangling symlink":
            path.symlink_to("nowhere")
        case "symlink to a device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()
        case "device":
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
        case "huge":
            with path.open("wb") as file:
                file.truncate(LARGEST_RECORD + 1)


KINDS = ["FIFO", "symlink", "dangling symlink", "symlink to a device", "directory", "device", "huge"]


@pytest.mark.parametrize("kind", KINDS)
def test_image_config_that_is_no_record_costs_one_image(app: StoredImage, offline: Offline, kind: str) -> None:
    make_special(app.config, kind, offline.path.with_name("aside"))
    assert offline.names()[0] == ["healthy:1"]
    assert f"{app.config} is" in offline.fails("image", "app:1", warnings=1).message


@pytest.mark.parametrize("kind", KINDS)
def test_container_config_that_is_no_record_costs_one_container(
    web: StoredContainer, offline: Offline, kind: str
) -> None:
    make_special(web.config, kind, offline.path.with_name("aside"))
    assert offline.names()[1] == ["healthy"]
    assert [code for code, _ in offline.warns("ls")] == ["broken-container"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_are_no_record_cost_the_names(
    root: FakeRoot, app: StoredImage, offline: Offline, kind: str
) -> None:
    make_special(root.repositories_path, kind, offline.path.with_name("aside"))
    assert offline.names()[0] == ["-", "-"]
    assert [code for code, _ in offline.warns("ls")] == ["broken-references"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["cache-id", "diff"])
def test_layer_record_that_is_no_record_is_an_error(
    app: StoredImage, offline: Offline, name: str, kind: str
) -> None:
    make_special(app.layers[0].record / name, kind, offline.path.with_name("aside"))
    assert f"{app.layers[0].record}/{name} is" in offline.fails("image", "app:1").message


@pytest.mark.parametrize("kind", KINDS)
def test_lower_that_is_no_record_is_an_error(web: StoredContainer, offline: Offline, kind: str) -> None:
    make_special(web.upper.path / "lower", kind, offline.path.with_name("aside"))
    assert f"{web.upper.path}/lower is" in offline.fails("container", "web").message


@pytest.mark.parametrize("directory", ["containers", "image/overlay2/imagedb", "image/overlay2/imagedb/content"])
def test_directory_of_records_is_not_reached_through_a_symlink(
    root: FakeRoot, web: StoredContainer, offline: Offline, directory: str
) -> None:
    """Else a copied disk could make layerscope read the host it runs on."""
    (root.path / directory).rename(root.path / "aside")
    (root.path / directory).symlink_to(root.path / "aside")
    assert "through a symlink" in offline.fails("ls").message


def test_fifo_is_not_opened(app: StoredImage, offline: Offline) -> None:
    """To open it would wake whoever waits to write to it; to open a device may start it."""
    app.config.unlink()
    os.mkfifo(app.config)
    opened = threading.Event()

    def write() -> None:
        os.close(os.open(app.config, os.O_WRONLY))
        opened.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert offline.names()[0] == ["healthy:1"]
        assert not opened.wait(0.2)
    finally:
        os.close(os.open(app.config, os.O_RDONLY | os.O_NONBLOCK))
        writer.join()


# -- DataRoot ------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> DataRoot:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_bytes(b" text\n")
    (tmp_path / "a/link").symlink_to("b")
    return open_data_root(str(tmp_path))


def test_text_is_stripped_and_missing_text_is_none(plain: DataRoot) -> None:
    assert plain.text("a", "file") == "text"
    assert plain.text("a/file") == "text"
    assert plain.text("a", "none") is None
    assert plain.text("none", "none") is None


def test_text_of_the_largest_size_is_read_and_a_longer_one_refused(plain: DataRoot) -> None:
    path = Path(plain.join("a/file"))
    path.write_bytes(b"x" * LARGEST_TEXT)
    assert plain.text("a/file") == "x" * LARGEST_TEXT
    path.write_bytes(b"x" * (LARGEST_TEXT + 1))
    with pytest.raises(CorruptStoreError, match="larger than any such record"):
        plain.text("a/file")


def test_names_are_sorted_and_missing_directories_have_none(plain: DataRoot) -> None:
    assert plain.names("a") == ["b", "file", "link"]
    assert plain.names("none") == []
    with pytest.raises(CorruptStoreError, match="through a symlink or a file"):
        plain.names("a", "file")
    with pytest.raises(CorruptStoreError, match="through a symlink or a file"):
        plain.names("a", "link")


def test_link_is_given_as_it_is_written(plain: DataRoot) -> None:
    assert plain.link("a", "link") == "b"
    assert plain.link("a", "file") is None
    assert plain.link("a", "none") is None
    assert plain.link("none", "none") is None


def test_inside_a_directory_is_a_root_of_its_own(plain: DataRoot) -> None:
    with plain.inside("a") as inside:
        assert inside is not None
        assert inside.path == plain.join("a")
        assert inside.text("file") == "text"
        assert inside.names() == ["b", "file", "link"]
        assert inside.names("b") == []
        with pytest.raises(CorruptStoreError, match=f"{plain.path}/a/link is or leads through a symlink"):
            inside.names("link")
    with plain.inside("none") as inside:
        assert inside is None
    for name in ("file", "link"):
        with pytest.raises(CorruptStoreError, match="through a symlink or a file"), plain.inside("a", name):
            pass


def test_only_a_real_directory_is_one(plain: DataRoot) -> None:
    assert plain.is_directory("a", "b")
    assert plain.has_directory("a", "b")
    assert not plain.has_directory("a", "none")
    for name in ("file", "link"):
        assert not plain.is_directory("a", name)
        with pytest.raises(CorruptStoreError):
            plain.has_directory("a", name)


def test_no_descriptor_is_left_open(plain: DataRoot) -> None:
    def ask() -> None:
        for name in ("file", "link", "b", "none"):
            for question in (plain.text, plain.names, plain.link, plain.is_directory, plain.json):
                with contextlib.suppress(CorruptStoreError):
                    question("a", name)
            with contextlib.suppress(CorruptStoreError), plain.inside("a", name) as inside:
                _ = inside and inside.names()

    ask()
    before = os.listdir("/proc/self/fd")
    ask()
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("path", ["", "/nonexistent", "/etc/passwd", "/etc/passwd/x", "x" * 5000])
def test_path_that_is_no_directory_is_no_data_root(path: str) -> None:
    """The real path of an empty one would be the working directory."""
    with pytest.raises(DataRootError):
        open_data_root(path)


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        (HEX, True),
        (f"{HEX}-init", True),
        ("0123456789abcdefghijklmno", True),
        ("l", False),
        ("..", False),
        (HEX.upper(), False),
        (f"{HEX}-init-init", False),
        (f"{HEX}\n", False),
        (f"{HEX}/..", False),
        ("0123456789abcdefghijklmn", False),
        ("0123456789ABCDEFGHIJKLMNO", False),
        ("١" * 25, False),
        ("", False),
        (None, False),
        (5, False),
    ],
)
def test_cache_id_is_one_of_three_spellings(name: object, valid: bool) -> None:
    assert (records.cache_id(name) is not None) is valid


@pytest.mark.parametrize("suffix", ["", "\n", "/", "0", "-init", "\0"])
def test_ids_are_matched_whole(suffix: str) -> None:
    digest = f"sha256:{HEX}{suffix}"
    checks = (records.image_id(digest), records.diff_id(digest), records.chain_id(digest))
    assert [check is not None for check in checks] == [not suffix] * 3
    assert (records.container_id(HEX + suffix) is not None) is (not suffix)
    assert (records.link_id("A" * 26 + suffix) is not None) is (not suffix)
