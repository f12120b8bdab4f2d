"""Whether layers of the containerd image store still hold what was put into them, by the blobs that were kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from layerscope.analysis.attributes import Owners
from layerscope.analysis.entry_check import Expectations
from layerscope.analysis.verify import Verdict, VerifiedLayer, check_all
from layerscope.analysis.verify_packed import PackedCheck
from layerscope.errors import LayerscopeError
from layerscope.model import CacheId, ChainId, DiffId, Tick, Warn, XattrFamily, ignore, no_tick
from layerscope.reading import FILE, open_untouched
from layerscope.stores.containerd import ContainerdStore
from layerscope.stores.content_store import BLOBS
from layerscope.stores.images import ImageRecord
from layerscope.stores.packed_layers import PackedLayer, packed_layers
from layerscope.stores.snapshots import DIRECTORIES


@dataclass(frozen=True, slots=True)
class _Task:
    """A layer to check: its blob, and its snapshot where it is unpacked."""

    chain_id: ChainId
    diff_id: DiffId
    digest: str
    blob: str
    size_bytes: int
    cache_id: CacheId | None
    diff_dir: str | None
    owners: Owners


def verify_containerd(
    disk: ContainerdStore,
    layers: Mapping[ChainId, DiffId | None],
    images: Iterable[ImageRecord],
    *,
    content: bool = True,
    jobs: int | None = None,
    warn: Warn = ignore,
    tick: Tick = no_tick,
) -> list[VerifiedLayer]:
    """Check layers, the largest first, and give the answers in the order asked.

    ``images`` are all images: their manifests say which blob holds a layer. Without ``content`` no digest is taken
    and no file is read; the blobs are, for their headers.
    """
    images = list(images)
    packed: dict[ChainId, list[PackedLayer]] = {}
    for layer in packed_layers(disk.imagedb.content, images, warn):
        packed.setdefault(layer.chain_id, []).append(layer)
    prepared = {key: _prepare(disk, key, diff_id, packed.get(key, [])) for key, diff_id in layers.items()}
    check = partial(_check, disk.options.xattrs, content)
    return check_all(prepared, check, images, disk.root.path, jobs=jobs, warn=warn, tick=tick)


def _prepare(
    disk: ContainerdStore, chain_id: ChainId, diff_id: DiffId | None, packed: list[PackedLayer]
) -> _Task | VerifiedLayer:
    """Find a layer's blob and snapshot; what can't be verified has its answer already."""
    answer = VerifiedLayer(chain_id, diff_id, Verdict.UNVERIFIABLE)
    try:
        chain = disk.snapshots.chain(chain_id)
        cache_id = chain[-1].cache_id if chain else None
        answer = replace(answer, cache_id=cache_id)
        if not packed:
            return replace(answer, reasons=("no manifest here says which blob holds it",))
        kept = [(layer, size) for layer in packed if (size := _size(disk, layer.digest)) is not None]
        if not kept:
            digests = ", ".join(dict.fromkeys(layer.digest for layer in packed))
            return replace(answer, reasons=(f"its blob was not kept: {digests}; pulling the image gets it again",))
        layer, size = kept[0]
        diff_dir = disk.snapshots.directory(chain[-1]) if chain else None
    except LayerscopeError as error:
        verdict = Verdict.DIFFERS if answer.cache_id is not None else Verdict.UNVERIFIABLE
        return replace(answer, verdict=verdict, reasons=(error.message,))
    blob = disk.root.join(BLOBS, layer.digest.removeprefix("sha256:"))
    owners = _owners(disk, cache_id)
    return _Task(chain_id, layer.diff_id, layer.digest, blob, size, cache_id, diff_dir, owners)


def _size(disk: ContainerdStore, digest: str) -> int | None:
    return disk.root.size(BLOBS, digest.removeprefix("sha256:"))


def _owners(disk: ContainerdStore, cache_id: CacheId | None) -> Owners:
    """Those of the tar, unless another than root owns the snapshot's directory: a rootless engine's are shifted."""
    if cache_id is None:
        return Owners()
    try:
        stat = os.lstat(disk.root.join(DIRECTORIES, cache_id))
    except OSError:
        return Owners(None)
    return Owners((0, 0) if stat.st_uid == 0 else None)


def _check(family: XattrFamily, content: bool, tick: Tick, task: _Task) -> VerifiedLayer:
    answer = VerifiedLayer(task.chain_id, task.diff_id, Verdict.UNVERIFIABLE, task.cache_id)
    expectations = Expectations(family, task.owners, all_xattrs=True, devices=family is XattrFamily.TRUSTED)
    try:
        fd = open_untouched(task.blob, FILE)
        try:
            check = PackedCheck(fd, task.diff_dir, expectations, content=content, tick=tick)
            check.run()
        finally:
            os.close(fd)
    except OSError as error:
        return replace(answer, reasons=(f"{error.filename or task.blob} can't be read: {error.strerror}",))
    wrong = list(_wrong(check, task)) if content or check.damage is not None else []
    findings = check.findings
    verdict = Verdict.OK if content else Verdict.UNREAD
    if findings.differences or wrong:
        verdict = Verdict.DIFFERS
    elif findings.unsettled:
        verdict = Verdict.UNVERIFIABLE
    unpacked = () if task.diff_dir is not None else ("it is not unpacked: there is only the blob to verify",)
    return replace(
        answer,
        verdict=verdict,
        reasons=(*wrong, *findings.unsettled, *unpacked),
        found_diff_id=check.diff_id if content else None,
        entries=check.entries,
        tar_bytes=check.tar_bytes,
        differences=tuple(sorted(findings.differences, key=lambda item: (item.path, item.problem))),
        omitted=findings.omitted,
    )


def _wrong(check: PackedCheck, task: _Task) -> Iterable[str]:
    """What is wrong with the blob itself."""
    if check.content and check.blob_digest != task.digest:
        yield f"the blob {task.blob} has the digest {check.blob_digest}, not its name's"
    if check.damage is not None:
        yield f"the tar in the blob {task.blob} can't be read to its end: {check.damage}"
    elif check.content and check.diff_id != task.diff_id:
        yield f"the tar in the blob {task.blob} has the digest {check.diff_id}, not the diff_id"
