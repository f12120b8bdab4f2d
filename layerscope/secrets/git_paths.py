"""Knows files of git objects by their paths, in ``.git`` directories and bare repositories."""

from __future__ import annotations

import re
from typing import Final

_OBJECT_FILE: Final = re.compile(
    r"(?P<repository>(?:.*/)?[^/]+)/objects/"
    r"(?:pack/(?:pack-(?P<pack>[0-9a-f]{40}|[0-9a-f]{64})\.pack|tmp_pack_\w+)"
    r"|(?P<loose>[0-9a-f]{2}/(?:[0-9a-f]{38}|[0-9a-f]{62})))",
    re.DOTALL,
)


def repository_of(path: str) -> str | None:
    """The repository's directory, when the path is that of a file which holds git objects."""
    match = _OBJECT_FILE.fullmatch(path) if "/objects/" in path else None
    return match["repository"] if match else None


def loose_id(path: str) -> bytes | None:
    """The id of the object that a file is named after; None for a pack."""
    match = _OBJECT_FILE.fullmatch(path)
    return bytes.fromhex(match["loose"].replace("/", "")) if match and match["loose"] else None


def hash_of_pack(path: str) -> str:
    """The algorithm that makes the ids of a pack's objects."""
    match = _OBJECT_FILE.fullmatch(path)
    return "sha256" if match and match["pack"] and len(match["pack"]) == 64 else "sha1"
