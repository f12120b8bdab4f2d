"""References on a real engine: no directory in use is without one, whatever the engine does meanwhile."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from layerscope.analysis.references import References, Verdict, find_references
from layerscope.model import CacheId
from layerscope.stores.records import DataRoot
from tests.dockerd import BASE, Engine

SECONDS = 12
OLD_SECONDS = 3
DOCKERFILE = """FROM BASE
RUN echo {salt} > /salt
RUN --mount=type=cache,target=/c echo {salt} > /c/{salt}; echo more > /more
"""
CLASSIC = """FROM BASE
RUN echo {salt} > /salt
RUN rm /etc/passwd
"""


def find(engine: Engine) -> References:
    return find_references(DataRoot(str(engine.data_root)))


def names(engine: Engine) -> set[CacheId]:
    found = {path.name for path in (engine.data_root / "overlay2").iterdir()}
    return {CacheId(name) for name in found if len(name) >= 25}


def witnesses(references: References, cache_id: str) -> set[str]:
    return {item.witness.value for item in references.of(CacheId(cache_id))}


@pytest.fixture
def running(engine: Engine) -> str:
    identifier = engine.create(BASE, command=["sleep", "600"])
    engine.docker("start", identifier)
    return identifier


def test_every_directory_of_a_resting_engine_is_referenced(engine: Engine, specimen: str, running: str) -> None:
    stopped = engine.run(specimen, "echo > /x")
    references = find(engine)
    assert references.unreadable == ()
    assert {name for name in names(engine) if references.verdict(name) is not Verdict.REFERENCED} == set()
    assert set(references.evidence) == names(engine), "a reference to a directory that is not there"
    for identifier, mounted in ((running, {"mount"}), (stopped, set())):
        data = engine.inspect(identifier)["GraphDriver"]["Data"]
        upper, init = (Path(data["UpperDir"]).parent.name, Path(data["LowerDir"].split(":")[0]).parent.name)
        assert init.endswith("-init")
        assert witnesses(references, upper) == {"upper", "container"} | mounted
        assert witnesses(references, init) == {"init", "container"} | mounted
    for path in engine.inspect(specimen)["GraphDriver"]["Data"]["LowerDir"].split(":"):
        assert "layer" in witnesses(references, Path(path).parent.name)
    engine.remove(stopped)


def test_what_nothing_refers_to_is_found(engine: Engine, specimen: str) -> None:
    """A planted directory, a leaked upper and init layer, and one that only a mount in another namespace holds."""
    container = engine.create(specimen)
    planted = engine.data_root / "overlay2" / ("e" * 64)
    (planted / "diff").mkdir(parents=True)
    mount = engine.data_root / "image/overlay2/layerdb/mounts" / container
    aside = (
        mount.with_name("aside").rename(engine.data_root / "aside") if mount.with_name("aside").exists() else None
    )
    assert aside is None
    kept = shutil.move(mount, engine.data_root / "kept-mount")
    try:
        references = find(engine)
        data = engine.inspect(container)["GraphDriver"]["Data"]
        leaked = {Path(data["UpperDir"]).parent.name, Path(data["LowerDir"].split(":")[0]).parent.name}
        found = {name for name in names(engine) if references.verdict(name) is Verdict.UNREFERENCED}
        assert found == {planted.name, *leaked}
    finally:
        shutil.move(kept, mount)
        shutil.rmtree(planted)
        engine.remove(container)


@pytest.mark.kernel
def test_mount_that_was_left_in_another_namespace_is_found(engine: Engine, tmp_path: Path) -> None:
    planted = engine.data_root / "overlay2" / ("f" * 64)
    for name in ("diff", "lower", "work"):
        (planted / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "m").mkdir()
    options = f"lowerdir={planted}/lower,upperdir={planted}/diff,workdir={planted}/work"
    script = f"mount --make-rprivate / && mount -t overlay x -o {options} {tmp_path}/m && echo ready && read _"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "ready\n"
        assert not os.path.ismount(tmp_path / "m")
        assert witnesses(find(engine), planted.name) == {"mount"}
        holder.stdin.close()
        holder.wait()
    assert find(engine).verdict(CacheId(planted.name)) is Verdict.UNREFERENCED
    shutil.rmtree(planted)


def age(engine: Engine, name: str) -> float:
    try:
        return time.time() - (engine.data_root / "overlay2" / name / "diff").stat().st_ctime
    except FileNotFoundError:
        return 0


def work(engine: Engine, number: int) -> None:
    """Build with both builders, run, commit, remove and prune."""
    kept, tag = f"layerscope-test/work:{number % 4}", f"layerscope-test/work:b{number}"
    engine.build(kept, DOCKERFILE.format(salt=number), buildkit=True)
    engine.build(tag, CLASSIC.format(salt=number))
    container = engine.run(tag, "echo > /x")
    engine.docker("commit", container, f"{tag}-c")
    engine.remove(container)
    engine.docker("rmi", f"{tag}-c", tag)
    engine.images.remove(tag)
    if number % 3 == 2:
        engine.docker("builder", "prune", "--force", "--filter=until=2s")


def test_no_directory_in_use_is_unreferenced_while_the_engine_works(engine: Engine, running: str) -> None:
    """One that is neither young nor gone must have a reference at every moment."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def until_stopped() -> None:
        number = 0
        try:
            while not stop.is_set():
                work(engine, number)
                number += 1
        except BaseException as error:
            failed.append(error)

    worker = threading.Thread(target=until_stopped)
    worker.start()
    reads, took = 0, []
    suspects: dict[CacheId, float] = {}
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            before = names(engine)
            began = time.perf_counter()
            references = find(engine)
            took.append(time.perf_counter() - began)
            assert references.unreadable == (), references.unreadable
            reads += 1
            for name in before:
                if references.verdict(name) is Verdict.UNREFERENCED:
                    suspects[name] = max(suspects.get(name, 0), age(engine, name))
    finally:
        stop.set()
        worker.join()
    assert not failed, failed
    print(f"{reads} reads, {len(suspects)} directories young or gone, {max(took) * 1000:.0f} ms at most")
    references = find(engine)
    assert {name for name in names(engine) if suspects.get(name, 0) > OLD_SECONDS} == set(), "had one all the time"
    assert {name for name in names(engine) if references.verdict(name) is not Verdict.REFERENCED} == set()
