"""Reads manifests and image configurations in containerd's content store, where a blob's name is its digest.

Sources: containerd ``plugins/content/local/store.go``; OCI image-spec ``manifest.md`` and ``image-index.md``, and
Docker's older media types, which have the same fields. What a document is, its fields say; the media type that
somebody wrote beside it does not count.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from layerscope.errors import CorruptStoreError
from layerscope.model import Caution, DiffId, Warn
from layerscope.stores import records
from layerscope.stores.records import DataRoot

if TYPE_CHECKING:
    from layerscope.tars.layer import TarLayer

BLOBS: Final = "io.containerd.content.v1.content/blobs/sha256"
INGESTS: Final = "io.containerd.content.v1.content/ingest"
"""Downloads that were begun."""
LARGEST_DOCUMENT: Final = 16 << 20
"""Registries refuse manifests of more than 4 MiB."""
LARGEST_LAYER: Final = 1 << 62
DEEPEST: Final = 8
"""Indexes in each other; one is usual, two are rare."""
MOST_MANIFESTS: Final = 1000
"""Of an index, with those in indexes in it."""
_MACHINES: Final = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}
_ATTESTATION: Final = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on: ``linux/arm/v7``."""

    os: str
    architecture: str
    variant: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def fits(self, asked: Platform) -> bool:
        """Whether it is the one that is ``asked`` for, which may leave the variant open."""
        return (self.os, self.architecture) == (asked.os, asked.architecture) and (
            asked.variant in (None, self.variant) or (asked.architecture, self.variant) == ("arm64", None)
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """One platform's image."""

    digest: str
    config: str
    """The digest of its configuration."""
    layers: tuple[str, ...]
    """The digests of its layers as they are stored, packed, base first. Not checked."""
    platform: Platform | None
    """As the index says; None where it does not, or there is none."""


def parse_platform(text: str) -> Platform | None:
    """A platform as Docker's ``--platform`` takes it; None when it is none."""
    parts = text.lower().split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        return None
    architecture = _MACHINES.get(parts[1], parts[1])
    return Platform(parts[0], architecture, parts[2] if len(parts) == 3 else None)


def host_platform() -> Platform:
    """This machine's."""
    machine = os.uname().machine
    return Platform("linux", _MACHINES.get(machine, machine))


class Manifests:
    """Reads manifests and indexes, wherever the documents lie that their digests name."""

    def __init__(self, warn: Warn) -> None:
        self.warn = warn

    def place(self, digest: str) -> str:
        """Where a document lies, for people. Raises CorruptStoreError when ``digest`` is none."""
        raise NotImplementedError

    def document(self, digest: str) -> dict[str, Any] | None:
        """The JSON object with that digest; None when it is not there. Raises CorruptStoreError."""
        raise NotImplementedError

    def manifests(self, target: str) -> list[Manifest]:
        """The images of a manifest or an index whose manifests are here, in its order, without attestations.

        Of other platforms than the one that was pulled there is mostly nothing. Raises CorruptStoreError when
        ``target`` itself is missing or is neither.
        """
        document = self.document(target)
        if document is None:
            raise CorruptStoreError(
                f"the manifest {target} is not there: {self.place(target)} does not exist",
                "the image is damaged, or was not pulled completely; pull it again",
            )
        return list(self._of(target, document, None, {target}, DEEPEST))

    def _of(
        self, digest: str, document: dict[str, Any], platform: Platform | None, seen: set[str], depth: int
    ) -> Iterator[Manifest]:
        """``seen`` are the documents that were met already: no forged index leads in circles or fans out."""
        config, manifests = document.get("config"), document.get("manifests")
        if isinstance(config, dict) and isinstance(config.get("digest"), str):
            yield Manifest(digest, config["digest"], _layers(document.get("layers")), platform)
        elif isinstance(manifests, list) and depth and len(seen) <= MOST_MANIFESTS:
            for entry in manifests:
                yield from self._entry(entry, digest, seen, depth - 1)
        else:
            raise CorruptStoreError(
                f"{self.place(digest)} is neither a manifest nor an index of manifests",
                "the image is damaged, or no container image; remove it and get it again",
            )

    def _entry(self, entry: object, digest: str, seen: set[str], depth: int) -> Iterator[Manifest]:
        if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
            self._warn_of(digest, "has an entry without a digest")
            return
        platform = _platform(entry.get("platform"))
        annotations = entry.get("annotations")
        if isinstance(annotations, dict) and annotations.get(_ATTESTATION) == "attestation-manifest":
            return
        if platform is not None and "unknown" in (platform.os, platform.architecture):
            return
        if entry["digest"] in seen:
            return
        seen.add(entry["digest"])
        try:
            document = self.document(entry["digest"])
            if document is not None:
                yield from self._of(entry["digest"], document, platform, seen, depth)
        except CorruptStoreError as error:
            self._warn_of(digest, f"leads to something broken: {error.message}")

    def _warn_of(self, digest: str, message: str) -> None:
        self.warn(Caution("broken-manifest", self.place(digest), message))


class ContentStore(Manifests):
    """The blobs below a containerd root."""

    def __init__(self, root: DataRoot, warn: Warn) -> None:
        super().__init__(warn)
        self.root = root
        self._layers: dict[str, TarLayer] = {}

    def path(self, digest: str) -> str:
        """Where a blob lies. Raises CorruptStoreError when ``digest`` is none."""
        valid: DiffId | None = records.diff_id(digest)
        if valid is None:
            raise CorruptStoreError(
                f"{digest[:80]!r} is no sha256 digest",
                "a record that names content is damaged or forged; remove the image and get it again",
            )
        return f"{BLOBS}/{valid.removeprefix('sha256:')}"

    def place(self, digest: str) -> str:
        return self.root.join(self.path(digest))

    def layer(self, digest: str) -> TarLayer | None:
        """A layer's blob; None when it is not here. Raises CorruptStoreError."""
        from layerscope.tars.layer import TarLayer  # what it needs takes time to import
        from layerscope.tars.sources import FileSource

        if digest not in self._layers:
            path = self.path(digest)
            fd = self.root.open_file(path, largest=LARGEST_LAYER)
            if fd is None:
                return None
            source = FileSource(fd, owned=True)
            self._layers[digest] = TarLayer(self.root.join(path), source, os.fstat(fd).st_size, digest=digest)
        return self._layers[digest]

    def document(self, digest: str) -> dict[str, Any] | None:
        path = self.path(digest)
        content = self.root.content(path, largest=LARGEST_DOCUMENT)
        if content is None:
            return None
        actual = "sha256:" + hashlib.sha256(content).hexdigest()
        if actual != digest:
            message = f"is not what was stored under this name: its digest is {actual}"
            self.warn(Caution("changed-blob", self.root.join(path), message))
        return self.root.parse_json(content, path)


def _layers(value: object) -> tuple[str, ...]:
    """The digests of a manifest's layers; of an entry without one an empty text."""
    if not isinstance(value, list):
        return ()
    digests = (entry.get("digest") if isinstance(entry, dict) else None for entry in value)
    return tuple(digest if isinstance(digest, str) else "" for digest in digests)


def _platform(value: object) -> Platform | None:
    if not isinstance(value, dict):
        return None
    system, architecture, variant = (value.get(name) for name in ("os", "architecture", "variant"))
    if not isinstance(system, str) or not isinstance(architecture, str):
        return None
    return Platform(system, architecture, variant if isinstance(variant, str) and variant else None)


def platform_of(config: dict[str, Any]) -> Platform | None:
    """The platform that an image configuration names."""
    return _platform(config)
