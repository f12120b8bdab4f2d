"""``files``, ``trace``, ``cat``, ``extract``: single paths and their versions."""

from __future__ import annotations

import codecs
import errno
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Final

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session
from layerscope.errors import PathNotFoundError
from layerscope.report.text import printable

if TYPE_CHECKING:
    from layerscope.overlay.resolve import PathVersions, Version
    from layerscope.overlay.walk import Walker

PANEL: Final = "Files"

TargetName = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="An image or container, by name or id; an archive; a mount point; or lowerdir=A:B:C.",
    ),
]
Path = Annotated[str, typer.Argument(metavar="PATH", help="A path in the image, from its root.")]
Layer = Annotated[
    int | None,
    typer.Option(
        "--layer", metavar="N", min=0, help="The version of this layer, hidden or not.", show_default=False
    ),
]


@command("files", PANEL, "List all versions of all paths")
def files(
    session: Session,
    target: TargetName,
    only_hidden: Annotated[bool, typer.Option("--hidden", help="Only versions that are hidden.")] = False,
    only_visible: Annotated[bool, typer.Option("--visible", help="Only versions that show.")] = False,
) -> None:
    """List every version of every path of a stack, visible or hidden, in tree order.

    With --format jsonl one JSON object a line is printed as it is found, whatever the size of the image.
    """
    session.allow(Format.TABLE, Format.JSON, Format.JSONL)
    from layerscope.analysis.change import change_of
    from layerscope.overlay.walk import Walker, in_tree_order
    from layerscope.report import document, path_tables

    found = session.target(target)
    walker = Walker(found.stack, session.cautions)
    rows = (
        (versions, index)
        for versions in in_tree_order(walker.walk())
        for index, version in enumerate(versions.versions)
        if not (only_hidden and version.visible) and not (only_visible and not version.visible)
    )
    if session.format is Format.JSON:
        listed = []
        for versions, index in rows:
            session.progress(1)
            version = versions.versions[index]
            listed.append(document.version_document(walker, versions, version, session.cautions))
        session.answer(str, lambda: {"target": document.target_document(found), "files": listed})
        return
    as_table, on_terminal = session.format is Format.TABLE, session.on_terminal
    with session.output() as stream:
        for versions, index in rows:
            if not on_terminal:
                session.progress(1)
            version = versions.versions[index]
            if as_table:
                change = change_of(versions, version, walker.data_trees, session.cautions)
                line = path_tables.version_line(versions, index, change, session.style)
            else:
                line = document.dump(
                    document.version_document(walker, versions, version, session.cautions), indent=None
                )
            stream.write(line.encode("utf-8", "backslashreplace") + b"\n")


@command("trace", PANEL, "Show the history of one path")
def trace(session: Session, target: TargetName, path: Path) -> None:
    """Show the history of one path: which layer added, changed, deleted it, and which version shows."""
    from layerscope.analysis.trace import history, locate
    from layerscope.overlay.walk import Walker
    from layerscope.report import document, path_tables

    session.allow(Format.TABLE, Format.JSON)
    found = session.target(target)
    walker = Walker(found.stack, session.cautions)
    versions = locate(walker, path)
    events = history(walker, versions, session.cautions)
    session.answer(
        lambda: path_tables.trace_table(found, versions, events, session.style),
        lambda: document.trace_document(walker, found, versions, events),
    )


@command("cat", PANEL, "Print a file, any version of it")
def cat(session: Session, target: TargetName, path: Path, layer: Layer = None) -> None:
    """Print a file: the version that shows, or with --layer any other, also a hidden one.

    Without --layer symlinks are followed inside the image. On a terminal control characters are escaped.
    """
    from layerscope.analysis.trace import follow, in_layer, locate, refuse_directory
    from layerscope.overlay.walk import Walker

    session.allow(Format.TABLE)
    found = session.target(target, contents=True)
    walker = Walker(found.stack, session.cautions)
    if layer is None:
        versions = follow(walker, path)
        version = versions.visible
        assert version is not None
    else:
        versions = locate(walker, path)
        version = in_layer(versions, layer)
    refuse_directory(versions, version)
    content = _content(walker, versions, version, path)
    with session.output() as stream:
        for chunk in _for_terminal(content) if session.on_terminal else content:
            stream.write(chunk)


def _content(walker: Walker, versions: PathVersions, version: Version, path: str) -> Iterator[bytes]:
    from layerscope.overlay.content import open_content, read_chunks

    try:
        with open_content(versions, version, walker.data_trees) as content:
            yield from read_chunks(content)
    except OSError as error:
        hint = "the layer on disk may be damaged, or hold no data of it"
        if error.errno == errno.ESPIPE:
            hint = "save the archive to a file first"
        raise PathNotFoundError(f"{path!r} can't be read: {error.strerror}", hint) from error


def _for_terminal(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The content with its control characters escaped; a character may begin in one chunk and end in the next."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for chunk in chain(chunks, (b"",)):
        yield _escaped(decoder.decode(chunk, final=not chunk)).encode("utf-8", "backslashreplace")


def _escaped(text: str) -> str:
    return "\n".join("\t".join(printable(part) for part in line.split("\t")) for line in text.split("\n"))


@command("extract", PANEL, "Write files to a directory of yours")
def extract_(
    session: Session,
    target: TargetName,
    path: Path,
    to: Annotated[
        str, typer.Option("--to", metavar="DIR", help="Write below this directory; it is made if missing.")
    ],
    layer: Layer = None,
    devices: Annotated[bool, typer.Option("--devices", help="Make device nodes, FIFOs and sockets, too.")] = False,
    owners: Annotated[bool, typer.Option("--owners", help="Keep owners and set-user-id bits.")] = False,
) -> None:
    """Write a file or a whole directory below a directory of yours, with modes and times.

    Nothing is written through a symlink and nothing that exists is replaced. Without --layer the visible
    versions are written, with it those that the layer holds.
    """
    from layerscope.analysis.extract import ExtractOptions, extract
    from layerscope.analysis.trace import follow, in_layer, locate
    from layerscope.overlay.walk import Walker
    from layerscope.report import document, path_tables

    session.allow(Format.TABLE, Format.JSON)
    found = session.target(target, contents=True)
    walker = Walker(found.stack, session.cautions)
    versions = locate(walker, path)
    if layer is not None:
        in_layer(versions, layer)
    elif versions.visible is None:
        follow(walker, path)  # says why there is nothing to see
    done = extract(walker, versions, to, ExtractOptions(layer, devices, owners), session.cautions, session.progress)
    session.answer(
        lambda: path_tables.extracted_line(done, to, session.style),
        lambda: document.extracted_document(done, to),
    )
