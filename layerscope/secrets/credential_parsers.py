"""Reads the formats of credential files. A file that is not in its format has no finding; nothing here raises.

A parser gets the whole content and its rule, and yields the secrets with their places in the content.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from layerscope.secrets.match import Confidence
from layerscope.secrets.placeholders import is_placeholder
from layerscope.secrets.rules import Rule

_MOST_ENTRIES: Final = 100_000
_MOST_SECRETS: Final = 1001
"""One more than the scanner lists: it then says that there are more."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret in a credential file; ``start`` is its offset in bytes."""

    value: bytes
    start: int
    confidence: Confidence | None = None
    """None: as sure as the rule."""
    detail: str | None = None


Parser = Callable[[bytes, Rule], Iterator[Credential]]


def lines(data: bytes, rule: Rule) -> Iterator[Credential]:
    """Whatever the rule's own pattern captures, save placeholders."""
    if rule.pattern is None:
        return
    for match in rule.pattern.compiled.finditer(data):
        group = rule.secret_group(match)
        value = match[group]
        if value and not is_placeholder(value):
            yield Credential(value, match.start(group))


def whole(data: bytes, rule: Rule) -> Iterator[Credential]:
    """The file itself is the secret: a store of passwords, a key in a format of its own."""
    if data and (rule.pattern is None or rule.pattern.search(data)):
        yield Credential(data[:4096], 0)


def docker_config(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """``auths`` of a Docker client or of podman's auth.json: ``auth`` is ``user:password`` in base64."""
    document = _json(data)
    auths = document.get("auths", document) if isinstance(document, dict) else None
    for entry in auths.values() if isinstance(auths, dict) else ():
        if not isinstance(entry, dict):
            continue
        for key in ("auth", "password", "identitytoken", "registrytoken"):
            value = entry.get(key)
            if isinstance(value, str) and value and not (key == "auth" and _has_no_password(value)):
                yield from _located(data, value)


def _has_no_password(value: str) -> bool:
    try:
        password = base64.b64decode(value, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return True
    return is_placeholder(password.strip(b"\0")) and len(set(password)) < 4


_SECRET_KEYS: Final = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|secret|token|private_?key|api_?key|(?:access|secret)_?key|client_?secret|connection_?string"
    r"|key_?pem|credentials?|auth)$"
)
_PUBLIC_KEYS: Final = re.compile(r"(?i)(?:token_?(?:type|uri|ttl|use|url|expir\w*)|id_?token_?type|public)")


def json_keys(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """Every text in a JSON document under a key whose name speaks of secrets, at any depth."""
    waiting, seen = [_json(data)], 0
    done: set[str] = set()
    while waiting and seen < _MOST_ENTRIES and len(done) < _MOST_SECRETS:
        node = waiting.pop()
        seen += 1
        if isinstance(node, list):
            waiting.extend(node)
            continue
        for key, value in node.items() if isinstance(node, dict) else ():
            if isinstance(value, dict | list):
                waiting.append(value)
            elif isinstance(value, str) and value not in done and _is_secret(key, value):
                done.add(value)
                yield from _located(data, value)


def _is_secret(key: str, value: str) -> bool:
    named = _SECRET_KEYS.search(key) and not _PUBLIC_KEYS.search(key)
    return bool(named) and len(value) >= 6 and not is_placeholder(value.encode("utf-8", "replace"))


def netrc(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """The words after ``password`` (and ``account``), as ftp(1) reads them: white space separates, anywhere."""
    for match in re.finditer(rb'(?:^|\s)(?:password|account)\s+("[^"\r\n]+"|\S+)', _without_comments(data)):
        value = match[1].strip(b'"')
        if not is_placeholder(value) or value.isalnum():
            yield Credential(value, match.start(1))


def _without_comments(data: bytes) -> bytes:
    return re.sub(rb"(?m)^[ \t]*#.*$", lambda found: b" " * len(found[0]), data)


_SHADOW: Final = re.compile(rb"(?m)^[^:\s#]{1,64}:(\$[\w-]{1,8}\$[^:\s]{8,200}|_[./\w]{19}|[./\w]{13})(?::|$)")


def password_hashes(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """The hashes of shadow(5), master.passwd(5), opasswd and htpasswd: what crypt(5) can check."""
    for match in _SHADOW.finditer(data):
        yield Credential(match[1], match.start(1))


def htpasswd(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """The hashes that Apache's htpasswd writes."""
    pattern = rb"(?m)^[^:\s#]{1,255}:(\$(?:apr1|2[aby]|5|6)\$[^:\s]{8,200}|\{SHA\}[\w+/=]{28}|[./\w]{13})[ \t\r]*$"
    for match in re.finditer(pattern, data):
        yield Credential(match[1], match.start(1))


def pgpass(data: bytes, _rule: Rule) -> Iterator[Credential]:
    r"""The fifth field of ``host:port:database:user:password``; ``\:`` and ``\\`` are escapes."""
    for match in re.finditer(rb"(?m)^(?!#)(?:(?:[^:\\\r\n]|\\.)*:){4}((?:[^:\\\r\n]|\\.)+)[ \t\r]*$", data):
        yield Credential(match[1], match.start(1))


def terraform_state(data: bytes, rule: Rule) -> Iterator[Credential]:
    """Attributes of resources and outputs whose names speak of secrets, and outputs marked as sensitive."""
    document = _json(data)
    if not isinstance(document, dict) or "version" not in document:
        return
    outputs = document.get("outputs")
    for output in outputs.values() if isinstance(outputs, dict) else ():
        if isinstance(output, dict) and output.get("sensitive") and isinstance(output.get("value"), str):
            yield from _located(data, output["value"])
    yield from json_keys(data, rule)


def java_key_store(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """A private or secret key in a JKS or JCEKS store; a store of certificates alone is none.

    Layout: magic, version, count, entries of tag, alias, date and content (sun.security.provider.JavaKeyStore).
    """
    position = 12
    for _ in range(min(int.from_bytes(data[8:12]), 10_000)):
        tag = int.from_bytes(data[position : position + 4])
        if tag in {1, 3}:
            yield Credential(data[position : position + 2048], 0)
            return
        if tag != 2:
            return
        position += 4
        position += 2 + int.from_bytes(data[position : position + 2]) + 8  # alias and date
        position += 2 + int.from_bytes(data[position : position + 2])  # kind of certificate
        position += 4 + int.from_bytes(data[position : position + 4])
        if position > len(data):
            return


_KEY_BAGS: Final = (bytes.fromhex("060b2a864886f70d010c0a0101"), bytes.fromhex("060b2a864886f70d010c0a0102"))


def pkcs12(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """A PKCS #12 file that holds a key bag or a shrouded key bag (RFC 7292, section 4.2)."""
    if re.match(rb"\x30[\x80-\x84].{0,4}?\x02\x01\x03\x30", data[:16], re.DOTALL):
        for bag in _KEY_BAGS:
            place = data.find(bag)
            if place >= 0:
                yield Credential(data[place : place + 2048], 0)
                return


def der_private_key(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """A private key in DER: PKCS #8 (RFC 5958) or PKCS #1 (RFC 8017), version 0 and then algorithm or modulus."""
    if re.match(rb"\x30(?:\x81.|\x82..)?\x02\x01\x00(?:\x02[\x81\x82]|\x30.\x06)", data[:24], re.DOTALL):
        yield Credential(data[:4096], 0)


def keepass(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """A KeePass database, version 1 or 2."""
    if data.startswith(bytes.fromhex("03d9a29a")):
        yield Credential(data[:4096], 0)


def keytab(data: bytes, _rule: Rule) -> Iterator[Credential]:
    """A Kerberos key table with at least one entry (version 0x0501 or 0x0502)."""
    if data[:2] in {b"\x05\x01", b"\x05\x02"} and len(data) > 20:
        yield Credential(data[:4096], 0)


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _located(data: bytes, value: str) -> Iterator[Credential]:
    """The value with its place in the JSON text, as it is written there."""
    for written in (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
        encoded = written.encode("utf-8", "replace")
        place = data.find(b'"' + encoded + b'"')
        if place >= 0:
            yield Credential(encoded, place + 1)
            return
    yield Credential(value.encode("utf-8", "replace"), 0)


PARSERS: Final[dict[str, Parser]] = {
    "lines": lines,
    "whole": whole,
    "docker-config": docker_config,
    "json-keys": json_keys,
    "netrc": netrc,
    "password-hashes": password_hashes,
    "htpasswd": htpasswd,
    "pgpass": pgpass,
    "terraform-state": terraform_state,
    "java-key-store": java_key_store,
    "pkcs12": pkcs12,
    "keytab": keytab,
    "der-private-key": der_private_key,
    "keepass": keepass,
}
"""What a rule's ``parser`` names."""

MAGIC: Final[dict[str, tuple[bytes, ...]]] = {
    "java-key-store": (bytes.fromhex("feedfeed"), bytes.fromhex("cececece")),
    "keepass": (bytes.fromhex("03d9a29a"),),
}
"""First bytes by which a format is known, whatever the file's name."""
