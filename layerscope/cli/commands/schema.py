"""``schema``: the JSON contract of each command."""

from __future__ import annotations

from typing import Annotated

import typer

from layerscope.cli.app import command
from layerscope.cli.options import Format
from layerscope.cli.session import Session
from layerscope.errors import UsageError


@command("schema", "Contract", "Print the JSON Schema of a command's output")
def schema(
    session: Session,
    name: Annotated[
        str | None,
        typer.Argument(metavar="COMMAND", help="A command; without one, their names.", show_default=False),
    ] = None,
) -> None:
    """Print the JSON Schema of a command's output."""
    from layerscope.report.document import dump
    from layerscope.report.schema import schema_names, schema_of

    session.allow(Format.TABLE, Format.JSON)
    if name is None:
        text = "\n".join(schema_names())
    elif name in schema_names():
        text = dump(schema_of(name))
    else:
        raise UsageError(f"there is no schema for {name!r}", f"there is one for: {', '.join(schema_names())}")
    with session.output() as stream:
        stream.write(text.encode() + b"\n")
