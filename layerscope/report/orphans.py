"""What ``orphans`` prints: a table, a document and its schema; and what ``owner`` shares with it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

from layerscope.analysis.orphans import Item, Survey
from layerscope.analysis.purpose import ORPHANS, Purpose
from layerscope.model import Source
from layerscope.report.document import Document, path_fields, source_document
from layerscope.report.shapes import (
    COUNT,
    FLAG,
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
from layerscope.report.table import bold_grid, fit_last
from layerscope.report.text import amount, plural, printable, shown_path, storage
from layerscope.stores.evidence import Evidence, Witness

OPEN: Final = (Purpose.YOUNG, Purpose.UNKNOWN)
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_UNITS: Final = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_SAID: Final = {
    Witness.LAYER: "is the layer",
    Witness.REMOVED_LAYER: "is half removed:",
    Witness.UNFINISHED_LAYER: "is half made:",
    Witness.UPPER: "is the upper layer of",
    Witness.INIT: "is the init layer of",
    Witness.CONTAINER: "is of the container",
    Witness.BUILD_SNAPSHOT: "is the snapshot",
    Witness.BUILD_RECORD: "is of the build record",
    Witness.SNAPSHOT: "is the snapshot",
    Witness.KEY: "is known in the namespace",
    Witness.IMAGE: "is of the image",
    Witness.LEASE: "is held by the lease",
    Witness.LABEL: "is labelled as a root:",
    Witness.INGEST: "is the download",
    Witness.SANDBOX: "is of the sandbox",
    Witness.MOUNT: "is mounted at",
}


def words(purpose: Purpose) -> str:
    """The class of a directory as people read it."""
    return purpose.value.replace("-", " ")


def paint(purpose: Purpose, text: str, style: Style) -> str:
    look = "red" if purpose in ORPHANS else "yellow" if purpose in OPEN else ""
    return style.paint(text, look) if look else text


def orphans_table(surveys: Sequence[Survey], style: Style, *, everything: bool) -> str:
    """For each store a line a class, then every orphan and open question; with ``everything`` all directories."""
    return "\n\n".join(_survey(survey, style, everything) for survey in surveys)


def _survey(survey: Survey, style: Style, everything: bool) -> str:
    parts = [f"{'Storage':<10} {storage(survey.source)}", ""]
    if everything:
        parts += [_all(survey, style), ""]
    parts.append(_classes(survey, style))
    for title, purposes in (("Orphans", ORPHANS), ("Not judged", frozenset(OPEN))):
        items = [item for item in survey.items if item.purpose in purposes]
        if items:
            parts += [
                "",
                style.paint(title, "bold"),
                *(line for item in items for line in _lines(item, survey.source, style)),
            ]
    return "\n".join([*parts, "", *_advice(survey, style), _sum(survey, style)])


def _all(survey: Survey, style: Style) -> str:
    rows = [
        [
            paint(item.purpose, words(item.purpose), style),
            _name(item, style),
            _why(item, style),
        ]
        for item in survey.items
    ]
    return fit_last(rows, ["CLASS", "DIRECTORY", "EVIDENCE"], set(), style)


def _name(item: Item, style: Style) -> str:
    if item.cache_id is not None:
        return style.id(item.cache_id)
    _, kind, name = item.path.rsplit("/", 2)
    return f"sha256:{_shortened(name, style)}" if kind == "sha256" else shown_path(name)


def _why(item: Item, style: Style) -> str:
    said = [f"{_SAID[one.witness]} {holder(one, style)}" for one in by_witness(item.evidence)]
    return "; ".join([*said, *(printable(sign) for sign in item.signs)])


def _classes(survey: Survey, style: Style) -> str:
    rows = []
    for purpose, items in _by_class(survey):
        known = [item.allocated_bytes for item in items if item.allocated_bytes is not None]
        freed_by = survey.remedies[purpose].command or ("by hand" if purpose in ORPHANS else "-")
        size = style.size(sum(known)) if known else "-"
        rows.append([paint(purpose, words(purpose), style), amount(len(items)), size, freed_by])
    headers = ["CLASS", "COUNT", "SIZE", "FREED BY"]
    return bold_grid(rows, headers, {1, 2}, style) if rows else "No layer directories."


def _by_class(survey: Survey) -> Iterable[tuple[Purpose, list[Item]]]:
    for purpose in Purpose:
        items = [item for item in survey.items if item.purpose is purpose]
        if items:
            yield purpose, items


def _lines(item: Item, source: Source, style: Style) -> Iterable[str]:
    path = item.path.removeprefix(f"{source.storage}/")
    yield f"  {shown_path(path)}"
    facts = [paint(item.purpose, words(item.purpose), style)]
    if item.suspected is not None:
        facts.append(f"maybe {words(item.suspected)}")
    if item.allocated_bytes is not None:
        facts.append(style.size(item.allocated_bytes))
    if item.age_seconds is not None:
        facts.append(f"changed {duration(item.age_seconds)} ago")
    yield f"    {', '.join(facts)}"
    why = "; ".join(
        filter(None, [_why(item, style), *(f"its link is l/{shown_path(link)}" for link in item.links)])
    )
    if why:
        yield from wrapped(why, style, "    ")


def duration(seconds: float) -> str:
    """Rounded down to the largest unit: ``3 days``."""
    for unit, length in _UNITS:
        if seconds >= length:
            return plural(int(seconds // length), unit)
    return "less than a second"


def wrapped(text: str, style: Style, indent: str, more: str = "") -> list[str]:
    """Lines of the style's width; those after the first are indented by ``more`` as well."""
    return textwrap.wrap(
        text,
        max(style.width, 40),
        initial_indent=indent,
        subsequent_indent=indent + more,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _advice(survey: Survey, style: Style) -> list[str]:
    """How each class of orphans that is there goes away."""
    told: list[str] = []
    for purpose, _items in _by_class(survey):
        if purpose in ORPHANS or purpose in OPEN:
            remedy = survey.remedies[purpose]
            command = f"`{remedy.command}`: " if remedy.command is not None else ""
            told += wrapped(f"{words(purpose)}: {command}{remedy.note}", style, "")
    return [*told, ""] if told else []


def _sum(survey: Survey, style: Style) -> str:
    orphans = survey.orphans
    taken = sum(item.allocated_bytes or 0 for item in orphans)
    questions = sum(1 for item in survey.items if item.purpose in OPEN)
    more = f"; {plural(questions, 'other')} not judged" if questions else ""
    return (f"{plural(len(orphans), 'orphan')}, {style.size(taken)}" if orphans else "No orphans") + more


def by_witness(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Layers first, mounts last."""
    order = list(Witness)
    return sorted(evidence, key=lambda one: order.index(one.witness))


def holder(evidence: Evidence, style: Style) -> str:
    """Who refers to a directory, with the ids in it shortened."""
    return _shortened(printable(evidence.holder), style)


def _shortened(text: str, style: Style) -> str:
    return _HEX.sub(lambda match: match[0][:12], text).removeprefix("sha256:") if style.truncate else text


def evidence_line(evidence: Evidence, root: str | None, style: Style) -> str:
    """``image/…/cache-id: is the layer e7ab60159960``."""
    return said_line(evidence.path, f"{_SAID[evidence.witness]} {holder(evidence, style)}", root, style)


def said_line(path: str, said: str, root: str | None, style: Style) -> str:
    """A file below the data root, and what it says."""
    below = shown_path(path.removeprefix(f"{root}/"))
    if style.truncate:
        below = _HEX.sub(lambda match: f"{match[0][:12]}…", below)
    return f"{below}: {said}"


# -- documents -----------------------------------------------------------------------------------------------


def orphans_document(surveys: Sequence[Survey], min_age_seconds: float) -> Document:
    orphans = [item for survey in surveys for item in survey.orphans]
    return {
        "min_age_seconds": min_age_seconds,
        "stores": [source_document(survey.source) for survey in surveys],
        "entries": [_entry(item, survey) for survey in surveys for item in survey.items],
        "classes": [_class(survey, *found) for survey in surveys for found in _by_class(survey)],
        "orphans": len(orphans),
        "orphan_bytes": sum(item.allocated_bytes or 0 for item in orphans),
        "unreadable": [
            {**path_fields(source.path), "message": printable(source.message)}
            for source in dict.fromkeys(source for survey in surveys for source in survey.unreadable)
        ],
    }


def _class(survey: Survey, purpose: Purpose, items: Sequence[Item]) -> Document:
    known = [item.allocated_bytes for item in items if item.allocated_bytes is not None]
    remedy = survey.remedies[purpose]
    return {
        "driver": survey.source.driver,
        "class": purpose,
        "orphan": purpose in ORPHANS,
        "count": len(items),
        "allocated_bytes": sum(known) if known else None,
        "command": remedy.command,
        "note": remedy.note,
    }


def _entry(item: Item, survey: Survey) -> Document:
    return {
        "driver": survey.source.driver,
        **path_fields(item.path),
        "cache_id": item.cache_id,
        "links": [printable(link) for link in item.links],
        "class": item.purpose,
        "suspected": item.suspected,
        "orphan": item.purpose in ORPHANS,
        "allocated_bytes": item.allocated_bytes,
        "age_seconds": None if item.age_seconds is None else max(round(item.age_seconds, 3), 0),
        "evidence": evidence_document(item.evidence),
        "signs": [printable(sign) for sign in item.signs],
    }


def evidence_document(evidence: Iterable[Evidence]) -> list[Document]:
    return [{"witness": one.witness, "holder": printable(one.holder), **path_fields(one.path)} for one in evidence]


EVIDENCE: Final = listed(
    path_record(
        witness=one_of(Witness),
        holder=described(TEXT, "Who refers to it: a chain_id, an id, a mount point."),
    ),
    "What refers to it; path is the file that says so.",
)
SIGNS: Final = listed(TEXT, "What its class follows from beside the evidence, in words.")


def orphans_schema() -> Schema:
    seconds = {"type": "number", "minimum": 0}
    driver = described(nullable(TEXT), "Of the store that it is in.")
    entry = path_record(
        driver=driver,
        cache_id=described(
            nullable(TEXT), "Null: a link, a record, a blob, or a name that the engine gives to no layer."
        ),
        links=listed(TEXT, "Links in l/ that lead to it, for what is not in use."),
        suspected=described(nullable(one_of(Purpose)), "The class of what is too young, or unknown."),
        orphan=FLAG,
        allocated_bytes=described(
            nullable(COUNT), "st_blocks × 512, each inode once. Null: in use, so not walked."
        ),
        age_seconds=described(nullable(seconds), "Since anything in it changed. Null: in use, so not walked."),
        evidence=EVIDENCE,
        signs=SIGNS,
        **{"class": one_of(Purpose)},
    )
    kind = record(
        driver=driver,
        orphan=FLAG,
        count=COUNT,
        allocated_bytes=nullable(COUNT),
        command=described(nullable(TEXT), "The official command that frees it. Null: there is none."),
        note=TEXT,
        **{"class": one_of(Purpose)},
    )
    return record(
        min_age_seconds=seconds,
        stores=listed(SOURCE, "The one in use first."),
        entries=listed(
            entry,
            "Directories of overlay2/, then dangling links, then records without a directory; of a containerd root"
            " snapshots, then blobs, then downloads, then records without a directory.",
        ),
        classes=listed(kind),
        orphans=COUNT,
        orphan_bytes=COUNT,
        unreadable=listed(path_record(message=TEXT), "What may refer to directories and can't be read."),
    )
