"""The texts of an image's or a container's configuration that may hold secrets, each with its place.

Sources: OCI image-spec config.md; moby ``daemon/container/container.go`` (``config.v2.json``). Both builders put
the build arguments that a step sees into its history: ``|2 A=b C=d /bin/sh -c make``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from layerscope.model import Layer, Stack
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.images import ImageRecord

_ARGUMENTS: Final = re.compile(r"(?:RUN )?\|\d+ (.*?)(?: /bin/(?:sh|bash|ash) -|$)", re.DOTALL)
_NEXT_ARGUMENT: Final = re.compile(r" (?=[A-Za-z_]\w*=)")
_NOT_TEXT: Final = frozenset({"history", "rootfs", "container_config"})
DEEPEST: Final = 20


@dataclass(frozen=True, slots=True)
class ConfigText:
    """One text of a configuration."""

    place: str
    """``config.Env.TOKEN``, ``history[3]``, ``history[3].argument.TOKEN``."""
    text: str
    syntax: str
    """A file name that tells the scanner how to read it."""
    file: str | None
    """The file on disk that holds it."""
    created_by: str | None = None
    """The instruction that it comes from."""
    layer: Layer | None = None
    """The layer that this instruction made, if any."""
    repeats: bool = False
    """Much of it stands elsewhere, too: a value counts only where it was not seen before."""


def image_texts(image: ImageRecord, stack: Stack) -> Iterator[ConfigText]:
    """What an image's configuration says: its settings, then its history, the oldest step first."""
    config = image.config
    settings = {key: value for key, value in config.items() if key not in _NOT_TEXT and key != "config"}
    yield from _texts(config.get("config"), "config", image.config_path)
    yield from _history(image, stack)
    yield from _texts(settings, "", image.config_path)
    # The legacy builder's own container: mostly what `config` says, but also the last step's build arguments.
    yield from _texts(config.get("container_config"), "container_config", image.config_path, repeats=True)


def container_texts(container: ContainerRecord) -> Iterator[ConfigText]:
    """What a container's configuration says; what it has from its image has the same place there."""
    config = container.config
    yield from _texts(config.get("Config"), "config", container.config_path)
    command = {key: config[key] for key in ("Path", "Args") if key in config}
    yield from _texts(command, "", container.config_path, repeats=True)


def _history(image: ImageRecord, stack: Stack) -> Iterator[ConfigText]:
    for index, step in enumerate(image.history):
        layer = stack.layers[step.layer] if step.layer is not None and step.layer < len(stack) else None
        place = f"history[{index}]"
        instruction = step.created_by or ""
        found = _ARGUMENTS.match(instruction)
        for argument in _NEXT_ARGUMENT.split(found[1]) if found else ():
            name = argument.partition("=")[0]
            where = f"{place}.argument.{name}"
            yield ConfigText(where, argument, ".env", image.config_path, instruction, layer, repeats=True)
        for text, syntax in ((instruction, "Dockerfile"), (step.comment or "", "comment.txt")):
            if text:
                yield ConfigText(place, text, syntax, image.config_path, instruction or None, layer, repeats=True)


def _texts(value: Any, place: str, file: str | None, repeats: bool = False, depth: int = 0) -> Iterator[ConfigText]:
    """Every text in a JSON value: ``key=value`` for what stands under a key, the words of a list in one line."""
    name = place.rpartition(".")[2]
    if isinstance(value, str) and value:
        yield ConfigText(place, f"{name}={value}", ".env", file, repeats=repeats)
    elif depth > DEEPEST:
        return
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}".lstrip("."), file, repeats, depth + 1)
    elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        if name == "Env":
            for item in value:
                yield ConfigText(f"{place}.{item.partition('=')[0]}", item, ".env", file, repeats=repeats)
        else:
            yield ConfigText(place, " ".join(value), "Dockerfile", file, repeats=repeats)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{index}]", file, repeats, depth + 1)
