"""Baselines: what they accept and until when, and that a wrong one names what is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from layerscope.errors import UsageError
from layerscope.secrets.baseline import Accepted, Baseline, allow, baseline_text, read_baseline

TODAY = date(2026, 3, 1)


@dataclass(frozen=True)
class Finding:
    rule_id: str = "github-token"
    path: str = "app/.env"
    fingerprint: str = "a" * 32
    redacted: str = "ghp_…xx (40 bytes)"


def written(tmp_path: Path, **table: object) -> str:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"version": 1, **table}))
    return str(path)


def accepts(baseline: Baseline, finding: Finding, today: date = TODAY) -> bool:
    entry = baseline.entry_for(finding, today)
    return entry is not None and entry.holds(today)


def test_a_fingerprint_is_accepted_wherever_it_lies(tmp_path: Path) -> None:
    path = written(tmp_path, findings=[{"fingerprint": "a" * 32, "reason": "revoked"}])
    baseline = read_baseline(path)
    assert accepts(baseline, Finding())
    assert accepts(baseline, Finding(path="elsewhere", rule_id="other"))
    assert not accepts(baseline, Finding(fingerprint="b" * 32))


def test_globs_accept_by_rule_and_path(tmp_path: Path) -> None:
    entry = {"rule": "github-*", "path": "usr/share/*", "reason": "examples"}
    baseline = read_baseline(written(tmp_path, allow=[entry]))
    assert accepts(baseline, Finding(path="usr/share/doc/deep/x"))
    assert not accepts(baseline, Finding(path="usr/lib/x"))
    assert not accepts(baseline, Finding(rule_id="stripe", path="usr/share/x"))


def test_an_entry_holds_to_the_end_of_its_day_and_is_told_after(tmp_path: Path) -> None:
    entry = {"fingerprint": "a" * 32, "reason": "until rotated", "expires": "2026-03-01"}
    baseline = read_baseline(written(tmp_path, findings=[entry]))
    assert accepts(baseline, Finding(), date(2026, 3, 1))
    assert not accepts(baseline, Finding(), date(2026, 3, 2))
    expired = baseline.entry_for(Finding(), date(2026, 3, 2))
    assert expired is not None and expired.reason == "until rotated"


def test_an_entry_that_holds_wins_over_an_expired_one() -> None:
    old = Accepted(fingerprint="a" * 32, reason="old", expires=date(2020, 1, 1))
    assert accepts(Baseline([old, Accepted(rule="github-token", reason="new")]), Finding())


@pytest.mark.parametrize(
    ("text", "rule", "path"),
    [("generic-*", "generic-*", "*"), ("a:usr/*", "a", "usr/*"), ("a:/usr/*", "a", "usr/*"), ("a:", "a", "*")],
)
def test_allow_option(text: str, rule: str, path: str) -> None:
    entry = allow(text)
    assert (entry.rule, entry.path) == (rule, path)


def test_allow_without_a_rule_is_refused() -> None:
    with pytest.raises(UsageError):
        allow(":usr/*")


def test_what_is_written_accepts_what_was_found_and_keeps_what_was_there(tmp_path: Path) -> None:
    kept = Baseline(
        [
            Accepted(fingerprint="a" * 32, reason="revoked", expires=date(2027, 1, 1)),
            Accepted(rule="x-*", path="y/*", reason="examples"),
        ]
    )
    found = [Finding(), Finding(fingerprint="b" * 32), Finding(fingerprint="b" * 32, path="twice")]
    path = tmp_path / "new.json"
    path.write_text(baseline_text(found, kept))
    again = read_baseline(str(path))
    assert all(accepts(again, finding) for finding in found)
    assert [entry.reason for entry in again.entries] == ["revoked", "not reviewed yet", "examples"]
    assert again.entries[0].expires == date(2027, 1, 1)
    assert accepts(again, Finding("x-1", "y/z", "c" * 32))
    assert baseline_text(found, again) == path.read_text()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"findings": [{"fingerprint": "a"}]}, "findings[0] gives no reason"),
        ({"findings": [{"reason": "x"}]}, "findings[0] gives no fingerprint"),
        ({"findings": [{}, 5]}, "findings[0] gives no reason"),
        ({"findings": ["text"]}, "findings[0] is no object"),
        ({"findings": {}}, "findings is no list"),
        ({"allow": [{"path": "x", "reason": "y"}]}, "allow[0] gives no rule"),
        ({"allow": [{"rule": 5, "reason": "y"}]}, "allow[0] has a rule that is no text"),
        ({"allow": [{"rule": "a", "reason": "y", "pth": "z"}]}, "allow[0] has an unknown key 'pth'"),
        ({"findings": [{"fingerprint": "a", "reason": "x", "expires": "soon"}]}, "findings[0] expires on 'soon'"),
        ({"findings": [{"fingerprint": "a", "reason": "x", "expires": 5}]}, "findings[0] expires on 5"),
        ({"version": 2}, 'no object with "version": 1'),
        ({"ignore": []}, "unknown key 'ignore'"),
    ],
)
def test_a_wrong_baseline_is_named_with_its_entry_and_the_reason(
    tmp_path: Path, table: dict[str, object], told: str
) -> None:
    path = written(tmp_path, **table)
    with pytest.raises(UsageError) as caught:
        read_baseline(path)
    assert path in caught.value.message and told in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1", b"null", b"[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "baseline.json"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        read_baseline(str(path))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match="/nonexistent"):
        read_baseline("/nonexistent")
