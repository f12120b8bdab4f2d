"""What ``verify`` prints: a table, a document and its schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from layerscope.analysis.attributes import Difference, Problem
from layerscope.analysis.verify import Verdict, VerifiedLayer
from layerscope.model import Source
from layerscope.report.document import Document, path_fields
from layerscope.report.shapes import (
    COUNT,
    DIGEST,
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
from layerscope.report.table import fit_last
from layerscope.report.text import amount, instruction, plural, printable, shown_path, storage
from layerscope.timestamps import from_nanoseconds

MOST_SHOWN: Final = 20
"""Differences of one layer in the table; the document has all that are named."""
_LOOKS: Final = {
    Verdict.OK: "green",
    Verdict.UNREAD: "green",
    Verdict.DIFFERS: "red",
    Verdict.UNVERIFIABLE: "yellow",
}
_WORDS: Final = {
    Verdict.OK: "ok",
    Verdict.UNREAD: "not read",
    Verdict.DIFFERS: "DIFFERS",
    Verdict.UNVERIFIABLE: "unverifiable",
}


def verify_tables(found: Sequence[tuple[Source, Sequence[VerifiedLayer]]], style: Style) -> str:
    """A table for each store, headed by where it is where there are several."""
    if len(found) == 1:
        return verify_table(found[0][1], style)
    return "\n\n".join(f"{'Storage':<10} {storage(source)}\n\n{verify_table(one, style)}" for source, one in found)


def verify_table(layers: Sequence[VerifiedLayer], style: Style) -> str:
    """A line a layer, then what is wrong with each, then the sum."""
    if not layers:
        return "No layers."
    rows = [
        [
            style.paint(_WORDS[layer.verdict], _LOOKS[layer.verdict]),
            style.id(layer.cache_id),
            amount(layer.entries),
            style.size(layer.tar_bytes),
            _what(layer),
        ]
        for layer in layers
    ]
    headers = ["VERDICT", "LAYER", "ENTRIES", "TAR", "INSTRUCTION"]
    parts = [fit_last(rows, headers, {2, 3}, style)]
    for layer in layers:
        if layer.differences or layer.reasons:
            parts += ["", *_details(layer, style)]
    return "\n".join([*parts, "", summary(layers)])


def summary(layers: Sequence[VerifiedLayer]) -> str:
    """One line that counts the verdicts."""
    words = {
        Verdict.OK: "as their diff_ids say",
        Verdict.UNREAD: "without a difference in names and attributes (content was not read)",
        Verdict.DIFFERS: "that differ",
        Verdict.UNVERIFIABLE: "that can't be verified",
    }
    counts = {verdict: sum(1 for layer in layers if layer.verdict is verdict) for verdict in Verdict}
    told = [f"{amount(counts[verdict])} {words[verdict]}" for verdict in Verdict if counts[verdict]]
    return f"{plural(len(layers), 'layer')}: {', '.join(told)}"


def _what(layer: VerifiedLayer) -> str:
    return instruction(layer.created_by) or (
        f"(layer {layer.chain_id[7:19]} of no image)" if not layer.images else ""
    )


def _details(layer: VerifiedLayer, style: Style) -> list[str]:
    names = ", ".join(printable(user.name) for user in layer.images[:3])
    more = f" and {len(layer.images) - 3} more" if len(layer.images) > 3 else ""
    head = f"{style.id(layer.cache_id or layer.chain_id)} {names and f'({names}{more})'}".rstrip()
    lines = [style.paint(head, "bold"), *(f"  {printable(reason)}" for reason in layer.reasons)]
    shown = layer.differences[:MOST_SHOWN]
    width = max((len(item.problem) for item in shown), default=0)
    for item in shown:
        word = style.paint(item.problem.value.ljust(width), "red")
        lines.append(f"  {word}  {shown_path(item.path) or '(the root directory)'}{_detail(item)}")
    left = len(layer.differences) - len(shown) + layer.omitted
    if left:
        lines.append(f"  … and {plural(left, 'more difference')}; --json lists them")
    return lines


def _detail(item: Difference) -> str:
    expected, found = _value(item, item.expected), _value(item, item.found)
    if item.problem is Problem.EXTRA:
        return f": {found}, not in the layer's tar"
    if item.problem is Problem.MISSING:
        return f": {expected} in the layer's tar, not on disk"
    if item.problem is Problem.HARD_LINK:
        return f": no longer the same file as {expected}"
    if item.problem is Problem.CONTENT:
        crc = "" if " at " in expected else "CRC-64 "
        return f": {crc}{expected} in the tar, {found} on disk"
    return f": {expected or 'nothing'} in the tar, {found or 'nothing'} on disk"


def _value(item: Difference, value: str | None) -> str:
    if value is None:
        return ""
    if item.problem is Problem.MTIME:
        return from_nanoseconds(int(value)) or f"{value} ns"
    if item.problem is Problem.SIZE:
        return f"{amount(int(value))} bytes"
    return shown_path(value) if item.problem in (Problem.TARGET, Problem.HARD_LINK) else printable(value)


def verify_document(found: Sequence[tuple[Source, Sequence[VerifiedLayer]]]) -> Document:
    verdicts = [layer.verdict for _, layers in found for layer in layers]
    return {
        "layers": [_layer_document(source, layer) for source, layers in found for layer in layers],
        "counts": {verdict.value: verdicts.count(verdict) for verdict in Verdict},
    }


def _layer_document(source: Source, layer: VerifiedLayer) -> Document:
    return {
        "driver": source.driver,
        "chain_id": layer.chain_id,
        "diff_id": layer.diff_id,
        "cache_id": layer.cache_id,
        "created_by": layer.created_by,
        "images": [{"id": user.id, "references": list(user.references)} for user in layer.images],
        "verdict": layer.verdict,
        "reasons": [printable(reason) for reason in layer.reasons],
        "found_diff_id": layer.found_diff_id,
        "entries": layer.entries,
        "tar_bytes": layer.tar_bytes,
        "differences": [
            {
                **path_fields(item.path),
                "problem": item.problem,
                "expected": None if item.expected is None else printable(item.expected),
                "found": None if item.found is None else printable(item.found),
            }
            for item in layer.differences
        ],
        "differences_omitted": layer.omitted,
    }


def verify_schema() -> Schema:
    difference = path_record(
        problem=one_of(Problem),
        expected=described(nullable(TEXT), "By the layer's tar. A time is in ns since 1970. Null: nothing."),
        found=described(nullable(TEXT), "On disk. Null: nothing."),
    )
    layer = record(
        driver=described(nullable(TEXT), "Of the store that has it."),
        chain_id=DIGEST,
        diff_id=described(nullable(DIGEST), "What the layer's tar must hash to."),
        cache_id=described(nullable(TEXT), "Name of the directory in overlay2/, or in the snapshotter."),
        created_by=nullable(TEXT),
        images=listed(record(id=DIGEST, references=listed(TEXT)), "Who holds the layer."),
        verdict=one_of(Verdict),
        reasons=listed(TEXT, "Why it, or a part of it, can't be verified."),
        found_diff_id=described(
            nullable(DIGEST),
            "What the tar hashes to as the disk gives it, in containerd the one in the blob. Null: it can't be"
            " written anew, or unpacked, or --extra-only.",
        ),
        entries=described(COUNT, "Entries of the tar."),
        tar_bytes=described(COUNT, "Size of the tar."),
        differences=listed(difference, "Sorted by path; at most 1,000 a layer."),
        differences_omitted=described(COUNT, "Differences that are not listed."),
    )
    return record(
        layers=listed(layer, "In the order asked: of each image base first."),
        counts=record(**{verdict.value: COUNT for verdict in Verdict}),
    )
