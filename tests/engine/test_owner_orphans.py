"""owner and orphans on a real engine: what is planted is found and named, and a working engine has no orphan."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from layerscope.analysis.orphans import Survey, find_orphans
from layerscope.analysis.owner import Owner, find_owner
from layerscope.analysis.purpose import ORPHANS, Purpose
from layerscope.errors import TargetNotFoundError
from layerscope.model import Cautions, OverlayOptions, Role
from layerscope.stores.overlay2 import Overlay2Store
from layerscope.stores.records import DataRoot
from tests.cli import Cli
from tests.dockerd import BASE, Engine, add
from tests.registry import registry
from tests.with_engine import _answers, _remove, _stop, program

SECONDS = 15
MIN_AGE_SECONDS = 5
PLANTED, HALF = "e" * 64, "f" * 64
LINK = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DOCKERFILE = "FROM BASE\nRUN echo {salt} > /salt\nRUN rm /etc/passwd; dd if=/dev/zero of=/big bs=64k count=40\n"


def disk(engine: Engine) -> Overlay2Store:
    return Overlay2Store(DataRoot(str(engine.data_root)), OverlayOptions(), Cautions())


def survey(engine: Engine, min_age: float = 0) -> Survey:
    return find_orphans(disk(engine), min_age, Cautions())


def owner(engine: Engine, word: str) -> Owner:
    (found,) = find_owner(disk(engine), word, 0, Cautions()).owners
    return found


def data(engine: Engine, name: str) -> Any:
    return engine.inspect(name)["GraphDriver"]["Data"]


def directory(path: str) -> str:
    """``ID`` of ``…/overlay2/ID/diff``."""
    return Path(path).parent.name


def own(engine: Engine, container: str) -> tuple[str, str, list[str]]:
    """A container's upper, init and lower directories, as the engine names them."""
    found = data(engine, container)
    init, *lower = found["LowerDir"].split(":")
    return directory(found["UpperDir"]), directory(init), [directory(path) for path in lower]


# -- an engine at rest ---------------------------------------------------------------------------------------


def test_owner_of_every_directory_is_what_the_engine_says(engine: Engine, classic: str, buildkit: str) -> None:
    """Docker is the oracle: GraphDriver.Data of every image and container, and nothing beside."""
    container = engine.create(buildkit)
    named: dict[str, set[str]] = {}
    roles: dict[str, set[tuple[str, str]]] = {}
    images = inspected(engine, "images")
    parents = {image["Parent"] for image in images}
    steps = {image["Id"] for image in images if image["Id"] in parents and not image["RepoTags"]}
    for image in images:
        paths = image["GraphDriver"]["Data"]
        for path in [paths["UpperDir"], *filter(None, paths.get("LowerDir", "").split(":"))]:
            named.setdefault(directory(path), set()).update({image["Id"]} - steps)
    for one in inspected(engine, "ps"):
        paths = one["GraphDriver"]["Data"]
        init, *lower = (directory(path) for path in paths["LowerDir"].split(":"))
        roles.setdefault(directory(paths["UpperDir"]), set()).add((one["Id"], "upper"))
        roles.setdefault(init, set()).add((one["Id"], "init"))
        for name in lower:
            roles.setdefault(name, set()).add((one["Id"], "lower"))
    for name in named.keys() | roles.keys():
        told = owner(engine, name)
        assert {use.image.id for use in told.images} == named.get(name, set())
        assert {(use.id, use.role.value) for use in told.containers} == roles.get(name, set())
    engine.remove(container)


def inspected(engine: Engine, kind: str) -> Any:
    """All images, or all containers (``ps``), in one answer of the engine."""
    return json.loads(engine.docker("inspect", *engine.docker(kind, "--all", "--quiet", "--no-trunc").split()))


def test_running_container_is_found_by_process_and_mount(engine: Engine, cli: Cli) -> None:
    container = engine.create(BASE, command=["sleep", "600"])
    engine.docker("start", container)
    process = str(engine.inspect(container)["State"]["Pid"])
    upper, _init, _lower = own(engine, container)
    merged = data(engine, container)["MergedDir"]
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    words = [process, f"/proc/{process}/root", f"/proc/{process}/root/etc/passwd", f"{merged}/etc/passwd"]
    words += [line for line in lines if upper in line]
    for word in words:
        told = cli.ok("owner", word, "--json", DOCKER_HOST=engine.host).json
        (found,) = told["directories"]
        assert (found["path"], found["class"]) == (str(Path(merged).parent), "container-upper"), word
        assert [(use["id"], use["role"]) for use in found["containers"]] == [(container, "upper")]
    engine.remove(container)


def test_what_is_planted_is_found_and_named(engine: Engine, cli: Cli, specimen: str) -> None:
    """A directory, a leaked upper and init layer, a ``-removing`` entry, a dangling link: those and no other."""
    overlay2, layerdb = engine.data_root / "overlay2", engine.data_root / "image/overlay2/layerdb"
    container, kept = engine.create(specimen), engine.create(specimen)
    upper, init, _lower = own(engine, container)
    removing = layerdb / "sha256" / f"{'1' * 64}-77-removing"
    before = {item.path for item in survey(engine).items if item.purpose in ORPHANS}
    with tempfile.TemporaryDirectory(dir=engine.data_root) as aside:
        places = (layerdb / "mounts" / container, engine.data_root / "containers" / container)
        for number, place in enumerate(places):
            shutil.move(place, f"{aside}/{number}")
        for name in (PLANTED, HALF):
            (overlay2 / name / "diff").mkdir(parents=True)
            (overlay2 / name / "diff/file").write_text("x" * 10_000)
        removing.mkdir()
        (removing / "cache-id").write_text(HALF)
        (overlay2 / "l" / LINK).symlink_to("../gone/diff")
        try:
            expected = {
                upper: "leaked-upper",
                init: "leaked-init",
                PLANTED: "unreferenced",
                HALF: "half-removed",
                LINK: "dangling-link",
            }
            told = cli("orphans", "--json", "--fail", "--min-age", "0", DOCKER_HOST=engine.host)
            assert told.code == 1
            found = {
                os.path.basename(entry["path"]): entry
                for entry in told.json["entries"]
                if entry["orphan"] and entry["path"] not in before
            }
            assert {name: entry["class"] for name, entry in found.items()} == expected
            for name in expected.keys() - {LINK}:
                du = subprocess.run(
                    ["du", "-s", "-B1", overlay2 / name], capture_output=True, text=True, check=True
                )
                assert found[name]["allocated_bytes"] == int(du.stdout.split()[0])
                assert owner(engine, name).purpose == expected[name]
            young = cli("orphans", "--json", "--fail", DOCKER_HOST=engine.host)
            assert young.code == 0 and young.json["orphans"] == len(before)
            assert owner(engine, own(engine, kept)[0]).purpose is Purpose.UPPER
        finally:
            for number, place in enumerate(places):
                shutil.move(f"{aside}/{number}", place)
            for path in (overlay2 / PLANTED, overlay2 / HALF, removing):
                shutil.rmtree(path)
            (overlay2 / "l" / LINK).unlink()
    assert {item.path for item in survey(engine).orphans} == before
    engine.remove(container)
    engine.remove(kept)


# -- an engine at work ---------------------------------------------------------------------------------------


def work(engine: Engine, number: int) -> None:
    """Build with both builders, run, remove and prune."""
    tag = f"layerscope-test/orphans:{number}"
    engine.build(tag, DOCKERFILE.format(salt=number), buildkit=number % 2 == 0)
    container = engine.run(tag, "echo > /x")
    engine.remove(container)
    engine.docker("rmi", tag)
    engine.images.remove(tag)
    if number % 3 == 2:
        engine.docker("builder", "prune", "--force", "--all")


@contextlib.contextmanager
def working(engine: Engine, job: Callable[[Engine, int], None]) -> Iterator[None]:
    """Have the engine work all the while; a failure of the work fails the test."""
    stop = threading.Event()
    failed: list[BaseException] = []

    def until_stopped() -> None:
        number = 0
        try:
            while not stop.is_set():
                job(engine, number)
                number += 1
        except BaseException as error:
            failed.append(error)

    worker = threading.Thread(target=until_stopped)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()
    assert not failed, failed


def test_working_engine_has_no_orphan_and_no_wrong_owner(engine: Engine) -> None:
    """With a minimum age of a few seconds, far less than the default, nothing in work may be called an orphan."""
    container = engine.create(BASE)
    upper, init, lower = own(engine, container)
    before = {item.path for item in survey(engine).orphans}
    surveys = asked = 0
    wrong: list[object] = []
    with working(engine, work):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = survey(engine, MIN_AGE_SECONDS)
            wrong += [item for item in found.orphans if item.path not in before]
            assert found.unreadable == ()
            surveys += 1
            for item in random.sample(found.items, min(4, len(found.items))):
                with contextlib.suppress(TargetNotFoundError):  # removed meanwhile
                    told = owner(engine, os.path.basename(item.path))
                    assert {(use.id, use.role) for use in told.containers if use.id == container} == (
                        {(container, Role.UPPER)} if told.name == upper
                        else {(container, Role.INIT)} if told.name == init
                        else {(container, Role.LOWER)} if told.name in lower
                        else set()
                    )  # fmt: skip
                    asked += 1
    print(f"{surveys} surveys, {asked} owners")
    assert wrong == []
    assert surveys > 5 and asked > 5
    assert {item.path for item in survey(engine).orphans} == before
    engine.remove(container)


# -- an engine that is killed --------------------------------------------------------------------------------


@dataclass
class Mortal:
    """An engine of our own that can be killed and started again."""

    base: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"unix://{self.base}/docker.sock"

    def start(self) -> None:
        dockerd = program("dockerd")
        assert dockerd is not None
        (self.base / "pid").unlink(missing_ok=True)
        with (self.base / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    dockerd,
                    f"--data-root={self.base}/root",
                    f"--exec-root={self.base}/exec",
                    f"--pidfile={self.base}/pid",
                    f"--host={self.host}",
                    "--bridge=none",
                    "--iptables=false",
                    "--ip6tables=false",
                    "--ip-forward=false",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        assert _answers(self.process, self.host), (self.base / "log").read_text()[-2000:]

    def kill(self) -> None:
        """The engine and the containerd that it started, as when the machine loses power."""
        assert self.process is not None
        for pid in (self.process.pid, *self._containerd()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        # Else a containerd that nobody has reaped yet would count as running.
        (self.base / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def _containerd(self) -> list[int]:
        path = self.base / "exec/containerd/containerd.pid"
        with contextlib.suppress(OSError, ValueError):
            return [int(path.read_text())]
        return []


@pytest.fixture
def mortal(engine: Engine) -> Iterator[tuple[Mortal, Engine]]:
    if os.environ.get("LAYERSCOPE_TEST_ENGINE") != "private" or program("dockerd") is None:
        pytest.skip("an engine to be killed is started only in `make test`")
    place = os.environ.get("LAYERSCOPE_ENGINE_DIR", "/var/tmp")
    made = Mortal(Path(tempfile.mkdtemp(prefix="layerscope-mortal-", dir=place)))
    try:
        made.start()
        own_engine = Engine(engine.docker_path, made.host, made.base / "root")
        own_engine.import_base()
        yield made, own_engine
    finally:
        if made.process is not None:
            _stop(made.process)
        for pid in made._containerd():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        _remove(made.base)


def directories(engine: Engine) -> set[str]:
    return {path.name for path in (engine.data_root / "overlay2").iterdir()} - {"l"}


def until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not happened() and time.monotonic() < end:
        time.sleep(0.002)


def many_files() -> bytes:
    """A tar that takes the engine some time to unpack."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(8000):
            add(tar, f"files/{number}", b"x" * 1000)
    return buffer.getvalue()


def kill_at_build(made: Mortal, engine: Engine) -> None:
    with surviving(lambda: [work(engine, number) for number in range(100)]):
        time.sleep(random.uniform(0.5, 1.5))
        made.kill()


def kill_at_import(made: Mortal, engine: Engine) -> None:
    """What a pull does: a directory is made and filled, and recorded when it is full."""
    archive, before = many_files(), directories(engine)
    with surviving(lambda: engine.docker("import", "-", "many:1", stdin=archive)):
        until(lambda: any((engine.data_root / "overlay2" / name / "diff/files/0").exists()
                          for name in directories(engine) - before))  # fmt: skip
        made.kill()


def pulled_layers() -> list[bytes]:
    """The same at each call; the second one takes several pieces on its way."""
    return [many_files(), random.Random(1).randbytes(1 << 20)]


def pull_and_remove(engine: Engine) -> None:
    """The remedy for layers of a pull that was cut off."""
    with registry() as served:
        name = served.add("pulled/app", [pulled_layers()[0], tar_of_one_file()])
        engine.docker("pull", name)
        engine.docker("rmi", name)


def tar_of_one_file() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "file", b"x")
    return buffer.getvalue()


def kill_at_pull(made: Mortal, engine: Engine) -> None:
    """One layer is unpacked, the next one is on its way."""
    layerdb = engine.data_root / "image/overlay2/layerdb/sha256"
    before = set(os.listdir(layerdb))
    with registry() as served:
        name = served.add("pulled/app", pulled_layers())
        served.released.clear()
        with surviving(lambda: engine.docker("pull", name)):
            until(lambda: served.waiting.is_set() and set(os.listdir(layerdb)) - before)
            assert served.waiting.is_set() and set(os.listdir(layerdb)) - before, "it was killed too early"
            made.kill()
            served.released.set()


def kill_at_removal(made: Mortal, engine: Engine) -> None:
    container = engine.run("kept:1", "mkdir /d; for i in $(seq 3000); do echo > /d/$i; done")
    upper = engine.data_root / "overlay2" / own(engine, container)[0]
    with surviving(lambda: engine.docker("rm", container)):
        until(lambda: not (upper / "link").exists() or len(os.listdir(upper / "diff/d")) < 3000)
        made.kill()


@contextlib.contextmanager
def surviving(job: Callable[[], object]) -> Iterator[None]:
    """Run a job that ends in an error when the engine does."""

    def run() -> None:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            job()

    victim = threading.Thread(target=run)
    victim.start()
    try:
        yield
    finally:
        victim.join()


def check_and_df(engine: Engine) -> None:
    """Both finish, whatever was left; what is wrong is told, and the sums are those of du(1)."""
    cli = Cli(directory=engine.data_root, environment={})
    root = f"--data-root={engine.data_root}"
    problems = cli("check", root, "--json")
    assert problems.code == bool(problems.json["counts"]["error"]), problems.err
    print([f"{one['severity']} {one['code']}" for one in problems.json["problems"]])
    du = ["du", "-s", "-B1", "--one-file-system", str(engine.data_root)]
    for _ in range(5):  # the engine still tidies up
        used = cli.ok("df", root, "--json").json
        total = int(subprocess.run(du, capture_output=True, text=True, check=True).stdout.split()[0])
        if used["total_bytes"] == total:
            break
    assert used["complete"] is True
    assert used["total_bytes"] == total


def test_engine_that_is_killed_at_work_leaves_only_true_orphans(mortal: tuple[Mortal, Engine]) -> None:
    """What is called an orphan after a restart can be taken away, and everything still works."""
    made, engine = mortal
    engine.build("kept:1", DOCKERFILE.format(salt="kept"))
    engine.build("cached:1", "FROM kept:1\nRUN echo cached > /cached\n", buildkit=True)
    container = engine.create("kept:1")
    upper, init, lower = own(engine, container)
    for kill in (kill_at_build, kill_at_import, kill_at_pull, kill_at_removal):
        kill(made, engine)
        made.start()
        found = survey(engine)
        assert {os.path.basename(item.path) for item in found.items} >= directories(engine)
        assert found.unreadable == ()
        assert all(item.evidence or item.signs for item in found.items)
        assert not {upper, init, *lower} & {item.cache_id for item in found.orphans}
        for name in (upper, init, *lower):
            assert container in {use.id for use in owner(engine, name).containers}
        check_and_df(engine)
        if kill is kill_at_import:
            assert Purpose.UNREFERENCED in {item.purpose for item in found.orphans}, "it was killed too late"
        if kill is kill_at_pull:
            # Or not known for certain, where it was also killed while it wrote an image or container.
            assert Purpose.SPARE in {item.suspected or item.purpose for item in found.items}
            pull_and_remove(engine)
            assert Purpose.SPARE not in {item.purpose for item in survey(engine).items}
        print(kill.__name__, [item.purpose.value for item in found.orphans])
    # The proof: stop it, take all orphans away, start it, and use everything that it has.
    assert made.process is not None
    _stop(made.process)
    for item in survey(engine).orphans:
        for link in item.links:
            (engine.data_root / "overlay2/l" / link).unlink()
        os.unlink(item.path) if os.path.islink(item.path) else shutil.rmtree(item.path)
    made.start()
    assert survey(engine).orphans == ()
    for image in engine.docker("images", "--all", "--quiet", "--no-trunc").split():
        engine.docker("run", "--rm", "--network=none", image, "cat", "/etc/os-release")
    engine.docker("start", container)
    engine.docker("kill", container)
    engine.build("again:1", "FROM cached:1\nRUN echo again > /again\n", buildkit=True)


def test_engine_ends_half_made_removals_when_it_stops(mortal: tuple[Mortal, Engine]) -> None:
    """The remedy of that class is a restart; of a leaked upper layer it is not."""
    made, engine = mortal
    overlay2, layerdb = engine.data_root / "overlay2", engine.data_root / "image/overlay2/layerdb"
    for name in (PLANTED, HALF):
        (overlay2 / name / "diff").mkdir(parents=True)
    for path, name in (
        (layerdb / "sha256" / f"{'1' * 64}-77-removing/cache-id", HALF),
        (layerdb / "mounts" / ("2" * 64) / "mount-id", PLANTED),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(name)
    purposes = {item.cache_id: item.purpose for item in survey(engine).orphans}
    assert purposes == {HALF: Purpose.HALF_REMOVED, PLANTED: Purpose.LEAKED_UPPER}
    assert made.process is not None
    _stop(made.process)
    made.start()
    engine.docker("system", "prune", "--all", "--force")
    assert {item.cache_id: item.purpose for item in survey(engine).orphans} == {PLANTED: Purpose.LEAKED_UPPER}
