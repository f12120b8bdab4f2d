"""`make demo` shows the main job to everybody: on the embedded data root where no engine can be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fixtures.demo import ARCHIVE, unpack
from tests.cli import Cli
from tests.cli_behaviour.snapshots import KEPT

TOP = Path(__file__).parent.parent
NOBODY = 65534
PACKAGED = ("__init__.py", "demo.py", ARCHIVE.name)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A copy of the demo in a directory that everybody may write to."""
    with tempfile.TemporaryDirectory(prefix="layerscope-demo-") as name:
        copy = Path(name)
        (copy / "fixtures").mkdir()
        for file in PACKAGED:
            shutil.copy(TOP / "fixtures" / file, copy / "fixtures" / file)
        copy.chmod(0o777)
        yield copy


def demo(place: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    environment = {
        **Cli.clean_environment(),
        "DOCKER_HOST": "unix:///nonexistent.sock",
        "PYTHONPATH": str(TOP),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "100",
    }
    return subprocess.run(
        [*before, sys.executable, "fixtures/demo.py", *arguments],
        capture_output=True,
        text=True,
        cwd=place,
        env=environment,
        timeout=60,
    )


def shows_the_main_job(done: subprocess.CompletedProcess[str]) -> None:
    """What is printed is what the snapshots have, but for where the data root lies."""
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "embedded demo data root" in done.stdout
    assert done.stdout.count("$ layerscope ") == 4
    for name in ("ls-100", "image-100", "container-100"):
        kept = (KEPT / f"{name}.txt").read_text().partition("--- stdout\n")[2].partition("--- stderr\n")[0]
        for paragraph in kept.split("\n\n"):
            if "/var/lib/docker" not in paragraph:
                assert paragraph.strip("\n") in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="this one is for root")
def test_demo_as_root(place: Path) -> None:
    shows_the_main_job(demo(place))
    assert unpack(place / ".demo/data-root") == []


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="takes root and setpriv")
def test_demo_as_an_ordinary_user(place: Path) -> None:
    """Without a right but to read where Python lies, which may be in root's home."""
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    keep = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", "--"]
    shows_the_main_job(demo(place, before=[*drop, *keep]))
    assert (place / ".demo/data-root").stat().st_uid == NOBODY
    # What root finds afterwards are user.* marks: the demo knows, and says so to layerscope.
    assert unpack(place / ".demo/data-root") == ["--overlay-options", "userxattr"]


@pytest.mark.skipif(os.geteuid() == 0, reason="this one is for an ordinary user")
def test_demo_as_whoever_runs_the_tests(place: Path) -> None:
    shows_the_main_job(demo(place))


def test_unpacked_entries_keep_their_times(tmp_path: Path) -> None:
    """Those of directories and symlinks, too, which are easily lost."""
    unpack(tmp_path / "data-root")
    with tarfile.open(ARCHIVE) as tar:
        for member in tar:
            found = (tmp_path / "data-root" / member.name).lstat().st_mtime
            assert abs(found - member.mtime) < 0.001, member.name


def test_demo_of_an_image_that_is_not_there_fails(place: Path) -> None:
    done = demo(place, "nothing:1")
    assert done.returncode == 3
    assert "$ layerscope image nothing:1" in done.stdout and "error: " in done.stderr


def test_a_damaged_archive_writes_nothing_outside(place: Path) -> None:
    with tarfile.open(place / "fixtures" / ARCHIVE.name, "w:gz") as tar:
        for name, link in (("escape", "/tmp"), ("escape/file", None)):
            member = tarfile.TarInfo(name)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member)
    done = demo(place)
    assert done.returncode != 0 and "damaged" in done.stderr
    assert not Path("/tmp/file").exists()


def make(*arguments: str) -> str:
    if not shutil.which("make"):
        pytest.skip("no make here")
    # Of a `make test` that runs this very test, nothing is to be inherited.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-n", "-B", *arguments], capture_output=True, text=True, cwd=TOP, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_targets_run_files_that_are_there() -> None:
    said = make("demo", "test", "fast", "lint", "bench")
    named = {word for word in said.split() if word.endswith(".py")}
    assert named == {"fixtures/demo.py", "tests/with_engine.py"}
    assert all((TOP / name).exists() for name in named)
    assert "python3 -m venv .venv" in said


def test_make_demo_needs_no_test_dependency_and_takes_an_image() -> None:
    said = make("demo", "IMAGE=busybox:1.36")
    assert "fixtures/demo.py busybox:1.36" in said
    assert "--editable ." in said and "[test" not in said


def test_make_test_installs_what_tests_need_and_passes_options_on() -> None:
    said = make("test", "PYTEST=-x")
    assert "[test]" in said and "tests/with_engine.py .venv/bin/pytest -n 2 -x" in said


def test_what_an_older_demo_left_is_made_anew(tmp_path: Path) -> None:
    root = tmp_path / "data-root"
    (root / "overlay2" / "stale").mkdir(parents=True)
    (tmp_path / "options-0123456789abcdef").write_text("")
    unpack(root)
    assert not (root / "overlay2" / "stale").exists()
    unpack(root)
    assert (root / "image").is_dir()
