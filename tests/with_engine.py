"""Runs a command with a Docker engine at hand: `python tests/with_engine.py pytest …`.

As root on Debian or Ubuntu it installs what is missing (docker.io, busybox-static, docker-compose, debootstrap),
starts a private engine with its own data root and socket, and stops it again when the command is done. Elsewhere
the command gets the engine that answers, if one does. Needs nothing but Python's standard library.

The command finds in its environment: DOCKER_HOST, LAYERSCOPE_TEST_DOCKER (a docker CLI that can use BuildKit),
LAYERSCOPE_TEST_BUSYBOX (a static busybox) and LAYERSCOPE_TEST_ENGINE ("private" or "shared").
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = {
    "dockerd": "docker.io",
    "busybox": "busybox-static",
    "docker-compose": "docker-compose",
    "debootstrap": "debootstrap",
}
START_SECONDS = 60
STOP_SECONDS = 30
SEARCH = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin"]


def say(text: str) -> None:
    print(f"with_engine: {text}", file=sys.stderr, flush=True)


def program(name: str) -> str | None:
    """A program by name, those of the system before those of /usr/local."""
    return shutil.which(name, path=os.pathsep.join([*SEARCH, os.environ.get("PATH", "")]))


def is_debian() -> bool:
    return program("apt-get") is not None and Path("/etc/debian_version").exists()


def has_compose() -> bool:
    if program("docker-compose"):
        return True
    docker = program("docker")
    return docker is not None and _succeeds([docker, "compose", "version"])


def install_missing() -> None:
    """Install the Debian packages whose programs are not there."""
    missing = [package for name, package in PACKAGES.items() if name != "docker-compose" and not program(name)]
    if not has_compose():
        missing.append(PACKAGES["docker-compose"])
    busybox = program("busybox")
    if busybox and not is_static(busybox):
        missing.append(PACKAGES["busybox"])
    if not missing:
        return
    say(f"installing {' '.join(sorted(set(missing)))}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # An installation must not start the system's own engine: the tests have theirs.
    with _no_services():
        for command in (
            ["apt-get", "update", "-qq"],
            ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *sorted(set(missing))],
        ):
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if done.returncode:
                say(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
                return


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Have invoke-rc.d start nothing meanwhile, as Debian's policy-rc.d provides for."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def is_static(binary: str) -> bool:
    """Whether an ELF program names no interpreter."""
    return b"/lib64/ld-linux" not in Path(binary).read_bytes()[:4096]


def buildkit_docker() -> str | None:
    """A docker CLI that can build with BuildKit: one with buildx, or one before 23, which needs none."""
    for directory in [*SEARCH, *os.environ.get("PATH", "").split(os.pathsep)]:
        docker = shutil.which("docker", path=directory)
        if docker is None:
            continue
        version = subprocess.run([docker, "--version"], capture_output=True, text=True).stdout
        major = version.removeprefix("Docker version ").partition(".")[0]
        if _succeeds([docker, "buildx", "version"]) or (major.isdigit() and int(major) < 23):
            return docker
    return program("docker")


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def private_engine(*options: str) -> Iterator[dict[str, str]]:
    """A Docker engine of our own, which touches no network setting of the machine."""
    dockerd = program("dockerd")
    if dockerd is None:
        say("no dockerd; engine tests will be skipped")
        yield {}
        return
    base = Path(
        tempfile.mkdtemp(prefix="layerscope-engine-", dir=os.environ.get("LAYERSCOPE_ENGINE_DIR", "/var/tmp"))
    )
    base.chmod(0o711)  # so that it is the socket's own mode that lets in or not
    socket = base / "docker.sock"
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                dockerd,
                f"--data-root={base}/root",
                f"--exec-root={base}/exec",
                f"--pidfile={base}/pid",
                f"--host=unix://{socket}",
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
                "--ip-forward=false",
                *options,
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": os.pathsep.join([*SEARCH, os.environ.get("PATH", "")])},
            start_new_session=True,  # Ctrl-C is for the command; we stop the engine after it
        )
    try:
        if _answers(process, f"unix://{socket}"):
            yield {"DOCKER_HOST": f"unix://{socket}", "LAYERSCOPE_TEST_ENGINE": "private"}
        else:
            say("the private engine did not start; its log ends with:")
            print((base / "log").read_text(errors="replace")[-3000:], file=sys.stderr)
            yield {}
    finally:
        _stop(process)
        _remove(base)


def _answers(process: subprocess.Popen[bytes], host: str) -> bool:
    docker = program("docker") or "docker"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _succeeds([docker, "--host", host, "version"]):
            return True
        time.sleep(0.2)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _remove(base: Path) -> None:
    """Unmount what the engine left mounted below its directory, and remove it."""
    with open("/proc/self/mounts") as mounts:
        points = [line.split()[1] for line in mounts]
    for point in sorted((point for point in points if point.startswith(f"{base}/")), reverse=True):
        subprocess.run(["umount", "-l", point], capture_output=True)
    shutil.rmtree(base, ignore_errors=True)


def main(command: Sequence[str]) -> int:
    if not command:
        say("no command given")
        return 2
    wants_private = os.geteuid() == 0 and is_debian() and os.environ.get("LAYERSCOPE_TEST_ENGINE") != "shared"
    if wants_private:
        install_missing()
    environment = dict(os.environ)
    docker, busybox = buildkit_docker(), program("busybox")
    if docker:
        environment["LAYERSCOPE_TEST_DOCKER"] = docker
    if busybox and is_static(busybox):
        environment["LAYERSCOPE_TEST_BUSYBOX"] = busybox
    with (
        private_engine() if wants_private else contextlib.nullcontext({"LAYERSCOPE_TEST_ENGINE": "shared"}) as more
    ):
        environment.update(more)
        try:
            return subprocess.run(command, env=environment).returncode
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # else the engine would stay
    sys.exit(main(sys.argv[1:]))
