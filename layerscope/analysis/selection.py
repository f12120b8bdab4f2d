"""Which findings of an audit count: by confidence, and by what is accepted already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from layerscope.analysis.findings import Finding
from layerscope.secrets.baseline import Accepted, Baseline
from layerscope.secrets.match import Confidence


@dataclass(frozen=True, slots=True)
class Selection:
    """The findings of an audit, sorted out; each part in the audit's order."""

    findings: tuple[Finding, ...]
    """What remains."""
    accepted: tuple[tuple[Finding, Accepted], ...]
    expired: tuple[tuple[Finding, Accepted], ...]
    """What remains because its entry holds no more."""
    less_sure: int
    """Findings below the least confidence."""

    def at_least(self, confidence: Confidence) -> bool:
        """Whether a finding of this confidence or a higher one remains."""
        return any(finding.confidence.rank <= confidence.rank for finding in self.findings)


def select(findings: Sequence[Finding], least: Confidence, baseline: Baseline, today: date) -> Selection:
    """Sort out findings: those below ``least`` are only counted, those that the baseline accepts apart."""
    remaining: list[Finding] = []
    accepted: list[tuple[Finding, Accepted]] = []
    expired: list[tuple[Finding, Accepted]] = []
    sure = [finding for finding in findings if finding.confidence.rank <= least.rank]
    for finding in sure:
        entry = baseline.entry_for(finding, today)
        if entry is not None and entry.holds(today):
            accepted.append((finding, entry))
            continue
        remaining.append(finding)
        if entry is not None:
            expired.append((finding, entry))
    return Selection(tuple(remaining), tuple(accepted), tuple(expired), len(findings) - len(sure))
