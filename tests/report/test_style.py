"""How tables look."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from layerscope.model import CacheId, Layer, Role
from layerscope.report.style import Style
from layerscope.report.table import bold_grid, fit_last, grid, unpainted

ID = "0d53df0b960026c1110f55d9447322ae98cb3331cb1e0be26013acc627fbc626"


def test_colour_only_where_it_is_wanted() -> None:
    assert Style().paint("text", "bold", "red") == "text"
    assert Style(color=True).paint("text", "bold", "red") == "\x1b[1m\x1b[31mtext\x1b[0m"
    assert Style(color=True).paint("", "bold") == ""
    assert unpainted(Style(color=True).paint("text", "bold", "red")) == "text"


@pytest.mark.parametrize(
    ("identifier", "shown"),
    [
        (None, "-"),
        (f"sha256:{ID}", "0d53df0b9600"),
        (ID, "0d53df0b9600"),
        (f"{ID}-init", "0d53df0b9600-init"),
        ("wtak5trlbve7n6afxup644tcu", "wtak5trlbve7"),
        ("short", "short"),
    ],
)
def test_ids_are_shortened_as_docker_does(identifier: str | None, shown: str) -> None:
    assert Style().id(identifier) == shown
    assert Style(truncate=False).id(identifier) == (identifier or "-")


def test_sizes() -> None:
    assert [Style().size(None), Style().size(1500), Style(exact_bytes=True).size(1500)] == ["?", "1.5 kB", "1500"]


def test_paths_below_the_working_directory_are_relative() -> None:
    style = Style(directory="/here")
    shown = [style.path(path) for path in ("/here/below/x", "/hereafter/x", "/here", "/there/\x1b")]
    assert shown == ["below/x", "/hereafter/x", "/here", r"/there/\x1b"]
    assert Style(directory="/").path("/etc/x") == "etc/x"
    assert Style().path("/here/x") == "/here/x"


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (Layer(0, Role.IMAGE, "/d", created_by="/bin/sh -c make"), "RUN make"),
        (Layer(0, Role.IMAGE, "/d"), "(no instruction recorded)"),
        (Layer(0, Role.INIT, "/d"), "(init layer: files that the engine puts into every container)"),
        (Layer(0, Role.UPPER, "/d", cache_id=CacheId(ID)), "(upper layer: what the container wrote)"),
        (Layer(0, Role.UPPER, "/d/upper"), "/d/upper"),
        (Layer(0, Role.LOWER, "/d/\u202elower"), r"/d/\u202elower"),
    ],
)
def test_what_a_layer_is(layer: Layer, shown: str) -> None:
    assert Style().layer(layer) == shown


# -- columns ---------------------------------------------------------------------------------------------------


def test_columns_stand_two_blanks_apart() -> None:
    lines = grid([["1", "a", "x"], ["10", "long", "y"]], ["N", "NAME", "WHAT"], right={0}).splitlines()
    assert lines == [" N  NAME  WHAT", " 1  a     x", "10  long  y"]


@pytest.mark.parametrize("cell", ["1e5", "1.20", "0x10", "007", "+5", "nan", "True", "1,000"])
def test_cells_stay_as_they_are(cell: str) -> None:
    """tabulate takes some texts for numbers, and writes them anew."""
    assert grid([[cell]], ["CELL"]).splitlines()[1] == cell


def test_a_table_without_rows_is_its_head() -> None:
    assert grid([], ["A", "B"], right={1}) == "A  B"
    assert bold_grid([], ["A"], set(), Style(color=True)) == "\x1b[1mA\x1b[0m"


def test_colour_moves_no_column() -> None:
    rows = [["1", "aa"], ["10", "b"]]
    plain = fit_last([list(row) for row in rows], ["N", "WHAT"], {0}, Style(width=40))
    style = Style(width=40, color=True)
    painted = fit_last([[style.paint(cell, "red") for cell in row] for row in rows], ["N", "WHAT"], {0}, style)
    assert re.sub(r"\x1b\[\d+m", "", painted) == plain


words = some.text(some.characters(categories=["Lu", "Nd"], max_codepoint=0x7F), max_size=30)


@given(some.lists(some.tuples(words, words), min_size=1, max_size=5), some.integers(min_value=80, max_value=200))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str]], width: int) -> None:
    cells = [[first, last * 20] for first, last in rows]
    shown = fit_last(cells, ["FIRST", "LAST"], set(), Style(width=width))
    assert max(map(len, shown.splitlines())) <= width
    whole = fit_last([[a, b * 20] for a, b in rows], ["FIRST", "LAST"], set(), Style(width=width, truncate=False))
    assert all(last * 20 in whole for _, last in rows)
