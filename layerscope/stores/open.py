"""Chooses the store: a data root on disk, or a running engine and its data root."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from layerscope.errors import DataRootError, UnsupportedStoreError, UsageError
from layerscope.model import Caution, OverlayOptions, Source, Warn, XattrFamily
from layerscope.overlay.markers import trusted_xattrs_readable
from layerscope.stores.base import Store
from layerscope.stores.docker_api import DockerApiStore, Engine
from layerscope.stores.mountinfo import parse_options
from layerscope.stores.mounts import kernel_defaults
from layerscope.stores.overlay2 import DRIVER, Overlay2Store
from layerscope.stores.records import DataRoot, open_data_root

SUPPORTED: Final = "supported: the classic image store with the overlay2 graph driver"
_REMAPPED: Final = re.compile(r"\d+\.\d+")
_DRIVERS: Final = (
    "aufs", "btrfs", "devicemapper", "fuse-overlayfs", "overlay", "overlayfs", "vfs", "zfs",
)  # fmt: skip
_CONTAINERD: Final = (("io.containerd.metadata.v1.bolt",), ("containerd", "daemon"))
_ASSUMABLE: Final = {
    "userxattr": ("",),
    "metacopy": ("on", "off"),
    "redirect_dir": ("on", "follow", "nofollow", "off"),
}
"""The mount options that decide what a stack shows."""


def open_store(data_root: str | None, host: str | None, overlay_options: str | None, warn: Warn) -> Store:
    """The store of a data root, or without one of the engine at ``host`` (default: as Docker's own CLI).

    ``overlay_options`` are mount options (``userxattr``, ``metacopy=on``, ``redirect_dir=…``) that override what
    can be told from the store. Raises LayerscopeError.
    """
    if data_root is not None:
        root = _find_overlay2(open_data_root(data_root))
        options = _options(_looks_rootless(root), overlay_options)
        store: Store = Overlay2Store(root, options, warn)
    else:
        store, options = _open_engine(host, overlay_options, warn)
    if options.xattrs is XattrFamily.TRUSTED and not trusted_xattrs_readable():
        warn(
            Caution(
                "trusted-xattrs-unreadable",
                store.source.data_root,
                "without root the kernel does not show trusted.overlay.* xattrs: what opaque directories and"
                " redirects hide is shown as visible",
            )
        )
    return store


def _open_engine(host: str | None, overlay_options: str | None, warn: Warn) -> tuple[Store, OverlayOptions]:
    engine = Engine(host)
    info = engine.ask(lambda client: client.info())
    _require_overlay2(info, engine.endpoint)
    told = str(info.get("DockerRootDir") or "")
    try:
        root = open_data_root(told)
    except DataRootError as error:
        raise DataRootError(
            f"the engine at {engine.endpoint} keeps its data in {told or '(it does not say)'},"
            " which is not on this machine",
            "run layerscope on the engine's own host, or copy its disk and use --data-root",
        ) from error
    if not root.is_directory(DRIVER):
        raise DataRootError(
            f"{root.join(DRIVER)} does not exist, though the engine at {engine.endpoint} uses it",
            "this is another machine's engine, or its disk is mounted elsewhere: use --data-root",
        )
    status = {str(key): str(value) for key, value in info.get("DriverStatus") or ()}
    options = _options(status.get("userxattr") == "true", overlay_options)
    disk = Overlay2Store(root, options, warn, Source("docker-api", DRIVER, told))
    return DockerApiStore(engine, disk, warn), options


def _require_overlay2(info: dict[str, Any], endpoint: str) -> None:
    driver = str(info.get("Driver"))
    status = {str(key): str(value) for key, value in info.get("DriverStatus") or ()}
    if status.get("driver-type", "").startswith("io.containerd.snapshotter"):
        raise UnsupportedStoreError(
            f"the engine at {endpoint} uses the containerd image store (snapshotter {driver}),"
            " which layerscope can't read yet",
            f"{SUPPORTED}; a data root that the engine left behind can be read with --data-root",
        )
    if driver != DRIVER:
        raise UnsupportedStoreError(
            f"the engine at {endpoint} uses the storage driver {driver}, which layerscope can't read",
            SUPPORTED,
        )


def _find_overlay2(root: DataRoot) -> DataRoot:
    """Check that a directory is a data root of the overlay2 driver, and say what else it is."""
    if root.is_directory("image", DRIVER) or root.is_directory(DRIVER, "l"):
        return root
    remapped = [
        name for name in root.names() if _REMAPPED.fullmatch(name) and root.is_directory(name, "image", DRIVER)
    ]
    if remapped:
        raise DataRootError(
            f"{root.path} holds data roots of remapped users: {', '.join(remapped)}",
            f"name one: --data-root {root.join(remapped[0])}",
        )
    # An engine that runs its own containerd has containerd/daemon whatever its driver is: look for that first.
    drivers = [name for name in _DRIVERS if root.is_directory("image", name)]
    if not drivers and any(root.is_directory(*path) for path in _CONTAINERD):
        raise UnsupportedStoreError(
            f"{root.path} is a containerd image store, which layerscope can't read yet", SUPPORTED
        )
    drivers = drivers or [name for name in _DRIVERS if root.is_directory(name)]
    if drivers:
        raise UnsupportedStoreError(
            f"{root.path} is a data root of the storage driver {drivers[0]}, which layerscope can't read",
            SUPPORTED,
        )
    raise DataRootError(
        f"{root.path} is not a Docker data root: it has neither image/{DRIVER}/ nor {DRIVER}/",
        "a data root is the directory that `docker info` shows as Docker Root Dir, often /var/lib/docker",
    )


def _looks_rootless(root: DataRoot) -> bool:
    """Whether a rootless engine made this data root: it then belongs to a user and its marks are ``user.*``.

    A ``userns-remap`` root (``<uid>.<gid>``) may belong to a remapped user, but a daemon with real root mounts it.
    """
    owner = root.owner(DRIVER)
    return owner not in (None, 0) and not _REMAPPED.fullmatch(root.path.rpartition("/")[2])


def _options(userxattr: bool, overlay_options: str | None) -> OverlayOptions:
    defaults = kernel_defaults()
    if overlay_options is not None:
        spec = parse_options(f"lowerdir=/,{overlay_options}", escaped=False)
        for name, value in spec.flags.items():
            if value not in _ASSUMABLE.get(name, ()):
                raise UsageError(
                    f"--overlay-options can't assume {name}{'=' if value else ''}{value}",
                    "it takes userxattr, metacopy=on|off, redirect_dir=on|follow|nofollow|off, with commas between",
                )
        return spec.semantics(defaults)
    if userxattr:
        return OverlayOptions(XattrFamily.USER, follow_redirects=False, metacopy=False)
    return replace(defaults, xattrs=XattrFamily.TRUSTED)
