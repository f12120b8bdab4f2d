"""A real Docker engine for tests: builds the specimens, makes containers, and cleans up after itself."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

TOP = Path(__file__).parent.parent
BASE = "layerscope-test/busybox:1"
APPLETS = (
    "ash cat chmod chown cp cut date dd echo env false find grep head id ln ls mkdir mkfifo mknod mv printf ps pwd"
    " readlink rm rmdir sed seq setfattr sh sleep sort stat sync tail tar test touch tr true truncate wc"
)


class EngineMissingError(Exception):
    """There is no engine to test with; the text says why."""


@dataclass
class Engine:
    """A Docker engine and the command that talks to it."""

    docker_path: str
    host: str
    data_root: Path
    images: list[str] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)

    def docker(self, *arguments: str, stdin: bytes | None = None, **environment: str) -> str:
        """Run the docker command and give its standard output."""
        done = subprocess.run(
            [self.docker_path, *arguments],
            input=stdin,
            capture_output=True,
            env={**os.environ, "DOCKER_HOST": self.host, **environment},
            timeout=300,
        )
        if done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")

    def docker_bytes(self, *arguments: str) -> bytes:
        done = subprocess.run(
            [self.docker_path, *arguments],
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "DOCKER_HOST": self.host},
            timeout=300,
        )
        return done.stdout

    def docker_stream(self, command: str, stream: IO[bytes]) -> None:
        """Run a docker command that reads a large file."""
        environment = {**os.environ, "DOCKER_HOST": self.host}
        subprocess.run(
            [self.docker_path, command], stdin=stream, stdout=subprocess.DEVNULL, check=True, env=environment
        )

    def inspect(self, *arguments: str) -> Any:
        import json

        return json.loads(self.docker("inspect", *arguments))[0]

    def import_base(self) -> None:
        """Make a base image of a static busybox, unless it is there."""
        if self.docker("images", "--quiet", BASE):
            return
        self.docker("import", "-", BASE, stdin=busybox_tar())
        self.docker("tag", BASE, "busybox:1.36") if not self.docker("images", "-q", "busybox:1.36") else None
        self.images.append(BASE)

    def build(
        self,
        tag: str,
        dockerfile: str,
        *options: str,
        buildkit: bool = False,
        files: dict[str, bytes] | None = None,
    ) -> str:
        """Build an image from the text of a Dockerfile; ``BASE`` in it is the base image."""
        with tempfile.TemporaryDirectory() as context:
            Path(context, "Dockerfile").write_text(dockerfile.replace("FROM BASE", f"FROM {BASE}"))
            for name, content in (files or {}).items():
                Path(context, name).write_bytes(content)
            self.docker(
                "build",
                "--quiet",
                "--network=none",
                "--no-cache",
                f"--build-arg=BASE={BASE}",
                f"--tag={tag}",
                *options,
                context,
                DOCKER_BUILDKIT="1" if buildkit else "0",
            )
        self.images.append(tag)
        return tag

    def build_specimen(self, tag: str, *, buildkit: bool) -> str:
        return self.build(tag, (TOP / "Dockerfile.test").read_text(), buildkit=buildkit)

    def run(self, image: str, script: str, *options: str) -> str:
        """Run a shell script in a new container and wait for its end; gives the container's id."""
        identifier = self.create(image, *options, "--entrypoint=", command=["sh", "-c", script])
        self.docker("start", "--attach", identifier)
        return identifier

    def create(self, image: str, *options: str, command: list[str] | None = None) -> str:
        """Make a container without starting it; gives its id."""
        identifier = self.docker("create", "--network=none", *options, image, *(command or ["sleep", "600"]))
        self.containers.append(identifier)
        return identifier

    def remove(self, identifier: str) -> None:
        self.docker("rm", "--force", identifier)
        self.containers.remove(identifier)

    def load(self, archive: bytes, tag: str) -> str:
        """Load a `docker save` archive that holds ``tag``."""
        self.docker("load", stdin=archive)
        self.images.append(tag)
        return tag

    def clean_up(self) -> None:
        """Remove what the tests made: an engine that is not ours keeps running."""
        for identifier in self.containers:
            self._try("rm", "--force", identifier)
        for image in reversed(self.images):
            self._try("rmi", "--force", image)

    def _try(self, *arguments: str) -> None:
        with contextlib.suppress(AssertionError):
            self.docker(*arguments)


def find_engine() -> Engine:
    """The engine that the environment names. Raises EngineMissingError."""
    docker = os.environ.get("LAYERSCOPE_TEST_DOCKER") or shutil.which("docker")
    if docker is None:
        raise EngineMissingError("no docker command; run the tests with `make test`")
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    done = subprocess.run(
        [docker, "info", "--format", "{{.DockerRootDir}}\n{{.Driver}}"],
        capture_output=True,
        text=True,
        env={**os.environ, "DOCKER_HOST": host},
    )
    lines = done.stdout.split("\n")
    if done.returncode or not lines[0].startswith("/"):
        raise EngineMissingError(f"none answers at {host}; run the tests with `make test`")
    root = Path(lines[0])
    if lines[1] != "overlay2":
        raise EngineMissingError(f"the one at {host} uses the storage driver {lines[1]}")
    if not os.access(root / "overlay2", os.R_OK | os.X_OK):
        raise EngineMissingError(f"the storage of the one at {host} ({root}) is not readable")
    if not os.environ.get("LAYERSCOPE_TEST_BUSYBOX"):
        raise EngineMissingError("no static busybox to make a base image of; run the tests with `make test`")
    return Engine(docker, host, root)


def find_compose(docker: str) -> str | None:
    """The command that is Compose here."""
    if subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0:
        return f"{docker} compose"
    return shutil.which("docker-compose")


def busybox_tar() -> bytes:
    """A tar of a root file system with a static busybox: the base image of all specimens."""
    busybox = Path(os.environ["LAYERSCOPE_TEST_BUSYBOX"]).read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "usr", "usr/share"):
            add(tar, name, kind=tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
        add(tar, "bin/busybox", busybox, mode=0o755)
        for applet in APPLETS.split():
            add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
        add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        add(tar, "etc/os-release", b'NAME="specimen"\n')
    return buffer.getvalue()


def add(
    tar: tarfile.TarFile,
    name: str,
    content: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    link: str = "",
    xattrs: dict[str, str] | None = None,
    mtime: int = 1_700_000_000,
) -> None:
    """Add a made-up entry to a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, len(content), link, mtime
    info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
    tar.addfile(info, io.BytesIO(content))
