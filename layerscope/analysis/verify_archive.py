"""Whether layers in an archive are what it says: each blob by the digest in its name, each tar by its diff_id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from layerscope.analysis.verify import Verdict, VerifiedLayer
from layerscope.model import ChainId, Layer, Tick, no_tick
from layerscope.stores.archive import ArchiveStore
from layerscope.stores.images import ImageRecord
from layerscope.stores.stacks import layer_users


def verify_archive(store: ArchiveStore, images: Sequence[ImageRecord], tick: Tick = no_tick) -> list[VerifiedLayer]:
    """Check the layers of these images, each once, base first. Raises CorruptStoreError when one is missing.

    Their attributes are compared with nothing: nowhere else are any recorded.
    """
    users = layer_users(store.images(), None)
    found: dict[ChainId | None, VerifiedLayer] = {}
    for image in images:
        for layer in store.image_target(image).stack:
            if layer.chain_id not in found and layer.chain_id is not None:
                found[layer.chain_id] = _verified(layer, layer.chain_id)
                tick(found[layer.chain_id].entries)
    return [replace(one, images=tuple(users.get(one.chain_id, ()))) for one in found.values()]


def _verified(layer: Layer, chain_id: ChainId) -> VerifiedLayer:
    tar = layer.tar
    assert tar is not None
    try:
        index = tar.index
    except OSError as error:
        reason = f"{tar.place} can't be read: {error.strerror}"
        return VerifiedLayer(chain_id, layer.diff_id, Verdict.UNVERIFIABLE, None, (reason,))
    return VerifiedLayer(
        chain_id=chain_id,
        diff_id=layer.diff_id,
        verdict=_verdict(layer),
        reasons=tuple(_reasons(layer)),
        found_diff_id=tar.actual_diff_id,
        entries=index.members,
        tar_bytes=tar.plain_bytes,
        created_by=layer.created_by,
    )


def _verdict(layer: Layer) -> Verdict:
    tar = layer.tar
    if tar is None or tar.actual_diff_id is None or tar.actual_digest is None:
        return Verdict.UNVERIFIABLE
    same = tar.actual_diff_id == layer.diff_id and tar.digest in (None, tar.actual_digest)
    return Verdict.OK if same else Verdict.DIFFERS


def _reasons(layer: Layer) -> Iterator[str]:
    tar = layer.tar
    if tar is None:
        return
    if tar.digest is not None and tar.actual_digest not in (None, tar.digest):
        yield f"{tar.place} is not the blob of its name: its digest is {tar.actual_digest}"
    if tar.actual_diff_id not in (None, layer.diff_id):
        yield f"the tar in {tar.place} is another than the image's configuration says"
    for path, why in tar.index.notes:
        if tar.index.damaged and not path:
            yield f"{tar.place}: {why}"
