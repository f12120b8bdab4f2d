"""Scans files that may be made to break a parser: such a file is omitted, and never the end of an audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from layerscope.secrets.engine import FileScan, Reader, Scanner
from layerscope.secrets.match import Omission
from layerscope.secrets.pattern import Data

SMALL_BYTES: Final = 1 << 20
"""Files up to this size are held in memory, and scanned many at a time."""
BATCH_BYTES: Final = 8 << 20
BATCH_FILES: Final = 1000


def scan_each(scanner: Scanner, files: Sequence[tuple[str, Data]]) -> list[FileScan]:
    """``Scanner.scan_small`` for files given as path and content."""
    try:
        return scanner.scan_small(files)
    except Exception as error:
        if len(files) > 1:  # one of them is to blame
            return [scan_each(scanner, [file])[0] for file in files]
        return [_failed(files[0][0], error)]


def scan_stream(scanner: Scanner, reader: Reader, path: str) -> FileScan:
    """``Scanner.scan_file``. Raises OSError."""
    try:
        return scanner.scan_file(reader, path)
    except OSError:
        raise
    except Exception as error:
        return _failed(path, error)


class Batch:
    """Small files, scanned many at a time; results go where each file says, some of them only after ``finish``."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._waiting: list[tuple[str, bytes, Callable[[FileScan], None]]] = []
        self._waiting_bytes = 0

    def add(self, path: str, content: bytes, take: Callable[[FileScan], None]) -> None:
        self._waiting.append((path, content, take))
        self._waiting_bytes += len(content)
        if self._waiting_bytes > BATCH_BYTES or len(self._waiting) >= BATCH_FILES:
            self.finish()

    def finish(self) -> None:
        """Scan what waits."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        scans = scan_each(self._scanner, [(path, content) for path, content, _ in waiting])
        for (_, _, take), scan in zip(waiting, scans, strict=True):
            take(scan)


def _failed(path: str, error: Exception) -> FileScan:
    return FileScan((), (Omission(path, f"the scanner failed: {type(error).__name__}"),))
