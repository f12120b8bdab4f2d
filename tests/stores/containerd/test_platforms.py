"""Images for several platforms."""

from __future__ import annotations

import json

import pytest

from tests.containerdroot import APP, FakeContainerd, Image
from tests.stores.offline import Offline


def two_platforms(store: FakeContainerd, unpacked: str) -> dict[str, Image]:
    found = {
        platform: store.image(
            None, [store.layer({platform: platform})], platform=platform, unpack=platform == unpacked
        )
        for platform in ("linux/amd64", "linux/arm64/v8", "linux/arm/v7")
    }
    attestation = store.document({"config": {"digest": found["linux/amd64"].config.digest}, "layers": []})
    store.index(
        APP,
        [*found.values()],
        {"digest": attestation.digest, "platform": {"os": "unknown", "architecture": "unknown"}},
        {
            "digest": attestation.digest,
            "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        },
    )
    return found


@pytest.mark.parametrize("unpacked", ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"])
def test_platform_that_is_unpacked_is_taken(store: FakeContainerd, offline: Offline, unpacked: str) -> None:
    image = two_platforms(store, unpacked)[unpacked]
    store.write()
    assert [layer["diff_dir"] for layer in offline.json("image", "app:1")["layers"]] == [str(image.snapshots[0].fs)]
    assert len(offline.json("ls")["images"]) == 1


@pytest.mark.parametrize("asked", ["linux/arm64", "linux/aarch64", "LINUX/ARM64/v8", "linux/arm/v7", "linux/arm"])
def test_platform_that_is_asked_for_is_taken(store: FakeContainerd, offline: Offline, asked: str) -> None:
    two_platforms(store, "linux/amd64")
    store.write()
    failure = offline.fails("image", "app:1", "--platform", asked)
    assert "not unpacked" in failure.message


def test_platform_that_is_not_here_is_an_error_that_lists_the_others(
    store: FakeContainerd, offline: Offline
) -> None:
    two_platforms(store, "linux/amd64")
    store.write()
    failure = offline.fails("image", "app:1", "--platform", "linux/s390x", warnings=1)
    assert failure.message.endswith("is not here for linux/s390x")
    assert "linux/amd64, linux/arm/v7, linux/arm64/v8" in failure.hint
    assert "no platform" in offline.fails("ls", "--platform", "amd64", code=2).message


def test_manifests_of_other_platforms_may_be_missing(store: FakeContainerd, offline: Offline) -> None:
    found = two_platforms(store, "linux/amd64")
    found["linux/arm64/v8"].manifest.path.unlink()
    found["linux/arm/v7"].config.path.unlink()
    store.write()
    answer = offline.json("image", "app:1")
    assert (len(answer["layers"]), answer["warnings"]) == (1, [])


def test_container_has_the_history_of_its_own_platform(store: FakeContainerd, offline: Offline) -> None:
    """Made with `docker run --platform`, from an image that is here for two."""
    found = [
        store.image(
            None,
            [store.layer({name: name})],
            platform=name,
            config={"history": [{"created_by": f"made for {name}"}]},
        )
        for name in ("linux/amd64", "linux/s390x")
    ]
    index = store.index(APP, found)
    for image in found:
        name = image.platform["architecture"]
        identifier, _ = store.container(name, image)
        config = offline.path / "containers" / identifier / "config.v2.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "Image": index.digest}))
    store.write()
    for name in ("amd64", "s390x"):
        assert offline.json("container", name)["layers"][0]["created_by"] == f"made for linux/{name}"
