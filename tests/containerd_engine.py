"""A Docker engine with the containerd image store, for tests: Debian's docker.io in a tree of its own.

Debian 12's engine is older than that store, so debootstrap makes a tree with one that has it, once, in about 40
seconds, from the mirror that apt uses here. It is kept in $LAYERSCOPE_ENGINE_DIR, else in the user's cache.

The engine gets mounts of its own: the tree becomes its root, by pivot_root(2), for runc needs a root that is a
mount point. Its data root is mounted in the tree at the path that it has outside, so that what it reports is true.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.dockerd import Engine, EngineMissingError
from tests.with_engine import _answers, _remove, _stop, program

DEBIAN_SUITE = "trixie"
"""The first one with docker.io 24 or later; an Ubuntu gets its own suite."""
PACKAGES = "docker.io,ca-certificates"
PREPARE_SECONDS = 600
START = """
mount --bind "$TREE" "$TREE"
mount -t tmpfs tmpfs "$TREE/run"
mount -t tmpfs tmpfs "$TREE/tmp"
mkdir -p "$TREE$BASE"
mount --rbind "$BASE" "$TREE$BASE"
mount --rbind /dev "$TREE/dev"
mount --rbind /sys "$TREE/sys"
mount -t proc proc "$TREE/proc"
cd "$TREE"
pivot_root . mnt
cd /
umount -l /mnt
exec dockerd --config-file="$BASE/daemon.json" --data-root="$BASE/root" --exec-root="$BASE/exec" \
  --pidfile="$BASE/pid" --host="unix://$BASE/docker.sock" \
  --bridge=none --iptables=false --ip6tables=false --ip-forward=false
"""
CONTAINERD = '{"features": {"containerd-snapshotter": true}}'
GRAPHDRIVER = '{"features": {"containerd-snapshotter": false}, "storage-driver": "overlay2"}'


def prepare_tree() -> Path:
    """A tree with an engine in it, made if need be. Raises EngineMissingError."""
    if os.environ.get("LAYERSCOPE_TEST_ENGINE") != "private":
        raise EngineMissingError("it is started only in `make test`, as root on Debian or Ubuntu")
    suite, components, mirror = _archive()
    cache = Path(
        os.environ.get("LAYERSCOPE_ENGINE_DIR")
        or os.environ.get("XDG_CACHE_HOME")
        or os.path.expanduser("~/.cache")
    )
    tree = cache / f"layerscope-test-{suite}-{platform.machine()}"
    if tree.exists():
        return tree
    debootstrap = program("debootstrap")
    if debootstrap is None:
        raise EngineMissingError("there is no debootstrap to make its tree with")
    cache.mkdir(parents=True, exist_ok=True)
    with (
        (cache / f".{tree.name}.lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix=f"{tree.name}-", dir=cache) as unfinished,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)  # where two processes run tests, one makes it and the other waits
        if tree.exists():
            return tree
        made = Path(unfinished, "tree")
        command = [debootstrap, "--variant=minbase", f"--components={components}", f"--include={PACKAGES}"]
        done = subprocess.run(
            [*command, suite, str(made), mirror],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PREPARE_SECONDS,
        )
        if done.returncode:
            raise EngineMissingError(f"debootstrap failed: {done.stdout[-500:]}")
        made.rename(tree)
    return tree


def _archive() -> tuple[str, str, str]:
    """Suite, components and mirror to make the tree of."""
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
        ubuntu = release.get("ID") == "ubuntu"
        own = release.get("VERSION_CODENAME", "")
        mirror = _mirror("Ubuntu" if ubuntu else "Debian", own)
        return (own, "main,universe", mirror) if ubuntu else (DEBIAN_SUITE, "main", mirror)
    raise EngineMissingError("this is no Debian or Ubuntu")


def _mirror(origin: str, suite: str) -> str:
    """Where apt gets this system's packages from."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(RELEASE) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
    )
    for line in listed.stdout.splitlines():
        fields = line.split(" ")
        if fields[:2] == [origin, suite] and fields[-1].startswith(("http://", "https://")):
            return fields[-1]
    raise EngineMissingError(f"apt knows no mirror of {origin} {suite} here")


@contextlib.contextmanager
def engine_in_tree(base: Path, config: str = CONTAINERD) -> Iterator[Engine]:
    """An engine that keeps everything below ``base``, which outlives it. Raises EngineMissingError."""
    tree, docker = prepare_tree(), os.environ.get("LAYERSCOPE_TEST_DOCKER")
    if docker is None or not os.environ.get("LAYERSCOPE_TEST_BUSYBOX"):
        raise EngineMissingError("there is no docker command or no static busybox")
    (base / "daemon.json").write_text(config)
    host = f"unix://{base}/docker.sock"
    with (base / "log").open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-ec", START],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TREE": str(tree), "BASE": str(base)},
            start_new_session=True,
        )
    try:
        if not _answers(process, host):
            end = (base / "log").read_text(errors="replace")[-2000:]
            raise EngineMissingError(f"it did not start; its log ends with:\n{end}")
        yield Engine(docker, host, base / "root")
    finally:
        _stop(process)
        with contextlib.suppress(OSError):
            os.removedirs(f"{tree}{base}")


@contextlib.contextmanager
def engine_directory() -> Iterator[Path]:
    """A directory for an engine, on a disk that can hold overlays."""
    base = Path(
        tempfile.mkdtemp(prefix="layerscope-containerd-", dir=os.environ.get("LAYERSCOPE_ENGINE_DIR", "/var/tmp"))
    )
    base.chmod(0o711)
    try:
        yield base
    finally:
        _remove(base)
