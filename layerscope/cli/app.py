"""The application: command groups in the help, and the boundary where every error becomes two lines."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from layerscope import __version__
from layerscope.cli.options import HOW, WHERE, with_common
from layerscope.cli.output import abandon_stdout, open_closed_streams
from layerscope.cli.session import open_session
from layerscope.errors import ExitCode, LayerscopeError
from layerscope.report.text import printable

# Typer vendors Click and does not export these base classes; its public BadParameter inherits from both.
USAGE_ERROR: Final[Any] = typer.BadParameter.__mro__[1]
CLICK_ERROR: Final[Any] = typer.BadParameter.__mro__[2]

PANELS: Final = ("Inspect", "Files", "Audit", "Host", "Contract")


@contextmanager
def _boundary(*, debug: bool = False) -> Iterator[None]:
    """Where every error becomes two lines and an exit code."""
    try:
        yield
    except (CLICK_ERROR, typer.Exit, typer.Abort):
        raise
    except BrokenPipeError as error:
        abandon_stdout()  # nobody reads any more
        raise typer.Exit(ExitCode.PIPE_CLOSED) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(ExitCode.INTERRUPTED) from error
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = error if isinstance(error, LayerscopeError) else _bug(error)
        report_error(known.message, known.hint)
        raise typer.Exit(known.exit_code) from error


def _bug(error: Exception) -> LayerscopeError:
    return LayerscopeError(
        f"layerscope failed: {type(error).__name__}: {error}",
        "this is a bug; run it again with --debug and report what it prints",
    )


class Command(TyperCommand):
    """A command: its help lists options in groups, and its errors become two lines and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        with _boundary(debug=ctx.params.get("debug", False)):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                title = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault(title, []).append(record)
        for title in sorted(groups, key=_panel_order):
            with formatter.section(title):
                formatter.write_dl(groups[title])


def _panel_order(title: str) -> tuple[int, str]:
    order = ["Arguments", "Options", WHERE, HOW]
    return (order.index(title) if title in order else len(order), title)


class Group(TyperGroup):
    """The root command."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _boundary():  # prints --help and --version
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _boundary():  # prints a command's --help
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        for panel in PANELS:
            named = [
                (name, command)
                for name, command in self.commands.items()
                if getattr(command, "rich_help_panel", None) == panel and not command.hidden
            ]
            limit = formatter.width - 6 - max((len(name) for name in self.commands), default=0)
            if named:
                with formatter.section(panel):
                    formatter.write_dl([(name, command.get_short_help_str(limit)) for name, command in named])

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        open_closed_streams()
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except USAGE_ERROR as error:
            context = getattr(error, "ctx", None)
            if type(error).__name__ == "NoArgsIsHelpError":
                sys.stderr.write(error.format_message() + "\n")
            else:
                command = context.command_path if context is not None else "layerscope"
                report_error(_one_line(error.format_message()), f"`{command} --help` shows how to call it")
            code = ExitCode.USAGE
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


def _one_line(message: str) -> str:
    return " ".join(message.split()).rstrip(".").replace(": Value error, ", ": ")  # Pydantic's words


def report_error(message: str, hint: str | None) -> None:
    """One line that names the thing, one that says what to do."""
    try:
        sys.stdout.flush()
    except OSError:
        abandon_stdout()
    sys.stderr.write(f"error: {printable(message)}\n")
    if hint:
        sys.stderr.write(f"hint: {printable(hint)}\n")


app = typer.Typer(
    name="layerscope",
    cls=Group,
    help="Show what Docker's storage really holds: which directory is which layer, what each layer added, changed"
    " and deleted, what is hidden and still on disk. It only reads.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


CommandFunction = Callable[..., None]


def command(name: str, panel: str, short: str) -> Callable[[CommandFunction], CommandFunction]:
    """Register a command that takes a session and gets the common options; ``short`` stands in the overview."""

    def register(function: CommandFunction) -> CommandFunction:
        registered = app.command(name, cls=Command, rich_help_panel=panel, short_help=short)
        return registered(with_common(open_session)(function))

    return register


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"layerscope {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
    ),
) -> None:
    """Show what Docker's storage really holds."""
