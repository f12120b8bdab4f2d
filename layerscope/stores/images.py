"""Images as the classic store keeps them: ``repositories.json`` and ``imagedb``.

Source: moby ``daemon/internal/image/{fs,store}.go``, ``daemon/internal/refstore/store.go``; history and
``rootfs`` as in the OCI image-spec, config.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from layerscope.errors import CorruptStoreError, StoragePermissionError
from layerscope.model import Caution, ChainId, DiffId, HistoryStep, ImageId, TargetKind, Warn
from layerscope.stores import records
from layerscope.stores.records import BrokenRecord, DataRoot
from layerscope.timestamps import from_rfc3339


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image and its configuration, base layer first."""

    id: ImageId
    references: tuple[str, ...]
    diff_ids: tuple[DiffId, ...]
    history: tuple[HistoryStep, ...]
    created: str | None
    parent: ImageId | None
    """The image it was built on, for an image that the legacy builder or ``docker commit`` made here."""
    config: dict[str, Any]
    config_path: str | None = None
    """The file on disk that holds ``config``; None where it came from elsewhere."""
    blobs: tuple[str, ...] = ()
    """Where the tars of its layers are, base first: digests, or names in an archive. Empty if nowhere."""

    @property
    def name(self) -> str:
        """Its first reference, or its id."""
        return self.references[0] if self.references else self.id


def chain_ids(diff_ids: Iterable[DiffId]) -> list[ChainId]:
    """The chain_id of every prefix of a chain, base first (OCI image-spec, config.md, "Layer ChainID")."""
    chain: list[ChainId] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return chain


def chain_id(parent: ChainId | None, diff_id: DiffId) -> ChainId:
    """The chain_id of a layer on top of its parent."""
    return ChainId(diff_id if parent is None else _sha256(f"{parent} {diff_id}".encode()))


def _sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def build_steps(images: Iterable[ImageRecord]) -> set[ImageId]:
    """The untagged images below another: the legacy builder leaves one for each step.

    Only what an image that is no such step leads to counts, so that ``parent`` files in a circle hide nothing.
    """
    by_id = {image.id: image for image in images}
    parents = {image.parent for image in by_id.values()}
    steps: set[ImageId] = set()
    for image in by_id.values():
        if image.references or image.id not in parents:
            below = by_id.get(image.parent) if image.parent is not None else None
            while below is not None and not below.references and below.id not in steps:
                steps.add(below.id)
                below = by_id.get(below.parent) if below.parent is not None else None
    return steps


class ImageDb:
    """The images below ``image/<driver>/`` of a data root."""

    def __init__(self, root: DataRoot, driver: str, warn: Warn) -> None:
        self.root = root
        self.base = f"image/{driver}"
        self.contents = f"{self.base}/imagedb/content/sha256"
        self.warn = warn
        self.broken: list[BrokenRecord] = []
        """The images that ``all`` left out."""

    def all(self) -> list[ImageRecord]:
        """Every readable image, by id. A broken one is a warning and left out."""
        references = self.references()
        stored: set[ImageId] = set()
        for name in self.root.names(self.contents):
            identifier = records.image_id(f"sha256:{name}")
            if identifier is not None:
                stored.add(identifier)
            else:
                self._warn_of_image(f"{self.contents}/{name}", "its name is no image id")
        found = []
        for identifier in sorted(stored | references.keys()):
            names = references.get(identifier, ())
            try:
                found.append(self.read(identifier, names))
            except (CorruptStoreError, StoragePermissionError) as error:
                self.broken.append(BrokenRecord(TargetKind.IMAGE, identifier, names, error))
                self._warn_of_image(self._config_path(identifier), error.message)
        return found

    def read(self, identifier: ImageId, references: tuple[str, ...]) -> ImageRecord:
        """One image. Raises CorruptStoreError."""
        path = self._config_path(identifier)
        content = self.root.content(path)
        if content is None:
            raise CorruptStoreError(
                f"the image {references[0] if references else identifier} has no {self.root.join(path)}",
                "the image is damaged; remove it and get it again",
            )
        config = self.root.parse_json(content, path)
        actual = _sha256(content)
        if actual != identifier:
            message = f"is not what Docker stored under this name: its digest is {actual}"
            self.warn(Caution("changed-image-config", self.root.join(path), message))
        image = image_record(identifier, references, config, self._parent(identifier), self.root.join(path))
        return replace(image, config_path=self.root.join(path))

    def _config_path(self, identifier: ImageId) -> str:
        return f"{self.contents}/{identifier.removeprefix('sha256:')}"

    def _parent(self, identifier: ImageId) -> ImageId | None:
        path = f"{self.base}/imagedb/metadata/sha256/{identifier.removeprefix('sha256:')}/parent"
        wrong = "holds no image id"
        try:
            text = self.root.text(path)
        except (CorruptStoreError, StoragePermissionError) as error:
            text, wrong = "", error.message
        parent = records.image_id(text)
        if text is not None and parent is None:
            self.warn(Caution("broken-parent", self.root.join(path), wrong))
        return parent

    def references(self) -> dict[ImageId, tuple[str, ...]]:
        """The names of every named image, tags before digests, sorted. What can't be read is a warning."""
        try:
            stored = self.root.json(self.base, "repositories.json")
        except CorruptStoreError as error:
            self._warn_of_references(error.message)
            return {}
        repositories = stored.get("Repositories") if stored is not None else {}
        if not isinstance(repositories, dict):
            self._warn_of_references("holds no Repositories; no image has a name")
            return {}
        found: dict[ImageId, list[str]] = {}
        for repository, names in repositories.items():
            if not isinstance(names, dict):
                self._warn_of_references(f"holds no names for {repository[:80]!r}")
                continue
            for name, target in names.items():
                identifier = records.image_id(target)
                if identifier is None:
                    self._warn_of_references(f"{name[:80]!r} names {str(target)[:80]!r}, which is no image id")
                else:
                    found.setdefault(identifier, []).append(name)
        return {identifier: sort_references(names) for identifier, names in found.items()}

    def _warn_of_image(self, path: str, message: str) -> None:
        self.warn(Caution("broken-image", self.root.join(path), f"image left out: {message}"))

    def _warn_of_references(self, message: str) -> None:
        self.warn(Caution("broken-references", self.root.join(self.base, "repositories.json"), message))


def sort_references(names: Iterable[str]) -> tuple[str, ...]:
    """Tags before digests, each sorted: the first is the name to show."""
    return tuple(sorted(set(names), key=lambda name: ("@" in name, name)))


def image_record(
    identifier: ImageId,
    references: tuple[str, ...],
    config: dict[str, Any],
    parent: ImageId | None,
    path: str,
) -> ImageRecord:
    """Check and convert an image configuration. Raises CorruptStoreError naming ``path``."""
    rootfs = config.get("rootfs")
    stored = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    diff_ids = [records.diff_id(value) for value in stored or ()] if isinstance(stored, list | None) else [None]
    if not isinstance(rootfs, dict) or None in diff_ids:
        raise CorruptStoreError(
            f"the image configuration {path} has no valid rootfs.diff_ids",
            "the configuration is damaged; remove the image and get it again",
        )
    valid = tuple(diff_id for diff_id in diff_ids if diff_id is not None)
    return ImageRecord(
        id=identifier,
        references=references,
        diff_ids=valid,
        history=_history(config.get("history"), len(valid), path),
        created=from_rfc3339(config.get("created")),
        parent=parent,
        config=config,
    )


def _history(steps: object, layers: int, path: str) -> tuple[HistoryStep, ...]:
    """Match history entries to layers: each non-empty entry takes the next one (OCI config.md).

    An entry that can't be read is an error: without it the others would name the wrong layers.
    """
    found: list[HistoryStep] = []
    layer = 0
    if not isinstance(steps, list | None):
        _refuse_history(path)
    for step in steps or ():
        if not isinstance(step, dict):
            _refuse_history(path)
        empty = step.get("empty_layer") or False
        if not isinstance(empty, bool):
            _refuse_history(path)
        if not empty and layer >= layers:
            raise CorruptStoreError(
                f"the image configuration {path} has more history entries than layers",
                "Docker refuses such an image, too; remove it and get it again",
            )
        found.append(
            HistoryStep(
                created_by=_text(step.get("created_by")),
                created=from_rfc3339(step.get("created")),
                comment=_text(step.get("comment")),
                layer=None if empty else layer,
            )
        )
        layer += not empty
    return tuple(found)


def _refuse_history(path: str) -> NoReturn:
    raise CorruptStoreError(
        f"the image configuration {path} has a history that is no list of steps",
        "the configuration is damaged; remove the image and get it again",
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
