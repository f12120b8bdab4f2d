"""Reads the whole classic store raw, for ``check``: what every record says, whether it can be or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, TypeVar

from layerscope.errors import CorruptStoreError, LayerscopeError
from layerscope.model import CacheId, Caution, Cautions, ChainId, ContainerId, DiffId
from layerscope.stores import records
from layerscope.stores.containers import ContainerDb, ContainerRecord
from layerscope.stores.evidence import LAYERDB, Evidence, Unreadable, build_evidence
from layerscope.stores.images import ImageDb, ImageRecord
from layerscope.stores.layerdb import LONGEST_SIZE
from layerscope.stores.overlay2 import DRIVER, Overlay2Store
from layerscope.stores.records import DataRoot


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of ``overlay2/``, as far as it could be read."""

    names: frozenset[str]
    link: str | None
    """What ``link`` holds; None where it is missing or can't be read."""
    lower: str | None
    trouble: tuple[tuple[str, str], ...] = ()
    """Files that can't be read, each with the reason."""


@dataclass(frozen=True, slots=True)
class LayerState:
    """A record of layerdb; None stands for what is missing or impossible."""

    name: str
    cache_id: CacheId | None
    diff_id: DiffId | None
    parent: ChainId | None
    size_bytes: int | None
    broken: tuple[tuple[str, str], ...]
    """Files that are missing or impossible, each with the reason."""
    has_tar_split: bool


@dataclass(frozen=True, slots=True)
class MountState:
    """The record of a read-write layer."""

    name: str
    mount_id: CacheId | None
    init_id: CacheId | None
    parent: ChainId | None
    broken: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class State:
    """The store at one moment. Records are read before the directories that they refer to."""

    root: DataRoot
    layers: dict[ChainId, LayerState] = field(default_factory=dict)
    removing: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    """Paths of entries that the engine gives no such name, relative to the data root."""
    mounts: dict[str, MountState] = field(default_factory=dict)
    images: list[ImageRecord] = field(default_factory=list)
    image_trouble: list[Caution] = field(default_factory=list)
    containers: list[ContainerRecord] = field(default_factory=list)
    container_trouble: list[Caution] = field(default_factory=list)
    container_ids: set[ContainerId] = field(default_factory=set)
    builds: list[Evidence] = field(default_factory=list)
    build_trouble: list[Unreadable] = field(default_factory=list)
    directories: dict[CacheId, Directory] = field(default_factory=dict)
    links: dict[str, str | None] = field(default_factory=dict)
    """What each entry of ``l/`` leads to."""

    def directory_path(self, cache_id: CacheId, *parts: str) -> str:
        return self.root.join(DRIVER, cache_id, *parts)

    def layer_path(self, name: str, *parts: str) -> str:
        return self.root.join(LAYERDB, "sha256", name, *parts)

    def mount_path(self, name: str, *parts: str) -> str:
        return self.root.join(LAYERDB, "mounts", name, *parts)


def read_state(disk: Overlay2Store) -> State:
    """Read everything but the content of layers. Raises LayerscopeError when a whole directory can't be read."""
    state = State(disk.root)
    _read_containers(state, disk)
    _read_images(state)
    _read_mounts(state)
    for item in build_evidence(disk.root):
        if isinstance(item, Evidence):
            state.builds.append(item)
        else:
            state.build_trouble.append(item)
    _read_layers(state)
    _read_directories(state)
    return state


def _read_containers(state: State, disk: Overlay2Store) -> None:
    trouble = Cautions()
    containers = ContainerDb(state.root, DRIVER, trouble, disk.containerdb.others)
    state.containers = containers.all()
    state.container_trouble = list(trouble)
    ids = (records.container_id(name) for name in state.root.names("containers"))
    state.container_ids = {identifier for identifier in ids if identifier is not None}


def _read_images(state: State) -> None:
    trouble = Cautions()
    state.images = ImageDb(state.root, DRIVER, trouble).all()
    state.image_trouble = list(trouble)


Value = TypeVar("Value")


class _Files:
    """The files of a record: what they say, and which say nothing that can be."""

    def __init__(self, record: DataRoot) -> None:
        self.record = record
        self.broken: list[tuple[str, str]] = []

    def read(self, name: str, check: Callable[[str], Value | None], *, required: bool = True) -> Value | None:
        try:
            text = self.record.text(name)
        except LayerscopeError as error:
            self.broken.append((name, error.message.removeprefix(f"{self.record.join(name)} ")))
            return None
        value = check(text) if text is not None else None
        if text is None and required:
            self.broken.append((name, "is missing"))
        elif text is not None and value is None:
            self.broken.append((name, f"holds {text[:80]!r}" if text else "is empty"))
        return value


def _read_mounts(state: State) -> None:
    with state.root.inside(LAYERDB, "mounts") as mounts:
        for name, record in _records(state, mounts):
            files = _Files(record)
            state.mounts[name] = MountState(
                name,
                files.read("mount-id", records.cache_id),
                files.read("init-id", records.cache_id, required=False),
                files.read("parent", records.chain_id, required=False),
                tuple(files.broken),
            )


def _read_layers(state: State) -> None:
    with state.root.inside(LAYERDB, "sha256") as layers:
        for name, record in _records(state, layers):
            chain_id = records.chain_id(f"sha256:{name}")
            if chain_id is None:
                (state.removing if name.endswith("-removing") else state.strangers).append(
                    f"{LAYERDB}/sha256/{name}"
                )
                continue
            files = _Files(record)
            state.layers[chain_id] = LayerState(
                name,
                files.read("cache-id", records.cache_id),
                files.read("diff", records.diff_id),
                files.read("parent", records.chain_id, required=False),
                files.read("size", _size),
                tuple(files.broken),
                "tar-split.json.gz" in record.names(),
            )


def _size(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= LONGEST_SIZE else None


def _records(
    state: State, above: DataRoot | None, names: Iterable[str] | None = None
) -> Iterator[tuple[str, DataRoot]]:
    """The directories in a directory; one that vanishes meanwhile is left out, and what is none is a stranger."""
    if above is None:
        return
    for name in above.names() if names is None else names:
        with ExitStack() as stack:
            try:
                record = stack.enter_context(above.inside(name))
            except CorruptStoreError:
                state.strangers.append(above.join(name).removeprefix(state.root.join("")))
                continue
            if record is not None:
                yield name, record


def _read_directories(state: State) -> None:
    with state.root.inside(DRIVER) as overlay2:
        names = overlay2.names() if overlay2 is not None else []
        ids = {name: cache_id for name in names if (cache_id := records.cache_id(name)) is not None}
        state.strangers += [f"{DRIVER}/{name}" for name in names if name not in ids and not _is_engines(name)]
        for name, below in _records(state, overlay2, ids):
            state.directories[ids[name]] = _directory(below)
    with state.root.inside(DRIVER, "l") as short:
        for name in short.names() if short is not None else ():
            state.links[name] = short.link(name) if short is not None else None


def _directory(below: DataRoot) -> Directory:
    names = frozenset(below.names())
    trouble: list[tuple[str, str]] = []
    texts: dict[str, str | None] = {"link": None, "lower": None}
    for name in texts:
        try:
            texts[name] = below.text(name) if name in names else None
        except LayerscopeError as error:
            trouble.append((name, error.message.removeprefix(f"{below.join(name)} ")))
    return Directory(names, texts["link"], texts["lower"], tuple(trouble))


def _is_engines(name: str) -> bool:
    """What the driver itself puts there, some of it for a moment (moby ``graphdriver/{overlay2,overlayutils}``)."""
    return name in ("l", "backingFsBlockDev") or name.startswith(_OWN_NAMES)


_OWN_NAMES: Final = ("opaque-bug-check", "metacopy-check", "userxattr-check", "compat-check")
