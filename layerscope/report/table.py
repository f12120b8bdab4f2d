"""Columns of text for people. The only module that imports tabulate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tabulate import tabulate

from layerscope.report.style import Style

LEAST_LAST_COLUMN: Final = 12


def grid(rows: Sequence[Sequence[str]], headers: Sequence[str], right: Iterable[int] = ()) -> str:
    """Columns with two blanks between; those in ``right`` are aligned right."""
    columns = set(right)
    alignment = ["right" if index in columns else "left" for index in range(len(headers))]
    # As a row like the others: tabulate pads what it knows to be headers with two more blanks.
    lines = tabulate([headers, *rows], tablefmt="plain", disable_numparse=True, colalign=alignment)
    return "\n".join(line.rstrip() for line in lines.splitlines())


def bold_grid(rows: list[list[str]], headers: list[str], right: set[int], style: Style) -> str:
    """A grid with a bold head."""
    return grid(rows, [style.paint(header, "bold") for header in headers], right)


def fit_last(rows: list[list[str]], headers: list[str], right: set[int], style: Style) -> str:
    """Shorten the last column to what the width leaves."""
    plain = [[unpainted(cell) for cell in row] for row in rows]
    others = [max(len(row[i]) for row in [headers, *plain]) + 2 for i in range(len(headers) - 1)]
    left = max(style.width - sum(others), LEAST_LAST_COLUMN)
    for row, bare in zip(rows, plain, strict=True):
        if row[-1] == bare[-1]:
            row[-1] = style.fit(row[-1], left)
    return grid(rows, [style.paint(header, "bold") for header in headers], right)


def unpainted(cell: str) -> str:
    while "\033[" in cell:
        before, _, rest = cell.partition("\033[")
        cell = before + rest.partition("m")[2]
    return cell
