"""Configurations in which any value has become something else: an answer or one error, never a traceback."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli import Result
from tests.dataroot import FakeRoot, StoredContainer, StoredImage
from tests.stores.offline import InProcess, Offline, failure_of

EXAMPLES: Final = int(os.environ.get("LAYERSCOPE_RANDOM_RECORDS", "20"))

Step = str | int
Place = tuple[Step, ...]

LONE_SURROGATE: Final = "\ud800"
ODD_TEXTS: Final = [
    "", "/", "..", "../../../etc/passwd", "sha256:", "sha256:" + "0" * 64, "0" * 64, "a\nb", "\x1b[2J", "\x00",
    "\u202e", LONE_SURROGATE, "\udc80", "9999-99-99T99:99:99Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59",
    "true", "x" * 5000,
]  # fmt: skip
SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**63, 10**30, float("nan"), float("inf"), -0.0, 1e308]),
    st.text(max_size=8),
    st.sampled_from(ODD_TEXTS),
)
VALUES: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Image", "a"]), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Where there is a value: by key or index, from the top."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def replaced(value: Any, place: Place, new: Any) -> Any:
    """A copy with another value at one place."""
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


class World:
    """A data root with an image and a container to break, and others that must stay whole."""

    def __init__(self, directory: Path) -> None:
        self.root = FakeRoot(directory / "docker")
        base = self.root.layer({"base": "1"})
        healthy = self.root.image("healthy:1", [base])
        self.root.container("healthy", healthy)
        steps = [{"created": "2024-01-01T00:00:00Z", "created_by": "ADD", "comment": "c"}]
        steps.append({**steps[0], "created_by": "ENV", "empty_layer": True})  # type: ignore[dict-item]
        self.image: StoredImage = self.root.image("app:1", [base, self.root.layer({"a": "1"})], history=steps)
        self.container: StoredContainer = self.root.container("web", self.image, upper={"b": "1"})
        self.offline = Offline(InProcess(directory), self.root.path)

    def check(self, *arguments: str) -> Result:
        """Run a command: an answer that the schema knows, or one error and one hint."""
        if self.offline(*arguments).code:
            return self.fails(*arguments)
        self.offline.json(*arguments)
        table = self.offline(*arguments)
        assert table.code == 0
        assert table.out.isascii() or "\u202e" not in table.out
        assert "\x1b" not in table.out + table.err
        return table

    def fails(self, *arguments: str) -> Result:
        result = self.offline(*arguments)
        failure_of(result)
        return result


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as directory:
        yield World(Path(directory))


def broken(path: Path, data: st.DataObject) -> str:
    """The content of a record in which one or two values have changed."""
    config = json.loads(path.read_text())
    for _ in range(data.draw(st.integers(1, 2), label="changes")):
        place = data.draw(st.sampled_from([*places(config)]), label="place")
        config = replaced(config, place, data.draw(VALUES, label="value"))
    return json.dumps(config)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_image_config_with_any_value_of_another_type(world: World, data: st.DataObject) -> None:
    path = world.image.config
    saved = path.read_text()
    try:
        path.write_text(broken(path, data))
        world.check("image", world.image.id)
        world.check("container", "web")
        world.check("ls")
        assert "healthy:1" in world.offline.names()[0]
    finally:
        path.write_text(saved)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_container_config_with_any_value_of_another_type(world: World, data: st.DataObject) -> None:
    path = world.container.config
    saved = path.read_text()
    try:
        path.write_text(broken(path, data))
        world.check("container", world.container.id)
        world.check("ls")
        assert "healthy" in world.offline.names()[1]
    finally:
        path.write_text(saved)


@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_names_with_any_value_of_another_type(world: World, data: st.DataObject) -> None:
    """The images are all there, whatever they are called."""
    path = world.root.repositories_path
    saved = path.read_text()
    try:
        path.write_text(broken(path, data))
        world.check("ls")
        listed = {image["id"] for image in world.offline.json("ls")["images"]}
        assert world.image.id in listed
        assert len(listed) == 2
        world.check("image", world.image.id)
    finally:
        path.write_text(saved)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    data=st.data(),
    content=st.binary(max_size=80) | st.sampled_from(ODD_TEXTS).map(lambda t: t.encode("utf-8", "replace")),
)
def test_any_record_with_any_bytes(world: World, data: st.DataObject, content: bytes) -> None:
    image, container = world.image, world.container
    records = [
        *(layer.record / name for layer in image.layers for name in ("cache-id", "diff", "size")),
        image.layers[1].record / "parent",
        *(container.mount / name for name in ("mount-id", "init-id", "parent")),
        *(directory.path / name for directory in (container.upper, container.init) for name in ("link", "lower")),
        image.config,
        container.config,
        world.root.repositories_path,
    ]
    path = data.draw(st.sampled_from(records), label="record")
    saved = path.read_bytes()
    try:
        path.write_bytes(content)
        world.check("ls")
        world.check("image", "app:1")
        world.check("container", "web")
    finally:
        path.write_bytes(saved)
