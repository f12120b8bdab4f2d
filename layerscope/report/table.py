"""Tables for people. The only module that imports tabulate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import tabulate

from layerscope.analysis.change import Change
from layerscope.analysis.compare import Difference, DiffKind
from layerscope.analysis.extract import Extracted
from layerscope.analysis.inspect import ChangedPath, HiddenPath, Inspection
from layerscope.analysis.inventory import Inventory
from layerscope.analysis.summary import LayerTotals
from layerscope.analysis.trace import Event, EventKind
from layerscope.model import Layer, Role, Source, Target, TargetKind
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import PathVersions, Reason, Version, error_name
from layerscope.report.style import Style
from layerscope.report.text import amount, instruction, plural, printable, shown_path

CHANGE_LETTERS = {Change.ADDED: "+", Change.MODIFIED: "~", Change.METADATA: "m", Change.DELETED: "-"}
DIFF_LETTERS = {DiffKind.ADDED: "A", DiffKind.MODIFIED: "C", DiffKind.DELETED: "D"}
LOOKS = {"+": "green", "A": "green", "~": "yellow", "C": "yellow", "m": "cyan", "o": "red", "-": "red", "D": "red"}
LEAST_INSTRUCTION = 24


def grid(rows: Sequence[Sequence[str]], headers: Sequence[str], right: Iterable[int] = ()) -> str:
    """Columns with two blanks between; those in ``right`` are aligned right."""
    columns = set(right)
    alignment = ["right" if index in columns else "left" for index in range(len(headers))]
    lines = tabulate(
        rows, headers=headers, tablefmt="plain", disable_numparse=True, colalign=alignment if rows else None
    )
    return "\n".join(line.rstrip() for line in lines.splitlines())


# -- image, container, overlay -------------------------------------------------------------------------------


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
    if source.data_root is not None:
        lines.append(f"{'Storage':<10} {printable(source.data_root)} ({source.driver})")
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
    return _fit_last(picked, [headers[column] for column in keep], right, style)


def _fit_last(rows: list[list[str]], headers: list[str], right: set[int], style: Style) -> str:
    """Shorten the last column to what the width leaves."""
    plain = [[_unpainted(cell) for cell in row] for row in rows]
    others = [max(len(row[i]) for row in [headers, *plain]) + 2 for i in range(len(headers) - 1)]
    left = max(style.width - sum(others), LEAST_INSTRUCTION)
    for row, bare in zip(rows, plain, strict=True):
        if row[-1] == bare[-1]:
            row[-1] = style.fit(row[-1], left)
    return grid(rows, [style.paint(header, "bold") for header in headers], right)


def _unpainted(cell: str) -> str:
    while "\033[" in cell:
        before, _, rest = cell.partition("\033[")
        cell = before + rest.partition("m")[2]
    return cell


def _layer_row(layer: Layer, totals: LayerTotals | None, style: Style) -> list[str]:
    has_hidden = totals is not None and (totals.hidden.files or totals.hidden.size_bytes)
    return [
        str(layer.index),
        style.id(layer.cache_id),
        style.size(totals.size_bytes if totals is not None else layer.recorded_bytes),
        _counts(totals, style) if totals is not None else "",
        style.size(totals.hidden.size_bytes) if totals is not None and has_hidden else "-" if totals else "",
        str(len(layer.shared_with)) if layer.shared_with else "-",
        _what(layer, style),
    ]


def _what(layer: Layer, style: Style) -> str:
    match layer.role:
        case Role.INIT:
            return "(init layer: files that the engine puts into every container)"
        case Role.UPPER if layer.created_by is None and layer.cache_id is not None:
            return "(upper layer: what the container wrote)"
        case Role.UPPER | Role.LOWER:
            return style.path(layer.diff_dir)
        case Role.IMAGE:
            return instruction(layer.created_by) or "(no instruction recorded)"


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
    lines.append(f"Hidden     {plural(files, 'file')}: {style.size(size)}, still on disk")
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
            lines += ["", style.paint(f"Layer {layer.index}", "bold") + f"  {style.fit(_what(layer, style), 80)}"]
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
    headers = [style.paint(header, "bold") for header in ("LAYER", "SIZE", "HIDDEN BY", "PATH")]
    return grid(rows, headers, {0, 1}).splitlines()


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


# -- diff ----------------------------------------------------------------------------------------------------


def difference_line(difference: Difference, style: Style) -> str:
    letter = DIFF_LETTERS[difference.change] if difference.change is not None else " "
    size = "" if difference.size_bytes is None else style.size(difference.size_bytes)
    note = "/" if difference.kind is Kind.DIRECTORY else ""
    if difference.kind not in (Kind.DIRECTORY, Kind.FILE):
        note = f"  ({difference.kind})"
    if difference.content_changed is False:
        note += "  (same content)"
    elif difference.content_changed and difference.change is None:
        note += "  (other content, though size and time are the same)"
    look = LOOKS.get(letter)
    return f"  {style.paint(letter, look) if look else letter} {size:>9}  {shown_path(difference.path)}{note}"


def difference_table(differences: Sequence[Difference], style: Style) -> str:
    """The paths that differ, and a line that counts them."""
    if not differences:
        return "No difference."
    counts = {kind: sum(1 for d in differences if d.change is kind) for kind in DiffKind}
    same = sum(1 for d in differences if d.change is DiffKind.MODIFIED and d.content_changed is False)
    summary = (
        f"{amount(counts[DiffKind.ADDED])} added, {amount(counts[DiffKind.MODIFIED])} changed"
        + (f" ({amount(same)} with the same content)" if same else "")
        + f", {amount(counts[DiffKind.DELETED])} deleted"
    )
    return "\n".join([*(difference_line(difference, style) for difference in differences), "", summary])


# -- files, trace, extract, ls -------------------------------------------------------------------------------


def version_line(versions: PathVersions, index: int, change: Change, style: Style) -> str:
    """One version of a path, for ``files``."""
    version = versions.versions[index]
    entry = version.entry
    letter = CHANGE_LETTERS.get(change, " ")
    if version.visible:
        state = ""
    elif version.hidden_by is not None:
        state = f"  hidden by {version.hidden_by.layer} ({version.hidden_by.reason})"
    else:
        state = "  whiteout"
    size = "" if entry.is_directory else style.size(entry.stat.st_size)
    look = LOOKS.get(letter)
    mark = style.paint(letter, look) if look else letter
    path = shown_path(versions.path) + ("/" if entry.is_directory else "")
    return f"{version.layer:>3} {mark} {size:>9}  {path if version.visible else style.paint(path, 'dim')}{state}"


def trace_table(target: Target, versions: PathVersions, events: Sequence[Event], style: Style) -> str:
    """The history of a path, oldest first."""
    rows = []
    for event in events:
        version = event.version
        has_size = version is not None and version.entry.kind not in (Kind.DIRECTORY, Kind.WHITEOUT)
        rows.append(
            [
                ">" if version is not None and version is versions.visible else "",
                str(event.layer),
                _event(event),
                style.size(version.entry.stat.st_size) if version is not None and has_size else "",
                version.entry.kind if version is not None and event.kind is not EventKind.DELETED else "",
                _what(target.stack.layers[event.layer], style),
            ]
        )
    last = "DIRECTORY" if target.kind is TargetKind.MOUNT else "INSTRUCTION"
    table = _fit_last(rows, ["", "#", "EVENT", "SIZE", "KIND", last], {1, 3}, style)
    return "\n".join([style.paint(shown_path(versions.path), "bold"), "", table, "", _visible(versions, style)])


def _event(event: Event) -> str:
    if event.kind is EventKind.DELETED and event.hider is not None and event.version is None:
        return f"hidden ({event.hider.reason} of {shown_path(event.hider.path)})"
    if event.version is not None and event.version.moved:
        return f"moved from {shown_path(event.version.source)}"
    return {EventKind.METADATA: "attributes changed", EventKind.UNCHANGED: "no change"}.get(
        event.kind, event.kind.value
    )


def _visible(versions: PathVersions, style: Style) -> str:
    """Which version shows; of a path that does not, where its last version still lies."""
    visible = versions.visible
    if visible is not None:
        return f"Visible: the version of layer {visible.layer}, {_on_disk(visible, style)}"
    reason = f", the kernel refuses it ({error_name(versions.error)})" if versions.error else ""
    kept = next((v for v in versions.versions if v.entry.kind is not Kind.WHITEOUT), None)
    still = f". Still on disk: the version of layer {kept.layer}, {_on_disk(kept, style)}" if kept else ""
    return f"Visible: no{reason}{still}"


def _on_disk(version: Version, style: Style) -> str:
    return style.path(version.directory.on_disk(version.entry.name))


def extracted_line(done: Extracted, destination: str, style: Style) -> str:
    parts = [
        plural(done.files, "file"),
        plural(done.directories, "directory", "directories"),
        plural(done.symlinks, "symlink"),
    ]
    if done.other:
        parts.append(plural(done.other, "other"))
    text = f"wrote {', '.join(parts)} ({style.size(done.size_bytes)}) below {printable(destination)}"
    if done.skipped:
        text += f"; left out {amount(len(done.skipped))}"
    return text


def inventory_table(inventory: Inventory, source: Source, style: Style) -> str:
    """Images, then containers."""
    parts = []
    if source.data_root is not None:
        parts += [f"{'Storage':<10} {printable(source.data_root)} ({source.driver})", ""]
    images = [
        [
            ", ".join(printable(name) for name in item.record.references) or "(no name)",
            style.id(item.record.id),
            str(len(item.record.diff_ids)),
            style.size(item.size_bytes),
            style.size(item.shared_bytes),
            style.id(item.cache_id),
        ]
        for item in inventory.images
    ]
    headers = ["IMAGE", "ID", "LAYERS", "SIZE", "SHARED", "TOP LAYER"]
    parts.append(_bold_grid(images, headers, {2, 3, 4}, style) if images else "No images.")
    containers = [
        [
            printable(item.record.name),
            style.id(item.record.id),
            item.record.state,
            printable(item.record.image or style.id(item.record.image_id)),
            style.id(item.cache_id),
        ]
        for item in inventory.containers
    ]
    headers = ["CONTAINER", "ID", "STATE", "IMAGE", "UPPER LAYER"]
    parts += ["", _bold_grid(containers, headers, set(), style) if containers else "No containers."]
    return "\n".join(parts)


def _bold_grid(rows: list[list[str]], headers: list[str], right: set[int], style: Style) -> str:
    return grid(rows, [style.paint(header, "bold") for header in headers], right)
