"""Containers as the daemon keeps them: ``containers/<id>/config.v2.json``.

Source: moby ``daemon/container/container.go``. The file names no layer; layerdb does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from layerscope.errors import CorruptStoreError, StoragePermissionError, UnsupportedStoreError
from layerscope.model import Caution, ContainerId, ImageId, TargetKind, Warn
from layerscope.stores import records
from layerscope.stores.records import BrokenRecord, DataRoot
from layerscope.timestamps import from_rfc3339


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """A container, in whatever state."""

    id: ContainerId
    name: str
    """Without the leading slash."""
    image: str | None
    """The image as it was named when the container was made."""
    image_id: ImageId | None
    driver: str | None
    state: str
    created: str | None
    config: dict[str, Any]
    config_path: str | None = None
    """The file on disk that holds ``config``; None where there is none."""
    snapshot: str | None = None
    """The key of its read-write snapshot in containerd, where that is not its id."""


class ContainerDb:
    """The containers of a data root."""

    def __init__(self, root: DataRoot, driver: str, warn: Warn, others: frozenset[str] = frozenset()) -> None:
        """``others`` are drivers whose containers somebody else reads."""
        self.root = root
        self.driver = driver
        self.others = others
        self.warn = warn
        self.broken: list[BrokenRecord] = []
        """The containers that ``all`` left out."""

    def all(self) -> list[ContainerRecord]:
        """Every readable container of this driver, by id. Any other is a warning and left out."""
        found = []
        for name in self.root.names("containers"):
            identifier = records.container_id(name)
            if identifier is None:
                self._warn("broken-container", name, "container left out: its name is no container id")
                continue
            names: tuple[str, ...] = ()
            try:
                container = self.read(identifier)
                names = (container.name,)
                if container.driver in self.others:
                    continue
                self._require_driver(container)
            except (CorruptStoreError, StoragePermissionError, UnsupportedStoreError) as error:
                self.broken.append(BrokenRecord(TargetKind.CONTAINER, identifier, names, error))
                code = "other-driver" if isinstance(error, UnsupportedStoreError) else "broken-container"
                self._warn(code, name, f"container left out: {error.message}")
            else:
                found.append(container)
        return found

    def read(self, identifier: ContainerId) -> ContainerRecord:
        """One container. Raises CorruptStoreError."""
        path = f"containers/{identifier}/config.v2.json"
        config = self.root.json(path)
        if config is None:
            raise CorruptStoreError(
                f"the container {identifier} has no {self.root.join(path)}",
                "`docker rm -f` removes such a container; a restart of the engine forgets it",
            )
        if config.get("ID") != identifier:
            told = f"names itself {str(config.get('ID'))[:80]!r}; its directory's name is taken for its id"
            self._warn("container-mismatch", identifier, told)
        inner = config.get("Config")
        return ContainerRecord(
            id=identifier,
            name=(_text(config.get("Name")) or "").removeprefix("/") or identifier,
            image=_text(inner.get("Image")) if isinstance(inner, dict) else None,
            image_id=records.image_id(config.get("Image")),
            driver=_text(config.get("Driver")),
            state=state_name(config.get("State")),
            created=from_rfc3339(config.get("Created")),
            config=config,
            config_path=self.root.join(path),
        )

    def _require_driver(self, container: ContainerRecord) -> None:
        if container.driver is None:
            raise CorruptStoreError(
                f"the container {container.name} names no storage driver",
                "its config.v2.json is damaged; restore it, or remove the container",
            )
        if container.driver != self.driver:
            raise UnsupportedStoreError(
                f"the container {container.name} belongs to the storage driver {container.driver[:80]}",
                f"the data root was used with that driver, too; layerscope reads {self.driver}",
            )

    def _warn(self, code: str, name: str, message: str) -> None:
        self.warn(Caution(code, self.root.join("containers", name), message))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def state_name(state: object) -> str:
    """Docker's word for a container's state (moby ``daemon/container/state.go``, ``State``)."""
    if not isinstance(state, dict):
        return "unknown"
    if state.get("Running"):
        if state.get("Paused"):
            return "paused"
        return "restarting" if state.get("Restarting") else "running"
    if state.get("RemovalInProgress"):
        return "removing"
    if state.get("Dead"):
        return "dead"
    return "created" if from_rfc3339(state.get("StartedAt")) is None else "exited"
