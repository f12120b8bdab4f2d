"""Prints results as tables, and keeps them in RESULTS.md: a section a family, with the command that repeats it."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from layerscope.workers import usable_cores

RESULTS: Final = Path(__file__).parent / "RESULTS.md"
COLUMNS: Final = ("what", "layerscope", "yardstick", "")
HEAD: Final = """# Results

Each section is one run: both sides in turn, warm, medians; a ratio is the median of the ratios of the rounds. The
machines are noisy: a ratio tells more than a time.
"""

Row = tuple[str, str, str, str]
"""What was measured, layerscope's figure, the yardstick's figure, and how they compare with the target."""


def report(title: str, command: str, rows: Iterable[Row], *, write: bool, columns: Sequence[str] = COLUMNS) -> None:
    """Print rows as they come; ``write`` also puts them in their section of RESULTS.md."""
    lines = [_line(columns), "|" + "---|" * len(columns)]
    print(*lines, sep="\n", flush=True)
    for row in rows:
        lines.append(_line(row))
        print(lines[-1], flush=True)
    if write:
        section = "\n".join([f"## {title}", "", f"`{command}`", "", _machine(), "", *lines, ""])
        RESULTS.write_text(with_section(RESULTS.read_text() if RESULTS.exists() else HEAD, title, section))


def with_section(document: str, title: str, section: str) -> str:
    """The document with a section in the place of the one with its title, or at the end."""
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", document, re.MULTILINE | re.DOTALL)
    if found is None:
        return f"{document.rstrip()}\n\n{section}"
    before, behind = document[: found.start()], document[found.end() :]
    return f"{before}{section}\n{behind}" if behind else before + section


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _machine() -> str:
    """What measured: the numbers of another machine are others."""
    docker = os.environ.get("LAYERSCOPE_TEST_DOCKER", "docker")
    client = subprocess.run([docker, "--version"], capture_output=True, text=True).stdout.strip().partition(",")[0]
    kernel = platform.release().partition("-")[0]
    return f"{usable_cores()} cores, Linux {kernel}, Python {platform.python_version()}, {client or 'no docker'}."
