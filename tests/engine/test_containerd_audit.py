"""``audit`` on the containerd image store: what every plant shows there is what it shows on overlay2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli import Cli
from tests.dockerd import Engine
from tests.engine.test_audit import build, places
from tests.planted import PLANTS

BUILDERS = ["classic", "buildkit"]


@pytest.fixture(params=BUILDERS)
def builder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def there(containerd: Engine, tmp_path: Path) -> Cli:
    """The command line on that engine."""
    return Cli(tmp_path, {"DOCKER_HOST": containerd.host, "XDG_CACHE_HOME": str(tmp_path / "cache")})


def findings(cli: Cli, *arguments: str) -> list[dict[str, Any]]:
    answer = cli.ok("audit", *arguments, "--json", "--exit-zero").json
    assert answer["warnings"] == [] and answer["scanned"]["skipped"] == []
    found: list[dict[str, Any]] = answer["findings"]
    return found


def told(finding: dict[str, Any]) -> tuple[Any, ...]:
    """All of a finding but where this store keeps it.

    What a RUN made anew is opaque on overlay2; containerd unpacks tars, in which each file has a whiteout.
    """
    layer, by = finding["layer"], finding["hidden_by"]
    return (
        *(finding[name] for name in ("rule_id", "confidence", "exposure", "path", "line", "column", "fingerprint")),
        layer and (layer["index"], layer["role"]),
        by and (by["layer"], by["reason"].replace("opaque", "whiteout")),
    )


def comparable(found: list[dict[str, Any]], builder: str) -> list[tuple[Any, ...]]:
    """A second name for a file copies it up on overlay2; BuildKit's layer in containerd has the new name only."""
    ignored = "app/link-a" if builder == "buildkit" else None
    return sorted((told(finding) for finding in found if finding["path"] != ignored), key=repr)


def test_findings_are_those_of_overlay2(
    engine: Engine, containerd: Engine, builder: str, cli: Cli, there: Cli
) -> None:
    cli.environment["XDG_CACHE_HOME"] = there.environment["XDG_CACHE_HOME"]
    here, image = findings(cli, build(engine, builder)), build(containerd, builder)
    found = findings(there, image)
    assert comparable(found, builder) == comparable(here, builder)
    for plant in PLANTS:
        assert places(found, plant), plant
    for finding in found:
        assert finding["exposure"] == "config" or Path(finding["on_disk_path"]).is_file()
    offline = Cli(there.directory, {"XDG_CACHE_HOME": there.environment["XDG_CACHE_HOME"]})
    assert findings(offline, image, "--data-root", str(containerd.data_root)) == found
