"""The scanner: the same findings by either engine, in slices and batches of any size, in bounded memory."""

from __future__ import annotations

import io
import random
import tracemalloc
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layerscope.secrets.confirm import MOST_PER_RULE
from layerscope.secrets.engine import MARGIN_BYTES, FileScan, Scanner
from layerscope.secrets.match import Confidence, Match, Secret
from layerscope.secrets.rules_file import own_rules
from tests.secrets.specimens import armoured_key, github_token, slack_token, stripe_key

SLICE = 4096


@cache
def scanner(engine: str = "auto", slice_bytes: int = 8 << 20) -> Scanner:
    return Scanner(own_rules(), engine=engine, slice_bytes=slice_bytes)


def scan(content: bytes, path: str = "opt/app/data", engine: str = "auto") -> FileScan:
    return scanner(engine).scan_small([(path, content)])[0]


def facts(matches: Sequence[Match]) -> list[tuple[object, ...]]:
    return [(m.rule_id, m.offset, m.line, m.column, m.confidence, m.title, m.secret.reveal()) for m in matches]


class Zeros(io.RawIOBase):
    """A file of so many filler bytes, then an end, that never exists in memory."""

    def __init__(self, filler: bytes, count: int, end: bytes) -> None:
        self._filler, self._left, self._end = filler * (1 << 16), count, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._left:
            size = min(len(buffer), self._left, len(self._filler))
            buffer[:size] = self._filler[:size]
            self._left -= size
            return size
        size = min(len(buffer), len(self._end))
        buffer[:size] = self._end[:size]
        self._end = self._end[size:]
        return size


def test_a_match_says_where_it_is_and_hides_what_it_is() -> None:
    token = github_token()
    [match] = scan(f"first\n  token: {token}\n".encode(), "opt/notes").matches
    assert (match.rule_id, match.offset, match.line, match.column) == ("github-personal-access-token", 15, 2, 10)
    assert match.confidence is Confidence.HIGH
    assert match.secret.reveal() == token.encode()
    for shown in (repr(match), str(match), repr(match.secret), match.redacted, match.fingerprint):
        assert token not in shown
        assert token[6:-2] not in shown


def test_one_value_has_one_fingerprint_wherever_it_lies() -> None:
    token = github_token().encode()
    [first], [second] = scan(b"a " + token).matches, scan(b"\n\nbb " + token, "etc/other").matches
    [other] = scan(github_token(1).encode()).matches
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_a_token_whose_checksum_fails_is_none() -> None:
    token = github_token()
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert scan(wrong.encode()).matches == ()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_text_is_read(encoding: str) -> None:
    token = github_token()
    content = f"Registry file\r\nvalue={token}\r\n".encode(encoding)
    [match] = scan(content).matches
    assert match.secret.reveal() == token.encode()
    assert (match.line, match.column) == (2, 7)
    assert content[match.offset : match.offset + 1] == b"g"


def test_text_at_the_end_of_a_binary_in_utf16_is_found() -> None:
    token = github_token()
    content = random.Random(1).randbytes(5000) + b"\0\0" + token.encode("utf-16-le")
    [match] = scan(content).matches
    assert (match.line, match.secret.reveal()) == (None, token.encode())


@pytest.mark.parametrize("engine", ["auto", "python"])
@pytest.mark.parametrize("shift", range(-45, 46, 9))
def test_a_token_across_the_border_of_slices_is_found_once(shift: int, engine: str) -> None:
    token = github_token().encode()
    first = SLICE + 2 * MARGIN_BYTES
    for border in (first - MARGIN_BYTES, first):
        content = b"x" * (border + shift) + b" " + token + b" " + b"y" * 3 * first
        found = scanner(engine, SLICE).scan_file(io.BytesIO(content), "f").matches
        assert [match.offset for match in found] == [border + shift + 1]


def test_slices_change_no_finding() -> None:
    maker = random.Random(5)
    parts: list[bytes] = []
    for number in range(150):
        parts.append(maker.choice([b"\n", b" ", b"lorem ipsum\n"]) * maker.randrange(1, 300))
        text = maker.choice([github_token, slack_token, stripe_key])(number)
        parts.append(
            maker.choice([text.encode(), f'password = "{text}"\n'.encode(), armoured_key(seed=number).encode()])
        )
        parts.append(("\n" + text + "\n").encode("utf-16-le") if number % 7 == 0 else b"\n")
    content = b"".join(parts)
    assert len(content) > 3 * (SLICE + 2 * MARGIN_BYTES) / 2
    whole = scanner("auto").scan_file(io.BytesIO(content), "f")
    sliced = scanner("auto", SLICE).scan_file(io.BytesIO(content), "f")
    assert whole.size_bytes == sliced.size_bytes == len(content)
    assert len(whole.matches) > 150
    assert facts(sliced.matches) == facts(whole.matches)
    assert facts(scanner("python", SLICE).scan_file(io.BytesIO(content), "f").matches) == facts(whole.matches)


def test_batches_change_no_finding() -> None:
    token, key = github_token(), armoured_key()
    contents = [
        token,
        "",
        "x" + token,
        key,
        token[:20],
        token[20:],
        "a",
        "pass" + 'word = "N8vd2Qq7xW4z"',
        "\n" + token,
    ]
    files = [(f"d/{index}.yml", text.encode()) for index, text in enumerate(contents)]
    together = [facts(one.matches) for one in scanner().scan_small(files)]
    assert together == [facts(scanner().scan_small([file])[0].matches) for file in files]
    assert [len(one) for one in together] == [1, 0, 0, 1, 0, 0, 0, 1, 1]


PIECES = st.sampled_from(
    [
        *(github_token(seed) for seed in range(3)),
        slack_token(),
        stripe_key(),
        armoured_key(),
        armoured_key("OPENSSH "),
        "password = ",
        '"N8vd2Qq7xW4z"',
        "DB_TOKEN=8c1f2e7d77b0\n",
        "https://app:N8vd2Qq7xW4z@db.internal/x",
        "heroku_key: 8c1f2e7d-77b0-4c0b-9d55-0d4c7a9be1f3",
        "-----BEGIN PRIVATE KEY-----",
        "ghp_",
        "\n",
        " ",
        "\0",
        ";",
        "é",
        "AKIA",
    ]
)
CONTENTS = st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=14).map("".join)
ENCODED = st.tuples(CONTENTS, st.sampled_from(["utf-8", "utf-16-le", "utf-16-be"])).map(
    lambda pair: pair[0].encode(pair[1], "replace")
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ENCODED, min_size=1, max_size=4), st.sampled_from(["a.yml", "b.bin", ".env", "c.sh"]))
@example([b'password = "N8vd2Qq7xW4z"', b""], "a.yml")
def test_both_engines_find_the_same(contents: list[bytes], path: str) -> None:
    files = [(path, content) for content in contents]
    by_hyperscan = [facts(one.matches) for one in scanner("auto").scan_small(files)]
    by_python = [facts(one.matches) for one in scanner("python").scan_small(files)]
    assert by_hyperscan == by_python


def test_both_engines_find_the_same_in_all_examples() -> None:
    pytest.importorskip("hyperscan")
    rules = own_rules().rules
    files = [
        (rule.files[0].replace("*", "x") if rule.files else f"{rule.id}.yml", text.encode())
        for rule in rules
        for text in (*rule.examples.match, *rule.examples.no_match)
    ]
    by_hyperscan = [facts(one.matches) for one in scanner("hyperscan").scan_small(files)]
    assert by_hyperscan == [facts(one.matches) for one in scanner("python").scan_small(files)]
    assert sum(map(len, by_hyperscan)) > 300


@pytest.mark.parametrize("filler", [b"\0", b"A", b"A\n"], ids=["zeros", "one line", "lines"])
def test_the_end_of_a_large_file_is_read_in_bounded_memory(filler: bytes) -> None:
    size, token = 24_000_000, github_token()
    scanner()  # compiled before memory is counted
    tracemalloc.start()
    result = scanner().scan_file(Zeros(filler, size, b" " + token.encode()), "f")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    [match] = result.matches
    assert match.offset == size + 1
    assert result.size_bytes == size + 1 + len(token)
    assert peak < 40_000_000
    if filler == b"A\n":
        assert (match.line, match.column) == (size // 2 + 1, 2)


def test_a_file_full_of_tokens_is_cut_short_and_says_so() -> None:
    content = "\n".join(stripe_key(seed) for seed in range(MOST_PER_RULE + 5)).encode()
    result = scan(content)
    assert len(result.matches) == MOST_PER_RULE
    assert [one.reason for one in result.omissions] == [
        "more than 1000 matches of stripe-secret-key: the rest is not listed"
    ]


def test_a_value_is_reported_once_by_the_rule_that_knows_it_best() -> None:
    token = github_token()
    [match] = scan(f"TOKEN={token}\n".encode(), ".env").matches
    assert match.rule_id == "github-personal-access-token"


def test_configuration_texts_are_scanned() -> None:
    [match] = scanner().scan_text(".env", "DB_PASSWORD=N8vd2Qq7xW4z")
    assert (match.path, match.confidence) == (".env", Confidence.MEDIUM)
    assert scanner().scan_text("Dockerfile", "RUN apt-get install -y passwd") == []


def test_the_version_follows_the_rules() -> None:
    rules = own_rules()
    assert Scanner(rules, engine="python").version == scanner().version
    assert Scanner(rules.select(disable=["github-*"]), engine="python").version != scanner().version


def test_compiled_rules_are_kept_and_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    pytest.importorskip("hyperscan")
    content = github_token().encode()
    for damage in (None, b"", b"garbage" * 100):
        for kept in tmp_path.iterdir() if damage is not None else ():
            kept.write_bytes(damage)
        made = Scanner(own_rules(), engine="hyperscan", cache_dir=str(tmp_path))
        assert len(made.scan_small([("f", content)])[0].matches) == 1
        [kept] = tmp_path.iterdir()
        assert kept.stat().st_mode & 0o777 == 0o600
        assert kept.stat().st_size > 1000


def test_a_secret_prints_redacted() -> None:
    assert str(Secret(b"hunter2")) == "… (7 bytes)"
    key = armoured_key().encode()
    assert str(Secret(key)) == f"-----BEGIN RSA PRIVATE KEY-----… ({len(key)} bytes)"


def test_without_hyperscan_python_alone_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerscope.secrets.hyperscan_places.hyperscan", None)
    alone = Scanner(own_rules())
    assert alone.engine == "python"
    assert len(alone.scan_text("notes.txt", github_token())) == 1
