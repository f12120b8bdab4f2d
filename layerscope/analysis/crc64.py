"""CRC-64/GO-ISO, as tar-split keeps it of every file. Pure, and fast without a table.

The polynomial x⁶⁴ + x⁴ + x³ + x + 1 has few terms, and squaring keeps that: modulo it, x^(64s) equals
x^(4s) + x^(3s) + x^s + 1 for every power of two s. So a message as one large integer is halved again and again by
moving its first part onto the rest with four shifts, which Python does at the speed of memory.
"""

from __future__ import annotations

from typing import Final

_ONES: Final = (1 << 64) - 1


class Crc64:
    """The checksum of what was given to ``update``, so far. Give it large pieces: they cost less a byte."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = _ONES

    def update(self, data: bytes | bytearray | memoryview) -> None:
        if len(data):
            # Reflected: the first bit of the message is the lowest one, and 64 zero bits are appended.
            message = int.from_bytes(data, "little") ^ self._state
            self._state = _reduce(message, 8 * len(data) + 64)

    @property
    def value(self) -> int:
        return self._state ^ _ONES

    def digest(self) -> bytes:
        """8 bytes, big-endian, as tar-split has them."""
        return self.value.to_bytes(8, "big")


def _reduce(message: int, length: int) -> int:
    """The remainder of a message of ``length`` bits whose bit 0 is the coefficient of the highest power."""
    while length > 64:
        step = 1 << ((length - 1) // 64).bit_length() - 1
        period = 64 * step
        # As many of the highest powers as can be moved down by a period and still lie in the rest, spread out.
        moved = min(length - period, period - 4 * step)
        first = message & ((1 << moved) - 1)
        lowest = period - moved
        message >>= moved
        message ^= first << lowest ^ first << lowest - step
        message ^= first << lowest - 3 * step ^ first << lowest - 4 * step
        length -= moved
    return message
