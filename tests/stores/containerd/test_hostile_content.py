"""Manifests, indexes and configurations that are damaged or forged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.containerdroot import FakeContainerd, Image
from tests.stores.offline import Offline

HOSTILE_DIGESTS = [
    "",
    "sha256:",
    "../../../../etc/passwd",
    "sha256:../../../../etc/passwd",
    f"sha256:{'a' * 63}/",
    f"sha256:{'A' * 64}",
    f"sha512:{'a' * 64}",
    f"sha256:{'a' * 64}\n",
    "\x1b[31mred",
]


@pytest.mark.parametrize("target", HOSTILE_DIGESTS)
def test_target_that_is_no_digest_is_a_broken_image(
    store: FakeContainerd, app: Image, offline: Offline, target: str
) -> None:
    store.images[b"docker.io/library/bad:1"] = {b"target": {b"digest": target.encode()}}
    store.write()
    assert [code for code, _ in offline.warns("ls")] == ["broken-image"]
    assert "digest" in offline.fails("image", "bad:1", warnings=1).message
    assert "\x1b" not in offline("ls").err


@pytest.mark.parametrize("target", HOSTILE_DIGESTS)
@pytest.mark.parametrize("where", ["config", "manifests"])
def test_content_that_is_named_by_no_digest_is_never_opened(
    store: FakeContainerd, app: Image, offline: Offline, target: str, where: str
) -> None:
    body: dict[str, Any] = (
        {"config": {"digest": target}} if where == "config" else {"manifests": [{"digest": target}]}
    )
    store.name("docker.io/library/bad:1", store.document(body))
    store.write()
    codes = [code for code, _ in offline.warns("ls")]
    assert codes in (["broken-image"], ["broken-manifest", "broken-image"])


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def huge(path: Path) -> None:
    os.truncate(path, 1 << 40)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "no JSON": lambda path: path.write_bytes(b"\x1f\x8b\x08\x00"),
    "a list": lambda path: path.write_text("[1]"),
    "deep": lambda path: path.write_text('{"manifests":' + "[" * 100_000),
    "no config": lambda path: path.write_text('{"config": {}, "manifests": 3}'),
    "a FIFO": fifo,
    "a symlink": link,
    "huge": huge,
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("blob", ["manifest", "config"])
def test_damaged_blob_leaves_out_its_image_alone(
    store: FakeContainerd, app: Image, offline: Offline, blob: str, damage: Callable[[Path], object]
) -> None:
    other = store.image("docker.io/library/other:1", [store.layer({"other": "1"})])
    damage((other.manifest if blob == "manifest" else other.config).path)
    store.write()
    answer = offline.json("ls")
    assert [image["references"] for image in answer["images"]] == [["app:1"]]
    assert answer["warnings"][-1]["code"] == "broken-image"
    assert offline("image", "other:1").code == 3
    assert offline("image", "app:1").code == 0


def test_blob_that_is_not_what_its_name_says_is_a_warning(
    store: FakeContainerd, app: Image, offline: Offline
) -> None:
    app.config.path.write_text(app.config.path.read_text() + " ")
    store.write()
    assert [code for code, _ in offline.warns("image", "app:1")] == ["changed-blob"]


def test_index_that_leads_back_to_itself_ends(store: FakeContainerd, app: Image, offline: Offline) -> None:
    index = store.index("docker.io/library/circle:1", [])
    index.path.write_text(json.dumps({"manifests": [{"digest": index.digest}, {"digest": app.manifest.digest}]}))
    store.write()
    answer = offline.json("image", "circle:1")
    assert len(answer["layers"]) == 2
    assert [warning["code"] for warning in answer["warnings"]] == ["changed-blob"]


def test_index_that_fans_out_is_read_once(store: FakeContainerd, app: Image, offline: Offline) -> None:
    below: Any = app.manifest
    for _ in range(6):
        below = store.document({"manifests": [{"digest": below.digest}] * 900})
    store.name("docker.io/library/bomb:1", below)
    store.write()
    assert len(offline.json("image", "bomb:1")["layers"]) == 2


def test_indexes_in_each_other_have_a_limit(store: FakeContainerd, app: Image, offline: Offline) -> None:
    below: Any = app.manifest
    for _ in range(20):
        below = store.document({"manifests": [{"digest": below.digest}]})
    store.name("docker.io/library/deep:1", below)
    store.write()
    assert "broken-image" in [code for code, _ in offline.warns("ls")]
