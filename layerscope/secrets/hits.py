"""What the scan of one layer gives: where its secrets lie, without the secrets, and what was not read.

Plain data: it goes from worker to parent, and into the cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from layerscope.secrets.git_paths import repository_of
from layerscope.secrets.match import Confidence, Match, fingerprint

_fingerprint = lru_cache(maxsize=4096)(fingerprint)  # one secret often lies in many places

_DOCUMENTATION: Final = re.compile(r"usr/(?:local/)?share/(?:doc|info|man)/")


@dataclass(frozen=True, slots=True)
class Hit:
    """One secret at one place of a layer. ``line`` and ``column`` count from 1 and are None in a binary file."""

    rule_id: str
    title: str
    confidence: Confidence
    path: str
    """Of the file, from the layer's root."""
    member: str | None
    """The path inside the file, where that is an archive: ``config.properties`` in ``app.jar``. In a file of git
    objects ``<commit>:<path>``, or the object's id."""
    offset: int
    line: int | None
    column: int | None
    redacted: str
    fingerprint: str
    secret: bytes | None = None
    """Only when the user asked to see it. Never kept."""

    @property
    def shown_path(self) -> str:
        """``app.jar!/config.properties`` for what lies in an archive, ``.git!/<commit>:config.py`` in git."""
        if self.member is None:
            return self.path
        return f"{repository_of(self.path) or self.path}!/{self.member}"

    @property
    def told_confidence(self) -> Confidence:
        """How sure it is there: in a package's documentation it is an example until somebody says otherwise.

        Stock systems come with private keys in manual pages and tokens in changelogs.
        """
        return Confidence.LOW if _DOCUMENTATION.match(self.path) else self.confidence

    @property
    def sort_key(self) -> tuple[str, str, int, str, str]:
        return (self.path, self.member or "", self.offset, self.rule_id, self.fingerprint)

    def at(self, path: str) -> Hit:
        """The same secret under another name of the same file."""
        return replace(self, path=path)


def hit_of(match: Match, path: str, member: str | None = None, *, reveal: bool) -> Hit:
    """What may leave the scanner of a match; the secret itself only with ``reveal``."""
    return Hit(
        match.rule_id,
        match.title,
        match.confidence,
        path,
        member,
        match.offset,
        match.line,
        match.column,
        match.redacted,
        _fingerprint(match.rule_id, match.secret),
        match.secret.reveal() if reveal else None,
    )


@dataclass(frozen=True, slots=True)
class Skip:
    """Something of a layer that was not read, and why. ``path`` is relative to the layer, ``""`` its root."""

    path: str
    reason: str
    lasting: bool = False
    """Another run would skip it, too: a limit, not an accident."""


@dataclass(frozen=True, slots=True)
class LayerScan:
    """One layer, scanned; hits and skips are sorted."""

    hits: tuple[Hit, ...] = ()
    skips: tuple[Skip, ...] = ()
    files: int = 0
    """Regular files read, each inode once."""
    size_bytes: int = 0
    redirects: bool = False
    """Whether something in it is marked as renamed (overlayfs redirects)."""
