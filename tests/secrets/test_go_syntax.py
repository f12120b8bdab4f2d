"""Go's regular expression syntax over bytes: its meaning, what cannot be translated, where to look for matches."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerscope.secrets.go_syntax import PatternError, parse
from layerscope.secrets.pattern import needed_literals, python_source, trigger, width


def compiled(source: str) -> re.Pattern[bytes]:
    return re.compile(python_source(parse(source)))


@pytest.mark.parametrize(
    ("source", "matching", "other"),
    [
        (r"(?i)foo(?-i)bar", "FoObar", "fooBAR"),
        (r"(?i:a)b", "Ab", "aB"),
        (r"(?:(?i)x|y)z", "Yz", "YZ"),
        (r"\Aab\z", "ab", "ab\n"),
        (r"^ab$", "ab", "ab\n"),
        (r"(?m)^ab$", "x\nab\ny", "xab"),
        (r"a.b", "axb", "a\nb"),
        (r"(?s)a.b", "a\nb", "ab"),
        (r"\Qa.b\E+", "a.bbb", "axb"),
        (r"[[:alpha:]]{2}[^[:digit:]]", "ab-", "ab1"),
        (r"[\d\-x]{3}", "1-x", "abc"),
        (r"[]a]+", "]a]", "b"),
        (r"a{,3}", "a{,3}", "aaa"),
        (r"\x41\x{42}\103", "ABC", "abc"),
        (r"(?P<one>a)(?<two>b)", "ab", "ba"),
        (r"é{2}[éü]", "ééü", "é"),
        (r"\bkey\b", "a key", "monkeys"),
        (r"\s", " ", "\v"),
        (r"(a|b|)c", "c", "d"),
        (r"\/\-\_", "/-_", "x"),
    ],
)
def test_a_pattern_means_what_it_means_to_go(source: str, matching: str, other: str) -> None:
    pattern = compiled(source)
    assert pattern.search(matching.encode())
    assert not pattern.search(other.encode())


def test_ungreedy_patterns_take_little() -> None:
    assert compiled("(?U)a+").search(b"aaa")[0] == b"a"  # type: ignore[index]
    assert compiled("a+?").search(b"aaa")[0] == b"a"  # type: ignore[index]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (r"(?=a)", "lookahead"),
        (r"(?<!a)b", "lookbehind"),
        (r"(a)\1", "backreference"),
        (r"\p{Greek}", "Unicode class"),
        (r"a**", "repetition of a repetition"),
        (r"a{1001}", "invalid repeat count"),
        (r"a{3,2}", "invalid repeat count"),
        (r"*a", "nothing to repeat"),
        (r"(a", "missing )"),
        (r"a)", "unexpected )"),
        (r"[a", "ends too early"),
        (r"[b-a]", "range"),
        (r"[[:what:]]", "unknown class"),
        (r"(?z)", "invalid group"),
        (r"\y", "invalid escape"),
        (r"\xZZ", "invalid escape"),
        (r"[\x{100}-\x{ffff}]", "outside ASCII"),
        ("(" * 200 + ")" * 200, "too deeply"),
        ("a\\", "ends too early"),
    ],
)
def test_what_cannot_be_translated_is_said(source: str, reason: str) -> None:
    with pytest.raises(PatternError, match=re.escape(reason)):
        parse(source)


ATOMS = st.sampled_from(["a", "b", "c", "[ab]", "[^a]", r"\d", r"\w", ".", r"\b", "é", "abc", "(?i:ab)", "1"])


def sources() -> st.SearchStrategy[str]:
    return st.recursive(
        ATOMS,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=4).map("".join),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
            inner.map(lambda one: f"({one})"),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{2,}", "{1,70}", "+?"])).map(
                lambda pair: f"(?:{pair[0]}){pair[1]}"
            ),
        ),
        max_leaves=8,
    )


TEXTS = st.text(alphabet="abcABC1 é\n-", max_size=20)


@settings(max_examples=300)
@given(sources(), TEXTS)
def test_translated_patterns_agree_with_python_on_common_syntax(source: str, text: str) -> None:
    expected = [
        match.span() for match in re.finditer(source.replace("é", "(?:é)").encode(), text.encode(), re.ASCII)
    ]
    assert [match.span() for match in compiled(source).finditer(text.encode())] == expected


@settings(max_examples=300)
@given(sources(), TEXTS)
def test_width_literals_and_trigger_hold_for_every_match(source: str, text: str) -> None:
    node = parse(source)
    least, most = width(node)
    literals = needed_literals(node)
    shorter = re.compile(python_source(trigger(node)))
    for match in compiled(source).finditer(text.encode()):
        size = match.end() - match.start()
        assert least <= size
        assert most is None or size <= most
        assert not literals or any(literal in match[0].lower() for literal in literals)
        assert shorter.match(text.encode(), match.start())


def test_an_open_tail_is_cut_and_a_long_body_left_out() -> None:
    assert python_source(trigger(parse("key-[a-f]{20,}"))) == python_source(parse("key-[a-f]{20}"))
    assert width(trigger(parse("-----BEGIN KEY-----[A-Z]{1000}-----END")))[1] == len("-----BEGIN KEY-----")
