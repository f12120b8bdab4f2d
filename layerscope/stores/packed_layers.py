"""Which blob holds a layer of a containerd image as it was pulled or is pushed: a tar, mostly compressed.

Source: OCI image-spec ``manifest.md``: the layers of a manifest are those of its configuration, base first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from layerscope.errors import LayerscopeError
from layerscope.model import Caution, ChainId, DiffId, Warn
from layerscope.stores import records
from layerscope.stores.content_store import ContentStore, Manifest
from layerscope.stores.images import ImageRecord, chain_ids


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer, and the blob that holds it, which need not be there."""

    chain_id: ChainId
    diff_id: DiffId
    parent: ChainId | None
    digest: str
    size_bytes: int | None
    """Of the blob, as the manifest says."""
    manifest: str
    """The digest of the manifest that says so."""


def packed_layers(content: ContentStore, images: Iterable[ImageRecord], warn: Warn) -> list[PackedLayer]:
    """The layers of images, of each for the platform that it is shown for; what is broken is a warning."""
    found: dict[PackedLayer, None] = {}
    for image in images:
        try:
            for manifest in content.manifests(image.id):
                if content.root.join(content.path(manifest.config)) == image.config_path:
                    found.update(dict.fromkeys(_of(content, manifest, image)))
        except LayerscopeError as error:
            warn(Caution("broken-image", content.root.path, error.message))
    return list(found)


def _of(content: ContentStore, manifest: Manifest, image: ImageRecord) -> Iterator[PackedLayer]:
    told = (content.document(manifest.digest) or {}).get("layers")
    chain = chain_ids(image.diff_ids)
    if not isinstance(told, list) or len(told) != len(chain):
        return
    for index, (diff_id, chain_id, entry) in enumerate(zip(image.diff_ids, chain, told, strict=True)):
        digest = records.diff_id(entry.get("digest")) if isinstance(entry, dict) else None
        if digest is not None:
            size = entry.get("size")
            yield PackedLayer(
                chain_id,
                diff_id,
                chain[index - 1] if index else None,
                digest,
                size if isinstance(size, int) and size >= 0 else None,
                manifest.digest,
            )
