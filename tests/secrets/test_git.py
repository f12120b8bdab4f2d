"""Every object of a git repository is scanned, by its name where git knows one; nothing in it leads elsewhere."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest

from layerscope.model import XattrFamily
from layerscope.secrets import git, git_names, git_pack
from layerscope.secrets.bounded import Budget
from layerscope.secrets.engine import Scanner
from layerscope.secrets.hits import LayerScan
from layerscope.secrets.rules_file import own_rules
from layerscope.secrets.scan import LayerSource, Reach, scan_layers
from tests.secrets.specimens import github_token

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git makes the repositories")

TOKENS = [github_token(seed) for seed in range(8)]
LINES = [f"token {token}\n" for token in TOKENS]
NOISE = "".join(f"line {number} of a file that is long enough to be stored as a delta\n" for number in range(300))


@pytest.fixture(scope="module")
def scanner() -> Scanner:
    return Scanner(own_rules().select(only=["github-*", "environment-file-*"]))


class Layer:
    """A layer with a repository at ``srv/app``, made by git."""

    def __init__(self, path: Path, scanner: Scanner) -> None:
        self.path = path
        self.work = path / "srv/app"
        self.scanner = scanner
        self.commits = 0
        self.work.mkdir(parents=True)
        self.run("init", "--quiet", "--initial-branch=main")

    def run(self, *arguments: str, text: str = "") -> str:
        people = ("AUTHOR", "COMMITTER")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "a@b.c" for who in people for what in ("NAME", "EMAIL")},
            **{f"GIT_{who}_DATE": f"{1_700_000_000 + self.commits} +0000" for who in people},
        }
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.work,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self, files: dict[str, str], message: str = "change") -> str:
        self.commits += 1
        for name, content in files.items():
            path = self.work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.run("add", "--all", "--force")
        self.run("commit", "--quiet", "--message", message)
        return self.run("rev-parse", "HEAD")

    def pack(self) -> Path:
        self.run("repack", "-adfq", "--depth=50")
        self.run("prune-packed")
        (pack,) = (self.work / ".git/objects/pack").glob("*.pack")
        pack.chmod(0o644)
        return pack

    def scan(self, *, look: bool = True, jobs: int = 1) -> LayerScan:
        """The scan of what git keeps: the checked-out files are gone."""
        for path in self.work.iterdir():
            if path.name != ".git":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        source = LayerSource(str(self.path), XattrFamily.TRUSTED)
        ((_, found),) = scan_layers([source], self.scanner, jobs=jobs, reach=Reach(git=look))
        return found


@pytest.fixture
def layer(tmp_path: Path, scanner: Scanner) -> Layer:
    return Layer(tmp_path / "layer", scanner)


def places(found: LayerScan) -> list[str]:
    return sorted(hit.shown_path for hit in found.hits)


def reasons(found: LayerScan) -> list[str]:
    return [skip.reason for skip in found.skips]


def history(layer: Layer) -> dict[str, str]:
    """Commits in which tokens come and go, and where each is to be found."""
    first = layer.commit({"config/app.conf": NOISE + LINES[0], "README": NOISE})
    layer.commit({"config/app.conf": NOISE + "nothing\n", "README": NOISE + "more\n"})
    third = layer.commit({"config/app.conf": NOISE + LINES[1], "deep/er/file": LINES[2]})
    return {
        TOKENS[0]: f"srv/app/.git!/{first}:config/app.conf",
        TOKENS[1]: f"srv/app/.git!/{third}:config/app.conf",
        TOKENS[2]: f"srv/app/.git!/{third}:deep/er/file",
    }


@pytest.mark.parametrize("packed", [False, True])
def test_every_version_is_found_with_its_oldest_commit(layer: Layer, packed: bool) -> None:
    expected = history(layer)
    if packed:
        layer.pack()
    found = layer.scan()
    assert places(found) == sorted(expected.values())
    assert found.skips == ()
    for hit in found.hits:
        assert (layer.path / hit.path).is_file()
        assert hit.path.startswith("srv/app/.git/objects/")
    assert places(layer.scan(look=False)) == []


def test_packs_store_deltas_by_offset_or_by_id(layer: Layer) -> None:
    expected = history(layer)
    layer.run("config", "repack.useDeltaBaseOffset", "false")
    layer.pack()
    assert places(layer.scan()) == sorted(expected.values())


def test_objects_that_nothing_refers_to_are_found(layer: Layer) -> None:
    layer.commit({"README": "x\n"})
    lost = layer.commit({"secret.txt": LINES[0]})
    layer.run("reset", "--quiet", "--hard", "HEAD~1")
    shutil.rmtree(layer.work / ".git/logs")
    blob = layer.run("hash-object", "-w", "--stdin", text=LINES[1])
    (layer.work / "added").write_text(LINES[2])
    layer.run("add", "added")
    staged = layer.run("rev-parse", ":added")
    layer.run("rm", "--cached", "--quiet", "added")
    found = layer.scan()
    assert places(found) == sorted(
        [f"srv/app/.git!/{lost}:secret.txt", f"srv/app/.git!/{blob}", f"srv/app/.git!/{staged}"]
    )


def test_a_tree_without_its_commit_still_names_its_files(layer: Layer) -> None:
    commit = layer.commit({"conf/.env": "DB_PASSWORD=hx72Kd9sQwzP\n"})
    (layer.work / f".git/objects/{commit[:2]}/{commit[2:]}").unlink()
    found = layer.scan()
    assert [(hit.member or "").partition(":")[2] for hit in found.hits] == ["conf/.env"]


def test_messages_of_commits_and_tags_are_scanned(layer: Layer) -> None:
    commit = layer.commit({"x": "x"}, message=f"use {TOKENS[0]}")
    layer.run("tag", "--annotate", "v1", "--message", LINES[1])
    tag = layer.run("rev-parse", "v1")
    found = [place for place in places(layer.scan()) if "!/" in place]  # git notes messages in plain files, too
    assert found == sorted([f"srv/app/.git!/{commit}", f"srv/app/.git!/{tag}"])


def test_a_value_that_stays_is_told_once_for_its_file(layer: Layer) -> None:
    layer.commit({"conf": NOISE + LINES[0]})
    for number in range(5):
        layer.commit({"conf": NOISE + LINES[0] + f"{number}\n"})
    layer.pack()
    found = layer.scan()
    assert len(found.hits) == 1
    assert (found.hits[0].member or "").endswith(":conf")


def test_objects_of_a_sha256_repository(layer: Layer, tmp_path: Path, scanner: Scanner) -> None:
    shutil.rmtree(layer.work / ".git")
    layer.run("init", "--quiet", "--object-format=sha256", "--initial-branch=main")
    expected = history(layer)
    assert places(layer.scan()) == sorted(expected.values())
    layer.run("reset", "--quiet", "--hard")
    layer.pack()
    assert places(layer.scan()) == sorted(expected.values())


def test_bare_repositories_and_submodules_are_known(layer: Layer) -> None:
    expected = history(layer)
    (layer.work / ".git").rename(layer.path / "srv/mirror.git")
    assert places(layer.scan()) == sorted(place.replace("app/.git", "mirror.git") for place in expected.values())


def test_workers_find_the_same(layer: Layer) -> None:
    history(layer)
    layer.pack()
    assert layer.scan() == layer.scan(jobs=2)


def test_nothing_leads_out_of_the_layer(layer: Layer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Layer(tmp_path / "other", layer.scanner)
    history(other)
    pack = other.pack()
    layer.commit({"x": "x"})
    objects = layer.work / ".git/objects"
    (objects / "info").mkdir(exist_ok=True)
    (objects / "info/alternates").write_text(f"{pack.parent.parent}\n")
    (objects / f"pack/pack-{'0' * 40}.pack").symlink_to(pack)
    (objects / "ab").symlink_to(pack.parent.parent)
    (layer.work / ".git/config").write_text(f"[core]\n\tworktree = {other.work}\n[include]\n\tpath = /etc/shadow\n")
    opened: list[str] = []
    real = os.open

    def note(path: str, *arguments: object, **options: object) -> int:
        opened.append(os.fsdecode(path))
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", note)
    found = layer.scan()
    assert places(found) == []
    assert not [path for path in opened if "other" in path or "shadow" in path]


def test_git_itself_knows_the_same_objects(layer: Layer) -> None:
    for round_ in range(4):
        files = {f"d{number % 3}/f{number}": NOISE[number:] + "x" * round_ * number for number in range(20)}
        layer.commit({**files, "large": NOISE * 3 + str(round_)})
        layer.run("tag", "--annotate", f"v{round_}", "--message", "x")
    pack = layer.pack()
    listed = layer.run("cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype) %(objectsize)")
    found = []
    with pack.open("rb") as file:
        objects = git_pack.GitPack(file, "sha1", Budget(git.LIMITS, pack.stat().st_size))
        for kinds in ((1, 2, 4), (3,)):
            for one in objects.objects(file, kinds):
                assert isinstance(one.content, bytes)
                found.append(f"{one.id.hex()} {git_pack.KIND_NAMES[one.kind].decode()} {len(one.content)}")
    assert sorted(found) == sorted(listed.splitlines())
    assert (objects.problem, objects.lost()) == (None, 0)
    deltas = layer.run("cat-file", "--batch-all-objects", "--batch-check=%(deltabase)").splitlines()
    assert len([base for base in deltas if base.strip("0")]) > 10


# -- damage and limits ---------------------------------------------------------------------------------------


def test_a_damaged_pack_is_told_and_read_up_to_there(layer: Layer) -> None:
    history(layer)
    pack = layer.pack()
    content = pack.read_bytes()
    pack.write_bytes(content[: len(content) * 2 // 3])
    assert any("there may be objects that were not read" in reason for reason in reasons(layer.scan()))
    pack.write_bytes(content[:40] + b"\xff" * 60 + content[100:])
    assert any("there may be objects that were not read" in reason for reason in reasons(layer.scan()))
    for noise in (b"", b"PACK", b"no pack at all", b"PACK\0\0\0\2\xff\xff\xff\xff" + b"\xff" * 1000):
        pack.write_bytes(noise)
        found = layer.scan()
        assert found.hits == ()
        assert len(found.skips) == 1


def test_any_damaged_byte_ends_well(layer: Layer) -> None:
    history(layer)
    pack = layer.pack()
    content = pack.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 60)):
        pack.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        layer.scan()


def test_a_damaged_loose_object_is_told(layer: Layer) -> None:
    blob = layer.run("hash-object", "-w", "--stdin", text=NOISE + LINES[0])
    path = layer.work / f".git/objects/{blob[:2]}/{blob[2:]}"
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert reasons(layer.scan()) == ["ends too early"]
    path.write_bytes(b"plain text")
    assert reasons(layer.scan()) == ["damaged (error)"]
    path.write_bytes(zlib.compress(b"thing 3\0abc"))
    assert reasons(layer.scan()) == ["no git object"]
    path.write_bytes(LINES[0].encode())
    assert places(layer.scan()) == [f"srv/app/.git/objects/{blob[:2]}/{blob[2:]}"]  # the file's own bytes


def entry(kind: int, size: int, content: bytes, base: bytes = b"") -> bytes:
    """One object of a pack."""
    header = [kind << 4 | size & 15]
    size >>= 4
    while size:
        header[-1] |= 128
        header.append(size & 127)
        size >>= 7
    return bytes(header) + base + zlib.compress(content)


def packed(*entries: bytes) -> bytes:
    body = b"PACK\0\0\0\2" + len(entries).to_bytes(4, "big") + b"".join(entries)
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def write_pack(layer: Layer, content: bytes) -> None:
    path = layer.work / f".git/objects/pack/pack-{'1' * 40}.pack"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_deltas_that_claim_too_much_are_counted(layer: Layer) -> None:
    line = LINES[0].encode()
    blob = entry(git_pack.BLOB, len(line), line)
    for size in (1 << 62, git_pack.MOST_OBJECT + 1, 10**40):
        delta = number(len(line)) + number(size) + b"\x90\x06"
        assert len(blob) < 128
        write_pack(layer, packed(blob, entry(6, len(delta), delta, bytes([len(blob)]))))
        found = layer.scan()
        assert len(found.hits) == 1
        assert reasons(found) == ["1 of its objects could not be restored from their deltas"]


def test_a_delta_without_its_base_is_counted(layer: Layer) -> None:
    write_pack(layer, packed(entry(7, 3, b"\3\3\0", b"\x12" * 20), entry(6, 3, b"\3\3\0", b"\x05")))
    assert reasons(layer.scan()) == ["2 of its objects could not be restored from their deltas"]


def test_an_object_that_claims_to_be_huge_is_no_end(layer: Layer) -> None:
    for kind in (1, 2, 3, 4, 6, 7):
        write_pack(
            layer, packed(entry(kind, 1 << 60, LINES[0].encode(), b"\x05" * (20 if kind == 7 else kind == 6)))
        )
        found = layer.scan()
        assert found.skips or found.hits
    write_pack(layer, packed(b"\xff" * 5000))
    assert len(layer.scan().skips) == 1


def test_a_large_blob_is_streamed(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_pack, "MOST_OBJECT", 5000)
    monkeypatch.setattr(git, "MOST_OBJECT", 5000)
    commit = layer.commit({"large": NOISE + LINES[0]})
    expected = [f"srv/app/.git!/{commit}:large"]
    assert places(layer.scan()) == expected
    layer.run("checkout", "--quiet", ".")
    layer.pack()
    assert places(layer.scan()) == expected


def test_limits_are_told(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    history(layer)
    default = git.Repository.__init__.__defaults__
    monkeypatch.setattr(git.Repository.__init__, "__defaults__", (git.Limits(entries=5),))
    assert any("more than 5 entries" in reason for reason in reasons(layer.scan()))
    layer.run("checkout", "--quiet", ".")
    layer.pack()
    assert any("more than 5 entries" in reason for reason in reasons(layer.scan()))
    monkeypatch.setattr(git.Repository.__init__, "__defaults__", (git.Limits(size_bytes=1000),))
    assert any("more than 1000 bytes" in reason for reason in reasons(layer.scan()))
    monkeypatch.setattr(git.Repository.__init__, "__defaults__", default)
    monkeypatch.setattr(git_names, "MOST_NAMES", 1)
    found = layer.scan()
    assert len(found.hits) == 3
    assert reasons(found) == ["not all of its trees were read: some files are scanned without their names"]


def test_what_deltas_wait_for_is_bounded(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    history(layer)
    layer.pack()
    monkeypatch.setattr(git_pack, "MOST_HELD", 100)
    found = layer.scan()
    assert any("could not be restored" in reason for reason in reasons(found))
