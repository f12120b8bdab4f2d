"""A container that Compose started from the specimen, as `pytest-docker` does it, against `docker diff`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli import Cli
from tests.dockerd import Engine
from tests.engine.test_container_diff import docker_diff, layerscope_diff

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::ResourceWarning")]

CHANGES = "echo new > /app/new && echo more >> /app/conf/one && rm -r /app/data && mkdir /app/data && rm /built"


@pytest.fixture
def service(engine: Engine, docker_services: Any, docker_compose_project_name: str) -> str:
    """The name of the container of the service `specimen`."""
    project = f"label=com.docker.compose.project={docker_compose_project_name}"
    names = engine.docker("ps", "--filter", project, "--format", "{{.Names}}").split()
    assert len(names) == 1, names
    return names[0]


def test_container_that_compose_started(engine: Engine, service: str, cli: Cli) -> None:
    target = cli.ok("container", service, "--json").json["target"]
    assert (target["name"], target["state"]) == (service, "running")
    assert target["id"] == engine.docker("inspect", "--format", "{{.Id}}", service)
    assert target["image"] == "layerscope-test/specimen:classic"


def test_changes_are_those_of_docker_diff(engine: Engine, service: str, cli: Cli) -> None:
    assert layerscope_diff(cli, service) == docker_diff(engine, service)
    engine.docker("exec", service, "sh", "-c", CHANGES)
    changed = layerscope_diff(cli, service)
    assert changed == docker_diff(engine, service)
    assert {("A", "app/new"), ("C", "app/conf/one"), ("D", "built"), ("D", "app/data/big")} <= changed


def test_it_is_listed_by_name(service: str, cli: Cli) -> None:
    listed = {item["name"]: item["state"] for item in cli.ok("ls", "--json").json["containers"]}
    assert listed[service] == "running"
    assert service in cli.ok("container", service).out
