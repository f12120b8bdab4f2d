"""``ls``, ``image``, ``container``, ``overlay``, ``diff``: what a host holds and what a stack is made of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session
from layerscope.errors import PathNotFoundError, UsageError
from layerscope.model import Target, TargetKind

if TYPE_CHECKING:
    from layerscope.analysis.inspect import Wanted

PANEL: Final = "Inspect"
_AT_LAYER: Final = re.compile(r"(.+)@(\d+)")

Files = Annotated[bool, typer.Option("--files", help="List what each layer added, changed and deleted.")]
Hidden = Annotated[bool, typer.Option("--hidden", help="List the hidden files, and what hides each.")]
OneLayer = Annotated[
    int | None,
    typer.Option("--layer", metavar="N", min=0, help="Show only this layer; 0 is the base.", show_default=False),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", metavar="N", min=1, help="Processes to read with. Default: one a core.", show_default=False
    ),
]


@command("ls", PANEL, "List images and containers")
def ls(
    session: Session,
    archive: Annotated[
        str | None,
        typer.Argument(
            metavar="ARCHIVE",
            help="List the images in this archive instead: a file, a directory, or -.",
            show_default=False,
        ),
    ] = None,
    all_images: Annotated[
        bool, typer.Option("--all", "-a", help="List the legacy builder's untagged steps, too.")
    ] = False,
) -> None:
    """List the images and containers of a host, a data root or an archive."""
    session.allow(Format.TABLE, Format.JSON)
    from layerscope.analysis.inventory import take_inventory
    from layerscope.report import document, inventory_table

    store = session.store if archive is None else session.require_archive(archive)
    inventory = take_inventory(store, session.cautions, intermediate=all_images)
    session.answer(
        lambda: inventory_table.inventory_table(inventory, session.style),
        lambda: document.inventory_document(inventory),
    )


@command("image", PANEL, "Show an image layer by layer")
def image(
    session: Session,
    reference: Annotated[str, typer.Argument(metavar="IMAGE", help="A name, a digest, or an id or its start.")],
    files: Files = False,
    hidden: Hidden = False,
    layer: OneLayer = None,
    jobs: Jobs = None,
) -> None:
    """Show an image layer by layer: what each added, changed, deleted, and what is hidden.

    The top layer comes first, as in `docker history`. Under CHANGES, + counts paths that the layer added, ~ those
    whose content it changed, m those of which it changed only owner, mode, time or xattrs, - those it deleted, and
    o opaque directories, which hide all that lay in them below. HIDDEN is what later layers hide of this one.
    """
    from layerscope.analysis.inspect import Wanted

    _inspect(session, session.target(reference, TargetKind.IMAGE), Wanted(files, hidden), layer, jobs)


@command("container", PANEL, "Show a container and what it changed")
def container(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="CONTAINER", help="A name, or an id or its start.")],
    files: Files = False,
    hidden: Hidden = False,
    layer: OneLayer = None,
    jobs: Jobs = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Count the image's layers, too: walks all of them.")
    ] = False,
) -> None:
    """Show a container: its image's layers, its own two, and what it changed.

    The changes are those of `docker diff`, with sizes, and a note where a changed file's content is the same. Files
    that were only copied up are listed apart.
    """
    from layerscope.analysis.inspect import Wanted

    wanted = Wanted(files, hidden, image_layers=layers)
    _inspect(session, session.target(name, TargetKind.CONTAINER), wanted, layer, jobs)


@command("overlay", PANEL, "Show any overlay mount or directories")
def overlay(
    session: Session,
    mountpoint: Annotated[
        str | None, typer.Argument(metavar="MOUNTPOINT", help="Where an overlay is mounted.", show_default=False)
    ] = None,
    lowerdir: Annotated[
        str | None,
        typer.Option(
            "--lowerdir", metavar="A:B:C", help="Directories instead, the top one first.", show_default=False
        ),
    ] = None,
    upperdir: Annotated[
        str | None,
        typer.Option("--upperdir", metavar="U", help="The writable directory on top.", show_default=False),
    ] = None,
    files: Files = False,
    hidden: Hidden = False,
    layer: OneLayer = None,
    jobs: Jobs = None,
) -> None:
    """Show any overlay mount, or plain directories as overlayfs would stack them."""
    from layerscope.analysis.inspect import Wanted

    target = _overlay_target(session, mountpoint, lowerdir, upperdir)
    _inspect(session, target, Wanted(files, hidden), layer, jobs)


def _overlay_target(session: Session, mountpoint: str | None, lowerdir: str | None, upperdir: str | None) -> Target:
    from layerscope.stores.mountinfo import OverlaySpec, parse_options
    from layerscope.stores.mounts import directories_target, mount_target

    if (mountpoint is None) == (lowerdir is None):
        raise UsageError(
            "name either a mount point or --lowerdir", "layerscope overlay --lowerdir TOP:…:BASE [--upperdir U]"
        )
    if mountpoint is not None:
        if upperdir is not None:
            raise UsageError("--upperdir goes with --lowerdir", "a mount point knows its own upper directory")
        return mount_target(mountpoint)
    spec = parse_options(f"lowerdir={lowerdir},{session.common.overlay_options or ''}", escaped=False)
    return directories_target(OverlaySpec(spec.lower, spec.data, upperdir, None, spec.flags))


def _inspect(session: Session, target: Target, wanted: Wanted, layer: int | None, jobs: int | None) -> None:
    from layerscope.analysis.inspect import inspect
    from layerscope.report import document, stack_table

    session.allow(Format.TABLE, Format.JSON)
    if layer is not None and layer >= len(target.stack):
        raise PathNotFoundError(
            f"{target.name} has no layer {layer}", f"its layers are 0 to {len(target.stack) - 1}"
        )
    found = inspect(target, wanted, jobs=jobs, warn=session.cautions, tick=session.progress)
    session.answer(
        lambda: stack_table.inspection_table(found, session.source, session.style, layer),
        lambda: (
            document.container_document(found, layer)
            if target.kind is TargetKind.CONTAINER
            else document.inspection_document(found, layer)
        ),
    )


@command("diff", PANEL, "Show what differs between two of them")
def diff(
    session: Session,
    old: Annotated[
        str, typer.Argument(metavar="A", help="An image, container or mount point; IMAGE@N its layers 0…N.")
    ],
    new: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
) -> None:
    """Show what differs between two images, an image and a container, or two heights of one image.

    A is added in B, C is changed, D is deleted, by the rules of `docker diff`. Only directories in which the
    two have different layers are read.
    """
    session.allow(Format.TABLE, Format.JSON)
    from layerscope.analysis.compare import compare
    from layerscope.overlay.walk import Walker
    from layerscope.report import document, path_tables

    one, other = _at_height(session, old), _at_height(session, new)
    differences = [
        difference
        for difference in compare(
            Walker(one.stack, session.cautions),
            Walker(other.stack, session.cautions),
            session.cautions,
            session.progress,
        )
        if difference.change is not None
    ]
    session.answer(
        lambda: path_tables.difference_table(differences, session.style),
        lambda: {
            "old": document.target_document(one),
            "new": document.target_document(other),
            "changes": [document.difference_document(difference) for difference in differences],
        },
    )


def _at_height(session: Session, text: str) -> Target:
    """A target, or with ``@N`` the part of it up to layer N."""
    match = _AT_LAYER.fullmatch(text)
    if match is None:
        return session.target(text)
    target = session.target(match[1])
    height = int(match[2])
    if height >= len(target.stack):
        raise PathNotFoundError(
            f"{target.name} has no layer {height}", f"its layers are 0 to {len(target.stack) - 1}"
        )
    return target.at(height)
