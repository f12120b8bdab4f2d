"""Lines and columns of offsets, in a file that is read in slices."""

from __future__ import annotations

from typing import Final

from layerscope.secrets.pattern import Data

_SAMPLE: Final = 8000
"""A zero byte among so many first ones makes a file binary (as git sees it), unless it is UTF-16."""


class Lines:
    """Counts lines while slices of a file go by."""

    def __init__(self, first: Data) -> None:
        self._binary = _is_binary(bytes(first[:_SAMPLE]))
        self._lines = 0
        self._line_start = 0  # of the line that holds the data's first byte: 0 or, in an earlier slice, less
        self._position = 0

    def place(self, data: Data, offset: int, unit: int) -> tuple[int | None, int | None]:
        """Line and column of an offset in the data, from 1, a column being ``unit`` bytes wide.

        None in a binary file.
        """
        if self._binary:
            return None, None
        if offset < self._position:
            self._lines -= data.count(b"\n", offset, self._position)
        else:
            self._lines += data.count(b"\n", self._position, offset)
        self._position = offset
        newline = data.rfind(b"\n", 0, offset)
        start = newline + 1 if newline >= 0 else self._line_start
        return self._lines + 1, (offset - start) // unit + 1

    def advance(self, data: Data, count: int) -> None:
        """Leave the first ``count`` bytes of the data behind."""
        if self._binary:
            return
        self.place(data, count, 1)
        newline = data.rfind(b"\n", 0, count)
        self._line_start = (newline + 1 if newline >= 0 else self._line_start) - count
        self._position = 0


def _is_binary(sample: bytes) -> bool:
    """Whether there are zero bytes, and not at every second place as in UTF-16 text."""
    odd, even = sample[1::2].count(0), sample[::2].count(0)
    return odd + even > 0 and not (max(odd, even) > len(sample) // 4 and min(odd, even) == 0)
