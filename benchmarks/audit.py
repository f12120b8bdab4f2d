"""The speed of `audit`: `python tests/with_engine.py python -m benchmarks.audit [--megabytes N] [--rounds N]`.

Beside kingfisher, which is installed into a virtual environment of its own, and beside itself: one image beside
many that share its base, a second run beside a bare start.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from benchmarks.audit_images import MB, chosen, copy_tree, image_on, import_image
from benchmarks.measure import LAYERSCOPE, peak_resident_bytes, ratio, side_by_side
from benchmarks.results import RESULTS, Row, report
from layerscope.model import XattrFamily
from layerscope.secrets.engine import Scanner
from layerscope.secrets.rules_file import own_rules
from layerscope.secrets.scan import LayerSource, scan_layers
from layerscope.workers import usable_cores
from tests.archives import oci_files, tar_of
from tests.dockerd import Engine, find_engine

AUDIT = [*LAYERSCOPE, "audit", "--exit-zero", "--no-progress"]
COLD = ["sh", "-c", 'rm -f "$XDG_CACHE_HOME"/layerscope/*.json; exec "$@"', "sh", *AUDIT]
"""Nothing is known of any layer. The rules are compiled, as kingfisher's are after its first run."""
PREFIX = "layerscope-bench/audit"
SHARING = 20
WARM = 10


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.audit", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="size of the image; all others in proportion")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each command")
    parser.add_argument("--only", choices=sorted(BENCHMARKS), action="append", help="leave out the others")
    parser.add_argument("--kingfisher-venv", type=Path, default=Path("/var/tmp/layerscope-bench-kingfisher"))
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="layerscope-bench-") as place:
        os.environ["XDG_CACHE_HOME"] = place
        os.environ["LAYERSCOPE_BENCH_KINGFISHER"] = str(arguments.kingfisher_venv)
        size, rounds = arguments.megabytes * MB, arguments.rounds
        rows = chain.from_iterable(BENCHMARKS[name](size, rounds) for name in arguments.only or BENCHMARKS)
        command = "python tests/with_engine.py python -m benchmarks.audit"
        report(
            "audit", f"{command} --megabytes {arguments.megabytes} --rounds {rounds}", rows, write=arguments.write
        )


@contextmanager
def engine_for_images() -> Iterator[Engine]:
    engine = find_engine()
    os.environ["DOCKER_HOST"] = engine.host
    try:
        yield engine
    finally:
        engine.clean_up()


def throughput(size_bytes: int, rounds: int) -> Iterator[Row]:
    """One core, confirmation included; the best round, in the time of the processor: others use it, too."""
    scanner = Scanner(own_rules())
    for kind, target in (("mixed OS files", 150), ("text", 60)):
        with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
            total = copy_tree(chosen(size_bytes // 2, text=kind == "text"), Path(place))
            source = LayerSource(place, XattrFamily.TRUSTED)
            best = min(_processor_seconds(scanner, source) for _ in range(rounds))
            (cat,) = side_by_side([["sh", "-c", f"find {place} -type f -exec cat {{}} + > /dev/null"]], rounds)
        speed, read = total / best / MB, total / cat.median / MB
        yield (
            f"engine, one core, {total // MB} MB of {kind}, archives looked into",
            f"{speed:.0f} MB/s",
            f"`cat` {read:.0f} MB/s",
            f"target {target} MB/s",
        )


def _processor_seconds(scanner: Scanner, source: LayerSource) -> float:
    started = time.process_time()
    for _ in scan_layers([source], scanner, jobs=1):
        pass
    return time.process_time() - started


def kingfisher(size_bytes: int, rounds: int) -> Iterator[Row]:
    program = _kingfisher()
    with engine_for_images() as engine, tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        tag = import_image(engine, f"{PREFIX}:cold", chosen(size_bytes))
        archive = f"{place}/image.tar"
        save = f"{engine.docker_path} save --output {archive} {tag}"
        scan = _scan_by(program, archive)
        theirs, saved, ours = side_by_side(
            [["sh", "-c", f"{save} && {scan}"], ["sh", "-c", save], [*COLD, tag]], rounds
        )
    yield (
        f"`audit`, an image of {size_bytes // MB} MB, cold, {usable_cores()} cores",
        f"{ours.median:.2f} s",
        f"`docker save`, `kingfisher scan docker` {theirs.median:.2f} s (saving alone {saved.median:.2f} s)",
        f"{ratio(ours, theirs):.3f} × (target 0.2)",
    )


def archive(size_bytes: int, rounds: int) -> Iterator[Row]:
    """Of an image of one layer: what `docker save` writes, and the same as an engine with containerd writes it."""
    program = _kingfisher()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        with engine_for_images() as engine:
            tag = import_image(engine, f"{PREFIX}:saved", chosen(size_bytes))
            saved = f"{place}/image.tar"
            engine.docker("save", "--output", saved, tag)
        packed = f"{place}/packed.tar"
        with tarfile.open(saved) as tar:
            (layer,) = (tar.extractfile(member) for member in tar if member.name.endswith("layer.tar"))
            assert layer is not None
            Path(packed).write_bytes(tar_of(oci_files({tag: [layer.read()]}, pack_layer)))
        for name, form in ((saved, "plain layers"), (packed, "gzip layers")):
            theirs, ours = side_by_side([["sh", "-c", _scan_by(program, name)], [*COLD, name]], rounds)
            peak = peak_resident_bytes([*COLD, name])
            yield (
                f"`audit`, an archive of {size_bytes // MB} MB, {form}, cold, {usable_cores()} cores",
                f"{ours.median:.2f} s, {peak / MB:.0f} MB resident",
                f"`kingfisher scan docker` {theirs.median:.2f} s",
                f"{ratio(ours, theirs):.3f} × (target 8 s, 300 MB)",
            )


def pack_layer(tar: bytes) -> bytes:
    """As fast as it goes: unpacking takes as long whatever the level."""
    return gzip.compress(tar, 1)


def _scan_by(program: Path, archive: str) -> str:
    """A shell command that scans an archive.

    200 and 205 say that it found something. It is to validate nothing: that would ask the secrets' providers.
    """
    return (
        f"{program} scan docker --no-validate --no-limits --no-update-check --redact --archive {archive}"
        f" --format json --output {archive}.found.json || [ $? -ge 200 ]"
    )


def warm(size_bytes: int, rounds: int) -> Iterator[Row]:
    """Ten images, twice the size in all."""
    each = size_bytes * 2 // WARM
    with engine_for_images() as engine:
        tags = [
            import_image(engine, f"{PREFIX}:warm{number}", chosen(each, each * number)) for number in range(WARM)
        ]
        again, bare = side_by_side([[*AUDIT, *tags], [*LAYERSCOPE, "--version"]], rounds)
    yield (
        f"`audit` again, {WARM} images of {each * WARM // MB} MB in all",
        f"{again.median:.2f} s",
        f"`layerscope --version` {bare.median:.2f} s",
        f"{again.median - bare.median:.2f} s more (target 0.5)",
    )


def sharing(size_bytes: int, rounds: int) -> Iterator[Row]:
    part = size_bytes // 50
    with engine_for_images() as engine:
        base = import_image(engine, f"{PREFIX}:base", chosen(size_bytes))
        parts = [chosen(part, part * number) for number in range(SHARING)]
        tags = [image_on(engine, base, f"{PREFIX}:shared{number}", [files]) for number, files in enumerate(parts)]
        one = image_on(engine, base, f"{PREFIX}:one", parts)
        many, single = side_by_side([[*COLD, *tags], [*COLD, one]], rounds)
    yield (
        f"`audit`, {SHARING} images that share {size_bytes // MB} MB, {part // MB} MB of their own each",
        f"{many.median:.2f} s",
        f"one image with the same bytes {single.median:.2f} s",
        f"{ratio(many, single):.2f} × (target 1.2)",
    )


def memory(size_bytes: int, _rounds: int) -> Iterator[Row]:
    """One process: a large file, and large archives of all that is chosen, in each other."""
    with engine_for_images() as engine, tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        tree = Path(place, "tree")
        copy_tree(chosen(size_bytes // 3), tree)
        for command in (
            ["tar", "--create", "--file=all.tar", "tree"],
            ["tar", "--create", "--file=all.tar.xz", "--use-compress-program=xz -0 -T1", "tree"],
            [sys.executable, "-m", "zipfile", "-c", "all.zip", "tree"],
            ["tar", "--create", "--gzip", "--file=nested.tgz", "all.tar.xz", "all.zip"],
        ):
            subprocess.run(command, cwd=place, check=True)
        tag = import_image(
            engine, f"{PREFIX}:memory", sorted(path for path in Path(place).iterdir() if path.is_file())
        )
        peak = peak_resident_bytes([*COLD, "--jobs", "1", tag])
    yield (
        f"`audit --jobs 1`, tar, tar.xz and zip of {size_bytes // 3 // MB} MB, and two of these in a tgz",
        f"{peak / MB:.0f} MB resident",
        "",
        "target 250 MB",
    )


def _kingfisher() -> Path:
    """The program, in a virtual environment of its own."""
    place = Path(os.environ["LAYERSCOPE_BENCH_KINGFISHER"])
    program = place / "bin/kingfisher"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(place / "bin/pip"), "install", "--quiet", "kingfisher-bin"], check=True)
    return program


BENCHMARKS = {
    "throughput": throughput,
    "kingfisher": kingfisher,
    "archive": archive,
    "warm": warm,
    "sharing": sharing,
    "memory": memory,
}


if __name__ == "__main__":
    main()
