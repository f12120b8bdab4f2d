"""How tables look: width, colour, exact or rounded sizes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from layerscope.model import Layer, Role
from layerscope.report import text

_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


@dataclass(frozen=True, slots=True)
class Style:
    """The look of one run."""

    width: int = 100
    color: bool = False
    exact_bytes: bool = False
    truncate: bool = True
    directory: str | None = None
    """The working directory: paths below it are shown relative to it."""

    def paint(self, content: str, *looks: str) -> str:
        """The text in a look such as ``bold`` or ``red``; unchanged without colour."""
        if not self.color or not content:
            return content
        return "".join(f"\033[{_CODES[look]}m" for look in looks) + content + "\033[0m"

    def size(self, number: int | None) -> str:
        return "?" if number is None else text.size(number, exact=self.exact_bytes)

    def id(self, identifier: str | None) -> str:
        """An id as Docker shortens it, or whole."""
        if identifier is None:
            return "-"
        if not self.truncate:
            return identifier
        plain = identifier.rpartition(":")[2]
        suffix = "-init" if plain.endswith("-init") else ""
        return plain.removesuffix("-init")[:12] + suffix

    def path(self, path: str) -> str:
        """A path on this machine, relative where it lies below the working directory."""
        below = self.directory.rstrip("/") + "/" if self.directory else None
        return text.printable(path.removeprefix(below) if below else path)

    def fit(self, content: str, width: int) -> str:
        return text.shorten(content, width) if self.truncate else content

    def layer(self, layer: Layer) -> str:
        """What a layer is: the instruction that made it, or where it lies."""
        match layer.role:
            case Role.INIT:
                return "(init layer: files that the engine puts into every container)"
            case Role.UPPER if layer.created_by is None and layer.cache_id is not None:
                return "(upper layer: what the container wrote)"
            case Role.UPPER | Role.LOWER:
                return self.path(layer.diff_dir)
            case Role.IMAGE:
                return text.instruction(layer.created_by) or "(no instruction recorded)"
