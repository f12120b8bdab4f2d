"""A container's changes against `docker diff`, and its whole tree against the kernel's merged mount."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli import Cli
from tests.dockerd import Engine
from tests.engine.test_specimen import exact
from tests.kernel import difference, kernel_view, layerscope_view

LETTERS = {"added": "A", "modified": "C", "deleted": "D"}
ROUNDS = int(os.environ.get("LAYERSCOPE_RANDOM_CONTAINERS", "25"))

EVERY_CHANGE = r"""
cd /
echo new > /app/new; mkdir -p /fresh/deep; echo x > /fresh/deep/x; ln -s x /fresh/deep/link
echo changed >> /app/conf/one; chmod 640 /app/conf/three; chown 5:6 /app/data/small
touch /app/data/big; cp -p /app/built /tmp/copy 2>/dev/null
rm /app/data/first; rm -r /srv/www; mkdir /srv/www
rm -r /var/lib/state; mkdir /var/lib/state; echo z > /var/lib/state/z
rm -r /swap/link; echo file > /swap/link; rm /swap/dir; mkdir /swap/dir; echo in > /swap/dir/in
mv /app/conf/moved /app/conf/away; mkdir /app/empty
mknod /nodes/char c 240 1; mknod /nodes/block b 240 1; mknod /nodes/pipe p; chmod 600 /nodes/null
touch /nodes/fifo; ln /app/conf/three /app/conf/hard
rm /names/-dash; echo > "/names/$(printf 'new\012line')"; echo > "/names/$(printf 'not-utf8-\377')"
chmod 711 /root; touch /etc; echo host > /etc/hostname
# Copied up, and made to look as before: size, mode and time are the same.
touch -r /app/.env /tmp/stamp; printf 'GITHUB_TOKEN=' > /tmp/e; cat /app/.env > /tmp/e
cat /tmp/e > /app/.env; touch -r /tmp/stamp /app/.env
touch -r /built /tmp/stamp; tr a-z A-Z < /built > /tmp/e; cat /tmp/e > /built; touch -r /tmp/stamp /built
"""


def docker_diff(engine: Engine, container: str) -> set[tuple[str, str]]:
    """`docker diff` splits at newlines; a name with one comes through the API."""
    import docker

    client = docker.APIClient(base_url=engine.host)
    kinds = {0: "C", 1: "A", 2: "D"}
    return {(kinds[item["Kind"]], item["Path"].removeprefix("/")) for item in client.diff(container) or ()}


def layerscope_diff(cli: Cli, container: str) -> set[tuple[str, str]]:
    answer = cli.ok("container", container, "--json").json
    # The API gives names as JSON: bytes that are not UTF-8 are replaced there.
    return {
        (LETTERS[item["change"]], os.fsencode(exact(item)).decode("utf-8", "replace")) for item in answer["changes"]
    }


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_kind_of_change_is_reported_as_docker_does(engine: Engine, specimen: str, cli: Cli) -> None:
    container = engine.run(specimen, EVERY_CHANGE)
    assert layerscope_diff(cli, container) == docker_diff(engine, container)


def test_files_that_only_look_unchanged_are_listed_apart(engine: Engine, specimen: str, cli: Cli) -> None:
    container = engine.run(specimen, EVERY_CHANGE)
    answer = cli.ok("container", container, "--json").json
    copied = {item["path"]: item["content_changed"] for item in answer["copied_up"]}
    assert copied["app/.env"] is False
    assert copied["built"] is True, "docker diff does not see this change at all"
    changed = {item["path"]: item for item in answer["changes"]}
    assert changed["app/conf/three"]["content_changed"] is False, "only its mode is another"
    assert changed["app/conf/one"]["content_changed"] is True
    assert changed["app/new"] == {
        "path": "app/new", "change": "added", "kind": "file", "size_bytes": 4, "content_changed": True,
    }  # fmt: skip
    assert [item["path"] for item in answer["changes"]] == sorted(
        (item["path"] for item in answer["changes"]), key=os.fsencode
    )


@pytest.mark.parametrize("state", ["created", "running", "paused", "exited"])
def test_container_in_every_state(engine: Engine, specimen: str, cli: Cli, state: str) -> None:
    container = engine.create(specimen)
    if state != "created":
        engine.docker("start", container)
        engine.docker("exec", container, "sh", "-c", "echo 1 > /app/one; rm /app/data/second")
    if state == "paused":
        engine.docker("pause", container)
    if state == "exited":
        engine.docker("kill", container)
    answer = cli.ok("container", container, "--json").json
    assert answer["target"]["state"] == state
    assert [layer["role"] for layer in answer["layers"][-3:]] == ["image", "init", "upper"]
    assert layerscope_diff(cli, container) == docker_diff(engine, container)
    if state == "paused":
        engine.docker("unpause", container)
    engine.remove(container)


@pytest.mark.kernel
def test_running_container_is_what_its_merged_mount_shows(engine: Engine, specimen: str, cli: Cli) -> None:
    from layerscope.model import Cautions
    from layerscope.stores.base import find_target
    from layerscope.stores.open import open_store

    container = engine.create(specimen, command=["sleep", "600"])
    engine.docker("start", container)
    engine.docker("exec", container, "sh", "-c", EVERY_CHANGE)
    merged = Path(engine.inspect(container)["GraphDriver"]["Data"]["MergedDir"])
    for store in (
        open_store(None, engine.host, None, Cautions()),
        open_store(str(engine.data_root), None, None, Cautions()),
    ):
        ours = layerscope_view(find_target(store, container).stack)
        assert difference(kernel_view(merged, ours), ours) == []
    engine.remove(container)


@pytest.mark.kernel
def test_random_changes_are_reported_as_docker_does(engine: Engine, specimen: str, cli: Cli) -> None:
    """Random operations in the merged mount of a running container, compared after every round."""
    container = engine.create(specimen)
    engine.docker("start", container)
    merged = Path(engine.inspect(container)["GraphDriver"]["Data"]["MergedDir"])
    dice = random.Random(20)
    for round_number in range(ROUNDS):
        for _ in range(12):
            _random_change(merged, dice)
        assert layerscope_diff(cli, container) == docker_diff(engine, container), f"round {round_number}"
    engine.remove(container)


def _random_change(root: Path, dice: random.Random) -> None:
    places = [Path(base) / name for base, dirs, files in os.walk(root) for name in dirs + files]
    places = [
        place for place in places if place.relative_to(root).parts[0] in ("app", "srv", "swap", "var", "names")
    ]
    if not places:
        return
    place, other = dice.choice(places), dice.choice(places)
    is_file = place.is_file() and not place.is_symlink()
    with suppress(OSError):
        match dice.randrange(12):
            case 0 if is_file:
                place.write_bytes(bytes(dice.randrange(300)))
            case 1 if is_file:
                status = place.stat()
                place.write_bytes(place.read_bytes().swapcase())
                os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
            case 2:
                place.unlink()
            case 3:
                os.rmdir(place)
            case 4 if place.is_dir() and not place.is_symlink():
                (place / f"new{dice.randrange(9)}").mkdir()
            case 5 if place.is_dir() and not place.is_symlink():
                (place / f"new{dice.randrange(9)}").write_text("new")
            case 6 if not place.is_symlink():
                os.chmod(place, dice.choice([0o600, 0o644, 0o755]))
            case 7:
                os.chown(place, dice.randrange(3), 0, follow_symlinks=False)
            case 8:
                os.rename(place, other.parent / place.name)
            case 9:
                os.link(place, other.parent / f"hard{dice.randrange(9)}", follow_symlinks=False)
            case 10:
                os.symlink("x", other.parent / f"link{dice.randrange(9)}")
            case 11:
                os.utime(place, (dice.randrange(9), dice.randrange(9)), follow_symlinks=False)
