"""What directory a mount, a process or a path in a mount stands for; of a path, what lies below a root.

For ``owner``, whatever the store. No symlink in a layer is followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from layerscope.errors import TargetNotFoundError
from layerscope.model import CacheId, ChainId
from layerscope.stores.mountinfo import Mount, parse_mountinfo, read_mountinfo

PROCESS: Final = re.compile(r"/proc/([0-9]+|self)(?:/(root|cwd)(/.*)?)?")


@dataclass(frozen=True, slots=True)
class Place:
    """Directories of layers, several only for a diff_id; or a blob."""

    how: str
    """What the word is, in words."""
    names: tuple[str, ...]
    """Of the directories, which need not be there."""
    inside: str | None = None
    """The path in the layer, or in the container whose upper layer it is."""
    chain_id: ChainId | None = None
    """The layer, where the word says which."""
    merged: bool = False
    """Whether ``inside`` is a path in all layers together."""
    other: str | None = None
    """The absolute path of a blob or download of containerd, which is no directory of a layer."""


def is_mount_line(text: str) -> bool:
    """Whether a word is a line of mountinfo, or a mount's options."""
    return "lowerdir=" in text or "upperdir=" in text


class MountPlaces:
    """Finds the directory that a mount writes to."""

    def __init__(self, top: Callable[[Mount], CacheId | None], storage: str, proc: str) -> None:
        """``top`` tells that directory, and ``storage`` is where such directories are."""
        self.top = top
        self.storage = storage
        self.proc = proc

    def line(self, text: str) -> Place:
        """The place of a line of mountinfo or /proc/mounts, or of a mount's options."""
        mounts = list(parse_mountinfo([text]))
        if not mounts:  # a line of /proc/mounts, or the options alone
            fields = [field for field in text.split() if is_mount_line(field)]
            mounts = [Mount("/", "", "overlay", fields[0])]
        return self._mounted(mounts[-1], "a mount", None)

    def process(self, process: str, part: str | None, rest: str | None) -> Place:
        """The place of a process's root, of its working directory, or of a path below one of these."""
        rest = rest or ""
        if part == "cwd":
            try:
                rest = os.readlink(f"{self.proc}/{process}/cwd") + rest
            except OSError as error:
                raise _no_process(process, error) from error
        return self.at(os.path.normpath(f"/{rest.lstrip('/')}"), process, "a process")

    def at(self, path: str, process: str, how: str) -> Place:
        """The place of the overlay that holds a path, as a process sees it."""
        try:
            mounts = read_mountinfo(f"{self.proc}/{process}/mountinfo")
        except OSError as error:
            raise _no_process(process, error) from error
        around = [
            mount for mount in mounts if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        ]
        # Of several the longest, and of those the last, which hides the others.
        best = max(enumerate(around), key=lambda item: (len(item[1].point), item[0]), default=None)
        whose = "" if process == "self" else f"of process {process} "
        if best is None:
            raise TargetNotFoundError(
                f"no mount is known for {path} {whose}".rstrip(), "it may have ended, or have a root of its own"
            )
        mount = best[1]
        if mount.fstype != "overlay":
            raise TargetNotFoundError(
                f"{path} {whose}is on the {mount.fstype} mount at {mount.point} ({mount.root}), not in a layer",
                f"a layer is below {self.storage}, or in an overlay mount of it",
            )
        inside = os.path.relpath(path, mount.point)
        below = os.path.normpath(os.path.join(mount.root.lstrip("/"), inside))
        return self._mounted(mount, how, None if below == "." else below)

    def _mounted(self, mount: Mount, how: str, inside: str | None) -> Place:
        top = self.top(mount)
        if top is None:
            at = f" at {mount.point}" if mount.point else ""
            raise TargetNotFoundError(
                f"the {mount.fstype} mount{at} has no layers in {self.storage}",
                "it belongs to another engine or program; `layerscope overlay` shows any overlay mount",
            )
        return Place(how, (top,), inside, merged=inside is not None)


def names_below(root: str, path: str) -> list[str] | None:
    """The names below a root, under whatever path that is reached; None for a path elsewhere."""
    wanted = os.stat(root)
    names = [name for name in path.split("/") if name]
    for count in range(len(names) + 1):
        try:
            # From the top: what is below the root is not touched.
            found = os.stat("/" + "/".join(names[:count]))
        except (OSError, ValueError):
            return None
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return names[count:]
    return None


def absolute(text: str) -> str:
    try:
        return os.path.normpath(os.path.join(os.getcwd(), text))
    except FileNotFoundError:  # the working directory is gone
        return os.path.normpath(os.path.join("/", text))


def _no_process(process: str, error: OSError) -> TargetNotFoundError:
    return TargetNotFoundError(
        f"the mounts of process {process} can't be read: {error.strerror}",
        "it has ended, or you may not look into it",
    )
