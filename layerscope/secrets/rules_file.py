"""Reads rules: our own, or a user's gitleaks configuration, from TOML.

Every reason for which a file cannot be used names the file, the rule and the cause; nothing is left out in silence.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from layerscope.errors import RulesError
from layerscope.secrets.assignments import JUDGES
from layerscope.secrets.checks import CHECKS
from layerscope.secrets.credential_parsers import PARSERS
from layerscope.secrets.go_syntax import PatternError
from layerscope.secrets.match import Confidence
from layerscope.secrets.regex import Regex
from layerscope.secrets.rules import Allowlist, Examples, Rule, RuleSet

OWN: Final = ("rules.toml", "assignments.toml", "credentials.toml")
BREAK: Final = "¦"
"""Stands inside the tokens of examples, so that the rules file itself holds none."""
_GLOBAL: Final = "(global)"
_KEYS: Final = {
    "id",
    "description",
    "regex",
    "keywords",
    "entropy",
    "secretGroup",
    "path",
    "allowlist",
    "allowlists",
}
_KEYS_ELSEWHERE: Final = {"allowlist", "allowlists", "tags", "skipReport"}
_OWN_KEYS: Final = {"confidence", "check", "judge", "parser", "files", "examples"}
_ALLOWLIST_KEYS: Final = {"id", "description", "condition", "commits", "paths", "regexTarget"}
_ALLOWLIST_KEYS_OF_LISTS: Final = {"regexes", "stopwords", "targetRules"}


@cache
def own_rules() -> RuleSet:
    """The rules that come with layerscope, whose expressions are sound: a test reads them as a user's."""
    folder = files("layerscope.secrets")
    parts = [_Reader(f"layerscope/{name}", sound=True).read((folder / name).read_bytes()) for name in OWN]
    return RuleSet(
        tuple(rule for part in parts for rule in part.rules),
        tuple(one for part in parts for one in part.allowlists),
    )


def load_rules(path: str) -> RuleSet:
    """The rules of a user's gitleaks configuration; ``[extend] useDefault`` adds them to our own.

    Raises RulesError.
    """
    return _load(path, ())


def _load(path: str, extended_by: tuple[str, ...]) -> RuleSet:
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise RulesError(f"{path}: {error.strerror}", "give the path of a gitleaks configuration (TOML)") from error
    return _Reader(path, extended_by).read(content)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one file, whose name every error tells."""

    name: str
    extended_by: tuple[str, ...] = ()
    sound: bool = False
    """Known to hold expressions that can be translated: nothing is compiled before it is needed."""

    def error(self, rule: str, reason: str) -> RulesError:
        return RulesError(f"{self.name}: rule {rule}: {reason}", "change the rule, or remove it from the file")

    def read(self, content: bytes) -> RuleSet:
        try:
            table = tomllib.loads(content.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RulesError(f"{self.name}: not TOML: {error}") from error
        base = self.base(self.table(table.get("extend", {}), _GLOBAL, "extend"))
        entries = self.tables(table.get("rules", []), _GLOBAL, "rules")
        own = {rule.id: rule for rule in map(self.rule, entries, range(len(entries)))}
        if len(own) < len(entries):
            ids = [entry["id"] for entry in entries]
            raise self.error(next(one for one in ids if ids.count(one) > 1), "two rules have this id")
        rules = (*(rule for rule in base.rules if rule.id not in own), *own.values())
        known = {rule.id for rule in rules}
        general = [
            (self.allowlist(entry, _GLOBAL), frozenset(self.texts(entry, "targetRules", _GLOBAL)))
            for entry in self.allowlist_entries(table, _GLOBAL)
        ]
        for _, targets in general:
            if not targets <= known:
                raise self.error(_GLOBAL, f"targetRules names the unknown rule {min(targets - known)}")
        return RuleSet(rules, (*base.allowlists, *general))

    def base(self, extend: dict[str, Any]) -> RuleSet:
        """The rules that this file adds to."""
        if extend.get("url"):
            raise self.error(_GLOBAL, "extend.url: rules are not fetched from the network")
        found = RuleSet(())
        if path := extend.get("path"):
            path = os.path.join(os.path.dirname(self.name), str(path))
            if path in self.extended_by or path == self.name:
                raise self.error(_GLOBAL, f"extend.path: {path} extends itself")
            found = _load(path, (*self.extended_by, self.name))
        if extend.get("useDefault"):
            own = own_rules()
            found = RuleSet(
                (*found.rules, *(rule for rule in own.rules if rule.id not in {one.id for one in found.rules})),
                (*found.allowlists, *own.allowlists),
            )
        disabled = set(self.texts(extend, "disabledRules", _GLOBAL))  # ids of gitleaks that we lack do no harm
        return RuleSet(tuple(rule for rule in found.rules if rule.id not in disabled), found.allowlists)

    def rule(self, entry: dict[str, Any], index: int) -> Rule:
        name = entry.get("id")
        if not isinstance(name, str) or not name:
            raise self.error(f"number {index + 1}", "has no id")
        if unknown := sorted(entry.keys() - _KEYS - _KEYS_ELSEWHERE - _OWN_KEYS):
            raise self.error(name, f"key {unknown[0]} is not known")
        pattern, path = self.regex(entry, "regex", name), self.regex(entry, "path", name)
        if pattern and not self.sound and pattern.may_be_empty:
            raise self.error(name, "regex matches the empty text")
        if not pattern and not path and not entry.get("parser"):
            raise self.error(name, "has neither regex nor path")
        return Rule(
            id=name,
            title=self.text(entry, "description", name) or name,
            confidence=self.one_of(entry, "confidence", name, Confidence, Confidence.MEDIUM),
            pattern=pattern,
            keywords=tuple(word.lower().encode() for word in self.texts(entry, "keywords", name)),
            entropy=self.number(entry, "entropy", name),
            group=self.secret_group(entry, pattern, name) if pattern else 0,
            path=path,
            allowlists=tuple(self.allowlist(one, name) for one in self.allowlist_entries(entry, name)),
            check=self.one_named(entry, "check", name, CHECKS),
            judge=self.one_named(entry, "judge", name, JUDGES),
            parser=self.one_named(entry, "parser", name, PARSERS),
            files=tuple(self.texts(entry, "files", name)),
            examples=self.examples(entry, name),
        )

    def secret_group(self, entry: dict[str, Any], pattern: Regex, rule: str) -> int:
        group = int(self.number(entry, "secretGroup", rule))
        if group and not 0 <= group <= pattern.compiled.groups:
            raise self.error(rule, f"secretGroup {group}: the regex has {pattern.compiled.groups} groups")
        return group

    def one_named(self, entry: dict[str, Any], key: str, rule: str, known: Container[str]) -> str | None:
        name = self.text(entry, key, rule)
        if name and name not in known:
            raise self.error(rule, f"{key} {name} is not known")
        return name or None

    def examples(self, entry: dict[str, Any], rule: str) -> Examples:
        found = self.table(entry.get("examples", {}), rule, "examples")
        texts = (
            [text.replace(BREAK, "") for text in self.texts(found, key, rule)] for key in ("match", "no_match")
        )
        return Examples(*map(tuple, texts))

    def allowlist_entries(self, table: dict[str, Any], rule: str) -> list[dict[str, Any]]:
        single = [table["allowlist"]] if "allowlist" in table else []
        return [
            *self.tables(single, rule, "allowlist"),
            *self.tables(table.get("allowlists", []), rule, "allowlists"),
        ]

    def allowlist(self, entry: dict[str, Any], rule: str) -> Allowlist:
        if unknown := sorted(entry.keys() - _ALLOWLIST_KEYS - _ALLOWLIST_KEYS_OF_LISTS):
            raise self.error(rule, f"allowlists: key {unknown[0]} is not known")
        condition = self.text(entry, "condition", rule).upper()
        if condition not in {"", "OR", "||", "AND", "&&"}:
            raise self.error(rule, f"allowlists: condition {condition} is neither OR nor AND")
        every = condition in {"AND", "&&"}
        if every and entry.get("commits"):
            raise self.error(rule, "allowlists: commits under condition AND, but a layer has no commits")
        target = self.text(entry, "regexTarget", rule) or "secret"
        if target not in {"secret", "match", "line"}:
            raise self.error(rule, f"allowlists: regexTarget {target} is not known")
        return Allowlist(
            every=every,
            paths=self.patterns(entry, "paths", rule),
            regexes=self.patterns(entry, "regexes", rule),
            target=target,  # type: ignore[arg-type]  # one of the three, see above
            stopwords=tuple(word.lower().encode() for word in self.texts(entry, "stopwords", rule)),
        )

    def patterns(self, entry: dict[str, Any], key: str, rule: str) -> tuple[Regex, ...]:
        return tuple(self.checked(text, rule, key) for text in self.texts(entry, key, rule))

    def regex(self, entry: dict[str, Any], key: str, rule: str) -> Regex | None:
        source = self.text(entry, key, rule)
        return self.checked(source, rule, key) if source else None

    def checked(self, source: str, rule: str, key: str) -> Regex:
        """An expression; all that can go wrong with it goes wrong here."""
        regex = Regex(source)
        try:
            if not self.sound:
                regex.compiled  # noqa: B018  # it is looked at to see whether it can be had
        except PatternError as error:
            raise self.error(rule, f"{key} cannot be translated: {error}") from error
        return regex

    def text(self, entry: dict[str, Any], key: str, rule: str) -> str:
        value = entry.get(key, "")
        if not isinstance(value, str):
            raise self.error(rule, f"{key} is no text")
        return value

    def number(self, entry: dict[str, Any], key: str, rule: str) -> float:
        value = entry.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(rule, f"{key} is no number")
        return float(value)

    def one_of(
        self, entry: dict[str, Any], key: str, rule: str, kind: type[Confidence], default: Confidence
    ) -> Confidence:
        value = self.text(entry, key, rule)
        if value and value not in set(kind):
            raise self.error(rule, f"{key} {value} is not one of {', '.join(kind)}")
        return kind(value) if value else default

    def texts(self, entry: dict[str, Any], key: str, rule: str) -> Iterable[str]:
        values = entry.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.error(rule, f"{key} is no list of texts")
        return values

    def table(self, value: object, rule: str, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(rule, f"{key} is no table")
        return value

    def tables(self, values: object, rule: str, key: str) -> list[dict[str, Any]]:
        if not isinstance(values, list):
            raise self.error(rule, f"{key} is no list of tables")
        return [self.table(value, rule, key) for value in values]
