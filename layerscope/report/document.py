"""Answers as documents: the JSON contract of every command.

One object a command, snake_case, full ids, sizes in bytes in fields that end in ``_bytes``, UTC times, nulls
explicit, layers base first. Fields are only ever added.
"""

from __future__ import annotations

import base64
import json
import os
import stat as st
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from layerscope import __version__
from layerscope.analysis.change import change_of
from layerscope.analysis.compare import Difference
from layerscope.analysis.extract import Extracted
from layerscope.analysis.inspect import ChangedPath, HiddenPath, Inspection
from layerscope.analysis.inventory import Inventory
from layerscope.analysis.totals import Amount, LayerTotals, Merged
from layerscope.analysis.trace import Event
from layerscope.model import Caution, Layer, LayerUser, Source, Stack, Target, Warn, ignore
from layerscope.overlay.content import read_target
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import Hider, PathVersions, Reason, Version, error_name
from layerscope.overlay.walk import Walker
from layerscope.report.text import is_utf8, printable
from layerscope.timestamps import from_nanoseconds

SCHEMA_VERSION: Final = 1
Document = dict[str, Any]


def envelope(command: str, source: Source, body: Document, cautions: Iterable[Caution]) -> Document:
    """The object that every command prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "layerscope_version": __version__,
        "command": command,
        "source": source_document(source),
        **body,
        "warnings": [caution_document(caution) for caution in cautions],
    }


def source_document(source: Source) -> Document:
    return {
        "kind": source.kind,
        "driver": source.driver,
        "data_root": source.data_root,
        "containerd_root": source.containerd_root,
        "in_use": source.in_use,
        "archive": _shown(source.archive),
    }


def dump(document: Document, *, indent: int | None = 2) -> str:
    """JSON text in ASCII: nothing in it can act on a terminal, not even DEL."""
    return json.dumps(document, indent=indent, ensure_ascii=True).replace("\x7f", "\\u007f")


def caution_document(caution: Caution) -> Document:
    return {"code": caution.code, "path": _shown(caution.path), "message": printable(caution.message)}


def path_fields(path: str, name: str = "path") -> Document:
    """A path: readable, and where it is not UTF-8 also exact, as base64 of its bytes."""
    if is_utf8(path):
        return {name: path}
    return {name: printable(path), f"{name}_b64": base64.b64encode(os.fsencode(path)).decode("ascii")}


def _shown(path: str | None) -> str | None:
    return path if path is None or is_utf8(path) else printable(path)


# -- targets and stacks --------------------------------------------------------------------------------------


def target_document(target: Target) -> Document:
    return {
        "kind": target.kind,
        "id": target.id,
        "name": _shown(target.name),
        "references": list(target.references),
        "image_id": target.image_id,
        "image": target.image,
        "state": target.state,
    }


def inspection_document(found: Inspection, only_layer: int | None) -> Document:
    """``image``, ``container`` and ``overlay``."""
    target = found.target
    layers = []
    for layer, totals in zip(target.stack, found.totals, strict=True):
        if only_layer in (None, layer.index):
            document = layer_document(layer, totals)
            if found.changed_paths is not None:
                document["changed"] = [changed_document(item) for item in found.changed_paths[layer.index]]
            layers.append(document)
    body: Document = {
        "target": target_document(target),
        "options": options_document(target.stack),
        "layers": layers,
        "history": [
            {
                "created_by": step.created_by,
                "created": step.created,
                "comment": step.comment,
                "layer": step.layer,
            }
            for step in target.history
        ],
        "merged": merged_document(found.merged),
        "hidden": hidden_document(found.hidden),
        "complete": not found.incomplete,
    }
    if found.hidden_paths is not None:
        body["hidden_paths"] = [
            hidden_path_document(item) for item in found.hidden_paths if only_layer in (None, item.version.layer)
        ]
    return body


def container_document(found: Inspection, only_layer: int | None) -> Document:
    """``container``: a stack, and what the container changed."""
    return {
        **inspection_document(found, only_layer),
        "changes": [difference_document(difference) for difference in found.changes],
        "copied_up": [difference_document(difference, with_change=False) for difference in found.copied_up],
    }


def options_document(stack: Stack) -> Document:
    options = stack.options
    return {
        "xattrs": options.xattrs.rstrip("."),
        "follow_redirects": options.follow_redirects,
        "metacopy": options.metacopy,
        "data_dirs": [_shown(path) for path in stack.data_dirs],
    }


def layer_document(layer: Layer, totals: LayerTotals | None) -> Document:
    return {
        "index": layer.index,
        "role": layer.role,
        "diff_id": layer.diff_id,
        "chain_id": layer.chain_id,
        "cache_id": layer.cache_id,
        "link_id": layer.link_id,
        "snapshot": layer.snapshot,
        **path_fields(layer.diff_dir, "diff_dir"),
        "created_by": layer.created_by,
        "created": layer.created,
        "recorded_bytes": layer.recorded_bytes,
        "size_bytes": totals.size_bytes if totals else None,
        "allocated_bytes": totals.allocated_bytes if totals and layer.tar is None else None,
        "counts": {
            "added": totals.added,
            "modified": totals.modified,
            "metadata": totals.metadata,
            "deleted": totals.deleted,
            "opaque": totals.opaque,
        }
        if totals
        else None,
        "hidden": amount_document(totals.hidden) if totals else None,
        "hides": amount_document(totals.hides) if totals and totals.hides else None,
        "shared_with": [user_document(user) for user in layer.shared_with],
    }


def user_document(user: LayerUser) -> Document:
    return {"id": user.id, "references": list(user.references)}


def amount_document(amount: Amount) -> Document:
    return {"files": amount.files, "size_bytes": amount.size_bytes}


def merged_document(merged: Merged | None) -> Document | None:
    if merged is None:
        return None
    return {
        "files": merged.files,
        "directories": merged.directories,
        "symlinks": merged.symlinks,
        "other": merged.other,
        "size_bytes": merged.size_bytes,
    }


def hidden_document(hidden: dict[Reason, Amount] | None) -> Document | None:
    if hidden is None:
        return None
    return {
        "files": sum(amount.files for amount in hidden.values()),
        "size_bytes": sum(amount.size_bytes for amount in hidden.values()),
        "by_reason": {reason: amount_document(amount) for reason, amount in hidden.items()},
    }


def changed_document(item: ChangedPath) -> Document:
    return {
        **path_fields(item.path),
        "change": item.change,
        "kind": item.version.entry.kind,
        "size_bytes": item.version.entry.stat.st_size,
        "visible": item.version.visible,
        "opaque": item.version.entry.marks.opaque,
        "hides": item.hides,
    }


def hidden_path_document(item: HiddenPath) -> Document:
    return {
        **path_fields(item.path),
        "layer": item.version.layer,
        "kind": item.version.entry.kind,
        "size_bytes": item.version.entry.stat.st_size,
        "hidden_by": hider_document(item.version.hidden_by),
    }


def hider_document(hider: Hider | None) -> Document | None:
    if hider is None:
        return None
    return {"layer": hider.layer, "reason": hider.reason, **path_fields(hider.path)}


def difference_document(difference: Difference, *, with_change: bool = True) -> Document:
    document = {
        **path_fields(difference.path),
        "change": difference.change,
        "kind": difference.kind,
        "size_bytes": difference.size_bytes,
        "content_changed": difference.content_changed,
    }
    if not with_change:
        del document["change"]
    return document


# -- paths ---------------------------------------------------------------------------------------------------


def version_documents(walker: Walker, versions: PathVersions, warn: Warn = ignore) -> Iterator[Document]:
    """One document a version of a path, the top layer first: the lines of ``files``."""
    for version in versions.versions:
        yield version_document(walker, versions, version, warn)


def version_document(walker: Walker, versions: PathVersions, version: Version, warn: Warn = ignore) -> Document:
    entry = version.entry
    stat = entry.stat
    is_device = entry.kind in (Kind.CHAR, Kind.BLOCK)
    document: Document = {
        **path_fields(versions.path),
        "layer": version.layer,
        "kind": entry.kind,
        "change": change_of(versions, version, walker.data_trees, warn),
        "visible": version.visible,
        "hidden_by": hider_document(version.hidden_by),
        "size_bytes": stat.st_size,
        "allocated_bytes": stat.st_blocks * 512 if walker.stack.layers[version.layer].tar is None else None,
        "mode": f"{st.S_IMODE(stat.st_mode):04o}",
        "uid": stat.st_uid,
        "gid": stat.st_gid,
        "mtime": from_nanoseconds(stat.st_mtime_ns),
        "nlink": stat.st_nlink,
        "target": None,
        "opaque": entry.marks.opaque,
        "redirect": _shown(entry.marks.redirect),
        "metacopy": entry.marks.metacopy,
        "source": _shown(version.source) if version.moved else None,
        "device": f"{os.major(stat.st_rdev)}:{os.minor(stat.st_rdev)}" if is_device else None,
        "hides": versions.hides(version),
    }
    if entry.kind is Kind.SYMLINK:
        try:
            document.update(path_fields(read_target(version), "target"))
        except OSError as error:
            where = version.directory.on_disk(entry.name)
            warn(Caution("unreadable-link", where, f"the target can't be read ({error.strerror})"))
    return document


def trace_document(walker: Walker, target: Target, versions: PathVersions, events: Sequence[Event]) -> Document:
    visible = versions.visible
    return {
        "target": target_document(target),
        **path_fields(versions.path),
        "visible_layer": visible.layer if visible is not None else None,
        "error": error_name(versions.error) if versions.error else None,
        "events": [
            {
                "layer": event.layer,
                "event": event.kind,
                "created_by": target.stack.layers[event.layer].created_by,
                "hidden_by": hider_document(event.hider),
                "version": version_document(walker, versions, event.version) if event.version else None,
            }
            for event in events
        ],
    }


def extracted_document(done: Extracted, destination: str) -> Document:
    return {
        **path_fields(destination, "destination"),
        "written": {
            "files": done.files,
            "directories": done.directories,
            "symlinks": done.symlinks,
            "other": done.other,
            "size_bytes": done.size_bytes,
        },
        "skipped": [path_fields(path) for path in done.skipped],
    }


# -- the host ------------------------------------------------------------------------------------------------


def inventory_document(inventory: Inventory) -> Document:
    return {
        "stores": [source_document(source) for source in inventory.sources],
        "images": [
            {
                "driver": item.driver,
                "id": item.record.id,
                "references": list(item.record.references),
                "created": item.record.created,
                "layers": len(item.record.diff_ids),
                "size_bytes": item.size_bytes,
                "shared_bytes": item.shared_bytes,
                "cache_id": item.cache_id,
            }
            for item in inventory.images
        ],
        "containers": [
            {
                "driver": item.driver,
                "id": item.record.id,
                "name": item.record.name,
                "state": item.record.state,
                "image": item.record.image,
                "image_id": item.record.image_id,
                "created": item.record.created,
                "cache_id": item.cache_id,
            }
            for item in inventory.containers
        ],
    }
