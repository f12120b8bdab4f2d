"""Tokens that open nothing, made when a test runs: no file of the repository holds one."""

from __future__ import annotations

import random
import zlib

from layerscope.secrets.checks import base62

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def github_token(seed: int = 0, prefix: str = "ghp") -> str:
    """A GitHub token whose checksum holds."""
    body = "".join(random.Random(seed).choices(ALPHABET, k=30))
    return f"{prefix}_{body}{base62(zlib.crc32(body.encode()), 6).decode()}"


def stripe_key(seed: int = 0) -> str:
    return "sk_" + "live_" + "".join(random.Random(seed).choices(ALPHABET, k=24))


def slack_token(seed: int = 0) -> str:
    return "xoxb-" + "2711456180123-2711456180124-" + "".join(random.Random(seed).choices(ALPHABET, k=24))


def armoured_key(kind: str = "RSA ", seed: int = 0, headers: str = "") -> str:
    """A private key in PEM armour, of random bytes."""
    body = "".join(random.Random(seed).choices(ALPHABET + "+/", k=512))
    lines = "\n".join(body[start : start + 64] for start in range(0, len(body), 64))
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{headers}{lines}\n-----END {kind}PRIVATE KEY-----\n"
