"""Words and numbers on screen: sizes, shortened instructions, names without control characters. Pure."""

from __future__ import annotations

import os
import re
from typing import Final

from layerscope.model import Source

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_NOP: Final = "/bin/sh -c #(nop) "
_SHELL: Final = re.compile(r"/bin/(?:sh|bash|ash) -\w*c ")
_BUILDKIT: Final = "# buildkit"
_BLANKS: Final = re.compile(r"\s+")


def printable(text: str, *, escape_backslash: bool = False) -> str:
    """The text without anything that a terminal acts on.

    Control and format characters (also those that turn the direction of writing), line breaks and bytes that are
    not UTF-8 appear as ``\\x1b`` or ``\\u202e``. With ``escape_backslash`` the result says exactly which.
    """
    if text.isprintable() and not (escape_backslash and "\\" in text):
        return text
    return "".join(_escape(character, escape_backslash) for character in text)


def _escape(character: str, escape_backslash: bool) -> str:
    if character == "\\" and escape_backslash:
        return "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte that os.fsdecode could not decode
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown_path(path: str) -> str:
    """A path to show: exact, on one line, with no control character."""
    return printable(path, escape_backslash=True)


def is_utf8(text: str) -> bool:
    """Whether a name that came from a file system is valid UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def raw_bytes(text: str) -> bytes:
    """The bytes of a name as the file system has them."""
    return os.fsencode(text)


def size(number: int, *, exact: bool = False) -> str:
    """Bytes in decimal units, as Docker shows them: ``77.8 MB``; ``exact``: the number itself."""
    if exact:
        return str(number)
    value = float(number)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    if unit == "B":
        return f"{number} B"
    digits = 0 if value >= 99.95 else 1
    return f"{value:.{digits}f} {unit}"


def amount(number: int) -> str:
    """A whole number with thousands separated."""
    return f"{number:,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """``1 file``, ``2 files``."""
    return f"{amount(number)} {one if number == 1 else many or one + 's'}"


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters, the last one an ellipsis where something was cut."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def instruction(created_by: str | None) -> str:
    """A build step as a Dockerfile has it: without the shell, build arguments and BuildKit's remark.

    ``/bin/sh -c #(nop)  ENV A=b`` is ``ENV A=b``; ``RUN |1 X=y /bin/sh -c make # buildkit`` is ``RUN make``.
    """
    if not created_by:
        return ""
    text = created_by.strip()
    if text.startswith(_NOP):
        text = text.removeprefix(_NOP)
    else:
        text = text.removesuffix(_BUILDKIT)
        command = text.removeprefix("RUN ")
        # Build arguments stand before the shell: `|2 A=b C=d /bin/sh -c make`.
        shell = _SHELL.search(command) if command.startswith("|") else _SHELL.match(command)
        if shell is not None:
            text = "RUN " + command[shell.end() :]
    return printable(_BLANKS.sub(" ", text).strip())


def storage(source: Source) -> str:
    """Where a store keeps its layers, its driver, and whether it is the one that an engine left behind."""
    left = ", not in use" if source.in_use is False else ""
    return f"{printable(source.storage or '-')} ({source.driver}{left})"
