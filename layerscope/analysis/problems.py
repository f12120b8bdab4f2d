"""What can be wrong with a store, what follows from it, and the official way out. Pure.

Consequences are what an engine does when it meets the damage. Those of an empty ``link``, a missing short link, a
missing ``work`` and an empty ``lower`` were tried out on an engine (20.10); the others follow from how moby's
``daemon/graphdriver/overlay2``, ``daemon/internal/layer`` and ``daemon/internal/image`` read it, and containerd's
``core/metadata`` and ``plugins/snapshots/overlay`` theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Severity(StrEnum):
    ERROR = "error"
    """Something does not work, or works on other files than it should."""
    WARNING = "warning"
    """Nothing fails for now, but space or data is out of sight."""


class Code(StrEnum):
    """The kinds of problems, from the directories of ``overlay2/`` up to images and containers."""

    UNKNOWN_ENTRY = "unknown-entry"
    MISSING_DIRECTORY = "missing-directory"
    MISSING_DIFF = "missing-diff"
    MISSING_WORK = "missing-work"
    BROKEN_LINK = "broken-link"
    DUPLICATE_LINK = "duplicate-link"
    MISSING_SHORT_LINK = "missing-short-link"
    WRONG_SHORT_LINK = "wrong-short-link"
    DANGLING_LINK = "dangling-link"
    BROKEN_LOWER = "broken-lower"
    LOWER_ORDER = "lower-order"
    BROKEN_LAYER = "broken-layer"
    CHAIN_ID = "chain-id-mismatch"
    MISSING_PARENT = "missing-parent"
    SHARED_DIRECTORY = "shared-directory"
    MISSING_TAR_SPLIT = "missing-tar-split"
    SIZE = "size-mismatch"
    HALF_REMOVED = "half-removed-layer"
    BROKEN_MOUNT = "broken-mount"
    NO_MOUNT = "container-without-layer"
    BROKEN_IMAGE = "broken-image"
    IMAGE_ID = "image-id-mismatch"
    MISSING_LAYER = "missing-layer"
    BROKEN_PARENT = "broken-parent"
    BROKEN_REFERENCES = "broken-references"
    BROKEN_CONTAINER = "broken-container"
    OTHER_DRIVER = "other-driver"
    BUILD_CACHE = "broken-build-cache"
    SECOND_STORE = "second-store"
    BROKEN_SNAPSHOT = "broken-snapshot"
    NO_SNAPSHOT = "key-without-snapshot"
    SNAPSHOT_PARENT = "parent-mismatch"
    MISSING_BLOB = "missing-blob"
    DISCARDED_BLOB = "discarded-blob"
    BLOB_SIZE = "blob-size-mismatch"
    BLOB_DIGEST = "blob-digest-mismatch"
    DIFF_ID = "diff-id-mismatch"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a code stands for."""

    severity: Severity
    consequence: str
    remedy: str
    """With the official command, where there is one. Only ever told. Words in capitals stand for names."""


_AGAIN: Final = (
    "remove all images and containers that hold it (`layerscope owner` names them): docker rm CONTAINER, docker rmi"
    " IMAGE; then docker pull IMAGE or build it again"
)
_CONTAINER: Final = (
    "save what the container wrote (docker cp, or its diff/), then docker rm CONTAINER and make it anew"
)
_IMAGE: Final = "docker rmi --force IMAGE, then docker pull IMAGE or build it again"
_RESTART: Final = "systemctl restart docker: the engine ends the removal when it starts"
_NO_START: Final = "containers on it can't start, and none can be made"

KINDS: Final = {
    Code.UNKNOWN_ENTRY: Kind(
        Severity.WARNING,
        "the engine gives nothing such a name and never looks at it",
        "no docker command removes it: find out who put it there, `layerscope orphans` has its size",
    ),
    Code.MISSING_DIRECTORY: Kind(Severity.ERROR, f"its content is lost: {_NO_START}", _AGAIN),
    Code.MISSING_DIFF: Kind(Severity.ERROR, f"its content is lost: {_NO_START}", _AGAIN),
    Code.MISSING_WORK: Kind(Severity.ERROR, "overlayfs can't mount it: the container can't start", _CONTAINER),
    Code.BROKEN_LINK: Kind(
        Severity.ERROR,
        "containers and builds made on it from now on fail, or where the file is empty silently lack its files",
        _AGAIN,
    ),
    Code.DUPLICATE_LINK: Kind(Severity.ERROR, "what is mounted on one of them may get the other's files", _AGAIN),
    Code.MISSING_SHORT_LINK: Kind(Severity.ERROR, _NO_START, _AGAIN),
    Code.WRONG_SHORT_LINK: Kind(Severity.ERROR, "what is mounted on it gets other files, or none", _AGAIN),
    Code.DANGLING_LINK: Kind(
        Severity.WARNING, "none: a remainder of a removal", "none is needed; `layerscope orphans` tells more"
    ),
    Code.BROKEN_LOWER: Kind(Severity.ERROR, _NO_START, _AGAIN),
    Code.LOWER_ORDER: Kind(
        Severity.ERROR,
        "it is mounted on other layers than it should be: files are lost, or old ones return",
        _AGAIN,
    ),
    Code.BROKEN_LAYER: Kind(
        Severity.ERROR, "at its next start the engine forgets the layer, and every image that has it", _AGAIN
    ),
    Code.CHAIN_ID: Kind(
        Severity.ERROR,
        "the engine takes it for another layer than it is: images may share what they must not",
        _AGAIN,
    ),
    Code.MISSING_PARENT: Kind(
        Severity.ERROR, "at its next start the engine forgets what stands on it: layers, images, containers", _AGAIN
    ),
    Code.SHARED_DIRECTORY: Kind(
        Severity.ERROR, "one of the layers has the other's files; removing one removes both", _AGAIN
    ),
    Code.MISSING_TAR_SPLIT: Kind(
        Severity.ERROR, "images with the layer run, but can't be saved or pushed; it can't be verified", _AGAIN
    ),
    Code.SIZE: Kind(
        Severity.ERROR,
        "the layer is not what it was when it was made",
        f"`layerscope verify` names the files; {_AGAIN}",
    ),
    Code.HALF_REMOVED: Kind(Severity.WARNING, "its space is not given back yet", _RESTART),
    Code.BROKEN_MOUNT: Kind(
        Severity.ERROR, "the container can't start; at its next start the engine forgets its layer", _CONTAINER
    ),
    Code.NO_MOUNT: Kind(Severity.ERROR, "the container can't start", "docker rm --force CONTAINER"),
    Code.BROKEN_IMAGE: Kind(Severity.ERROR, "at its next start the engine forgets the image", _IMAGE),
    Code.IMAGE_ID: Kind(
        Severity.ERROR, "the configuration was changed: the engine refuses it, or forgets the image", _IMAGE
    ),
    Code.MISSING_LAYER: Kind(Severity.ERROR, "it can't be used; the engine forgets it at its next start", _IMAGE),
    Code.BROKEN_PARENT: Kind(Severity.WARNING, "the builder's cache does not find the image's steps", _IMAGE),
    Code.BROKEN_REFERENCES: Kind(
        Severity.ERROR, "images lose their names", "docker tag IMAGE_ID NAME gives it back"
    ),
    Code.BROKEN_CONTAINER: Kind(
        Severity.ERROR, "at its next start the engine forgets the container and leaks its layers", _CONTAINER
    ),
    Code.OTHER_DRIVER: Kind(
        Severity.WARNING,
        "the engine does not show it while it uses this store",
        "switch the engine to that driver (storage-driver in daemon.json), docker rm CONTAINER, switch back",
    ),
    Code.BUILD_CACHE: Kind(Severity.ERROR, "builds that use it fail or start anew", "docker builder prune --all"),
    Code.BROKEN_SNAPSHOT: Kind(Severity.ERROR, f"what it stands for can't be told: {_NO_START}", _AGAIN),
    Code.NO_SNAPSHOT: Kind(Severity.ERROR, f"containerd has lost the layer: {_NO_START}", _AGAIN),
    Code.SNAPSHOT_PARENT: Kind(
        Severity.ERROR,
        "what is mounted are other layers than were meant: files are lost, or old ones return",
        _AGAIN,
    ),
    Code.MISSING_BLOB: Kind(
        Severity.ERROR, "the image can't be saved or pushed, and if it is not unpacked, not used", _IMAGE
    ),
    Code.DISCARDED_BLOB: Kind(
        Severity.WARNING,
        "the layer's tar was not kept: containers run on what is unpacked, saving and pushing it fails",
        "docker pull IMAGE gets it again; none is needed to run it",
    ),
    Code.BLOB_SIZE: Kind(Severity.ERROR, "the blob was cut off or changed: it can't be unpacked or pushed", _IMAGE),
    Code.BLOB_DIGEST: Kind(Severity.ERROR, "the blob was changed: the image is another than its name says", _IMAGE),
    Code.DIFF_ID: Kind(
        Severity.ERROR,
        "the blob is taken for another layer than it holds: what is pushed can't be unpacked",
        _IMAGE,
    ),
    Code.SECOND_STORE: Kind(
        Severity.WARNING,
        "the engine shows one store at a time; what is in the other is out of sight and keeps its space",
        "switch the engine to it (features.containerd-snapshotter or storage-driver in daemon.json), docker system"
        " prune --all, switch back",
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, with the evidence for it."""

    code: Code
    path: str
    """The file or directory that shows it."""
    message: str
    """What is there, and what should be."""
    affects: tuple[str, ...] = ()
    """Images and containers that stand on it, by name."""

    @property
    def kind(self) -> Kind:
        return KINDS[self.code]
