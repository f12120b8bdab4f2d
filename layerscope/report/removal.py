"""What ``reuse --remove`` prints."""

from __future__ import annotations

import shlex

from layerscope.analysis.removal import KeptBlob, Outcome, PinKind, PinnedLayer, Removal, RemovedImage
from layerscope.model import short_id
from layerscope.report import shapes
from layerscope.report.document import Document
from layerscope.report.shapes import COUNT, DIGEST, FLAG, TEXT, described, listed, nullable, one_of, record
from layerscope.report.style import Style
from layerscope.report.table import fit_last
from layerscope.report.text import amount, instruction, plural, printable


def removal_table(found: Removal, names: list[str], style: Style) -> str:
    """What becomes of each image, the layers that go, those that stay, the sum, and the command."""
    rows = [[_name(item), _outcome(item)] for item in found.images]
    parts = [fit_last(rows, ["IMAGE", "WHAT `docker rmi` DOES"], set(), style)]
    if found.layers:
        layers = [
            [style.id(item.record.cache_id), style.size(item.freed_bytes), instruction(item.created_by)]
            for item in found.layers
        ]
        parts += ["", fit_last(layers, ["FREED LAYER", "FREES", "INSTRUCTION"], {1}, style)]
    if found.pinned:
        pinned = [
            [style.id(item.record.cache_id), style.size(item.record.size_bytes), _pin(item)]
            for item in found.pinned
        ]
        parts += ["", fit_last(pinned, ["KEPT LAYER", "RECORDED", "KEPT BY"], {1}, style)]
    if found.kept_blobs:
        kept = [[style.id(item.digest), style.size(item.allocated_bytes), _pin(item)] for item in found.kept_blobs]
        parts += ["", fit_last(kept, ["KEPT BLOB", "SIZE", "KEPT BY"], {1}, style)]
    exactly = "exactly" if found.complete else "at least (not all could be read)"
    parts += [
        "",
        f"Removing this set frees {exactly} {amount(found.freed_bytes)} bytes:"
        f" {amount(found.layers_bytes)} in {plural(len(found.layers), 'layer directory', 'layer directories')},"
        f" {_rest(found)}.",
    ]
    if any(item.outcome is Outcome.REMOVED for item in found.images):
        parts.append(f"  {printable(command(names))}")
    return "\n".join(parts)


def _rest(found: Removal) -> str:
    if not found.blobs:
        return f"{amount(found.records_bytes)} in their records"
    init = f", {amount(found.records_bytes)} in init layers between them" if found.records_bytes else ""
    return f"{amount(found.blobs_bytes)} in {plural(found.blobs, 'blob')}{init}"


def command(names: list[str]) -> str:
    """The official command; layerscope removes nothing."""
    return shlex.join(["docker", "rmi", *names])


def _name(item: RemovedImage) -> str:
    references = item.record.references
    return printable(references[0] if references else short_id(item.record.id))


def _outcome(item: RemovedImage) -> str:
    kept = ", ".join(printable(name) for name in item.kept_by[:3])
    more = f" and {len(item.kept_by) - 3} more" if len(item.kept_by) > 3 else ""
    match item.outcome:
        case Outcome.REMOVED:
            return "removes it" if item.asked else "removes it with the image built on it"
        case Outcome.UNTAGGED:
            return f"only takes a name: it is also {kept}{more}"
        case Outcome.IN_USE:
            return f"refuses: used by the container {kept}{more}"
        case Outcome.HAS_CHILDREN:
            return f"takes its name only: {kept}{more} was built on it"


def _pin(item: PinnedLayer | KeptBlob) -> str:
    match item.kind:
        case PinKind.CONTAINER:
            return f"container {printable(item.holder)} (docker rm)"
        case PinKind.BUILD_CACHE:
            return "build cache (docker builder prune --all)"
        case PinKind.LAYER:
            return f"layer {short_id(item.holder)} on top of it"
        case PinKind.BUILD_HISTORY:
            return "build history"
        case PinKind.LEASE:
            return f"lease {printable(item.holder)}"


def removal_document(found: Removal, names: list[str]) -> Document:
    return {
        "images": [
            {
                "id": item.record.id,
                "references": list(item.record.references),
                "outcome": item.outcome,
                "kept_by": [printable(name) for name in item.kept_by],
                "asked": item.asked,
            }
            for item in found.images
        ],
        "freed_bytes": found.freed_bytes,
        "layers_bytes": found.layers_bytes,
        "records_bytes": found.records_bytes,
        "blobs_bytes": found.blobs_bytes,
        "blobs": found.blobs,
        "complete": found.complete,
        "freed_layers": [
            {
                "chain_id": item.record.chain_id,
                "cache_id": item.record.cache_id,
                "created_by": item.created_by,
                "freed_bytes": item.freed_bytes,
            }
            for item in found.layers
        ],
        "kept_layers": [
            {
                "chain_id": item.record.chain_id,
                "cache_id": item.record.cache_id,
                "created_by": item.created_by,
                "recorded_bytes": item.record.size_bytes,
                "kind": item.kind,
                "kept_by": printable(item.holder),
            }
            for item in found.pinned
        ],
        "kept_blobs": [
            {
                "digest": item.digest,
                "allocated_bytes": item.allocated_bytes,
                "kind": item.kind,
                "kept_by": printable(item.holder),
            }
            for item in found.kept_blobs
        ],
        "command": printable(command(names)),
    }


def removal_schema() -> shapes.Schema:
    layer = {"chain_id": DIGEST, "cache_id": TEXT, "created_by": nullable(TEXT)}
    return record(
        images=listed(
            record(
                id=DIGEST,
                references=listed(TEXT),
                outcome=one_of(Outcome),
                kept_by=listed(TEXT, "Names that it keeps, containers that use it, or images built on it."),
                asked=described(FLAG, "False: a nameless step that goes with an image."),
            )
        ),
        freed_bytes=described(COUNT, "layers_bytes + records_bytes + blobs_bytes."),
        layers_bytes=described(
            COUNT, "Allocated bytes of directories and links in overlay2/, or of snapshots, each inode once."
        ),
        records_bytes=described(
            COUNT, "Allocated bytes of what layerdb and imagedb keep of them, or of init layers between them."
        ),
        blobs_bytes=described(COUNT, "Allocated bytes of blobs of containerd."),
        blobs=COUNT,
        complete=described(FLAG, "False when something could not be read: more is freed then."),
        freed_layers=listed(record(**layer, freed_bytes=COUNT), "Base first."),
        kept_layers=listed(
            record(**layer, recorded_bytes=nullable(COUNT), kind=one_of(PinKind), kept_by=TEXT),
            "Layers that no other image holds and that stay nevertheless.",
        ),
        kept_blobs=listed(
            record(digest=DIGEST, allocated_bytes=COUNT, kind=one_of(PinKind), kept_by=TEXT),
            "Blobs that no other image leads to and that stay nevertheless.",
        ),
        command=TEXT,
    )
