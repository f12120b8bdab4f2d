"""The domain in frozen types: what a layer, a stack, an image and a container are. No I/O.

A ``Stack`` iterates base → top: index 0 is the base layer. The kernel's top-first order exists only in
``overlay.lookup``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from layerscope.tars.layer import TarLayer

DiffId = NewType("DiffId", str)
"""``sha256:<hex>`` of a layer's uncompressed tar (OCI image-spec, config.md)."""

ChainId = NewType("ChainId", str)
"""``sha256:<hex>`` that names a layer together with everything below it."""

CacheId = NewType("CacheId", str)
"""Name of a layer's directory: in ``overlay2/`` 64 hex digits, those with ``-init``, or BuildKit's 25 characters;
in a snapshotter's ``snapshots/`` a number."""

LinkId = NewType("LinkId", str)
"""26 characters ``A-Z2-7``: the short name of a layer directory in ``overlay2/l/``."""

ImageId = NewType("ImageId", str)
ContainerId = NewType("ContainerId", str)


class Role(StrEnum):
    """What a layer is in its stack."""

    IMAGE = "image"
    INIT = "init"
    UPPER = "upper"
    LOWER = "lower"
    """A lower directory of an overlay mount that no image store names."""


class TargetKind(StrEnum):
    IMAGE = "image"
    CONTAINER = "container"
    MOUNT = "mount"


class XattrFamily(StrEnum):
    """Where overlayfs keeps its marks; a mount uses one family and ignores the other."""

    TRUSTED = "trusted.overlay."
    USER = "user.overlay."


@dataclass(frozen=True, slots=True)
class OverlayOptions:
    """The mount options that decide what a stack shows (kernel: filesystems/overlayfs.rst)."""

    xattrs: XattrFamily = XattrFamily.TRUSTED
    follow_redirects: bool = True
    """False under ``redirect_dir=nofollow`` and under ``userxattr``: a redirect is then an error."""
    metacopy: bool = False
    """True under ``metacopy=on``: else a metacopy file is an error."""


class Sameness(StrEnum):
    """How to tell what a directory has from the one below it from what is its layer's own."""

    INODE = "inode"
    """Files are hard links of those below; everything else is a copy."""
    COPY = "copy"
    """All are copies, with content, attributes and times."""
    CONTENT = "content"
    """All are copies that lost their times."""


@dataclass(frozen=True, slots=True)
class Accumulated:
    """For a layer whose directory holds what the layers below it hold, too, and not only its own changes."""

    below: str | None
    """Absolute path of the directory that it began as a copy of; None where there is none."""
    same: Sameness
    is_tree: bool
    """A whole tree, in which overlayfs' marks mean nothing; else an upper directory, with marks."""


@dataclass(frozen=True, slots=True)
class LayerUser:
    """An image that holds a layer, as ``shared_with`` names it."""

    id: ImageId
    references: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its first reference, or its short id."""
        return self.references[0] if self.references else short_id(self.id)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a stack, and all that its store knows of it."""

    index: int
    role: Role
    diff_dir: str
    """Absolute path of the directory that holds the layer's content; for one in a tar what to call its place."""
    diff_id: DiffId | None = None
    chain_id: ChainId | None = None
    cache_id: CacheId | None = None
    link_id: LinkId | None = None
    snapshot: str | None = None
    """Its key among the snapshots of its containerd namespace."""
    created_by: str | None = None
    created: str | None = None
    shared_with: tuple[LayerUser, ...] = ()
    recorded_bytes: int | None = None
    """Its size as recorded when the layer was made: by Docker in layerdb the bytes of its files, by a snapshotter
    the disk space of its files and directories."""
    accumulated: Accumulated | None = None
    """For the graph driver ``overlay``: what of ``diff_dir`` is not this layer's. None where all of it is."""
    tar: TarLayer | None = field(default=None, compare=False)
    """The tar that holds its content, where that lies in no directory."""

    def place_of(self, path: str) -> str:
        """Where a path of the layer lies, for people; for a layer in a tar ``image.tar!/layer.tar!/etc/passwd``."""
        return f"{self.diff_dir}{'/' if self.tar is None else '!/'}{path}"


@dataclass(frozen=True, slots=True)
class Stack:
    """What overlayfs mounts: image layers, then a container's init and upper layer. Iterates base → top."""

    layers: tuple[Layer, ...]
    options: OverlayOptions = OverlayOptions()
    data_dirs: tuple[str, ...] = ()
    """Data-only lower directories (after ``::``), in the order of lookup. They contribute no names."""

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def up_to(self, index: int) -> Stack:
        """The stack as it was when layer ``index`` was its top."""
        return Stack(self.layers[: index + 1], self.options, self.data_dirs)


@dataclass(frozen=True, slots=True)
class HistoryStep:
    """One step of an image's history; ``layer`` is None for a step that made no layer."""

    created_by: str | None
    created: str | None
    comment: str | None
    layer: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """Where the answer comes from."""

    kind: str
    """``docker-api``, ``data-root``, ``archive`` or ``mount``."""
    driver: str | None
    data_root: str | None
    containerd_root: str | None = None
    """For the containerd image store: where containerd keeps its data."""
    in_use: bool | None = None
    """Whether a running engine uses it; None where none was asked."""
    archive: str | None = None
    """For images in an archive: its path, or ``-``."""

    @property
    def storage(self) -> str | None:
        """The directory or archive that the layers lie in."""
        return self.archive or self.containerd_root or self.data_root


@dataclass(frozen=True, slots=True)
class Target:
    """What the user asked about, resolved: its names, its history and the stack that holds it."""

    kind: TargetKind
    id: str | None
    name: str
    stack: Stack
    references: tuple[str, ...] = ()
    history: tuple[HistoryStep, ...] = ()
    image_id: ImageId | None = None
    image: str | None = None
    """For a container: the image as it was named when the container was made."""
    state: str | None = None
    """For a container: ``created``, ``running``, ``paused``, ``restarting``, ``exited`` or ``dead``."""
    source: Source | None = None
    """The store that it was found in; None for a mount."""

    def at(self, height: int) -> Target:
        """The target as it was when layer ``height`` was its top."""
        return replace(self, name=f"{self.name}@{height}", stack=self.stack.up_to(height))


@dataclass(frozen=True, slots=True)
class Caution:
    """A warning: something the answer leaves out or could not settle. ``path`` names where."""

    code: str
    path: str | None
    message: str


Warn = Callable[[Caution], None]
"""How the core reports a warning: an injected callable. It never prints."""


@dataclass(slots=True)
class Cautions:
    """Collects warnings, each once, in the order in which they came."""

    found: dict[Caution, None] = field(default_factory=dict)

    def __call__(self, caution: Caution) -> None:
        self.found.setdefault(caution)

    def __iter__(self) -> Iterator[Caution]:
        return iter(self.found)


def ignore(_caution: Caution) -> None:
    """The default ``Warn``: says nothing."""


Tick = Callable[[int], None]
"""How the core tells of its progress: called with the number of paths seen since the last call."""


def no_tick(_paths: int) -> None:
    """The default ``Tick``: shows nothing."""


def short_id(identifier: str) -> str:
    """The first 12 characters of an id, without its algorithm, as Docker shortens it."""
    return identifier.rpartition(":")[2][:12]
