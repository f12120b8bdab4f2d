"""One run of a command: its options, the store it reads, its warnings, its output.

Here and in the commands the parts of the package are imported where they are used: `--help` and `--version` need
none of them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, TYPE_CHECKING, Final

from layerscope.cli.options import Color, Common, Format
from layerscope.cli.output import Progress, open_output
from layerscope.errors import (
    ArchiveError,
    DataRootError,
    EngineUnreachableError,
    StoragePermissionError,
    TargetNotFoundError,
    UsageError,
)
from layerscope.model import Caution, Cautions, Source, Target, TargetKind
from layerscope.report.text import printable

if TYPE_CHECKING:
    from layerscope.report.document import Document
    from layerscope.report.style import Style
    from layerscope.stores.archive import ArchiveStore
    from layerscope.stores.archive_files import Onlooker
    from layerscope.stores.archive_names import ArchiveName
    from layerscope.stores.base import Store

PIPED_WIDTH: Final = 120
WARNINGS_OF_A_KIND: Final = 10
"""Warnings of one kind that are shown on a terminal; JSON holds all."""


class Session:
    """What a command function gets."""

    def __init__(self, common: Common, command: str, explicit: frozenset[str]) -> None:
        self.common = common
        self.explicit = explicit
        """The names of common options that stand on the command line, not in the environment."""
        self.command = command
        self.cautions = Cautions()
        self.progress = Progress(enabled=not (common.no_progress or common.quiet))
        self.source = Source("mount", "overlay", None)
        self._archives: dict[str, ArchiveStore] = {}
        self.onlooker: Onlooker | None = None
        """What sees the files of archives that come through a pipe."""
        self.rereads = False
        """Whether contents of files in archives are read after their trees."""
        if common.json and "format" in explicit and common.format is not Format.JSON:
            raise UsageError(f"--json and --format {common.format} contradict each other", "give one of them")
        self.format = Format.JSON if common.json else common.format

    # -- what is asked about ---------------------------------------------------------------------------------

    @cached_property
    def store(self) -> Store:
        """The store that the options name. Raises LayerscopeError."""
        from layerscope.stores.open import Containerd, open_store

        data_root, host = self.common.data_root, self.common.host
        if {"data_root", "host"} <= self.explicit:
            raise UsageError(
                "--data-root and --host contradict each other",
                "a data root is read without an engine; give one of them",
            )
        if "host" in self.explicit:
            data_root = None  # a flag wins over the environment
        containerd = Containerd(self.common.containerd_root, self.common.namespace, self.common.platform)
        store = open_store(data_root, host, self.common.overlay_options, self.cautions, containerd)
        self.source = store.source
        for part in store.parts:
            self.say(f"reading {part.source.storage} ({part.source.kind}, driver {part.source.driver})")
        return store

    def target(self, text: str, kind: TargetKind | None = None, *, contents: bool = False) -> Target:
        """What the user named: an image or container, an archive, a mount point (``/…``), or ``lowerdir=…``.

        ``contents``: files will be read, which those of a pipe can't be.
        """
        from layerscope.stores.archive_names import image_in, is_piped
        from layerscope.stores.mountinfo import parse_options
        from layerscope.stores.mounts import directories_target, mount_target

        if kind is None and text.startswith("lowerdir="):
            return directories_target(parse_options(self._with_options(text), escaped=False))
        if contents and is_piped(text):
            raise UsageError(
                f"`{self.command}` reads contents, which a pipe does not give a second time",
                "save the archive to a file first",
            )
        self.rereads = self.rereads or contents
        found = self.archive(text)
        if found is None and kind is None and text.startswith("/") and os.path.isdir(text):
            return mount_target(text)
        if found is None:
            target = self._in_store(text, kind)
        elif kind is TargetKind.CONTAINER:
            raise UsageError(f"{text} is an archive, which holds no containers", f"layerscope image {text}")
        else:
            target = image_in(*found)
        self.source = target.source or self.source
        return target

    def _in_store(self, text: str, kind: TargetKind | None) -> Target:
        """An image or container of the store. Where a file that is not there was meant, the error says so."""
        from layerscope.stores.archive_names import ends_as_archive
        from layerscope.stores.base import find_target

        try:
            return find_target(self.store, text, kind)
        except (DataRootError, EngineUnreachableError, StoragePermissionError, TargetNotFoundError) as error:
            if text.startswith(("image:", "container:")) or not ends_as_archive(text):
                raise
            raise TargetNotFoundError(
                f"there is no file {text}", f"it was taken for an image's name, then: {error.message}"
            ) from error

    def refuse_archive(self, text: str, command: str) -> None:
        """Say that a command asks about a host. Raises UsageError for the name of an archive."""
        from layerscope.stores.archive_names import archive_named

        if archive_named(text) is not None:
            raise UsageError(
                f"{text} is an archive; `{command}` asks about the storage of a host",
                "image, files, trace, cat, extract, diff, audit, verify and ls read archives",
            )

    def archive(self, text: str) -> tuple[ArchiveStore, ArchiveName] | None:
        """The archive that the user named, opened once, and the image in it. Raises ArchiveError."""
        from layerscope.stores.archive_names import STDIN, archive_named

        name = archive_named(text)
        if name is None:
            return None
        from layerscope.stores.archive import open_archive
        from layerscope.stores.open import options_asked_for, platform_asked_for

        store = self._archives.get(name.path)
        if store is None:
            pipe = sys.stdin.buffer if name.path == STDIN else None
            options = options_asked_for(False, self.common.overlay_options)
            platform = platform_asked_for(self.common.platform)
            store = open_archive(
                name.path, platform, self.cautions, pipe, self.onlooker, options, reread=self.rereads
            )
            self._archives[name.path] = store
            self.say(f"reading {store.source.archive} ({store.source.driver})")
        self.source = store.source
        return store, name

    def require_archive(self, text: str) -> ArchiveStore:
        """The archive that the user named. Raises ArchiveError."""
        found = self.archive(text)
        if found is None or found[1].image is not None:
            raise ArchiveError(
                f"there is no archive {text!r}", "name a file or directory; one in this directory as ./NAME"
            )
        return found[0]

    def store_of(self, target: Target) -> Store:
        """The store in which ``target`` found something."""
        source = target.source
        return next((store for store in self._archives.values() if store.source == source), None) or self.store

    def _with_options(self, text: str) -> str:
        extra = self.common.overlay_options
        return f"{text},{extra}" if extra else text

    # -- how it is answered ----------------------------------------------------------------------------------

    @property
    def on_terminal(self) -> bool:
        """Whether the answer goes to a terminal."""
        return self.common.output in (None, "-") and sys.stdout.isatty()

    @cached_property
    def style(self) -> Style:
        from layerscope.report.style import Style

        common = self.common
        color = common.color is Color.ALWAYS or (
            common.color is Color.AUTO and self.on_terminal and not os.environ.get("NO_COLOR")
        )
        return Style(
            width=shutil.get_terminal_size((PIPED_WIDTH, 24)).columns,
            color=color,
            exact_bytes=common.exact_bytes,
            truncate=not common.no_trunc,
            directory=os.getcwd(),
        )

    def allow(self, *formats: Format) -> None:
        """Refuse a format that the command does not have; one that the environment wishes for is no order."""
        if self.format not in formats and not {"format", "json"} & self.explicit:
            self.format = Format.TABLE
        if self.format not in formats:
            raise UsageError(f"`{self.command}` has no {self.format} output", f"it has: {', '.join(formats)}")

    def answer(self, table: Callable[[], str], document: Callable[[], Document]) -> None:
        """Print the answer in the format that was asked for."""
        from layerscope.report.document import dump, envelope

        self.progress.clear()
        if self.format is Format.TABLE:
            text = table()
        else:
            body = document()
            text = dump(envelope(self.command, self.source, body, self.cautions))
        with self.output() as stream:
            stream.write(text.encode("utf-8", "backslashreplace") + b"\n")

    @contextmanager
    def output(self) -> Iterator[IO[bytes]]:
        with open_output(self.common.output) as stream:
            yield stream

    def say(self, text: str) -> None:
        """Tell what is done, if the user wants to know."""
        if self.common.verbose:
            self._tell(text)

    def show_cautions(self) -> None:
        """Print the warnings to standard error, of many of one kind the first few."""
        self.progress.clear()
        if self.common.quiet:
            return
        seen: dict[str, int] = {}
        for caution in self.cautions:
            seen[caution.code] = seen.get(caution.code, 0) + 1
            if seen[caution.code] <= WARNINGS_OF_A_KIND:
                self._tell(_caution_line(caution))
        for code, count in seen.items():
            if count > WARNINGS_OF_A_KIND:
                rest = count - WARNINGS_OF_A_KIND
                self._tell(f"warning: {rest:,} more warnings of the kind {code}; --json lists all")

    def _tell(self, text: str) -> None:
        sys.stderr.write(text + "\n")


def _caution_line(caution: Caution) -> str:
    where = f"{printable(caution.path)}: " if caution.path else ""
    return f"warning: {where}{printable(caution.message)}"


@contextmanager
def open_session(common: Common, command: str, explicit: frozenset[str]) -> Iterator[Session]:
    """A session whose warnings are shown when the command ends, however it ends."""
    session = Session(common, command, explicit)
    try:
        yield session
    finally:
        session.show_cautions()
