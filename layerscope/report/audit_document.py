"""``audit`` as a document: its JSON contract."""

from __future__ import annotations

import os
from typing import Final

from layerscope.analysis.audit import Audit
from layerscope.analysis.exposure import Exposure
from layerscope.analysis.findings import Finding, HiddenBy, Holder
from layerscope.analysis.selection import Selection
from layerscope.model import Layer, Role, TargetKind
from layerscope.overlay.resolve import Reason
from layerscope.report.document import Document, path_fields, target_document
from layerscope.report.shapes import (
    BASE64,
    COUNT,
    DIGEST,
    INDEX,
    TARGET,
    TEXT,
    Schema,
    described,
    listed,
    nullable,
    one_of,
    path_record,
    record,
)
from layerscope.report.text import is_utf8, printable
from layerscope.secrets.match import Confidence


def audit_document(found: Audit, selection: Selection) -> Document:
    """The findings that remain, how many do not and why, and what was read."""
    scanned = found.scanned
    return {
        "targets": [target_document(target) for target in found.targets],
        "findings": [finding_document(finding) for finding in selection.findings],
        "accepted": [
            {
                "fingerprint": finding.fingerprint,
                "rule_id": finding.rule_id,
                **path_fields(finding.path),
                "reason": entry.reason,
                "expires": entry.expires.isoformat() if entry.expires is not None else None,
            }
            for finding, entry in selection.accepted
        ],
        "less_sure": selection.less_sure,
        "scanned": {
            "layers": scanned.layers,
            "files": scanned.files,
            "bytes": scanned.size_bytes,
            "skipped": [{**path_fields(skip.path), "reason": printable(skip.reason)} for skip in scanned.skipped],
            "ignored": [{"diff_id": diff_id, "reason": reason} for diff_id, reason in scanned.ignored.items()],
        },
    }


def finding_document(finding: Finding) -> Document:
    document: Document = {
        "rule_id": finding.rule_id,
        "title": finding.title,
        "confidence": finding.confidence,
        "exposure": finding.exposure,
        "target": _holder(finding.target),
        "layer": _layer(finding.layer),
        "created_by": finding.created_by,
        "hidden_by": _hidden_by(finding.hidden_by),
        **path_fields(finding.path),
        "line": finding.line,
        "column": finding.column,
        "offset": finding.offset,
        "redacted": finding.redacted,
        "fingerprint": finding.fingerprint,
        **_optional_path(finding.on_disk_path, "on_disk_path"),
        **_optional_path(finding.shown_at, "shown_at"),
        "also_in": [_holder(holder) for holder in finding.also_in],
    }
    if finding.secret is not None:
        document.update(path_fields(os.fsdecode(finding.secret), "secret"))
    return document


def _optional_path(path: str | None, name: str) -> Document:
    return {name: None} if path is None else path_fields(path, name)


def _holder(holder: Holder) -> Document:
    name = holder.name if is_utf8(holder.name) else printable(holder.name)
    return {"kind": holder.kind, "id": holder.id, "name": name}


def _layer(layer: Layer | None) -> Document | None:
    if layer is None:
        return None
    return {
        "index": layer.index,
        "role": layer.role,
        "diff_id": layer.diff_id,
        "chain_id": layer.chain_id,
        "cache_id": layer.cache_id,
    }


def _hidden_by(hider: HiddenBy | None) -> Document | None:
    if hider is None:
        return None
    return {
        "layer": hider.layer.index,
        "reason": hider.reason,
        **path_fields(hider.path),
        "created_by": hider.created_by,
    }


_HOLDER: Final = record(kind=one_of(TargetKind), id=nullable(TEXT), name=TEXT)
FINDING: Final = path_record(
    ("on_disk_path_b64", "shown_at_b64", "secret", "secret_b64"),
    rule_id=TEXT,
    title=TEXT,
    confidence=one_of(Confidence),
    exposure=described(one_of(Exposure), "Of a file: whether the target shows it. `config`: no file of a layer."),
    target=described(_HOLDER, "The first of the audited targets that holds it."),
    layer=nullable(
        described(
            record(
                index=INDEX,
                role=one_of(Role),
                diff_id=nullable(DIGEST),
                chain_id=nullable(DIGEST),
                cache_id=nullable(TEXT),
            ),
            "The layer that holds it, or that its step of the history made.",
        )
    ),
    created_by=described(nullable(TEXT), "The instruction that put it there, without the secret."),
    hidden_by=nullable(
        path_record(
            layer=INDEX,
            reason=one_of(Reason),
            created_by=described(nullable(TEXT), "The instruction that hid it."),
        )
    ),
    line=described(nullable({"type": "integer", "minimum": 1}), "Null in a binary file and in a configuration."),
    column=nullable({"type": "integer", "minimum": 1}),
    offset=described(nullable(COUNT), "In bytes from the start of the file. Null in a configuration."),
    redacted=TEXT,
    fingerprint=described(TEXT, "Stands for rule and value: equal wherever they are."),
    on_disk_path=described(nullable(TEXT), "The file on this machine."),
    on_disk_path_b64=BASE64,
    shown_at=described(nullable(TEXT), "The path at which the target shows a file that was renamed."),
    shown_at_b64=BASE64,
    also_in=listed(_HOLDER, "Other targets that hold it, and images not audited that hold the layer."),
    secret=described(TEXT, "With --show-secrets."),
    secret_b64=BASE64,
)


def audit_schema() -> Schema:
    return record(
        targets=listed(TARGET),
        findings=listed(FINDING, "By confidence, then path."),
        accepted=listed(
            path_record(fingerprint=TEXT, rule_id=TEXT, reason=TEXT, expires=nullable(TEXT)),
            "Findings that the baseline or --allow accepts.",
        ),
        less_sure=described(COUNT, "Findings of a lower confidence than was asked for."),
        scanned=record(
            layers=described(COUNT, "Each unique layer once."),
            files=COUNT,
            bytes=COUNT,
            skipped=listed(path_record(reason=TEXT), "What was not read, wholly or in part."),
            ignored=listed(record(diff_id=DIGEST, reason=TEXT), "Layers left out because an option says so."),
        ),
    )
