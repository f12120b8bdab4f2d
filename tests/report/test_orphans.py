"""The tables of ``orphans`` and ``owner``, of made-up findings: sizes and ages of real ones differ each time."""

from __future__ import annotations

import re

import pytest

from layerscope.analysis.orphans import Item, Survey
from layerscope.analysis.owner import Answer, ContainerUse, ImageUse, Owner
from layerscope.analysis.places import Place
from layerscope.analysis.purpose import Purpose
from layerscope.model import CacheId, ContainerId, ImageId, LayerUser, Role, Source
from layerscope.report.orphans import duration, orphans_table
from layerscope.report.owner import commands, owner_table
from layerscope.report.style import Style
from layerscope.stores.evidence import Evidence, Witness

ROOT = "/var/lib/docker"
SOURCE = Source("data-root", "overlay2", ROOT)
UPPER = CacheId("a" * 64)
RECORD = f"{ROOT}/image/overlay2/layerdb/mounts/{'b' * 64}/mount-id"
LEAKED = Item(
    path=f"{ROOT}/overlay2/{UPPER}",
    purpose=Purpose.LEAKED_UPPER,
    evidence=(Evidence(UPPER, Witness.UPPER, "b" * 64, RECORD),),
    signs=("there is no container of that id",),
    cache_id=UPPER,
    links=("ABCDEFGHIJKLMNOPQRSTUVWXYZ",),
    allocated_bytes=1_234_000,
    age_seconds=3 * 86400 + 5,
)
HOSTILE = Item(
    f"{ROOT}/overlay2/\x1b[31m\u202e\udcff\nname", Purpose.UNREFERENCED, age_seconds=1, allocated_bytes=1
)
YOUNG = Item(
    f"{ROOT}/overlay2/{'c' * 25}",
    Purpose.YOUNG,
    suspected=Purpose.UNREFERENCED,
    cache_id=CacheId("c" * 25),
    allocated_bytes=4096,
    age_seconds=59,
)
KEPT = Item(f"{ROOT}/overlay2/{'d' * 64}", Purpose.IMAGE, cache_id=CacheId("d" * 64))
EXPECTED = """\
Storage    /var/lib/docker (overlay2)

CLASS         COUNT    SIZE  FREED BY
image layer       1       -  docker rmi IMAGE
leaked upper      1  1.2 MB  by hand
too young         1  4.1 kB  -

Orphans
  overlay2/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    leaked upper, 1.2 MB, changed 3 days ago
    is the upper layer of bbbbbbbbbbbb; there is no container of that id; its
    link is l/ABCDEFGHIJKLMNOPQRSTUVWXYZ

Not judged
  overlay2/ccccccccccccccccccccccccc
    too young, maybe unreferenced, 4.1 kB, changed 59 seconds ago

leaked upper: diff/ has what a lost container wrote; stop the engine, move it
and its link out of overlay2/, delete both when all still works
too young: the engine may be at work on it: ask again later

1 orphan, 1.2 MB; 1 other not judged"""


def test_orphans_are_listed_with_size_age_and_reason() -> None:
    assert orphans_table([Survey((KEPT, LEAKED, YOUNG), (), SOURCE)], Style(width=80), everything=False) == EXPECTED


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
def test_no_name_acts_on_the_terminal(everything: bool, truncate: bool) -> None:
    style = Style(width=80, truncate=truncate)
    text = orphans_table([Survey((HOSTILE, LEAKED), (), SOURCE)], style, everything=everything)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\udc80-\udcff]", text)
    assert "\\x1b[31m\\u202e\\xff\\x0aname" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "less than a second"), (1.9, "1 second"), (119, "1 minute"), (7200, "2 hours"), (86400 * 400, "400 days")],
)
def test_ages_are_rounded_down(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def owner(*containers: tuple[str, str], images: tuple[tuple[str, ...], ...] = ()) -> Owner:
    return Owner(
        name=UPPER,
        path=f"{ROOT}/overlay2/{UPPER}",
        exists=True,
        purpose=Purpose.IMAGE,
        images=tuple(
            ImageUse(LayerUser(ImageId(f"sha256:{number:064}"), names), 0, 2, "RUN make", "/config")
            for number, names in enumerate(images)
        ),
        containers=tuple(
            ContainerUse(ContainerId("e" * 64), name, state, None, Role.LOWER, "/lower")
            for name, state in containers
        ),
    )


def test_commands_stop_what_runs_and_name_tags_before_digests() -> None:
    digest = "app@sha256:1"
    found = commands(owner(("web", "running"), ("job", "exited"), images=(("app:1", digest), (digest,), ())))
    assert found == [
        "docker stop web",
        "docker rm web job",
        f"docker rmi app:1 {digest} sha256:{2:064}",
    ]


def test_command_to_copy_runs_nothing_that_a_name_smuggles_in() -> None:
    (command,) = commands(owner(("x; rm -rf /", "exited")))
    assert command == "docker rm 'x; rm -rf /'"
    (command,) = commands(owner(("x\nrm", "exited")))
    assert "\n" not in command


def test_long_lists_are_cut_and_said_to_be() -> None:
    many = owner(*((f"c{number}", "exited") for number in range(30)))
    text = owner_table(Answer(Place("a name", (UPPER,)), (many,)), SOURCE, Style(width=80))
    assert text.count("… and 20 more; --json lists them") == 2
    assert max(len(line) for line in text.splitlines() if not line.startswith(("Directory", "  docker"))) <= 80
