"""``df``: what the storage takes on disk, and for what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session
from layerscope.errors import LayerscopeError
from layerscope.model import Caution

if TYPE_CHECKING:
    from layerscope.analysis.disk_usage import DiskUsage
    from layerscope.analysis.engine_difference import Difference
    from layerscope.stores.containerd import ContainerdStore
    from layerscope.stores.overlay2 import Overlay2Store

PANEL: Final = "Host"
MIN_AGE_SECONDS: Final = 600
"""What changed since is not called leaked."""


@command("df", PANEL, "Show what takes the disk space")
def df(
    session: Session,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", min=1, help="Processes to count with. Default: one a core.", show_default=False
        ),
    ] = None,
) -> None:
    """Add up what the storage takes on disk: images, containers, build cache, blobs of containerd, leaked
    directories, metadata, and what else lies below the data root.

    Counted is what is allocated, each inode once; nothing that is mounted is entered. A directory counts once: for
    images, else for containers, else for the build cache. With an engine its own figures stand beside, and why they
    differ.
    """
    session.allow(Format.TABLE, Format.JSON)
    from layerscope.analysis.other_stores import other_stores
    from layerscope.report.df import StoreUsage, df_document, df_table
    from layerscope.stores.disk import disks

    stores: list[StoreUsage] = []
    for part in disks(session.store):
        usage = _usage(session, part, jobs)
        claims = None if stores else _claims(session, usage, part)
        stores.append(StoreUsage(part.source, usage, claims))
    others = list(other_stores(session.store, disks(session.store)[0], session.cautions))
    session.answer(lambda: df_table(stores, others, session.style), lambda: df_document(stores, others))


def _usage(session: Session, disk: Overlay2Store | ContainerdStore, jobs: int | None) -> DiskUsage:
    from layerscope.analysis.containerd_usage import containerd_usage
    from layerscope.analysis.disk_usage import disk_usage
    from layerscope.stores.overlay2 import Overlay2Store

    containers = session.store.containers()
    warn, tick = session.cautions, session.progress
    if isinstance(disk, Overlay2Store):
        return disk_usage(disk, containers, MIN_AGE_SECONDS, warn, jobs=jobs, tick=tick)
    return containerd_usage(disk, containers, MIN_AGE_SECONDS, warn, jobs=jobs, tick=tick)


def _claims(session: Session, usage: DiskUsage, disk: Overlay2Store | ContainerdStore) -> list[Difference] | None:
    """What the engine says of its own store; None without an engine or an answer."""
    from layerscope.analysis.engine_difference import containerd_differences, differences
    from layerscope.stores.disk import engine_of
    from layerscope.stores.engine_usage import read_engine_usage
    from layerscope.stores.overlay2 import Overlay2Store

    engine = engine_of(session.store)
    if engine is None:
        return None
    session.say("asking the engine, which walks its containers and volumes")
    try:
        told = read_engine_usage(engine)
    except LayerscopeError as error:
        session.cautions(Caution("engine-usage", None, f"`docker system df` gives no answer: {error.message}"))
        return None
    return (differences if isinstance(disk, Overlay2Store) else containerd_differences)(usage, told)
