"""``audit`` as SARIF 2.1.0, for code-scanning systems.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

from layerscope import __version__
from layerscope.analysis.audit import Audit
from layerscope.analysis.exposure import Exposure
from layerscope.analysis.findings import Finding
from layerscope.analysis.selection import Selection
from layerscope.model import Caution
from layerscope.report.audit_document import finding_document
from layerscope.report.text import instruction, printable
from layerscope.secrets.baseline import Accepted
from layerscope.secrets.match import Confidence

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: Final = {Confidence.HIGH: "error", Confidence.MEDIUM: "warning", Confidence.LOW: "note"}
FINGERPRINT: Final = "layerscopeSecret/v1"
Sarif = dict[str, Any]


def sarif_document(found: Audit, selection: Selection, cautions: Iterable[Caution]) -> Sarif:
    """One run. Accepted findings are there, marked as suppressed."""
    results = [(finding, None) for finding in selection.findings]
    everything: list[tuple[Finding, Accepted | None]] = [*results, *selection.accepted]
    rules = sorted({finding.rule_id: finding for finding, _ in everything}.values(), key=lambda one: one.rule_id)
    index = {finding.rule_id: number for number, finding in enumerate(rules)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "layerscope",
                        "version": __version__,
                        "rules": [_rule(finding) for finding in rules],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "invocations": [_invocation(found, cautions)],
                "results": [_result(finding, entry, index[finding.rule_id]) for finding, entry in everything],
            }
        ],
    }


def _rule(finding: Finding) -> Sarif:
    return {
        "id": finding.rule_id,
        "shortDescription": {"text": printable(finding.title)},
        "properties": {"tags": ["security", "secret"]},
    }


def _invocation(found: Audit, cautions: Iterable[Caution]) -> Sarif:
    told = [f"{caution.path}: {caution.message}" if caution.path else caution.message for caution in cautions]
    return {
        "executionSuccessful": not found.scanned.skipped,
        "toolExecutionNotifications": [{"level": "warning", "message": {"text": printable(text)}} for text in told],
    }


def _result(finding: Finding, accepted: Accepted | None, rule_index: int) -> Sarif:
    document = finding_document(finding)
    kept = ("confidence", "exposure", "target", "layer", "created_by", "hidden_by", "on_disk_path", "also_in")
    result: Sarif = {
        "ruleId": finding.rule_id,
        "ruleIndex": rule_index,
        "level": _LEVELS[finding.confidence],
        "message": {"text": message(finding)},
        "locations": [_location(finding)],
        "partialFingerprints": {FINGERPRINT: finding.fingerprint},
        "properties": {name: document[name] for name in kept},
    }
    if accepted is not None:
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": accepted.reason}]
    return result


def message(finding: Finding) -> str:
    """One sentence that says what, where, since when, and what hides it."""
    value = os.fsdecode(finding.secret) if finding.secret is not None else finding.redacted
    text = f"{finding.title} {value} in {finding.target.name}"
    if finding.layer is not None:
        text += f", layer {finding.layer.index}"
    if finding.created_by:
        text += f", by `{instruction(finding.created_by)}`"
    hider = finding.hidden_by
    if hider is not None:
        text += f"; {finding.exposure.value} by layer {hider.layer.index}"
        text += f", `{instruction(hider.created_by)}`" if hider.created_by else ""
        text += ", but still on disk"
    return printable(text)


def _location(finding: Finding) -> Sarif:
    physical: Sarif = {"artifactLocation": {"uri": quote(os.fsencode(finding.path), safe="/!")}}
    if finding.line is not None:
        physical["region"] = {"startLine": finding.line, "startColumn": finding.column or 1}
    elif finding.offset is not None:
        physical["region"] = {"byteOffset": finding.offset}
    place = (
        finding.path
        if finding.exposure is Exposure.CONFIG or finding.layer is None
        else f"layer {finding.layer.index}"
    )
    return {
        "physicalLocation": physical,
        "logicalLocations": [{"fullyQualifiedName": printable(f"{finding.target.name}/{place}")}],
    }
