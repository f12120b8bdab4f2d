"""Docker's image references: what a user types, and the familiar form under which stores keep it.

Source: ``distribution/reference`` (``normalize.go``, ``regexp.go``): ``ubuntu`` is
``docker.io/library/ubuntu:latest``, and its familiar form is ``ubuntu:latest``. Pure.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_DOMAIN: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[A-Fa-f0-9:]+\])(?::[0-9]+)?", re.ASCII)
_REMAINDER: Final = re.compile(
    rf"(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
DEFAULT_DOMAINS: Final = ("docker.io", "index.docker.io")


class Reference(NamedTuple):
    """A parsed reference: familiar name, tag and digest."""

    name: str
    tag: str | None
    digest: str | None

    @property
    def key(self) -> str:
        """How the store keeps it: a digest wins over a tag, and without either the tag is ``latest``."""
        if self.digest is not None:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{self.tag or 'latest'}"


def parse(text: str) -> Reference | None:
    """Parse what a user typed; None when it can't be a reference, or is a whole image id."""
    if _HEX64.fullmatch(text):
        return None
    first, slash, rest = text.partition("/")
    if not slash or not (first == "localhost" or set(first) & set(".:") or first.lower() != first):
        domain, remainder = "docker.io", text
    else:
        domain, remainder = first, rest
    match = _REMAINDER.fullmatch(remainder)
    if match is None or not _DOMAIN.fullmatch(domain):
        return None
    path = match["path"]
    if domain in DEFAULT_DOMAINS:
        name = path.removeprefix("library/") if path.count("/") == 1 else path
    else:
        name = f"{domain}/{path}"
    return Reference(name, match["tag"], match["digest"])
