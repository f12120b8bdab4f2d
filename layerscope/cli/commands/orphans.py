"""``orphans``: what every directory of the layer storage is there for, and which are left over."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session
from layerscope.errors import ExitCode, UsageError

PANEL: Final = "Host"
_PART: Final = re.compile(r"([0-9]{1,9})(d|h|min|m|s)?")
_SECONDS: Final = {"d": 86400, "h": 3600, "m": 60, "min": 60, "s": 1}


@command("orphans", PANEL, "Find directories that nothing uses")
def orphans(
    session: Session,
    min_age: Annotated[
        str,
        typer.Option(
            "--min-age", metavar="DURATION", help="Judge nothing that changed since: 90s, 10m, 2h, 1d, 1h30m."
        ),
    ] = "10m",
    everything: Annotated[bool, typer.Option("--all", "-a", help="List every directory.")] = False,
    fail: Annotated[bool, typer.Option("--fail", help="Exit 1 when there are orphans.")] = False,
) -> None:
    """Classify every directory of overlay2 by what refers to it, and find those that nothing does; of the
    containerd image store every snapshot, blob and download.

    Counted as references: layers, read-write layers and containers, BuildKit's snapshots and records, the images,
    leases and labels of every namespace of containerd, and live mounts in every mount namespace. Where one of
    these can't be read, or something changed within --min-age, a directory is not judged. Only what nothing in use
    holds is walked for its size. The commands that free a class are shown, never run.
    """
    session.allow(Format.TABLE, Format.JSON)
    from layerscope.analysis.purpose import Purpose
    from layerscope.analysis.surveys import find_all_orphans
    from layerscope.report.orphans import orphans_document, orphans_table

    seconds = _duration(min_age)
    surveys = find_all_orphans(session.store, seconds, session.cautions, session.progress)
    session.answer(
        lambda: orphans_table(surveys, session.style, everything=everything),
        lambda: orphans_document(surveys, seconds),
    )
    if fail and any(survey.orphans for survey in surveys):
        raise typer.Exit(ExitCode.GATE)
    if fail and any(item.purpose is Purpose.UNKNOWN for survey in surveys for item in survey.items):
        raise typer.Exit(ExitCode.FAILED)


def _duration(text: str) -> int:
    """Seconds; a number alone is seconds."""
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise UsageError(f"--min-age {text!r} is no duration", "write it as 90s, 10m, 2h, 1d or 1h30m")
    return sum(int(part[1]) * _SECONDS[part[2] or "s"] for part in parts)
