"""The options that mean the same in every command, and the decorator that gives them to one.

A command function takes a ``Session`` first and then its own parameters; the decorator adds the common options to
what Typer sees, and packs their values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    SARIF = "sarif"
    DOT = "dot"
    MERMAID = "mermaid"


class Color(StrEnum):
    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


WHERE = "Where to read"
HOW = "Output"


@dataclass(frozen=True, slots=True)
class Common:
    """The values of the common options."""

    data_root: Annotated[
        str | None,
        typer.Option(
            "--data-root",
            metavar="DIR",
            envvar="LAYERSCOPE_DATA_ROOT",
            help="Read this Docker data root, without an engine.",
            rich_help_panel=WHERE,
            show_default=False,
            show_envvar=False,
        ),
    ] = None
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="URL",
            envvar="LAYERSCOPE_HOST",
            help="Ask this engine. Default: as the docker command does.",
            rich_help_panel=WHERE,
            show_default=False,
            show_envvar=False,
        ),
    ] = None
    containerd_root: Annotated[
        str | None,
        typer.Option(
            "--containerd-root",
            metavar="DIR",
            envvar="LAYERSCOPE_CONTAINERD_ROOT",
            help="Where containerd keeps its data, if layerscope can't tell.",
            rich_help_panel=WHERE,
            show_default=False,
            show_envvar=False,
        ),
    ] = None
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            metavar="NAME",
            envvar="LAYERSCOPE_NAMESPACE",
            help="Containerd's namespace: k8s.io, default. Default: Docker's.",
            rich_help_panel=WHERE,
            show_default=False,
            show_envvar=False,
        ),
    ] = None
    platform: Annotated[
        str | None,
        typer.Option(
            "--platform",
            metavar="OS/ARCH",
            envvar="LAYERSCOPE_PLATFORM",
            help="Of images for several platforms, take this one.",
            rich_help_panel=WHERE,
            show_default=False,
            show_envvar=False,
        ),
    ] = None
    overlay_options: Annotated[
        str | None,
        typer.Option(
            "--overlay-options",
            metavar="OPTIONS",
            envvar="LAYERSCOPE_OVERLAY_OPTIONS",
            help="Mount options to assume: userxattr, metacopy=on, redirect_dir=nofollow.",
            rich_help_panel=WHERE,
            show_default=False,
            show_envvar=False,
        ),
    ] = None
    format: Annotated[
        Format,
        typer.Option(
            "--format",
            envvar="LAYERSCOPE_FORMAT",
            help="How to print the answer.",
            rich_help_panel=HOW,
            show_envvar=False,
        ),
    ] = Format.TABLE
    json: Annotated[bool, typer.Option("--json", help="Same as --format json.", rich_help_panel=HOW)] = False
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the answer to a file.",
            rich_help_panel=HOW,
            show_default=False,
        ),
    ] = None
    no_trunc: Annotated[
        bool, typer.Option("--no-trunc", help="Show whole ids and instructions.", rich_help_panel=HOW)
    ] = False
    exact_bytes: Annotated[
        bool, typer.Option("--bytes", help="Show sizes as exact bytes.", rich_help_panel=HOW)
    ] = False
    color: Annotated[
        Color,
        typer.Option(
            "--color",
            envvar="LAYERSCOPE_COLOR",
            help="Whether to use colour.",
            rich_help_panel=HOW,
            show_envvar=False,
        ),
    ] = Color.AUTO
    no_progress: Annotated[
        bool,
        typer.Option(
            "--no-progress",
            envvar="LAYERSCOPE_NO_PROGRESS",
            help="Show no progress.",
            rich_help_panel=HOW,
            show_envvar=False,
        ),
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no warnings.", rich_help_panel=HOW)] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is read.", rich_help_panel=HOW)] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.", rich_help_panel=HOW)] = False


MakeSession = Callable[[Common, str, frozenset[str]], AbstractContextManager[Any]]


def with_common(make_session: MakeSession) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: its first parameter becomes a session made of the common options.

    ``make_session`` gets their values, the command's name and the names of those given on the command line.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        hints = get_type_hints(Common, include_extras=True)
        shared = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in fields(Common)
        ]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + [*shared, context]

        def command(**values: Any) -> None:
            ctx = values.pop("context")
            given = {parameter.name: values.pop(parameter.name) for parameter in own}
            explicit = frozenset(name for name in values if ctx.get_parameter_source(name).name == "COMMANDLINE")
            with make_session(Common(**values), ctx.info_name, explicit) as session:
                function(session, **given)

        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate
