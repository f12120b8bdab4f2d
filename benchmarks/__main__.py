"""`make bench` or `python tests/with_engine.py python -m benchmarks [--entries N] [--rounds N] [--write]`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from benchmarks.host import df, host
from benchmarks.images import change_container, load_stack
from benchmarks.layers import verify
from benchmarks.measure import LAYERSCOPE, peak_resident_bytes, ratio, side_by_side
from benchmarks.results import RESULTS, Row, report
from tests.dockerd import Engine, find_engine

MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--entries", type=int, default=500_000, help="files and directories of the image")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each command")
    parser.add_argument("--only", choices=["main", "host"], help="one section instead of both")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    engine = find_engine()
    os.environ["DOCKER_HOST"] = engine.host
    entries, rounds = arguments.entries, arguments.rounds
    for name, title, rows in (
        ("main", "The main job", main_job(engine, entries, rounds)),
        ("host", "A whole host", whole_host(engine, entries, rounds)),
    ):
        if arguments.only in (None, name):
            command = f"make bench BENCH='--only {name} --entries {entries} --rounds {rounds}'"
            report(title, command, rows, write=arguments.write)


def main_job(engine: Engine, entries: int, rounds: int) -> Iterator[Row]:
    yield from startup(rounds)
    yield from image(engine, entries, rounds)
    yield from container(engine, entries, rounds)


def whole_host(engine: Engine, entries: int, rounds: int) -> Iterator[Row]:
    yield from host(rounds)
    yield from df(engine, entries, rounds)
    yield from verify(engine, rounds)


def startup(rounds: int) -> list[Row]:
    python, version, help_text = side_by_side(
        [[LAYERSCOPE[0], "-c", "pass"], [*LAYERSCOPE, "--version"], [*LAYERSCOPE, "--help"]], max(rounds, 15)
    )
    bare = f"`python -c pass` {python.median * 1000:.0f} ms"
    return [
        ("`layerscope --version`", f"{version.median * 1000:.0f} ms", bare, "target 150 ms"),
        ("`layerscope --help`", f"{help_text.median * 1000:.0f} ms", bare, "target 300 ms"),
    ]


def image(engine: Engine, entries: int, rounds: int) -> list[Row]:
    tag = load_stack(engine, f"layerscope-bench/stack:{entries}", entries)
    double = load_stack(engine, f"layerscope-bench/stack:{entries * 2}", entries * 2)
    find = ["find", *diff_dirs(engine, tag), "-printf", "%s %i\\n"]
    found, ours, twice = side_by_side([find, [*LAYERSCOPE, "image", tag], [*LAYERSCOPE, "image", double]], rounds)
    alone, _ = side_by_side([[*LAYERSCOPE, "image", tag, "--jobs", "1"], find], max(3, rounds // 2))
    peak = peak_resident_bytes([*LAYERSCOPE, "image", tag])
    count = f"{entries:,} entries in 12 layers"
    return [
        (
            f"`image`, {count}",
            f"{ours.median:.2f} s",
            f"`find -printf '%s %i'` {found.median:.2f} s",
            f"{ratio(ours, found):.2f} × (target 2.0)",
        ),
        ("the same with `--jobs 1`", f"{alone.median:.2f} s", "", f"{alone.median / found.median:.2f} ×"),
        (
            "`image`, twice the entries",
            f"{twice.median:.2f} s",
            f"once the entries {ours.median:.2f} s",
            f"{ratio(twice, ours):.2f} × (target 2.1)",
        ),
        (f"`image`, {count}: peak resident memory, all processes", f"{peak / MB:.0f} MB", "", "target 150 MB"),
    ]


def container(engine: Engine, entries: int, rounds: int) -> list[Row]:
    tag = load_stack(engine, f"layerscope-bench/stack:{entries}", entries)
    identifier = change_container(engine, tag)
    docker = [engine.docker_path, "diff", identifier]
    theirs, ours = side_by_side([docker, [*LAYERSCOPE, "container", identifier]], max(3, rounds // 2))
    return [
        (
            f"`container`, 100 changes on {entries:,} entries",
            f"{ours.median:.2f} s",
            f"`docker diff` {theirs.median:.2f} s",
            f"{ratio(theirs, ours):.0f} × faster (target 40)",
        )
    ]


def diff_dirs(engine: Engine, tag: str) -> list[str]:
    data = engine.inspect(tag)["GraphDriver"]["Data"]
    return [data["UpperDir"], *data["LowerDir"].split(":")]


if __name__ == "__main__":
    main()
