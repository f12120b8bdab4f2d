"""Whether layers still hold what was put into them: each compared with its diff_id, by what tar-split recorded."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from typing import Final, Protocol, TypeVar

from layerscope.analysis.attributes import Difference, Owners
from layerscope.analysis.entry_check import Expectations
from layerscope.analysis.trace import locate
from layerscope.analysis.verify_layer import LayerCheck
from layerscope.errors import CorruptStoreError, LayerscopeError, StoragePermissionError
from layerscope.model import (
    CacheId,
    Caution,
    ChainId,
    DiffId,
    Layer,
    LayerUser,
    Role,
    Stack,
    Tick,
    Warn,
    XattrFamily,
    ignore,
    no_tick,
)
from layerscope.overlay.content import open_content
from layerscope.overlay.walk import Walker
from layerscope.stores.classic import ClassicStore, LayerDirectory
from layerscope.stores.images import ImageRecord, chain_ids
from layerscope.stores.layerdb import LayerRecord
from layerscope.stores.stacks import layer_instructions, layer_users
from layerscope.stores.tarsplit import read_tar_split
from layerscope.workers import run, usable_cores

_REMAPPED: Final = re.compile(r"([0-9]{1,10})\.([0-9]{1,10})")
_UNPACKED: Final = re.compile(r"[0-9a-f]{64}")
"""A directory that the engine unpacked a tar to; BuildKit's own have names of another form."""
ALTERED_RECORD: Final = (
    "the tar is not the one of the diff_id, though every file agrees with tar-split:"
    " the attributes recorded there, or tar-split.json.gz itself, are not the layer's"
)


class Verdict(StrEnum):
    """What the check of a layer came to."""

    OK = "ok"
    """The tar that the disk gives has the diff_id, and nothing else differs."""
    UNREAD = "content-not-read"
    """Nothing differs, but the content of files was not read."""
    DIFFERS = "differs"
    UNVERIFIABLE = "unverifiable"
    """It can't be told; never to be taken for intact."""


@dataclass(frozen=True, slots=True)
class VerifiedLayer:
    """What the check of one layer came to, and what the layer is."""

    chain_id: ChainId
    diff_id: DiffId | None
    verdict: Verdict
    cache_id: CacheId | None = None
    reasons: tuple[str, ...] = ()
    """Why it, or a part of it, can't be verified; what is known beside the differences."""
    found_diff_id: str | None = None
    """``sha256:…`` of the tar that the disk gives; None when it can't be written, or content was not read."""
    entries: int = 0
    tar_bytes: int = 0
    differences: tuple[Difference, ...] = ()
    omitted: int = 0
    """Differences that are counted only."""
    created_by: str | None = None
    images: tuple[LayerUser, ...] = ()


class LayerTask(Protocol):
    """A layer that was found and is to be checked."""

    @property
    def owners(self) -> Owners: ...

    @property
    def size_bytes(self) -> int:
        """How much there is to do, about."""


Task = TypeVar("Task", bound=LayerTask)


@dataclass(frozen=True, slots=True)
class _Task:
    """A layer to check: its record, and the diff_id that it must have."""

    record: LayerRecord
    diff_id: DiffId
    directory: LayerDirectory
    owners: Owners

    @property
    def diff_dir(self) -> str:
        return self.directory.path

    @property
    def size_bytes(self) -> int:
        return self.record.size_bytes or 0


def layers_of(images: Iterable[ImageRecord]) -> dict[ChainId, DiffId]:
    """The layers of images, each once, base first. Their diff_ids are those of the image configurations."""
    found: dict[ChainId, DiffId] = {}
    for image in images:
        found.update(zip(chain_ids(image.diff_ids), image.diff_ids, strict=True))
    return found


def verify(
    disk: ClassicStore,
    layers: dict[ChainId, DiffId | None],
    images: Iterable[ImageRecord],
    *,
    content: bool = True,
    jobs: int | None = None,
    warn: Warn = ignore,
    tick: Tick = no_tick,
) -> list[VerifiedLayer]:
    """Check layers, the largest first, and give the answers in the order asked.

    ``layers`` has the diff_id that each must have, None where only layerdb knows it; ``images`` are all images, to
    say who holds a layer. Without ``content`` only names and attributes are compared, and no file is read.
    """
    prepared = {chain_id: _prepare(disk, chain_id, diff_id) for chain_id, diff_id in layers.items()}
    check = partial(_check, disk, content)
    return check_all(prepared, check, images, disk.root.path, jobs=jobs, warn=warn, tick=tick)


def check_all(
    prepared: Mapping[ChainId, Task | VerifiedLayer],
    check: Callable[[Tick, Task], VerifiedLayer],
    images: Iterable[ImageRecord],
    storage: str,
    *,
    jobs: int | None,
    warn: Warn,
    tick: Tick,
) -> list[VerifiedLayer]:
    """Check layers, the largest first, and give the answers in the order of ``prepared``.

    What has its answer already is not checked. ``storage`` is where the layers lie, for people.
    """
    done = {key: item for key, item in prepared.items() if isinstance(item, VerifiedLayer)}
    tasks = [item for item in prepared.values() if not isinstance(item, VerifiedLayer)]
    if any(task.owners.shift is None for task in tasks):
        message = "owners are not compared: they are those of a user namespace that the disk does not describe"
        warn(Caution("owners-not-compared", storage, message))
    tasks.sort(key=lambda task: -task.size_bytes)
    count = min(jobs or usable_cores(), len(tasks))
    if count > 1:
        for answer in run(lambda: partial(check, no_tick), deque(tasks), count):
            tick(answer.entries)
            done[answer.chain_id] = answer
    else:
        for task in tasks:
            answer = check(tick, task)
            done[answer.chain_id] = answer
    images = list(images)
    users, made_by = layer_users(images, None), layer_instructions(images)
    return [
        replace(done[chain_id], created_by=made_by.get(chain_id), images=tuple(users.get(chain_id, ())))
        for chain_id in prepared
    ]


def _prepare(disk: ClassicStore, chain_id: ChainId, diff_id: DiffId | None) -> _Task | VerifiedLayer:
    """Find a layer on disk; what can't be found has its answer already."""
    try:
        record = disk.layerdb.layer(chain_id)
    except (CorruptStoreError, StoragePermissionError) as error:
        return VerifiedLayer(chain_id, diff_id, Verdict.UNVERIFIABLE, reasons=(error.message,))
    if record is None:
        reason = f"it is not in {disk.root.join(disk.layerdb.base)}: the engine can't use the image either"
        return VerifiedLayer(chain_id, diff_id, Verdict.UNVERIFIABLE, reasons=(reason,))
    diff_id = diff_id or record.diff_id
    try:
        return _Task(record, diff_id, disk.layer_directory(record), _owners(disk, record.cache_id))
    except StoragePermissionError as error:
        return VerifiedLayer(chain_id, diff_id, Verdict.UNVERIFIABLE, record.cache_id, (error.message,))
    except CorruptStoreError as error:
        return VerifiedLayer(chain_id, diff_id, Verdict.DIFFERS, record.cache_id, (error.message,))


def _owners(disk: ClassicStore, cache_id: CacheId) -> Owners:
    """How owners of a tar appear below this data root.

    An engine with ``userns-remap`` names its data root after the ids that stand for root. Where another id than 0
    owns the layer's directory, and no name says how ids are shifted, owners can't be compared.
    """
    match = _REMAPPED.fullmatch(disk.root.path.rpartition("/")[2])
    if match is not None:
        return Owners((int(match[1]), int(match[2])))
    try:
        stat = os.lstat(disk.root.join(disk.driver, cache_id))
    except OSError:
        return Owners(None)
    return Owners((0, 0) if stat.st_uid == stat.st_gid == 0 else None)


def _check(disk: ClassicStore, content: bool, tick: Tick, task: _Task) -> VerifiedLayer:
    record = task.record
    expectations = Expectations(
        family=disk.options.xattrs,
        owners=task.owners,
        all_xattrs=_UNPACKED.fullmatch(record.cache_id) is not None,
        devices=disk.options.xattrs is XattrFamily.TRUSTED,
        more=task.directory.more,
        lower=task.directory.lower,
    )
    place = disk.layerdb.place(record.chain_id)
    answer = VerifiedLayer(record.chain_id, task.diff_id, Verdict.UNVERIFIABLE, record.cache_id)
    found: str | None = None
    try:
        check = LayerCheck(
            task.diff_dir, lambda: read_tar_split(disk.root, place), expectations, _below(disk, record), tick
        )
        if content:
            found = check.digest()
            if found != task.diff_id:
                check.find_changed()
        else:
            check.compare()
    except (CorruptStoreError, StoragePermissionError) as error:
        return replace(answer, reasons=(error.message,))
    except OSError as error:
        return replace(answer, reasons=(f"{task.diff_dir} can't be read: {error.strerror}",))
    findings = check.findings
    reasons = [*findings.unsettled]
    verdict = Verdict.OK if content else Verdict.UNREAD
    if findings.differences:
        verdict = Verdict.DIFFERS
    elif found is not None and found != task.diff_id:
        verdict = Verdict.DIFFERS
        reasons.append(ALTERED_RECORD)
    elif reasons or (content and found is None):
        verdict = Verdict.UNVERIFIABLE
    return replace(
        answer,
        verdict=verdict,
        reasons=tuple(reasons),
        found_diff_id=found,
        entries=check.entries,
        tar_bytes=check.tar_bytes,
        differences=tuple(sorted(findings.differences, key=lambda item: (item.path, item.problem))),
        omitted=findings.omitted,
    )


def _below(disk: ClassicStore, record: LayerRecord) -> Callable[[str], int]:
    """Opens files of which the layer holds only attributes: as a mount of the layers up to it shows them."""

    def open_file(path: str) -> int:
        layers = [
            Layer(index, Role.IMAGE, disk.layer_directory(below).path)
            for index, below in enumerate(disk.layerdb.chain(record.chain_id))
        ]
        walker = Walker(Stack(tuple(layers), replace(disk.options, metacopy=True)))
        versions = locate(walker, path)
        if versions.visible is None:
            raise LayerscopeError("no layer below holds its data")
        with open_content(versions, versions.visible, walker.data_trees) as content:
            return os.dup(content.fileno())

    return open_file
