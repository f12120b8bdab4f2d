"""Which directories of ``overlay2/`` are mounted now, in every mount namespace that can be looked into.

The engine and each container have namespaces of their own; a mount that was left in one of them keeps a directory
busy though no file says so. Sources: proc_pid_mountinfo(5), mount_namespaces(7).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import Final

from layerscope.errors import LayerscopeError, OverlayOptionsError
from layerscope.model import CacheId, LinkId
from layerscope.stores import records
from layerscope.stores.evidence import Evidence, Found, Unreadable, Witness
from layerscope.stores.mountinfo import Mount, parse_options, read_mountinfo
from layerscope.stores.overlay2 import DRIVER
from layerscope.stores.records import DataRoot

PROC: Final = "/proc"
ENGINES: Final = ("dockerd", "containerd")
_LINK_TARGET: Final = re.compile(r"\.\./([^/]+)/diff")


def mounted_evidence(root: DataRoot, proc: str = PROC, driver: str = DRIVER) -> Found:
    """The live mounts that use directories of a data root. Those of another engine's root count for nothing."""
    directories = MountedDirectories(root, driver)
    for item in live_mounts(root, driver, proc):
        if isinstance(item, Unreadable):
            yield item
            continue
        path, mount = item
        if mount.fstype == "overlay":
            for cache_id in dict.fromkeys(directories.of(mount)):
                yield Evidence(cache_id, Witness.MOUNT, mount.point, path)


def live_mounts(root: DataRoot, place: str, proc: str = PROC) -> Iterator[tuple[str, Mount] | Unreadable]:
    """Every mount in every mount namespace, with the file that lists it.

    ``place`` is the directory below ``root`` whose owner's engine is one to look into.
    """
    for path in _mountinfos(root, place, proc):
        if isinstance(path, Unreadable):
            yield path
            continue
        try:
            mounts = read_mountinfo(path)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError as error:
            yield Unreadable(path, f"can't be read: {error.strerror}")
            continue
        for mount in mounts:
            yield path, mount


def _mountinfos(root: DataRoot, place: str, proc: str) -> Iterator[str | Unreadable]:
    """One mountinfo file for each mount namespace, our own first."""
    seen: set[str] = set()
    try:
        processes = sorted((name for name in os.listdir(proc) if name.isdecimal()), key=int)
    except OSError as error:
        yield Unreadable(proc, f"can't be read: {error.strerror}")
        return
    for process in ("self", *processes):
        try:
            namespace = os.readlink(f"{proc}/{process}/ns/mnt")
        except PermissionError:
            if _is_engine_of(root, place, f"{proc}/{process}"):
                yield Unreadable(f"{proc}/{process}/mountinfo", "no permission to see what the engine has mounted")
        except OSError:
            continue  # it ended
        else:
            if namespace not in seen:
                seen.add(namespace)
                yield f"{proc}/{process}/mountinfo"


def _is_engine_of(root: DataRoot, place: str, process: str) -> bool:
    """Whether a process is an engine of the user who owns the data root."""
    try:
        with open(f"{process}/comm") as file:
            return file.read().strip() in ENGINES and os.stat(process).st_uid == root.owner(*place.split("/"))
    except (OSError, LayerscopeError):
        return False


class MountedDirectories:
    """Knows the directories of ``overlay2/`` by the paths under which the engine mounts them."""

    def __init__(self, root: DataRoot, driver: str = DRIVER) -> None:
        self.root = root
        self.base = root.join(driver, "")

    def top(self, mount: Mount) -> CacheId | None:
        """The directory that a mount writes to, or the topmost of one that can only be read."""
        try:
            spec = parse_options(mount.options)
        except OverlayOptionsError:
            return None
        return self._at(spec.upper if spec.upper is not None else spec.lower[0])

    def of(self, mount: Mount) -> Iterator[CacheId]:
        """The directories that a mount uses."""
        try:
            spec = parse_options(mount.options)
        except OverlayOptionsError:
            return
        for path in (*spec.lower, *spec.data, spec.upper, spec.work):
            cache_id = self._at(path) if path is not None else None
            if cache_id is not None:
                yield cache_id

    def _at(self, path: str) -> CacheId | None:
        if path.startswith("/") and not path.startswith(self.base):
            return None
        # The engine mounts long chains by paths relative to overlay2/. Those don't say which, but ids are unique.
        first, _, rest = path.removeprefix(self.base).partition("/")
        if first != "l":
            return records.cache_id(first)
        link_id = records.link_id(rest)
        return self._links.get(link_id) if link_id is not None else None

    @cached_property
    def _links(self) -> dict[LinkId, CacheId]:
        found: dict[LinkId, CacheId] = {}
        with suppress(LayerscopeError), self.root.inside(DRIVER, "l") as links:
            for name in links.names() if links is not None else ():
                link_id = records.link_id(name)
                match = _LINK_TARGET.fullmatch((links.link(name) if links is not None else None) or "")
                cache_id = records.cache_id(match[1]) if match is not None else None
                if link_id is not None and cache_id is not None:
                    found[link_id] = cache_id
        return found
