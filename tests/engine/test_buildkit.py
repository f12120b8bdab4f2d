"""BuildKit's databases as a real engine writes them: while it writes, and against what it says itself."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from layerscope.errors import StoreBusyError
from layerscope.model import Cautions, OverlayOptions
from layerscope.stores import boltdb
from layerscope.stores.boltdb import READ_AHEAD, Bucket, read_bolt
from layerscope.stores.buildkit import METADATA, SNAPSHOTS, BuildCache, BuildRecord, read_build_cache
from layerscope.stores.images import chain_ids
from layerscope.stores.overlay2 import Overlay2Store
from layerscope.stores.records import DataRoot
from layerscope.timestamps import from_rfc3339
from tests.dockerd import Engine

DOCKERFILE = """
FROM BASE AS one
RUN echo one > /one && mkdir /kept && echo {salt} > /kept/salt
RUN --mount=type=cache,target=/cache echo {salt} > /cache/salt; seq 1000 > /numbers
FROM BASE
COPY --from=one /kept /kept
COPY hello /hello
RUN rm /etc/passwd
RUN true
"""
SECONDS = 10
MOST_READS = 10_000


@pytest.fixture
def store(engine: Engine) -> Overlay2Store:
    return Overlay2Store(DataRoot(str(engine.data_root)), OverlayOptions(), Cautions())


def build(engine: Engine, salt: str) -> str:
    return engine.build(
        f"layerscope-test/cached:{salt}",
        DOCKERFILE.format(salt=salt),
        buildkit=True,
        files={"hello": salt.encode()},
    )


def told(engine: Engine) -> dict[str, dict[str, Any]]:
    """The build cache as the engine describes it."""
    import docker

    client = docker.APIClient(base_url=engine.host)
    try:
        records = client.df()["BuildCache"] or ()
    finally:
        client.close()
    times = ("CreatedAt", "LastUsedAt")
    return {record["ID"]: {**record, **{name: from_rfc3339(record[name]) for name in times}} for record in records}


def read(engine: Engine) -> tuple[BuildCache, Overlay2Store]:
    """The build cache as layerscope reads it, without a warning."""
    warn = Cautions()
    store = Overlay2Store(DataRoot(str(engine.data_root)), OverlayOptions(), warn)
    cache = read_build_cache(store.root, store.layerdb, warn)
    assert list(warn) == []
    return cache, store


def described(record: BuildRecord, shared: set[str]) -> dict[str, object]:
    return {
        "ID": record.id,
        "Parent": record.parent or "",
        "Type": record.kind,
        "Description": record.description,
        "InUse": False,
        "Shared": record.id in shared,
        "Size": record.size_bytes,
        "CreatedAt": record.created,
        "LastUsedAt": record.last_used,
        "UsageCount": record.usage_count,
    }


def insist_on_agreement(engine: Engine) -> BuildCache:
    """Every record, with every value, is as the engine says, and its directory holds so many bytes."""
    told(engine)  # the engine measures what nobody asked for yet, and writes that down
    said = told(engine)
    cache, store = read(engine)
    chains = {chain for image in store.images() for chain in chain_ids(image.diff_ids)}
    shared = cache.shared(chains)
    assert {r.id: described(r, shared) for r in cache.records if r.duplicate_of is None} == said
    for record in cache.records:
        assert record.cache_id is not None
        diff = engine.data_root / "overlay2" / record.cache_id / "diff"
        files = [path for path in diff.rglob("*") if not path.is_dir() or path.is_symlink()]
        if record.chain_id is None:  # else as docker counts layers
            assert record.size_bytes == sum(path.lstat().st_size for path in files), record
    return cache


def directories(engine: Engine) -> set[str]:
    return {path.name for path in (engine.data_root / "overlay2").iterdir() if len(path.name) == 25}


def test_records_are_those_of_the_engine(engine: Engine) -> None:
    build(engine, "first")
    build(engine, "second")
    cache = insist_on_agreement(engine)
    descriptions = {record.description for record in cache.records}
    assert "mount / from exec /bin/sh -c rm /etc/passwd" in descriptions
    assert {record.kind for record in cache.records} == {"regular", "source.local", "exec.cachemount"}
    held = {snapshot.cache_id for snapshot in cache.snapshots}
    assert directories(engine) <= held, "a directory of a build that nothing refers to"
    assert held <= {path.name for path in (engine.data_root / "overlay2").iterdir()}


def test_layers_of_an_image_are_records_with_their_chain_ids(engine: Engine, store: Overlay2Store) -> None:
    tag = build(engine, "chain")
    cache, _ = read(engine)
    image = next(image for image in store.images() if tag in image.references)
    by_chain = {record.chain_id: record for record in cache.records}
    records = [by_chain[chain_id] for chain_id in chain_ids(image.diff_ids)]
    assert [record.cache_id for record in records] == [layer.cache_id for layer in store.image_layers(image)]
    assert [record.parent for record in records] == [None, *(record.id for record in records[:-1])]


def test_pruned_records_are_gone_and_those_of_images_keep_their_directories(engine: Engine) -> None:
    tag = build(engine, "pruned")
    before, store = read(engine)
    image = next(image for image in store.images() if tag in image.references)
    kept = {layer.cache_id for layer in store.image_layers(image)}
    engine.docker("builder", "prune", "--force", "--all")
    after = insist_on_agreement(engine)
    assert len(after.records) < len(before.records)
    held = {snapshot.cache_id for snapshot in after.snapshots}
    present = {path.name for path in (engine.data_root / "overlay2").iterdir()}
    assert kept <= present
    freed = {snapshot.cache_id for snapshot in before.snapshots} - held - kept
    assert freed
    images = {layer.cache_id for image in store.images() for layer in store.image_layers(image)}
    assert not freed & present - images
    engine.docker("rmi", tag)
    engine.images.remove(tag)


@contextmanager
def builds_meanwhile(engine: Engine) -> Iterator[Callable[[], int]]:
    """Build and prune without a pause; gives how many builds are done."""
    done: list[str] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            done.append(build(engine, f"loop-{len(done) % 3}"))
            if len(done) % 3 == 0:
                engine.docker("builder", "prune", "--force", "--filter=until=1s")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield lambda: len(done)
    finally:
        stop.set()
        worker.join()


@pytest.mark.parametrize("read_ahead", [READ_AHEAD, 4096])
def test_databases_are_whole_while_the_engine_writes_them(
    engine: Engine, store: Overlay2Store, read_ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read is of one state: every committed snapshot has its twin, every indexed record its entry."""
    monkeypatch.setattr(boltdb, "READ_AHEAD", read_ahead)
    build(engine, "warm")
    reads = busy = 0
    states = set()
    slowest = 0.0
    with builds_meanwhile(engine) as builds:
        end = time.monotonic() + SECONDS
        while (reads < MOST_READS and time.monotonic() < end) or not builds():
            began = time.perf_counter()
            try:
                twins = read_bolt(store.root, SNAPSHOTS, twins_without_snapshot)
                records = read_bolt(store.root, METADATA, records_without_index)
            except StoreBusyError:
                busy += 1
                continue
            slowest = max(slowest, time.perf_counter() - began)
            assert twins is not None and not twins[1]
            assert records is not None and not records[1]
            states.add((frozenset(twins[0]), frozenset(records[0])))
            reads += 1
        made = builds()
    print(f"{reads} reads, {busy} given up, {len(states)} states, {made} builds, slowest {slowest * 1000:.1f} ms")
    assert len(states) > 10
    assert busy <= reads // 100


def twins_without_snapshot(root: Bucket) -> tuple[set[bytes], list[bytes]]:
    """All keys, and the committed snapshots whose directory has no entry of its own (``commit`` writes both)."""
    committed = {key: entry.get(b"committed") for key, entry in root.buckets()}
    return set(committed), [
        key for key, directory in committed.items() if directory is not None and directory not in committed
    ]


def records_without_index(root: Bucket) -> tuple[set[bytes], list[bytes]]:
    """All records, and the values to be found by ``_index`` that have no entry there (``SetValue`` writes both)."""
    main, index = root.bucket(b"_main"), root.bucket(b"_index")
    assert main is not None and index is not None
    entries = {key for key, _ in index.items()}
    names = [
        (json.loads(value).get("index"), key)
        for key, record in main.buckets()
        for _, value in record.values()
        if value
    ]
    return {key for _, key in names}, [
        key for name, key in names if name and name.encode() + b"::" + key not in entries
    ]


def test_build_cache_can_be_read_while_the_engine_builds(engine: Engine) -> None:
    """No warning, no error, and never a directory that is neither there nor was."""
    with builds_meanwhile(engine) as builds:
        end = time.monotonic() + 5
        while time.monotonic() < end or not builds():
            cache, _ = read(engine)
            assert all(snapshot.cache_id or snapshot.chain_id for snapshot in cache.snapshots)
