"""Bytes in packed sources: the same anywhere as in the plain ones, whatever they are packed with; never a bomb."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
from collections.abc import Callable
from typing import Any

import pytest

from layerscope.tars import sources
from layerscope.tars.packing import packing_of, zstd
from layerscope.tars.sources import PIECE_BYTES, PackedError, Part, Sequential, Source, Unpacked, pieces, unpacked

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


class Bytes:
    """Bytes in memory as a source, which counts what is read of it."""

    is_cheap = True

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read = 0

    def pread(self, size: int, offset: int) -> bytes:
        found = self.data[offset : offset + size]
        self.read += len(found)
        return found


def plain(size: int) -> bytes:
    return random.Random(1).randbytes(size // 2) + bytes(size // 4) + random.Random(2).randbytes(size // 4)


def whole(source: Source) -> bytes:
    return b"".join(pieces(source))


@pytest.fixture(params=PACKERS)
def pack(request: pytest.FixtureRequest) -> Callable[[bytes], bytes]:
    return PACKERS[request.param]


def test_reads_anywhere_as_in_the_plain_bytes(
    pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_FIRST_STEP", 100_000)
    monkeypatch.setattr(sources, "_MOST_STATES", 4)
    data = plain(3_000_000)
    packed = pack(data)
    source = unpacked(Bytes(packed), len(packed))
    chance = random.Random(3)
    for _ in range(40):
        offset, size = chance.randrange(len(data)), chance.randrange(1, 400_000)
        got = source.pread(size, offset)
        assert got
        assert data.startswith(got, offset)
    assert whole(source) == data
    assert source.pread(10, len(data)) == b""


def test_gzip_goes_on_from_a_state_that_it_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_FIRST_STEP", 1 << 20)
    data = random.Random(1).randbytes(20 << 20)
    packed = Bytes(gzip.compress(data, 1))
    source = unpacked(packed, len(packed.data))
    assert whole(source) == data
    packed.read = 0
    assert source.pread(100, 10 << 20) == data[10 << 20 :][:100]
    assert packed.read < 3 << 20


def test_several_streams_are_read_one_after_the_other(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(b"a" * 1000) + pack(b"") + pack(b"b" * 1000)
    assert whole(unpacked(Bytes(packed), len(packed))) == b"a" * 1000 + b"b" * 1000


def test_skippable_frames_of_zstd_hold_nothing() -> None:
    packed = b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd.compress(b"content") + b"\x5f\x2a\x4d\x18\x01\0\0\0x"
    assert whole(unpacked(Bytes(packed), len(packed))) == b"content"


def test_what_is_not_packed_is_read_as_it_is() -> None:
    plain_source = Bytes(b"plain")
    assert packing_of(b"plain") is None
    assert unpacked(plain_source, 5) is plain_source


def test_a_part_ends_where_it_ends() -> None:
    part = Part(Bytes(b"0123456789"), 2, 5)
    assert part.pread(100, 0) == b"23456"
    assert part.pread(100, 4) == b"6"
    assert part.pread(100, 5) == part.pread(100, 50) == b""


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:10] + b"\xff" * 30 + data[40:]])
def test_damage_is_an_error_that_says_so(pack: Callable[[bytes], bytes], damage: Any) -> None:
    packed = damage(pack(" ".join(map(str, range(20_000))).encode()))
    with pytest.raises(PackedError, match=r"damaged|too early"):
        whole(unpacked(Bytes(packed), len(packed)))


def test_what_lies_before_damage_can_be_read_again(pack: Callable[[bytes], bytes]) -> None:
    data = plain(2_000_000)
    packed = pack(data)[:-20]
    source = unpacked(Bytes(packed), len(packed))
    for _ in range(3):
        for offset in (0, 300_000, 600_000):
            assert data.startswith(source.pread(1000, offset), offset)
        with pytest.raises(PackedError):
            source.pread(1000, len(data))


def test_a_pipe_is_read_forwards_only() -> None:
    stream = io.BytesIO(plain(1_000_000))
    source = Sequential(stream.read)
    assert source.pread(10, 0) == source.pread(10, 0)
    assert source.pread(10, 900_000) == stream.getvalue()[900_000:900_010]
    with pytest.raises(OSError, match="only once"):
        source.pread(10, 0)
    assert source.pread(10, 1_000_000) == b""


def test_something_else_after_the_data_is_an_error(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(b"x" * 100) + b"something else"
    with pytest.raises(PackedError, match=r"follows|damaged"):
        whole(unpacked(Bytes(packed), len(packed)))


def test_a_bomb_is_refused_before_it_unfolds(
    pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "RATIO_FROM", 1 << 20)
    packed = pack(bytes(30 << 20))
    source = unpacked(Bytes(packed), len(packed))
    assert isinstance(source, Unpacked)
    with pytest.raises(PackedError, match="250 times its size"):
        for piece in pieces(source):
            assert len(piece) <= PIECE_BYTES
