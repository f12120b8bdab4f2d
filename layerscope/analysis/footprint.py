"""What a directory of ``overlay2/`` takes on disk, and when anything in it changed last."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Final

from layerscope.model import Caution, Tick, Warn, XattrFamily, ignore, no_tick
from layerscope.overlay.tree import Directory, LayerTree

MERGED: Final = "merged"
"""Where the engine mounts a layer: what is below belongs to other directories."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The sum over a tree."""

    allocated_bytes: int
    """``st_blocks × 512`` of everything, each inode once."""
    changed_ns: int
    """The newest ``st_ctime`` in it. Nobody can set it: who fills or empties a tree shows in it."""
    complete: bool
    """False when something could not be read."""


def footprint(path: str, seen: set[tuple[int, int]], warn: Warn = ignore, tick: Tick = no_tick) -> Footprint | None:
    """Walk a tree, on one file system and not into ``merged/`` at its top; None when it is gone.

    ``seen`` has the hard-linked inodes that were counted already, by device and number. What vanishes meanwhile
    counts as a change of this moment.
    """
    try:
        top = os.lstat(path)
    except FileNotFoundError:
        return None
    allocated, changed, complete = top.st_blocks * 512, top.st_ctime_ns, True
    tree = LayerTree(path, XattrFamily.TRUSTED)
    pending: list[Directory] = [tree.root()]
    while pending:
        directory = pending.pop()
        try:
            content = directory.content()
            # Now, not before: removals while the names were read show in it.
            changed = max(changed, os.fstat(directory.fd()).st_ctime_ns)
        except FileNotFoundError:
            changed = max(changed, time.time_ns())
            continue
        except OSError as error:
            complete = False
            warn(Caution("unreadable-directory", directory.on_disk(), f"can't be read ({error.strerror})"))
            continue
        entries = [*content.directories, *content.others, *content.marked]
        tick(len(entries))
        for entry in entries:
            stat = entry.stat
            if stat.st_dev != top.st_dev or (entry.name == MERGED and not directory.path):
                continue
            changed = max(changed, stat.st_ctime_ns)
            if stat.st_nlink > 1 and not entry.is_directory:
                inode = (stat.st_dev, stat.st_ino)
                if inode in seen:
                    continue
                seen.add(inode)
            allocated += stat.st_blocks * 512
            if entry.is_directory:
                pending.append(directory.sub(entry.name))
    return Footprint(allocated, changed, complete)
