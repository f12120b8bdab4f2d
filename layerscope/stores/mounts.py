"""Stacks of overlay mounts and of plain directories: no image store behind them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from layerscope.errors import (
    CorruptStoreError,
    OverlayOptionsError,
    TargetNotFoundError,
    UnsupportedStoreError,
)
from layerscope.model import CacheId, Layer, OverlayOptions, Role, Stack, Target, TargetKind
from layerscope.stores import records
from layerscope.stores.mountinfo import Mount, OverlaySpec, parse_options, read_mountinfo

MOUNTINFO: Final = "/proc/self/mountinfo"
MOST_NAMED: Final = 5
"""Directories that a stack of plain ones is named after."""
PARAMETERS: Final = "/sys/module/overlay/parameters"
_DOCKER_LAYER: Final = re.compile(r".*/overlay2/([^/]+)/diff")


def kernel_defaults() -> OverlayOptions:
    """What this kernel's overlay module does where a mount names no option (``redirect_*``, ``metacopy``)."""
    metacopy = _parameter("metacopy", "N") == "Y"
    follow = metacopy or "Y" in (_parameter("redirect_dir", "N"), _parameter("redirect_always_follow", "Y"))
    return OverlayOptions(follow_redirects=follow, metacopy=metacopy)


def _parameter(name: str, default: str) -> str:
    try:
        with open(f"{PARAMETERS}/{name}") as file:
            return file.read().strip()
    except OSError:
        return default


def mount_target(path: str, mountinfo: str = MOUNTINFO) -> Target:
    """The stack of the overlay that is mounted at ``path``. Raises TargetNotFoundError."""
    point = os.path.realpath(path)
    try:
        mounts = read_mountinfo(mountinfo)
    except OSError as error:
        raise TargetNotFoundError(
            f"can't read the list of mounts {mountinfo}: {error.strerror}",
            "give the directories themselves: --lowerdir TOP:…:BASE",
        ) from error
    mount = next((mount for mount in reversed(mounts) if mount.point == point), None)
    if mount is None:
        raise TargetNotFoundError(f"nothing is mounted at {path}", _mounts_hint(point, mounts))
    if mount.fstype != "overlay":
        raise UnsupportedStoreError(
            f"the mount at {path} is of type {mount.fstype}, not overlay", _mounts_hint(point, mounts)
        )
    if mount.root != "/":
        raise UnsupportedStoreError(
            f"only the directory {mount.root} of an overlay is mounted at {path}",
            f"name the mount point of the whole overlay; {_mounts_hint(point, mounts)}",
        )
    spec = parse_options(mount.options)
    base = _base_of_relative(spec, point)
    stack = directories_stack(spec, base, "the mounter may have seen other paths (another mount namespace)")
    return Target(kind=TargetKind.MOUNT, id=None, name=point, stack=stack)


def _mounts_hint(point: str, mounts: Sequence[Mount]) -> str:
    overlays = [mount.point for mount in mounts if mount.fstype == "overlay"]
    inside = [at for at in overlays if point.startswith(at.rstrip("/") + "/")]
    if inside:
        return f"it lies inside the overlay mounted at {inside[-1]}"
    if not overlays:
        return "no overlay is mounted here; give directories instead: --lowerdir TOP:…:BASE"
    return f"overlay mounts here: {', '.join(overlays[:3])}{' …' if len(overlays) > 3 else ''}"


def _base_of_relative(spec: OverlaySpec, point: str) -> str:
    """The directory that relative paths of a mount start from: the mounter's, which nobody wrote down.

    Docker mounts long chains from its ``overlay2`` directory, above the mount point: try those upwards.
    """
    paths = [path for path in (*spec.lower, *spec.data, spec.upper) if path and not path.startswith("/")]
    base = point
    while paths and base != "/":
        base = os.path.dirname(base)
        if all(os.path.isdir(os.path.join(base, path)) for path in paths):
            return base
    if paths:
        raise CorruptStoreError(
            f"the mount at {point} has relative layers ({paths[0]} …) and none of its parents holds them",
            "go to the directory that they start from and give them yourself: --lowerdir TOP:…:BASE",
        )
    return "/"


def directories_target(spec: OverlaySpec) -> Target:
    """The stack of plain directories, as mount(8) would get them; relative ones start from here."""
    stack = directories_stack(spec, os.getcwd(), "name directories that exist, top layer first")
    given = [*([spec.upper] if spec.upper is not None else []), *spec.lower]
    shown = given if len(given) <= MOST_NAMED else [*given[: MOST_NAMED - 2], "…", given[-1]]
    return Target(kind=TargetKind.MOUNT, id=None, name=":".join(shown), stack=stack)


def directories_stack(spec: OverlaySpec, base: str, hint: str) -> Stack:
    """Layer directories as a stack, base first. Raises OverlayOptionsError."""
    upper = (spec.upper,) if spec.upper is not None else ()
    paths = [_directory(path, base, hint) for path in (*reversed(spec.lower), *upper)]
    data = [_directory(path, base, hint) for path in spec.data]
    _refuse_overlap([*paths, *data])
    layers = tuple(
        Layer(
            index=index,
            role=Role.UPPER if spec.upper is not None and index == len(paths) - 1 else Role.LOWER,
            diff_dir=path,
            cache_id=_docker_cache_id(path),
        )
        for index, path in enumerate(paths)
    )
    return Stack(layers, spec.semantics(kernel_defaults()), tuple(data))


def _directory(path: str, base: str, hint: str) -> str:
    real = os.path.realpath(os.path.join(base, path))
    if not os.path.isdir(real):
        what = "is not a directory" if os.path.lexists(real) else "does not exist"
        raise OverlayOptionsError(f"the layer {path} {what}", hint)
    return real


def _refuse_overlap(paths: Sequence[str]) -> None:
    """The kernel answers lookups in overlapping layers with ELOOP (``ovl_lookup_trap_inode``)."""
    for one in paths:
        for other in paths:
            if one is not other and (one == other or one.startswith(other.rstrip("/") + "/")):
                raise OverlayOptionsError(
                    f"the layers {other} and {one} overlap", "every layer needs a directory of its own"
                )


def _docker_cache_id(path: str) -> CacheId | None:
    match = _DOCKER_LAYER.fullmatch(path)
    return records.cache_id(match[1]) if match else None
