"""Names this version of the detectors by what they are made of: what other code found or compiled is of no use."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files


@cache
def code_digest() -> str:
    """A hash of this package's source code, which is more than a version number says while people work on it."""
    digest = hashlib.sha256()
    for file in sorted(files("layerscope.secrets").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
