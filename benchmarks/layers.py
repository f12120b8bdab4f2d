"""`verify` against `tar c | sha256sum`, both on one core, on a tree like those of real images."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from pathlib import Path

from benchmarks.measure import LAYERSCOPE, ratio, side_by_side
from tests.dockerd import Engine

TREE = Path("/usr/lib/python3"), Path("/usr/share"), Path("/usr/bin"), Path("/usr/lib/x86_64-linux-gnu")
"""Of the machine that measures: what the layers of a distribution's image hold."""
LARGEST_TREE = 700_000_000


def load_tree(engine: Engine, tag: str) -> int:
    """Import what ``TREE`` holds here as an image of one layer; gives the bytes of its tar."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        archive = Path(directory, "tree.tar")
        with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
            for top in TREE:
                for path in sorted(top.rglob("*")) if top.is_dir() else ():
                    if tar.offset < LARGEST_TREE and (path.is_symlink() or path.is_file() or path.is_dir()):
                        tar.add(path, recursive=False, filter=_whole_seconds)
        if not engine.docker("images", "--quiet", tag):
            with archive.open("rb") as stream:
                subprocess.run(
                    [engine.docker_path, "--host", engine.host, "import", "-", tag],
                    stdin=stream,
                    stdout=subprocess.DEVNULL,
                    check=True,
                )
            engine.images.append(tag)
        return archive.stat().st_size


def _whole_seconds(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """As engines write times: fractions would take a PAX header for each file."""
    member.mtime = int(member.mtime)
    return member


def verify(engine: Engine, rounds: int) -> list[tuple[str, str, str, str]]:
    """One row: the time of `verify` and of `tar c | sha256sum` on the same layer, on one core."""
    tag = "layerscope-bench/tree:1"
    size = load_tree(engine, tag)
    diff = engine.inspect(tag)["GraphDriver"]["Data"]["UpperDir"]
    one_core = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
    tar = [*one_core, "sh", "-c", f"tar -c -C {diff} . | sha256sum"]
    ours = [*one_core, *LAYERSCOPE, "verify", tag, "--jobs", "1"]
    theirs, mine = side_by_side([tar, ours], max(3, rounds // 2))
    return [
        (
            f"`verify`, one layer of {size / 1e6:,.0f} MB, one core",
            f"{mine.median:.2f} s",
            f"`tar c \\| sha256sum` {theirs.median:.2f} s",
            f"{ratio(theirs, mine):.2f} × its throughput (target 0.7)",
        )
    ]
