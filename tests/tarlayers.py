"""Layers of a synthetic data root with their tar: unpacked as the engine does it, and recorded by tar-split.

tar = Tar().file("etc/passwd", "root").whiteout("old").bytes()
image = tar_image(root, "app:1", [tar])
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tests.dataroot import Content, FakeRoot, StoredImage

MTIME = 1_700_000_000
POLYNOMIAL = 0xD800000000000000


def _of_byte(crc: int) -> int:
    for _ in range(8):
        crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
    return crc


TABLE = [_of_byte(byte) for byte in range(256)]


@cache
def crc64(data: bytes) -> int:
    """CRC-64/GO-ISO, byte by byte, as everybody does it."""
    crc = (1 << 64) - 1
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ ((1 << 64) - 1)


class Tar:
    """A tar in the making; owners are those of this process, so that an ordinary user can unpack it."""

    def __init__(self, format: int = tarfile.PAX_FORMAT) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.TarFile(fileobj=self.buffer, mode="w", format=format)

    def add(self, name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any) -> Tar:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.mtime, info.mode = kind, len(content), MTIME, 0o644
        info.uid, info.gid = os.geteuid(), os.getegid()
        for field, value in fields.items():
            setattr(info, field, value)
        self.tar.addfile(info, io.BytesIO(content))
        return self

    def file(self, name: str, content: str | bytes, **fields: Any) -> Tar:
        return self.add(name, content=content.encode() if isinstance(content, str) else content, **fields)

    def directory(self, name: str, **fields: Any) -> Tar:
        return self.add(name, tarfile.DIRTYPE, **{"mode": 0o755, **fields})

    def symlink(self, name: str, target: str) -> Tar:
        return self.add(name, tarfile.SYMTYPE, linkname=target, mode=0o777)

    def hard_link(self, name: str, target: str, **fields: Any) -> Tar:
        return self.add(name, tarfile.LNKTYPE, linkname=target, **fields)

    def whiteout(self, name: str) -> Tar:
        parent, _, base = name.rpartition("/")
        return self.file(f"{parent}/.wh.{base}".lstrip("/"), b"", mode=0o600)

    def opaque(self, name: str) -> Tar:
        return self.file(f"{name}/.wh..wh..opq", b"", mode=0o755)

    def bytes(self) -> bytes:
        self.tar.close()
        return self.buffer.getvalue()


def tar_split(tar: bytes) -> bytes:
    """The lines that the engine writes for a tar, not packed."""
    entries: list[dict[str, Any]] = []
    position = 0

    def segment(end: int) -> None:
        entries.append(
            {"type": 2, "payload": base64.b64encode(tar[position:end]).decode(), "position": len(entries)}
        )

    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        for member in members:
            segment(member.offset_data)
            size = member.size if member.isreg() else 0
            content = tar[member.offset_data : member.offset_data + size]
            name = member.name + ("/" if member.isdir() else "")
            entry: dict[str, Any] = {"type": 1, "size": member.size, "position": len(entries)}
            if not member.size:
                entry["payload"] = None
            else:
                entry["payload"] = base64.b64encode(crc64(content).to_bytes(8, "big")).decode()
            if name.isprintable() or name.isascii():
                entry["name"] = name
            else:
                entry["name_raw"] = base64.b64encode(os.fsencode(name)).decode()
            entries.append(entry)
            position = member.offset_data + size
    segment(len(tar))
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def tar_image(
    root: FakeRoot, name: str | None, tars: Sequence[bytes], *, buildkit: bool = False, **more: Any
) -> StoredImage:
    """An image of these layers, base first, unpacked and recorded."""
    contents = [Content({}, "sha256:" + hashlib.sha256(tar).hexdigest(), buildkit) for tar in tars]
    image = root.image(name, contents, **more)
    for layer, tar in zip(image.layers, tars, strict=True):
        if not (layer.record / "tar-split.json.gz").exists():
            unpack(tar, layer.directory.diff)
            write_tar_split(layer.record, tar_split(tar))
    return image


def write_tar_split(record: Path, lines: bytes) -> None:
    (record / "tar-split.json.gz").write_bytes(gzip.compress(lines))


def family() -> str:
    """Where marks are that layerscope reads in a data root of this user."""
    return "trusted.overlay." if os.geteuid() == 0 else "user.overlay."


def unpack(tar: bytes, diff: Path) -> None:
    """What moby's archive package does, with overlayfs' whiteouts; times last."""
    times: list[tuple[Path, int]] = []
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        for member in members:
            path = diff / member.name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.name == ".wh..wh..opq":
                os.setxattr(path.parent, family() + "opaque", b"y")
                continue
            if path.name.startswith(".wh."):
                os.mknod(path.with_name(path.name[4:]), stat.S_IFCHR, 0)
                continue
            _make(member, members, path, diff)
            os.lchown(path, member.uid, member.gid)
            if not member.issym():
                path.chmod(member.mode)
            for key, value in member.pax_headers.items():
                if key.startswith("SCHILY.xattr."):
                    os.setxattr(path, key.removeprefix("SCHILY.xattr."), os.fsencode(value))
            seconds, _, fraction = str(member.pax_headers.get("mtime", int(member.mtime))).partition(".")
            times.append((path, int(seconds) * 10**9 + int(fraction.ljust(9, "0") if fraction else 0)))
    for path, time in times:
        os.utime(path, ns=(time, time), follow_symlinks=False)


def _make(member: tarfile.TarInfo, members: tarfile.TarFile, path: Path, diff: Path) -> None:
    if member.isdir():
        path.mkdir(exist_ok=True)
    elif member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        path.hardlink_to(diff / member.linkname)
    elif member.isfifo():
        os.mkfifo(path)
    elif member.ischr() or member.isblk():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(path, kind, os.makedev(member.devmajor, member.devminor))
    else:
        content = members.extractfile(member)
        assert content is not None
        path.write_bytes(content.read())
