"""Known findings that are accepted: by fingerprint, or by rule and path. Reads and writes the baseline file.

{"version": 1,
 "findings": [{"fingerprint": "…", "reason": "…", "expires": "2026-01-31", "rule_id": "…", "path": "…"}],
 "allow": [{"rule": "generic-*", "path": "usr/share/doc/*", "reason": "…", "expires": null}]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import Any, Final, Protocol

from layerscope.errors import UsageError

VERSION: Final = 1
LARGEST_BYTES: Final = 64 << 20
UNREVIEWED: Final = "not reviewed yet"
_HINT: Final = "`layerscope audit --write-baseline FILE` writes one to start with"


class Known(Protocol):
    """What a baseline looks at in a finding."""

    @property
    def rule_id(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def redacted(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """One entry: a fingerprint, or globs for rule and path, in which ``*`` also stands for slashes."""

    fingerprint: str | None = None
    rule: str = "*"
    path: str = "*"
    reason: str = ""
    expires: date | None = None
    """The last day on which it holds."""

    def fits(self, finding: Known) -> bool:
        if self.fingerprint is not None:
            return finding.fingerprint == self.fingerprint
        return fnmatchcase(finding.rule_id, self.rule) and fnmatchcase(finding.path, self.path)

    def holds(self, today: date) -> bool:
        return self.expires is None or today <= self.expires


class Baseline:
    """What is accepted."""

    def __init__(self, entries: Iterable[Accepted] = ()) -> None:
        self.entries = tuple(entries)
        self._globs = [entry for entry in self.entries if entry.fingerprint is None]
        self._by_fingerprint: dict[str, list[Accepted]] = {}
        for entry in self.entries:
            if entry.fingerprint is not None:
                self._by_fingerprint.setdefault(entry.fingerprint, []).append(entry)

    def entry_for(self, finding: Known, today: date) -> Accepted | None:
        """The entry that fits a finding: one that holds today, or else one that has expired."""
        fitting = [*self._by_fingerprint.get(finding.fingerprint, ()), *self._globs]
        fitting = [entry for entry in fitting if entry.fits(finding)]
        return next((entry for entry in fitting if entry.holds(today)), fitting[0] if fitting else None)


def allow(text: str) -> Accepted:
    """``RULE`` or ``RULE:PATH``, both globs. Raises UsageError."""
    rule, _, path = text.partition(":")
    if not rule:
        raise UsageError(f"--allow {text!r} names no rule", "give RULE:PATH, for example 'generic-*:usr/share/*'")
    return Accepted(rule=rule, path=path.removeprefix("/") or "*", reason="--allow")


def read_baseline(path: str) -> Baseline:
    """The baseline in a file. Raises UsageError that names the file, the entry and the reason."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_BYTES)
    except OSError as error:
        raise UsageError(f"can't read the baseline {path}: {error.strerror}", _HINT) from error
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the baseline {path} is not JSON: {str(error)[:80]}", _HINT) from error
    if not isinstance(table, dict) or table.get("version") != VERSION:
        raise UsageError(f'the baseline {path} is no object with "version": {VERSION}', _HINT)
    if unknown := sorted(table.keys() - {"version", "findings", "allow"}):
        raise UsageError(f"the baseline {path} has an unknown key {unknown[0]!r}", _HINT)
    return Baseline(
        [
            *(_entry(path, "findings", index, one) for index, one in enumerate(_list(path, table, "findings"))),
            *(_entry(path, "allow", index, one) for index, one in enumerate(_list(path, table, "allow"))),
        ]
    )


def _list(path: str, table: dict[str, Any], name: str) -> list[Any]:
    value = table.get(name, [])
    if not isinstance(value, list):
        raise UsageError(f"the baseline {path}: {name} is no list", _HINT)
    return value


_TEXTS: Final = {"findings": ("fingerprint", "reason"), "allow": ("rule", "path", "reason")}
_INFORMATION: Final = {"findings": {"rule_id", "path", "redacted"}, "allow": set[str]()}


def _entry(path: str, where: str, index: int, value: Any) -> Accepted:
    def wrong(reason: str) -> UsageError:
        return UsageError(f"the baseline {path}: {where}[{index}] {reason}", _HINT)

    if not isinstance(value, dict):
        raise wrong("is no object")
    texts = _TEXTS[where]
    if unknown := sorted(value.keys() - {*texts, "expires"} - _INFORMATION[where]):
        raise wrong(f"has an unknown key {unknown[0]!r}")
    for name in texts:
        if not isinstance(value.get(name, ""), str):
            raise wrong(f"has a {name} that is no text")
    if not value.get("reason"):
        raise wrong("gives no reason")
    required = "fingerprint" if where == "findings" else "rule"
    if not value.get(required):
        raise wrong(f"gives no {required}")
    expires = value.get("expires")
    try:
        last_day = None if expires is None else date.fromisoformat(expires)
    except (TypeError, ValueError):
        raise wrong(f"expires on {expires!r}, which is no date like 2026-01-31") from None
    return Accepted(**{name: value[name] for name in texts if name in value}, expires=last_day)


def baseline_text(findings: Iterable[Known], kept: Baseline | None = None) -> str:
    """A baseline file that accepts these findings, and what ``kept`` accepts; each fingerprint once."""
    old = kept.entries if kept is not None else ()
    known: dict[str, dict[str, Any]] = {
        one.fingerprint: {"fingerprint": one.fingerprint, **_terms(one)}
        for one in old
        if one.fingerprint is not None
    }
    for finding in findings:
        entry = known.setdefault(
            finding.fingerprint, {"fingerprint": finding.fingerprint, "reason": UNREVIEWED, "expires": None}
        )
        entry.setdefault("rule_id", finding.rule_id)
        entry.setdefault("path", finding.path)
        entry.setdefault("redacted", finding.redacted)
    globs = [{"rule": one.rule, "path": one.path, **_terms(one)} for one in old if one.fingerprint is None]
    table = {"version": VERSION, "findings": list(known.values()), "allow": globs}
    return json.dumps(table, indent=2) + "\n"


def _terms(entry: Accepted) -> dict[str, Any]:
    return {"reason": entry.reason, "expires": entry.expires.isoformat() if entry.expires else None}
