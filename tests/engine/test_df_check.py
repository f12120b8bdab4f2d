"""``df`` and ``check`` on a real engine: du and `docker system df` agree, and what is pruned is what was told."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.test_space import du
from tests.cli import Cli, validator
from tests.dockerd import BASE, Engine
from tests.engine.test_verify import hostile_tar

OWN_ENGINE = os.environ.get("LAYERSCOPE_TEST_ENGINE") == "private"
SECONDS = 12
STEPS = """FROM BASE
RUN mkdir -p /app && dd if=/dev/zero of=/app/big bs=1024 count=300 && ln /app/big /app/link && ln -s big /app/soft
RUN --mount=type=cache,target=/cache echo {salt} > /cache/x; echo {salt} > /app/salt; truncate -s 1000000 /app/holes
RUN rm /app/big && mkdir /app/empty
"""
CLASSIC = STEPS.replace("--mount=type=cache,target=/cache echo {salt} > /cache/x; ", "")


def df(cli: Cli) -> Any:
    return cli.ok("df", "--json").json


def quiet_df(engine: Engine, cli: Cli) -> tuple[Any, int]:
    """What df says and what du says, at a time when the engine writes nothing: its databases and logs grow."""
    for _ in range(20):
        before, answer = du(engine.data_root), df(cli)
        if du(engine.data_root) == before:
            return answer, before
    raise AssertionError("the engine does not come to rest")


def category(answer: Any, name: str) -> Any:
    return next(item for item in answer["categories"] if item["category"] == name)


def check(cli: Cli, *options: str, code: int = 0) -> list[dict[str, Any]]:
    result = cli("check", "--json", *options)
    assert result.code == code, result.snapshot()
    validator("check").validate(result.json)
    problems: list[dict[str, Any]] = result.json["problems"]
    return problems


def layer_bytes(engine: Engine) -> int:
    """All directories of layers, without what is mounted."""
    overlay2 = engine.data_root / "overlay2"
    return sum(du(path) for path in overlay2.iterdir() if path.name != "l" and path.is_dir())


@pytest.fixture(scope="module")
def population(engine: Engine) -> Iterator[dict[str, str]]:
    """Images of every origin and containers in every state."""
    classic = engine.build("layerscope-test/df:classic", CLASSIC.format(salt="c"))
    buildkit = engine.build("layerscope-test/df:buildkit", STEPS.format(salt="b"), buildkit=True)
    engine.docker("import", "-", "layerscope-test/df:imported", stdin=hostile_tar(1))
    engine.images.append("layerscope-test/df:imported")
    engine.load(engine.docker_bytes("save", classic), classic)
    found = {
        "created": engine.create(buildkit),
        "running": engine.create(classic),
        "paused": engine.create(BASE),
        "exited": engine.run(classic, "echo x > /x; rm /app/salt"),
        "orphaned": engine.create("layerscope-test/df:imported", command=["/x"]),
    }
    for state in ("running", "paused"):
        engine.docker("start", found[state])
    engine.docker("pause", found["paused"])
    engine.docker("volume", "create", "layerscope-test-df")
    engine.docker(
        "run",
        "--rm",
        "--network=none",
        "-v=layerscope-test-df:/v",
        BASE,
        "dd",
        "if=/dev/zero",
        "of=/v/x",
        "count=99",
    )
    yield found
    for identifier in found.values():
        if identifier in engine.containers:
            engine.remove(identifier)
    engine.docker("volume", "rm", "layerscope-test-df")


def test_sums_are_those_of_du(engine: Engine, cli: Cli, population: dict[str, str]) -> None:
    answer, taken = quiet_df(engine, cli)
    assert population and answer["complete"], answer["warnings"]
    assert answer["total_bytes"] == taken
    assert answer["storage_bytes"] == du(engine.data_root / "overlay2", engine.data_root / "image")
    layers = sum(item["allocated_bytes"] for item in answer["categories"] if item["category"] != "metadata")
    assert layers == layer_bytes(engine)
    assert category(answer, "leaked")["directories"] == 0


def test_engine_is_quoted_and_the_steps_add_up(engine: Engine, cli: Cli, population: dict[str, str]) -> None:
    answer = df(cli)
    told = dict(
        line.split("|") for line in engine.docker("system", "df", "--format", "{{.Type}}|{{.Size}}").splitlines()
    )
    names = {
        "images": "Images",
        "containers": "Containers",
        "build-cache": "Build Cache",
        "volumes": "Local Volumes",
    }
    assert {item["name"] for item in answer["engine"]} == set(names) and population
    for item in answer["engine"]:
        assert _docker_size(item["claimed_bytes"]) == told[names[item["name"]]], item
        assert item["claimed_bytes"] + sum(step["bytes"] for step in item["steps"]) == item["allocated_bytes"]
    volumes = [item for item in answer["outside"] if item["kind"] == "volume"]
    assert {item["name"] for item in volumes} == set(engine.docker("volume", "ls", "--quiet").splitlines())


def _docker_size(number: int) -> str:
    """As Docker's command prints it (docker/go-units, ``HumanSizeWithPrecision``, 4 digits)."""
    value, unit = float(number), 0
    while value >= 1000 and unit < 5:
        value /= 1000
        unit += 1
    return f"{value:.4g}{('B', 'kB', 'MB', 'GB', 'TB', 'PB')[unit]}"


def test_removing_a_container_frees_what_df_said(engine: Engine, cli: Cli) -> None:
    keep = engine.create(BASE)
    engine.docker("start", keep)
    before = df(cli)
    gone = engine.run(BASE, "dd if=/dev/zero of=/x count=500")
    between, held = df(cli), layer_bytes(engine)
    grown = [category(answer, "containers")["reclaimable_bytes"] for answer in (before, between)]
    engine.remove(gone)
    assert grown[1] - grown[0] == held - layer_bytes(engine) > 250_000
    engine.remove(keep)


@pytest.mark.prunes
@pytest.mark.skipif(not OWN_ENGINE, reason="prunes the engine")
def test_pruning_frees_what_df_said_byte_for_byte(engine: Engine, cli: Cli) -> None:
    """Images first: those of the build cache stay; then what only the cache holds, then containers and the rest."""
    built = engine.build("layerscope-test/df:prune", STEPS.format(salt="p"), buildkit=True)
    engine.build("layerscope-test/df:prune-classic", CLASSIC.format(salt="p"))
    stopped = engine.create(built)
    running = engine.create(BASE)
    engine.docker("start", running)
    for name in ("containers", "images", "build-cache", "images"):
        told, held = category(df(cli), name), layer_bytes(engine)
        engine.docker(*told["command"].split()[1:], "--force")
        for _ in range(50):  # BuildKit may still be removing what it says is gone
            freed = held - layer_bytes(engine)
            if freed == told["reclaimable_bytes"]:
                break
            time.sleep(0.1)
        assert freed == told["reclaimable_bytes"], name
        after = category(df(cli), name)
        assert after["reclaimable_bytes"] == 0, name
    assert category(df(cli), "build-cache")["directories"] == 0
    engine.containers.remove(stopped)
    engine.remove(running)
    engine.import_base()


def test_nothing_is_wrong_with_a_healthy_engine(engine: Engine, cli: Cli, specimen: str) -> None:
    commit = engine.run(specimen, "echo x > /committed")
    engine.docker("commit", commit, "layerscope-test/df:committed")
    engine.images.append("layerscope-test/df:committed")
    assert check(cli, "--sizes") == []
    assert check(cli, "--data-root", str(engine.data_root)) == []
    engine.remove(commit)


def test_nothing_is_wrong_with_any_state(cli: Cli, population: dict[str, str]) -> None:
    assert population and check(cli, "--sizes") == []


@contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    kept = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(kept)


def test_emptied_link_and_swapped_lower_are_found_and_mean_what_is_told(engine: Engine, cli: Cli) -> None:
    image = engine.build("layerscope-test/df:damage", CLASSIC.format(salt="d"))
    data = engine.inspect(image)["GraphDriver"]["Data"]
    top = Path(data["UpperDir"]).parent
    with changed(top / "link", ""):
        (problem,) = check(cli, code=1)
        assert (problem["code"], problem["path"]) == ("broken-link", str(top / "link"))
        assert image in problem["affects"] and "silently" in problem["consequence"]
        seen = engine.docker("run", "--rm", "--network=none", image, "sh", "-c", "ls -d /app/* ; true")
        assert "/app/empty" not in seen, "so that is what happens: the layer's files are gone, without an error"
    lower = (top / "lower").read_text().split(":")
    with changed(top / "lower", ":".join([lower[1], lower[0], *lower[2:]])):
        (problem,) = check(cli, code=1)
        assert (problem["code"], problem["path"]) == ("lower-order", str(top / "lower"))
    link = engine.data_root / "overlay2/l" / (top / "link").read_text()
    target = os.readlink(link)
    present = set(os.listdir(engine.data_root / "overlay2"))
    link.unlink()
    try:
        (problem,) = check(cli, code=1)
        assert (problem["code"], problem["path"]) == ("missing-short-link", str(link))
        with pytest.raises(AssertionError, match="no such file or directory"):
            engine.docker("run", "--rm", "--network=none", image, "true")
    finally:
        link.symlink_to(target)
        for name in set(os.listdir(engine.data_root / "overlay2")) - present:
            forget(engine.data_root / "overlay2" / name)  # the init layer that the failed start leaves behind
    assert check(cli) == []


def forget(directory: Path) -> None:
    """Remove a layer directory that nothing uses, with its short link."""
    (directory.parent / "l" / (directory / "link").read_text()).unlink()
    shutil.rmtree(directory)


def test_container_without_a_work_directory_is_found_and_cant_start(engine: Engine, cli: Cli) -> None:
    container = engine.create(BASE)
    work = Path(engine.inspect(container)["GraphDriver"]["Data"]["WorkDir"])
    work.rename(work.with_name("aside"))
    (problem,) = check(cli, code=1)
    assert (problem["code"], problem["path"]) == ("missing-work", str(work))
    with pytest.raises(AssertionError, match="no such file or directory"):
        engine.docker("start", container)
    work.with_name("aside").rename(work)
    assert check(cli) == []
    engine.remove(container)


def test_nothing_is_wrong_while_the_engine_works(engine: Engine, cli: Cli) -> None:
    """Builds with both builders, containers that come and go, imports and removals, all at the same time."""
    stop, failed = threading.Event(), list[BaseException]()

    def until_stopped(work: Any) -> None:
        number = 0
        try:
            while not stop.is_set():
                work(number)
                number += 1
        except BaseException as error:
            failed.append(error)

    def builds(number: int) -> None:
        tag = f"layerscope-test/df:w{number}"
        engine.build(tag, (STEPS if number % 2 else CLASSIC).format(salt=number), buildkit=bool(number % 2))
        engine.docker("rmi", tag)
        engine.images.remove(tag)

    def containers(_number: int) -> None:
        engine.docker("run", "--rm", "--network=none", BASE, "sh", "-c", "echo > /x")

    workers = [threading.Thread(target=until_stopped, args=(work,)) for work in (builds, containers)]
    for worker in workers:
        worker.start()
    looks = 0
    try:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            assert check(cli) == []
            answer = df(cli)
            assert answer["complete"] and category(answer, "leaked")["directories"] == 0
            looks += 1
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert not failed, failed
    assert looks > 1
