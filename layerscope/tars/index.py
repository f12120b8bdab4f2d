"""What a layer's tar holds, as the directory tree that an engine would unpack it to. In memory, in columns.

Sources: OCI image-spec ``layer.md`` (whiteouts), and moby/go-archive ``archive.go`` (``Unpack``): names are cleaned
and taken from the layer's root, missing parents are made, symlinks among the parents lead where they lead in the
layer, a later member replaces an earlier one unless both are directories. What the engine refuses is left out, and
noted.
"""

from __future__ import annotations

import hashlib
import os
import stat as st
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from layerscope.tars.header import BLOCK_DEVICE as BLOCK_NODE
from layerscope.tars.header import CHAR, DIRECTORY, FIFO, HARD_LINK, REGULAR, SYMLINK, Header
from layerscope.tars.stream import DamagedTarError, TarMember, TarStream

MOST_ENTRIES: Final = 5_000_000
"""Of one layer. An entry takes about 300 bytes of memory."""
MOST_TEXT_BYTES: Final = 1 << 29
"""Of all names, targets of symlinks and xattrs of one layer."""
MOST_DEPTH: Final = 4096
"""Components of a path, as many as the kernel takes (``PATH_MAX``, half of it)."""
MOST_LINKS: Final = 40
"""Symlinks among the parents of one path, as in the kernel."""
MOST_NOTES: Final = 20
"""Of one kind that are told one by one."""
ROOT: Final = 0
_WHITEOUT: Final = ".wh."
_METADATA: Final = ".wh..wh."
_OPAQUE: Final = ".wh..wh..opq"
_FORMATS: Final = {
    **dict.fromkeys(REGULAR, st.S_IFREG),
    SYMLINK: st.S_IFLNK,
    CHAR: st.S_IFCHR,
    BLOCK_NODE: st.S_IFBLK,
    DIRECTORY: st.S_IFDIR,
    FIFO: st.S_IFIFO,
}
_DIRECTORY_MODE: Final = st.S_IFDIR | 0o755
_WHITEOUT_MODE: Final = st.S_IFCHR
_NOTHING: Final[Mapping[str, bytes]] = {}
_INT64: Final = (1 << 63) - 1
Names = dict[str, int]
"""A directory: its names, and the number of what each stands for."""


Take = Callable[[int, TarMember, Iterator[bytes]], None]
"""What wants the content of every file while it passes by: gets the number of its inode, and the content."""


def read_index(stream: TarStream, *, digests: bool, take: Take | None = None) -> TarIndex:
    """Read a tar to its end, whatever is wrong with it; with ``digests`` of all its files.

    Errors of reading end the tree, and are noted like damage.
    """
    index = TarIndex()
    try:
        for member in stream.members():
            number = index.add(member)
            if number is None or not (digests or take is not None):
                continue
            digest = hashlib.sha256()
            chunks = _digested(stream.content(), digest) if digests else stream.content()
            if take is not None:
                take(number, member, chunks)
            for _ in chunks:
                pass
            if digests:
                index.digests[number] = digest.digest()
    except DamagedTarError as error:
        index.damage(str(error))
        stream.drain()
    except OSError as error:
        index.damage(error.strerror or str(error))
    else:
        if stream.trailing_data:
            index.notes.append(("", "something follows the end of the tar, which no engine reads"))
    index.finish()
    return index


def _digested(chunks: Iterator[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


class TarIndex:
    """The tree of one tar. Numbers stand for inodes; ``ROOT`` is the root directory."""

    def __init__(self) -> None:
        self.modes = array("I")
        self.uids = array("I")
        self.gids = array("I")
        self.sizes = array("q")
        self.mtimes = array("q")
        """In nanoseconds."""
        self.offsets = array("q")
        """Where a regular file's content begins in the tar."""
        self.children: dict[int, Names] = {}
        """Of every directory."""
        self.targets: dict[int, str] = {}
        self.devices: dict[int, int] = {}
        self.xattrs: dict[int, Mapping[str, bytes]] = {}
        self.links: dict[int, int] = {}
        """How many names an inode has, where it is not one."""
        self.opaque: set[int] = set()
        self.sparse: set[int] = set()
        """Files whose holes are left out in the tar: their content can't be read."""
        self.digests: dict[int, bytes] = {}
        """SHA-256 of the content, where it was taken."""
        self.notes: list[tuple[str, str]] = []
        """What an engine refuses, and what is damaged: path (``""`` for the whole) and what is wrong."""
        self.damage_done: str | None = None
        """Why the tar does not go on."""
        """Whether something is missing because the tar does not go on."""
        self.members = 0
        """How many the tar has."""
        self._implied: set[int] = set()
        """Directories that are there for what lies in them, and have no member of their own yet."""
        self._text_bytes = 0
        self._told: dict[str, int] = {}
        self._parents: dict[str, int] = {}
        """The directories in which members were met, by path as it was written."""
        self._new(_DIRECTORY_MODE, 0, 0, 0, 0, 0)
        self.children[ROOT] = {}

    def __len__(self) -> int:
        return len(self.modes)

    @property
    def size_bytes(self) -> int:
        """Of everything but directories, each inode once."""
        seen: set[int] = set()
        total = 0
        for names in self.children.values():
            for number in names.values():
                if number not in self.links:
                    total += self.sizes[number]
                elif number not in seen:
                    seen.add(number)
                    total += self.sizes[number]
        return total

    def is_file(self, number: int) -> bool:
        return st.S_ISREG(self.modes[number])

    # -- making it -------------------------------------------------------------------------------------------

    def add(self, member: TarMember) -> int | None:
        """Take in the next member: the number of its inode if it is a regular file with content of its own.

        Raises DamagedTarError when there are more than are held in memory.
        """
        self.members += 1
        self._text_bytes += len(member.name) + len(member.header.link)
        if member.header.xattrs:
            self._text_bytes += sum(map(len, member.header.xattrs.values()))
        if len(self.modes) >= MOST_ENTRIES:
            raise DamagedTarError(f"more than {MOST_ENTRIES:,} entries")
        if self._text_bytes > MOST_TEXT_BYTES:
            raise DamagedTarError(f"more than {MOST_TEXT_BYTES >> 20} MiB of names and attributes")
        parent_path, name = self._split(member.name)
        if parent_path is None:
            return None
        header = member.header
        if not name:
            if header.type == DIRECTORY:
                self._attributes(ROOT, _DIRECTORY_MODE & ~0o7777 | header.mode, header)
            return None
        if name.startswith(_WHITEOUT):
            self._mark(parent_path, name, header)
            return None
        if header.type != HARD_LINK and header.type not in _FORMATS:
            self._note(member.name, "of a type that no engine unpacks; left out")
            return None
        parent = self._directory(parent_path, member.name)
        if parent is None:
            return None
        if header.type == HARD_LINK:
            self._link(parent, name, member)
            return None
        return self._put(parent, name, member)

    def finish(self) -> None:
        """Say that all members are in, or that no more will be."""
        self._parents.clear()
        self._implied.clear()
        for why, count in self._told.items():
            if count > MOST_NOTES:
                self.notes.append(("", f"{count - MOST_NOTES} more paths: {why}"))
        self._told.clear()

    @property
    def damaged(self) -> bool:
        return self.damage_done is not None

    def damage(self, why: str) -> None:
        """Note that the tar does not go on."""
        self.damage_done = why
        self.notes.append(("", f"{why}; what follows is left out"))

    def _split(self, written: str) -> tuple[str | None, str]:
        """Parent and name of a cleaned path; no parent for what is no path."""
        path = written
        if "//" in path or "/." in path or path[:1] in ("", ".", "/") or path[-1] == "/":
            path = _clean(path)
        if "\0" in path or path.count("/") > MOST_DEPTH:
            self._note(written[:100], "no path that a file system has; left out")
            return None, ""
        parent, _, name = path.rpartition("/")
        return parent, name

    def _directory(self, path: str, written: str) -> int | None:
        """The directory at a path, made if it is missing; None where something else is in the way."""
        number = self._parents.get(path)
        if number is None:
            number = self._find(path, written)
            if number is not None:
                self._parents[path] = number
        return number

    def _find(self, path: str, written: str, *, make: bool = True) -> int | None:
        """The directory that a path leads to, also through symlinks; what is missing is made if so wished."""
        left = path.split("/")[::-1] if path else []
        own = len(left)
        """How many of those that are left stand in the path itself, and not in a symlink."""
        above = [ROOT]
        links = 0
        while left:
            own, in_link = min(own, len(left)), len(left) > own
            name = left.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(above) > 1:
                    above.pop()
                continue
            names = self.children[above[-1]]
            number = names.get(name)
            if number is None:
                if in_link or not make:
                    if make:
                        self._note(written, "lies behind a symlink to nothing; left out, and an engine refuses it")
                    return None
                number = names[name] = self._new(_DIRECTORY_MODE, 0, 0, 0, 0, 0)
                self.children[number] = {}
                self._implied.add(number)
            elif number in self.targets:
                links += 1
                target = self.targets[number]
                if links > MOST_LINKS or len(left) + target.count("/") > MOST_DEPTH:
                    self._note(written, "lies behind too many symlinks; left out, and an engine refuses it")
                    return None
                if target.startswith("/"):
                    above = [ROOT]
                own = min(own, len(left))
                left += target.split("/")[::-1]
                continue
            elif number not in self.children:
                self._note(written, "lies below something that is no directory; left out, and an engine refuses it")
                return None
            above.append(number)
        return above[-1]

    def _mark(self, parent_path: str, name: str, header: Header) -> None:
        """A whiteout, or the mark of an opaque directory."""
        where = f"{parent_path}/{name}".lstrip("/")
        if name == _OPAQUE:
            parent = self._directory(parent_path, where)
            if parent is not None:
                self.opaque.add(parent)
            return
        hidden = name[len(_WHITEOUT) :]
        if name.startswith(_METADATA):
            return  # of AUFS, and no file
        if hidden in ("", ".", ".."):
            self._note(where, "a whiteout of nothing; left out")
            return
        parent = self._directory(parent_path, where)
        if parent is None:
            return
        names = self.children[parent]
        there = names.get(hidden)
        if there is None:
            names[hidden] = self._new(_WHITEOUT_MODE, header.uid, header.gid, 0, header.mtime_ns, 0)
        elif self.modes[there] != _WHITEOUT_MODE:
            self._note(where, "a whiteout of what the same layer holds, which stays; an engine refuses it")
            if there in self.children:
                self.opaque.add(there)

    def _link(self, parent: int, name: str, member: TarMember) -> None:
        """Another name of a file of this layer."""
        above, base = self._split(member.header.link)
        if above is None or not base:
            return
        holder = self._find(above, member.name, make=False)
        number = self.children[holder].get(base) if holder is not None else None
        if number is None or number in self.children or self.modes[number] == _WHITEOUT_MODE:
            self._note(member.name, "a hard link to nothing in its layer; left out, and an engine refuses it")
            return
        names = self.children[parent]
        if names.get(name) == number:
            return
        if name in names and self.modes[names[name]] != _WHITEOUT_MODE:
            self._note(member.name, "comes again: the later one counts; Docker's classic store refuses it")
        self._remove(names, name)
        names[name] = number
        self.links[number] = self.links.get(number, 1) + 1

    def find_directory(self, path: str) -> int | None:
        """A directory that exists, without symlinks on the way."""
        number = ROOT
        for name in path.split("/") if path else ():
            below = self.children[number].get(name)
            if below is None or below not in self.children:
                return None
            number = below
        return number

    def _put(self, parent: int, name: str, member: TarMember) -> int | None:
        header = member.header
        mode = _FORMATS[header.type] | header.mode
        names = self.children[parent]
        there = names.get(name)
        if there is not None:
            if self.modes[there] != _WHITEOUT_MODE and there not in self._implied:
                self._note(member.name, "comes again: the later one counts; Docker's classic store refuses it")
            if there in self.children and header.type == DIRECTORY:
                self._implied.discard(there)
                self._attributes(there, mode, header)
                return None
            self._remove(names, name)
        size = member.size_bytes if header.is_regular else 0
        if header.type == SYMLINK:
            size = len(os.fsencode(header.link))
        number = names[name] = self._new(mode, header.uid, header.gid, size, header.mtime_ns, member.offset)
        if header.xattrs:
            self._set_xattrs(number, header)
        if header.type == DIRECTORY:
            self.children[number] = {}
        elif header.type == SYMLINK:
            self.modes[number], self.targets[number] = st.S_IFLNK | 0o777, header.link
        elif header.type in (CHAR, BLOCK_NODE):
            self.devices[number] = os.makedev(*(part & 0xFFFFF for part in header.device))
        elif header.is_sparse:
            self.sparse.add(number)
            self.sizes[number] = max(0, min(member.real_bytes or size, _INT64))
            self._note(member.name, "a sparse file, of which the tar has no plain content: it can't be read")
            return None
        return number if size and header.is_regular else None

    def _attributes(self, number: int, mode: int, header: Header) -> None:
        """Give a directory that is there the attributes of a member."""
        self.modes[number] = mode
        self.uids[number], self.gids[number] = header.uid & 0xFFFFFFFF, header.gid & 0xFFFFFFFF
        self.mtimes[number] = _clamped(header.mtime_ns)
        if header.xattrs:
            self._set_xattrs(number, header)

    def _set_xattrs(self, number: int, header: Header) -> None:
        """Beside those that are there. An empty PAX record says that there is none (Go: ``mergePAX``)."""
        told = {name: value for name, value in header.xattrs.items() if value}
        self.xattrs[number] = {**self.xattrs.get(number, _NOTHING), **told}

    def _remove(self, names: Names, name: str) -> None:
        """Make room for a member that replaces an earlier one."""
        number = names.pop(name, None)
        if number is None:
            return
        if number in self.children or number in self.targets:
            self._parents.clear()
        pending = [number]
        while pending:
            number = pending.pop()
            count = self.links.get(number, 1) - 1
            if count > 1:
                self.links[number] = count
            else:
                self.links.pop(number, None)
            pending += self.children.pop(number, {}).values()

    def _new(self, mode: int, uid: int, gid: int, size: int, mtime: int, offset: int) -> int:
        self.modes.append(mode)
        self.uids.append(uid & 0xFFFFFFFF)
        self.gids.append(gid & 0xFFFFFFFF)
        self.sizes.append(size)
        self.mtimes.append(_clamped(mtime))
        self.offsets.append(offset)
        return len(self.modes) - 1

    def _note(self, path: str, why: str) -> None:
        self._told[why] = self._told.get(why, 0) + 1
        if self._told[why] <= MOST_NOTES:
            self.notes.append((path, why))


def _clamped(number: int) -> int:
    return max(-_INT64, min(number, _INT64))


def _clean(path: str) -> str:
    """A path from the layer's root, which nothing leads out of: an engine unpacks with that as its own root."""
    clean: list[str] = []
    for part in path.split("/"):
        if part == "..":
            clean[-1:] = []
        elif part not in ("", "."):
            clean.append(part)
    return "/".join(clean)
