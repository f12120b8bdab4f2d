"""Fixtures of the command line's tests: the demo data root, and layerscope on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.demo import unpack
from tests.cli import Cli
from tests.stores.offline import InProcess


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data root."""
    root = tmp_path_factory.mktemp("demo") / "data-root"
    unpack(root)
    return root


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may read, and all above it."""
    place = Path(tempfile.mkdtemp(prefix="layerscope-public-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def shop(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """layerscope on the demo data root, in this process and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return InProcess(tmp_path, {"LAYERSCOPE_DATA_ROOT": str(demo)})


@pytest.fixture
def shop_process(demo: Path, tmp_path: Path) -> Cli:
    """The same, in a process of its own: where the process itself is what is tested."""
    return Cli(tmp_path, {"LAYERSCOPE_DATA_ROOT": str(demo)})
