"""What ``image``, ``container`` and ``overlay`` print for people: the layers of a stack, and its totals."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.analysis.inspect import ChangedPath, HiddenPath, Inspection
from layerscope.analysis.totals import LayerTotals
from layerscope.model import Layer, Source, Target, TargetKind
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import Reason
from layerscope.report.path_tables import CHANGE_LETTERS, LOOKS, difference_line
from layerscope.report.style import Style
from layerscope.report.table import bold_grid, fit_last
from layerscope.report.text import amount, instruction, plural, printable, shown_path, storage


def inspection_table(found: Inspection, source: Source, style: Style, only_layer: int | None) -> str:
    """The layers of a stack, top first, then its totals."""
    parts = [_heading(found.target, source, style), "", _layers(found, style, only_layer), ""]
    parts.append(_totals(found, style))
    if found.incomplete:
        parts.append(style.paint("Incomplete: something could not be read; see the warnings", "red"))
    if found.changed_paths is not None:
        parts += _changed(found, style, only_layer)
    if found.hidden_paths is not None:
        shown = [item for item in found.hidden_paths if only_layer in (None, item.version.layer)]
        parts += ["", *_hidden(shown, style)]
    if found.target.kind is TargetKind.CONTAINER:
        parts += ["", *_container_changes(found, style)]
    return "\n".join(parts)


def _heading(target: Target, source: Source, style: Style) -> str:
    name = style.paint(printable(target.name), "bold")
    kind = {"image": "Image", "container": "Container", "mount": "Overlay"}[target.kind]
    lines = [f"{kind:<10} {name}" + (f"  ({style.id(target.id)})" if target.id else "")]
    others = [printable(reference) for reference in target.references if reference != target.name]
    if others:
        lines.append(f"{'Also':<10} {', '.join(others)}")
    if target.kind is TargetKind.CONTAINER:
        image = printable(target.image or style.id(target.image_id))
        lines.append(f"{'Image':<10} {image}")
        lines.append(f"{'State':<10} {target.state}")
    if source.storage is not None:
        lines.append(f"{'Storage':<10} {storage(source)}")
    return "\n".join(lines)


def _layers(found: Inspection, style: Style, only_layer: int | None) -> str:
    headers = ["#", "LAYER", "SIZE", "CHANGES", "HIDDEN", "SHARED", "INSTRUCTION"]
    target = found.target
    rows = []
    for layer, totals in zip(target.stack, found.totals, strict=True):
        if only_layer in (None, layer.index):
            rows.append(_layer_row(layer, totals, style))
    if only_layer is None:
        rows = _with_empty_steps(target, rows)
    rows.reverse()
    if not rows:
        return "(no layers)"
    keep = [0, 1, 2, 3, 4, 5, 6]
    if target.kind is TargetKind.MOUNT:
        headers[6] = "DIRECTORY"
        in_docker = any(layer.cache_id is not None for layer in target.stack)
        keep = [0, 1, 2, 3, 4, 6] if in_docker else [0, 2, 3, 4, 6]
    right = {position for position, column in enumerate(keep) if column in (0, 2, 4, 5)}
    picked = [[row[column] for column in keep] for row in rows]
    return fit_last(picked, [headers[column] for column in keep], right, style)


def _layer_row(layer: Layer, totals: LayerTotals | None, style: Style) -> list[str]:
    has_hidden = totals is not None and (totals.hidden.files or totals.hidden.size_bytes)
    return [
        str(layer.index),
        style.id(layer.cache_id or (layer.diff_id if layer.tar is not None else None)),
        style.size(totals.size_bytes if totals is not None else layer.recorded_bytes),
        _counts(totals, style) if totals is not None else "",
        style.size(totals.hidden.size_bytes) if totals is not None and has_hidden else "-" if totals else "",
        str(len(layer.shared_with)) if layer.shared_with else "-",
        style.layer(layer),
    ]


def _counts(totals: LayerTotals, style: Style) -> str:
    """``+added ~modified -deleted``, in that order; metadata-only changes and opaque directories if there are."""
    parts = [f"+{totals.added}", f"~{totals.modified}", f"-{totals.deleted}"]
    if totals.metadata:
        parts.insert(2, f"m{totals.metadata}")
    if totals.opaque:
        parts.append(f"o{totals.opaque}")
    return " ".join(
        style.paint(part, LOOKS[part[0]]) if part[1:] != "0" and part[0] in LOOKS else part for part in parts
    )


def _with_empty_steps(target: Target, rows: list[list[str]]) -> list[list[str]]:
    """Put the steps that made no layer between those that did."""
    steps = target.history
    if not any(step.layer is None for step in steps):
        return rows
    found: list[list[str]] = []
    placed = 0
    for step in steps:
        if step.layer is None:
            found.append(["", "-", "", "(no layer)", "", "", instruction(step.created_by)])
        elif step.layer < len(rows):
            found += rows[placed : step.layer + 1]
            placed = step.layer + 1
    return found + rows[placed:]


def _totals(found: Inspection, style: Style) -> str:
    merged, hidden = found.merged, found.hidden
    if merged is None or hidden is None:
        return "Only the container's own layers are counted; --layers counts those of its image, too."
    shown = [
        plural(merged.files, "file"),
        plural(merged.directories, "directory", "directories"),
        plural(merged.symlinks, "symlink"),
    ]
    if merged.other:
        shown.append(plural(merged.other, "other"))
    lines = [f"Visible    {', '.join(shown)}: {style.size(merged.size_bytes)}"]
    files = sum(each.files for each in hidden.values())
    size = sum(each.size_bytes for each in hidden.values())
    if not files and not size:
        return "\n".join([*lines, "Hidden     nothing"])
    reasons = [
        f"{_reason(reason)} {amount(each.files)} ({style.size(each.size_bytes)})"
        for reason, each in hidden.items()
        if each.files or each.size_bytes
    ]
    where = "in the archive" if any(layer.tar is not None for layer in found.target.stack) else "on disk"
    lines.append(f"Hidden     {plural(files, 'file')}: {style.size(size)}, still {where}")
    lines.append(f"           {' · '.join(reasons)}")
    return "\n".join(lines)


def _reason(reason: Reason) -> str:
    return {
        Reason.WHITEOUT: "deleted",
        Reason.OPAQUE: "in replaced directories",
        Reason.OVERWRITTEN: "overwritten",
        Reason.REPLACED: "replaced by another type",
        Reason.UNREADABLE: "refused by the kernel",
    }[reason]


def _changed(found: Inspection, style: Style, only_layer: int | None) -> list[str]:
    lines: list[str] = []
    for layer, changed in reversed(list(zip(found.target.stack, found.changed_paths or [], strict=True))):
        if only_layer in (None, layer.index):
            lines += ["", style.paint(f"Layer {layer.index}", "bold") + f"  {style.fit(style.layer(layer), 80)}"]
            lines += [_changed_line(item, style) for item in changed] or ["  (nothing)"]
    return lines


def _changed_line(item: ChangedPath, style: Style) -> str:
    letter = CHANGE_LETTERS.get(item.change, "o")
    entry = item.version.entry
    is_plain = entry.kind in (Kind.DIRECTORY, Kind.WHITEOUT)
    size = "" if is_plain else style.size(entry.stat.st_size)
    note = ""
    if entry.is_directory:
        note = "/  (opaque: hides what lay in it)" if entry.marks.opaque else "/"
    elif entry.kind is Kind.WHITEOUT and not item.hides:
        note = "  (hides nothing)"
    elif entry.kind not in (Kind.FILE, Kind.WHITEOUT):
        note = f"  ({entry.kind})"
    return f"  {style.paint(letter, LOOKS[letter])} {size:>9}  {shown_path(item.path)}{note}"


def _hidden(items: Sequence[HiddenPath], style: Style) -> list[str]:
    if not items:
        return ["Nothing is hidden."]
    rows = []
    for item in items:
        rows.append(
            [
                str(item.version.layer),
                style.size(item.version.entry.stat.st_size),
                _hidden_by(item),
                shown_path(item.path),
            ]
        )
    headers = ["LAYER", "SIZE", "HIDDEN BY", "PATH"]
    return bold_grid(rows, headers, {0, 1}, style).splitlines()


def _hidden_by(item: HiddenPath) -> str:
    """``layer 8 deleted app/cache``, ``layer 3 overwrote it``."""
    hider = item.version.hidden_by
    assert hider is not None
    what = "it" if hider.path == item.path else shown_path(hider.path)
    verb = {
        Reason.WHITEOUT: "deleted",
        Reason.OPAQUE: "replaced",
        Reason.OVERWRITTEN: "overwrote",
        Reason.REPLACED: "replaced",
        Reason.UNREADABLE: "blocks",
    }[hider.reason]
    return f"layer {hider.layer} {verb} {what}"


def _container_changes(found: Inspection, style: Style) -> list[str]:
    lines = [style.paint("Changes", "bold") + "  as `docker diff` reports them"]
    lines += [difference_line(difference, style) for difference in found.changes] or ["  (none)"]
    if found.copied_up:
        lines += ["", style.paint("Copied up", "bold") + "  `docker diff` is silent about these"]
        lines += [difference_line(difference, style) for difference in found.copied_up]
    return lines
