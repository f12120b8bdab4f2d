"""Verifies one layer of the containerd image store: its blob by its digests, and the snapshot by the blob's tar.

The blob is read once, front to back: hashed as it is, unpacked, hashed as a tar, and each entry and each file's
content is compared with the snapshot on the way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from layerscope.analysis.attributes import Difference, Problem
from layerscope.analysis.entry_check import EntryCheck, Expectations, Findings, Place
from layerscope.model import Tick, no_tick
from layerscope.reading import FILE, open_untouched
from layerscope.stores.tarsplit import Member
from layerscope.tars.sources import PIECE_BYTES, PackedError, Sequential, Source, unpacked
from layerscope.tars.stream import DamagedTarError, TarMember, TarStream

_TICK = 512


class PackedCheck:
    """The check of one layer; ``findings`` says what of the snapshot differs.

    Raises OSError when the snapshot's directory can't be opened, or the blob can't be read.
    """

    def __init__(
        self, fd: int, diff_dir: str | None, expectations: Expectations, *, content: bool, tick: Tick = no_tick
    ) -> None:
        """``fd`` is the open blob. Without a ``diff_dir`` it alone is checked, without ``content`` no file."""
        self.fd = fd
        self.content = content
        self.tick = tick
        self.findings = Findings()
        self.entries = 0
        self.tar_bytes = 0
        self.damage: str | None = None
        """Why the tar does not go on; what follows is not compared then."""
        self._blob = hashlib.sha256()
        self._tar = hashlib.sha256()
        self._entries = EntryCheck(diff_dir, expectations, self.findings) if diff_dir is not None else None

    @property
    def blob_digest(self) -> str:
        """``sha256:…`` of the blob."""
        return f"sha256:{self._blob.hexdigest()}"

    @property
    def diff_id(self) -> str | None:
        """``sha256:…`` of the tar; None when it can't be unpacked to its end."""
        return f"sha256:{self._tar.hexdigest()}" if self.damage is None else None

    def run(self) -> None:
        """Read the blob to its end, whatever is wrong with it."""
        try:
            if self._entries is None:
                self._compare(None)
            else:
                with self._entries.working():
                    self._compare(self._entries)
                    if self.damage is None:
                        self._entries.finish()
        finally:
            while self._read(PIECE_BYTES):
                pass
        self.tick(self.entries % _TICK)

    def _compare(self, entries: EntryCheck | None) -> None:
        try:
            source = unpacked(Sequential(self._read), os.fstat(self.fd).st_size)
            stream = TarStream(self._pieces(source))
            for member in stream.members():
                self.entries += 1
                if not self.entries % _TICK:
                    self.tick(_TICK)
                place = entries.check(_as_member(member)) if entries is not None else None
                if place is not None and self.content and member.size_bytes:
                    self._compare_content(place, member, stream)
            if not self.tar_bytes:
                self.damage = "it is empty"  # Go's reader, too, takes nothing for an empty tar; no layer is one
        except (DamagedTarError, PackedError) as error:
            self.damage = str(error) if isinstance(error, DamagedTarError) else str(error.strerror)

    def _read(self, size: int) -> bytes:
        data = os.read(self.fd, size)
        if self.content:
            self._blob.update(data)
        return data

    def _pieces(self, source: Source) -> Iterator[bytes]:
        while data := source.pread(PIECE_BYTES, self.tar_bytes):
            self.tar_bytes += len(data)
            if self.content:
                self._tar.update(data)
            yield data

    def _compare_content(self, place: Place, member: TarMember, stream: TarStream) -> None:
        if member.header.is_sparse:
            self.findings.unsettle(f"the tar has {place.path!r} without its holes (GNU sparse): not compared")
            return
        try:
            fd = open_untouched(place.name, FILE, place.directory.fd())
        except OSError as error:
            self.findings.unsettle(f"{place.path!r} can't be read: {error.strerror}")
            return
        try:
            offset = 0
            for chunk in stream.content():
                found = _exactly(fd, len(chunk))
                if found != chunk:
                    self.findings.add([_content_difference(place.path, offset, chunk, found)])
                    return
                offset += len(chunk)
        except DamagedTarError:
            raise
        except OSError as error:
            if isinstance(error, PackedError):
                raise
            self.findings.unsettle(f"{place.path!r} can't be read: {error.strerror}")
        finally:
            os.close(fd)


def _as_member(member: TarMember) -> Member:
    size = member.size_bytes if member.real_bytes is None else member.real_bytes
    return Member(member.name, member.header, size, b"")


def _exactly(fd: int, size: int) -> bytes:
    """So many bytes; fewer where the file became shorter."""
    data = os.read(fd, size)
    while data and len(data) < size and (more := os.read(fd, size - len(data))):
        data += more
    return data


def _content_difference(path: str, offset: int, expected: bytes, found: bytes) -> Difference:
    """The first byte that is another."""
    at = next(
        (index for index, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other), None
    )
    if at is None:
        return Difference(path, Problem.CONTENT, f"a byte at {offset + len(found)}", "its end")
    return Difference(path, Problem.CONTENT, f"{expected[at]:#04x} at {offset + at}", f"{found[at]:#04x}")
