"""Archives of images made in Python: as `docker save` wrote them before 25, and as OCI layouts; packed or not.

archive = saved({"app:1": [Tar().file("a", "x").bytes()]})      # bytes of a tar
layout = saved_oci({"app:1": [...]}, pack=gzip.compress)
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.dockerd import add
from tests.tarlayers import Tar

Images = Mapping[str, Sequence[bytes]]
"""By reference: the tars of the layers, base first."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def config_of(layers: Sequence[bytes], **more: Any) -> bytes:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}" for layer in layers]},
        "history": [{"created_by": f"step {index}"} for index in range(len(layers))],
        **more,
    }
    return json.dumps(config).encode()


def plain(data: bytes) -> bytes:
    return data


def saved_files(images: Images, **config: Any) -> dict[str, bytes]:
    """The files that Docker before 25 writes."""
    files: dict[str, bytes] = {}
    manifest = []
    for name, layers in images.items():
        content = config_of(layers, **config)
        names = [f"{digest(layer)[::-1]}/layer.tar" for layer in layers]
        files.update(zip(names, layers, strict=True))
        files[f"{digest(content)}.json"] = content
        manifest.append({"Config": f"{digest(content)}.json", "RepoTags": [name], "Layers": names})
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def oci_files(
    images: Images, pack: Callable[[bytes], bytes] = plain, *, docker: bool = False, **config: Any
) -> dict[str, bytes]:
    """The files of an OCI layout; with ``docker`` also the list that Docker since 25 adds."""
    files: dict[str, bytes] = {}
    manifests, listed = [], []

    def blob(content: bytes) -> dict[str, Any]:
        files[f"blobs/sha256/{digest(content)}"] = content
        return {"digest": f"sha256:{digest(content)}", "size": len(content)}

    for name, layers in images.items():
        own = blob(config_of(layers, **config))
        blobs = [blob(pack(layer)) for layer in layers]
        manifest = blob(json.dumps({"schemaVersion": 2, "config": own, "layers": blobs}).encode())
        annotations = {"io.containerd.image.name": f"docker.io/{name}"}
        manifests.append({**manifest, "annotations": annotations})
        names = ["blobs/" + entry["digest"].replace(":", "/") for entry in (own, *blobs)]
        listed.append({"Config": names[0], "RepoTags": [name], "Layers": names[1:]})
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    if docker:
        files["manifest.json"] = json.dumps(listed).encode()
    return files


def tar_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            add(tar, name, content)
    return buffer.getvalue()


def write_files(files: Mapping[str, bytes], top: Path) -> Path:
    for name, content in files.items():
        place = top / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return top


def layer_of(directory: Path, opaque: str) -> bytes:
    """A layer's directory as a layer's tar; ``opaque`` is the xattr that marks opaque directories."""
    tar = Tar()
    inodes: dict[int, str] = {}
    for root, directories, files in os.walk(directory):
        directories.sort()
        for name in sorted([*directories, *files]):
            place = Path(root, name)
            path = place.relative_to(directory).as_posix()
            status = place.lstat()
            common = {
                "mode": stat.S_IMODE(status.st_mode),
                "uid": status.st_uid,
                "gid": status.st_gid,
                "pax_headers": {"mtime": f"{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09d}"},
            }
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                tar.whiteout(path)
            elif not stat.S_ISDIR(status.st_mode) and status.st_ino in inodes:
                tar.hard_link(path, inodes[status.st_ino])
            elif stat.S_ISDIR(status.st_mode):
                tar.directory(path, **common)
                if opaque in os.listxattr(place) and os.getxattr(place, opaque) == b"y":
                    tar.opaque(path)
            elif stat.S_ISLNK(status.st_mode):
                tar.add(path, tarfile.SYMTYPE, linkname=os.readlink(place), **common)
            elif stat.S_ISFIFO(status.st_mode):
                tar.add(path, tarfile.FIFOTYPE, **common)
            else:
                tar.file(path, place.read_bytes(), **common)
            inodes.setdefault(status.st_ino, path)
    return tar.bytes()
