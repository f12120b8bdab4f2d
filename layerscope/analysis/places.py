"""What a user's word for a directory stands for: a path, an id or its start, a link, a mount, a process.

A word is only ever read: no symlink below the data root is followed, and none of a layer's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from layerscope.analysis.mount_places import PROCESS, MountPlaces, Place, absolute, is_mount_line, names_below
from layerscope.errors import AmbiguousTargetError, CorruptStoreError, LayerscopeError, TargetNotFoundError
from layerscope.model import ChainId, ContainerId
from layerscope.stores import records
from layerscope.stores.classic import ClassicStore
from layerscope.stores.images import ImageRecord, chain_ids
from layerscope.stores.livemounts import PROC, MountedDirectories
from layerscope.stores.overlay2 import DRIVER

MOST_NAMED: Final = 8
_CONTENT: Final = ("diff", "merged", "root", "upper")
_LINK_TARGET: Final = re.compile(r"\.\./([^/]+)/diff")
_PREFIX: Final = re.compile(r"[0-9a-z]{1,64}(?:-init)?")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{1,64})")
_OTHERS: Final = {
    "buildkit": "the databases of the build cache; `docker builder prune` empties it",
    "containers": "configurations and logs of containers, not layers",
    "image": "the engine's records of images, not layers",
    "volumes": "volumes, not layers; `docker volume ls` lists them",
}

_LISTING: Final = {DRIVER: "`layerscope orphans --all` lists them"}


def find_place(disk: ClassicStore, text: str, proc: str = PROC) -> Place:
    """The directories that a word stands for.

    Raises TargetNotFoundError, AmbiguousTargetError or CorruptStoreError.
    """
    return _Finder(disk, proc).find(text)


class _Finder:
    def __init__(self, disk: ClassicStore, proc: str) -> None:
        self.disk = disk
        self.root = disk.root
        self.driver, self.layerdb = disk.driver, disk.layerdb.base
        directories = MountedDirectories(disk.root, disk.driver)
        self.mounts = MountPlaces(directories.top, disk.root.join(disk.driver), proc)

    def find(self, text: str) -> Place:
        if is_mount_line(text):
            return self.mounts.line(text)
        if text.isascii() and text.isdecimal():
            return self._number(text)
        found = None if "/" in text else self._id(text)
        found = found or self._path(text)
        if found is None:
            raise TargetNotFoundError(f"{text!r} stands for nothing in {self.root.path}", self._hint(text))
        return found

    # -- ids -------------------------------------------------------------------------------------------------

    def _id(self, text: str) -> Place | None:
        digest = _DIGEST.fullmatch(text)
        if digest is not None:
            return self._layer(digest[1])
        link_id = records.link_id(text)
        if link_id is not None:
            return self._link(link_id)
        if not _PREFIX.fullmatch(text):
            return None
        return self._one_of("directory", text, self._directories(text)) or self._layer(text)

    def _directories(self, text: str) -> list[str]:
        """The directories whose names begin so; an init layer only where nothing else does, or it is asked for."""
        start = text.removesuffix("-init")
        found = [name for name in self.root.names(self.driver) if name.startswith(start) and name != "l"]
        if start != text:
            return [name for name in found if name.endswith("-init")]
        return [name for name in found if not name.endswith("-init")] or found

    def _one_of(self, what: str, text: str, names: Sequence[str]) -> Place | None:
        if text in names or len(names) == 1:
            return Place(f"the {what} of that name", (text if text in names else names[0],))
        if names:
            shown = ", ".join(name[:20] for name in names[:MOST_NAMED])
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            raise AmbiguousTargetError(
                f"{text!r} is the start of {len(names)} directories: {shown}{more}", "give more of the name"
            )
        return None

    def _layer(self, digits: str) -> Place | None:
        """The layers with a chain_id or diff_id that begins so. The base layer's are the same."""
        if not re.fullmatch(r"[0-9a-f]{1,64}", digits):
            return None
        start = f"sha256:{digits}"
        chains = [chain_id for chain_id in self.disk.layerdb.all() if chain_id.startswith(start)]
        if len(chains) > 1:
            shown = ", ".join(chain_id[7:19] for chain_id in chains[:MOST_NAMED])
            raise AmbiguousTargetError(
                f"{start} is the start of {len(chains)} chain_ids: {shown}", "give more digits of it"
            )
        if chains:
            layer = self.disk.layerdb.layer(chains[0])
            if layer is not None and layer.parent is not None:
                return Place("a chain_id", (layer.cache_id,), chain_id=layer.chain_id)
        with_diff = self._layers_with_diff(start)
        if with_diff:
            how = "a chain_id and diff_id" if chains else "a diff_id"
            single = with_diff[0][1] if len(with_diff) == 1 else None
            return Place(how, tuple(name for name, _ in with_diff), chain_id=single)
        return None

    def _layers_with_diff(self, start: str) -> list[tuple[str, ChainId]]:
        found: dict[str, list[tuple[str, ChainId]]] = {}
        with self.root.inside(self.layerdb, "sha256") as layers:
            for name in layers.names() if layers is not None else ():
                chain_id = records.chain_id(f"sha256:{name}")
                try:
                    diff_id = layers.text(name, "diff") if layers is not None and chain_id is not None else None
                    if diff_id is None or chain_id is None or not diff_id.startswith(start):
                        continue
                    layer = self.disk.layerdb.layer(chain_id)
                except LayerscopeError:
                    continue  # `check` tells of broken records
                if layer is not None:
                    found.setdefault(diff_id, []).append((layer.cache_id, chain_id))
        if len(found) > 1:
            shown = ", ".join(diff_id[7:19] for diff_id in list(found)[:MOST_NAMED])
            raise AmbiguousTargetError(
                f"{start} is the start of {len(found)} diff_ids: {shown}", "give more digits of it"
            )
        return next(iter(found.values()), [])

    def _link(self, link_id: str, *rest: str) -> Place:
        target = _LINK_TARGET.fullmatch(self.root.link(self.driver, "l", link_id) or "")
        names = [target[1]] if target is not None else self._by_link_file(link_id)
        if len(names) != 1:
            raise TargetNotFoundError(
                f"the short link {link_id} leads to no layer",
                f"it is not in {self.root.join(self.driver, 'l')}, and no `link` file has it",
            )
        return Place("a short link", (names[0],), "/".join(rest) if rest else None)

    def _by_link_file(self, link_id: str) -> list[str]:
        with self.root.inside(self.driver) as overlay2:
            found = []
            for name in overlay2.names() if overlay2 is not None else ():
                try:
                    if overlay2 is not None and overlay2.text(name, "link") == link_id:
                        found.append(name)
                except LayerscopeError:
                    continue
            return found

    # -- paths -----------------------------------------------------------------------------------------------

    def _path(self, text: str) -> Place | None:
        if not text:
            return None  # not the working directory
        process = PROCESS.fullmatch(text)
        path = absolute(text)
        below = names_below(self.root.path, path)
        if below is None and process is not None:
            return self.mounts.process(*process.groups())
        if not text.startswith("/") and (below is None or not os.path.lexists(path)):
            # A word of a mount's options, l/… or <id>/diff, starts from overlay2/.
            names = os.path.normpath(text).split("/")
            if names[0] not in (".", "..") and os.path.lexists(self.root.join(names[0])):
                below = names
            elif names[0] not in (".", "..") and os.path.lexists(self.root.join(self.driver, names[0])):
                below = [self.driver, *names]
        if below is not None:
            return self._of_data_root(below)
        return self.mounts.at(path, "self", "a path in a mount") if os.path.lexists(path) else None

    def _of_data_root(self, names: Sequence[str]) -> Place:
        driver = self.driver
        match names:
            case [top, "l", link_id, *rest] if top == driver and records.link_id(link_id) is not None:
                return self._link(link_id, *rest)
            case [top, name, *rest] if top == driver and name != "l":
                inside = "/".join(rest[1:]) if rest and rest[0] in _CONTENT else None
                return Place(f"a path of {driver}", (name,), inside, merged=rest[:1] == ["merged"])
            case ["image", one, "layerdb", "sha256", name, *_] if one == driver:
                chain_id = records.chain_id(f"sha256:{name}")
                return self._recorded("a record of layerdb", f"{self.layerdb}/sha256/{name}", "cache-id", chain_id)
            case ["image", one, "layerdb", "tmp", name, *_] if one == driver:
                return self._recorded("an unfinished record of layerdb", f"{self.layerdb}/tmp/{name}", "cache-id")
            case ["image", one, "layerdb", "mounts", name, *rest] if one == driver:
                kept = "init-id" if rest == ["init-id"] else "mount-id"
                return self._recorded("a record of layerdb", f"{self.layerdb}/mounts/{name}", kept)
            case ["image", one, "imagedb", "content" | "metadata", "sha256", name, *_] if one == driver:
                return self._image(name)
            case ["containers", name, *_] if records.container_id(name) is not None:
                return self._container(ContainerId(name))
        what = _OTHERS.get(names[0]) if names else "the data root itself"
        if names == [driver]:
            what = f"all layer directories; {_LISTING.get(driver, 'name one of them')}"
        raise TargetNotFoundError(
            f"{self.root.join(*names)} is not in a layer",
            what or f"the engine keeps its own state there; layers are in {driver}/",
        )

    def _recorded(self, how: str, place: str, name: str, chain_id: ChainId | None = None) -> Place:
        found = records.cache_id(self.root.text(place, name))
        if found is None:
            raise TargetNotFoundError(
                f"{self.root.join(place, name)} names no directory", "the record is gone, unfinished or damaged"
            )
        return Place(how, (found,), chain_id=chain_id)

    def _container(self, identifier: ContainerId) -> Place:
        mount = self.disk.layerdb.mount(identifier)
        if mount is None:
            raise TargetNotFoundError(
                f"the container {identifier[:12]} has no layers here", "they are removed, or in another image store"
            )
        return Place("a file of a container", (mount.mount_id,))

    def _image(self, digits: str) -> Place:
        identifier = records.image_id(f"sha256:{digits}")
        image: ImageRecord | None = self.disk.imagedb.read(identifier, ()) if identifier is not None else None
        if image is None or not image.diff_ids:
            raise TargetNotFoundError(f"the image {digits[:12]} has no layers", "`layerscope ls` lists images")
        layer = self.disk.layerdb.layer(chain_ids(image.diff_ids)[-1])
        if layer is None:
            raise CorruptStoreError(
                f"the top layer of the image {digits[:12]} is not in layerdb", "`layerscope check` tells more"
            )
        return Place("a record of an image, whose top layer it is", (layer.cache_id,), chain_id=layer.chain_id)

    # -- mounts and processes --------------------------------------------------------------------------------

    def _number(self, text: str) -> Place:
        names = self._directories(text)
        try:
            process = self.mounts.process(text, "root", None)
        except TargetNotFoundError:
            found = self._one_of("directory", text, names) or self._layer(text)
            if found is not None:
                return found
            raise
        if names:
            raise AmbiguousTargetError(
                f"{text} is a process and the start of {len(names)} directories: {', '.join(names[:MOST_NAMED])}",
                f"say /proc/{text}, or more of the name",
            )
        return process

    def _hint(self, text: str) -> str:
        for container in self.disk.containers():
            if text.removeprefix("/") == container.name or container.id.startswith(text):
                return f"it is a container: `layerscope container {text}` shows its directories"
        for image in self.disk.images():
            names = (*image.references, *(name.removesuffix(":latest") for name in image.references))
            if text in names or image.id.removeprefix("sha256:").startswith(text.removeprefix("sha256:")):
                return f"it is an image: `layerscope image {text}` shows its directories"
        return "give a path below the data root, a directory's name or its start, a chain_id, a mount or a process"
