"""Which snapshots are mounted now, in every mount namespace that can be looked into.

A snapshot without a parent is bound, as is a view of one; the others are overlays (containerd
``plugins/snapshots/overlay/overlay.go``, ``mounts``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from layerscope.errors import OverlayOptionsError
from layerscope.model import CacheId
from layerscope.stores.evidence import Evidence, Found, Unreadable, Witness
from layerscope.stores.livemounts import PROC, live_mounts
from layerscope.stores.mountinfo import Mount, parse_options
from layerscope.stores.records import DataRoot
from layerscope.stores.snapshots import DIRECTORIES

_BELOW: Final = re.compile(r"([1-9][0-9]*)(?:/(?:fs|work)(?:/.*)?)?")
OVERLAY: Final = "overlay"


def mounted_snapshots(root: DataRoot, proc: str = PROC) -> Found:
    """The live mounts that use snapshots of a containerd root."""
    for item in live_mounts(root, DIRECTORIES, proc):
        if isinstance(item, Unreadable):
            yield item
            continue
        path, mount = item
        for cache_id in dict.fromkeys(snapshots_of(root, mount)):
            yield Evidence(cache_id, Witness.MOUNT, mount.point, path)


def snapshots_of(root: DataRoot, mount: Mount) -> Iterator[CacheId]:
    """The snapshots that a mount uses, the one that it writes to first, then from the top down."""
    if mount.fstype != OVERLAY:
        yield from _bound(root, mount)
        return
    try:
        spec = parse_options(mount.options)
    except OverlayOptionsError:
        return
    for path in (spec.upper, spec.work, *spec.lower, *spec.data):
        cache_id = snapshot_at(root, path) if path is not None else None
        if cache_id is not None:
            yield cache_id


def snapshot_at(root: DataRoot, path: str) -> CacheId | None:
    """The snapshot that a path is of, by its directory's name."""
    match = _BELOW.fullmatch(path.removeprefix(root.join(DIRECTORIES, "")))
    return CacheId(match[1]) if match is not None else None


def _bound(root: DataRoot, mount: Mount) -> Iterator[CacheId]:
    """A bound directory is told by its path in its file system, which may be mounted anywhere above."""
    above, found, below = mount.root.partition(f"/{DIRECTORIES}/")
    match = _BELOW.fullmatch(below) if found and root.path.endswith(above) else None
    if match is not None:
        yield CacheId(match[1])
