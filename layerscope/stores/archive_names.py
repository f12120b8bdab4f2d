"""What of a user's words names an archive, and which image in it.

``image.tar``, ``image.tar:app:1``, ``./layout:1.2``, ``archive:FILE[:IMAGE]``, ``-`` (standard input). A name is a
path when it begins with ``/``, ``./`` or ``../``, or ends as a tar does, and something is there; else it is the
name of an image or container. ``image:NAME`` is always the latter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from layerscope.errors import AmbiguousTargetError, ArchiveError, TargetNotFoundError
from layerscope.model import Target, TargetKind
from layerscope.stores.base import MOST_CANDIDATES, find_target

if TYPE_CHECKING:
    from layerscope.stores.archive import ArchiveStore

STDIN: Final = "-"
PREFIXES: Final = ("archive:", "docker-archive:", "oci-archive:", "oci:")
"""The first is ours, the others are skopeo's."""
ENDINGS: Final = (
    *(".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst"),
    *(".tar.xz", ".txz", ".tar.bz2", ".tbz2"),
)
_LISTS: Final = ("manifest.json", "index.json", "oci-layout")


class ArchiveName(NamedTuple):
    """An archive, and the image in it that is asked for, if one is."""

    path: str
    image: str | None


def archive_named(text: str) -> ArchiveName | None:
    """The archive that ``text`` names; None when it names something else. Raises ArchiveError."""
    forced = next((prefix for prefix in PREFIXES if text.startswith(prefix)), None)
    rest = text.removeprefix(forced) if forced is not None else text
    for path, image in _cuts(rest):
        if path == STDIN or (_exists(path) if forced is not None else _is_path(path) and _is_archive(path)):
            return ArchiveName(path, image)
    if forced is not None or rest.startswith(("./", "../")):
        raise ArchiveError(
            f"there is no archive {rest}", "name a file or directory, and an image in it after a colon"
        )
    return None


def is_piped(text: str) -> bool:
    """Whether a name means standard input."""
    forced = next((prefix for prefix in PREFIXES if text.startswith(prefix)), "")
    return text.removeprefix(forced).partition(":")[0] == STDIN


def ends_as_archive(text: str) -> bool:
    """Whether a name, or what stands before a colon in it, ends as a tar's does."""
    return any(path.lower().endswith(ENDINGS) for path, _ in _cuts(text))


def _cuts(text: str) -> Iterator[ArchiveName]:
    """The text as a path, then each way to cut it in two at a colon, the longest path first."""
    yield ArchiveName(text, None)
    parts = text.split(":")
    for count in range(len(parts) - 1, 0, -1):
        path, image = ":".join(parts[:count]), ":".join(parts[count:])
        if path and image:
            yield ArchiveName(path, image)


def _is_path(path: str) -> bool:
    return path.startswith(("/", "./", "../")) or path.lower().endswith(ENDINGS) or path.endswith("/")


def _exists(path: str) -> bool:
    return os.path.lexists(path)


def _is_archive(path: str) -> bool:
    """Whether something is there that may be an archive: any file, or a directory that has a list of images."""
    if os.path.isdir(path):
        if os.path.ismount(path):
            return False  # what is mounted there may have any file at its top
        return any(os.path.isfile(os.path.join(path, name)) for name in _LISTS)
    return os.path.exists(path)


def image_in(store: ArchiveStore, name: ArchiveName) -> Target:
    """The image of an archive that was asked for, or its only one.

    Raises AmbiguousTargetError, TargetNotFoundError, or what is wrong with the image.
    """
    if name.image is not None:
        try:
            return find_target(store, name.image, TargetKind.IMAGE)
        except TargetNotFoundError as error:
            raise TargetNotFoundError(
                f"{name.path} holds no image called {name.image!r}",
                f"`layerscope ls {name.path}` lists what it holds",
            ) from error
    images = store.images()
    if len(images) == 1:
        return store.image_target(images[0])
    if not images:
        raise next((record.error for record in store.broken()), ArchiveError(f"{name.path} holds no image"))
    shown = ", ".join(image.name for image in images[:MOST_CANDIDATES])
    more = len(images) - MOST_CANDIDATES
    raise AmbiguousTargetError(
        f"{name.path} holds {len(images)} images: {shown}" + (f" and {more} more" if more > 0 else ""),
        f"name one: {name.path}:{images[0].name}",
    )
