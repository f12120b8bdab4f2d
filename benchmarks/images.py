"""Large images for benchmarks, made by the engine out of generated archives. Same numbers, same images."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
import tempfile
from pathlib import Path

from tests.dockerd import APPLETS, Engine, add

FILES_IN_A_DIRECTORY = 13
CHANGED_PART = 0.04
"""Of the files of a layer above the base, so many are changed ones of the layer below, a quarter of it deleted."""


def load_stack(engine: Engine, tag: str, entries: int, layers: int = 12) -> str:
    """An image of ``layers`` layers with ``entries`` files and directories in all; the base has half of them."""
    if engine.docker("images", "--quiet", tag):
        return tag
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        archive = Path(directory, "image.tar")
        _write_archive(archive, Path(directory), tag, entries, layers)
        with archive.open("rb") as stream:
            engine.docker_stream("load", stream)
    engine.images.append(tag)
    return tag


def _write_archive(archive: Path, directory: Path, tag: str, entries: int, layers: int) -> None:
    dice = random.Random(entries)
    names = []
    below: list[str] = []
    for index in range(layers):
        share = entries // 2 if index == 0 else entries // 2 // (layers - 1)
        path = directory / f"layer{index}.tar"
        below = _write_layer(path, index, share, below, dice)
        names.append(path.name)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(directory / name)}" for name in names]},
        "history": [{"created_by": f"RUN step {index}"} for index in range(layers)],
    }
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": names}]
    with tarfile.open(archive, "w") as tar:
        add(tar, "config.json", json.dumps(config).encode())
        add(tar, "manifest.json", json.dumps(manifest).encode())
        for name in names:
            tar.add(directory / name, arcname=name)
            (directory / name).unlink()


def _write_layer(path: Path, index: int, entries: int, below: list[str], dice: random.Random) -> list[str]:
    """One layer tar; gives the paths of its own files, some of which the next layer changes."""
    files: list[str] = []
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        if index == 0:
            _add_busybox(tar)
        made = number = 0
        while made < entries:
            place = f"usr/lib/part{number % 97}/layer{index}/module{number}"
            add(tar, place, kind=tarfile.DIRTYPE, mode=0o755)
            made += 1
            for file in range(FILES_IN_A_DIRECTORY):
                name = f"{place}/file{file}.py"
                add(tar, name, bytes(dice.randrange(600)))
                files.append(name)
                made += 1
            number += 1
        for name in dice.sample(below, min(len(below), int(entries * CHANGED_PART))):
            if dice.random() < 0.25:
                parent, _, base = name.rpartition("/")
                add(tar, f"{parent}/.wh.{base}")
            else:
                add(tar, name, bytes(dice.randrange(600)), mtime=1_700_000_000 + index)
    return files


def _add_busybox(tar: tarfile.TarFile) -> None:
    import os

    add(tar, "bin", kind=tarfile.DIRTYPE, mode=0o755)
    add(tar, "bin/busybox", Path(os.environ["LAYERSCOPE_TEST_BUSYBOX"]).read_bytes(), mode=0o755)
    for applet in APPLETS.split():
        add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def change_container(engine: Engine, image: str) -> str:
    """A container of an image of ``load_stack`` with about 100 changes: 40 new, 40 changed, 20 deleted files."""
    script = "cd /usr/lib; n=0; for p in $(ls); do n=$((n+1)); m=$(ls -d $p/layer0/* | head -1);" + (
        " if [ $n -le 40 ]; then echo new > $m/new; echo more >> $m/file1.py; fi;"
        " if [ $n -le 20 ]; then rm $m/file2.py; fi; done"
    )
    return engine.run(image, script)
