"""``check``: whether the store is whole."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session
from layerscope.errors import ExitCode

PANEL: Final = "Host"


@command("check", PANEL, "Check that the store is whole")
def check(
    session: Session,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Hold the size of every layer against its record, too; walks them all.")
    ] = False,
) -> None:
    """Check the structure of the store: that directories, short links, layer records, images, containers and build
    cache agree with each other, and in containerd keys, snapshots and blobs, that ids are what they are computed
    from, and that there is only one store.

    All problems are told in one run, each with the file that shows it, what follows from it, and what to do. What
    looks wrong is looked at again, for the engine may be at work. Exits 1 when any problem is an error. What layers
    hold is for `verify` to say, what nothing uses for `orphans`.
    """
    session.allow(Format.TABLE, Format.JSON)
    from layerscope.analysis.check import check_all
    from layerscope.analysis.problems import Severity
    from layerscope.report.check import check_document, check_tables

    stores = check_all(session.store, sizes=sizes, warn=session.cautions, tick=session.progress)
    session.answer(lambda: check_tables(stores, session.style), lambda: check_document(stores))
    if any(problem.kind.severity is Severity.ERROR for checked in stores for problem in checked.problems):
        raise typer.Exit(ExitCode.GATE)
