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
    from layerscope.analysis.reuse import find_reuse
    from layerscope.analysis.same_files import FileComparer
    from layerscope.report import reuse as report
    from layerscope.stores.disk import classic_disk
    from layerscope.stores.images import build_steps

    everything = session.store.images()
    steps = build_steps(everything)
    images = [_image(session, name) for name in names] or [image for image in everything if image.id not in steps]
    images = sorted({image.id: image for image in images}.values(), key=lambda i: (not i.references, i.name))
    compare = FileComparer(classic_disk(session.store))
    found = find_reuse(session.store, images, everything, compare, session.cautions)
    if session.format in (Format.DOT, Format.MERMAID):
        text = report.reuse_dot(found) if session.format is Format.DOT else report.reuse_mermaid(found)
        with session.output() as stream:
            stream.write(text.encode("utf-8", "backslashreplace") + b"\n")
        return
    session.answer(lambda: report.reuse_table(found, session.style), lambda: report.reuse_document(found))


def _image(session: Session, name: str) -> ImageRecord:
    from layerscope.stores.base import find_record
    from layerscope.stores.images import ImageRecord

    found = find_record(session.store, name, TargetKind.IMAGE)
    assert isinstance(found, ImageRecord)
    return found


def _remove(session: Session, names: list[str]) -> None:
    from layerscope.analysis.removal import plan_removal
    from layerscope.report.removal import removal_document, removal_table
    from layerscope.stores.disk import overlay2_disk

    wanted = [(_image(session, name), name.removeprefix("image:")) for name in names]
    disk = overlay2_disk(session.store)
    found = plan_removal(session.store, disk, wanted, session.cautions, session.progress)
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
