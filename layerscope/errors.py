"""The error tree. Every error names the thing that failed and says what to do next.

    LayerscopeError                 exit 3
    ├── UsageError                  exit 2   options that contradict each other, a bad value
    │   └── RulesError              exit 2   a rules file that cannot be used; names file, rule and reason
    ├── TargetNotFoundError                  no image, container or mount of that name
    ├── AmbiguousTargetError                 a prefix or a name that fits several
    ├── PathNotFoundError                    no layer of the target has that path
    ├── EngineUnreachableError               no Docker engine answers
    ├── EngineError                          the engine answered with an error
    ├── StoragePermissionError               the storage exists and may not be read
    ├── DataRootError                        the directory is no Docker data root
    ├── ArchiveError                         no archive of images, or a damaged one
    ├── UnsupportedStoreError                a storage driver or image store that cannot be read yet
    ├── CorruptStoreError                    a record on disk that cannot be what it claims to be
    ├── StoreBusyError                       a database that is written to faster than it can be read
    ├── OverlayOptionsError                  layer directories or mount options that cannot be a stack
    ├── OutputError                          the output or extraction target cannot be written
    └── WorkerDiedError                      a worker process was killed, or ran out of memory

This module does no I/O and imports nothing of the package.
"""

from __future__ import annotations

import re
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes; the README lists the same table."""

    OK = 0
    GATE = 1
    USAGE = 2
    FAILED = 3
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class LayerscopeError(Exception):
    """An error that ends the command: one line that names the thing, one hint that says what to do."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[LayerscopeError], tuple[str, str | None]]:
        return (type(self), (self.message, self.hint))  # so that the hint comes back from a worker process

    @property
    def slug(self) -> str:
        """The stable name of this kind of error, in kebab case: ``target-not-found``."""
        name = type(self).__name__.removesuffix("Error")
        return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class UsageError(LayerscopeError):
    exit_code = ExitCode.USAGE


class RulesError(UsageError):
    pass


class TargetNotFoundError(LayerscopeError):
    pass


class AmbiguousTargetError(LayerscopeError):
    pass


class PathNotFoundError(LayerscopeError):
    pass


class EngineUnreachableError(LayerscopeError):
    pass


class EngineError(LayerscopeError):
    pass


class StoragePermissionError(LayerscopeError):
    pass


class DataRootError(LayerscopeError):
    pass


class ArchiveError(LayerscopeError):
    pass


class UnsupportedStoreError(LayerscopeError):
    pass


class CorruptStoreError(LayerscopeError):
    pass


class StoreBusyError(LayerscopeError):
    pass


class OverlayOptionsError(LayerscopeError):
    pass


class OutputError(LayerscopeError):
    pass


class WorkerDiedError(LayerscopeError):
    pass
