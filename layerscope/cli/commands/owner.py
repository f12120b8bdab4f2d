"""``owner``: whose a directory of the layer storage is."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session

PANEL: Final = "Host"
MIN_AGE_SECONDS: Final = 600
"""What changed since is not called an orphan."""


@command("owner", PANEL, "Tell whose a layer directory is")
def owner(
    session: Session,
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="A path below the data root, a directory's name or its start, a link, the key of a snapshot, a"
            " chain_id or diff_id, a blob's digest, a mount point, a line of mountinfo, or a process id.",
            show_default=False,
        ),
    ],
) -> None:
    """Tell whose a directory of overlay2, or a snapshot or blob of containerd, is: its layer and instruction, the
    images, containers and build cache that hold it, the files that say so, and which commands would free it.

    WHAT may lie anywhere in diff/, merged/ or fs/, and may be /proc/PID/root.
    """
    session.allow(Format.TABLE, Format.JSON)
    from layerscope.analysis.surveys import find_owner_anywhere
    from layerscope.report.owner import owner_document, owner_table

    answer, source = find_owner_anywhere(session.store, what, MIN_AGE_SECONDS, session.cautions)
    session.answer(lambda: owner_table(answer, source, session.style), lambda: owner_document(answer, source, what))
