"""What a regular expression cannot say about a token: its entropy, its checksum, its inner structure."""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable
from math import log2
from typing import Final

_BASE62: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BECH32: Final = b"QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"
_BECH32_FACTORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)


def entropy(value: bytes) -> float:
    """Shannon's entropy in bits per byte, from 0 to 8."""
    total = len(value)
    return -sum(count / total * log2(count / total) for count in Counter(value).values()) + 0.0


def base62_crc32(token: bytes) -> bool:
    """Six last characters are the CRC-32 of the random part after the prefix, in base 62 (GitHub, npm).

    https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/
    """
    random, checksum = token[token.rindex(b"_") + 1 : -6], token[-6:]
    return base62(zlib.crc32(random), 6) == checksum


def base62(number: int, length: int) -> bytes:
    """The number in base 62, digits before capitals before small letters, zeros in front."""
    digits = bytearray()
    while number:
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return bytes(reversed(digits)).rjust(length, b"0")


def bech32(token: bytes) -> bool:
    """The checksum of an age identity holds (BIP 173)."""
    prefix, separator, data = token.upper().rpartition(b"1")
    if not separator or any(byte not in _BECH32 for byte in data):
        return False
    lower = prefix.lower()
    values = [byte >> 5 for byte in lower] + [0] + [byte & 31 for byte in lower] + [_BECH32.index(b) for b in data]
    return bech32_polymod(values) == 1


def bech32_polymod(values: list[int]) -> int:
    """The checksum polynomial of BIP 173."""
    checksum = 1
    for value in values:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, factor in enumerate(_BECH32_FACTORS):
            checksum ^= factor if top >> bit & 1 else 0
    return checksum


def json_web_token(token: bytes) -> bool:
    """Header and payload are JSON objects, and the header names an algorithm other than ``none``."""
    header, _, rest = token.partition(b".")
    first, second = _json_part(header), _json_part(rest.partition(b".")[0])
    return first is not None and second is not None and isinstance(first.get("alg"), str) and first["alg"] != "none"


def _json_part(part: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def private_key(armoured: bytes) -> bool:
    """The body under a private key's header is base64 of some length, not a placeholder or a mention."""
    text = _armoured_text(armoured)
    return len(text) >= 60 and entropy(text) >= 4.0


def private_key_cipher(armoured: bytes) -> str | None:
    """The cipher that protects a private key, ``unknown cipher`` if the key does not name it; None without one.

    PKCS #8 (RFC 5958), traditional OpenSSL (RFC 1421), OpenSSH (PROTOCOL.key).
    """
    if b"ENCRYPTED PRIVATE KEY" in armoured:
        return "unknown cipher"
    if found := re.search(rb"DEK-Info: *([A-Za-z0-9-]{1,32})", armoured):
        return found[1].decode()
    if b"OPENSSH" not in armoured[:40]:
        return None
    text = _armoured_text(armoured)[:120]
    try:
        head = base64.b64decode(text[: len(text) // 4 * 4])
    except binascii.Error:
        return None
    length = int.from_bytes(head[15:19])
    cipher = head[19 : 19 + min(length, 40)]
    return None if cipher in {b"none", b""} else cipher.decode("ascii", "replace")


def _armoured_text(armoured: bytes) -> bytes:
    """The base64 characters of an armoured key, also where it is written as a string of JSON or of code."""
    body = armoured.partition(b"KEY")[2].partition(b"-----")[2].partition(b"-----")[0]
    lines = body.replace(b"\\r", b"").replace(b"\\n", b"\n").replace(b"\r", b"").split(b"\n")
    text = b""
    for line in lines:
        stripped = line.strip(b" \t\"'+,\\|")
        if b":" in stripped:
            continue
        if not _BASE64_LINE.fullmatch(stripped):
            break
        text += stripped
    return text


_BASE64_LINE: Final = re.compile(rb"[A-Za-z0-9+/]*={0,4}[A-Za-z0-9+/]{0,4}")


CHECKS: Final[dict[str, Callable[[bytes], bool]]] = {
    "base62-crc32": base62_crc32,
    "bech32": bech32,
    "json-web-token": json_web_token,
    "private-key": private_key,
}
"""What a rule's ``check`` names. A token that fails is no finding."""
