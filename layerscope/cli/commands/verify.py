"""``verify``: whether layers still hold what was put into them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session
from layerscope.errors import ExitCode, UsageError
from layerscope.model import Caution, TargetKind

if TYPE_CHECKING:
    from layerscope.analysis.verify import VerifiedLayer
    from layerscope.model import ChainId, DiffId, Source
    from layerscope.stores.base import Store

PANEL: Final = "Host"


@command("verify", PANEL, "Compare layers with their digests")
def verify(
    session: Session,
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TARGET…",
            help="Images, archives of images, or containers for their images' layers.",
            show_default=False,
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
    links and xattrs are named in any case. In containerd the blob that a layer was unpacked from is held against
    its digest and the diff_id, and the snapshot against the tar in it; of an archive each blob against the digest
    in its name, and its tar against the diff_id. Exits 1 when anything differs, and 3 when nothing does but a layer
    can't be verified.
    """
    session.allow(Format.TABLE, Format.JSON)
    from layerscope.analysis.verify import Verdict
    from layerscope.report.verify import verify_document, verify_tables

    if everything == bool(targets):
        raise UsageError(
            "name images or containers, or give --all", "layerscope verify IMAGE, layerscope verify --all"
        )
    found = [*_archives(session, targets or [])]
    names = [name for name in targets or [] if session.archive(name) is None]
    for part, layers in _layers(session, names) if names or everything else ():
        found.append((part.source, _verify(session, part, layers, content=not extra_only, jobs=jobs)))
    session.answer(lambda: verify_tables(found, session.style), lambda: verify_document(found))
    verdicts = {layer.verdict for _, answers in found for layer in answers}
    forged = any(caution.code == "changed-image-config" for caution in session.cautions)
    if Verdict.DIFFERS in verdicts or (forged and not names and not everything):
        raise typer.Exit(ExitCode.GATE)
    if Verdict.UNVERIFIABLE in verdicts:
        raise typer.Exit(ExitCode.FAILED)


def _archives(session: Session, names: list[str]) -> Iterator[tuple[Source, list[VerifiedLayer]]]:
    """What the archives among the targets come to."""
    from layerscope.analysis.verify_archive import verify_archive
    from layerscope.stores.base import find_record
    from layerscope.stores.images import ImageRecord

    for text in names:
        named = session.archive(text)
        if named is not None:
            store, name = named
            record = find_record(store, name.image, TargetKind.IMAGE) if name.image is not None else None
            images = [record] if isinstance(record, ImageRecord) else store.images()
            yield store.source, verify_archive(store, images, session.progress)


def _verify(
    session: Session, part: Store, layers: dict[ChainId, DiffId | None], *, content: bool, jobs: int | None
) -> list[VerifiedLayer]:
    from layerscope.analysis.verify import verify as verify_layers
    from layerscope.analysis.verify_containerd import verify_containerd
    from layerscope.stores.containerd import ContainerdStore
    from layerscope.stores.disk import classic_disk, disk_of

    disk = disk_of(part)
    warn, tick, images = session.cautions, session.progress, part.images()
    if isinstance(disk, ContainerdStore):
        return verify_containerd(disk, layers, images, content=content, jobs=jobs, warn=warn, tick=tick)
    return verify_layers(classic_disk(part), layers, images, content=content, jobs=jobs, warn=warn, tick=tick)


def _layers(session: Session, names: list[str]) -> list[tuple[Store, dict[ChainId, DiffId | None]]]:
    """The layers to verify of each store, without names all."""
    if not names:
        return [(part, _all_layers(part)) for part in session.store.parts]
    found: dict[int, tuple[Store, dict[ChainId, DiffId | None]]] = {}
    for name in names:
        part, layers = _layers_of(session, name)
        found.setdefault(id(part), (part, {}))[1].update(layers)
    return list(found.values())


def _all_layers(part: Store) -> dict[ChainId, DiffId | None]:
    """Every layer of every image, then those in layerdb that no image holds."""
    from layerscope.analysis.verify import layers_of
    from layerscope.stores.classic import ClassicStore
    from layerscope.stores.disk import disk_of

    layers: dict[ChainId, DiffId | None] = dict(layers_of(part.images()))
    disk = disk_of(part)
    for chain_id in disk.layerdb.all() if isinstance(disk, ClassicStore) else ():
        layers.setdefault(chain_id, None)
    return layers


def _layers_of(session: Session, name: str) -> tuple[Store, dict[ChainId, DiffId | None]]:
    from layerscope.analysis.verify import layers_of
    from layerscope.stores import records
    from layerscope.stores.base import find_record
    from layerscope.stores.classic import ClassicStore
    from layerscope.stores.containerd import ContainerdStore
    from layerscope.stores.disk import disk_of
    from layerscope.stores.images import ImageRecord

    found = find_record(session.store, name)
    if isinstance(found, ImageRecord):
        part = next(part for part in session.store.parts if found in part.images())
        return part, dict(layers_of([found]))
    part = next(part for part in session.store.parts if found in part.containers())
    message = f"the container {found.name}'s own layers are not verified: nothing records what is in them"
    session.cautions(Caution("own-layers-not-verified", None, message))
    mount, disk = part.container_mount(found), disk_of(part)
    if mount.parent is None:
        return part, {}
    if isinstance(disk, ContainerdStore):
        diff_ids = layers_of(part.images())
        below = (records.chain_id(snapshot.key) for snapshot in disk.snapshots.chain(mount.parent) or ())
        return part, {chain_id: diff_ids.get(chain_id) for chain_id in below if chain_id is not None}
    chain = disk.layerdb.chain(mount.parent) if isinstance(disk, ClassicStore) else ()
    return part, {layer.chain_id: None for layer in chain}
