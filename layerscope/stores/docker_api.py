"""The store of a running engine: names and chains from the Docker API, layers and configurations from its disk.

The API is the first witness (``GraphDriver.Data``, ``RootFS``, history, container state), the data root the
second; where they disagree a warning names both values. The only module that imports ``docker``, and only when
an engine is asked: the import takes as long as a whole short command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, TypeVar

from layerscope.errors import (
    EngineError,
    EngineUnreachableError,
    StoragePermissionError,
)
from layerscope.model import CacheId, Caution, ContainerId, ImageId, Source, Target, Warn
from layerscope.stores import records
from layerscope.stores.classic import ClassicStore
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.images import ImageRecord, image_record, sort_references
from layerscope.stores.layerdb import LayerRecord, MountRecord
from layerscope.stores.records import BrokenRecord
from layerscope.timestamps import from_unix

TIMEOUT_SECONDS: Final = 60
DEFAULT_ENDPOINT: Final = "unix:///var/run/docker.sock"
Answer = TypeVar("Answer")


class Engine:
    """A connection to a Docker engine; every failure is a LayerscopeError."""

    def __init__(self, host: str | None) -> None:
        import docker
        from docker.errors import DockerException

        environment = dict(os.environ)
        if host:
            environment["DOCKER_HOST"] = host
        self.endpoint = environment.get("DOCKER_HOST") or DEFAULT_ENDPOINT
        try:
            if not environment.get("DOCKER_HOST"):
                self.endpoint = _endpoint_of_context(environment.get("DOCKER_CONTEXT"))
            client = docker.from_env(environment=environment, version="auto", timeout=TIMEOUT_SECONDS)
        except DockerException as error:
            raise self._unreachable(error) from error
        except (ValueError, TypeError, AttributeError) as error:
            # A malformed host, config.json or context makes docker-py fail in any of these ways.
            raise EngineUnreachableError(
                f"the settings for the Docker engine at {self.endpoint} can't be used: {str(error)[:200]}",
                "look at DOCKER_HOST or --host and ~/.docker/config.json, or read a disk: --data-root DIR",
            ) from error
        self.client: Any = client.api

    def ask(self, question: Callable[[Any], Answer]) -> Answer:
        """Put a question to the API. Raises EngineError."""
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        try:
            return question(self.client)
        except (DockerException, RequestException) as error:
            explanation = str(getattr(error, "explanation", None) or error)
            raise EngineError(
                f"the engine at {self.endpoint} answered: {explanation[:300]}",
                "look into the engine's log, or read the disk without it: --data-root DIR",
            ) from error

    def _unreachable(self, error: BaseException) -> EngineUnreachableError | StoragePermissionError:
        reason = _os_error(error)
        if isinstance(reason, PermissionError):
            return StoragePermissionError(
                f"no permission to talk to the Docker engine at {self.endpoint}",
                "run it as root (sudo), or join the group `docker`; layer directories need root in any case",
            )
        detail = reason.strerror if reason is not None and reason.strerror else str(error)[:200]
        return EngineUnreachableError(
            f"no Docker engine answers at {self.endpoint}: {detail}",
            "start it, name another with --host, or read a disk without one: --data-root /var/lib/docker",
        )


def _endpoint_of_context(name: str | None) -> str:
    """Where the Docker context of that name, or the current one, has its engine."""
    from docker.context import ContextAPI

    context = ContextAPI.get_context(name)
    if context is None:
        raise EngineUnreachableError(
            f"there is no Docker context {name!r}" if name else "the current Docker context does not exist",
            "`docker context ls` lists those that exist; DOCKER_HOST or --host name an engine without one",
        )
    return str(context.Host or DEFAULT_ENDPOINT)


def _os_error(error: BaseException | object) -> OSError | None:
    """The operating system's error inside the ones that requests and urllib3 wrap around it."""
    seen: list[object] = [error]
    for item in seen:
        if isinstance(item, OSError) and item.errno is not None:
            return item
        if isinstance(item, BaseException) and len(seen) < 50:
            seen += [*item.args, item.__cause__, item.__context__]
    return None


class DockerApiStore:
    """Images and containers as a running engine names them, over its data root.

    With the containerd image store the disk names the images, and the directories, which the engine does not.
    """

    def __init__(self, engine: Engine, disk: ClassicStore | ContainerdStore, warn: Warn) -> None:
        self.engine = engine
        self.disk = disk
        self.warn = warn

    @property
    def parts(self) -> tuple[DockerApiStore]:
        return (self,)

    @property
    def source(self) -> Source:
        return replace(self.disk.source, kind="docker-api", in_use=True)

    def images(self) -> list[ImageRecord]:
        return self._images

    def containers(self) -> list[ContainerRecord]:
        return self._containers

    def broken(self) -> list[BrokenRecord]:
        return []  # what the disk does not give, the engine does

    @cached_property
    def _images(self) -> list[ImageRecord]:
        if isinstance(self.disk, ContainerdStore):
            # What the engine would list is in the same database; it needs 25 ms an image for adding up sizes.
            return self.disk.images()
        on_disk = {image.id: image for image in self.disk.images()}
        found = []
        for answer in self.engine.ask(lambda client: client.images(all=True)):
            identifier = records.image_id(answer.get("Id"))
            if identifier is None:
                continue
            references = sort_references(_names(answer, "RepoTags") + _names(answer, "RepoDigests"))
            image = on_disk.get(identifier) or self._image_by_api(identifier, references)
            if image.references != references:
                self._differ("references-mismatch", f"names of {identifier}", references, image.references)
            found.append(replace(image, references=references))
        return sorted(found, key=lambda image: image.id)

    def _image_by_api(self, identifier: ImageId, references: tuple[str, ...]) -> ImageRecord:
        """An image whose configuration the disk does not give: from inspect and history."""
        answer = self.engine.ask(lambda client: client.inspect_image(identifier))
        steps = self.engine.ask(lambda client: client.history(identifier))
        layers = _layers(answer)
        history = [
            {
                "created_by": step.get("CreatedBy"),
                "created": from_unix(step.get("Created") or 0),
                "comment": step.get("Comment"),
            }
            for step in reversed(steps)
        ]
        if len(history) != len(layers):
            history = []  # the API does not say which steps are empty; without the file nobody can
        config = {
            "rootfs": {"diff_ids": layers},
            "history": history,
            "config": answer.get("Config"),
            "created": answer.get("Created"),
        }
        parent = records.image_id(answer.get("Parent"))
        return image_record(identifier, references, config, parent, f"of {identifier} in the engine's answer")

    @cached_property
    def _containers(self) -> list[ContainerRecord]:
        on_disk = {container.id: container for container in self.disk.containers()}
        found = []
        for answer in self.engine.ask(lambda client: client.containers(all=True)):
            identifier = records.container_id(answer.get("Id"))
            if identifier is None:
                continue
            names = [name.removeprefix("/") for name in answer.get("Names") or ()]
            own = [name for name in names if "/" not in name]  # others are links of another container
            stored = on_disk.get(identifier)
            if stored is None:
                self._differ("container-mismatch", f"container {identifier}", names, "no record")
                stored = _container_by_api(identifier, answer, self.disk.source.driver)
            name = own[0] if own else stored.name
            if name != stored.name:
                self._differ("container-mismatch", f"name of container {identifier}", name, stored.name)
            found.append(replace(stored, name=name, state=answer.get("State") or stored.state))
        return sorted(found, key=lambda container: container.id)

    def image_layers(self, image: ImageRecord) -> list[LayerRecord]:
        return self.disk.image_layers(image)

    def container_mount(self, container: ContainerRecord) -> MountRecord:
        return self.disk.container_mount(container)

    def image_target(self, image: ImageRecord) -> Target:
        answer = self.engine.ask(lambda client: client.inspect_image(image.id))
        if isinstance(self.disk, ContainerdStore):
            target = self._at_source(self.disk.image_target(image, images=self.images()))
            packed = any(layer.tar is not None for layer in target.stack)  # of such the engine has no history
            if self.disk.platform is None and not packed:  # with a platform it may tell of another one
                self._compare_image(image, answer)
            tags = [name for name in image.references if "@" not in name]  # it makes up a digest for each name
            if sorted(_names(answer, "RepoTags")) != sorted(tags):
                self._differ("references-mismatch", f"names of {image.id}", _names(answer, "RepoTags"), tags)
            return target
        self._compare_image(image, answer)
        seen = self._told(self.disk, answer, image.name, expected=bool(image.diff_ids))
        return self._at_source(self.disk.image_target(image, seen=seen, images=self.images()))

    def _compare_image(self, image: ImageRecord, answer: dict[str, Any]) -> None:
        if tuple(_layers(answer)) != image.diff_ids:
            self._differ("layers-mismatch", f"diff_ids of {image.name}", _layers(answer), image.diff_ids)
        steps = self.engine.ask(lambda client: client.history(image.id))
        told = [step.get("CreatedBy") or None for step in reversed(steps)]
        stored = [step.created_by for step in image.history]
        if stored and told != stored:
            self._differ("history-mismatch", f"history of {image.name}", told, stored)

    def container_target(self, container: ContainerRecord) -> Target:
        answer = self.engine.ask(lambda client: client.inspect_container(container.id))
        if isinstance(self.disk, ContainerdStore):
            return self._at_source(self.disk.container_target(container, images=self.images()))
        seen = self._told(self.disk, answer, container.name, expected=True)
        return self._at_source(self.disk.container_target(container, seen=seen, images=self.images()))

    def _at_source(self, target: Target) -> Target:
        return replace(target, source=self.source)

    def _told(
        self, disk: ClassicStore, answer: dict[str, Any], name: str, *, expected: bool
    ) -> list[CacheId] | None:
        """The layer directories in ``GraphDriver.Data``, base first; None where the engine gives none."""
        found = disk.told_by_engine((answer.get("GraphDriver") or {}).get("Data") or {})
        if found is None and expected:
            message = f"the engine gives no layer paths for {name}; the chain is the disk's"
            self.warn(Caution("no-graphdriver-data", None, message))
        return found

    def _differ(self, code: str, what: str, told: Sequence[object] | str, stored: Sequence[object] | str) -> None:
        self.warn(Caution(code, self.disk.root.path, f"{what}: the engine says {told!r}, the disk says {stored!r}"))


def _names(answer: dict[str, Any], field: str) -> list[str]:
    return [name for name in answer.get(field) or () if "<none>" not in name]


def _layers(answer: dict[str, Any]) -> list[str]:
    return list((answer.get("RootFS") or {}).get("Layers") or ())


def _container_by_api(identifier: ContainerId, answer: dict[str, Any], driver: str | None) -> ContainerRecord:
    return ContainerRecord(
        id=identifier,
        name=identifier,
        image=answer.get("Image"),
        image_id=records.image_id(answer.get("ImageID")),
        driver=driver,
        state=answer.get("State") or "unknown",
        created=from_unix(answer.get("Created") or 0),
        config={},
    )
