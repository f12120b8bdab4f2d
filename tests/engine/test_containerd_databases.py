"""containerd's databases while containerd writes them: each read is of one state."""

from __future__ import annotations

import os
import time

import pytest

from layerscope.errors import StoreBusyError
from layerscope.stores import boltdb
from layerscope.stores.boltdb import READ_AHEAD, Bucket, read_bolt
from layerscope.stores.boltvalues import uvarint_of
from layerscope.stores.records import DataRoot
from layerscope.stores.snapshots import META, METADATA
from tests.dockerd import Engine
from tests.engine.test_containerd import containerd_root
from tests.engine.test_owner_orphans import work, working

MOST_READS = 10_000
SECONDS = int(os.environ.get("LAYERSCOPE_TEST_SECONDS", "3"))


@pytest.mark.parametrize("read_ahead", [READ_AHEAD, 4096])
def test_databases_are_whole_while_containerd_writes_them(
    containerd: Engine, read_ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every snapshot's parent is there, and both ends of it agree; every image's target is a known blob."""
    monkeypatch.setattr(boltdb, "READ_AHEAD", read_ahead)
    root = DataRoot(str(containerd_root(containerd)))
    reads = busy = 0
    states = set()
    slowest = 0.0
    with working(containerd, work):
        end = time.monotonic() + SECONDS
        while (reads < MOST_READS and time.monotonic() < end) or len(states) < 5:
            began = time.perf_counter()
            try:
                keys = read_bolt(root, META, keys_without_parent)
                records = read_bolt(root, METADATA, records_without_parent)
            except StoreBusyError:
                busy += 1
                continue
            slowest = max(slowest, time.perf_counter() - began)
            assert keys is not None and not keys[1]
            assert records is not None and not records[1]
            states.add((frozenset(keys[0]), frozenset(records[0])))
            reads += 1
    print(f"{reads} reads, {busy} given up, {len(states)} states, slowest {slowest * 1000:.1f} ms")
    assert busy <= reads // 100


def keys_without_parent(top: Bucket) -> tuple[set[bytes], list[bytes]]:
    """All keys of snapshots, those that lie on one that is not there, and images whose target is no known blob."""
    moby = top.bucket(b"v1", b"moby")
    assert moby is not None
    found, wrong = {}, []
    snapshots = moby.bucket(b"snapshots", b"overlayfs")
    for key, record in snapshots.buckets() if snapshots is not None else ():
        found[key] = record.get(b"parent")
        if not record.get(b"name"):
            wrong.append(key)
    wrong += [key for key, parent in found.items() if parent and parent not in found]
    blobs = moby.bucket(b"content", b"blob")
    digests = {digest for digest, _ in blobs.buckets()} if blobs is not None else set()
    images = moby.bucket(b"images")
    for name, image in images.buckets() if images is not None else ():
        target = image.bucket(b"target")
        if target is None or target.get(b"digest") not in digests:
            wrong.append(name)
    return set(found), wrong


def records_without_parent(top: Bucket) -> tuple[set[bytes], list[bytes]]:
    """All snapshots of the snapshotter, and those that ``parents`` does not have as their records say."""
    snapshots, parents = top.bucket(b"v1", b"snapshots"), top.bucket(b"v1", b"parents")
    assert snapshots is not None
    ids, above = {}, {}
    for name, record in snapshots.buckets():
        ids[name] = record.get(b"id") or b""
        above[name] = record.get(b"parent")
    expected = {(ids.get(parent, b"?") + b"\0" + ids[name], name) for name, parent in above.items() if parent}
    found = set(parents.values()) if parents is not None else set()
    wrong = [name for _, name in expected ^ found]
    return set(ids), wrong + [name for name, number in ids.items() if uvarint_of(number) is None]
