"""Every command prints what it printed, to the letter; ``python -m tests.cli_behaviour.snapshots`` renews it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerscope.cli.commands import app
from tests.cli_behaviour.snapshots import BOTH, CASES, KEPT, Case, run, workplace

RUNS = [(case, width, file) for case in CASES for width, file in case.files()]
TERMINAL_ACTS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with workplace() as place:
        yield place


@pytest.mark.parametrize(("case", "width", "file"), RUNS, ids=[file.stem for _, _, file in RUNS])
def test_prints_what_the_snapshot_says(case: Case, width: int, file: Path, place: Path) -> None:
    try:
        assert run(case, width, place) == file.read_text()
    finally:
        shutil.rmtree(place / "here/out", ignore_errors=True)


def test_every_command_has_a_snapshot_and_every_snapshot_a_case() -> None:
    covered = {case.command.split()[0] for case in CASES}
    missing = {command.name for command in app.registered_commands} - covered
    assert not missing, "give them a Case in snapshots.py"
    assert {file for _, _, file in RUNS} == set(KEPT.glob("*.txt")), "run python -m tests.cli_behaviour.snapshots"


@pytest.mark.parametrize("file", sorted(KEPT.glob("*.txt")), ids=lambda file: file.stem)
def test_nothing_printed_acts_on_a_terminal(file: Path) -> None:
    text = file.read_text()
    if file.stem == "image-color":
        text = re.sub(r"\x1b\[\d+m", "", text)
    assert TERMINAL_ACTS.findall(text) == []


@pytest.mark.parametrize("width", BOTH)
@pytest.mark.parametrize("name", ["ls", "image", "container", "container-layers", "overlay", "trace-hidden"])
def test_the_table_of_layers_fits_the_terminal(name: str, width: int) -> None:
    lines = (KEPT / f"{name}-{width}.txt").read_text().splitlines()
    head = next(i for i, line in enumerate(lines) if re.search(r" (INSTRUCTION|DIRECTORY|TOP LAYER)$", line))
    table = lines[head : lines.index("", head)]
    assert max(len(line) for line in table) <= width
