"""Opens what is only read: without blocking, without becoming a terminal's owner, without touching access times."""

from __future__ import annotations

import errno
import os
from typing import Final

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def open_untouched(name: str, flags: int, dir_fd: int | None = None) -> int:
    """Open a file or directory; its access time stays where we may ask for that (owner or CAP_FOWNER).

    Raises OSError.
    """
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        return os.open(name, flags, dir_fd=dir_fd)
