"""Archives on the command line: what can be asked of one, what can't, and how an error says so."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from layerscope.tars.packing import zstd
from tests.archives import oci_files, saved_files, tar_of, write_files
from tests.cli import Cli
from tests.secrets.specimens import github_token
from tests.stores.offline import InProcess, failure_of
from tests.tarlayers import Tar

LAYERS = [
    Tar()
    .file("etc/passwd", "root\n")
    .file("app/.env", f"TOKEN={github_token()}\n")
    .symlink("link", "etc/passwd")
    .bytes(),
    Tar().whiteout("app/.env").file("etc/passwd", "changed\n").bytes(),
]


@pytest.fixture
def cli(tmp_path: Path) -> InProcess:
    write_files(
        {
            "app.tar": tar_of(saved_files({"app:1": LAYERS})),
            "two.tar.gz": gzip.compress(tar_of(oci_files({"app:1": LAYERS, "base:1": LAYERS[:1]}, docker=True))),
            "app.tar.zst": zstd.compress(tar_of(saved_files({"app:1": LAYERS}))),
            "other.txt": b"text",
        },
        tmp_path,
    )
    write_files(oci_files({"app:1": LAYERS}, gzip.compress), tmp_path / "layout")
    return InProcess(tmp_path, {"LAYERSCOPE_DATA_ROOT": "/nonexistent"})


@pytest.fixture(autouse=True)
def here(cli: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.directory)


@pytest.mark.parametrize("name", ["app.tar", "./layout", "archive:layout", "two.tar.gz:app:1", "app.tar.zst"])
def test_commands_read_an_archive(cli: InProcess, name: str) -> None:
    answer = cli.ok("image", name, "--files", "--hidden", "--json").json
    assert answer["source"]["kind"] == "archive"
    assert answer["source"]["archive"].startswith(str(cli.directory))
    assert [layer["allocated_bytes"] for layer in answer["layers"]] == [None, None]
    assert [item["path"] for item in answer["hidden_paths"]] == ["app/.env", "etc/passwd"]
    assert answer["warnings"] == []
    assert cli.ok("cat", name, "link").out == "changed\n"
    assert cli.ok("cat", name, "etc/passwd", "--layer", "0").out == "root\n"
    lines = cli.ok("files", name, "--format", "jsonl").lines
    assert {line["allocated_bytes"] for line in lines} == {None}
    trace = cli.ok("trace", name, "app/.env", "--json").json
    assert [event["event"] for event in trace["events"]] == ["added", "deleted"]
    changes = cli.ok("diff", f"{name}@0", name, "--json").json["changes"]
    assert {change["path"]: change["change"] for change in changes} == {
        "app": "modified",
        "app/.env": "deleted",
        "etc": "modified",
        "etc/passwd": "modified",
    }
    cli.ok("extract", name, "etc", "--to", "out", "--json")
    assert Path("out/etc/passwd").read_text() == "changed\n"


def test_audit_finds_what_a_later_layer_deleted(cli: InProcess) -> None:
    for name in ("app.tar", "app.tar", "app.tar.zst"):
        answer = cli.ok("audit", name, "--exit-zero", "--json").json
        (finding,) = answer["findings"]
        assert finding["exposure"] == "deleted"
        assert finding["on_disk_path"].startswith(f"{cli.directory}/{name}!/")
        assert finding["on_disk_path"].endswith("/layer.tar!/app/.env")
    both = cli.ok("audit", "two.tar.gz", "--exit-zero", "--json").json
    assert [finding["exposure"] for finding in both["findings"]] == ["deleted", "visible"]
    assert both["scanned"]["layers"] == 2


def test_ls_lists_the_images_of_an_archive(cli: InProcess) -> None:
    answer = cli.ok("ls", "two.tar.gz", "--json").json
    assert {tuple(item["references"]): item["size_bytes"] for item in answer["images"]} == {
        ("app:1",): len("root\nchanged\netc/passwd") + 6 + 41,
        ("base:1",): len("root\netc/passwd") + 6 + 41,
    }
    assert answer["containers"] == []


def test_verify_says_whether_an_archive_is_what_it_claims(cli: InProcess) -> None:
    assert cli.ok("verify", "app.tar", "./layout", "--json").json["warnings"] == []
    files = saved_files({"app:1": LAYERS})
    last = [name for name in files if name.endswith("layer.tar")][-1]
    Path("forged.tar").write_bytes(tar_of({**files, last: LAYERS[0]}))
    result = cli("verify", "forged.tar", "--json")
    assert result.code == 1
    verdicts = [layer["verdict"] for layer in result.json["layers"]]
    assert verdicts == ["ok", "differs"]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("image", "two.tar.gz"), 3),
        (("image", "two.tar.gz:nothing"), 3),
        (("image", "nothing.tar"), 3),
        (("image", "nothing.tar:app"), 3),
        (("image", "./nothing"), 3),
        (("image", "./other.txt"), 3),
        (("image", "archive:other.txt"), 3),
        (("image", "app.tar", "--platform", "linux/s390x"), 0),
        (("image", "./layout", "--platform", "linux/s390x"), 3),
        (("image", "app.tar", "--overlay-options", "volatile"), 2),
        (("container", "app.tar"), 2),
        (("reuse", "app.tar"), 2),
        (("cat", "-", "etc/passwd"), 2),
        (("cat", "archive:-:app:1", "etc/passwd"), 2),
        (("extract", "-", "etc", "--to", "out"), 2),
        (("audit", "-", "--git"), 2),
        (("ls", "other.txt"), 3),
        (("ls", "app.tar:app"), 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_errors_are_two_lines(cli: InProcess, command: tuple[str, ...], code: int) -> None:
    result = cli(*command)
    if code == 0:
        assert result.code == 0
    else:
        failure_of(result, code)


def test_a_pipe_is_read_once_for_all(cli: InProcess) -> None:
    """In a process of its own: standard input is what it is about."""
    piped = Cli(cli.directory, cli.environment, Path("two.tar.gz").read_bytes())
    answer = piped.ok("image", "archive:-:app:1", "--json").json
    assert (answer["source"]["archive"], answer["hidden"]["files"]) == ("-", 2)
    assert len(piped.ok("diff", "archive:-:base:1", "archive:-:app:1", "--json").json["changes"]) == 4
    found = piped.ok("audit", "-", "--exit-zero", "--no-cache", "--json").json
    assert [finding["exposure"] for finding in found["findings"]] == ["deleted", "visible"]


def test_a_named_pipe_is_a_pipe(cli: InProcess) -> None:
    """What a shell makes of `<(docker save app)`."""
    os.mkfifo("fifo")
    with subprocess.Popen(["sh", "-c", "sleep 0.2; cat app.tar > fifo"]):
        assert cli.ok("image", "./fifo", "--json").json["hidden"]["files"] == 2
    with subprocess.Popen(["sh", "-c", "cat app.tar > fifo"]):
        failure = failure_of(cli("cat", "./fifo", "etc/passwd"))
    assert "through a pipe" in failure.message
    assert failure.hint == "save the archive to a file first"


def test_an_image_of_the_store_is_named_as_such(cli: InProcess) -> None:
    failure = failure_of(cli("image", "image:app.tar"))
    assert "data root" in failure.hint
