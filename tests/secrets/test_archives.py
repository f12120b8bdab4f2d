"""What lies in archives is found, told with its path inside, and bounded; what is not read is never silent."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from layerscope.model import XattrFamily
from layerscope.secrets import archives, members
from layerscope.secrets import scan as scanning
from layerscope.secrets.archive_kinds import ArchiveKind, kind_of
from layerscope.secrets.bounded import Limits
from layerscope.secrets.engine import Scanner
from layerscope.secrets.hits import LayerScan
from layerscope.secrets.rules_file import own_rules
from layerscope.secrets.scan import LayerSource, Reach, scan_layers
from tests.layers import Content, HardLink, make_layer
from tests.secrets.archive_files import PACK, sparse_tar, tarred, with_encrypted_flags, zipped
from tests.secrets.specimens import github_token

TOKEN = github_token(1)
LINE = f"token {TOKEN}\n".encode()
OTHER = f"token {github_token(2)}\n".encode()
NOISE = bytes(range(256)) * 64
Set = Callable[..., None]


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(own_rules().select(only=["github-*", "environment-file-*"]))


class Scan:
    """Scans one layer directory."""

    def __init__(self, scanner: Scanner, place: Path) -> None:
        self.scanner = scanner
        self.place = place

    def __call__(self, content: Content, *, look: bool = True, jobs: int = 1) -> LayerScan:
        layer = self.place / f"layer{len(list(self.place.iterdir()))}"
        source = LayerSource(str(make_layer(layer, content)), XattrFamily.TRUSTED)
        ((_, found),) = scan_layers([source], self.scanner, jobs=jobs, reach=Reach(archives=look))
        return found


@pytest.fixture
def scan(scanner: Scanner, tmp_path: Path) -> Scan:
    return Scan(scanner, tmp_path)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Set:
    """Sets other limits."""

    def set_limits(**numbers: int) -> None:
        monkeypatch.setattr(archives.Archives.__init__, "__defaults__", (Limits(**numbers),))

    return set_limits


def places(found: LayerScan) -> list[str]:
    return [hit.shown_path for hit in found.hits]


def reasons(found: LayerScan) -> dict[str, str]:
    return {skip.path: skip.reason for skip in found.skips}


# -- found ---------------------------------------------------------------------------------------------------

SPECIMENS = {
    "app.jar": (zipped({"config.properties": LINE, "empty/": b""}), "config.properties"),
    "stored.whl": (zipped({"a/b.py": LINE}, zipfile.ZIP_STORED), "a/b.py"),
    "bzip2.zip": (zipped({"a": LINE}, zipfile.ZIP_BZIP2), "a"),
    "lzma.zip": (zipped({"a": LINE}, zipfile.ZIP_LZMA), "a"),
    "prefixed.jar": (b"#!/bin/sh\nexec java -jar $0\n" + zipped({"a": LINE}), "a"),
    "gnu.tar": (tarred({"etc/app": LINE}), "etc/app"),
    "pax.tar": (tarred({"deep/" * 60 + "\u20ac": LINE}, tarfile.PAX_FORMAT), "deep/" * 60 + "\u20ac"),
    "long.tar": (tarred({"deep/" * 60 + "x": LINE}), "deep/" * 60 + "x"),
    **{f"conf.env.{name}": (pack(LINE), "conf.env") for name, pack in PACK.items()},
    **{f"files.tar.{name}": (pack(tarred({"etc/app": LINE})), "etc/app") for name, pack in PACK.items()},
    "files.tgz": (PACK["gz"](b"no tar: " + LINE), "files.tar"),
    "no-extension": (zipped({"x": LINE}), "x"),
    "photo.png": (PACK["gz"](LINE), "photo"),
}


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_token_is_found_in_every_format_and_by_content_alone(scan: Scan, name: str) -> None:
    content, member = SPECIMENS[name]
    found = scan({f"opt/{name}": content})
    assert [(hit.path, hit.member) for hit in found.hits] == [(f"opt/{name}", member)]
    assert found.skips == ()
    (hit,) = found.hits
    assert hit.line == 1
    assert hit.shown_path == f"opt/{name}!/{member}"


def test_nothing_is_looked_into_unless_it_is_wanted(scan: Scan) -> None:
    content: Content = {"a.zip": zipped({"x": LINE}), "a.gz": gzip.compress(LINE)}
    assert places(scan(content)) == ["a.gz!/a", "a.zip!/x"]
    assert places(scan(content, look=False)) == []


@pytest.mark.parametrize("outer", ["zip", "tar", "gz"])
@pytest.mark.parametrize("inner", ["zip", "tar", "gz"])
def test_archives_in_archives(scan: Scan, outer: str, inner: str) -> None:
    def wrap(kind: str, name: str, content: bytes) -> bytes:
        if kind == "gz":
            return gzip.compress(content)
        return zipped({name: content}) if kind == "zip" else tarred({name: content})

    packed = wrap(outer, "inner", wrap(inner, "secret", LINE))
    found = scan({"outer": packed})
    if (outer, inner) == ("gz", "tar"):
        expected = "outer!/secret"  # a compressed tar is one archive
    else:
        middle = "outer" if outer == "gz" else "inner"
        expected = f"outer!/{middle}!/{middle if inner == 'gz' else 'secret'}"
    assert places(found) == [expected]
    assert found.skips == ()


def test_a_large_archive_is_read_in_place(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "SMALL_BYTES", 100)
    content: Content = {name: content for name, (content, _) in SPECIMENS.items()}
    found = scan(content)
    assert sorted(places(found)) == sorted(f"{name}!/{member}" for name, (_, member) in SPECIMENS.items())
    assert found.skips == ()


def test_a_large_member_is_streamed(scan: Scan) -> None:
    text = b"x" * 79 + b"\n"
    large = text * 200_000 + LINE  # 16 MB: more than one slice
    for name, content in {
        "a.zip": zipped({"x": large}),
        "a.tar.gz": gzip.compress(tarred({"x": large}), 1),
    }.items():
        found = scan({name: content})
        assert [(hit.member, hit.offset, hit.line) for hit in found.hits] == [
            ("x", len(text) * 200_000 + 6, 200_001)
        ]
        assert found.skips == ()


def test_a_members_name_tells_how_to_read_it(scan: Scan) -> None:
    text = b"DB_PASSWORD=hx72Kd9sQwzP\n"
    found = scan({"a.zip": zipped({"srv/.env": text, "srv/notes": text}), "b/.env.gz": gzip.compress(text)})
    assert places(found) == ["a.zip!/srv/.env", "b/.env.gz!/.env"]


def test_what_a_member_holds_is_not_told_of_the_archives_bytes_too(scan: Scan) -> None:
    """In an uncompressed archive the same bytes are the file's own."""
    inner = tarred({"in": LINE})
    found = scan({"a.tar": tarred({"x": LINE, "inner.tar": inner}), "b.tar": tarred({"x": b"-"}) + OTHER})
    assert places(found) == ["a.tar!/inner.tar!/in", "a.tar!/x", "b.tar"]
    assert reasons(found) == {"b.tar": "something follows the archive's end, or it is damaged: not looked into"}


def test_each_name_of_a_hard_linked_archive_is_told(scan: Scan) -> None:
    found = scan({"a.zip": zipped({"x": LINE}), "b": HardLink("a.zip")})
    assert places(found) == ["a.zip!/x", "b!/x"]


def test_streams_may_follow_each_other(scan: Scan) -> None:
    for pack in PACK.values():
        found = scan({"a": pack(b"first\n") + pack(LINE) + b"\0" * 64})
        assert [(hit.member, hit.line) for hit in found.hits] == [("a", 2)]
        assert found.skips == ()


def test_findings_are_the_same_with_several_processes(scan: Scan) -> None:
    content: Content = {f"d{number}/{name}": data for number in range(3) for name, (data, _) in SPECIMENS.items()}
    one, two = scan(content), scan(content, jobs=2)
    assert one == two
    assert len(one.hits) == 3 * len(SPECIMENS)


def test_old_tars_without_a_magic_are_known_and_other_files_are_not() -> None:
    old = bytearray(tarred({"x": LINE}))
    old[257:265] = b"\0" * 8
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old[:512])
    assert kind_of(bytes(old)) is ArchiveKind.TAR
    old[0] ^= 1
    assert kind_of(bytes(old)) is None
    for text in (b"", b"P", b"PK", b"BZh is text\n", NOISE, b"\0" * 1024, b"text " * 200):
        assert kind_of(text) is None


# -- not read, and why ---------------------------------------------------------------------------------------


def test_encrypted_members_are_named_and_the_many_counted(scan: Scan) -> None:
    closed = with_encrypted_flags(zipped({f"f{number:02}": LINE for number in range(30)}))
    found = scan({"a.zip": closed})
    assert places(found) == []
    told = reasons(found)
    assert told.pop("a.zip") == "20 more of its members: encrypted"
    assert told == {f"a.zip!/f{number:02}": "encrypted" for number in range(10)}
    assert all(skip.lasting for skip in found.skips)


@pytest.mark.parametrize("name", ["app.jar", "gnu.tar", *(f"files.tar.{pack}" for pack in PACK), "conf.env.gz"])
def test_half_an_archive_is_a_skip_and_what_came_before_is_found(scan: Scan, name: str) -> None:
    first = {"first": LINE, "filler": NOISE * 40, "second": bytes(reversed(NOISE)) * 40}
    whole = {
        "app.jar": lambda: zipped(first, zipfile.ZIP_STORED),
        "gnu.tar": lambda: tarred(first),
        "conf.env.gz": lambda: gzip.compress(LINE + NOISE * 99, 0),
    }.get(name, lambda: PACK[name.rpartition(".")[2]](tarred(first)))()
    found = scan({name: whole[: len(whole) * 2 // 3]})
    assert len(found.hits) == 1 or name == "files.tar.bz2" or name == "files.tar.zst"  # packed in large blocks
    assert len(found.skips) >= 1
    assert all("ends too early" in skip.reason or "damaged" in skip.reason for skip in found.skips)


def test_damage_in_one_member_leaves_the_others(scan: Scan) -> None:
    content = bytearray(zipped({"a": LINE, "b": NOISE, "c": OTHER}))
    start = content.find(b"PK\x03\x04", 10)
    content[start + 40 : start + 80] = b"\xff" * 40
    found = scan({"a.zip": bytes(content)})
    assert places(found) == ["a.zip!/a", "a.zip!/c"]
    assert reasons(found) == {"a.zip!/b": "damaged (error)"}


def test_a_wrong_checksum_hides_nothing(scan: Scan) -> None:
    content = zipped({"a": LINE})
    assert places(scan({"a.zip": content.replace(zlib.crc32(LINE).to_bytes(4, "little"), b"\1\2\3\4")})) == [
        "a.zip!/a"
    ]


def test_an_unknown_method_is_a_skip(scan: Scan) -> None:
    content = bytearray(zipped({"a": LINE}))
    content[8] = content[content.find(b"PK\x01\x02") + 10] = 97
    assert reasons(scan({"a.zip": bytes(content)})) == {"a.zip!/a": "packed by a method (zip's 97) not known here"}


@pytest.mark.parametrize(
    ("name", "head"),
    {"7z": b"7z\xbc\xaf\x27\x1c", "rar": b"Rar!\x1a\x07\0", "deb": b"!<arch>\ndebian-binary "}.items(),
)
def test_a_format_nobody_here_reads_is_a_skip(scan: Scan, name: str, head: bytes) -> None:
    reason = f"an archive ({name}) that can't be looked into"
    assert reasons(scan({"a": head + NOISE, "b.zip": zipped({"a": head})})) == {"a": reason, "b.zip!/a": reason}
    assert reasons(scan({"a": head + NOISE}, look=False)) == {}


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04", b"PK\x05\x06" + b"\xff" * 18, *(pack(LINE)[:11] for pack in PACK.values())]
)
def test_a_beginning_alone_is_a_skip(scan: Scan, content: bytes) -> None:
    found = scan({"a": content, "b": LINE})
    assert places(found) == ["b"]
    assert len(found.skips) == 1


def test_noise_behind_every_magic_ends_well(scan: Scan) -> None:
    heads = [pack(LINE)[:cut] for pack in PACK.values() for cut in (10, 14, 18)]
    heads += [zipped({"a": LINE})[:cut] for cut in (4, 30)]
    heads += [tarred({"a": LINE})[:512]]
    found = scan({f"f{number}": head + NOISE for number, head in enumerate(heads)})
    assert found.files == len(heads)
    assert len({skip.path for skip in found.skips}) >= len(heads) - 2


FRAGILE = ["app.jar", "lzma.zip", "gnu.tar", "pax.tar", *(f"files.tar.{pack}" for pack in PACK)]


@pytest.mark.parametrize("name", FRAGILE)
def test_any_damaged_byte_ends_well(scan: Scan, name: str) -> None:
    content = SPECIMENS[name][0]
    step = max(1, min(len(content), 2000) // 60)
    damaged = {
        f"f{position:05}": content[:position] + bytes([content[position] ^ 0x5A]) + content[position + 1 :]
        for position in range(0, min(len(content), 2000), step)
    }
    found = scan({**damaged, "z": LINE})
    assert found.files == len(damaged) + 1
    assert places(found)[-1] == "z"
    assert all(skip.lasting for skip in found.skips)


def test_hostile_names_are_only_texts(scan: Scan, tmp_path: Path) -> None:
    names = ["../../etc/cron.d/x", "/etc/passwd", "a\nb", "\x1b[31m", "x!/y", "C:\\x", ".", ""]
    for archive in (tarred, zipped):
        found = scan({"a": archive(dict.fromkeys(names, LINE))})
        assert len(found.hits) >= len(names) - 2
        assert not (tmp_path.parent / "etc").exists()
    raw = tarred({"f": LINE}).replace(b"f\0", b"\xff\0", 1)
    fixed = bytearray(raw)
    fixed[148:156] = b" " * 8
    fixed[148:156] = b"%06o\0 " % sum(fixed[:512])
    assert places(scan({"a": bytes(fixed)})) == ["a!/\udcff"]


def test_a_sparse_member_is_read_without_its_hole(scan: Scan) -> None:
    content = sparse_tar("sparse", LINE, 1 << 32)
    for packed in (content, gzip.compress(content)):
        found = scan({"a": packed})
        assert places(found) == ["a!/sparse"]
        assert found.skips == ()


def test_links_and_devices_of_a_tar_are_no_files(scan: Scan) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"f{number}")
            info.type, info.linkname = kind, "/etc/shadow"
            archive.addfile(info)
        info = tarfile.TarInfo("file")
        info.size = len(LINE)
        archive.addfile(info, io.BytesIO(LINE))
    found = scan({"a.tar": out.getvalue()})
    assert (places(found), found.skips) == (["a.tar!/file"], ())


# -- bombs ---------------------------------------------------------------------------------------------------


def test_depth_has_a_limit_and_what_lies_deeper_is_told(scan: Scan, limits: Set) -> None:
    limits(depth=3)
    content = LINE
    for _ in range(3):
        content = zipped({"x": content})
    assert places(scan({"a": content})) == ["a!/x!/x!/x"]
    found = scan({"a": zipped({"x": content})})
    assert places(found) == []
    assert reasons(found) == {"a!/x!/x!/x": "archives in archives, more than 3 deep: not looked into"}


def test_entries_have_a_limit_over_all_depths(scan: Scan, limits: Set) -> None:
    limits(entries=20)
    inner = zipped({f"f{number}": b"" for number in range(15)})
    found = scan({"a.zip": zipped({"0": LINE, "1": inner, "2": inner, "3": OTHER}), "b.zip": zipped({"x": OTHER})})
    assert places(found) == ["a.zip!/0", "b.zip!/x"]
    assert reasons(found) == dict.fromkeys(
        ("a.zip", "a.zip!/2"), "more than 20 entries: the rest is not looked into"
    )


@pytest.mark.parametrize("name", ["zip", "tar.gz", *PACK])
def test_bytes_have_a_limit_over_all_members(scan: Scan, limits: Set, name: str) -> None:
    limits(size_bytes=3 << 20)
    files = {"0": LINE, "1": bytes(2 << 20), "2": bytes(2 << 20), "3": OTHER}
    if name == "zip":
        content = zipped(files)
    elif name == "tar.gz":
        content = gzip.compress(tarred(files))
    else:
        content = PACK[name](b"".join(files.values()))
    found = scan({"a": content})
    inside = [hit for hit in found.hits if hit.member]  # zstd leaves some text as it is
    assert [hit.offset for hit in inside] == [6]
    assert "a" in reasons(found)
    reason = f"more than {3 << 20} bytes are packed in it: the rest is not looked into"
    assert {reason} <= set(reasons(found).values()) <= {reason, "ends too early"}


def test_a_bomb_is_known_by_its_ratio(scan: Scan, limits: Set) -> None:
    limits(ratio_from=1 << 20)
    found = scan({"bomb.gz": gzip.compress(LINE + bytes(20 << 20)), "fine.gz": gzip.compress(LINE + NOISE * 99)})
    assert len(found.hits) == 2
    assert reasons(found) == {
        "bomb.gz": "more than 250 times its size is packed in it: the rest is not looked into"
    }


def test_overlapping_members_are_bounded(scan: Scan, limits: Set) -> None:
    """Many members that all name the same bytes."""
    limits(ratio_from=1 << 20, size_bytes=10 << 20)
    content = bytearray(zipped({f"f{number:03}": bytes(1 << 20) if not number else b"" for number in range(200)}))
    first = content.find(b"PK\x01\x02")
    entry = bytes(content[first : first + 50])
    position = content.find(b"PK\x01\x02", first + 1)
    while position >= 0:
        content[position + 10 : position + 46] = entry[10:46]
        position = content.find(b"PK\x01\x02", position + 1)
    assert "bomb" in reasons(scan({"bomb": bytes(content)}))


def test_a_list_of_members_too_large_to_hold_is_a_skip(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST_ZIP_DIRECTORY", 2000)
    found = scan({"a.zip": zipped({f"f{number}": LINE for number in range(100)}), "b.zip": zipped({"x": LINE})})
    assert places(found) == ["b.zip!/x"]
    assert reasons(found) == {"a.zip": "its headers are larger than is looked at"}


def test_tar_headers_are_bounded(scan: Scan) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    bomb = gzip.compress(tarred({"a": LINE})[:1024] + header.tobuf() + bytes(8 << 20))
    tracemalloc.start()
    found = scan({"a.tar.gz": bomb})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert places(found) == ["a.tar.gz!/a"]
    assert reasons(found) == {"a.tar.gz": "its headers are larger than is looked at"}
    assert peak < 24 << 20


def test_a_chain_of_headers_is_bounded(scan: Scan) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
    found = scan({"a.tar": (header.tobuf() + b"n".ljust(512, b"\0")) * 900 + tarred({"a": LINE})})
    assert places(found) in (["a.tar"], ["a.tar!/n"])
    assert found.skips or found.hits[0].member


def test_a_held_archive_has_a_limit_and_beyond_it_is_streamed(scan: Scan, limits: Set) -> None:
    limits(held_bytes=10_000)
    noise = {f"n{number}": NOISE for number in range(2)}
    packed = tarred({**noise, "x": LINE})
    assert places(scan({"a.tar": tarred({"inner.tar": packed})})) == ["a.tar!/inner.tar!/x"]
    inner = zipped({**noise, "x": LINE}, zipfile.ZIP_STORED)
    found = scan({"b.tar.gz": gzip.compress(tarred({"inner.zip": inner}))})
    assert places(found) == ["b.tar.gz!/inner.zip"]  # its bytes are scanned
    assert reasons(found) == {
        "b.tar.gz!/inner.zip": "a zip of more than 10000 bytes in an archive: not looked into"
    }


def test_an_archive_that_holds_itself_ends(scan: Scan) -> None:
    """The limit of depth ends what has no end: a reader that gives the same archive for ever."""
    content = gzip.compress(LINE)
    for _ in range(50):
        content = gzip.compress(content)
    found = scan({"a.gz": content})
    assert [skip.reason for skip in found.skips] == ["archives in archives, more than 5 deep: not looked into"]


def test_a_window_or_dictionary_too_large_is_a_skip(scan: Scan) -> None:
    window = b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3]) + b"\x01\x00\x00"  # a window of 2 GB
    found = scan({"a.zst": window + NOISE})
    assert reasons(found) == {"a.zst!/a": "damaged (ZstdError)"}
