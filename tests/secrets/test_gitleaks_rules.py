"""A user's gitleaks configuration: what its keys do, and what is said of one that cannot be used."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.errors import ExitCode, RulesError, UsageError
from layerscope.secrets.engine import Scanner
from layerscope.secrets.rules import RuleSet
from layerscope.secrets.rules_file import load_rules, own_rules
from tests.secrets.specimens import github_token
from tests.secrets.test_go_syntax import TEXTS, sources

Load = Callable[[str], RuleSet]
RULE = "[[rules]]\nid = 'key'\nregex = '''key-([a-z0-9]{8,40})'''\n"


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(content: str) -> RuleSet:
        (tmp_path / "rules.toml").write_text(content)
        return load_rules(str(tmp_path / "rules.toml"))

    return loaded


def secrets(rules: RuleSet, text: str, path: str = "src/a.txt", engine: str = "auto") -> list[str]:
    matches = Scanner(rules, engine=engine).scan_small([(path, text.encode())])[0].matches
    return [match.secret.reveal().decode() for match in matches]


def test_the_secret_is_the_first_group_that_took_part_or_the_one_named(load: Load) -> None:
    regex = "regex = '''(?:a=(x+)|b=(y+))(z*)'''\n"
    head = "[[rules]]\nid = 'k'\n"
    assert secrets(load(head + regex), "a=xxxzz b=yyz") == ["xxx", "yy"]
    assert secrets(load(head + regex + "secretGroup = 3\n"), "a=xxxzz") == ["zz"]
    assert secrets(load(head + "regex = 'q{4}'\n"), "qqqqq") == ["qqqq"]


def test_entropy_and_keywords_filter(load: Load) -> None:
    rules = load(RULE + "entropy = 2.5\nkeywords = ['Acme']\n")
    assert secrets(rules, "acme key-a1b2c3d4") == ["a1b2c3d4"]
    assert secrets(rules, "acme key-aaaaaaaa") == []
    assert secrets(rules, "other key-a1b2c3d4") == []


def test_a_rules_path_limits_it_and_a_path_alone_is_a_finding(load: Load) -> None:
    rules = load(RULE + "path = '''\\.env$'''\n" + "[[rules]]\nid = 'file'\npath = '''(^|/)private/'''\n")
    assert secrets(rules, "key-a1b2c3d4", "a/.env") == ["a1b2c3d4"]
    assert secrets(rules, "key-a1b2c3d4", "a/env") == []
    [match] = Scanner(rules).scan_small([("a/private/b", b"x")])[0].matches
    assert (match.rule_id, match.offset) == ("file", 0)


@pytest.mark.parametrize(
    ("allowlist", "passed"),
    [
        ("regexes = ['^a1']", ["b1b2c3d4"]),
        ("regexes = ['^key-a']\nregexTarget = 'match'", ["b1b2c3d4"]),
        ("regexes = ['# fine$']\nregexTarget = 'line'", ["b1b2c3d4"]),
        ("stopwords = ['B2C3']", []),
        ("paths = ['^src/']", []),
        ("condition = 'AND'\npaths = ['^src/']\nstopwords = ['a1']", ["b1b2c3d4"]),
        ("condition = 'AND'\npaths = ['^lib/']\nstopwords = ['a1']", ["a1b2c3d4", "b1b2c3d4"]),
        ("commits = ['abc']", ["a1b2c3d4", "b1b2c3d4"]),
    ],
)
@pytest.mark.parametrize("level", ["[[rules.allowlists]]", "[rules.allowlist]", "[[allowlists]]", "[allowlist]"])
def test_allowlists(load: Load, allowlist: str, passed: list[str], level: str) -> None:
    rules = load(f"{RULE}{level}\n{allowlist}\n")
    assert secrets(rules, "key-a1b2c3d4 # fine\nkey-b1b2c3d4\n") == passed


def test_a_general_allowlist_may_name_its_rules(load: Load) -> None:
    other = RULE.replace("'key'", "'other'").replace("key-", "tok-")
    rules = load(RULE + other + "[[allowlists]]\ntargetRules = ['other']\nstopwords = ['a1']\n")
    assert secrets(rules, "key-a1b2c3d4 tok-a1b2c3d4") == ["a1b2c3d4"]


def test_extending_the_default_adds_to_our_rules(load: Load) -> None:
    text = f"key-a1b2c3d4 {github_token()}"
    assert secrets(load(RULE), text, engine="python") == ["a1b2c3d4"]
    assert secrets(load("[extend]\nuseDefault = true\n" + RULE), text, engine="python") == [
        "a1b2c3d4",
        github_token(),
    ]
    disabled = "[extend]\nuseDefault = true\ndisabledRules = ['github-personal-access-token', 'not-ours']\n"
    assert secrets(load(disabled + RULE), text, engine="python") == ["a1b2c3d4"]


def test_extending_another_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(RULE)
    assert secrets(load("[extend]\npath = 'base.toml'\n"), "key-a1b2c3d4") == ["a1b2c3d4"]
    with pytest.raises(RulesError, match="extends itself"):
        load("[extend]\npath = 'rules.toml'\n")
    (tmp_path / "base.toml").write_text("[extend]\npath = 'rules.toml'\n")
    with pytest.raises(RulesError, match="extends itself"):
        load("[extend]\npath = 'base.toml'\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("rules = 3", "(global): rules is no list of tables"),
        ("[[rules]]\nregex = 'a'", "number 1: has no id"),
        ("[[rules]]\nid = 'x'", "rule x: has neither regex nor path"),
        ("[[rules]]\nid = 'x'\nregex = '(?=a)'", "rule x: regex cannot be translated: lookahead"),
        ("[[rules]]\nid = 'x'\nregex = 'a'\npath = '('", "rule x: path cannot be translated: missing )"),
        ("[[rules]]\nid = 'x'\nregex = 'a*'", "rule x: regex matches the empty text"),
        ("[[rules]]\nid = 'x'\nregex = 'a'\nsecretGroup = 2", "rule x: secretGroup 2: the regex has 0 groups"),
        ("[[rules]]\nid = 'x'\nregex = 'a'\nentropy = 'high'", "rule x: entropy is no number"),
        ("[[rules]]\nid = 'x'\nregex = 'a'\nkeywords = 'a'", "rule x: keywords is no list of texts"),
        ("[[rules]]\nid = 'x'\nregex = 'a'\nrequired = []", "rule x: key required is not known"),
        ("[[rules]]\nid = 'x'\nregex = 'a'\n[[rules.allowlists]]\nregexes = ['(']", "rule x: regexes cannot be"),
        (
            "[[rules]]\nid = 'x'\nregex = 'a'\n[[rules.allowlists]]\ncondition = 'XOR'",
            "rule x: allowlists: condition",
        ),
        ("[[rules]]\nid = 'x'\nregex = 'a'\n[[rules]]\nid = 'x'\nregex = 'b'", "rule x: two rules have this id"),
        ("[[allowlists]]\ntargetRules = ['y']", "(global): targetRules names the unknown rule y"),
        ("[extend]\nurl = 'https://example.com'", "(global): extend.url"),
        ("[[rules]]\nid = 'x'\nregex = '" + "(a|b" * 120 + ")" * 120 + "'", "rule x: regex cannot be translated"),
        ("[[rules", "not TOML"),
        ("allowlist = 1", "(global): allowlist is no table"),
        ("allowlists = 1", "(global): allowlists is no list of tables"),
        ("extend = 1", "(global): extend is no table"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(load: Load, content: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RulesError) as raised:
        load(content)
    assert str(tmp_path / "rules.toml") in raised.value.message
    assert reason in raised.value.message
    assert raised.value.exit_code is ExitCode.USAGE


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="No such file"):
        load_rules(str(tmp_path / "none.toml"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\0")
    with pytest.raises(RulesError, match="not TOML"):
        load_rules(str(tmp_path / "binary"))


def test_rules_are_selected_by_id_and_glob() -> None:
    rules = own_rules()
    chosen = rules.select(only=["github-*", "npmrc-auth"], disable=["github-oauth*"])
    assert {rule.id for rule in chosen.rules} >= {"github-personal-access-token", "npmrc-auth"}
    assert not {rule.id for rule in chosen.rules} & {"github-oauth-token", "gitlab-feed-token"}
    for unknown in ({"only": ["nothing"]}, {"disable": ["nothing-*"]}):
        with pytest.raises(UsageError, match="nothing"):
            rules.select(**unknown)


@settings(max_examples=120, deadline=None)
@given(st.lists(sources(), min_size=1, max_size=4), st.lists(TEXTS, min_size=1, max_size=5))
def test_both_engines_agree_on_any_rules(patterns: list[str], texts: list[str]) -> None:
    rules = "".join(f"[[rules]]\nid = 'r{i}'\nregex = {json.dumps(one)}\n" for i, one in enumerate(patterns))
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(rules)
        file.flush()
        try:
            loaded = load_rules(file.name)
        except RulesError:
            return  # matches the empty text
    files = [("f", text.encode()) for text in texts]
    found = {
        engine: [
            [(match.rule_id, match.offset, match.secret.reveal()) for match in one.matches]
            for one in Scanner(loaded, engine=engine).scan_small(files)
        ]
        for engine in ("auto", "python")
    }
    assert found["auto"] == found["python"]
