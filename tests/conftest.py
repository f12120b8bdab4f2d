"""Fixtures that more than one test file uses: the real engine, the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cli import Cli
from tests.containerd_engine import engine_directory, engine_in_tree
from tests.dockerd import Engine, EngineMissingError, find_compose, find_engine

REQUIRED = os.environ.get("LAYERSCOPE_REQUIRE_ENGINE") == "1"
HERE = Path(__file__).parent
ENGINE_TESTS = HERE / "engine"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the engine carry its mark, so that `-m "not engine"` leaves out just those.

    Those that prune it come last: nothing that other tests built is left then.
    """
    for item in items:
        if {"engine", "containerd"} & {*getattr(item, "fixturenames", ())} and ENGINE_TESTS in item.path.parents:
            item.add_marker(pytest.mark.engine)
    items.sort(key=lambda item: item.get_closest_marker("prunes") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes run the tests, those that share engines run in one of them, in their order."""
    from xdist.scheduler import LoadScopeScheduling

    class ByEngine(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "engine" if nodeid.startswith(f"{HERE.name}/{ENGINE_TESTS.name}/") else nodeid

    return ByEngine(config, log)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine whose storage this process can read. Skips, or fails where one is required."""
    try:
        found = find_engine()
    except EngineMissingError as error:
        if REQUIRED:
            pytest.fail(f"LAYERSCOPE_REQUIRE_ENGINE=1, but {error}")
        pytest.skip(f"no Docker engine: {error}")
    found.import_base()
    yield found
    found.clean_up()


@pytest.fixture(scope="module")
def containerd() -> Iterator[Engine]:
    """A Docker engine of our own with the containerd image store. Skips, or fails where one is required.

    Each file of tests has one to itself: some leave it in a state that others could not count on.
    """
    with ExitStack() as stack:
        try:
            found = stack.enter_context(engine_in_tree(stack.enter_context(engine_directory())))
        except EngineMissingError as error:
            if REQUIRED:
                pytest.fail(f"LAYERSCOPE_REQUIRE_ENGINE=1, but {error}")
            pytest.skip(f"no engine with the containerd image store: {error}")
        found.import_base()
        yield found


@pytest.fixture(scope="session")
def classic(engine: Engine) -> str:
    """The specimen image, built with the classic builder."""
    return engine.build_specimen("layerscope-test/specimen:classic", buildkit=False)


@pytest.fixture(scope="session")
def buildkit(engine: Engine) -> str:
    """The specimen image, built with BuildKit."""
    return engine.build_specimen("layerscope-test/specimen:buildkit", buildkit=True)


@pytest.fixture(scope="session", params=["classic", "buildkit"])
def specimen(request: pytest.FixtureRequest) -> str:
    """The specimen image, by both builders."""
    name: str = request.getfixturevalue(request.param)
    return name


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs layerscope as a user does, in a process of its own."""
    return Cli(tmp_path)


# -- pytest-docker: Compose v1 knows no --wait, and prints usage instead of failing -----------------------


@pytest.fixture(scope="session")
def docker_compose_command(engine: Engine) -> str:
    command = find_compose(engine.docker_path)
    if command is None:
        pytest.fail("no docker-compose") if REQUIRED else pytest.skip("no docker-compose")
    return command


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(HERE / "docker-compose.yml")


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return "layerscope-test"


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    return ["up --build -d"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    return ["down -v --timeout 0"]
