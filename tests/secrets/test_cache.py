"""The cache of scanned layers: what it keeps, what it refuses, and that it can always be done without."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from layerscope.model import Cautions
from layerscope.secrets.cache import DAY, LayerCache, _name, cache_directory, is_cacheable, open_cache
from layerscope.secrets.hits import Hit, LayerScan, Skip
from layerscope.secrets.match import Confidence

KEY = {"chain_id": "sha256:" + "0" * 64, "scanner": "1", "inode": 7}
HIT = Hit("rule", "Title", Confidence.LOW, "etc/\udcffile", None, 12, 3, None, "ghp_…xx (40 bytes)", "f" * 32)
SCAN = LayerScan((HIT, replace(HIT, member="a", line=None)), (Skip("a.zip", "too deep", True),), 5, 1234, True)


@pytest.fixture
def warnings() -> Cautions:
    return Cautions()


@pytest.fixture
def cache(tmp_path: Path, warnings: Cautions) -> LayerCache:
    found = open_cache(str(tmp_path / "deep/cache"), warnings)
    assert found is not None
    return found


def entries(cache: LayerCache) -> list[Path]:
    return sorted(path for path in Path(cache.path).iterdir() if path.suffix == ".json")


def codes(warnings: Cautions) -> list[str]:
    return [caution.code for caution in warnings]


def test_what_is_put_is_got_by_its_key_alone(cache: LayerCache, warnings: Cautions) -> None:
    cache.put(KEY, SCAN)
    assert cache.get(KEY) == SCAN
    for other in ({**KEY, "scanner": "2"}, {**KEY, "inode": 8}, {"chain_id": KEY["chain_id"]}):
        assert cache.get(other) is None
    assert codes(warnings) == []


def test_only_the_user_may_read_it(cache: LayerCache) -> None:
    cache.put(KEY, SCAN)
    assert Path(cache.path).stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in entries(cache)] == [0o600]


def test_a_secret_is_never_kept(cache: LayerCache) -> None:
    with pytest.raises(ValueError, match="never kept"):
        cache.put(KEY, LayerScan((replace(HIT, secret=b"hunter2"),)))
    assert list(Path(cache.path).iterdir()) == []


def test_what_may_be_read_the_next_time_is_not_cached() -> None:
    assert is_cacheable(SCAN)
    assert not is_cacheable(LayerScan(skips=(Skip("a", "vanished before it was read"),)))


def damaged_entries() -> dict[str, bytes]:
    whole = {
        "format": 1,
        "key": KEY,
        "scan": {"hits": [], "skips": [], "files": 0, "size_bytes": 0, "redirects": False},
    }
    scan = whole["scan"]
    assert isinstance(scan, dict)
    hit = {"rule_id": "r", "confidence": "sure"}
    return {
        "torn": json.dumps(whole)[:-20].encode(),
        "empty": b"",
        "not an object": b"[]",
        "deeply nested": b"[" * 100_000,
        "another format": json.dumps({**whole, "format": 0}).encode(),
        "another key": json.dumps({**whole, "key": {**KEY, "inode": 8}}).encode(),
        "a field missing": json.dumps({**whole, "scan": {"hits": []}}).encode(),
        "wrong types": json.dumps({**whole, "scan": {**scan, "files": "5"}}).encode(),
        "half a hit": json.dumps({**whole, "scan": {**scan, "hits": [hit]}}).encode(),
        "hits are no list": json.dumps({**whole, "scan": {**scan, "hits": 5}}).encode(),
        "not text": b"\xff\x00\xfe",
    }


@pytest.mark.parametrize("content", damaged_entries().values(), ids=damaged_entries().keys())
def test_a_damaged_entry_is_ignored_with_a_warning(cache: LayerCache, warnings: Cautions, content: bytes) -> None:
    cache.put(KEY, SCAN)
    (entry,) = entries(cache)
    entry.write_bytes(content)
    assert cache.get(KEY) is None
    assert codes(warnings) == ["corrupt-cache"]
    cache.put(KEY, SCAN)
    assert cache.get(KEY) == SCAN


def test_a_symlink_or_fifo_in_its_place_is_not_opened(
    cache: LayerCache, warnings: Cautions, tmp_path: Path
) -> None:
    cache.put(KEY, SCAN)
    (entry,) = entries(cache)
    elsewhere = tmp_path / "elsewhere"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)
    assert cache.get(KEY) is None
    entry.unlink()
    os.mkfifo(entry)
    assert cache.get(KEY) is None
    assert codes(warnings) == ["corrupt-cache"]  # the same path, told once


def test_writing_replaces_a_symlink_and_not_its_target(cache: LayerCache, tmp_path: Path) -> None:
    cache.put(KEY, SCAN)
    (entry,) = entries(cache)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    entry.unlink()
    entry.symlink_to(victim)
    cache.put(KEY, SCAN)
    assert victim.read_text() == "mine"
    assert not entry.is_symlink()


def test_a_directory_that_others_may_write_to_is_not_used(tmp_path: Path, warnings: Cautions) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert open_cache(str(shared), warnings) is None
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "own")
    (tmp_path / "own").mkdir(mode=0o700)
    assert open_cache(str(link), warnings) is None
    assert open_cache("/dev/null/cache", warnings) is None
    assert codes(warnings) == ["no-cache"] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="to own a directory as somebody else takes root")
def test_somebody_elses_directory_is_not_used(tmp_path: Path, warnings: Cautions) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir(mode=0o700)
    os.chown(foreign, 65534, 65534)
    assert open_cache(str(foreign), warnings) is None


def test_runs_at_the_same_time_do_not_disturb_each_other(cache: LayerCache, warnings: Cautions) -> None:
    scans = [replace(SCAN, files=number) for number in range(8)]
    stop = threading.Event()

    def write(scan: LayerScan) -> None:
        while not stop.is_set():
            cache.put(KEY, scan)

    cache.put(KEY, scans[0])
    writers = [threading.Thread(target=write, args=(scan,)) for scan in scans]
    for writer in writers:
        writer.start()
    seen = [cache.get(KEY) for _ in range(300)]
    stop.set()
    for writer in writers:
        writer.join()
    assert all(scan in scans for scan in seen)
    assert codes(warnings) == []
    assert [path.name for path in Path(cache.path).iterdir() if path.name.startswith(".")] == []


def test_a_full_disk_costs_the_cache_and_nothing_else(
    cache: LayerCache, warnings: Cautions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.put(KEY, SCAN)
    cache.put({**KEY, "inode": 9}, SCAN)
    assert codes(warnings) == ["no-cache"]
    assert list(Path(cache.path).iterdir()) == []


def test_what_no_run_used_for_two_months_goes_and_nothing_else(cache: LayerCache) -> None:
    place = Path(cache.path)
    old = time.time() - 61 * DAY
    for number in range(3):
        cache.put({**KEY, "inode": number}, SCAN)
    unused, used, young = (place / _name({**KEY, "inode": number}) for number in range(3))
    leftovers = [place / ".new-torn", place / f"hyperscan-{'0' * 32}.db", place / ".hyperscan-torn"]
    others = [place / "notes.txt", place / "kept.json"]
    for path in (*leftovers, *others):
        path.touch()
    (place / f"{'1' * 40}.json").mkdir()
    for path in place.iterdir():
        if path != young:
            os.utime(path, (old, old))
    again = open_cache(cache.path)
    assert again is not None
    assert again.get({**KEY, "inode": 1}) == SCAN
    assert unused.exists()  # reading takes nothing away
    again.put({**KEY, "inode": 9}, SCAN)
    assert not unused.exists()
    assert used.exists()
    assert young.exists()
    assert not any(path.exists() for path in leftovers)
    assert all(path.exists() for path in others)


def test_the_directory_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert cache_directory() == "/some/where/layerscope"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_directory() == "/home/me/.cache/layerscope"
