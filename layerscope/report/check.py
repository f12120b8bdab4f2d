"""What ``check`` prints: a table, a document and its schema."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

from layerscope.analysis.check import Checked
from layerscope.analysis.problems import Code, Problem, Severity
from layerscope.model import Source
from layerscope.report.document import Document, path_fields, source_document
from layerscope.report.orphans import said_line, wrapped
from layerscope.report.shapes import (
    COUNT,
    SOURCE,
    TEXT,
    Schema,
    described,
    listed,
    nullable,
    one_of,
    path_record,
    record,
)
from layerscope.report.style import Style
from layerscope.report.text import plural, printable, storage

MOST_SHOWN: Final = 20
"""Problems of one kind in the table; the document has all."""
MOST_NAMES: Final = 3
_LOOKS: Final = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


def check_tables(stores: Sequence[Checked], style: Style) -> str:
    """A table for each store."""
    return "\n\n".join(check_table(checked, checked.source, style) for checked in stores)


def check_table(checked: Checked, source: Source, style: Style) -> str:
    """The problems, kind by kind, each kind with what follows from it and what to do; then the sum."""
    parts = [f"{'Storage':<10} {storage(source)}", ""]
    for code, problems in groupby(checked.problems, key=lambda problem: problem.code):
        parts += [*_kind(code, list(problems), source, style), ""]
    return "\n".join([*parts, _sum(checked)])


def _kind(code: Code, problems: list[Problem], source: Source, style: Style) -> Iterable[str]:
    kind = problems[0].kind
    yield f"{style.paint(kind.severity, _LOOKS[kind.severity])} {style.paint(code, 'bold')}"
    for problem in problems[:MOST_SHOWN]:
        message = printable(problem.message.replace(f"{source.storage}/", ""))
        yield from wrapped(said_line(problem.path, message, source.storage, style), style, "  ", "  ")
        if problem.affects:
            yield from wrapped(f"affects {_names(problem.affects)}", style, "    ")
    if len(problems) > MOST_SHOWN:
        yield f"  … and {plural(len(problems) - MOST_SHOWN, 'more', 'more')}; --json lists them"
    yield from wrapped(f"means: {kind.consequence}", style, "  ", "  ")
    yield from wrapped(f"remedy: {kind.remedy}", style, "  ", "  ")


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(printable(name) for name in names[:MOST_NAMES]) + more


def _sum(checked: Checked) -> str:
    seen = ", ".join(
        (
            plural(checked.images, "image"),
            plural(checked.containers, "container"),
            plural(checked.layers, "layer"),
            plural(checked.directories, "directory", "directories"),
        )
    )
    counts = {severity: _count(checked, severity) for severity in Severity}
    told = ", ".join(plural(count, severity) for severity, count in counts.items() if count)
    return f"{told or 'No problems'} in {seen}"


def _count(checked: Checked, severity: Severity) -> int:
    return sum(1 for problem in checked.problems if problem.kind.severity is severity)


def check_document(stores: Sequence[Checked]) -> Document:
    return {
        "problems": [
            {
                "driver": checked.source.driver,
                "code": problem.code,
                "severity": problem.kind.severity,
                **path_fields(problem.path),
                "evidence": printable(problem.message),
                "affects": [printable(name) for name in problem.affects],
                "consequence": problem.kind.consequence,
                "remedy": problem.kind.remedy,
            }
            for checked, problem in sorted(
                ((checked, problem) for checked in stores for problem in checked.problems),
                key=lambda item: item[1].kind.severity,
            )
        ],
        "stores": [source_document(checked.source) for checked in stores],
        "counts": {severity.value: sum(_count(one, severity) for one in stores) for severity in Severity},
        "checked": {
            "images": sum(checked.images for checked in stores),
            "containers": sum(checked.containers for checked in stores),
            "layers": sum(checked.layers for checked in stores),
            "directories": sum(checked.directories for checked in stores),
        },
    }


def check_schema() -> Schema:
    problem = path_record(
        driver=described(nullable(TEXT), "Of the store that has it."),
        code=one_of(Code),
        severity=one_of(Severity),
        evidence=described(TEXT, "What is there at path, and what should be."),
        affects=listed(TEXT, "Names of the images and containers that stand on it."),
        consequence=described(TEXT, "What follows from it."),
        remedy=described(TEXT, "What to do, with the official command where there is one."),
    )
    return record(
        problems=listed(problem, "Errors first, then by store, code and path."),
        stores=listed(SOURCE, "Those that were checked, the one in use first."),
        counts=record(**{severity.value: COUNT for severity in Severity}),
        checked=record(images=COUNT, containers=COUNT, layers=COUNT, directories=COUNT),
    )
