"""Reads overlay mounts as the kernel lists them, in every spelling of their options. Pure but for one file.

Sources: proc_pid_mountinfo(5); kernel ``fs/overlayfs/{params,super}.c`` and its ``overlayfs.rst``. A value is
decoded in this order: split at ``,``, undo octal escapes, then (``lowerdir=`` only) split at unescaped ``:`` and
drop the escaping backslashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from layerscope.errors import OverlayOptionsError
from layerscope.model import OverlayOptions, XattrFamily

_OCTAL: Final = re.compile(r"\\([0-3][0-7]{2})")
_BACKSLASH: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    root: str
    point: str
    fstype: str
    options: str
    """The super block's options, still escaped."""


@dataclass(frozen=True, slots=True)
class OverlaySpec:
    """The options of an overlay mount, decoded. ``lower`` is top first, as the kernel writes it."""

    lower: tuple[str, ...]
    data: tuple[str, ...] = ()
    upper: str | None = None
    work: str | None = None
    flags: dict[str, str] = field(default_factory=dict)

    def semantics(self, defaults: OverlayOptions) -> OverlayOptions:
        """What the options mean for lookup; ``defaults`` are the kernel module's parameters."""
        user = "userxattr" in self.flags
        metacopy = self.flags.get("metacopy", "on" if defaults.metacopy else "off") == "on"
        redirect = self.flags.get("redirect_dir")
        follow = defaults.follow_redirects if redirect in (None, "off") else redirect != "nofollow"
        if "verity" in self.flags and self.flags["verity"] != "off":
            metacopy = True
        if metacopy and redirect is None:
            follow = True  # metacopy turns redirects on (ovl_fs_params_verify)
        if user:
            # userxattr turns both off unless they are asked for, and asking for them is an error
            follow, metacopy = redirect in ("on", "follow"), "metacopy" in self.flags and metacopy
        family = XattrFamily.USER if user else XattrFamily.TRUSTED
        return OverlayOptions(family, follow_redirects=follow, metacopy=metacopy)


def read_mountinfo(path: str) -> list[Mount]:
    """The mounts of a mountinfo file, in its order. Raises OSError."""
    # Without `newline` a carriage return, which the kernel does not escape, would end a line.
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        return list(parse_mountinfo(file))


def parse_mountinfo(lines: Iterable[str]) -> Iterator[Mount]:
    """The mounts of a mountinfo file, in its order. A line of another shape is left out."""
    for line in lines:
        fields = line.rstrip("\n").split(" ")
        try:
            separator = fields.index("-", 6)
            root, point = fields[3], fields[4]
            fstype, options = fields[separator + 1], fields[separator + 3]
        except (ValueError, IndexError):
            continue
        yield Mount(unescape(root), unescape(point), unescape(fstype), options)


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes: ``\\040`` is a space. Only ASCII characters are ever escaped."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def parse_options(text: str, *, escaped: bool = True) -> OverlaySpec:
    """The options of an overlay mount, from mountinfo (``escaped``) or as given to mount(8).

    Raises OverlayOptionsError when there is no lower directory or data-only layers are misplaced.
    """
    lower: list[str] = []
    data: list[str] = []
    flags: dict[str, str] = {}
    upper = work = None
    for option in _split_options(text) if not escaped else text.split(","):
        name, _, value = option.partition("=")
        value = unescape(value) if escaped else value
        match name:
            case "lowerdir":
                lower, data = split_lowerdir(value)
            case "lowerdir+":
                lower.append(value)
            case "datadir+":
                data.append(value)
            case "upperdir":
                upper = _unslash(value)
            case "workdir":
                work = _unslash(value)
            case "":
                pass
            case _:
                flags[name] = value
    if not lower and upper is None:
        raise OverlayOptionsError(
            f"no lowerdir= in the overlay options {text[:200]!r}", "give lowerdir=TOP:…:BASE, top layer first"
        )
    return OverlaySpec(tuple(lower), tuple(data), upper, work, flags)


def _split_options(text: str) -> list[str]:
    """Split at commas that no backslash escapes: ``\\,`` stands for a comma (kernel ``ovl_next_opt``)."""
    parts = [""]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            following = next(characters, "")
            parts[-1] += following if following == "," else character + following
        elif character == ",":
            parts.append("")
        else:
            parts[-1] += character
    return parts


def split_lowerdir(value: str) -> tuple[list[str], list[str]]:
    """Split ``lowerdir=`` at unescaped colons, top first; what follows ``::`` is data-only."""
    parts: list[str] = [""]
    separators: list[int] = []
    position = 0
    while position < len(value):
        character = value[position]
        if character == "\\" and position + 1 < len(value):
            parts[-1] += value[position : position + 2]
            position += 2
        elif character == ":":
            colons = 1
            while value[position + colons : position + colons + 1] == ":":
                colons += 1
            separators.append(colons)
            parts.append("")
            position += colons
        else:
            parts[-1] += character
            position += 1
    paths = [_unslash(part) for part in parts]
    first_data = separators.index(2) + 1 if 2 in separators else len(paths)
    valid = all(paths) and max(separators, default=1) <= 2
    if not valid or 1 in separators[first_data - 1 :]:
        raise OverlayOptionsError(
            f"lowerdir={value[:200]} is not a list of directories",
            "separate layers with one colon, top first; only data-only layers follow `::`, and each of them does",
        )
    return paths[:first_data], paths[first_data:]


def _unslash(text: str) -> str:
    return _BACKSLASH.sub(r"\1", text)
