"""What ``ls`` prints for people."""

from __future__ import annotations

from layerscope.analysis.inventory import Inventory
from layerscope.model import Source
from layerscope.report.style import Style
from layerscope.report.table import bold_grid
from layerscope.report.text import printable


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
    parts.append(bold_grid(images, headers, {2, 3, 4}, style) if images else "No images.")
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
    parts += ["", bold_grid(containers, headers, set(), style) if containers else "No containers."]
    return "\n".join(parts)
