"""What a user's word stands for in a containerd root: a snapshot by path, number, key or digest; a blob; a mount.

A word is only ever read: no symlink below the roots is followed, and none of a layer's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Final

from layerscope.analysis.containerd_state import ContainerdState
from layerscope.analysis.mount_places import PROCESS, MountPlaces, Place, absolute, is_mount_line, names_below
from layerscope.errors import AmbiguousTargetError, TargetNotFoundError
from layerscope.model import CacheId
from layerscope.stores import records
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.content_store import BLOBS, INGESTS
from layerscope.stores.images import chain_ids
from layerscope.stores.livemounts import PROC
from layerscope.stores.mountinfo import Mount
from layerscope.stores.snapshot_mounts import snapshots_of
from layerscope.stores.snapshots import DIRECTORIES, SNAPSHOTTER

MOST_NAMED: Final = 8
_HEX: Final = re.compile(r"[0-9a-f]{1,64}")
_DIRECTORIES: Final = DIRECTORIES.split("/")
_BLOBS: Final = BLOBS.split("/")
_INGESTS: Final = INGESTS.split("/")
_OTHERS: Final = "snapshots and blobs are what is owned here; `layerscope orphans --all` lists them"


def find_containerd_place(disk: ContainerdStore, state: ContainerdState, text: str, proc: str = PROC) -> Place:
    """The snapshot or blob that a word stands for. Raises TargetNotFoundError or AmbiguousTargetError."""
    return _Finder(disk, state, proc).find(text)


class _Finder:
    def __init__(self, disk: ContainerdStore, state: ContainerdState, proc: str) -> None:
        self.disk = disk
        self.state = state
        self.root = disk.root
        self.mounts = MountPlaces(self._top, disk.root.join(DIRECTORIES), proc)

    def find(self, text: str) -> Place:
        if is_mount_line(text):
            return self.mounts.line(text)
        if text.isascii() and text.isdecimal() and not text.startswith("0"):
            return self._number(text)
        found = self._name(text) or self._digest(text) or self._path(text)
        if found is None:
            raise TargetNotFoundError(
                f"{text!r} stands for nothing in {self.root.path}",
                "give a path below it, a snapshot's number, key or chain_id, a blob's digest, a mount or a process",
            )
        return found

    def _top(self, mount: Mount) -> CacheId | None:
        return next(snapshots_of(self.root, mount), None)

    # -- names -----------------------------------------------------------------------------------------------

    def _number(self, text: str) -> Place:
        """A directory's number, or a process id."""
        known = CacheId(text) in self.state.numbers or self.root.is_directory(DIRECTORIES, text)
        try:
            process = self.mounts.process(text, "root", None)
        except TargetNotFoundError:
            found = Place("the snapshot of that number", (text,)) if known else self._digest(text)
            if found is None:
                raise
            return found
        if known:
            raise AmbiguousTargetError(
                f"{text} is a process and the number of a snapshot", f"say /proc/{text} or snapshots/{text}"
            )
        return process

    def _name(self, text: str) -> Place | None:
        """The key of a snapshot in the namespace, the snapshotter's own name, or the start of such a key."""
        record = self.state.snapshots.get(text)
        if record is not None and record.number is not None:
            return Place("a name of the snapshotter", (str(record.number),))
        keys = self._keys()
        if text in keys and records.chain_id(text) is None:
            return self._of_key("the key of a snapshot", text)
        if "/" in text or len(text) < 2:
            return None
        found = [key for key in keys if key.startswith(text) and not key.startswith("sha256:")]
        own = [key for key in found if not key.endswith("-init")] or found
        if len(own) > 1:
            raise _ambiguous(text, "keys of snapshots", own)
        return self._of_key("the start of a snapshot's key", own[0]) if own else None

    def _keys(self) -> dict[str, object]:
        known = self.state.namespaces.get(self.state.namespace)
        return {**known.snapshots.get(SNAPSHOTTER, {})} if known is not None else {}

    def _of_key(self, how: str, key: str) -> Place | None:
        name = self.state.directory_of(self.state.namespace, key)
        return Place(how, (name,), chain_id=records.chain_id(key)) if name is not None else None

    def _digest(self, text: str) -> Place | None:
        """The start of a chain_id, of a diff_id, or of the digest of a blob. The base layer's first two agree."""
        digits = text.removeprefix("sha256:")
        if not _HEX.fullmatch(digits):
            return None
        start = f"sha256:{digits}"
        chains = [key for key in self._keys() if key.startswith(start) and records.chain_id(key) is not None]
        diffs: dict[str, list[str]] = {}
        for image in self.disk.images():
            for diff_id, chain_id in zip(image.diff_ids, chain_ids(image.diff_ids), strict=True):
                if diff_id.startswith(start) and chain_id not in diffs.get(diff_id, ()):
                    diffs.setdefault(diff_id, []).append(chain_id)
        layers = dict.fromkeys([*chains, *(chain_id for found in diffs.values() for chain_id in found)])
        # A layer that is stored as it is, uncompressed, is a blob whose digest is the diff_id.
        blobs = [
            name
            for name in self.root.names(BLOBS)
            if name.startswith(digits) and f"sha256:{name}" not in layers and f"sha256:{name}" not in diffs
        ]
        if len(chains) > 1 or len(diffs) > 1 or len(blobs) > 1 or (layers and blobs):
            raise _ambiguous(start, "digests", dict.fromkeys([*layers, *(f"sha256:{name}" for name in blobs)]))
        if blobs:
            return Place("the digest of a blob", (), other=self.root.join(BLOBS, blobs[0]))
        names = [self.state.directory_of(self.state.namespace, chain_id) for chain_id in layers]
        present = tuple(dict.fromkeys(name for name in names if name is not None))
        how = "a diff_id" if diffs and not chains else "a chain_id"
        return Place(how, present, chain_id=records.chain_id(chains[0]) if chains else None) if present else None

    # -- paths -----------------------------------------------------------------------------------------------

    def _path(self, text: str) -> Place | None:
        if not text:
            return None  # not the working directory
        process, path = PROCESS.fullmatch(text), absolute(text)
        below = names_below(self.root.path, path)
        if below is None and self.state.docker is not None and names_below(self.state.docker.path, path):
            return self._of_docker(names_below(self.state.docker.path, path) or [])
        if below is None and process is not None:
            return self.mounts.process(*process.groups())
        if not text.startswith("/") and (below is None or not os.path.lexists(path)):
            below = self._short_path(text)
        if below is not None:
            return self._of_root(below)
        return self.mounts.at(path, "self", "a path in a mount") if os.path.lexists(path) else None

    def _short_path(self, text: str) -> list[str] | None:
        """``snapshots/12/fs/etc`` and ``12/fs/etc`` start from the snapshotter's directory."""
        names = os.path.normpath(text).split("/")
        if names[0] == "snapshots":
            return [*_DIRECTORIES, *names[1:]]
        if names[0].isdecimal() and self.root.is_directory(DIRECTORIES, names[0]):
            return [*_DIRECTORIES, *names]
        return names if names[0] not in (".", "..") and os.path.lexists(self.root.join(names[0])) else None

    def _of_root(self, names: Sequence[str]) -> Place:
        count = len(_DIRECTORIES)
        if list(names[:count]) == _DIRECTORIES and len(names) > count:
            name, rest = names[count], names[count + 1 :]
            inside = "/".join(rest[1:]) if rest[:1] == ["fs"] else ""
            return Place("a path of a snapshot", (name,), inside or None)
        for above, how in ((_BLOBS, "a blob"), (_INGESTS, "a download")):
            if list(names[: len(above)]) == above and len(names) > len(above):
                return Place(how, (), other=self.root.join(*names[: len(above) + 1]))
        raise TargetNotFoundError(f"{self.root.join(*names)} is in no snapshot, and no blob", _OTHERS)

    def _of_docker(self, names: Sequence[str]) -> Place:
        """A path of the engine's data root: a container's files, or where its layers are mounted."""
        docker = self.state.docker
        assert docker is not None
        match names:
            case ["rootfs", _, name, *rest] if records.container_id(name) is not None:
                found = self._of_key("", name)
                if found is not None:
                    return Place("a path in a container", found.names, "/".join(rest) or None, merged=bool(rest))
            case ["containers", name, *_] if records.container_id(name) is not None:
                found = self._of_key("", name)
                if found is not None:
                    return Place("a file of a container", found.names)
        raise TargetNotFoundError(f"{docker.join(*names)} is not in a layer", _OTHERS)


def _ambiguous(text: str, what: str, found: Iterable[str]) -> AmbiguousTargetError:
    names = list(found)
    shown = ", ".join(name[:20] for name in names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return AmbiguousTargetError(f"{text!r} is the start of {len(names)} {what}: {shown}{more}", "give more of it")
