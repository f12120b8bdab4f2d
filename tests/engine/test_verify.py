"""``verify`` on a real engine: `docker save` says what each layer's tar is, for every way to make a layer."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli import Cli, validator
from tests.dockerd import BASE, Engine, add, busybox_tar

STEPS = """
FROM BASE
RUN mkdir -p /app/conf /app/data && echo one > /app/conf/one && ln /app/conf/one /app/conf/hard \
 && ln -s one /app/conf/soft && dd if=/dev/zero of=/app/data/big bs=1024 count=3000 && mknod /app/null c 1 3 \
 && mkfifo /app/fifo && chmod 4755 /app/conf/one && chown 12:34 /app/data && truncate -s 100000 /app/holes
RUN rm /app/conf/hard && rm -r /app/data && mkdir /app/data && echo new > /app/data/new && rm /etc/passwd
RUN touch -d '1960-01-01 00:00:00' /app/old && setfattr -n user.note -v x /app/old || touch /app/old
"""


def saved(engine: Engine, image: str) -> list[str]:
    """The digest of each layer's tar in a `docker save` archive, base first."""
    archive = io.BytesIO(engine.docker_bytes("save", image))
    with tarfile.open(fileobj=archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        (entry,) = json.load(manifest)
        found = []
        for name in entry["Layers"]:
            layer = tar.extractfile(name)
            assert layer is not None
            found.append("sha256:" + hashlib.file_digest(layer, "sha256").hexdigest())  # type: ignore[arg-type]
    return found


def verify(cli: Cli, *arguments: str, code: int = 0) -> dict[str, Any]:
    result = cli("verify", *arguments, "--json")
    assert result.code == code, result.snapshot()
    validator("verify").validate(result.json)
    answer: dict[str, Any] = result.json
    return answer


def agree(engine: Engine, cli: Cli, image: str) -> None:
    answer = verify(cli, image)
    assert [layer["found_diff_id"] for layer in answer["layers"]] == saved(engine, image)
    assert {layer["verdict"] for layer in answer["layers"]} == {"ok"}
    assert answer["warnings"] == []


def test_the_specimen_is_what_docker_save_writes(engine: Engine, cli: Cli, specimen: str) -> None:
    agree(engine, cli, specimen)


@pytest.mark.parametrize("buildkit", [False, True], ids=["classic", "buildkit"])
def test_built_layers_are_what_docker_save_writes(engine: Engine, cli: Cli, buildkit: bool) -> None:
    agree(engine, cli, engine.build(f"layerscope-test/verify:{buildkit:d}", STEPS, buildkit=buildkit))


def hostile_tar(format: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        add(tar, "./", kind=tarfile.DIRTYPE, mode=0o755)
        add(tar, "./etc", kind=tarfile.DIRTYPE, mode=0o700)
        add(tar, "./etc/x", b"x", mode=0o4755)
        add(tar, "implied/by/this", b"y")
        add(tar, "long/" + "n" * 90 + "/" + "m" * 90, b"long", mtime=-5 if format != tarfile.USTAR_FORMAT else 5)
        add(tar, "link", kind=tarfile.SYMTYPE, link="t" * 99)
        add(tar, "hard", kind=tarfile.LNKTYPE, link="./etc/x", mode=0o4755)
        info = tarfile.TarInfo("owned")
        info.uid, info.gid, info.mtime = 70_000, 80_000, 1_700_000_000
        if format == tarfile.PAX_FORMAT:
            info.pax_headers = {"mtime": "1700000000.123456789", "SCHILY.xattr.user.note": "x"}
        tar.addfile(info)
    return buffer.getvalue()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_imported_layers_are_what_docker_save_writes(engine: Engine, cli: Cli, format: int) -> None:
    tag = f"layerscope-test/imported:{format}"
    engine.docker("import", "-", tag, stdin=hostile_tar(format))
    engine.images.append(tag)
    agree(engine, cli, tag)


def test_an_archive_of_git_is_what_docker_save_writes(engine: Engine, cli: Cli) -> None:
    """It begins with a global PAX header, which is an entry of tar-split and no file."""
    header = tarfile.TarInfo.create_pax_global_header({"comment": "c" * 40})
    engine.docker("import", "-", "layerscope-test/imported:git", stdin=header + busybox_tar())
    engine.images.append("layerscope-test/imported:git")
    agree(engine, cli, "layerscope-test/imported:git")


def test_loaded_layers_are_what_docker_save_writes(engine: Engine, cli: Cli) -> None:
    """With whiteouts, which only load and pull unpack."""
    layers = [busybox_tar(), b""]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "etc/.wh.passwd")
        add(tar, "tmp/.wh..wh..opq")
        add(tar, "tmp/new", b"x")
    layers[1] = buffer.getvalue()
    tag = "layerscope-test/loaded:1"
    digests = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": digests}}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        add(tar, "config.json", json.dumps(config).encode())
        manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": ["0.tar", "1.tar"]}]
        add(tar, "manifest.json", json.dumps(manifest).encode())
        for index, layer in enumerate(layers):
            add(tar, f"{index}.tar", layer)
    engine.load(archive.getvalue(), tag)
    agree(engine, cli, tag)


def test_committed_layers_are_what_docker_save_writes(engine: Engine, cli: Cli) -> None:
    container = engine.run(BASE, "echo x > /etc/os-release; rm /etc/passwd; mkdir /new; ln /etc/os-release /new/y")
    engine.docker("commit", container, "layerscope-test/committed:1")
    engine.images.append("layerscope-test/committed:1")
    agree(engine, cli, "layerscope-test/committed:1")
    engine.remove(container)


def test_all_layers_of_the_engine_are_intact(engine: Engine, cli: Cli, classic: str, buildkit: str) -> None:
    answer = verify(cli, "--all")
    directories = {layer["cache_id"] for layer in answer["layers"]}
    layerdb = engine.data_root / "image/overlay2/layerdb/sha256"
    assert directories == {path.read_text() for path in layerdb.glob("*/cache-id")}


@pytest.mark.parametrize("buildkit", [False, True], ids=["classic", "buildkit"])
def test_tampering_is_found(engine: Engine, cli: Cli, buildkit: bool) -> None:
    """Each change alone, undone before the next."""
    step = f"RUN mkdir /t && echo secret > /t/file && ln -s file /t/link && echo {buildkit} > /t/other"
    tag = engine.build(f"layerscope-test/tampered:{buildkit:d}", f"FROM BASE\n{step}\n", buildkit=buildkit)
    diff = Path(engine.inspect(tag)["GraphDriver"]["Data"]["UpperDir"])
    file, link = diff / "t/file", diff / "t/link"

    def expect(*problems: tuple[str, str]) -> None:
        layers = verify(cli, tag, code=1)["layers"]
        found = {(item["path"], item["problem"]) for layer in layers for item in layer["differences"]}
        assert found - {("t", "mtime")} == set(problems)

    stat = file.stat()
    file.write_bytes(b"SECRET\n")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    expect(("t/file", "content"))
    file.write_bytes(b"longer than before\n")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    expect(("t/file", "size"))
    file.write_bytes(b"secret\n")
    os.utime(file, (5, 5))
    expect(("t/file", "mtime"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    file.chmod(0o600)
    expect(("t/file", "mode"))
    file.chmod(stat.st_mode & 0o7777)
    os.chown(file, 1, 2)
    expect(("t/file", "owner"))
    os.chown(file, stat.st_uid, stat.st_gid)
    os.setxattr(file, "security.capability", bytes([1, 0, 0, 2]) + bytes([0, 32, 0, 0]) + bytes(12))
    expect(("t/file", "xattr"))
    os.removexattr(file, "security.capability")
    times = link.lstat()
    link.unlink()
    link.symlink_to("evil")
    os.utime(link, ns=(times.st_atime_ns, times.st_mtime_ns), follow_symlinks=False)
    expect(("t/link", "target"))
    link.unlink()
    expect(("t/link", "missing"))
    link.symlink_to("file")
    os.utime(link, ns=(times.st_atime_ns, times.st_mtime_ns), follow_symlinks=False)
    (diff / "t/evil").write_text("x")
    expect(("t/evil", "extra"))
    (diff / "t/evil").unlink()
