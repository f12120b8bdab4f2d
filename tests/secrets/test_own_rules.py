"""Our own rules: each finds its examples and none of its near misses, and all are quick to apply."""

from __future__ import annotations

import os
from importlib.resources import as_file, files

import pytest

from layerscope.secrets.engine import Scanner
from layerscope.secrets.match import Confidence
from layerscope.secrets.pattern import WIDEST
from layerscope.secrets.rules import Rule, RuleSet
from layerscope.secrets.rules_file import OWN, load_rules, own_rules

RULES = own_rules().rules
BINARY = {"java-key-store", "pkcs12-key-store", "kerberos-keytab", "keepass-database", "tls-key-der"}
"""Files of these formats are made by test_credential_files.py."""


def place(rule: Rule) -> str:
    return rule.files[0].replace("*", "x") if rule.files else "settings.yml"


def found(rule: Rule, text: str) -> bool:
    alone = RuleSet((rule,), own_rules().allowlists)
    return bool(Scanner(alone, engine="python").scan_small([(place(rule), text.encode())])[0].matches)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_finds_its_examples_and_no_near_miss(rule: Rule) -> None:
    assert rule.id in BINARY or (rule.examples.match and rule.examples.no_match)
    for text in rule.examples.match:
        assert found(rule, text), text
    for text in rule.examples.no_match:
        assert not found(rule, text), text


def test_there_are_rules_enough_and_each_has_its_own_id() -> None:
    tokens = [rule for rule in RULES if rule.trigger and rule.judge != "assignment"]
    assert len(tokens) >= 120
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_every_rule_has_a_keyword_inside_its_pattern_and_an_end() -> None:
    for rule in RULES:
        if rule.trigger:
            assert rule.trigger.literals, rule.id
            assert rule.trigger.width < WIDEST, rule.id


def test_hyperscan_compiles_every_rule() -> None:
    finder = pytest.importorskip("layerscope.secrets.hyperscan_places")
    pytest.importorskip("hyperscan")
    assert finder.HyperscanFinder(RULES)._others is None


def test_the_rules_files_hold_no_token_that_a_scanner_would_report() -> None:
    folder = files("layerscope.secrets")
    scanner = Scanner(own_rules())
    for name in OWN:
        matches = scanner.scan_small([(name, (folder / name).read_bytes())])[0].matches
        assert [match.rule_id for match in matches if match.confidence is Confidence.HIGH] == []


def test_a_stock_library_has_no_finding_at_default_confidence() -> None:
    library = os.path.dirname(os.__file__)
    scanner, read, low = Scanner(own_rules()), 0, 0
    for name in sorted(os.listdir(library)):
        if name.endswith(".py"):
            with open(os.path.join(library, name), "rb", buffering=0) as file:
                scan = scanner.scan_file(file, os.path.join(library, name))
            read += scan.size_bytes
            low += len(scan.matches)
            assert [m for m in scan.matches if m.confidence is not Confidence.LOW] == []
    assert read > 3_000_000
    assert low <= read / 5_000_000


@pytest.mark.parametrize("name", OWN)
def test_our_rules_stand_the_checks_of_a_users(name: str) -> None:
    with as_file(files("layerscope.secrets") / name) as path:
        assert {rule.id for rule in load_rules(str(path)).rules} <= {rule.id for rule in RULES}
