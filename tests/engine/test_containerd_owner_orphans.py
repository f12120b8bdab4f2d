"""owner and orphans of the containerd image store on a real engine: at rest, at work, killed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from layerscope.analysis.containerd_orphans import find_containerd_orphans
from layerscope.analysis.containerd_owner import find_containerd_owner
from layerscope.analysis.orphans import Survey
from layerscope.analysis.owner import Owner
from layerscope.analysis.purpose import ORPHANS, Purpose
from layerscope.errors import AmbiguousTargetError, TargetNotFoundError
from layerscope.model import Cautions, Role
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.disk import disks
from layerscope.stores.images import chain_ids
from layerscope.stores.open import open_store
from tests.cli import Cli
from tests.containerd_engine import engine_directory, engine_in_tree
from tests.dockerd import BASE, Engine
from tests.engine.test_containerd import containerd_root, ctr, merged
from tests.engine.test_owner_orphans import (
    DOCKERFILE,
    inspected,
    many_files,
    pull_and_remove,
    pulled_layers,
    until,
    work,
    working,
)
from tests.registry import registry

SECONDS = 6
MIN_AGE_SECONDS = 5
BLOBS = "io.containerd.content.v1.content/blobs/sha256"
SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"


def disk(engine: Engine) -> ContainerdStore:
    (found,) = disks(open_store(str(engine.data_root), None, None, Cautions()))
    assert isinstance(found, ContainerdStore)
    return found


def survey(engine: Engine, min_age: float = 0) -> Survey:
    return find_containerd_orphans(disk(engine), min_age, Cautions())


def owner(engine: Engine, word: str) -> Owner:
    (found,) = find_containerd_owner(disk(engine), word, 0, Cautions()).owners
    return found


def snapshots(engine: Engine) -> Path:
    return containerd_root(engine) / SNAPSHOTS


# -- an engine at rest ---------------------------------------------------------------------------------------


def test_owner_of_every_layer_is_what_the_engine_says(containerd: Engine) -> None:
    """Docker is the oracle: RootFS of every image, and the image of every container."""
    containerd.build("layerscope-test/owned:1", DOCKERFILE.format(salt="owned"), buildkit=True)
    containerd.build("layerscope-test/owned:2", DOCKERFILE.format(salt="owned too"), buildkit=False)
    container = containerd.create("layerscope-test/owned:1")
    images = inspected(containerd, "images")
    named: dict[str, set[str]] = {}
    steps = {one["Id"] for one in images if not one["RepoTags"]}
    for one in images:
        for chain_id in chain_ids(one["RootFS"]["Layers"]):
            named.setdefault(chain_id, set()).update({one["Id"]} - steps)
    own = containerd.inspect(container)
    layers = next(one["RootFS"]["Layers"] for one in images if one["Id"] == own["Image"])
    for chain_id, holders in named.items():
        told = owner(containerd, chain_id)
        assert {use.image.id for use in told.images} == holders
        lower = chain_id in chain_ids(layers)
        assert ((container, Role.LOWER) in {(use.id, use.role) for use in told.containers}) is lower
        assert Path(told.path).parent == snapshots(containerd)
    for key, role in ((container, Role.UPPER), (f"{container}-init", Role.INIT)):
        assert [(use.id, use.role) for use in owner(containerd, key).containers] == [(container, role)]
    containerd.remove(container)


def test_running_container_is_found_by_process_and_mount(containerd: Engine, cli: Cli) -> None:
    container = containerd.create(BASE)
    containerd.docker("start", container)
    process = str(containerd.inspect(container)["State"]["Pid"])
    rootfs = str(containerd.data_root / "rootfs/overlayfs" / container)
    lines = (Path("/proc") / process / "mountinfo").read_text().splitlines()
    words = [f"/proc/{process}/root", f"/proc/{process}/root/etc/passwd", f"{rootfs}/etc/passwd", container[:12]]
    words += [line for line in lines if "upperdir=" in line]
    for word in words:
        told = cli.ok("owner", word, "--json", DOCKER_HOST=containerd.host).json
        (found,) = told["directories"]
        assert (told["driver"], found["class"]) == ("overlayfs", "container-upper"), word
        assert [(use["id"], use["role"]) for use in found["containers"]] == [(container, "upper")]
        assert found["commands"] == [f"docker stop {found['containers'][0]['name']}",
                                     f"docker rm {found['containers'][0]['name']}"]  # fmt: skip
    assert merged(containerd, container).exists()
    containerd.remove(container)


def test_what_is_planted_is_found_named_and_freed_as_told(containerd: Engine, cli: Cli) -> None:
    """Each class of what is left over, and that what is told to free it does."""
    root, blob = containerd_root(containerd), os.urandom(5000)
    lost = containerd.run(BASE, "echo lost > /lost")
    number, init = owner(containerd, lost).name, owner(containerd, f"{lost}-init").name
    before = {item.path for item in survey(containerd).orphans}
    stray = root / BLOBS / hashlib.sha256(blob).hexdigest()
    aside = containerd.data_root.parent / "aside"
    shutil.move(containerd.data_root / "containers" / lost, aside)
    with without_collection(containerd) as garbage:
        for name in ("99999", "new-99999"):
            (root / SNAPSHOTS / name / "fs").mkdir(parents=True)
            (root / SNAPSHOTS / name / "fs/file").write_bytes(b"x" * 10_000)
        stray.write_bytes(blob)
        expected = {
            "99999": "unreferenced",
            "new-99999": "unfinished",
            stray.name: "unreferenced",
            garbage: "garbage",
            number: "leaked-upper",
            init: "leaked-init",
        }
        place = ("--json", "--fail", "--data-root", str(containerd.data_root))
        told = cli("orphans", *place, "--min-age", "0")
        assert told.code == 1
        found = {
            os.path.basename(entry["path"]): entry
            for entry in told.json["entries"]
            if entry["orphan"] and entry["path"] not in before
        }
        assert {name: entry["class"] for name, entry in found.items()} == expected
        for entry in found.values():
            du = subprocess.run(["du", "-s", "-B1", entry["path"]], capture_output=True, text=True, check=True)
            assert entry["allocated_bytes"] == int(du.stdout.split()[0])
            assert owner(containerd, entry["path"]).purpose == entry["class"]
        young = cli("orphans", *place)
        assert (young.code, young.json["orphans"]) == (0, len(before))
    (command,) = owner(containerd, lost).extra_commands
    program, *arguments = shlex.split(command)
    assert (program, arguments[:2]) == ("ctr", ["-n", "moby"])
    ctr(containerd, "moby", *arguments[2:])
    containerd.remove(containerd.run(BASE, "true"))  # removing a container collects snapshots
    assert {item.purpose for item in survey(containerd).orphans if item.path not in before} == {
        Purpose.UNREFERENCED
    }
    assert not expected.keys() & {path.name for path in snapshots(containerd).iterdir()}
    containerd.build("layerscope-test/gone:1", DOCKERFILE.format(salt="gone"))
    containerd.docker("rmi", "layerscope-test/gone:1")  # removing an image collects blobs
    containerd.images.remove("layerscope-test/gone:1")
    assert {item.path for item in survey(containerd).orphans} <= before
    shutil.move(aside, containerd.data_root / "containers" / lost)  # for the engine still knows the container
    containerd.remove(lost)


@contextlib.contextmanager
def without_collection(engine: Engine) -> Iterator[str]:
    """The directory of a snapshot that nothing keeps, while containerd is stopped and can't collect it."""
    pid = int((engine.data_root.parent / "exec/containerd/containerd.pid").read_text())
    for _ in range(5):
        with contextlib.suppress(AssertionError):  # it is there already
            ctr(engine, "moby", "snapshots", "prepare", "nobody")
        ctr(engine, "moby", "snapshots", "label", "nobody", "containerd.io/gc.root=")
        os.kill(pid, signal.SIGSTOP)
        try:
            found = next((item for item in survey(engine).orphans if item.purpose is Purpose.GARBAGE), None)
            if found is not None:
                yield str(found.cache_id)
                return
        finally:
            os.kill(pid, signal.SIGCONT)
    raise AssertionError("it was collected each time")


# -- an engine at work ---------------------------------------------------------------------------------------


def test_working_engine_has_no_orphan_and_no_wrong_owner(containerd: Engine) -> None:
    container = containerd.create(BASE)
    own = {owner(containerd, container).name: Role.UPPER, owner(containerd, f"{container}-init").name: Role.INIT}
    base = owner(containerd, containerd.inspect(BASE)["RootFS"]["Layers"][0]).name
    own[base] = Role.LOWER
    before = {item.path for item in survey(containerd).orphans}
    surveys = asked = 0
    wrong: list[object] = []
    with working(containerd, work):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = survey(containerd, MIN_AGE_SECONDS)
            wrong += [item for item in found.orphans if item.path not in before]
            assert found.unreadable == ()
            surveys += 1
            names = [item.cache_id for item in found.items if item.cache_id is not None]
            for name in random.sample(names, min(4, len(names))):
                with contextlib.suppress(TargetNotFoundError, AmbiguousTargetError):  # removed, or a process, too
                    told = owner(containerd, f"snapshots/{name}")
                    roles = {use.role for use in told.containers if use.id == container}
                    assert roles == ({own[name]} if name in own else set())
                    asked += 1
    print(f"{surveys} surveys, {asked} owners")
    assert wrong == []
    assert surveys > 5 and asked > 5
    containerd.remove(container)


# -- an engine that is killed --------------------------------------------------------------------------------


def kill(base: Path) -> None:
    """The engine and its containerd, as when the machine loses power."""
    for path in (base / "pid", base / "exec/containerd/containerd.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(path.read_text()), signal.SIGKILL)
            path.unlink()


@contextlib.contextmanager
def no_shims_left(base: Path) -> Iterator[None]:
    """Ends what ran a container when its engine was killed: no later engine knows all of them."""
    try:
        yield
    finally:
        socket = str(base / "exec/containerd/containerd.sock").encode()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_bytes().split(b"\0")
                if socket in words and words[0].endswith(b"containerd-shim-runc-v2"):
                    os.kill(int(place.name), signal.SIGKILL)


@contextlib.contextmanager
def dying(base: Path, engine: Engine, job: Callable[[], object]) -> Iterator[None]:
    """Run a job, in which the engine is killed when the block ends."""

    def run() -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            job()

    victim = threading.Thread(target=run)
    victim.start()
    try:
        yield
    finally:
        kill(base)
        victim.join()


def kill_at_build(base: Path, engine: Engine) -> None:
    with dying(base, engine, lambda: [work(engine, number) for number in range(100)]):
        time.sleep(random.uniform(0.5, 1.5))


def kill_at_import(base: Path, engine: Engine) -> None:
    archive, blobs = many_files(), containerd_root(engine) / BLOBS
    before = set(os.listdir(blobs))
    with dying(base, engine, lambda: engine.docker("import", "-", "many:1", stdin=archive)):
        until(lambda: set(os.listdir(blobs)) - before)


def kill_at_pull(base: Path, engine: Engine) -> None:
    """The last layer is on its way."""
    with registry() as served:
        name = served.add("pulled/app", pulled_layers())
        served.released.clear()
        with dying(base, engine, lambda: engine.docker("pull", name)):
            until(served.waiting.is_set)
            assert served.waiting.is_set(), "it was killed too early"
            served.released.set()


def kill_at_removal(base: Path, engine: Engine) -> None:
    container = engine.run("kept:1", "mkdir /d; for i in $(seq 3000); do echo > /d/$i; done")
    upper = snapshots(engine) / owner(engine, container).name / "fs/d"
    with dying(base, engine, lambda: engine.docker("rm", container)):
        until(lambda: not upper.exists() or len(os.listdir(upper)) < 3000)


def test_engine_that_is_killed_at_work_leaves_only_true_orphans(containerd: Engine) -> None:
    """What is called an orphan, killed or restarted, is of nothing that the engine has, and everything works."""
    with engine_directory() as base, no_shims_left(base):
        with engine_in_tree(base) as engine:
            engine.import_base()
            engine.build("kept:1", DOCKERFILE.format(salt="kept"))
            engine.build("cached:1", "FROM kept:1\nRUN echo cached > /cached\n", buildkit=True)
            container = engine.create("kept:1")
            used = used_by(engine, container)
            kill_at_build(base, engine)
        for kill_it in (kill_at_import, kill_at_pull, kill_at_removal, None):
            offline = survey(engine)  # as the power cut left it
            assert_only_true(engine, offline, used, container)
            check_and_df(engine)
            with engine_in_tree(base) as engine:
                assert_only_true(engine, survey(engine), used, container)
                if kill_it is kill_at_removal:  # after the pull
                    assert Purpose.DOWNLOAD in {item.purpose for item in survey(engine).items}
                    pull_and_remove(engine)
                if kill_it is not None:
                    kill_it(base, engine)
                    continue
                for image in engine.docker("images", "--all", "--quiet", "--no-trunc").split():
                    engine.docker("run", "--rm", "--network=none", image, "cat", "/etc/os-release")
                engine.docker("start", container)
                engine.docker("kill", container)
                engine.build("again:1", "FROM cached:1\nRUN echo again > /again\n", buildkit=True)
                print([(item.purpose.value, item.path) for item in survey(engine).orphans])


def used_by(engine: Engine, container: str) -> set[str]:
    names = {owner(engine, key).name for key in (container, f"{container}-init")}
    layers = engine.inspect("kept:1")["RootFS"]["Layers"]
    return names | {owner(engine, chain_id).name for chain_id in chain_ids(layers)}


def assert_only_true(engine: Engine, found: Survey, used: set[str], container: str) -> None:
    assert found.unreadable == ()
    assert {item.cache_id for item in found.items} >= {path.name for path in snapshots(engine).glob("[0-9]*")}
    assert all(item.evidence or item.signs for item in found.items)
    assert not used & {item.cache_id for item in found.orphans}
    print([item.purpose.value for item in found.orphans])
    for name in used:
        assert container in {use.id for use in owner(engine, f"snapshots/{name}").containers}
    assert {item.purpose for item in found.orphans} <= ORPHANS


def check_and_df(engine: Engine) -> None:
    """Both finish, whatever was left; what is wrong is told, and the sums are those of du(1)."""
    cli = Cli(engine.data_root.parent, {})
    place = ("--data-root", str(engine.data_root), "--json")
    problems = cli("check", *place)
    assert problems.code == bool(problems.json["counts"]["error"]), problems.err
    print([(one["code"], one["evidence"]) for one in problems.json["problems"]])
    told = subprocess.run(
        ["du", "-s", "-B1", "-x", str(engine.data_root)], capture_output=True, text=True, check=True
    )
    assert cli.ok("df", *place).json["total_bytes"] == int(told.stdout.split()[0])
