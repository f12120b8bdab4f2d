"""Layers' tars that are odd, and that Docker loads. What it makes of each was seen on Docker 20.10 (overlay2)."""

from __future__ import annotations

import tarfile
from typing import Final

from tests.tarlayers import Tar

REDIRECT, OPAQUE, METACOPY = (f"SCHILY.xattr.trusted.overlay.{name}" for name in ("redirect", "opaque", "metacopy"))
LONG: Final = "n" * 150 + "/" + "m" * 150


def base() -> bytes:
    """What lies below: ``d/low``, ``x``, ``lower/a``, ``e/low``, ``f/low``, ``g/low``."""
    tar = Tar().file("x", "lower").file("y", "lower").file("lower/a", "a")
    for name in "defg":
        tar.directory(name).file(f"{name}/low", "l")
    return tar.bytes()


def accepted() -> bytes:
    """One layer of all that is odd and loaded nevertheless."""
    return (
        Tar()
        .directory(".", mode=0o750)
        .file("/etc/absolute", "a")
        .file("./dot", "b")
        .file("a/../clean", "c")
        .file("../out", "d")
        .file("a/../../../further", "e")
        .file("p/q/implied", "f")
        .directory("usr")
        .directory("usr/lib")
        .symlink("lib", "usr/lib")
        .file("lib/through", "g")
        .symlink("abs", "/usr")
        .file("abs/through-absolute", "h")
        .symlink("up", "../../usr")
        .file("up/through-up", "i")
        .whiteout("d")
        .directory("d")
        .file("d/new", "not opaque")
        .whiteout("x")
        .file("x", "new")
        .opaque("e")
        .directory("e", mode=0o711)
        .directory("f")
        .opaque("f")
        .opaque("g")
        .whiteout("nowhere/gone")
        .directory("whiteouts/.wh.directory")
        .hard_link("link-absolute", "/dot")
        .hard_link("link-through", "lib/through")
        .symlink("dangling", "nothing")
        .hard_link("link-of-symlink", "dangling")
        .directory("renamed", pax_headers={REDIRECT: "/lower"})
        .directory("marked", pax_headers={OPAQUE: "y"})
        .file("y", "", pax_headers={METACOPY: ""})
        .add("lower/a", tarfile.CHRTYPE, devmajor=0, devminor=0)
        .add("block", tarfile.BLKTYPE, devmajor=7, devminor=300, mode=0o600)
        .add("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
        .add("fifo", tarfile.FIFOTYPE)
        .file("set-user-id", "j", mode=0o6755)
        .file("far", "k", uid=70_000, gid=3_000_000)
        .file(LONG, "l")
        .file(" blank\n\x1bname", "m")
        .file("not-utf8-\udcff", "n")
        .bytes()
    )


REFUSED: Final = {
    "behind a symlink to nothing": Tar().symlink("lib", "nowhere").file("lib/foo", "x"),
    "in a circle": Tar().symlink("a", "b").symlink("b", "a").file("a/foo", "x"),
    "below a file": Tar().file("t", "file").file("t/in", "1"),
    "below a whiteout": Tar().whiteout("d").file("d/new", "n"),
    "a whiteout of what is there": Tar().file("x", "new").whiteout("x"),
    "a whiteout of a directory that is there": Tar().directory("d").file("d/new", "n").whiteout("d"),
    "a whiteout of nothing": Tar().file("d/.wh.", ""),
    "a hard link to a lower layer": Tar().hard_link("h", "x"),
    "a hard link to what comes later": Tar().hard_link("b", "a").file("a", "1"),
    "a hard link to a directory": Tar().directory("q").hard_link("h", "q"),
    "an unknown type": Tar().add("c", b"9", b"abc").file("k", "1"),
    "twice": Tar().file("dup", "1").file("dup", "22"),
    "a directory, then a file": Tar().directory("t").file("t/in", "1").file("t", "now a file"),
    "a file, then a directory": Tar().file("t", "file").directory("t").file("t/in", "1"),
    "a file of two names, then another": Tar().file("a", "1").hard_link("b", "a").file("a", "22"),
}
"""What an engine refuses to load: the rest of the layer is read, and a note says what was left out or decided."""
