"""``verify``: whether layers still hold what was put into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session
from layerscope.errors import ExitCode, UsageError
from layerscope.model import Caution

if TYPE_CHECKING:
    from layerscope.model import ChainId, DiffId

PANEL: Final = "Host"


@command("verify", PANEL, "Compare layers with their digests")
def verify(
    session: Session,
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET…", help="Images, or containers for their images' layers.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Every layer of the store.")] = False,
    extra_only: Annotated[
        bool, typer.Option("--extra-only", help="Compare names and attributes alone; read no content.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", metavar="N", min=1, help="Processes to read with. Default: one a core.", show_default=False
        ),
    ] = None,
) -> None:
    """Compare layers on disk with what they were: the digest of each layer's tar, and every attribute in it.

    The tar is put together again from tar-split.json.gz and the layer's directory, in memory and piece by piece.
    Where its SHA-256 is not the diff_id, the files are named. Extra and missing files, other owners, modes, times,
    links and xattrs are named in any case. Exits 1 when anything differs, and 3 when nothing does but a layer
    can't be verified.
    """
    session.allow(Format.TABLE, Format.JSON)
    from layerscope.analysis.verify import Verdict
    from layerscope.analysis.verify import verify as verify_layers
    from layerscope.report.verify import verify_document, verify_table
    from layerscope.stores.disk import classic_disk

    if everything == bool(targets):
        raise UsageError(
            "name images or containers, or give --all", "layerscope verify IMAGE, layerscope verify --all"
        )
    disk = classic_disk(session.store)
    layers = _all_layers(session) if everything else _layers_of(session, targets or [])
    found = verify_layers(
        disk,
        layers,
        session.store.images(),
        content=not extra_only,
        jobs=jobs,
        warn=session.cautions,
        tick=session.progress,
    )
    session.answer(lambda: verify_table(found, session.style), lambda: verify_document(found))
    verdicts = {layer.verdict for layer in found}
    if Verdict.DIFFERS in verdicts:
        raise typer.Exit(ExitCode.GATE)
    if Verdict.UNVERIFIABLE in verdicts:
        raise typer.Exit(ExitCode.FAILED)


def _all_layers(session: Session) -> dict[ChainId, DiffId | None]:
    """Every layer of every image, then those in layerdb that no image holds."""
    from layerscope.analysis.verify import layers_of
    from layerscope.stores.disk import classic_disk

    disk = classic_disk(session.store)
    own = {image.id for image in disk.images()}
    images = [image for image in session.store.images() if image.id in own]
    layers: dict[ChainId, DiffId | None] = dict(layers_of(images))
    for chain_id in disk.layerdb.all():
        layers.setdefault(chain_id, None)
    return layers


def _layers_of(session: Session, names: list[str]) -> dict[ChainId, DiffId | None]:
    from layerscope.analysis.verify import layers_of
    from layerscope.stores.base import find_record
    from layerscope.stores.disk import classic_disk
    from layerscope.stores.images import ImageRecord

    layers: dict[ChainId, DiffId | None] = {}
    for name in names:
        found = find_record(session.store, name)
        if isinstance(found, ImageRecord):
            layers.update(layers_of([found]))
            continue
        message = f"the container {found.name}'s own layers are not verified: nothing records what is in them"
        session.cautions(Caution("own-layers-not-verified", None, message))
        mount = session.store.container_mount(found)
        chain = classic_disk(session.store).layerdb.chain(mount.parent) if mount.parent is not None else []
        for layer in chain:
            layers.setdefault(layer.chain_id, None)
    return layers
