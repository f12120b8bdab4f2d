"""Images in an archive: what ``docker save`` writes, before 25 and since, and OCI layouts. No engine, no root.

Sources: moby ``daemon/internal/image/tarexport`` (``manifest.json``) and ``daemon/containerd/image_exporter.go``;
OCI image-spec ``image-layout.md``. Docker since 25 writes both; ``manifest.json`` then says what there is, as for
``docker load``, unless another platform is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat as st
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import IO, Any, Final, NoReturn

from layerscope.errors import ArchiveError, CorruptStoreError, LayerscopeError, UnsupportedStoreError
from layerscope.model import (
    CacheId,
    Caution,
    ImageId,
    OverlayOptions,
    Source,
    Target,
    TargetKind,
    Warn,
    ignore,
)
from layerscope.reading import FILE, open_untouched
from layerscope.stores import records, stacks
from layerscope.stores.archive_files import ArchiveFiles, DirectoryFiles, Onlooker, PipeFiles, TarFiles
from layerscope.stores.containers import ContainerRecord
from layerscope.stores.content_store import Manifest, Manifests, Platform, host_platform, platform_of
from layerscope.stores.images import ImageRecord, chain_ids, image_record, sort_references
from layerscope.stores.layerdb import LayerRecord, MountRecord
from layerscope.stores.records import BrokenRecord
from layerscope.stores.references import parse
from layerscope.stores.stacks import Place
from layerscope.tars.layer import TarLayer
from layerscope.tars.packing import MAGIC_BYTES, Packing, packing_of

KIND: Final = "archive"
DOCKER: Final = "docker-archive"
OCI: Final = "oci-layout"
_MANIFEST: Final = "manifest.json"
_INDEX: Final = "index.json"
_LAYOUT: Final = "oci-layout"
_MOST_IMAGES: Final = 1000
_NAMES: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_NO_CACHE_ID: Final = CacheId("")
_DEFAULTS: Final = OverlayOptions()


class ArchiveStore:
    """The images of one archive."""

    def __init__(
        self, files: ArchiveFiles, platform: Platform | None, warn: Warn, options: OverlayOptions = _DEFAULTS
    ) -> None:
        """Raises ArchiveError when the archive holds no list of images."""
        self.files = files
        self.platform = platform
        self.warn = warn
        self.options = options
        self._broken: list[BrokenRecord] = []
        if files.problem is not None:
            warn(Caution("damaged-archive", files.path, f"{files.problem}; what follows is left out"))
        names = files.names()
        if _MANIFEST not in names and _INDEX not in names:
            raise ArchiveError(
                f"{files.path} is no archive of images: it has neither {_MANIFEST} nor {_INDEX}",
                (files.problem and "it is not whole; save the image again") or "name what `docker save` wrote",
            )
        self._is_oci = _MANIFEST not in names or (platform is not None and _INDEX in names)
        self.source = Source(KIND, OCI if self._is_oci else DOCKER, None, archive=files.path)

    @property
    def parts(self) -> tuple[ArchiveStore]:
        return (self,)

    def images(self) -> list[ImageRecord]:
        return self._images

    def containers(self) -> list[ContainerRecord]:
        return []

    def broken(self) -> list[BrokenRecord]:
        self.images()
        return self._broken

    @cached_property
    def _images(self) -> list[ImageRecord]:
        found: dict[str, ImageRecord] = {}
        for image in self._listed_by_index() if self._is_oci else self._listed_by_manifest():
            known = found.get(image.id)
            names = {*image.references, *(known.references if known is not None else ())}
            found[image.id] = replace(image, references=sort_references(names))
        if not self._is_oci and _INDEX in self.files.names():
            self._compare_with_index(found.values())
        return [found[identifier] for identifier in sorted(found)]

    def _compare_with_index(self, listed: Iterable[ImageRecord]) -> None:
        """Docker since 25 writes both lists, and which one counts depends on the image store that loads it."""
        documents = _Blobs(self.files, ignore)
        configs: set[str] = set()
        try:
            for entry in self._json(_INDEX)["manifests"]:
                configs.update(manifest.config for manifest in documents.manifests(entry["digest"]))
        except (LayerscopeError, KeyError, TypeError) as error:
            what = error.message if isinstance(error, LayerscopeError) else "it is no list of images"
            self.warn(Caution("archive-mismatch", f"{self.files.path}!/{_INDEX}", f"can't be followed: {what}"))
            return
        for image in listed:
            if image.id not in configs:
                message = f"does not list {image.name} ({image.id}), which {_MANIFEST} does"
                self.warn(Caution("archive-mismatch", f"{self.files.path}!/{_INDEX}", message))

    def image_layers(self, image: ImageRecord) -> list[LayerRecord]:
        """The layers of an image, base first, with the sizes of their files. Raises CorruptStoreError."""
        return [_record(image, index, _size_bytes(tar)) for index, tar in enumerate(self._tars(image))]

    def container_mount(self, container: ContainerRecord) -> MountRecord:
        raise CorruptStoreError(f"{container.name} is in no archive", "an archive holds images only")

    def container_target(self, container: ContainerRecord) -> Target:
        raise CorruptStoreError(f"{container.name} is in no archive", "an archive holds images only")

    def image_target(self, image: ImageRecord) -> Target:
        """The image with its stack. Raises CorruptStoreError."""
        places = [
            Place(cache_id=None, diff_dir=tar.place, record=_record(image, index, None), tar=tar)
            for index, tar in enumerate(self._tars(image))
        ]
        return stacks.image_target(image, places, self.images(), self.options, self.source)

    def _tars(self, image: ImageRecord) -> list[TarLayer]:
        tars = []
        for index, name in enumerate(image.blobs):
            tar = self.files.layer(name)
            if tar is None:
                raise CorruptStoreError(
                    f"layer {index} of {image.name} ({name}) is not in {self.files.path}",
                    "the archive is not whole, or was written without it; save the image again",
                )
            tars.append(tar)
        return tars

    # -- manifest.json ---------------------------------------------------------------------------------------

    def _listed_by_manifest(self) -> Iterator[ImageRecord]:
        items = self._json(_MANIFEST)
        if not isinstance(items, list) or len(items) > _MOST_IMAGES:
            self._refuse(f"its {_MANIFEST} is no list of images")
        for item in items:
            names = tuple(_texts(item.get("RepoTags")) if isinstance(item, dict) else ())
            try:
                yield self._image_of_item(item, names)
            except LayerscopeError as error:
                self._leave_out(names, error)

    def _image_of_item(self, item: Any, names: tuple[str, ...]) -> ImageRecord:
        config, layers = (item.get(key) if isinstance(item, dict) else None for key in ("Config", "Layers"))
        if (
            not isinstance(config, str)
            or not isinstance(layers, list | None)
            or not all(isinstance(layer, str) for layer in layers or ())
        ):
            self._refuse(f"its {_MANIFEST} has an entry without a configuration or layers")
        named = records.image_id("sha256:" + os.path.basename(config).removesuffix(".json"))
        return self._image(config, named, names, tuple(layers or ()))

    # -- index.json ------------------------------------------------------------------------------------------

    def _listed_by_index(self) -> Iterator[ImageRecord]:
        documents = _Blobs(self.files, self.warn)
        index = self._json(_INDEX)
        entries = index.get("manifests") if isinstance(index, dict) else None
        if not isinstance(entries, list) or len(entries) > _MOST_IMAGES:
            self._refuse(f"its {_INDEX} is no list of images")
        for entry in entries:
            names = _names(entry)
            digest = entry["digest"] if isinstance(entry, dict) and "digest" in entry else None
            try:
                yield self._chosen(documents.manifests(str(digest)), names)
            except LayerscopeError as error:
                self._leave_out(names, error)

    def _chosen(self, manifests: Sequence[Manifest], names: tuple[str, ...]) -> ImageRecord:
        """The image for one platform: the one asked for, else this machine's, else the first."""
        images = []
        error: LayerscopeError | None = CorruptStoreError(
            f"{self.files.path} has no image for {names[0] if names else 'an entry of its index'}",
            "the archive is not whole; save the image again",
        )
        for manifest in manifests:
            place, *layers = (_blob(digest) for digest in (manifest.config, *manifest.layers))
            try:
                images.append(self._image(place, records.image_id(manifest.config), names, tuple(layers)))
            except LayerscopeError as failure:
                error = failure  # of another platform, mostly, whose blobs are not here
        if not images and error is not None:
            raise error
        asked = self.platform
        fitting = [
            image
            for image in images
            if (own := platform_of(image.config)) is not None and own.fits(asked or host_platform())
        ]
        if asked is not None and not fitting:
            here = ", ".join(sorted({str(platform_of(image.config)) for image in images}))
            raise UnsupportedStoreError(
                f"the image {names[0] if names else images[0].id} is not here for {asked}", f"it is here for {here}"
            )
        return (fitting or images)[0]

    # -- both ------------------------------------------------------------------------------------------------

    def _image(
        self, path: str, claimed: ImageId | None, names: tuple[str, ...], layers: tuple[str, ...]
    ) -> ImageRecord:
        place = f"{self.files.path}!/{path}"
        content = self.files.document(path)
        if content is None:
            raise CorruptStoreError(
                f"the image configuration {place} is not there", "the archive is not whole; save the image again"
            )
        actual = ImageId("sha256:" + hashlib.sha256(content).hexdigest())
        if claimed is not None and actual != claimed:
            message = f"is not what its name says: its digest is {actual}"
            self.warn(Caution("changed-image-config", place, message))
        config = self._parsed(content, path)
        if not isinstance(config, dict):
            self._refuse(f"{path} is no image configuration")
        image = image_record(actual, sort_references(names), config, None, place)
        if len(layers) != len(image.diff_ids):
            raise CorruptStoreError(
                f"{image.name} in {self.files.path} has {len(layers)} layers, but {len(image.diff_ids)} diff_ids",
                "the archive is damaged or forged; save the image again",
            )
        return replace(image, config_path=place, blobs=layers)

    def _json(self, name: str) -> Any:
        content = self.files.document(name)
        if content is None:
            self._refuse(f"its {name} can't be read")
        return self._parsed(content, name)

    def _parsed(self, content: bytes, name: str) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            self._refuse(f"{name} is not JSON")

    def _refuse(self, what: str) -> NoReturn:
        raise ArchiveError(f"{self.files.path} is no archive of images: {what}", "save the image again")

    def _leave_out(self, names: tuple[str, ...], error: LayerscopeError) -> None:
        self._broken.append(BrokenRecord(TargetKind.IMAGE, names[0] if names else "", names, error))
        self.warn(Caution("broken-image", self.files.path, f"image left out: {error.message}"))


def _record(image: ImageRecord, index: int, size_bytes: int | None) -> LayerRecord:
    chain = chain_ids(image.diff_ids[: index + 1])
    return LayerRecord(
        chain[index], image.diff_ids[index], _NO_CACHE_ID, chain[index - 1] if index else None, size_bytes
    )


def _size_bytes(tar: TarLayer) -> int | None:
    try:
        return tar.index.size_bytes
    except OSError:
        return None


class _Blobs(Manifests):
    """The documents of an OCI layout."""

    def __init__(self, files: ArchiveFiles, warn: Warn) -> None:
        super().__init__(warn)
        self._files = files

    def place(self, digest: str) -> str:
        return f"{self._files.path}!/{_blob(digest)}"

    def document(self, digest: str) -> dict[str, Any] | None:
        content = self._files.document(_blob(digest))
        if content is None:
            return None
        actual = "sha256:" + hashlib.sha256(content).hexdigest()
        if actual != digest:
            message = f"is not what its name says: its digest is {actual}"
            self.warn(Caution("changed-blob", self.place(digest), message))
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise CorruptStoreError(f"{self.place(digest)} holds no JSON object", "save the image again")
        return document


def _blob(digest: str) -> str:
    """Where a blob lies in an OCI layout. Raises CorruptStoreError when ``digest`` is none."""
    valid = records.diff_id(digest)
    if valid is None:
        raise CorruptStoreError(
            f"{digest[:80]!r} is no sha256 digest", "the archive is damaged or forged; save the image again"
        )
    return f"blobs/sha256/{valid.removeprefix('sha256:')}"


def open_archive(
    path: str,
    platform: Platform | None,
    warn: Warn,
    pipe: IO[bytes] | None = None,
    onlooker: Onlooker | None = None,
    options: OverlayOptions = _DEFAULTS,
    *,
    reread: bool = True,
) -> ArchiveStore:
    """The archive in a file or directory, or what comes out of a ``pipe``, where ``onlooker`` sees all files.

    Not to ``reread`` contents lets what is packed as a whole be unpacked only once. Raises ArchiveError.
    """
    return ArchiveStore(_files(path, pipe, onlooker, reread), platform, warn, options)


def _files(path: str, pipe: IO[bytes] | None, onlooker: Onlooker | None, reread: bool) -> ArchiveFiles:
    if pipe is not None:
        return PipeFiles(path, pipe, onlooker)
    real = os.path.abspath(path)
    try:
        if os.path.isdir(real):
            return DirectoryFiles(real)
        if st.S_ISFIFO(os.stat(real).st_mode):  # `<(docker save …)`: wait for who writes
            with open(real, "rb") as named:
                return PipeFiles(real, named, onlooker)
        fd = open_untouched(real, FILE & ~os.O_NOFOLLOW)
    except OSError as error:
        raise ArchiveError(f"{path} can't be read: {error.strerror}", "name a file that you may read") from error
    if not st.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ArchiveError(f"{path} is neither a file nor a directory", "name what `docker save` wrote")
    # From the middle of gzip it goes on quickly; of all else every layer would be unpacked from the start.
    if not reread and packing_of(os.pread(fd, MAGIC_BYTES, 0)) not in (None, Packing.GZIP):
        with open(fd, "rb") as packed:
            return PipeFiles(real, packed, onlooker)
    return TarFiles(real, fd)


def _names(entry: Any) -> tuple[str, ...]:
    """The name that an index gives an image, as Docker shows it."""
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    if not isinstance(annotations, dict):
        return ()
    for key in _NAMES:
        name = annotations.get(key)
        if isinstance(name, str) and name:
            reference = parse(name)
            return (reference.key if reference is not None else name,)
    return ()


def _texts(value: Any) -> Iterator[str]:
    for text in value if isinstance(value, list) else ():
        if isinstance(text, str):
            reference = parse(text)
            yield reference.key if reference is not None else text
