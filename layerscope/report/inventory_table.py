"""What ``ls`` prints for people."""

from __future__ import annotations

from layerscope.analysis.inventory import Inventory
from layerscope.report.style import Style
from layerscope.report.table import bold_grid
from layerscope.report.text import printable, storage


def inventory_table(inventory: Inventory, style: Style) -> str:
    """Images, then containers; which store has them, where there are several."""
    several = len(inventory.sources) > 1
    titles = ["Storage", *[""] * len(inventory.sources)]
    parts = [f"{title:<10} {storage(source)}" for title, source in zip(titles, inventory.sources, strict=False)]
    parts.append("")
    images = [
        [
            *([str(item.driver)] if several else []),
            ", ".join(printable(name) for name in item.record.references) or "(no name)",
            style.id(item.record.id),
            str(len(item.record.diff_ids)),
            style.size(item.size_bytes),
            style.size(item.shared_bytes),
            style.id(item.cache_id),
        ]
        for item in inventory.images
    ]
    column = ["STORE"] if several else []
    headers = [*column, "IMAGE", "ID", "LAYERS", "SIZE", "SHARED", "TOP LAYER"]
    right = {len(column) + number for number in (2, 3, 4)}
    parts.append(bold_grid(images, headers, right, style) if images else "No images.")
    containers = [
        [
            *([str(item.driver)] if several else []),
            printable(item.record.name),
            style.id(item.record.id),
            item.record.state,
            printable(item.record.image or style.id(item.record.image_id)),
            style.id(item.cache_id),
        ]
        for item in inventory.containers
    ]
    headers = [*column, "CONTAINER", "ID", "STATE", "IMAGE", "UPPER LAYER"]
    parts += ["", bold_grid(containers, headers, set(), style) if containers else "No containers."]
    return "\n".join(parts)
