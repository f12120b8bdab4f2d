"""The JSON contract: the shipped schemas are valid, every output fits them, one question has one answer."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from layerscope.report.schema import schema_names
from tests.cli import Cli, validator
from tests.cli_behaviour.snapshots import HOSTILE_NAMES
from tests.dataroot import WHITEOUT, FakeRoot, Symlink, put
from tests.stores.offline import InProcess

NOT_UTF8 = "not-utf8-\udcff"

QUESTIONS = (
    ("ls",),
    ("ls", "--all"),
    ("image", "shop/web:1"),
    ("image", "shop/web:1", "--files", "--hidden"),
    ("image", "shop/worker:1", "--layer", "2", "--files"),
    ("container", "shop-web-1"),
    ("container", "shop-web-1", "--layers", "--files", "--hidden"),
    ("overlay", "--lowerdir", "upper:lower", "--files", "--hidden"),
    ("overlay", "--lowerdir", "lower", "--upperdir", "upper"),
    ("diff", "shop/web:1", "shop-web-1"),
    ("diff", "shop/web:1@2", "shop/worker:1"),
    ("files", "shop/web:1"),
    ("files", "shop-web-1", "--hidden"),
    ("trace", "shop/web:1", "srv/shop/.env"),
    ("trace", "shop/web:1", "usr/share/doc/libc/changelog"),
    ("trace", "shop-web-1", "srv/lib"),
    ("extract", "shop/web:1", "srv", "--to", "out"),
)


@pytest.fixture(autouse=True)
def directories(tmp_path: Path) -> None:
    put(tmp_path / "lower/file", "x")
    put(tmp_path / "upper/file", WHITEOUT)


@pytest.mark.parametrize("name", schema_names())
def test_every_schema_is_a_valid_schema_of_its_draft(name: str, shop: InProcess) -> None:
    printed = shop.ok("schema", name).json
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(printed)


def test_schema_names_every_command_that_has_json(shop: InProcess) -> None:
    commands = {question[0] for question in QUESTIONS}
    assert set(shop.ok("schema").out.split()) - {"files-line"} >= commands
    for name in commands:
        assert shop.ok("schema", name).json["properties"]["command"] == {"const": name}


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_json_fits_the_schema_and_names_its_source(question: tuple[str, ...], shop: InProcess) -> None:
    answer = shop.ok(*question, "--json").json
    assert list(answer)[:4] == ["schema_version", "layerscope_version", "command", "source"]
    assert list(answer)[-1] == "warnings" and answer["warnings"] == []
    assert answer["schema_version"] == 1 and answer["command"] == question[0]
    assert answer["source"]["kind"] == ("mount" if question[0] == "overlay" else "data-root")


def test_a_wrong_document_does_not_fit_the_schema(shop: InProcess) -> None:
    """That the validation above can fail at all."""
    answer = shop.ok("image", "shop/web:1", "--json").json
    for broken in (
        {**answer, "surprise": 1},
        {key: value for key, value in answer.items() if key != "merged"},
        {**answer, "layers": [{**answer["layers"][0], "size_bytes": "12"}]},
        {**answer, "layers": [{**answer["layers"][0], "counts": {}}]},
    ):
        assert not validator("image").is_valid(broken)


def test_lines_are_the_files_of_the_document(shop: InProcess) -> None:
    document = shop.ok("files", "shop-web-1", "--json").json
    assert shop.ok("files", "shop-web-1", "--format", "jsonl").lines == document["files"]


def test_an_answer_is_the_same_whatever_the_hash_seed_and_the_number_of_processes(demo: Path) -> None:
    """With tasks of one directory each, so that the processes really share the work."""
    question = ("container", "shop-web-1", "--layers", "--files", "--hidden")
    script = (
        "from layerscope.analysis import summary; summary.ALONE_UP_TO = summary.SHARE = 1\n"
        "from layerscope.__main__ import main; main()"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", script, *question, "--json", "--jobs", jobs],
            env={**Cli.clean_environment(), "LAYERSCOPE_DATA_ROOT": str(demo), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed, jobs in (("1", "1"), ("2", "2"))
    }
    assert len(answers) == 1


# -- names -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(shop: InProcess, tmp_path: Path) -> InProcess:
    """layerscope on an image of hostile names, some of them deleted again."""
    root = FakeRoot(tmp_path / "root")
    links = {f"links/{number}": Symlink(name) for number, name in enumerate(HOSTILE_NAMES)}
    base = root.layer({**HOSTILE_NAMES, **links})
    image = root.image("app:1", [base, root.layer({NOT_UTF8: WHITEOUT, "esc\x1b[31mred": WHITEOUT})])
    root.container("box", image, upper={f"{NOT_UTF8}/below": "new", "naïve/🐋": WHITEOUT})
    return InProcess(tmp_path, {"LAYERSCOPE_DATA_ROOT": str(root.path)})


def exact(record: dict[str, Any], name: str = "path") -> str:
    """The exact path of a record; ``path_b64`` must be there just when it is needed."""
    readable = record[name]
    if f"{name}_b64" not in record:
        readable.encode()
        return str(readable)
    path = os.fsdecode(base64.b64decode(record[f"{name}_b64"], validate=True))
    with pytest.raises(UnicodeEncodeError):
        path.encode()
    assert readable == path.replace("\udcff", "\\xff")
    return path


def test_every_path_can_be_had_exactly(hostile: InProcess) -> None:
    lines = hostile.ok("files", "app:1", "--format", "jsonl").lines
    names = {exact(line) for line in lines}
    assert set(HOSTILE_NAMES) <= names
    targets = {exact(line, "target") for line in lines if line["kind"] == "symlink"}
    assert targets == set(HOSTILE_NAMES)


def test_every_command_gives_a_path_that_is_not_utf8_exactly(hostile: InProcess, tmp_path: Path) -> None:
    image = hostile.ok("image", "app:1", "--files", "--hidden", "--json").json
    assert NOT_UTF8 in [exact(item) for layer in image["layers"] for item in layer["changed"]]
    assert NOT_UTF8 in [exact(item) for item in image["hidden_paths"]]
    assert NOT_UTF8 in [exact(item["hidden_by"]) for item in image["hidden_paths"]]
    container = hostile.ok("container", "box", "--json").json
    assert [exact(item) for item in container["changes"]][-2:] == [NOT_UTF8, f"{NOT_UTF8}/below"]
    diff = hostile.ok("diff", "app:1@0", "app:1@1", "--json").json
    assert NOT_UTF8 in [exact(item) for item in diff["changes"]]
    trace = hostile.ok("trace", "app:1", NOT_UTF8, "--json").json
    assert exact(trace) == NOT_UTF8
    assert [exact(event["version"]) for event in trace["events"]] == [NOT_UTF8] * 2
    extracted = hostile.ok("extract", "box", NOT_UTF8, "--to", NOT_UTF8, "--json").json
    assert exact(extracted, "destination") == NOT_UTF8
    assert (tmp_path / NOT_UTF8 / NOT_UTF8 / "below").read_text() == "new"


def test_directories_that_are_not_utf8_are_exact(shop: InProcess, tmp_path: Path) -> None:
    put(tmp_path / NOT_UTF8 / "file", "x")
    answer = shop.ok("overlay", "--lowerdir", NOT_UTF8, "--json").json
    assert exact(answer["layers"][0], "diff_dir") == str(tmp_path / NOT_UTF8)


def test_json_is_ascii_without_control_characters(hostile: InProcess) -> None:
    for question in (("image", "app:1", "--files", "--json"), ("files", "app:1", "--format", "jsonl")):
        text = hostile.ok(*question).out
        assert text.isascii() and text.replace("\n", "").isprintable()
    assert "esc\x1b[31mred" in [line["path"] for line in map(json.loads, text.splitlines())]
