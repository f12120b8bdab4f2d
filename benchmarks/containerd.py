"""The containerd image store beside overlay2, for the same images: `python tests/with_engine.py python -m
benchmarks.containerd [--entries N] [--images N] [--rounds N]`.

Two engines of the same version run side by side, one with each store.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from benchmarks.images import load_stack
from benchmarks.measure import LAYERSCOPE, Timed, ratio, side_by_side
from benchmarks.results import RESULTS, Row, report
from tests.containerd_engine import CONTAINERD, GRAPHDRIVER, engine_directory, engine_in_tree
from tests.dockerd import Engine

TARGET = 1.2


def stores(entries: int, images: int, rounds: int) -> list[Row]:
    """`image` and `ls`, with the engine and without; containerd's time first."""
    with ExitStack() as stack:
        engines = [
            stack.enter_context(engine_in_tree(stack.enter_context(engine_directory()), config))
            for config in (CONTAINERD, GRAPHDRIVER)
        ]
        for engine in engines:
            load_stack(engine, "layerscope-bench/stack:1", entries)
            for number in range(images):
                load_stack(engine, f"layerscope-bench/small:{number}", 200 + number)
        found = []
        for command in (["image", "layerscope-bench/stack:1"], ["image", "layerscope-bench/small:1"], ["ls"]):
            for offline in (False, True):
                ours, theirs = side_by_side([_command(engine, command, offline) for engine in engines], rounds)
                what = f"`{' '.join(command)}`{', without the engine' if offline else ''}"
                found.append(_row(what, ours, theirs))
        return found


def _command(engine: Engine, command: list[str], offline: bool) -> list[str]:
    where = ["--data-root", str(engine.data_root)] if offline else ["--host", engine.host]
    return [*LAYERSCOPE, *command, *where]


def _row(what: str, ours: Timed, theirs: Timed) -> Row:
    return (
        what,
        f"{ours.median * 1000:.0f} ms",
        f"{theirs.median * 1000:.0f} ms",
        f"{ratio(ours, theirs):.2f} × (target {TARGET})",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.containerd", description=__doc__)
    parser.add_argument("--entries", type=int, default=50_000, help="files and directories of the large image")
    parser.add_argument("--images", type=int, default=30, help="small images of 12 layers beside it")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each command")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    entries, images, rounds = arguments.entries, arguments.images, arguments.rounds
    command = "python tests/with_engine.py python -m benchmarks.containerd"
    report(
        "The containerd image store beside overlay2",
        f"{command} --entries {entries} --images {images} --rounds {rounds}",
        stores(entries, images, rounds),
        write=arguments.write,
        columns=("what", "containerd", "overlay2", ""),
    )


if __name__ == "__main__":
    main()
