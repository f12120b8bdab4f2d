"""Secrets in archives and in git, in layers that real builders made: found, and told with what hides them."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli import Cli
from tests.dockerd import BASE, Engine
from tests.secrets.archive_files import zipped
from tests.secrets.specimens import github_token

TAG = "layerscope-test/archives:1"
IN_ZIP, IN_GIT = github_token(81), github_token(82)
DOCKERFILE = f"""
FROM {BASE}
COPY app.jar /srv/app.jar
ADD app.tar /srv/
RUN rm -r /srv/app.jar /srv/app/.git
"""


def repository(place: Path) -> bytes:
    """A tar of a repository in which a token was committed, removed, and packed."""
    work = place / "app"
    work.mkdir()

    def git(*arguments: str) -> None:
        people = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *people, *arguments], cwd=work, check=True, capture_output=True)

    git("init", "--quiet")
    for content in (f"TOKEN={IN_GIT}\n", "TOKEN=\n"):
        (work / "settings.env").write_text(content)
        git("add", "--all")
        git("commit", "--quiet", "--message=change")
    git("repack", "-adq")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(work, "app")
    return out.getvalue()


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("git") is None:
        pytest.skip("git makes the repository")
    files = {"app.jar": zipped({"config.properties": f"token={IN_ZIP}\n".encode()})}
    return engine.build(TAG, DOCKERFILE, files={**files, "app.tar": repository(tmp_path_factory.mktemp("git"))})


def findings(cli: Cli, *arguments: str) -> dict[str, dict[str, Any]]:
    """By the last two characters of the token."""
    answer = cli.ok("audit", TAG, *arguments, "--json", "--exit-zero").json
    return {finding["redacted"].partition("…")[2][:2]: finding for finding in answer["findings"]}


def test_they_are_found_with_what_hides_them_unless_nobody_wants_it(
    engine: Engine, image: str, cli: Cli, tmp_path: Path
) -> None:
    cli.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    for options in (["--git"], ["--git", "--data-root", str(engine.data_root)], ["--git", "--no-cache"]):
        found = findings(cli, *options)
        assert found.keys() == {IN_ZIP[-2:], IN_GIT[-2:]}
        jar, git = found[IN_ZIP[-2:]], found[IN_GIT[-2:]]
        assert jar["path"] == "srv/app.jar!/config.properties"
        assert jar["on_disk_path"].endswith("/srv/app.jar")
        assert git["path"].startswith("srv/app/.git!/")
        assert git["path"].endswith(":settings.env")
        assert git["on_disk_path"].endswith(".pack")
        assert "ADD" in git["created_by"]
        for finding in (jar, git):
            assert Path(finding["on_disk_path"]).is_file()
            assert finding["exposure"] == "deleted"
            assert "rm -r" in finding["hidden_by"]["created_by"]
    # What was kept of one run answers no other question.
    assert findings(cli).keys() == {IN_ZIP[-2:]}
    assert findings(cli, "--no-archives", "--git").keys() == {IN_GIT[-2:]}
    assert findings(cli, "--no-archives").keys() == set()
