"""Fixtures of the store tests: a data root without an engine, and the command line on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataroot import FakeRoot
from tests.stores.offline import InProcess, Offline


@pytest.fixture
def root(tmp_path: Path) -> FakeRoot:
    """An empty data root."""
    return FakeRoot(tmp_path / "docker")


@pytest.fixture
def cli(tmp_path: Path) -> InProcess:
    """The command line in this process, instead of one of its own."""
    return InProcess(tmp_path)


@pytest.fixture
def offline(cli: InProcess, root: FakeRoot) -> Offline:
    """layerscope on that data root."""
    return Offline(cli, root.path)
