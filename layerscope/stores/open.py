"""Chooses the store, or both: of data roots on disk, or of a running engine and its data root."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from layerscope.errors import DataRootError, UnsupportedStoreError, UsageError
from layerscope.model import Caution, OverlayOptions, Warn, XattrFamily
from layerscope.overlay.markers import trusted_xattrs_readable
from layerscope.stores import locate, overlay2
from layerscope.stores.base import Store
from layerscope.stores.both import BothStores
from layerscope.stores.classic import ClassicStore
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.content_store import Platform, parse_platform
from layerscope.stores.docker_api import DockerApiStore, Engine
from layerscope.stores.metadata import Namespace, read_namespaces
from layerscope.stores.mountinfo import parse_options
from layerscope.stores.mounts import kernel_defaults
from layerscope.stores.overlay import OverlayStore
from layerscope.stores.overlay2 import Overlay2Store
from layerscope.stores.records import DataRoot, open_data_root
from layerscope.stores.snapshots import DIRECTORIES, META, SNAPSHOTTER

_ASSUMABLE: Final = {
    "userxattr": ("",),
    "metacopy": ("on", "off"),
    "redirect_dir": ("on", "follow", "nofollow", "off"),
}
"""The mount options that decide what a stack shows."""


@dataclass(frozen=True, slots=True)
class Containerd:
    """What the user said of containerd."""

    root: str | None = None
    """Where its data is."""
    namespace: str | None = None
    platform: str | None = None
    """Which of an image's platforms: ``linux/arm64``."""


def open_store(
    data_root: str | None,
    host: str | None,
    overlay_options: str | None,
    warn: Warn,
    containerd: Containerd = Containerd(),
) -> Store:
    """The store of a data root or containerd root, or without one of the engine at ``host`` (default: as Docker's
    own CLI); where there are two image stores, both.

    ``overlay_options`` are mount options (``userxattr``, ``metacopy=on``, ``redirect_dir=…``) that override what
    can be told from the store. Raises LayerscopeError.
    """
    opener = _Opener(overlay_options, containerd, warn)
    if data_root is not None:
        store = opener.data_root(open_data_root(data_root))
    elif containerd.root is not None and host is None:
        store = opener.containerd_alone(open_data_root(containerd.root))
    else:
        store = opener.engine(Engine(host))
    if opener.trusted and not trusted_xattrs_readable():
        warn(
            Caution(
                "trusted-xattrs-unreadable",
                store.source.data_root,
                "without root the kernel does not show trusted.overlay.* xattrs: what opaque directories and"
                " redirects hide is shown as visible",
            )
        )
    return store


Disk = ClassicStore | ContainerdStore


class _Opener:
    def __init__(self, overlay_options: str | None, containerd: Containerd, warn: Warn) -> None:
        self.overlay_options = overlay_options
        self.wanted = containerd
        self.platform = platform_asked_for(containerd.platform)
        self.warn = warn
        self.trusted = False
        """Whether a store was opened whose marks are ``trusted.*`` xattrs."""

    def data_root(self, root: DataRoot) -> Store:
        """What a data root holds, without an engine."""
        if self.wanted.namespace not in (None, locate.docker_namespace(root)):
            return self._foreign_namespace(root, locate.containerd_beside(root))
        found = self._beside(root, locate.containerd_beside(root))
        drivers = locate.classic_drivers(root, beside=found is not None)
        if found is None and not drivers:
            found = self._unused(root)
        others = locate.other_drivers(root)
        if others:
            message = f"also holds storage of the driver {', '.join(others)}, which is left out; {locate.SUPPORTED}"
            self.warn(Caution("unsupported-driver", root.path, message))
        names = [*drivers, *([SNAPSHOTTER] if found is not None else [])]
        return _together(
            [self._classic(root, driver, names) for driver in drivers],
            [self._containerd(*found, docker=root, names=names)] if found is not None else [],
        )

    def containerd_alone(self, root: DataRoot) -> Store:
        """A containerd root that is not a Docker engine's, or without the engine's data root."""
        name = self.wanted.namespace or locate.DOCKER
        namespace = locate.require_namespace(root, name)
        if name.startswith(locate.DOCKER):
            message = "without the engine's data root its containers can't be told; give it with --data-root"
            self.warn(Caution("no-data-root", root.path, message))
        return self._containerd(root, namespace, docker=None)

    def engine(self, engine: Engine) -> Store:
        """What a running engine shows, and what it does not show any more."""
        info = engine.ask(lambda client: client.info())
        driver = str(info.get("Driver"))
        status = {str(key): str(value) for key, value in info.get("DriverStatus") or ()}
        in_containerd = status.get("driver-type", "").startswith("io.containerd.snapshotter")
        _require_supported(driver, in_containerd, engine.endpoint)
        root = _root_of_engine(info, engine.endpoint)
        if self.wanted.namespace not in (None, locate.docker_namespace(root)):
            return self._foreign_namespace(root, locate.containerd_of_engine(root, info))
        return (
            self._containerd_engine(engine, root, info)
            if in_containerd
            else self._classic_engine(engine, root, driver, userxattr=status.get("userxattr") == "true")
        )

    def _classic_engine(self, engine: Engine, root: DataRoot, driver: str, *, userxattr: bool) -> Store:
        if not root.is_directory(driver):
            raise DataRootError(
                f"{root.join(driver)} does not exist, though the engine at {engine.endpoint} uses it",
                "this is another machine's engine, or its disk is mounted elsewhere: use --data-root",
            )
        left = self._beside(root, locate.containerd_beside(root))
        others = [name for name in locate.CLASSIC if name != driver and locate.holds(root, name)]
        names = [driver, *others, *([SNAPSHOTTER] if left is not None else [])]
        disk = self._classic(root, driver, names, userxattr=userxattr)
        behind: list[Disk] = [self._classic(root, name, names) for name in others]
        behind += [self._containerd(*left, docker=root, names=names)] if left is not None else []
        return _together([DockerApiStore(engine, disk, self.warn)], _left_behind(behind))

    def _containerd_engine(self, engine: Engine, root: DataRoot, info: dict[str, Any]) -> Store:
        places = locate.containerd_of_engine(root, info)
        found = self._beside(root, places) or _empty(places)
        if found is None:
            raise DataRootError(
                f"the engine at {engine.endpoint} keeps its images in containerd, whose data is not where it mostly"
                " is",
                f"look for {META}, and name the directory above: --data-root {root.path} --containerd-root DIR",
            )
        left = locate.classic_drivers(root, beside=True)
        names = [SNAPSHOTTER, *left]
        disk = self._containerd(*found, docker=root, names=names)
        behind = [self._classic(root, name, names) for name in left]
        return _together([DockerApiStore(engine, disk, self.warn)], _left_behind(behind))

    # -- the parts -------------------------------------------------------------------------------------------

    def _beside(self, root: DataRoot, places: list[DataRoot]) -> tuple[DataRoot, Namespace] | None:
        """The containerd store that belongs to a data root, if anything is in it."""
        name = self.wanted.namespace or locate.docker_namespace(root)
        if self.wanted.root is not None:
            place = open_data_root(self.wanted.root)
            return place, locate.require_namespace(place, name)
        return locate.used_namespace(places, name)

    def _unused(self, root: DataRoot) -> tuple[DataRoot, Namespace]:
        """The empty containerd store of an engine that has no other. Raises DataRootError."""
        places = locate.containerd_beside(root)
        found = _empty(places) if root.is_directory("containers") else None
        if found is None or locate.other_drivers(root):
            raise locate.no_store(root)
        return found

    def _foreign_namespace(self, root: DataRoot, places: list[DataRoot]) -> Store:
        """A namespace that is not the engine's: Kubernetes, nerdctl."""
        name = str(self.wanted.namespace)
        if self.wanted.root is not None:
            places = [open_data_root(self.wanted.root)]
        place = next((place for place in places if name in (read_namespaces(place) or ())), None)
        if place is None and not places:
            raise DataRootError(
                f"no containerd data belongs to {root.path}", "name its directory with --containerd-root DIR"
            )
        place = place or places[0]
        return self._containerd(place, locate.require_namespace(place, name), docker=None)

    def _classic(
        self, root: DataRoot, driver: str, names: Sequence[str], *, userxattr: bool | None = None
    ) -> ClassicStore:
        """The store of a graph driver; ``names`` are those of all that are read."""
        if userxattr is None:
            userxattr = _looks_rootless(root, driver)
        store = Overlay2Store if driver == overlay2.DRIVER else OverlayStore
        return store(root, self._options(userxattr), self.warn, others=frozenset(names) - {driver})

    def _containerd(
        self, root: DataRoot, namespace: Namespace, *, docker: DataRoot | None, names: Sequence[str] = ()
    ) -> ContainerdStore:
        locate.require_snapshotter(root, namespace, self.warn)
        name = self.wanted.namespace or (locate.docker_namespace(docker) if docker is not None else locate.DOCKER)
        return ContainerdStore(
            root,
            name,
            namespace,
            self._options(_looks_rootless(root, DIRECTORIES)),
            self.warn,
            docker=docker,
            platform=self.platform,
            others=frozenset(names) - {SNAPSHOTTER},
        )

    def _options(self, userxattr: bool) -> OverlayOptions:
        options = options_asked_for(userxattr, self.overlay_options)
        self.trusted = self.trusted or options.xattrs is XattrFamily.TRUSTED
        return options


def _empty(places: Sequence[DataRoot]) -> tuple[DataRoot, Namespace] | None:
    return (places[0], Namespace((), (), ())) if places else None


def _left_behind(disks: Sequence[Disk]) -> Sequence[Store]:
    """The stores that the running engine does not use."""
    for disk in disks:
        disk.source = replace(disk.source, in_use=False)
    return disks


def _together(in_use: Sequence[Store], left: Sequence[Store]) -> Store:
    parts = [*in_use, *left]
    return parts[0] if len(parts) == 1 else BothStores(parts)


def platform_asked_for(text: str | None) -> Platform | None:
    """The platform that the user asked for, if any. Raises UsageError."""
    platform = parse_platform(text) if text is not None else None
    if text is not None and platform is None:
        raise UsageError(f"--platform {text!r} is no platform", "write it as linux/amd64 or linux/arm/v7")
    return platform


def _require_supported(driver: str, in_containerd: bool, endpoint: str) -> None:
    if driver not in ((SNAPSHOTTER,) if in_containerd else locate.CLASSIC):
        what = "containerd image store with the snapshotter" if in_containerd else "storage driver"
        raise UnsupportedStoreError(
            f"the engine at {endpoint} uses the {what} {driver}, which layerscope can't read", locate.SUPPORTED
        )


def _root_of_engine(info: dict[str, Any], endpoint: str) -> DataRoot:
    told = str(info.get("DockerRootDir") or "")
    try:
        return open_data_root(told)
    except DataRootError as error:
        raise DataRootError(
            f"the engine at {endpoint} keeps its data in {told or '(it does not say)'},"
            " which is not on this machine",
            "run layerscope on the engine's own host, or copy its disk and use --data-root",
        ) from error


def _looks_rootless(root: DataRoot, place: str) -> bool:
    """Whether a rootless engine made this data root: it then belongs to a user and its marks are ``user.*``.

    A ``userns-remap`` root (``<uid>.<gid>``) may belong to a remapped user, but a daemon with real root mounts it.
    """
    owner = root.owner(*place.split("/"))
    return owner not in (None, 0) and not locate.is_remapped(root)


def options_asked_for(userxattr: bool, overlay_options: str | None) -> OverlayOptions:
    """What the user said of mount options, else what holds without: this kernel's defaults. Raises UsageError."""
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
