"""Tells values that are secrets from those that only stand where one would be."""

from __future__ import annotations

import re
from typing import Final

from layerscope.secrets.checks import entropy

_REFERENCE: Final = re.compile(
    rb"\$[\w{(]|\{\{|\{[\w.]*\}|<[\w .:/|-]+>|<%|%[(sd{]|%\w+%|#\{|@@?[\w.]+@|\[\w+\]|^[&*@$!][\w.]+$"
)
"""A variable, a template, an anchor: the value comes from elsewhere."""
_CODE: Final = re.compile(rb"[()\[\]{}]|->|::|=>|==|!=|&&|\|\||\\[nrtx]|^\.|;$|^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$")
_LOCATION: Final = re.compile(
    rb"^(?:[./~]|[A-Za-z]:\\|https?:|file:|env:|arn:|secret:|vault:|op://|ref\+)|^[\w-]+/[\w/.-]+$"
)
_WORDS: Final = re.compile(
    rb"example|change.?(?:me|it|this)|placeholder|dummy|your|my[_-]?(?:pass|secret|token|key)|todo|insert|replace"
    rb"|redact|undefined|optional|required|sample|fixme|default|enter|xxxx|\*{3}|\.{3}|fake|mock|hidden|masked"
    rb"|deadbeef|abcdef|012345|123456|qwerty|foobar|foo.?bar|lorem|secret.?(?:key|name|here|value)|removed|invalid"
    rb"|prompt|must.?be|&lt;|encrypted|disabled|enabled|unused|notused|supersecret|topsecret|passw(?:or)?d|passphrase|pass.?word",
    re.IGNORECASE,
)
_NAME: Final = re.compile(
    rb"[a-z]+|[A-Z]+|[A-Z][a-z]+|[a-z]+(?:[A-Z][a-z]+)+|(?:[A-Z][a-z]+)+|[A-Za-z]+(?:[_ -][A-Za-z]+)+"
)
_MEASURE: Final = re.compile(
    rb"[\d.,:+x-]+[a-zA-Z%]{0,3}|0x[0-9a-fA-F]{1,16}|v?\d+(?:\.\d+)+[\w.-]*|\d{4}-\d\d-\d\d.*"
)


def is_placeholder(value: bytes) -> bool:
    """Whether a value is empty, a variable, a template, or a word that says that it is no secret."""
    text = value.strip()
    return (
        len(set(text)) < 4
        or _REFERENCE.search(text) is not None
        or _WORDS.search(text) is not None
        or text.lower() in {b"none", b"null", b"true", b"false", b"secret", b"token", b"test", b"string", b"nil"}
    )


def is_code_or_location(value: bytes) -> bool:
    """Whether a value is an expression, a path or an address rather than a secret."""
    return _CODE.search(value) is not None or _LOCATION.search(value) is not None


def is_plain_word_or_number(value: bytes) -> bool:
    """Whether a value is a word, a name made of words, a number, a version or a date."""
    return _NAME.fullmatch(value) is not None or _MEASURE.fullmatch(value) is not None


def is_random(value: bytes) -> bool:
    """Whether a value looks generated: long enough, with digits among its letters, and no pattern."""
    return (
        len(value) >= 8
        and any(48 <= byte < 58 for byte in value)
        and any(65 <= byte < 91 or 97 <= byte < 123 for byte in value)
        and entropy(value) >= (3.0 if len(value) >= 12 else 2.5)
    )
