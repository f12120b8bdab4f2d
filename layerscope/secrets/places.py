"""Finds the places that a rule's own pattern must look at: by hyperscan, or by Python alone.

Both give, for every match that the pattern has in the data, at least one position inside it; what else they give
costs time and changes no finding.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from layerscope.secrets.pattern import Data
from layerscope.secrets.rules import Rule

Spans: TypeAlias = dict[int, list[list[int]]]
"""By the index of a rule: first and last position of each cluster of places, ascending and apart."""

WIDE: Final = -1
"""Stands in ``Spans`` for the index of a rule where the data may hold UTF-16 text."""


class PlaceFinder(Protocol):
    """Says where in the data a rule may match."""

    name: str

    def find(self, pieces: Sequence[Data]) -> list[Spans]:
        """The places in each piece."""


class Collector:
    """Clusters positions as they come, so that memory follows the data's size and not the number of places."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self.spans: Spans = {}

    def add(self, rule: int, _start: int, position: int, _flags: int = 0, _context: object = None) -> None:
        spans = self.spans.get(rule)
        if spans is None:
            self.spans[rule] = [[position, position]]
        elif spans[-1][0] <= position <= spans[-1][1] + reach(self._rules[rule]):
            if position > spans[-1][1]:
                spans[-1][1] = position
        else:
            spans.append([position, position])

    def merged(self) -> Spans:
        """The clusters in ascending order, those that touch made one."""
        for rule, spans in self.spans.items():
            if len(spans) > 1:
                self.spans[rule] = merge(spans, reach(self._rules[rule]))
        return self.spans


def merge(spans: list[list[int]], reach: int) -> list[list[int]]:
    """Make one span of those whose distance is ``reach`` or less."""
    merged: list[list[int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + reach:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return merged


def reach(rule: Rule) -> int:
    """How far apart two places of a rule may be and still be looked at together."""
    return 2 * rule.trigger.width + 2 if rule.trigger else 0


class KeywordFinder:
    """Pure Python: looks for text that every match of a rule holds, in either case."""

    name = "python"

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._all = rules
        self._without: list[tuple[int, re.Pattern[bytes]]] = []
        by_literal: dict[bytes, list[int]] = defaultdict(list)
        for index, rule in enumerate(rules):
            if rule.trigger is None:
                continue
            for literal in rule.trigger.literals:
                by_literal[literal].append(index)
            if rule.pattern and not rule.trigger.literals:
                self._without.append((index, rule.pattern.compiled))
        self._rules = {text: sorted(_of_prefixes(text, by_literal)) for text in by_literal}
        self._literals = re.compile(_longest_of(list(by_literal))) if by_literal else None

    def find(self, pieces: Sequence[Data]) -> list[Spans]:
        return [self._find(piece) for piece in pieces]

    def _find(self, data: Data) -> Spans:
        places = Collector(self._all)
        lowered = bytes(data).lower()
        position = 0
        while self._literals and (found := self._literals.search(lowered, position)):
            for rule in self._rules[found[0]]:
                places.add(rule, 0, found.start())
            position = found.start() + 1
        for index, pattern in self._without:
            position = 0
            while match := pattern.search(data, position):
                places.add(index, 0, match.start())
                position = match.start() + 1
        spans = places.merged()
        if b"\0" in data:
            spans[WIDE] = [[0, len(data)]]
        return spans


def _of_prefixes(text: bytes, by_literal: dict[bytes, list[int]]) -> set[int]:
    """The rules of all literals with which the text begins."""
    return {rule for end in range(1, len(text) + 1) for rule in by_literal.get(text[:end], ())}


def _longest_of(literals: list[bytes]) -> bytes:
    """A pattern for the longest of the literals at a place. As a tree: ``re`` tries alternatives one by one."""
    behind: dict[bytes, list[bytes]] = defaultdict(list)
    for literal in literals:
        if literal:
            behind[literal[:1]].append(literal[1:])
    branches = b"|".join(re.escape(first) + _longest_of(rest) for first, rest in sorted(behind.items()))
    if not branches:
        return b""
    return b"(?:" + branches + b")" + (b"?" if b"" in literals else b"")
