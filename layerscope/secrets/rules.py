"""Rules as data: what a detector looks for, and which of its matches are let pass.

The keys are those of a gitleaks configuration, plus our own: ``confidence``, ``check``,
``judge``, ``parser``, ``files`` and ``examples``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Final, Literal

from layerscope.errors import UsageError
from layerscope.secrets.match import Confidence
from layerscope.secrets.regex import Regex, Trigger

KEYWORD_REACH: Final = 1024
"""A rule's keyword must stand in the match or at most this many bytes before or behind it."""


@dataclass(frozen=True, slots=True)
class Allowlist:
    """Matches to let pass: those that meet one condition, or all of them (``every``)."""

    every: bool = False
    paths: tuple[Regex, ...] = ()
    regexes: tuple[Regex, ...] = ()
    target: Literal["secret", "match", "line"] = "secret"
    stopwords: tuple[bytes, ...] = ()

    def allows(self, path: bytes, secret: bytes, match: bytes, line: bytes) -> bool:
        """Whether this match is to be let pass."""
        met: list[bool] = []
        if self.paths:
            met.append(any(pattern.search(path) for pattern in self.paths))
        if self.regexes:
            text = {"secret": secret, "match": match, "line": line}[self.target]
            met.append(any(pattern.search(text) for pattern in self.regexes))
        if self.stopwords:
            lowered = secret.lower()
            met.append(any(word in lowered for word in self.stopwords))
        return bool(met) and (all(met) if self.every else any(met))


@dataclass(frozen=True, slots=True)
class Examples:
    """Texts in which the rule must find something, and in which it must not."""

    match: tuple[str, ...] = ()
    no_match: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """One detector. Without ``pattern`` it is about files: ``path`` alone, or what ``parser`` reads in them."""

    id: str
    title: str
    confidence: Confidence = Confidence.MEDIUM
    pattern: Regex | None = None
    keywords: tuple[bytes, ...] = ()
    entropy: float = 0.0
    """A secret must have more bits per byte than this."""
    group: int = 0
    """Which group of the pattern holds the secret, unless one is called so; 0: the first that took part, or all."""
    path: Regex | None = None
    allowlists: tuple[Allowlist, ...] = ()
    check: str | None = None
    judge: str | None = None
    parser: str | None = None
    """How files with a name of ``files`` are read; a ``pattern`` then is looked for in these files only."""
    files: tuple[str, ...] = ()
    """Ends of paths, the last part may hold ``*``: ``.docker/config.json``, ``*.kdbx``."""
    examples: Examples = Examples()

    @property
    def searched(self) -> bool:
        """Whether its pattern is looked for in every file."""
        return self.pattern is not None and self.parser is None

    @property
    def trigger(self) -> Trigger | None:
        """How its matches are found in any file; None when it is about files of its own."""
        return self.pattern.trigger if self.pattern and self.searched else None

    def secret_group(self, match: re.Match[bytes]) -> int | str:
        """The group of a match that holds the secret."""
        if "secret" in match.re.groupindex:
            return "secret"
        return self.group or next((number for number, text in enumerate(match.groups(), 1) if text), 0)


@dataclass(frozen=True)
class RuleSet:
    """Rules, and the allow lists that hold for all of them or for those named."""

    rules: tuple[Rule, ...]
    allowlists: tuple[tuple[Allowlist, frozenset[str]], ...] = ()
    """Each with the ids of the rules that it is for; none means all."""

    def select(self, only: Iterable[str] = (), disable: Iterable[str] = ()) -> RuleSet:
        """The rules whose ids fit one of ``only`` (none given: all) and none of ``disable``; both may hold globs.

        Raises UsageError for a name that fits no rule.
        """
        wanted, unwanted = tuple(only), tuple(disable)
        for name in (*wanted, *unwanted):
            if not any(fnmatchcase(rule.id, name) for rule in self.rules):
                raise UsageError(f"no rule fits {name!r}", "give the rule_id of a finding, or a glob such as aws-*")
        return replace(
            self,
            rules=tuple(
                rule
                for rule in self.rules
                if (not wanted or any(fnmatchcase(rule.id, name) for name in wanted))
                and not any(fnmatchcase(rule.id, name) for name in unwanted)
            ),
        )

    def allowlists_for(self, rule: Rule) -> tuple[Allowlist, ...]:
        """The rule's own allow lists and the general ones that hold for it."""
        return (*rule.allowlists, *(one for one, ids in self.allowlists if not ids or rule.id in ids))

    @cached_property
    def digest(self) -> str:
        """A hash of all that the rules say: equal rules find equal secrets."""
        return hashlib.sha256(repr(_plain((self.rules, self.allowlists))).encode()).hexdigest()


def _plain(value: object) -> object:
    """The value in types whose ``repr`` is complete and always the same."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return [_plain(getattr(value, field.name)) for field in fields(value)]
    return value
