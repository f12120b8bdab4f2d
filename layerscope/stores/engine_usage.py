"""What the engine itself says about disk space: the figures of ``docker system df``.

Source: moby ``api/types`` (``GET /system/df``). Up to API 1.51 it lists every image, container, volume and record
of the build cache; from 1.52 on it adds them up.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from layerscope.errors import EngineError
from layerscope.stores.docker_api import Engine

_BUSY: Final = "already running"
_PATIENCE_SECONDS: Final = (0.5, 1, 2, 4)
"""How long to wait for another's question: the engine answers only one at a time."""


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """The SIZE column of ``docker system df``; None where the engine does not know."""

    images_bytes: int | None = None
    containers_bytes: int | None = None
    build_cache_bytes: int | None = None
    volumes_bytes: int | None = None


def read_engine_usage(engine: Engine) -> EngineUsage:
    """Ask the engine, which walks its containers and volumes for the answer. Raises EngineError."""
    for seconds in _PATIENCE_SECONDS:
        try:
            return parse_usage(engine.ask(lambda client: client.df()))
        except EngineError as error:
            if _BUSY not in error.message:
                raise
            time.sleep(seconds)
    return parse_usage(engine.ask(lambda client: client.df()))


def parse_usage(answer: Mapping[str, Any]) -> EngineUsage:
    """The figures in an answer of either shape."""
    if isinstance(answer.get("ImageUsage"), dict):
        names = ("ImageUsage", "ContainerUsage", "BuildCacheUsage", "VolumeUsage")
        return EngineUsage(*(_number((answer.get(name) or {}).get("TotalSize", 0)) for name in names))
    cache = (item for item in answer.get("BuildCache") or () if not item.get("Shared"))
    return EngineUsage(
        images_bytes=_number(answer.get("LayersSize")),
        containers_bytes=_sum(item.get("SizeRw", 0) for item in answer.get("Containers") or ()),
        build_cache_bytes=_sum(item.get("Size") for item in cache),
        volumes_bytes=_sum((item.get("UsageData") or {}).get("Size") for item in answer.get("Volumes") or ()),
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _sum(values: Iterable[object]) -> int:
    """What is known of it: the engine says -1 where it could not look."""
    return sum(_number(value) or 0 for value in values)
