"""Credential files: which files are known to hold secrets by their name or first bytes, and what is in them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import translate

from layerscope.secrets.assignments import Verdict
from layerscope.secrets.confirm import Found, titled
from layerscope.secrets.credential_parsers import MAGIC, PARSERS
from layerscope.secrets.pattern import Data
from layerscope.secrets.rules import Rule, RuleSet


class CredentialFiles:
    """The rules that are about files, found by name without trying every pattern on every path."""

    def __init__(self, rules: RuleSet) -> None:
        self._exact: dict[str, list[tuple[str, Rule]]] = defaultdict(list)
        self._by_extension: dict[str, list[tuple[str, Rule]]] = defaultdict(list)
        self._patterns: list[tuple[re.Pattern[str], str, Rule]] = []
        self._by_magic = {magic: rule for rule in rules.rules for magic in MAGIC.get(rule.parser or "", ())}
        self._by_path = [
            (rule.path, rule, rules.allowlists_for(rule)) for rule in rules.rules if rule.path and not rule.pattern
        ]
        self._allowlists = {rule.id: rules.allowlists_for(rule) for rule in rules.rules if rule.parser}
        for rule in rules.rules:
            for name in rule.files:
                self._learn(name, rule)

    def _learn(self, name: str, rule: Rule) -> None:
        folder, _, base = name.rpartition("/")
        if "*" not in base:
            self._exact[base].append((folder, rule))
        elif base.startswith("*.") and base.count("*") == 1 and base.count(".") == 1:
            self._by_extension[base[2:]].append((folder, rule))
        else:
            self._patterns.append((re.compile(translate(base)), folder, rule))

    def wants(self, path: str) -> bool:
        """Whether the file is to be read by its format."""
        return bool(self._for(path))

    def read(self, path: str, data: Data) -> Iterator[Found]:
        """The secrets that the file's format shows; none when it is not what its name says."""
        rules = self._for(path)
        if (by_magic := self._by_magic.get(bytes(data[:4]))) and by_magic not in rules:
            rules.append(by_magic)
        place = path.encode("utf-8", "surrogateescape")
        for rule in rules:
            if not rule.parser:
                continue
            for credential in PARSERS[rule.parser](bytes(data), rule):
                found = Found(
                    rule,
                    titled(rule, Verdict(rule.confidence, credential.detail)),
                    credential.confidence or rule.confidence,
                    credential.start,
                    credential.start + len(credential.value),
                    credential.value,
                )
                if not any(one.allows(place, found.value, found.value, b"") for one in self._allowlists[rule.id]):
                    yield found

    def named(self, path: str) -> Iterator[Found]:
        """What a file's path alone tells, whatever it holds (gitleaks' rules without a regex)."""
        place = path.encode("utf-8", "surrogateescape")
        for pattern, rule, allowlists in self._by_path:
            if pattern.search(place) and not any(one.allows(place, b"", b"", b"") for one in allowlists):
                yield Found(rule, rule.title, rule.confidence, 0, 0, place)

    def _for(self, path: str) -> list[Rule]:
        folder, _, base = path.rpartition("/")
        candidates = list(self._exact.get(base, ()))
        if self._by_extension and "." in base:
            candidates += self._by_extension.get(base[base.rindex(".") + 1 :], ())
        candidates += ((ending, rule) for pattern, ending, rule in self._patterns if pattern.match(base))
        found = []
        for ending, rule in candidates:
            if rule not in found and (not ending or folder == ending or folder.endswith("/" + ending)):
                found.append(rule)
        return found
