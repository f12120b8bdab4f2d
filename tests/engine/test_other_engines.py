"""Engines that keep their storage elsewhere: user namespaces, and no root at all.

Each test starts such an engine for itself. That takes root, and on a machine of ours only.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.dockerd import Engine, busybox_tar
from tests.engine.test_unusual_images import layer_tar, saved_image
from tests.with_engine import _remove, program

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        os.environ.get("LAYERSCOPE_TEST_ENGINE") != "private",
        reason="starts engines of its own: only in `make test` as root on Debian or Ubuntu",
    ),
]
QUIET_NETWORK = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"]
NOBODY = 65534


@contextmanager
def dockerd(base: Path, script: str, docker: str) -> Iterator[Engine]:
    """An engine that a shell script starts; its data root and socket lie below ``base``."""
    host = f"unix://{base}/docker.sock"
    arguments = [
        f"--data-root={base}/root", f"--exec-root={base}/exec", f"--pidfile={base}/pid", f"--host={host}",
    ]  # fmt: skip
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "sh",
                "-c",
                script.format(base=base, dockerd=" ".join([str(program("dockerd")), *arguments, *QUIET_NETWORK])),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Engine(docker, host, _wait_for(process, docker, host, base))
    finally:
        pid = base / "pid"
        if pid.exists():
            subprocess.run(["kill", pid.read_text()], check=False)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def _wait_for(process: subprocess.Popen[bytes], docker: str, host: str, base: Path) -> Path:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        done = subprocess.run(
            [docker, "--host", host, "info", "--format", "{{.DockerRootDir}}"], capture_output=True, text=True
        )
        if done.returncode == 0 and done.stdout.startswith("/"):
            return Path(done.stdout.strip())
        time.sleep(0.2)
    pytest.fail(f"the engine did not start:\n{(base / 'log').read_text(errors='replace')[-3000:]}")


@pytest.fixture
def base() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="layerscope-other-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    _remove(path)


DOCKERFILE = """FROM busybox:1
RUN mkdir /d && echo a > /d/a && echo b > /d/b
RUN rm -r /d && mkdir /d && echo c > /d/c
RUN rm /etc/passwd
"""

REMAPPED = """
exec unshare --mount sh -c '
  mount --make-rprivate /; touch /etc/subuid /etc/subgid
  mount --bind {base}/subid /etc/subuid; mount --bind {base}/subid /etc/subgid
  exec {dockerd} --userns-remap=nobody:nogroup'
"""

ROOTLESS = """
export HOME={base} XDG_RUNTIME_DIR={base}/run
exec setpriv --reuid=65534 --regid=65534 --clear-groups unshare --user --map-root-user --mount --net sh -c '
  mount --make-rprivate /; mount -t tmpfs none /run; mount -t tmpfs none /etc/docker
  exec {dockerd} --rootless --group=0'
"""


def test_remapped_user_namespace(engine: Engine, base: Path, cli: Cli) -> None:
    (base / "subid").write_text("nobody:231072:65536\n")
    with dockerd(base, REMAPPED, engine.docker_path) as remapped:
        assert remapped.data_root == base / "root" / "231072.231072"
        remapped.docker("import", "-", "busybox:1", stdin=busybox_tar())
        (base / "context").mkdir()
        (base / "context/Dockerfile").write_text(DOCKERFILE)
        remapped.docker(
            "build", "--quiet", "--network=none", "--tag=spec", str(base / "context"), DOCKER_BUILDKIT="0"
        )
        container = remapped.run("spec", "echo hi > /x; rm -r /d")
        cli.environment["DOCKER_HOST"] = remapped.host
        online = cli.ok("image", "spec", "--json").json
        assert online["source"]["data_root"] == str(remapped.data_root)
        assert online["hidden"]["files"] == 3
        assert online["layers"][2]["counts"]["opaque"] == 1
        changes = {
            item["path"]: item["change"] for item in cli.ok("container", container, "--json").json["changes"]
        }
        assert changes == {"d": "deleted", "x": "added"}
        offline = cli.ok("image", "spec", "--json", "--data-root", str(remapped.data_root)).json
        assert {**offline, "source": None} == {**online, "source": None}
        above = cli("ls", "--data-root", str(base / "root"))
        assert (above.code, str(remapped.data_root) in above.err) == (3, True)


def test_rootless_engine_with_user_xattrs(engine: Engine, base: Path, cli: Cli) -> None:
    """Its overlays are mounted with userxattr; an ordinary user reads it, with and without the daemon."""
    (base / "run").mkdir()
    for path in (base, base / "run"):
        os.chown(path, NOBODY, NOBODY)
    (base / "run").chmod(0o700)
    Path("/etc/docker").mkdir(exist_ok=True)  # the script mounts over it
    with dockerd(base, ROOTLESS, engine.docker_path) as rootless:
        lower = layer_tar(("d/", b""), ("d/a", b"a"), ("d/b", b"b"), ("x", b"x"))
        upper = layer_tar((".wh.x", b""), ("d/", b""), ("d/.wh..wh..opq", b""), ("d/c", b"c"))
        rootless.docker("load", stdin=saved_image("rl:1", [lower, upper]))
        container = rootless.docker("create", "rl:1", "none")
        (base / "new").write_text("new")
        rootless.docker("cp", str(base / "new"), f"{container}:/d/new")
        cli.environment["DOCKER_HOST"] = rootless.host
        online = cli.ok("image", "rl:1", "--json").json
        assert online["options"]["xattrs"] == "user.overlay"
        assert online["hidden"]["files"] == 3
        assert online["merged"]["files"] == 1
        offline = cli.ok("image", "rl:1", "--json", "--data-root", str(rootless.data_root)).json
        assert {**offline, "source": None} == {**online, "source": None}
        changes = cli.ok("container", container, "--json").json["changes"]
        assert [(item["path"], item["change"]) for item in changes] == [("d", "modified"), ("d/new", "added")]


def test_ordinary_user_gets_a_hint(engine: Engine, classic: str, cli: Cli) -> None:
    """He may neither talk to root's engine nor read its data root, and is told what to do."""
    socket = engine.host.removeprefix("unix://")
    os.chmod(socket, 0o660)
    refused = cli.as_nobody("image", classic)
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.startswith(f"error: no permission to talk to the Docker engine at {engine.host}\nhint: ")
    assert "sudo" in refused.err
    offline = cli.as_nobody("image", classic, "--data-root", str(engine.data_root))
    assert offline.code == 3
    assert "error: no permission to read" in offline.err
    os.chmod(socket, 0o666)
    try:
        storage = cli.as_nobody("image", classic)
        assert storage.code == 3
        assert "error: no permission to read" in storage.err
        assert "sudo" in storage.err
    finally:
        os.chmod(socket, 0o660)
