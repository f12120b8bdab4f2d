"""Regular expressions of rules: kept as they are written, translated and compiled when they are first needed.

There are hundreds of them and most runs need few: compiled databases tell the places of most, and a second run
reads its results from the cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from layerscope.secrets.go_syntax import PatternError, parse
from layerscope.secrets.pattern import (
    WIDEST,
    Data,
    Node,
    hyperscan_source,
    needed_literals,
    python_source,
    trigger,
    width,
)

SHORTEST_LITERAL: Final = 2
"""A shorter text stands everywhere: searching for it is no help."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """How the place of a match is found before the rule's own pattern looks at it."""

    hyperscan: bytes
    literals: frozenset[bytes]
    """Lower-case texts of which every match holds one; empty: the pattern itself must search everything."""
    width: int
    """The greatest number of bytes from a match's first byte to its last."""


@dataclass(frozen=True)
class Regex:
    """One expression in Go's syntax. All but ``source`` raises PatternError when it can't be translated."""

    source: str

    @cached_property
    def node(self) -> Node:
        try:
            return parse(self.source)
        except RecursionError as error:
            raise PatternError("too deep") from error

    @cached_property
    def compiled(self) -> re.Pattern[bytes]:
        try:
            return re.compile(python_source(self.node))
        except (re.error, RecursionError, OverflowError) as error:
            raise PatternError(str(error)) from error

    @cached_property
    def trigger(self) -> Trigger:
        literals = needed_literals(self.node)
        if any(len(literal) < SHORTEST_LITERAL for literal in literals):
            literals = frozenset()
        most = width(self.node)[1]
        source = hyperscan_source(trigger(self.node))
        return Trigger(source, literals, WIDEST if most is None else min(most, WIDEST))

    @property
    def may_be_empty(self) -> bool:
        """Whether it matches the empty text."""
        return width(self.node)[0] == 0

    def search(self, data: Data) -> re.Match[bytes] | None:
        return self.compiled.search(data)
