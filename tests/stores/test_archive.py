"""Images in archives: every layout and packing gives the same; what is damaged or forged is told."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from layerscope.errors import AmbiguousTargetError, ArchiveError, CorruptStoreError, LayerscopeError
from layerscope.model import Caution, Cautions, Target
from layerscope.overlay.content import open_content, read_target
from layerscope.overlay.entry import Kind
from layerscope.overlay.walk import Walker, in_tree_order
from layerscope.stores.archive import ArchiveStore, open_archive
from layerscope.stores.archive_names import ArchiveName, archive_named, image_in
from layerscope.tars.packing import zstd
from tests.archives import Images, config_of, digest, layer_of, oci_files, saved_files, tar_of, write_files
from tests.random_layers import USER, Drawn, contents, quick, stack_from
from tests.tarlayers import MTIME, Tar

BASE = (
    Tar()
    .directory("etc")
    .file("etc/passwd", "root")
    .hard_link("etc/passwd-", "etc/passwd")
    .directory("old")
    .file("old/a", "a" * 3000)
    .symlink("link", "etc/passwd")
    .file("secret", "hidden")
    .bytes()
)
TOP = (
    Tar()
    .directory("etc")
    .file("etc/passwd", "ROOT")
    .whiteout("secret")
    .directory("old")
    .opaque("old")
    .file("old/b", "b")
    .bytes()
)
IMAGES: Images = {"layerscope-test/app:1": [BASE, TOP]}
Open = Callable[[Path], ArchiveStore]


def as_file(content: bytes) -> Open:
    def opened(work: Path) -> ArchiveStore:
        (work / "image.tar").write_bytes(content)
        return open_archive(str(work / "image.tar"), None, Cautions())

    return opened


def as_directory(files: dict[str, bytes]) -> Open:
    return lambda work: open_archive(str(write_files(files, work / "image")), None, Cautions())


def as_pipe(content: bytes) -> Open:
    return lambda _work: open_archive("-", None, Cautions(), io.BytesIO(content))


OCI_PLAIN, OCI_GZIP = oci_files(IMAGES), oci_files(IMAGES, gzip.compress)
FORMS: dict[str, Open] = {
    "docker": as_file(tar_of(saved_files(IMAGES))),
    "docker, gzip": as_file(gzip.compress(tar_of(saved_files(IMAGES)))),
    "docker, zstd": as_file(zstd.compress(tar_of(saved_files(IMAGES)))),
    "docker, directory": as_directory(saved_files(IMAGES)),
    "docker, pipe": as_pipe(tar_of(saved_files(IMAGES))),
    "oci": as_file(tar_of(OCI_PLAIN)),
    "oci, gzip layers": as_file(tar_of(OCI_GZIP)),
    "oci, zstd layers": as_file(tar_of(oci_files(IMAGES, zstd.compress))),
    "oci, gzip layers, directory": as_directory(OCI_GZIP),
    "oci, gzip layers, pipe": as_pipe(tar_of(OCI_GZIP)),
    "both, gzip layers, gzip": as_file(gzip.compress(tar_of(oci_files(IMAGES, gzip.compress, docker=True)))),
    "both, gzip layers, gzip, pipe": as_pipe(gzip.compress(tar_of(oci_files(IMAGES, gzip.compress, docker=True)))),
}


@pytest.fixture(params=FORMS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArchiveStore:
    return FORMS[request.param](tmp_path)


def only_image(store: ArchiveStore) -> Target:
    (image,) = store.images()
    return store.image_target(image)


def seen(target: Target, *, contents: bool = True) -> dict[str, list[tuple[Any, ...]]]:
    """Every version of every path; whether its content can be read or not."""
    walker = Walker(target.stack)
    found: dict[str, list[tuple[Any, ...]]] = {}
    for versions in in_tree_order(walker.walk()):
        for version in versions.versions:
            entry, stat = version.entry, version.entry.stat
            content: Any = None
            if entry.kind is Kind.FILE and contents:
                with open_content(versions, version) as file:
                    content = file.read()
            elif entry.kind is Kind.SYMLINK:
                content = read_target(version)
            found.setdefault(versions.path, []).append(
                (
                    *(version.layer, entry.kind, version.visible, version.hidden_by, stat.st_mode, stat.st_size),
                    *(stat.st_nlink, entry.marks.opaque, content),
                )
            )
    return found


def problems(store: ArchiveStore) -> list[tuple[str, str | None]]:
    """The codes of all warnings that reading everything gives, with their places."""
    assert isinstance(store.warn, Cautions)
    for image in store.images():
        Walker(store.image_target(image).stack, store.warn)
    return [(caution.code, caution.path) for caution in store.warn]


# -- every form ----------------------------------------------------------------------------------------------


def test_every_form_gives_the_same_layers(store: ArchiveStore) -> None:
    target = only_image(store)
    assert target.name == "layerscope-test/app:1"
    assert target.id == f"sha256:{digest(config_of([BASE, TOP]))}"
    assert [layer.diff_id for layer in target.stack] == [f"sha256:{digest(tar)}" for tar in (BASE, TOP)]
    assert [layer.created_by for layer in target.stack] == ["step 0", "step 1"]
    found = seen(target, contents=False)
    assert [version[:2] for version in found["secret"]] == [(1, Kind.WHITEOUT), (0, Kind.FILE)]
    assert found["old"][0][7] is True
    assert found["old/a"][0][3].reason == "opaque"
    assert found["etc/passwd-"][0][6] == 2
    assert [record.size_bytes for record in store.image_layers(store.images()[0])] == [4 + 3000 + 10 + 6, 4 + 1]
    assert problems(store) == []


def test_contents_are_read_in_every_form_that_is_no_pipe(store: ArchiveStore) -> None:
    target = only_image(store)
    if "-!/" in target.stack.layers[0].diff_dir:
        with pytest.raises(OSError, match="through a pipe"):
            seen(target)
        return
    found = seen(target)
    assert [version[8] for version in found["etc/passwd"]] == [b"ROOT", b"root"]
    assert found["link"][0][8] == "etc/passwd"
    assert found["old/a"][0][8] == b"a" * 3000


@quick
@given(contents)
def test_random_layers_in_tars_are_walked_as_their_directories(layers: list[Drawn]) -> None:
    with stack_from(layers) as stack:
        tars = [layer_of(Path(layer.diff_dir), USER + "opaque") for layer in stack]
        images = {"random:1": tars}
        for store in (
            open_archive("-", None, Cautions(), io.BytesIO(tar_of(saved_files(images)))),
            open_archive("-", None, Cautions(), io.BytesIO(tar_of(oci_files(images, gzip.compress)))),
        ):
            target = only_image(store)
            assert versions(target.stack) == versions(stack)
            assert problems(store) == []


def versions(stack: Any) -> list[Any]:
    return [
        (item.path, v.layer, v.entry.kind, v.visible, v.hidden_by, v.entry.marks.opaque, *attributes(v.entry))
        for item in in_tree_order(Walker(stack).walk())
        for v in item.versions
    ]


def attributes(entry: Any) -> tuple[int, ...]:
    """Of a whiteout there are none, of a directory no size and no time: another name is made in it."""
    stat = entry.stat
    if entry.kind is Kind.WHITEOUT:
        return ()
    owner = (stat.st_mode, stat.st_uid, stat.st_gid)
    return owner if entry.is_directory else (*owner, stat.st_size, stat.st_mtime_ns, stat.st_nlink, stat.st_rdev)


# -- what is named -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image.tar", ("image.tar", None)),
        ("image.tar:app:1", ("image.tar", "app:1")),
        ("./layout", ("./layout", None)),
        ("layout/", ("layout/", None)),
        ("./layout:app", ("./layout", "app")),
        ("archive:layout:app:1", ("layout", "app:1")),
        ("archive:odd:name.tar", ("odd:name.tar", None)),
        ("odd:name.tar:app:1", ("odd:name.tar", "app:1")),
        ("oci:layout", ("layout", None)),
        ("-", ("-", None)),
        ("-:app:1", ("-", "app:1")),
        ("layout", None),  # the name of an image
        ("layout:1", None),
        ("image:image.tar", None),
        ("other.tar", None),
        ("library/ubuntu", None),
        ("lowerdir=/a:/b", None),
    ],
)
def test_what_names_an_archive(
    text: str, expected: tuple[str, str | None] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(
        {"image.tar": b"x", "odd:name.tar": b"x", "layout/index.json": b"x", "library/ubuntu": b"x"}, tmp_path
    )
    assert archive_named(text) == (None if expected is None else ArchiveName(*expected))


@pytest.mark.parametrize("text", ["./nothing", "../nothing.tar:app", "archive:nothing", "docker-archive:no.tar:x"])
def test_a_path_to_nothing_is_an_error(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchiveError, match="there is no archive"):
        archive_named(text)


def test_one_of_several_images_is_to_be_named(tmp_path: Path) -> None:
    store = as_file(tar_of(saved_files({"a:1": [BASE], "b:2": [BASE, TOP]})))(tmp_path)
    name = ArchiveName("x.tar", None)
    with pytest.raises(AmbiguousTargetError, match="holds 2 images: ") as caught:
        image_in(store, name)
    assert caught.value.hint is not None and caught.value.hint.startswith("name one: x.tar:")
    assert len(image_in(store, name._replace(image="b:2")).stack) == 2
    with pytest.raises(LayerscopeError, match="holds no image called 'c'"):
        image_in(store, name._replace(image="c"))
    base = image_in(store, name._replace(image="a:1")).stack.layers[0]
    assert [user.name for user in base.shared_with] == ["b:2"]


# -- what is wrong -------------------------------------------------------------------------------------------


def with_files(**changes: bytes | None) -> bytes:
    files = saved_files(IMAGES)
    for name, content in changes.items():
        place = next(path for path in files if path.replace("/", "_").replace(".", "_").endswith(name))
        if content is None:
            del files[place]
        else:
            files[place] = content
    return tar_of(files)


def test_a_layer_that_is_not_what_the_image_says_is_told(tmp_path: Path) -> None:
    files = saved_files(IMAGES)
    last = [path for path in files if path.endswith("layer.tar")][-1]
    files[last] = Tar().file("other", "x").bytes()
    store = as_file(tar_of(files))(tmp_path)
    assert problems(store) == [("changed-layer", f"{tmp_path}/image.tar!/{last}")]


def test_a_blob_that_is_not_what_its_name_says_is_told(tmp_path: Path) -> None:
    files = oci_files(IMAGES, gzip.compress)
    name = f"blobs/sha256/{digest(gzip.compress(TOP, mtime=0))}"
    files = oci_files(IMAGES, lambda data: gzip.compress(data, mtime=0))
    files[name] = gzip.compress(TOP, 1, mtime=0)
    store = as_file(tar_of(files))(tmp_path)
    assert problems(store) == [("changed-blob", f"{tmp_path}/image.tar!/{name}")]
    assert len(seen(only_image(store))) == 8


def test_a_configuration_that_is_not_what_its_name_says_is_told(tmp_path: Path) -> None:
    files = saved_files(IMAGES)
    name = f"{digest(config_of([BASE, TOP]))}.json"
    files[name] = config_of([BASE, TOP], author="somebody")
    store = as_file(tar_of(files))(tmp_path)
    assert problems(store) == [("changed-image-config", f"{tmp_path}/image.tar!/{name}")]


@pytest.mark.parametrize("index", [{"manifests": []}, {"manifests": [{"digest": "sha256:" + "0" * 64}]}, {}, []])
def test_lists_that_contradict_each_other_are_told(index: Any, tmp_path: Path) -> None:
    """Which of them counts depends on the image store that loads the archive."""
    files = oci_files(IMAGES, docker=True)
    assert problems(as_file(tar_of(files))(tmp_path)) == []
    store = as_file(tar_of({**files, "index.json": json.dumps(index).encode()}))(tmp_path)
    assert problems(store) == [("archive-mismatch", f"{tmp_path}/image.tar!/index.json")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no archive of images"),
        (b"no tar at all", "no archive of images"),
        (b"x" * 4096, "no archive of images"),
        (tar_of({"etc/passwd": b"x"}), "neither manifest.json nor index.json"),
        (tar_of({"manifest.json": b"{"}), "not JSON"),
        (tar_of({"manifest.json": b"{}"}), "no list of images"),
        (tar_of({"manifest.json": b"[" * 100_000}), "not JSON"),
        (tar_of({"index.json": b"[]"}), "no list of images"),
        (tar_of({"manifest.json": b"[]" + b" " * (17 << 20)}), "larger than any such document|can't be read"),
        (gzip.compress(b"no tar", mtime=0), "no archive of images"),
        (gzip.compress(tar_of(OCI_PLAIN), mtime=0)[:600], "no archive of images|not whole"),
    ],
)
def test_what_is_no_archive_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    for opened in (as_file(content), as_pipe(content)):
        with pytest.raises(ArchiveError, match=message):
            opened(tmp_path).images()


@pytest.mark.parametrize(
    "manifest",
    [
        [None],
        [{}],
        [{"Config": 1, "Layers": []}],
        [{"Config": "nothing.json", "Layers": []}],
        [{"Config": "../../etc/passwd", "Layers": []}],
        [{"Config": "CONFIG", "Layers": ["a"]}],
        [{"Config": "CONFIG", "Layers": [1, 2]}],
        [{"Config": "CONFIG", "RepoTags": 7, "Layers": "ab"}],
    ],
)
def test_a_broken_image_is_left_out_with_a_warning(manifest: Any, tmp_path: Path) -> None:
    files = saved_files(IMAGES)
    config = next(name for name in files if name.endswith(".json") and name != "manifest.json")
    files["manifest.json"] = json.dumps(manifest).replace("CONFIG", config).encode()
    store = as_file(tar_of(files))(tmp_path)
    assert store.images() == []
    assert [caution.code for caution in cautions(store)] == ["broken-image"]
    with pytest.raises(LayerscopeError):
        image_in(store, ArchiveName("x.tar", None))


def cautions(store: ArchiveStore) -> list[Caution]:
    assert isinstance(store.warn, Cautions)
    return list(store.warn)


def test_a_missing_layer_is_an_error_that_names_it(tmp_path: Path) -> None:
    files = saved_files(IMAGES)
    del files[next(path for path in files if path.endswith("layer.tar"))]
    store = as_file(tar_of(files))(tmp_path)
    with pytest.raises(CorruptStoreError, match="layer 0 of layerscope-test/app:1"):
        only_image(store)


def test_an_archive_that_was_cut_off_gives_what_it_holds(tmp_path: Path) -> None:
    files = saved_files(IMAGES)
    files = {"manifest.json": files.pop("manifest.json"), **files}
    content = tar_of(files)
    store = as_file(content[: content.index(b"etc/passwd") + 700])(tmp_path)
    assert "damaged-archive" in [caution.code for caution in cautions(store)]


def test_links_in_a_directory_lead_nowhere_else(tmp_path: Path) -> None:
    outside = tmp_path / "outside.tar"
    outside.write_bytes(BASE)
    top = write_files(saved_files(IMAGES), tmp_path / "image")
    layer = next(top.glob("*/layer.tar"))
    for target in (outside, Path("../../outside.tar")):
        layer.unlink()
        layer.symlink_to(target)
        with pytest.raises(CorruptStoreError, match="is not in"):
            only_image(open_archive(str(top), None, Cautions()))


def test_a_layer_that_comes_again_is_a_symlink(tmp_path: Path) -> None:
    """As Docker 20.10 writes it."""
    files = saved_files({"a:1": [BASE], "b:1": [BASE, TOP]})
    layer = next(name for name in files if name.endswith("layer.tar"))
    manifest = json.loads(files["manifest.json"])
    manifest[1]["Layers"][0] = "again/layer.tar"
    files["manifest.json"] = json.dumps(manifest).encode()
    top = write_files(files, tmp_path / "image")
    (top / "again").mkdir()
    (top / "again/layer.tar").symlink_to(f"../{layer}")
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        tar.add(top, ".")
    for path in (top, tmp_path / "image.tar"):
        store = open_archive(str(path), None, Cautions())
        tars = {
            tar.index for image in store.images() for layer in store.image_target(image).stack if (tar := layer.tar)
        }
        assert len(tars) == 2
        assert problems(store) == []


def test_times_and_owners_are_those_in_the_tar(tmp_path: Path) -> None:
    tar = Tar().file("a", "x", uid=1234, gid=77, mode=0o4755, pax_headers={"mtime": "1700000000.5"}).bytes()
    walker = Walker(only_image(as_file(tar_of(saved_files({"a:1": [tar]})))(tmp_path)).stack)
    stat = walker.find(walker.root_frame, "a").versions[0].entry.stat
    assert (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777, stat.st_mtime_ns) == (
        1234,
        77,
        0o4755,
        MTIME * 10**9 + 5 * 10**8,
    )
    assert os.path.samestat(stat, stat)
