"""What ``diff``, ``files``, ``trace`` and ``extract`` print for people."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.analysis.change import Change
from layerscope.analysis.compare import Difference, DiffKind
from layerscope.analysis.extract import Extracted
from layerscope.analysis.trace import Event, EventKind
from layerscope.model import Target, TargetKind
from layerscope.overlay.entry import Kind
from layerscope.overlay.resolve import PathVersions, Version, error_name
from layerscope.report.style import Style
from layerscope.report.table import fit_last
from layerscope.report.text import amount, plural, printable, shown_path

CHANGE_LETTERS = {Change.ADDED: "+", Change.MODIFIED: "~", Change.METADATA: "m", Change.DELETED: "-"}
DIFF_LETTERS = {DiffKind.ADDED: "A", DiffKind.MODIFIED: "C", DiffKind.DELETED: "D"}
LOOKS = {"+": "green", "A": "green", "~": "yellow", "C": "yellow", "m": "cyan", "o": "red", "-": "red", "D": "red"}


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
                style.layer(target.stack.layers[event.layer]),
            ]
        )
    last = "DIRECTORY" if target.kind is TargetKind.MOUNT else "INSTRUCTION"
    table = fit_last(rows, ["", "#", "EVENT", "SIZE", "KIND", last], {1, 3}, style)
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
