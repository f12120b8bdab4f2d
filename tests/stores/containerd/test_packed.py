"""Images that were pulled and not unpacked: read from the blobs of their layers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pytest

from layerscope.tars.packing import zstd
from tests.archives import config_of, plain
from tests.containerdroot import APP, Blob, FakeContainerd
from tests.stores.offline import Offline
from tests.tarlayers import Tar

BASE = Tar().file("etc/passwd", "root").file("secret", "x").bytes()
TOP = Tar().file("etc/passwd", "changed").whiteout("secret").bytes()


def pulled(store: FakeContainerd, pack: Callable[[bytes], bytes]) -> list[Blob]:
    """An image whose layers are blobs alone; gives these."""
    config = store.blob(config_of([BASE, TOP]))
    layers = [store.blob(pack(tar)) for tar in (BASE, TOP)]
    manifest = {
        "config": {"digest": config.digest},
        "layers": [{"digest": layer.digest} for layer in layers],
    }
    store.name(APP, store.blob(json.dumps(manifest).encode()))
    store.write()
    return layers


@pytest.mark.parametrize("pack", [plain, gzip.compress, zstd.compress], ids=["plain", "gzip", "zstd"])
def test_layers_are_read_from_their_blobs(
    store: FakeContainerd, offline: Offline, pack: Callable[[bytes], bytes]
) -> None:
    layers = pulled(store, pack)
    answer = offline.json("image", "app:1", "--files")
    assert [layer["diff_dir"] for layer in answer["layers"]] == [str(layer.path) for layer in layers]
    assert [layer["size_bytes"] for layer in answer["layers"]] == [5, 7]
    assert [layer["allocated_bytes"] for layer in answer["layers"]] == [None, None]
    assert [(item["change"], item["path"]) for item in answer["layers"][1]["changed"]] == [
        ("modified", "etc/passwd"),
        ("deleted", "secret"),
    ]
    assert answer["hidden"]["files"] == 2
    assert answer["warnings"] == []


def test_a_blob_that_was_changed_is_told(store: FakeContainerd, offline: Offline) -> None:
    base, _ = pulled(store, gzip.compress)
    base.path.write_bytes(gzip.compress(Tar().file("forged", "x").bytes()))
    answer = offline.json("image", "app:1")
    assert [(warning["code"], warning["path"]) for warning in answer["warnings"]] == [
        ("changed-blob", str(base.path)),
        ("changed-layer", str(base.path)),
    ]


def test_a_blob_that_is_missing_is_an_error(store: FakeContainerd, offline: Offline) -> None:
    base, _ = pulled(store, gzip.compress)
    base.path.unlink()
    failure = offline.fails("image", "app:1")
    assert "1 of 2 layers" in failure.message
    assert "pull it again" in failure.hint
