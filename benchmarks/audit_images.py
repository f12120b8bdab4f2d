"""Images for the audit's benchmarks, of this machine's own files: the same machine, the same images."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from tests.dockerd import Engine

MB: Final = 1_000_000
MIXED: Final = ("/usr/lib", "/usr/bin", "/usr/share")
MOST_OF_ONE: Final = 0.1
"""No file makes up more of a tree than this part."""


def machine_files(directories: tuple[str, ...] = MIXED) -> Iterator[tuple[Path, int]]:
    """Regular files that are no links, with their sizes, in turn from each directory."""
    walks = [_files(Path(directory)) for directory in directories]
    while walks:
        for walk in list(walks):
            found = next(walk, None)
            if found is None:
                walks.remove(walk)
            else:
                yield found


def _files(directory: Path) -> Iterator[tuple[Path, int]]:
    for root, names, files in os.walk(directory):
        names.sort()
        for name in sorted(files):
            path = Path(root, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and os.access(path, os.R_OK):
                yield path, status.st_size


def chosen(size_bytes: int, skip_bytes: int = 0, *, text: bool = False) -> list[Path]:
    """Files of so many bytes together, after leaving out ``skip_bytes`` of them; only texts if so wished."""
    files = []
    total = -skip_bytes
    for path, size in machine_files():
        if size > MOST_OF_ONE * size_bytes or (text and not _is_text(path)):
            continue
        if total >= 0:
            files.append(path)
        total += size
        if total >= size_bytes:
            return files
    raise SystemExit(
        f"this machine has no {(size_bytes + skip_bytes) // MB} MB of such files below {', '.join(MIXED)}"
    )


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(8000)
    return bool(head) and b"\0" not in head and head[:2] != b"\x1f\x8b"


def copy_tree(files: list[Path], target: Path) -> int:
    """Copy the files below a directory, at their own paths; gives their size in bytes."""
    total = 0
    for path in files:
        copy = target / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        total += copy.write_bytes(path.read_bytes())
    return total


def import_image(engine: Engine, tag: str, files: list[Path]) -> str:
    """An image of one layer, by ``docker import``."""
    command = [engine.docker_path, "import", "-", tag]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as docker:
        assert docker.stdin is not None
        _tar(files, docker.stdin)
    if docker.returncode:
        raise SystemExit(f"docker import of {tag} failed")
    engine.images.append(tag)
    return tag


def image_on(engine: Engine, base: str, tag: str, parts: list[list[Path]]) -> str:
    """An image with the base's layers and one more with each part."""
    steps = "\n".join(f"ADD part{number}.tar /srv/" for number in range(len(parts)))
    files = {}
    for number, part in enumerate(parts):
        with tempfile.TemporaryFile(dir="/var/tmp") as tar:
            _tar(part, tar)
            tar.seek(0)
            files[f"part{number}.tar"] = tar.read()
    return engine.build(tag, f"FROM {base}\n{steps}\n", files=files)


def _tar(files: list[Path], out: IO[bytes]) -> None:
    names = b"\0".join(os.fsencode(path.relative_to("/")) for path in files)
    command = ["tar", "--create", "--directory=/", "--no-recursion", "--null", "--files-from=-"]
    subprocess.run(command, input=names, stdout=out, check=True)
