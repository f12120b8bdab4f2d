"""Times as text: UTC, ISO 8601, as precise as the source. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_ZERO: Final = "0001-01-01T00:00:00"
"""Go's zero time: written where there is no time."""


def from_rfc3339(text: object) -> str | None:
    """Normalise a Go timestamp to UTC, all digits of the second kept; None for none, zero or nonsense."""
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    date, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{'+00:00' if zone in 'Zz' else zone}")
        whole = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    except (ValueError, OverflowError):
        return None
    if whole == _ZERO:
        return None
    fraction = (fraction or "").rstrip("0").rstrip(".")
    return f"{whole}{fraction}Z"


def from_unix(seconds: int) -> str | None:
    """Seconds since the epoch as ISO 8601, or None where no calendar has them."""
    return from_nanoseconds(seconds * 1_000_000_000)


def from_nanoseconds(nanoseconds: int) -> str | None:
    """Nanoseconds since the epoch (``st_mtime_ns``) as ISO 8601; file systems know years beyond 9999."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    except (ValueError, OverflowError, OSError):
        return None
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return f"{whole}{fraction}Z"
