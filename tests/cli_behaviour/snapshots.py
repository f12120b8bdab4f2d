"""What every command prints, kept as text: exit code, standard output and standard error of each run.

``python -m tests.cli_behaviour.snapshots`` writes them anew; read the difference before you keep it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fixtures.demo import unpack
from tests.cli import Result
from tests.dataroot import OPAQUE, WHITEOUT, FakeRoot, Symlink, put
from tests.stores.offline import InProcess

KEPT = Path(__file__).parent / "snapshots"
SHOWN_ROOT = "/var/lib/docker"
BOTH = (80, 100)
SIZE = re.compile(r" *[+−]?\b[\d.]+ [kMGT]?B\b")

UPPER = "0d53df0b960026c1110f55d9447322ae98cb3331cb1e0be26013acc627fbc626"
"""The upper layer of the demo's container."""
HOSTILE_NAMES = {
    "naïve/büro.txt": "a name in Latin letters",
    "naïve/日本語.txt": "one in wide letters",
    "naïve/🐋": "one beyond 16 bits",
    "two\nlines": "a line break",
    "esc\x1b[31mred": "a colour",
    "rtl\u202etxt.exe": "a change of direction",
    "not-utf8-\udcff": "a byte that is no UTF-8",
    "back\\slash": "a backslash",
    "with space, comma:colon": "what other formats split at",
}


@dataclass(frozen=True)
class Case:
    """One run. ``columns`` are the widths of the terminal it is made for; one snapshot each."""

    name: str
    command: str
    columns: tuple[int, ...] = (100,)
    masked: bool = False
    """Whether sizes depend on the file system, and are left out."""

    def files(self) -> Iterator[tuple[int, Path]]:
        for width in self.columns:
            yield width, KEPT / (f"{self.name}.txt" if len(self.columns) == 1 else f"{self.name}-{width}.txt")


CASES = (
    Case("ls", "ls", BOTH),
    Case("ls-long", "ls --no-trunc --bytes"),
    Case("image", "image shop/web:1", BOTH),
    Case("image-files-hidden", "image shop/web:1 --files --hidden", BOTH),
    Case("image-layer", "image shop/web:1 --layer 4 --files --hidden"),
    Case("image-long", "image shop/worker:1 --no-trunc --bytes"),
    Case("image-color", "image shop/web:1 --files --color always"),
    Case("container", "container shop-web-1", BOTH),
    Case("container-layers", "container shop-web-1 --layers --bytes", BOTH),
    Case("container-own-layer", "container shop-web-1 --layer 8 --files"),
    Case("overlay", "overlay --lowerdir upper:lower --files --hidden", BOTH),
    Case("overlay-upperdir", "overlay --lowerdir lower --upperdir upper"),
    Case("diff-images", "diff shop/web:1 shop/worker:1"),
    Case("diff-container", "diff shop/web:1 shop-web-1"),
    Case("diff-heights", "diff shop/web:1@4 shop/web:1@6 --bytes"),
    Case("diff-nothing", "diff shop/web:1 shop/web:1@6"),
    Case("files", "files shop/web:1"),
    Case("files-hidden", "files shop/web:1 --hidden"),
    Case("files-visible", "files shop-web-1 --visible --bytes"),
    Case("trace-hidden", "trace shop/web:1 srv/shop/.env", BOTH),
    Case("trace-below-whiteout", "trace shop/web:1 usr/share/doc/libc/changelog", BOTH),
    Case("trace-container", "trace shop-web-1 /srv/shop/settings.ini"),
    Case("audit-clean", "audit shop/worker:1"),
    Case("audit-all", "audit", BOTH),
    Case("audit-accepted", "audit --allow stripe-*:srv/* --allow stripe-*:history*"),
    Case("audit-jsonl", "audit shop/web:1 --format jsonl"),
    Case("error-no-rule", "audit --only github"),
    Case("cat", "cat shop/web:1 srv/shop/settings.ini"),
    Case("cat-layer", "cat shop/web:1 srv/shop/.env --layer 4"),
    Case("extract", "extract shop/web:1 srv --to out"),
    Case("extract-layer", "extract shop/web:1 srv/shop --layer 4 --to out"),
    Case("audit", "audit shop/web:1", BOTH),
    Case("orphans", "orphans", BOTH),
    Case("orphans-all", "orphans --all"),
    Case("owner-layer", "owner qrp4fptu4q72", BOTH),
    Case("owner-path", f"owner overlay2/{UPPER}/merged/srv/shop/app.py", BOTH),
    Case("owner-hostile", "owner --data-root {hostile} ffff", BOTH),
    Case("verify", "verify shop/web:1", BOTH),
    Case("reuse", "reuse", BOTH),
    Case("reuse-mermaid", "reuse --format mermaid"),
    Case("df", "df", BOTH, masked=True),
    Case("check", "check", BOTH),
    Case("check-hostile", "check --data-root {hostile}", BOTH),
    Case("schema", "schema"),
    Case("schema-files-line", "schema files-line"),
    Case("hostile-image", "image --data-root {hostile} app:1 --files --hidden", BOTH),
    Case("hostile-files", "files --data-root {hostile} app:1"),
    Case("hostile-trace", "trace --data-root {hostile} app:1 naïve/日本語.txt", BOTH),
    Case("error-no-image", "image shop/wab:1"),
    Case("error-no-path", "cat shop/web:1 srv/shop/nothing"),
    Case("error-hidden-path", "cat shop/web:1 srv/shop/.env"),
    Case("error-no-owner", "owner shop-web-1"),
    Case("error-no-duration", "orphans --min-age soon"),
    Case("error-no-layer", "image shop/web:1 --layer 7"),
    Case("error-no-data-root", "ls --data-root /nonexistent"),
)


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory with all that the cases read; the runs take place in ``here``, below it."""
    with tempfile.TemporaryDirectory(prefix="layerscope-snapshots-") as name:
        place = Path(os.path.realpath(name))
        unpack(place / "data-root")
        _hostile(place / "hostile")
        here = place / "here"
        for path, file in {"same": "1", "changed": "old", "deleted": "x", "dir/below": "x"}.items():
            put(here / "lower" / path, file)
        put(here / "upper/changed", "newer")
        put(here / "upper/deleted", WHITEOUT)
        put(here / "upper/dir", "a file now")
        with contextlib.chdir(here):
            yield place


def _hostile(path: Path) -> None:
    """An image of names that break tables and terminals, and of instructions that try to."""
    root = FakeRoot(path)
    base = root.layer({**HOSTILE_NAMES, "links/to-日本": Symlink("../naïve/日本語.txt"), "was/old": "x"})
    gone = root.layer({"naïve/日本語.txt": WHITEOUT, "was": OPAQUE, "two\nlines": "other"})
    steps = [
        "RUN \x1b]0;title\x07 echo 'naïve café' > büro",
        "COPY 日本語 /ünï/çödé/und/noch/viel/länger/als/das 🐋",
    ]
    root.image("app:1", [base, gone], history=[{"created_by": step} for step in steps])
    (root.overlay2 / ("f" * 64)).mkdir()


def run(case: Case, width: int, place: Path) -> str:
    """The text of a snapshot."""
    cli = InProcess(place / "here", {"LAYERSCOPE_DATA_ROOT": str(place / "data-root")})
    cli.environment["XDG_CACHE_HOME"] = str(place / "cache")
    result = cli(*shlex.split(case.command.format(hostile=place / "hostile")), COLUMNS=str(width))
    return snapshot(case, result, place)


def snapshot(case: Case, result: Result, place: Path) -> str:
    text = f"$ layerscope {case.command}\n{result.snapshot()}"
    for root in ("data-root", "hostile"):
        text = text.replace(f"{place}/{root}", SHOWN_ROOT)
    if case.masked:
        text = SIZE.sub(" #", text)
    return text.replace("{hostile}", SHOWN_ROOT).replace(f"{place}/here", "/here")


def main() -> None:
    KEPT.mkdir(exist_ok=True)
    for old in KEPT.glob("*.txt"):
        old.unlink()
    for case in CASES:
        for width, file in case.files():
            with workplace() as place:
                file.write_text(run(case, width, place))


if __name__ == "__main__":
    main()
