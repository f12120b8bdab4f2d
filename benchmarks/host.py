"""A large host for benchmarks, without an engine: 200 images, 3,000 layers and 300 containers on disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.images import load_stack
from benchmarks.measure import LAYERSCOPE, ratio, side_by_side
from benchmarks.results import Row
from tests.boltwriter import BoltWriter
from tests.dataroot import FakeRoot
from tests.dockerd import Engine

IMAGES: Final = 200
BASES: Final = 10
LAYERS: Final = 3_000
CONTAINERS: Final = 300
BUILDS: Final = 200
LIMITS: Final = {"ls": 1, "reuse": 1, "owner": 0.3, "orphans": 2, "check": 2}
"""Seconds that each command may take on the large host."""


def host(rounds: int) -> list[Row]:
    """The commands that look at a whole host, on the large one."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        root = make_host(Path(directory, "root"))
        some = next(path.name for path in sorted(root.glob("overlay2/*-init")))
        commands = [[*LAYERSCOPE, name, *([some] if name == "owner" else [])] for name in LIMITS]
        timed = side_by_side([[*command, "--data-root", str(root)] for command in commands], rounds)
    size = f"{IMAGES} images, {LAYERS:,} layers, {CONTAINERS} containers"
    return [
        (f"`{name}`, {size}", f"{time.median:.2f} s", "", f"target {limit} s")
        for (name, limit), time in zip(LIMITS.items(), timed, strict=True)
    ]


def df(engine: Engine, entries: int, rounds: int) -> list[Row]:
    """The disk space of an engine with a large image, read without asking it: its own `df` would count as ours."""
    load_stack(engine, f"layerscope-bench/stack:{entries}", entries)
    diffs = [str(path) for path in sorted(engine.data_root.glob("overlay2/*/diff"))]
    ours, du = side_by_side(
        [[*LAYERSCOPE, "df", "--data-root", str(engine.data_root)], ["du", "-s", *diffs]], rounds
    )
    return [
        (
            f"`df`, {entries:,} entries",
            f"{ours.median:.2f} s",
            f"`du -s` over the `diff` directories {du.median:.2f} s",
            f"{ratio(ours, du):.2f} × (target 1.5)",
        )
    ]


def make_host(path: Path) -> Path:
    """Write the data root, unless it is there; the same numbers give the same root."""
    if path.exists():
        return path
    root = FakeRoot(path)
    bases = [
        [root.layer({f"base{base}/file{layer}": "x" * layer}, buildkit=layer % 2 == 0) for layer in range(10)]
        for base in range(BASES)
    ]
    own, left = divmod(LAYERS - BASES * len(bases[0]), IMAGES)
    images = []
    for number in range(IMAGES):
        files = [{f"app{number}/file{layer}": "y" * number} for layer in range(own + (number < left))]
        layers = [root.layer(held, buildkit=number % 2 == 0) for held in files]
        images.append(root.image(f"bench/app{number}:1", [*bases[number % BASES], *layers]))
    for number in range(CONTAINERS):
        root.container(f"container{number}", images[number % IMAGES], upper={"var/log/app.log": "z" * number})
    for record in root.layerdb.glob("sha256/*"):
        shutil.copyfile(record / "size", record / "tar-split.json.gz")  # nothing here reads it
    _build_cache(root)
    return path


def _build_cache(root: FakeRoot) -> None:
    (root.path / "buildkit").mkdir()
    names = [f"{number:025d}" for number in range(BUILDS)]
    for name in names:
        root.directory(name, {"src/main.c": "main"})
    entries = {name.encode(): {b"parent": b"", b"size": b"0"} for name in names}
    records = {name.encode(): {b"cache.description": b'{"value":"RUN make"}'} for name in names}
    BoltWriter(root.path / "buildkit/snapshots.db").commit(entries)
    BoltWriter(root.path / "buildkit/metadata_v2.db").commit({b"_main": records})
