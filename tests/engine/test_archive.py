"""`docker save` of the specimens, read as archive in every form: the same answers as from the store."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.archives import saved_files, tar_of
from tests.cli import Cli
from tests.dockerd import Engine
from tests.odd_tars import REFUSED, accepted, base
from tests.stores.offline import InProcess

Document = dict[str, Any]
FORMS = ("tar", "gzip", "directory", "pipe")


def saved(archive: bytes, form: str, work: Path) -> tuple[str, bytes | None]:
    """What names the archive on the command line, and what comes through the pipe."""
    match form:
        case "tar":
            (work / "saved.tar").write_bytes(archive)
            return "saved.tar", None
        case "gzip":
            (work / "saved.tar.gz").write_bytes(gzip.compress(archive, 1))
            return "saved.tar.gz", None
        case "directory":
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(work / "saved", filter="tar")
            return "./saved", None
        case _:
            return "-", archive


def comparable(answer: Document) -> Document:
    """An answer without what an archive can't have: directories, allocated sizes, the store's id of the image."""
    layers = [
        {
            **{key: layer[key] for key in ("index", "role", "diff_id", "chain_id", "created_by", "created")},
            **{key: layer[key] for key in ("size_bytes", "counts", "hidden", "hides")},
            "changed": [without_directory_size(item) for item in layer["changed"]],
        }
        for layer in answer["layers"]
    ]
    kept = ("history", "merged", "hidden", "complete", "hidden_paths")
    return {"layers": layers, **{key: answer[key] for key in kept}, "warnings": answer["warnings"]}


def without_directory_size(item: Document) -> Document:
    return {**item, "size_bytes": None if item["kind"] == "directory" else item["size_bytes"]}


def comparable_version(line: Document) -> Document:
    """A version without what no tar holds: blocks, sizes of directories, fractions of seconds."""
    drop = {"allocated_bytes"}
    if line["kind"] == "whiteout":
        drop |= {"mode", "uid", "gid", "mtime", "nlink"}
    if line["kind"] == "directory":
        drop |= {"size_bytes", "nlink"}
    kept = {key: value for key, value in line.items() if key not in drop}
    return {**kept, "mtime": line["mtime"][:19]} if "mtime" in kept else kept


def comparable_finding(finding: Document) -> Document:
    drop = ("on_disk_path", "target", "layer", "hidden_by", "also_in")
    hidden_by = finding["hidden_by"]
    return {
        **{key: value for key, value in finding.items() if key not in drop},
        "layer": finding["layer"] and finding["layer"]["index"],
        "hidden_by": hidden_by and (hidden_by["layer"], hidden_by["reason"]),
    }


def answers_of(cli: Cli, name: str) -> Document:
    """All that is to be the same."""
    image = comparable(cli.ok("image", name, "--files", "--hidden", "--json").json)
    files = [comparable_version(line) for line in cli.ok("files", name, "--format", "jsonl").lines]
    audit = cli.ok("audit", name, "--no-cache", "--exit-zero", "--confidence=low", "--json").json
    return {
        "image": image,
        "files": files,
        "findings": [comparable_finding(finding) for finding in audit["findings"]],
        "scanned": {**audit["scanned"], "layers": None},  # two empty layers are one blob
        "warnings": audit["warnings"],
    }


def assert_same(expected: Document, archive: bytes, form: str, work: Path) -> None:
    """That an archive in one form gives these answers, without an engine."""
    name, pipe = saved(archive, form, work)
    nowhere = {"DOCKER_HOST": "unix:///nonexistent.sock"}
    with contextlib.chdir(work):  # for those in this process, which take a tenth of the time
        answers = answers_of((InProcess if pipe is None else Cli)(work, nowhere, pipe), name)
    for key, answer in answers.items():
        assert answer == expected[key], key


@pytest.fixture(scope="module")
def classic_answers(classic: str, tmp_path_factory: pytest.TempPathFactory) -> Document:
    return answers_of(Cli(tmp_path_factory.mktemp("store")), classic)


@pytest.fixture(scope="module")
def classic_archive(engine: Engine, classic: str) -> bytes:
    return engine.docker_bytes("save", classic)


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_image_is_as_in_the_store(
    classic_answers: Document, classic_archive: bytes, form: str, tmp_path: Path
) -> None:
    assert_same(classic_answers, classic_archive, form, tmp_path)


def test_a_saved_image_of_buildkit_is_as_in_the_store(
    engine: Engine, buildkit: str, cli: Cli, tmp_path: Path
) -> None:
    assert_same(answers_of(cli, buildkit), engine.docker_bytes("save", buildkit), "tar", tmp_path)


def test_several_saved_images_share_their_layers(
    engine: Engine, classic: str, buildkit: str, cli: Cli, tmp_path: Path
) -> None:
    both, archived = str(tmp_path / "both.tar"), InProcess(tmp_path)
    engine.docker("save", "--output", both, classic, buildkit)
    listed = {name for item in archived.ok("ls", both, "--json").json["images"] for name in item["references"]}
    assert listed == {classic, buildkit}
    assert f"name one: {both}:layerscope-test/specimen:" in archived("image", both).err
    answer = archived.ok("image", f"{both}:{classic}", "--json").json
    assert answer["layers"][0]["shared_with"][0]["references"] == [buildkit]
    audit = archived.ok("audit", both, "--no-cache", "--exit-zero", "--json").json
    assert {finding["target"]["name"] for finding in audit["findings"]} <= {classic, buildkit}
    assert cli.ok("diff", f"{both}:{classic}", classic, "--json").json["changes"] == []


def test_a_file_is_read_from_the_archive(classic_archive: bytes, classic: str, cli: Cli, tmp_path: Path) -> None:
    saved_as, archived = str(tmp_path / "saved.tar"), InProcess(tmp_path)
    Path(saved_as).write_bytes(classic_archive)
    assert archived.ok("cat", saved_as, "etc/passwd").out == cli.ok("cat", classic, "etc/passwd").out
    archived.ok("extract", saved_as, "app", "--to", str(tmp_path / "from-archive"))
    cli.ok("extract", classic, "app", "--to", "from-store")
    one, other = (
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in sorted(tmp_path.glob("from-*"))
    )
    assert one == other != {}


def test_odd_tars_are_as_the_engine_unpacks_them(engine: Engine, cli: Cli) -> None:
    """Names that lead out, parents that are symlinks or missing, whiteouts in any order, marks in xattrs."""
    tag = "layerscope-test/odd:1"
    archive = tar_of(saved_files({tag: [base(), accepted()]}))
    engine.load(archive, tag)
    (cli.directory / "odd.tar").write_bytes(archive)
    ours, theirs = (
        [*map(comparable_version, cli.ok("files", name, "--format", "jsonl").lines)] for name in ("odd.tar", tag)
    )
    engine.docker("rmi", tag)  # what it makes of such a tar is not what its record says: `verify --all` would tell
    engine.images.remove(tag)
    timeless = {"etc", "p", "p/q", "nowhere", "whiteouts", "n" * 150}
    for line in (*ours, *theirs):
        if line["path"] in timeless or line["kind"] == "directory":
            line.pop("mtime")
    assert ours == theirs


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_noted_is_what_the_engine_refuses(engine: Engine, name: str) -> None:
    archive = tar_of(saved_files({"layerscope-test/refused:1": [base(), REFUSED[name].bytes()]}))
    with pytest.raises(AssertionError, match="Error processing tar file"):
        engine.load(archive, "layerscope-test/refused:1")
