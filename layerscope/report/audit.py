"""What ``audit`` prints for people: findings by target, hidden ones first, a file at a time; then what to do."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

from layerscope.analysis.audit import Audit
from layerscope.analysis.exposure import Exposure
from layerscope.analysis.findings import Finding, HiddenBy, Holder
from layerscope.analysis.selection import Selection
from layerscope.model import Layer, Role, Target, TargetKind
from layerscope.overlay.resolve import Reason
from layerscope.report.style import Style
from layerscope.report.table import fit_last
from layerscope.report.text import amount, instruction, plural, printable, shown_path
from layerscope.secrets.match import Confidence

MOST_ALSO: Final = 5
_ORDER: Final = (Exposure.DELETED, Exposure.OVERWRITTEN, Exposure.CONFIG, Exposure.VISIBLE)
_LOOKS: Final = {Confidence.HIGH: "red", Confidence.MEDIUM: "yellow", Confidence.LOW: "cyan"}
_VERBS: Final = {
    Reason.WHITEOUT: "deleted by",
    Reason.OPAQUE: "replaced by",
    Reason.OVERWRITTEN: "overwritten by",
    Reason.REPLACED: "replaced by",
    Reason.UNREADABLE: "blocked by",
}
_KINDS: Final = {TargetKind.IMAGE: "Image", TargetKind.CONTAINER: "Container", TargetKind.MOUNT: "Overlay"}
INDENT: Final = "    "
LABEL: Final = len("overwritten by")
WIDEST_TEXT: Final = 100
_CONTENT_HASH: Final = re.compile(r"\b(file|dir|multi):([0-9a-f]{12})[0-9a-f]{52}\b")


def audit_table(found: Audit, selection: Selection, style: Style) -> str:
    """The findings that remain, by target; hints; totals."""
    parts: list[str] = []
    by_target: dict[Holder, list[Finding]] = {}
    for finding in selection.findings:
        by_target.setdefault(finding.target, []).append(finding)
    for target in found.targets:
        findings = by_target.get(Holder(target.kind, target.id, target.name))
        if findings:
            parts += [_heading(target, style), "", *_files(findings, style)]
    if selection.findings:
        parts += [style.paint("What to do", "bold"), *_hints(selection.findings, style), ""]
    return "\n".join([*parts, *_summary(found, selection, style)])


def _heading(target: Target, style: Style) -> str:
    name = style.paint(printable(target.name), "bold")
    return f"{_KINDS[target.kind]:<10} {name}" + (f"  ({style.id(target.id)})" if target.id else "")


def _files(findings: Sequence[Finding], style: Style) -> Iterator[str]:
    """A block for each file or place, hidden ones first, then by confidence and path."""

    def place(finding: Finding) -> tuple[object, ...]:
        hider = finding.hidden_by
        return (
            _ORDER.index(finding.exposure),
            finding.path,
            finding.layer.index if finding.layer is not None else -1,
            (hider.layer.index, hider.reason, hider.path) if hider is not None else (),
        )

    surest: dict[tuple[object, ...], int] = {}
    for finding in findings:
        surest.setdefault(place(finding), finding.confidence.rank)
    ordered = sorted(findings, key=lambda one: (place(one)[0], surest[place(one)], place(one)[1:]))
    for _, group in groupby(ordered, key=place):
        yield from _block(list(group), style)
        yield ""


def _block(findings: Sequence[Finding], style: Style) -> Iterator[str]:
    first = findings[0]
    lines = ",".join(dict.fromkeys(str(one.line) for one in findings if one.line is not None))
    path = shown_path(first.path) + (f":{lines}" if lines else "")
    look = "red" if first.exposure in (Exposure.DELETED, Exposure.OVERWRITTEN) else "yellow"
    yield f"  {style.paint(first.exposure.value, look)}  {style.paint(path, 'bold')}"
    narrower = replace(style, width=style.width - len(INDENT))
    rows = [
        [
            style.paint(one.confidence.value, _LOOKS[one.confidence]),
            printable(one.rule_id),
            _value(one),
            printable(one.title),
        ]
        for one in findings
    ]
    for line in fit_last(rows, ["", "", "", ""], set(), narrower).splitlines()[1:]:
        yield INDENT + line
    room = max(style.width - len(INDENT) - LABEL - 2, 20)
    for label, text in _origin(first, style):
        yield f"{INDENT}{label:<{LABEL}}  {text if label == 'on disk' else style.fit(text, room)}"


def _value(finding: Finding) -> str:
    if finding.secret is not None:
        return printable(os.fsdecode(finding.secret))
    return printable(finding.redacted)


def _origin(finding: Finding, style: Style) -> Iterator[tuple[str, str]]:
    """Where it comes from, what hides it, where it lies, who else has it."""
    layer, hider = finding.layer, finding.hidden_by
    if finding.exposure is Exposure.CONFIG:
        if finding.created_by:
            where = f"layer {layer.index}  " if layer is not None else ""
            label = "passed to" if ".argument." in finding.path else "in step" if layer is not None else "set by"
            yield label, where + _short(instruction(finding.created_by))
    elif layer is not None:
        yield "added by", _step(layer, finding.created_by, style)
    if hider is not None:
        yield _VERBS[hider.reason], _hiding(finding, hider, style)
    if finding.shown_at is not None:
        yield "shown at", shown_path(finding.shown_at)
    if finding.on_disk_path is not None:
        yield "on disk", style.path(finding.on_disk_path)
    if finding.also_in:
        names = [printable(_name(holder)) for holder in finding.also_in[:MOST_ALSO]]
        more = len(finding.also_in) - len(names)
        yield "also in", ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _step(layer: Layer, created_by: str | None, style: Style) -> str:
    return f"layer {layer.index}  {_short(style.layer(replace(layer, created_by=created_by)))}"


def _short(step: str) -> str:
    """The legacy builder names what it copies by its hash, and only then where to: cut the hash."""
    return _CONTENT_HASH.sub(r"\1:\2", step)


def _hiding(finding: Finding, hider: HiddenBy, style: Style) -> str:
    step = _step(hider.layer, hider.created_by, style)
    own = finding.path.partition("!/")[0]
    return step if hider.path == own else f"{step}  (with {shown_path(hider.path)})"


def _name(holder: Holder) -> str:
    return f"container {holder.name}" if holder.kind is TargetKind.CONTAINER else holder.name


# -- what to do, and the sum ---------------------------------------------------------------------------------


def _hints(findings: Iterable[Finding], style: Style) -> Iterator[str]:
    """A hint for each kind of exposure that there is."""
    findings = list(findings)
    exposures = {finding.exposure for finding in findings}
    roles = {finding.layer.role for finding in findings if finding.layer is not None}
    hints = ["Rotate these secrets first: whoever has pulled the image has them."]
    if exposures & {Exposure.DELETED, Exposure.OVERWRITTEN}:
        hints.append(
            "Deleted or overwritten: no later step can undo the step that wrote it. Mount it there instead"
            " (RUN --mount=type=secret), or write it in a stage that is not the last, and rebuild. The old layer"
            " stays on disk until nothing uses it: `docker rmi` the old image, then `docker builder prune`."
        )
    if Exposure.CONFIG in exposures:
        hints.append(
            "In the configuration: ENV, LABEL, ARG and the text of each step stay in the image for good. Pass it"
            " when the container starts (--env-file, Compose secrets), or to a step with RUN --mount=type=secret."
        )
    if Exposure.VISIBLE in exposures:
        hints.append(
            "Visible: keep the file out of the build (.dockerignore), and mount it when the container starts."
        )
    if Role.UPPER in roles:
        hints.append(
            "In a container's upper layer: it goes with the container (`docker rm`); `docker commit` would keep it."
        )
    width = min(style.width, WIDEST_TEXT)
    for hint in hints:
        yield from textwrap.wrap(
            hint, width, initial_indent="  - ", subsequent_indent=INDENT, break_on_hyphens=False
        )


def _summary(found: Audit, selection: Selection, style: Style) -> list[str]:
    findings, scanned = selection.findings, found.scanned
    if findings:
        counts = [
            f"{amount(count)} {confidence.value}"
            for confidence in Confidence
            if (count := sum(one.confidence is confidence for one in findings))
        ]
        secrets = plural(len({one.fingerprint for one in findings}), "secret")
        hidden = sum(one.hidden_by is not None for one in findings)
        told = f"{secrets} in {plural(len(findings), 'place')}: {', '.join(counts)}"
        lines = [style.paint(told, "bold") + (f"; {amount(hidden)} hidden, still on disk" if hidden else "")]
    else:
        lines = [style.paint("No secrets found", "bold")]
    kinds = [
        plural(count, kind.value)
        for kind in TargetKind
        if (count := sum(target.kind is kind for target in found.targets))
    ]
    lines.append(
        f"Scanned {plural(scanned.layers, 'layer')} of {' and '.join(kinds) or 'nothing'}:"
        f" {plural(scanned.files, 'file')}, {style.size(scanned.size_bytes)}"
    )
    notes = []
    if selection.accepted:
        notes.append(f"{amount(len(selection.accepted))} accepted (baseline, --allow)")
    if selection.less_sure:
        notes.append(f"{amount(selection.less_sure)} less sure (--confidence low)")
    if scanned.ignored:
        notes.append(f"{plural(len(scanned.ignored), 'layer')} ignored")
    if notes:
        lines.append("Not shown: " + ", ".join(notes))
    if scanned.skipped:
        told = f"Incomplete: {plural(len(scanned.skipped), 'path')} not read, wholly or in part; see the warnings"
        lines.append(style.paint(told, "red"))
    return lines
