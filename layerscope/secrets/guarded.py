"""Scans files that may be made to break a parser: such a file is omitted, and never the end of an audit."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.secrets.engine import FileScan, Reader, Scanner
from layerscope.secrets.match import Omission
from layerscope.secrets.pattern import Data


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


def _failed(path: str, error: Exception) -> FileScan:
    return FileScan((), (Omission(path, f"the scanner failed: {type(error).__name__}"),))
