"""Fixtures: a data root with the containerd image store, without an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.containerdroot import APP, FakeContainerd, Image
from tests.dataroot import OPAQUE, WHITEOUT
from tests.stores.offline import InProcess, Offline


@pytest.fixture
def store(tmp_path: Path) -> FakeContainerd:
    """An engine's own containerd, below its data root."""
    docker = tmp_path / "docker"
    return FakeContainerd(docker / "containerd/daemon", docker)


@pytest.fixture
def offline(cli: InProcess, tmp_path: Path) -> Offline:
    """layerscope on that data root."""
    return Offline(cli, tmp_path / "docker")


@pytest.fixture
def app(store: FakeContainerd) -> Image:
    """An image of two layers, and a container of it."""
    base = store.layer({"etc/passwd": "root", "old": "12345", "d/a": "1"})
    top = store.layer({"old": WHITEOUT, "d": OPAQUE, "d/b": "22"})
    image = store.image(APP, [base, top])
    store.container("web", image, upper={"etc/passwd": "other", "new": "x"}, Running=True)
    return image
