"""What `pip install` gives from a clean copy: the command, and all files that it needs. Takes some seconds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.demo import unpack
from layerscope import __version__
from tests.cli import Cli

TOP = Path(__file__).parent.parent
SHIPPED = ("pyproject.toml", "README.md", "LICENSE")
NO_NETWORK = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution|Network is unreachable"
    r"|Name or service not known|timed out|ProxyError|Max retries exceeded"
)


def environment() -> dict[str, str]:
    """Without what could lead to the source tree."""
    kept = {name: value for name, value in Cli.clean_environment().items() if not name.startswith("PYTHON")}
    return {**kept, "COLUMNS": "100", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def files_below(package: Path) -> set[str]:
    found = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with layerscope from a copy of the source; gives its bin directory."""
    place = tmp_path_factory.mktemp("install")
    source = place / "source"
    shutil.copytree(TOP / "layerscope", source / "layerscope", ignore=shutil.ignore_patterns("__pycache__"))
    for name in SHIPPED:
        shutil.copy(TOP / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True, env=environment())
    pip = [sys.executable, "-m", "pip", f"--python={place}/venv/bin/python"]  # faster than a pip of its own
    done = subprocess.run(
        [*pip, "install", "--quiet", "--retries=0", "--no-compile", str(source)],
        capture_output=True,
        text=True,
        cwd=place,
        env=environment(),
        timeout=300,
    )
    if done.returncode and NO_NETWORK.search(done.stderr):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1][:200]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return place / "venv/bin"


def test_installed_command_does_the_main_job(installed: Path, tmp_path: Path) -> None:
    unpack(tmp_path / "data-root")
    (tmp_path / "here").mkdir()

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command], capture_output=True, text=True, cwd=tmp_path / "here", env=environment(), timeout=60
        )

    version = run(f"{installed}/layerscope", "--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"layerscope {__version__}\n", "")
    assert run(f"{installed}/python", "-m", "layerscope", "--version").stdout == version.stdout
    arguments = ("image", "shop/web:1", "--files", "--data-root", str(tmp_path / "data-root"))
    image = run(f"{installed}/layerscope", *arguments)
    assert (image.returncode, image.stderr) == (0, "")
    assert image.stdout == Cli(tmp_path / "here").ok(*arguments, COLUMNS="100").out


def test_every_file_of_the_package_is_installed(installed: Path) -> None:
    packages = list(installed.parent.glob("lib/python*/site-packages/layerscope"))
    assert len(packages) == 1 and not packages[0].is_symlink()
    found = files_below(packages[0])
    assert "py.typed" in found
    assert found == files_below(installed.parent.parent / "source/layerscope")


def test_nothing_but_the_package_is_installed(installed: Path) -> None:
    packages = next(installed.parent.glob("lib/python*/site-packages"))
    ours = {path.name for path in packages.iterdir() if "layerscope" in path.name}
    assert ours == {"layerscope", f"layerscope-{__version__}.dist-info"}
    assert not {"tests", "fixtures", "benchmarks"} & set(os.listdir(packages))
    assert (packages / f"layerscope-{__version__}.dist-info/licenses/LICENSE").exists()
