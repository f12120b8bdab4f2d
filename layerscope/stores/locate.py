"""Finds out what a directory holds: which image store, of which driver, and where containerd keeps its part.

Sources: moby ``daemon/command/daemon.go`` and ``daemon/internal/libcontainerd/supervisor`` (a containerd that the
engine runs itself keeps its data below the engine's); containerd ``docs/ops.md``.
"""

from __future__ import annotations

import os
import re
import tomllib
from typing import Any, Final

from layerscope.errors import DataRootError, LayerscopeError, UnsupportedStoreError
from layerscope.model import Caution, Warn
from layerscope.stores import overlay, overlay2
from layerscope.stores.metadata import Namespace, read_namespace, read_namespaces
from layerscope.stores.records import DataRoot
from layerscope.stores.snapshots import META, SNAPSHOTTER

CLASSIC: Final = (overlay2.DRIVER, overlay.DRIVER)
"""The graph drivers that are read, the newer one first."""
SUPPORTED: Final = (
    f"supported: the graph drivers {' and '.join(CLASSIC)}, and the containerd image store with the snapshotter"
    f" {SNAPSHOTTER}"
)
REMAPPED: Final = re.compile(r"\d+\.\d+")
"""The data root of an engine with ``userns-remap``, below the other: ``<uid>.<gid>``."""
DOCKER: Final = "moby"
"""The namespace of a Docker engine."""
MANAGED: Final = ("containerd", "daemon")
SYSTEM_ROOT: Final = "/var/lib/containerd"
SYSTEM_CONFIG: Final = "/etc/containerd/config.toml"
SYSTEM_SOCKETS: Final = ("/run/containerd/containerd.sock", "/var/run/containerd/containerd.sock")
_DRIVERS: Final = (
    "aufs", "btrfs", "devicemapper", "fuse-overlayfs", "overlayfs", "vfs", "windowsfilter", "zfs",
)  # fmt: skip
_PODMAN: Final = re.compile(r"(.+)-(?:images|layers|containers)")
"""A directory of containers/storage; the name begins with the driver's."""


def is_remapped(root: DataRoot) -> bool:
    return REMAPPED.fullmatch(os.path.basename(root.path)) is not None


def docker_namespace(root: DataRoot) -> str:
    """The containerd namespace of the engine with this data root (moby ``daemon/config``, ``RemappedRoot``)."""
    return f"{DOCKER}-{os.path.basename(root.path)}" if is_remapped(root) else DOCKER


def classic_drivers(root: DataRoot, *, beside: bool) -> list[str]:
    """The supported graph drivers of a data root: those that hold something, or without one the first ever used.

    ``beside``: there is another store, so that an empty one does not matter.
    """
    used = [name for name in CLASSIC if _is_used(root, name)]
    return [name for name in used if holds(root, name)] or ([] if beside else used[:1])


def _is_used(root: DataRoot, driver: str) -> bool:
    """Whether an engine ever used this graph driver here. Others, too, call a directory `overlay`."""
    return root.is_directory("image", driver) or (driver == overlay2.DRIVER and root.is_directory(driver, "l"))


def holds(root: DataRoot, driver: str) -> bool:
    """Whether there are layers or images of a graph driver."""
    if not _is_used(root, driver):
        return False
    stored = root.names("image", driver, "imagedb/content/sha256") if root.is_directory("image", driver) else []
    return bool(stored) or (root.is_directory(driver) and any(name != "l" for name in root.names(driver)))


def containerd_beside(root: DataRoot) -> list[DataRoot]:
    """Where containerd's data may lie on the disk that a data root is on; existing places only.

    Below it, when the engine runs containerd itself, else where ``/var/lib/containerd`` is beside
    ``/var/lib/docker``. The data root of a remapped engine lies in the engine's own.
    """
    engine = DataRoot(os.path.dirname(root.path)) if is_remapped(root) else root
    places = [engine.join(*MANAGED), os.path.join(os.path.dirname(engine.path), "containerd")]
    return [place for place in map(DataRoot, places) if place.is_directory(os.path.dirname(META))]


def system_containerd() -> DataRoot:
    """Where this machine's containerd keeps its data."""
    try:
        with open(SYSTEM_CONFIG, "rb") as file:
            told = tomllib.load(file).get("root")
    except (OSError, ValueError):
        told = None
    return DataRoot(told if isinstance(told, str) and told.startswith("/") else SYSTEM_ROOT)


def containerd_of_engine(root: DataRoot, info: dict[str, Any]) -> list[DataRoot]:
    """Where the containerd of a running engine may keep its data, the likeliest place first.

    ``info`` tells the socket of containerd since API 1.46 (engine 27).
    """
    beside = containerd_beside(root)
    system = system_containerd()
    if not system.is_directory(os.path.dirname(META)):
        return beside
    told = info.get("Containerd")
    address = told.get("Address") if isinstance(told, dict) else None
    return [system, *beside] if address in SYSTEM_SOCKETS else [*beside, system]


def used_namespace(places: list[DataRoot], name: str) -> tuple[DataRoot, Namespace] | None:
    """The first of these places where a namespace has images or snapshots."""
    for place in places:
        namespace = read_namespace(place, name)
        if namespace is not None and namespace.is_used:
            return place, namespace
    return None


def require_namespace(root: DataRoot, name: str) -> Namespace:
    """What a namespace of a containerd root holds. Raises DataRootError when there is none of that name."""
    namespaces = read_namespaces(root)
    if namespaces is None:
        raise DataRootError(
            f"{root.path} is not containerd's data: it has no {META}",
            "often it is /var/lib/containerd, or containerd/daemon in a Docker data root",
        )
    namespace = read_namespace(root, name)
    if namespace is None:
        raise DataRootError(
            f"containerd has no namespace {name!r} in {root.path}",
            f"it has: {', '.join(namespaces)}; name one with --namespace" if namespaces else "it has none at all",
        )
    return namespace


def require_snapshotter(root: DataRoot, namespace: Namespace, warn: Warn) -> None:
    """Warn of snapshotters that can't be read. Raises UnsupportedStoreError when there is no other."""
    others = [name for name in namespace.snapshotters if name != SNAPSHOTTER]
    if others and SNAPSHOTTER not in namespace.snapshotters:
        raise UnsupportedStoreError(
            f"containerd in {root.path} uses the snapshotter {', '.join(others)}, which layerscope can't read",
            SUPPORTED,
        )
    if others:
        message = f"also holds layers of the snapshotter {', '.join(others)}, which are left out"
        warn(Caution("unsupported-driver", root.path, message))


def other_drivers(root: DataRoot) -> list[str]:
    """The graph drivers, other than the supported ones, that an engine kept images with here."""
    return [name for name in _DRIVERS if root.is_directory("image", name)]


def no_store(root: DataRoot) -> LayerscopeError:
    """Why a directory is no data root with a supported store."""
    remapped = [name for name in root.names() if REMAPPED.fullmatch(name) and _is_engines(root, name)]
    if remapped:
        return DataRootError(
            f"{root.path} holds data roots of remapped users: {', '.join(remapped)}",
            f"name one: --data-root {root.join(remapped[0])}",
        )
    drivers = other_drivers(root) or [name for name in _DRIVERS if root.is_directory(name)]
    if drivers:
        return UnsupportedStoreError(
            f"{root.path} is a data root of the storage driver {drivers[0]}, which layerscope can't read",
            SUPPORTED,
        )
    podman = sorted({match[1] for match in map(_PODMAN.fullmatch, root.names()) if match is not None})
    if podman:
        return UnsupportedStoreError(
            f"{root.path} is storage of Podman, Buildah or CRI-O ({', '.join(podman)}), which can't be read",
            SUPPORTED,
        )
    if root.is_directory(os.path.dirname(META)):
        return DataRootError(
            f"{root.path} is containerd's data, not Docker's", f"name it with --containerd-root {root.path}"
        )
    return DataRootError(
        f"{root.path} is not a Docker data root: it has neither image/{overlay2.DRIVER}/ nor {overlay2.DRIVER}/",
        "a data root is the directory that `docker info` shows as Docker Root Dir, often /var/lib/docker",
    )


def _is_engines(root: DataRoot, name: str) -> bool:
    return root.is_directory(name, "image") or root.is_directory(name, "containers")
