"""Words and numbers on screen."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as some

from layerscope.report.text import (
    instruction,
    is_utf8,
    plural,
    printable,
    raw_bytes,
    shorten,
    shown_path,
    size,
)

file_names = some.binary(min_size=1, max_size=40).map(os.fsdecode)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain büro 日本 🐋", "plain büro 日本 🐋"),
        ("tab\there", r"tab\x09here"),
        ("two\nlines\r", r"two\x0alines\x0d"),
        ("\x1b[31mred\x07\x7f", r"\x1b[31mred\x07\x7f"),
        ("\x9b31m", r"\x9b31m"),  # the one-byte form of ESC [
        ("a\u202etxt.exe", r"a\u202etxt.exe"),
        ("\u2066\u2069\u200f\u061c", r"\u2066\u2069\u200f\u061c"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("line\u2028end\u2029", r"line\u2028end\u2029"),
        ("not-utf8-\udcff\udc80", r"not-utf8-\xff\x80"),
        ("lone \ud800 surrogate", r"lone \ud800 surrogate"),
        ("tag \U000e0041 private \U00100000", r"tag \U000e0041 private \U00100000"),
        ("nobreak\xa0space\xad", r"nobreak\xa0space\xad"),
        ("back\\slash", "back\\slash"),
        ("", ""),
    ],
)
def test_nothing_printable_acts_on_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(some.text() | file_names)
def test_what_is_shown_has_no_control_format_or_surrogate_character(text: str) -> None:
    shown = shown_path(text)
    assert not {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    shown.encode()


@given(file_names, file_names)
def test_two_paths_never_look_the_same(one: str, other: str) -> None:
    assert (shown_path(one) == shown_path(other)) == (one == other)


@given(some.binary(min_size=1))
def test_bytes_of_a_name_survive(name: bytes) -> None:
    text = os.fsdecode(name)
    assert raw_bytes(text) == name
    try:
        name.decode()
    except UnicodeDecodeError:
        assert not is_utf8(text)
    else:
        assert is_utf8(text)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1049, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (77_800_000, "77.8 MB"),
        (10**9, "1.0 GB"),
        (2**63 - 1, "9.2 EB"),
        (10**22, "10000 EB"),
    ],
)
def test_size_in_decimal_units(number: int, shown: str) -> None:
    assert size(number) == shown
    assert size(number, exact=True) == str(number)


@given(some.integers(min_value=0, max_value=10**21), some.integers(min_value=0, max_value=10**21))
def test_larger_sizes_never_look_smaller(one: int, other: int) -> None:
    one, other = sorted((one, other))
    assert _parsed(size(one)) <= _parsed(size(other))


def _parsed(shown: str) -> float:
    number, unit = shown.split()
    return float(number) * 1000 ** ["B", "kB", "MB", "GB", "TB", "PB", "EB"].index(unit)


@given(some.integers(min_value=1, max_value=10**20))
def test_size_is_near_the_number(number: int) -> None:
    assert abs(_parsed(size(number)) - number) <= number * 0.06


def test_plural() -> None:
    assert [plural(0, "file"), plural(1, "file"), plural(1234, "file")] == ["0 files", "1 file", "1,234 files"]
    assert plural(2, "directory", "directories") == "2 directories"


@given(some.text(), some.integers(min_value=1, max_value=50))
def test_shortened_text_fits_and_says_that_it_was_cut(text: str, width: int) -> None:
    shown = shorten(text, width)
    assert len(shown) <= width
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]))


LEGACY = "/bin/sh -c #(nop) "


@pytest.mark.parametrize(
    ("created_by", "shown"),
    [
        (None, ""),
        ("", ""),
        # the legacy builder
        (f'{LEGACY} CMD ["sh"]', 'CMD ["sh"]'),
        (f"{LEGACY}ENV A=b", "ENV A=b"),
        (f"{LEGACY}ADD file:0123 in / ", "ADD file:0123 in /"),
        ("/bin/sh -c apt-get   update &&\tmake", "RUN apt-get update && make"),
        ("/bin/bash -o pipefail -c make", "/bin/bash -o pipefail -c make"),
        ("/bin/ash -ec make", "RUN make"),
        ("|2 A=b C=d /bin/sh -c make all", "RUN make all"),
        # BuildKit
        ("RUN /bin/sh -c make # buildkit", "RUN make"),
        ("RUN |1 A=b /bin/sh -c make # buildkit", "RUN make"),
        ("RUN |1 A=with space /bin/sh -c make # buildkit", "RUN make"),
        ("COPY . /app # buildkit", "COPY . /app"),
        ("ENV A=b", "ENV A=b"),
        ('CMD ["sh" "-c" "x"]', 'CMD ["sh" "-c" "x"]'),
        ("RUN make # buildkit", "RUN make"),
        # neither
        ("Imported from -", "Imported from -"),
        ("RUN echo '# buildkit' > f", "RUN echo '# buildkit' > f"),
        ("RUN echo /bin/sh -c x", "RUN echo /bin/sh -c x"),
        ("RUN a\nb\x1b[31m\u202e", r"RUN a b\x1b[31m\u202e"),
    ],
)
def test_instruction_as_a_dockerfile_has_it(created_by: str | None, shown: str) -> None:
    assert instruction(created_by) == shown


@given(some.text())
def test_instruction_is_one_printable_line(created_by: str) -> None:
    assert instruction(created_by).isprintable()
