"""Keeps what scans of immutable layers found, in the user's cache directory. Holds no secret.

One file a layer, named after all that its result depends on, written beside its place and then renamed: a reader
sees a whole file or none. What can't be trusted or understood is ignored with a warning, and the layer is scanned
again. The directory must be the user's own and nobody else's to write to: a forged entry would say "no secrets".
What no run has used for long goes when something new comes: layers are deleted, and rules change.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat as st
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from layerscope.model import Caution, Warn, ignore
from layerscope.reading import FILE
from layerscope.secrets.hits import Hit, LayerScan, Skip
from layerscope.secrets.match import Confidence

FORMAT: Final = 1
LARGEST_ENTRY: Final = 256 << 20
DAY: Final = 24 * 3600.0
KEPT_UNUSED: Final = 60 * DAY
"""Seconds for which an entry stays that no run asks for."""
_OURS: Final = re.compile(r"[0-9a-f]{40}\.json|hyperscan-[0-9a-f]{32}\.db|\.new-.*|\.hyperscan-.*")
"""The names of entries, of compiled rules, and of either while it is written."""
Key = Mapping[str, str | int]
"""Everything that a layer's result depends on, by name."""


def cache_directory() -> str | None:
    """Where this user's caches are (XDG Base Directory Specification); None when nobody knows."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "layerscope") if os.path.isabs(base) else None


def open_cache(path: str | None, warn: Warn = ignore) -> LayerCache | None:
    """The cache in a directory, which is made if it is missing; None with a warning when it can't be trusted."""
    if path is None:
        return None
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        warn(Caution("no-cache", path, f"the cache is not used: {error.strerror}"))
        return None
    stat = os.fstat(fd)
    if stat.st_uid != os.geteuid() or stat.st_mode & (st.S_IWGRP | st.S_IWOTH):
        os.close(fd)
        warn(Caution("no-cache", path, "the cache is not used: others own it or may write to it"))
        return None
    return LayerCache(path, fd, warn)


class LayerCache:
    """Results by key. The directory is open, so that nobody can put another in its place."""

    def __init__(self, path: str, fd: int, warn: Warn) -> None:
        self.path = path
        self._fd = fd
        self._warn = warn
        self._failed = False
        self._tidy = False

    def __del__(self) -> None:
        os.close(self._fd)

    def get(self, key: Key) -> LayerScan | None:
        """What is known of a layer; None when nothing is, or an entry is damaged."""
        name = _name(key)
        try:
            content = self._read(name)
            return None if content is None else _from_record(json.loads(content), key)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self._warn(Caution("corrupt-cache", f"{self.path}/{name}", "ignored: the entry is damaged"))
            return None

    def _read(self, name: str) -> bytes | None:
        try:
            fd = os.open(name, FILE, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            stat = os.fstat(fd)
            if not st.S_ISREG(stat.st_mode) or stat.st_uid != os.geteuid() or stat.st_size > LARGEST_ENTRY:
                raise ValueError("not an entry of ours")
            if stat.st_mtime < time.time() - DAY:
                with suppress(OSError):
                    os.utime(fd)  # it is in use
            return file.read(LARGEST_ENTRY)

    def put(self, key: Key, scan: LayerScan) -> None:
        """Keep a result. Where that can't be, the next run scans again; one warning says so."""
        self._remove_unused()
        name, content = _name(key), json.dumps(_to_record(key, scan))
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(prefix=".new-", dir=f"/proc/self/fd/{self._fd}")  # mode 0600
            with open(handle, "w", encoding="ascii") as file:
                file.write(content)
            os.replace(temporary, name, dst_dir_fd=self._fd)
        except OSError as error:
            if temporary is not None:
                with suppress(OSError):
                    os.unlink(temporary)
            if not self._failed:
                self._warn(Caution("no-cache", self.path, f"results are not kept: {error.strerror}"))
            self._failed = True

    def _remove_unused(self) -> None:
        """Once a run: take away what was not used for long. What can't be removed stays."""
        if self._tidy:
            return
        self._tidy = True
        oldest = time.time() - KEPT_UNUSED
        with suppress(OSError):
            for name in os.listdir(self._fd):
                with suppress(OSError):
                    if _OURS.fullmatch(name) and os.lstat(name, dir_fd=self._fd).st_mtime < oldest:
                        os.unlink(name, dir_fd=self._fd)


def is_cacheable(scan: LayerScan) -> bool:
    """Whether another run would find the same: what could not be read this time may be readable the next."""
    return all(skip.lasting for skip in scan.skips)


def _name(key: Key) -> str:
    return hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:40] + ".json"


def _to_record(key: Key, scan: LayerScan) -> dict[str, Any]:
    return {"format": FORMAT, "key": dict(key), "scan": asdict(_without_secrets(scan))}


def _without_secrets(scan: LayerScan) -> LayerScan:
    if any(hit.secret is not None for hit in scan.hits):
        raise ValueError("secrets are never kept")
    return scan


def _from_record(record: Any, key: Key) -> LayerScan:
    """Raises ValueError, TypeError, KeyError or AttributeError for anything that ``put`` did not write."""
    if record["format"] != FORMAT or record["key"] != dict(key):
        raise ValueError("of another format, or for another layer")
    scan = record["scan"]
    hits = tuple(
        Hit(**{**_checked(hit, _HIT), "confidence": Confidence(hit["confidence"])}) for hit in scan["hits"]
    )
    skips = tuple(Skip(**_checked(skip, _SKIP)) for skip in scan["skips"])
    rest = _checked({name: scan[name] for name in _SCAN}, _SCAN)
    return LayerScan(hits, skips, **rest)


_OPTIONAL_INT: Final = (int, type(None))
_HIT: Final[dict[str, Any]] = {
    "rule_id": str,
    "title": str,
    "confidence": str,
    "path": str,
    "member": (str, type(None)),
    "offset": int,
    "line": _OPTIONAL_INT,
    "column": _OPTIONAL_INT,
    "redacted": str,
    "fingerprint": str,
    "secret": type(None),
}
_SKIP: Final[dict[str, Any]] = {"path": str, "reason": str, "lasting": bool}
_SCAN: Final[dict[str, Any]] = {"files": int, "size_bytes": int, "redirects": bool}


def _checked(record: dict[str, Any], types: dict[str, Any]) -> dict[str, Any]:
    if record.keys() != types.keys() or not all(isinstance(record[name], kind) for name, kind in types.items()):
        raise ValueError("fields are missing, too many or of another type")
    return record
