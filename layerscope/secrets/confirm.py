"""Decides at each place whether a rule really matches, and what the secret is.

What is found does not depend on how the places were found: it is what ``finditer`` over the whole file would give,
each match cut off at ``WIDEST`` bytes, less what entropy, checks and allow lists let pass.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from layerscope.secrets.assignments import JUDGES, Judge, Site, Verdict
from layerscope.secrets.checks import CHECKS, entropy
from layerscope.secrets.match import Confidence
from layerscope.secrets.pattern import WIDEST, Data
from layerscope.secrets.places import WIDE, Spans, merge
from layerscope.secrets.rules import KEYWORD_REACH, Allowlist, Rule, RuleSet

MOST_PER_RULE: Final = 1000
"""More matches of one rule in one file are not listed; an omission says so."""
LINE_REACH: Final = 1024
"""How much of a match's line an allow list sees on either side of it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A confirmed secret; offsets are in bytes from the start of the scanned data."""

    rule: Rule
    title: str
    confidence: Confidence
    start: int
    end: int
    value: bytes


@dataclass(slots=True)
class Part:
    """The part of the data in which matches may begin; the rest is there to be looked at.

    ``floors`` holds, by rule, where its last match ended: the next one begins there or later.
    """

    start: int
    stop: int
    head: bytes
    """The first four bytes of the file."""
    floors: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Prepared:
    rule: Rule
    pattern: re.Pattern[bytes]
    width: int
    allowlists: tuple[Allowlist, ...]
    judge: Judge | None


class Confirmer:
    """The second look: rules' own patterns on small windows."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._prepared: dict[int, _Prepared] = {}

    def confirm(self, data: Data, spans: Spans, path: str, part: Part | None = None) -> Iterator[Found]:
        """What the rules find at the places ``spans``, by rule and offset."""
        part = part or Part(0, len(data), bytes(data[:4]))
        site = Site(os.fsencode(path), part.head)
        for index in sorted(spans.keys() - {WIDE}):
            prepared = self._prepared.get(index) or self._prepare(index)
            if prepared.rule.path and not prepared.rule.path.search(site.path):
                continue
            matches = _matches(prepared, index, data, spans[index], part)
            judged = (_judged(prepared, match, data, site) for match in matches)
            yield from islice(filter(None, judged), MOST_PER_RULE + 1)

    def _prepare(self, index: int) -> _Prepared:
        rule = self._rules.rules[index]
        assert rule.pattern is not None  # else it has no places
        prepared = _Prepared(
            rule,
            rule.pattern.compiled,
            rule.pattern.trigger.width,
            self._rules.allowlists_for(rule),
            JUDGES[rule.judge] if rule.judge else None,
        )
        self._prepared[index] = prepared
        return prepared


def _matches(
    prepared: _Prepared, index: int, data: Data, spans: list[list[int]], part: Part
) -> Iterator[re.Match[bytes]]:
    pattern, width = prepared.pattern, prepared.width
    floor = max(part.start, part.floors.get(index, 0))
    for low, high in spans if len(spans) == 1 else merge(spans, 2 * width + 2):
        position, end = max(low - width, floor), min(high + width + 1, len(data))
        while match := pattern.search(data, position, end):
            start = match.start()
            if start >= part.stop:
                break
            # The window's end is no end of text: look again from the same byte, as if there were no window.
            match = pattern.match(data, start, min(start + WIDEST, len(data)))
            if match is None:
                position = start + 1
                continue
            position = floor = max(match.end(), start + 1)
            yield match
    part.floors[index] = floor


def _judged(prepared: _Prepared, match: re.Match[bytes], data: Data, site: Site) -> Found | None:
    rule = prepared.rule
    group = rule.secret_group(match)
    start, end = match.span(group)
    value = bytes(data[start:end])
    if not value or (rule.entropy and entropy(value) <= rule.entropy):
        return None
    if rule.keywords and not _has_keyword(rule, match, data):
        return None
    if rule.check and not CHECKS[rule.check](value):
        return None
    verdict = prepared.judge(match, rule, site) if prepared.judge else Verdict(rule.confidence)
    if verdict is None:
        return None
    if prepared.allowlists:
        line = _line(data, match.start(), match.end())
        whole = bytes(match[0])
        if any(one.allows(site.path, value, whole, line) for one in prepared.allowlists):
            return None
    return Found(rule, titled(rule, verdict), verdict.confidence, start, end, value)


def titled(rule: Rule, verdict: Verdict) -> str:
    """The rule's title, with what the verdict adds to it."""
    return f"{rule.title} ({verdict.detail})" if verdict.detail else rule.title


def _has_keyword(rule: Rule, match: re.Match[bytes], data: Data) -> bool:
    inside = match[0].lower()
    if any(word in inside for word in rule.keywords):
        return True
    around = bytes(data[max(0, match.start() - KEYWORD_REACH) : match.end() + KEYWORD_REACH]).lower()
    return any(word in around for word in rule.keywords)


def _line(data: Data, start: int, end: int) -> bytes:
    first = data.rfind(b"\n", max(0, start - LINE_REACH), start) + 1 or max(0, start - LINE_REACH)
    last = data.find(b"\n", end, end + LINE_REACH)
    return bytes(data[first : last if last >= 0 else end + LINE_REACH])
