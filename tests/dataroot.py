"""Builds a synthetic data root of the overlay2 driver, as Docker lays it out, without Docker and without root.

    root = FakeRoot(tmp_path / "docker")
    base = root.layer({"etc/passwd": "root", "old": "x"})
    image = root.image("app:1", [base, root.layer({"old": WHITEOUT})])
    web = root.container("web", image, upper={"etc/passwd": "changed"})

Ids are computed as Docker computes them where a rule exists (image id, chain_id) and are otherwise hashes of what
they name, so the same calls give the same root. Images that begin with the same layers share them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

MADE: Final = "2024-05-06T07:08:09.123456789Z"


class Mark(Enum):
    """What a layer holds at a path, other than a file."""

    WHITEOUT = "whiteout"
    DIRECTORY = "directory"
    OPAQUE = "opaque directory"


WHITEOUT, DIRECTORY, OPAQUE = Mark.WHITEOUT, Mark.DIRECTORY, Mark.OPAQUE


@dataclass(frozen=True)
class Symlink:
    target: str


Files = Mapping[str, str | bytes | Mark | Symlink]


@dataclass(frozen=True)
class Content:
    """A layer before it has a place in a chain."""

    files: Files
    diff_id: str
    buildkit: bool


@dataclass(frozen=True)
class Directory:
    """A directory of ``overlay2/``."""

    cache_id: str
    link_id: str
    path: Path
    link: Path
    """Its short link, in ``l/``."""

    @property
    def diff(self) -> Path:
        return self.path / "diff"


@dataclass(frozen=True)
class StoredLayer:
    """A layer of a chain: its directory and its record in layerdb."""

    diff_id: str
    chain_id: str
    directory: Directory
    record: Path


@dataclass(frozen=True)
class StoredImage:
    id: str
    names: tuple[str, ...]
    config: Path
    layers: tuple[StoredLayer, ...]
    """Base first."""


@dataclass(frozen=True)
class StoredContainer:
    id: str
    name: str
    config: Path
    mount: Path
    """Its record in layerdb."""
    init: Directory
    upper: Directory


class FakeRoot:
    """A data root in the making; ``path`` is its directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.image_path = path / "image/overlay2"
        self.overlay2 = path / "overlay2"
        self.layerdb = self.image_path / "layerdb"
        self.repositories: dict[str, dict[str, str]] = {}
        for made in (
            self.overlay2 / "l",
            self.layerdb / "sha256",
            self.layerdb / "mounts",
            self.image_path / "imagedb/content/sha256",
            self.image_path / "imagedb/metadata/sha256",
            path / "containers",
        ):
            made.mkdir(parents=True)

    def layer(self, files: Files, *, buildkit: bool = False) -> Content:
        """Content for images; ``buildkit`` gives its directory a name of 25 characters."""
        return Content(files, "sha256:" + digest(f"layer {sorted(files.items(), key=str)}"), buildkit)

    def image(
        self,
        names: str | Sequence[str] | None,
        layers: Sequence[Content],
        *,
        history: Sequence[Mapping[str, Any]] | None = None,
        parent: StoredImage | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> StoredImage:
        """An image with these names (``app:1``, ``app@sha256:…``); ``config`` replaces parts of its configuration.

        Without ``history`` it has one step a layer.
        """
        stored: list[StoredLayer] = []
        for content in layers:
            stored.append(self._store(content, stored))
        names = (names,) if isinstance(names, str) else tuple(names or ())
        steps = [{"created": MADE, "created_by": f"RUN step {number}"} for number in range(len(layers))]
        text = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": MADE,
                "config": {"Cmd": ["sh"], "Labels": {"names": " ".join(names)}},
                "history": steps if history is None else list(history),
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in stored]},
                **(config or {}),
            }
        )
        image = StoredImage(f"sha256:{digest(text)}", names, self.config_path(digest(text)), tuple(stored))
        image.config.write_text(text)
        if parent is not None:
            self.set_parent(image, parent.id)
        for name in names:
            repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
            self.repositories.setdefault(repository, {})[name] = image.id
        self.repositories_path.write_text(json.dumps({"Repositories": self.repositories}))
        return image

    def container(
        self,
        name: str,
        image: StoredImage,
        *,
        upper: Files | None = None,
        driver: str = "overlay2",
        **state: Any,
    ) -> StoredContainer:
        """A container, stopped unless ``state`` says otherwise (``Running=True``)."""
        identifier = digest(f"container {name}")
        below = [layer.directory for layer in reversed(image.layers)]
        init = self._directory(f"{digest(f'mount {name}')}-init", {".dockerenv": ""}, below)
        top = self._directory(digest(f"mount {name}"), upper or {}, [init, *below])
        mount = self.layerdb / "mounts" / identifier
        write(mount / "mount-id", top.cache_id)
        write(mount / "init-id", init.cache_id)
        if image.layers:
            write(mount / "parent", image.layers[-1].chain_id)
        config = self.path / "containers" / identifier / "config.v2.json"
        described = {
            "ID": identifier,
            "Name": f"/{name}",
            "Driver": driver,
            "Image": image.id,
            "Created": MADE,
            "Config": {"Image": image.names[0] if image.names else image.id, "Env": ["A=b"]},
            "State": {"Running": False, "StartedAt": MADE, "FinishedAt": MADE, **state},
        }
        write(config, json.dumps(described))
        return StoredContainer(identifier, name, config, mount, init, top)

    def directory(self, cache_id: str, files: Files, lower: Sequence[Directory] = ()) -> Directory:
        """A directory of ``overlay2/`` without a record; ``lower`` is top first."""
        return self._directory(cache_id, files, lower)

    # -- where things lie ------------------------------------------------------------------------------------

    @property
    def repositories_path(self) -> Path:
        return self.image_path / "repositories.json"

    def config_path(self, hexadecimal: str) -> Path:
        return self.image_path / "imagedb/content/sha256" / hexadecimal

    def set_parent(self, image: StoredImage, parent: str) -> None:
        """Write which image this one was built on, as the legacy builder does."""
        write(self.image_path / "imagedb/metadata/sha256" / image.id.removeprefix("sha256:") / "parent", parent)

    # -- storage ---------------------------------------------------------------------------------------------

    def _store(self, content: Content, below: Sequence[StoredLayer]) -> StoredLayer:
        chain_id = f"sha256:{digest(f'{below[-1].chain_id} {content.diff_id}')}" if below else content.diff_id
        cache_id = digest(f"cache of {chain_id}")
        if content.buildkit:
            cache_id = base36(cache_id)
        record = self.layerdb / "sha256" / chain_id.removeprefix("sha256:")
        lower = [layer.directory for layer in reversed(below)]
        directory = self._directory(cache_id, content.files, lower)
        if not record.exists():
            write(record / "cache-id", cache_id)
            write(record / "diff", content.diff_id)
            write(record / "size", str(sum(len(file) for file in content.files.values() if is_text(file))))
            if below:
                write(record / "parent", below[-1].chain_id)
        return StoredLayer(content.diff_id, chain_id, directory, record)

    def _directory(self, cache_id: str, files: Files, lower: Sequence[Directory]) -> Directory:
        """A directory of ``overlay2/``, unless it is there; ``lower`` is top first, as in the file."""
        link_id = base64.b32encode(hashlib.sha256(cache_id.encode()).digest()).decode()[:26]
        found = Directory(cache_id, link_id, self.overlay2 / cache_id, self.overlay2 / "l" / link_id)
        if found.path.exists():
            return found
        found.diff.mkdir(parents=True)
        for path, file in files.items():
            put(found.diff / path, file)
        write(found.path / "link", link_id)
        found.link.symlink_to(f"../{cache_id}/diff")
        if lower:
            write(found.path / "lower", ":".join(f"l/{directory.link_id}" for directory in lower))
            (found.path / "work").mkdir()
            write(lower[0].path / "committed", "")
        return found


def put(path: Path, file: str | bytes | Mark | Symlink) -> None:
    """Write one entry of a layer, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match file:
        case str():
            path.write_text(file)
        case bytes():
            path.write_bytes(file)
        case Symlink(target):
            path.symlink_to(target)
        case Mark.WHITEOUT:
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
        case Mark.DIRECTORY | Mark.OPAQUE:
            path.mkdir(exist_ok=True)
            if file is OPAQUE:
                # layerscope takes a root that an ordinary user owns for one of a rootless engine
                family = "trusted" if os.geteuid() == 0 else "user"
                os.setxattr(path, f"{family}.overlay.opaque", b"y")


def write(path: Path, text: str) -> None:
    """Write a record, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def is_text(file: object) -> bool:
    return isinstance(file, str | bytes)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def base36(hexadecimal: str) -> str:
    """25 characters as BuildKit makes them."""
    number, letters = int(hexadecimal, 16), ""
    while len(letters) < 25:
        number, rest = divmod(number, 36)
        letters += "0123456789abcdefghijklmnopqrstuvwxyz"[rest]
    return letters
