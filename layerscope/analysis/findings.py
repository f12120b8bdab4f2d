"""A secret at one place of a layer or configuration, and how the targets of an audit come to hold it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from layerscope.analysis.exposure import Exposure
from layerscope.analysis.masking import Known, Masker
from layerscope.model import Layer, TargetKind
from layerscope.overlay.resolve import Reason
from layerscope.secrets.engine import Scanner
from layerscope.secrets.match import Confidence


class Holder(NamedTuple):
    """An image, container or mount that holds a finding."""

    kind: TargetKind
    id: str | None
    name: str


class HiddenBy(NamedTuple):
    """What hides a finding in its target: a layer of the stack, the reason, and the path at which it cuts."""

    layer: Layer
    reason: Reason
    path: str
    created_by: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One secret at one place. Instructions are masked unless secrets are to be shown."""

    rule_id: str
    title: str
    confidence: Confidence
    exposure: Exposure
    target: Holder
    layer: Layer | None
    """The layer that holds it; for a text of the history the one that its step made, if any."""
    created_by: str | None
    """The instruction that put it there."""
    hidden_by: HiddenBy | None
    path: str
    """In the layer; or the place in the configuration."""
    shown_at: str | None
    """Where the target shows the file, if it was renamed."""
    line: int | None
    column: int | None
    offset: int | None
    redacted: str
    fingerprint: str
    on_disk_path: str | None
    also_in: tuple[Holder, ...] = ()
    secret: bytes | None = None

    @property
    def sort_key(self) -> tuple[int, str, int, int, str, str, str, str]:
        """By confidence, then path; the rest makes the order complete."""
        index = self.layer.index if self.layer is not None else -1
        place = (self.path, index, self.offset or 0)
        return (self.confidence.rank, *place, self.rule_id, self.fingerprint, self.target.kind, self.target.name)


class Findings:
    """Findings while they come in: those that differ only in their targets are one."""

    def __init__(self, reveal: bool, audited: Collection[str | None]) -> None:
        self.reveal = reveal
        self._audited = audited
        self._findings: dict[object, Finding] = {}
        self._holders: dict[object, list[Holder]] = {}

    def add(self, key: object, finding: Finding) -> None:
        holders = self._holders.setdefault(key, [])
        if not holders:
            self._findings[key] = finding
            layer = finding.layer
            for user in layer.shared_with if layer is not None and finding.exposure is not Exposure.CONFIG else ():
                if user.id not in self._audited:
                    holders.append(Holder(TargetKind.IMAGE, user.id, user.name))
            holders.insert(0, finding.target)
        elif finding.target not in holders:
            holders.append(finding.target)

    def masked(self, scanner: Scanner) -> Iterator[Finding]:
        """The findings, with all their targets, and no secret in an instruction unless they are to be shown."""
        known = [Known(one.rule_id, one.redacted, one.fingerprint) for one in self._findings.values()]
        masker = Masker(scanner, known)

        def shown(instruction: str | None) -> str | None:
            return instruction if instruction is None or self.reveal else masker.mask(instruction)

        for key, finding in self._findings.items():
            hider = finding.hidden_by
            yield replace(
                finding,
                created_by=shown(finding.created_by),
                hidden_by=hider._replace(created_by=shown(hider.created_by)) if hider is not None else None,
                also_in=tuple(sorted(self._holders[key][1:], key=_holder_order)),
            )


def _holder_order(holder: Holder) -> tuple[int, str, str]:
    return (list(TargetKind).index(holder.kind), holder.name, holder.id or "")
