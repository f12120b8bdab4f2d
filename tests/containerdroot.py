"""Builds a synthetic containerd root with Docker's namespace in it, without containerd and without root.

    root = FakeContainerd(tmp_path / "docker/containerd/daemon", docker=tmp_path / "docker")
    base = root.layer({"etc/passwd": "root", "old": "x"})
    image = root.image("docker.io/library/app:1", [base, root.layer({"old": WHITEOUT})])
    web = root.container("web", image, upper={"etc/passwd": "changed"})
    root.write()

Everything can be changed before ``write``: ``meta`` and ``snapshots`` are the databases as trees of buckets.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.boltwriter import BoltWriter
from tests.dataroot import MADE, Files, digest, put, write

Node = dict[bytes, Any]
"""A bucket that can be changed: values are bytes or buckets."""
PACKED: Final = 1_700_000_000
"""The time of all files in packed layers."""
APP: Final = "docker.io/library/app:1"
SNAPSHOTTER: Final = "io.containerd.snapshotter.v1.overlayfs"


@dataclass(frozen=True)
class Blob:
    digest: str
    path: Path


@dataclass(frozen=True)
class Layer:
    """A layer before it has a place in a chain."""

    files: Files
    diff_id: str
    blob: Blob | None = None
    """Packed, where it was not discarded."""


@dataclass(frozen=True)
class Snapshot:
    key: str
    name: str
    number: int
    fs: Path


@dataclass(frozen=True)
class Image:
    """An image for one platform."""

    manifest: Blob
    config: Blob
    snapshots: tuple[Snapshot, ...]
    """Base first; empty when it is not unpacked."""
    platform: dict[str, str]


class FakeContainerd:
    """A containerd root in the making; ``path`` is its directory, ``docker`` the engine's data root."""

    def __init__(self, path: Path, docker: Path | None = None, namespace: str = "moby") -> None:
        self.path = path
        self.docker = docker
        self.namespace = namespace
        self.numbers = 0
        self.meta: Node = {
            b"version": varint(3),
            namespace.encode(): {
                b"images": {},
                b"snapshots": {b"overlayfs": {}},
                b"content": {b"blob": {}, b"ingests": {}},
                b"leases": {},
            },
        }
        self.snapshots: Node = {}
        self.blobs = path / "io.containerd.content.v1.content/blobs/sha256"
        self.directories = path / SNAPSHOTTER / "snapshots"
        self.meta_path = path / "io.containerd.metadata.v1.bolt/meta.db"
        self.metadata_path = path / SNAPSHOTTER / "metadata.db"
        for made in (self.blobs, self.directories, self.meta_path.parent):
            made.mkdir(parents=True)
        if docker is not None:
            (docker / "containers").mkdir(parents=True)

    def write(self) -> None:
        """Write both databases."""
        BoltWriter(self.meta_path).commit({b"v1": self.meta})
        BoltWriter(self.metadata_path).commit({b"v1": {b"snapshots": self.snapshots, b"parents": {}}})

    # -- content ---------------------------------------------------------------------------------------------

    def blob(self, content: bytes, **labels: str) -> Blob:
        """A blob that the namespace knows. In the names of labels ``__`` stands for a dot."""
        name = hashlib.sha256(content).hexdigest()
        path = self.blobs / name
        path.write_bytes(content)
        blob = Blob(f"sha256:{name}", path)
        self.contents[blob.digest.encode()] = {b"size": varint(len(content)), b"labels": {}}
        for label, value in labels.items():
            self.label(self.contents[blob.digest.encode()], f"containerd.io/{label.replace('__', '.')}", value)
        return blob

    def document(self, value: object, **labels: str) -> Blob:
        return self.blob(json.dumps(value).encode(), **labels)

    @staticmethod
    def label(record: Node, name: str, value: str) -> None:
        record.setdefault(b"labels", {})[name.encode()] = value.encode()

    def layer(self, files: Files) -> Layer:
        return Layer(files, "sha256:" + digest(f"layer {sorted(files.items(), key=str)}"))

    def packed(self, files: Files) -> Layer:
        """A layer whose tar is kept, as a compressed blob; its snapshot is the tar, unpacked. Without whiteouts."""
        tar = layer_tar(files)
        diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
        return Layer(files, diff_id, self.blob(gzip.compress(tar, mtime=0), uncompressed=diff_id))

    def image(
        self,
        names: str | Sequence[str] | None,
        layers: Sequence[Layer],
        *,
        platform: str = "linux/amd64",
        unpack: bool = True,
        config: dict[str, Any] | None = None,
    ) -> Image:
        """An image with these names, in full. ``config`` replaces parts of its configuration."""
        described = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
        snapshots = tuple(self._unpack(layers)) if unpack else ()
        document = self.document(
            {
                **described,
                "created": MADE,
                "config": {"Cmd": ["sh"]},
                "history": [{"created": MADE, "created_by": f"RUN step {index}"} for index in range(len(layers))],
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
                **(config or {}),
            },
            **({"gc__ref__snapshot__overlayfs": snapshots[-1].key} if snapshots else {}),
        )
        manifest = self.document(
            {
                "schemaVersion": 2,
                "config": {"digest": document.digest, "size": document.path.stat().st_size},
                "layers": [
                    {"digest": layer.blob.digest, "size": layer.blob.path.stat().st_size}
                    if layer.blob is not None
                    else {"digest": f"sha256:{digest(layer.diff_id)}", "size": 1}
                    for layer in layers
                ],
            },
            gc__ref__content__config=document.digest,
            **{
                f"gc__ref__content__l__{number}": layer.blob.digest
                for number, layer in enumerate(layers)
                if layer.blob is not None
            },
        )
        image = Image(manifest, document, snapshots, described)
        self.name(names, manifest)
        return image

    def index(self, names: str | Sequence[str] | None, images: Sequence[Image], *more: object) -> Blob:
        """An index of images; ``more`` are further entries."""
        entries = [{"digest": image.manifest.digest, "platform": image.platform} for image in images]
        labels = {f"gc__ref__content__m__{number}": image.manifest.digest for number, image in enumerate(images)}
        index = self.document({"schemaVersion": 2, "manifests": [*entries, *more]}, **labels)
        self.name(names, index)
        return index

    def name(self, names: str | Sequence[str] | None, target: Blob, parent: str | None = None) -> None:
        """Let names stand for a manifest or index."""
        for name in (names,) if isinstance(names, str) else names or ():
            record: Node = {b"target": {b"digest": target.digest.encode(), b"size": varint(1)}}
            if parent is not None:
                record[b"labels"] = {b"org.mobyproject.image.parent": parent.encode()}
            self.images[name.encode()] = record

    # -- snapshots -------------------------------------------------------------------------------------------

    def _unpack(self, layers: Sequence[Layer]) -> list[Snapshot]:
        found: list[Snapshot] = []
        chain = ""
        for layer in layers:
            chain = f"sha256:{digest(f'{chain} {layer.diff_id}')}" if chain else layer.diff_id
            found.append(self.snapshot(chain, found[-1] if found else None, layer.files))
            if layer.blob is not None:
                as_in_tar(found[-1].fs)
        return found

    def snapshot(self, key: str, parent: Snapshot | None, files: Files, *, kind: int = 3) -> Snapshot:
        """A snapshot, unless there is one of that key."""
        if key.encode() in self.keys:
            name = self.keys[key.encode()][b"name"].decode()
            number = int(name.split("/")[1])
            return Snapshot(key, name, number, self.directories / str(number) / "fs")
        self.numbers += 1
        name = f"{self.namespace}/{self.numbers}/{key}"
        made = Snapshot(key, name, self.numbers, self.directories / str(self.numbers) / "fs")
        made.fs.mkdir(parents=True)
        if kind == 2:
            (made.fs.parent / "work").mkdir()
        for path, file in files.items():
            put(made.fs / path, file)
        own: Node = {b"id": uvarint(self.numbers), b"kind": bytes([kind])}
        named: Node = {b"name": name.encode()}
        if kind == 3:
            own[b"size"] = varint(4096 * (1 + len(files)))
        if parent is not None:
            own[b"parent"], named[b"parent"] = parent.name.encode(), parent.key.encode()
        self.snapshots[name.encode()], self.keys[key.encode()] = own, named
        return made

    def container(
        self, name: str, image: Image, *, upper: Files | None = None, **state: Any
    ) -> tuple[str, Snapshot]:
        """A Docker container, stopped unless ``state`` says otherwise; gives its id and its snapshot."""
        assert self.docker is not None
        identifier = digest(f"container {name}")
        below = image.snapshots[-1] if image.snapshots else None
        init = self.snapshot(f"{identifier}-init", below, {".dockerenv": ""})
        top = self.snapshot(identifier, init, upper or {}, kind=2)
        self.lease(identifier, (identifier, f"{identifier}-init"))
        write(
            self.docker / "containers" / identifier / "config.v2.json",
            json.dumps(
                {
                    "ID": identifier,
                    "Name": f"/{name}",
                    "Driver": "overlayfs",
                    "Image": image.manifest.digest,
                    "Created": MADE,
                    "Config": {"Image": name},
                    "State": {"Running": False, "StartedAt": MADE, "FinishedAt": MADE, **state},
                }
            ),
        )
        return identifier, top

    @property
    def images(self) -> Node:
        found: Node = self.meta[self.namespace.encode()][b"images"]
        return found

    def lease(self, name: str, snapshots: Sequence[str] = (), blobs: Sequence[str] = (), **labels: str) -> None:
        """A lease on snapshots, by their keys, and on blobs, by their digests."""
        record: Node = {b"createdat": b"", b"labels": {}}
        record[b"snapshots"] = {b"overlayfs": {key.encode(): b"" for key in snapshots}}
        record[b"content"] = {blob.encode(): b"" for blob in blobs}
        for label, value in labels.items():
            self.label(record, f"containerd.io/{label.replace('__', '.')}", value)
        self.leases[name.encode()] = record

    @property
    def leases(self) -> Node:
        found: Node = self.meta[self.namespace.encode()][b"leases"]
        return found

    @property
    def contents(self) -> Node:
        """The records of blobs, by digest."""
        found: Node = self.meta[self.namespace.encode()][b"content"][b"blob"]
        return found

    @property
    def keys(self) -> Node:
        """The snapshots of the namespace, by the keys of its clients."""
        found: Node = self.meta[self.namespace.encode()][b"snapshots"][b"overlayfs"]
        return found


def layer_tar(files: Files) -> bytes:
    """A tar as Docker makes them, of files and directories that root made at one time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        parents = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
        for path in sorted({*files, *parents}):
            info = tarfile.TarInfo(path)
            info.mtime, info.mode = PACKED, 0o755 if path in parents else 0o644
            content = files.get(path, b"")
            assert isinstance(content, (str, bytes))
            data = content.encode() if isinstance(content, str) else content
            info.type = tarfile.DIRTYPE if path in parents else tarfile.REGTYPE
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def as_in_tar(directory: Path) -> None:
    """Give what is below a directory the attributes that ``layer_tar`` gives it."""
    for path in sorted(directory.rglob("*"), reverse=True):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (PACKED, PACKED))


def uvarint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def varint(number: int) -> bytes:
    return uvarint(number << 1 if number >= 0 else (-number << 1) - 1)
