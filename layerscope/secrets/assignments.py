"""Judges values by the key that they are assigned to, by what they look like and by their file.

The rules find the place (``assignments.toml``, and a few of ``rules.toml``); most of what they find is code,
prose or placeholders. These functions say how sure it is that a value is a secret, or that it is none.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from layerscope.secrets.checks import private_key_cipher
from layerscope.secrets.match import Confidence
from layerscope.secrets.placeholders import (
    is_code_or_location,
    is_placeholder,
    is_plain_word_or_number,
    is_random,
)
from layerscope.secrets.rules import Rule

ELF: Final = b"\x7fELF"
BEFORE: Final = 80
"""How many bytes before a match are looked at for the rest of its key."""

_CONFIGURATION: Final = re.compile(
    rb"(?i)(?:^|/)(?:[^/]*\.(?:env|ya?ml|json|ini|conf|cfg|cnf|config|properties|props|xml|toml|tf|tfvars|tfstate"
    rb"|plist|secrets?|credentials?)|\.env[^/]*|env|environment|dockerfile[^/]*|(?:docker-)?compose[^/]*"
    rb"|wp-config\.php|(?:config|configuration|settings|secrets?|parameters|local)\.(?:php|py|js|rb)|\.[a-z_]*rc"
    rb"|\.?profile|environ)$"
)
_SCRIPT: Final = re.compile(
    rb"(?i)\.(?:sh|bash|zsh|fish|ps1|bat|cmd|tpl|j2|sql)$|_history$|(?:^|/)(?:makefile|jenkinsfile)$"
)
_KEY_BEFORE: Final = re.compile(rb"[\w.-]*\Z")
_PUBLIC_KEY_NAME: Final = re.compile(
    rb"(?i)(?:public|pub_?key|hash|digest|checksum|path|file(?:name)?|dir|url|uri|endpoint|name|type|id|ids|length|len"
    rb"|size|count|max|min|expir\w*|ttl|timeout|policy|regex|pattern|format|field|label|header|prefix|suffix|param"
    rb"|version|algorithm|alg|method|class|provider|store|issuer|title|text|message|description|prompt|hint|limit"
    rb"|index|kind|mode|scheme|ref|selector|_at|_in|_on|lexer|parser|s)$"
)
_COMMENT: Final = re.compile(rb"^[ \t]*(?:#|//|;|\*|--|<!--|rem )", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How sure a match is, and what else is to be said of it."""

    confidence: Confidence
    detail: str | None = None


class Site(NamedTuple):
    """The file that holds a match: its path, and its first bytes."""

    path: bytes
    head: bytes


Judge = Callable[[re.Match[bytes], Rule, Site], Verdict | None]
"""Judges a match by its text and its file; None when it is no secret."""


def judge_assignment(match: re.Match[bytes], rule: Rule, site: Site) -> Verdict | None:
    """A value after a key whose name speaks of secrets."""
    value = match["secret"]
    key = _key(match)
    if _PUBLIC_KEY_NAME.search(key) or is_placeholder(value) or is_code_or_location(value):
        return None
    if is_plain_word_or_number(value) or value.lower() in key.lower() or key.lower() in value.lower():
        return None
    if b" " in value.strip():
        return None  # prose
    quoted = rule.id != "assignment-unquoted"
    if _CONFIGURATION.search(site.path):
        if _in_comment(match):
            return Verdict(Confidence.LOW) if is_random(value) else None
        return Verdict(Confidence.MEDIUM if is_random(value) else Confidence.LOW)
    if is_random(value) and (quoted or _SCRIPT.search(site.path)):
        return Verdict(Confidence.LOW)
    return None


def _key(match: re.Match[bytes]) -> bytes:
    """The whole name of the key: what the rule matched of it, and what stands before that."""
    if "key" not in match.re.groupindex:
        return b""
    start = match.start("key")
    before = _KEY_BEFORE.search(match.string[max(0, start - BEFORE) : start])
    return (before[0] if before else b"") + match["key"]


def _in_comment(match: re.Match[bytes]) -> bool:
    start = max(match.string.rfind(b"\n", 0, match.start()) + 1, match.start() - BEFORE)
    return _COMMENT.match(match.string[start : match.start()]) is not None


def judge_value(match: re.Match[bytes], rule: Rule, _site: Site) -> Verdict | None:
    """A value whose place leaves no doubt, unless it is a placeholder."""
    value = match["secret"]
    return None if is_placeholder(value) or is_code_or_location(value) else Verdict(rule.confidence)


def judge_url_password(match: re.Match[bytes], rule: Rule, _site: Site) -> Verdict | None:
    """The password of a URL: examples in documentation use plain words, often that of the user."""
    value, user = match["secret"], match["user"]
    if is_placeholder(value) or _REFERENCE_HOST.search(match["host"]) or is_code_or_location(value):
        return None
    if is_plain_word_or_number(value) or value.lower() == user.lower():
        return Verdict(Confidence.LOW) if len(value) >= 8 and b"." in match["host"] else None
    return Verdict(rule.confidence if len(value) >= 6 else Confidence.LOW)


_REFERENCE_HOST: Final = re.compile(
    rb"(?i)^(?:example|host(?:name)?|server|proxy|your|my|some|domain)\b|\.example$|example\."
)


def judge_basic_authorization(match: re.Match[bytes], rule: Rule, _site: Site) -> Verdict | None:
    """``user:password`` in base64."""
    try:
        user, separator, password = base64.b64decode(match["secret"], validate=True).partition(b":")
    except binascii.Error:
        return None
    if not separator or not password or not user.isascii() or is_placeholder(password):
        return None
    return Verdict(rule.confidence if not is_plain_word_or_number(password) else Confidence.LOW)


def judge_private_key(match: re.Match[bytes], rule: Rule, site: Site) -> Verdict | None:
    """A private key is a smaller danger while a passphrase protects it.

    In a compiled library it mostly is a published key for its self-tests (libgnutls has ten).
    """
    before = match.string[max(0, match.start() - 1) : match.start()]
    if site.head == ELF and before == b"\0":
        return Verdict(Confidence.LOW, "a string of a program")
    cipher = private_key_cipher(match[0])
    return (
        Verdict(Confidence.MEDIUM, f"protected by a passphrase, {cipher}") if cipher else Verdict(rule.confidence)
    )


JUDGES: Final[dict[str, Judge]] = {
    "assignment": judge_assignment,
    "value": judge_value,
    "url-password": judge_url_password,
    "basic-authorization": judge_basic_authorization,
    "private-key": judge_private_key,
}
"""What a rule's ``judge`` names."""
