"""``reuse``: what images share, and what removing some of them would free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session
from layerscope.errors import UsageError
from layerscope.model import TargetKind

if TYPE_CHECKING:
    from layerscope.analysis.reuse import Reuse
    from layerscope.stores.base import Store
    from layerscope.stores.images import ImageRecord

PANEL: Final = "Host"


@command("reuse", PANEL, "Show which layers images share")
def reuse(
    session: Session,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE…", help="Only these images. Default: all.", show_default=False),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Say instead what removing these images would free, to the byte.")
    ] = False,
) -> None:
    """Show which layers images share, and which are alike and stored twice.

    Sizes are those that the engine recorded; SHARED is what other images of the host hold as well, UNIQUE the rest.
    With --remove the directories are measured: what `docker rmi` of the named images would free, and which
    layers stay, as containers or the build cache hold them. Nothing is removed.
    """
    session.allow(Format.TABLE, Format.JSON, *(() if remove else (Format.DOT, Format.MERMAID)))
    if remove and not names:
        raise UsageError("name the images to remove", "layerscope reuse --remove IMAGE…")
    if remove:
        _remove(session, names or [])
    else:
        _show(session, names or [])


def _show(session: Session, names: list[str]) -> None:
    from layerscope.report import reuse as report

    named = [_image(session, name) for name in names]
    found = [
        (part.source, _of_part(session, part, [image for image in named if image in part.images()]))
        for part in session.store.parts
        if not named or any(image in part.images() for image in named)
    ]
    if session.format in (Format.DOT, Format.MERMAID):
        _, first = found[0]  # one graph, one store
        text = report.reuse_dot(first) if session.format is Format.DOT else report.reuse_mermaid(first)
        with session.output() as stream:
            stream.write(text.encode("utf-8", "backslashreplace") + b"\n")
        return
    session.answer(lambda: report.reuse_tables(found, session.style), lambda: report.reuse_documents(found))


def _of_part(session: Session, part: Store, named: list[ImageRecord]) -> Reuse:
    """What the images of one store share, those that were named or all."""
    from layerscope.analysis.reuse import cannot_compare, find_reuse
    from layerscope.analysis.same_files import FileComparer
    from layerscope.stores.classic import ClassicStore
    from layerscope.stores.docker_api import DockerApiStore
    from layerscope.stores.images import build_steps

    everything = list(part.images())
    steps = build_steps(everything)
    images = named or [image for image in everything if image.id not in steps]
    images = sorted({image.id: image for image in images}.values(), key=lambda i: (not i.references, i.name))
    disk = part.disk if isinstance(part, DockerApiStore) else part
    compare = FileComparer(disk) if isinstance(disk, ClassicStore) else cannot_compare
    return find_reuse(part, images, everything, compare, session.cautions)


def _image(session: Session, name: str) -> ImageRecord:
    from layerscope.stores.base import find_record
    from layerscope.stores.images import ImageRecord

    session.refuse_archive(name, "reuse")
    found = find_record(session.store, name, TargetKind.IMAGE)
    assert isinstance(found, ImageRecord)
    return found


def _remove(session: Session, names: list[str]) -> None:
    from layerscope.analysis.containerd_removal import plan_containerd_removal
    from layerscope.analysis.removal import plan_removal
    from layerscope.report.removal import removal_document, removal_table
    from layerscope.stores.containerd import ContainerdStore
    from layerscope.stores.disk import overlay2_disk
    from layerscope.stores.docker_api import DockerApiStore

    wanted = [(_image(session, name), name.removeprefix("image:")) for name in names]
    holders = [part for part in session.store.parts if any(image in part.images() for image, _ in wanted)]
    if len(holders) > 1:
        raise UsageError("the images are in two stores", "ask for those of each store alone")
    part = holders[0]
    disk = part.disk if isinstance(part, DockerApiStore) else part
    if isinstance(disk, ContainerdStore):
        found = plan_containerd_removal(part, disk, wanted, session.cautions, session.progress)
    else:
        found = plan_removal(part, overlay2_disk(part), wanted, session.cautions, session.progress)
    plain = [text for _, text in wanted]
    session.answer(
        lambda: removal_table(found, plain, session.style),
        lambda: {
            "images": [],
            "pairs": None,
            "layers": [],
            "not_shared": [],
            "removal": removal_document(found, plain),
        },
    )
