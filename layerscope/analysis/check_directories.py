"""What ``check`` finds in ``overlay2/``: ``link``, ``lower``, ``l/`` and ``work`` against each other and layerdb.

Only directories that a record refers to are held to it; ``orphans`` tells of the others. Pure.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from layerscope.analysis.problems import Code, Problem
from layerscope.analysis.standing import Standing
from layerscope.analysis.store_state import Directory, State
from layerscope.model import CacheId
from layerscope.stores import records
from layerscope.stores.overlay2 import DRIVER

_LINK_TARGET: Final = re.compile(r"\.\./([^/]+)/diff")


def directory_problems(state: State) -> Iterator[Problem]:
    """The problems of the directories and short links, in no order."""
    yield from _Directories(state).problems()


class _Directories:
    def __init__(self, state: State) -> None:
        self.state = state
        self.standing = Standing(state)
        self.targets = {link: _target(target) for link, target in state.links.items()}
        """The directory that each short link leads to."""
        self.databases = {build.path for build in state.builds}
        self.by_link: defaultdict[str, list[CacheId]] = defaultdict(list)
        for cache_id, directory in state.directories.items():
            if directory.link:
                self.by_link[directory.link].append(cache_id)

    def problems(self) -> Iterator[Problem]:
        for path in self.state.strangers:
            yield Problem(Code.UNKNOWN_ENTRY, self.state.root.join(path), "is no name that the engine gives")
        for cache_id, path in self.standing.referenced.items():
            directory = self.state.directories.get(cache_id)
            if directory is None:
                message = f"names {self.state.directory_path(cache_id)}, which is not there"
                code = Code.BUILD_CACHE if path in self.databases else Code.MISSING_DIRECTORY
                yield self._problem(code, cache_id, path, message)
                continue
            yield from self._link(cache_id, directory)
            yield from self._lower(cache_id, directory)
            if "diff" not in directory.names:
                diff = self.state.directory_path(cache_id, "diff")
                yield self._problem(Code.MISSING_DIFF, cache_id, diff, "is missing")
        yield from self._work()
        for link, target in self.targets.items():
            if target is None or target not in self.state.directories:
                path = self.state.root.join(DRIVER, "l", link)
                yield Problem(
                    Code.DANGLING_LINK, path, f"leads to {self._shown(link)}, which is no layer directory"
                )

    def _link(self, cache_id: CacheId, directory: Directory) -> Iterator[Problem]:
        path, link = self.state.directory_path(cache_id, "link"), directory.link
        trouble = dict(directory.trouble).get("link")
        if link is None or records.link_id(link) is None:
            wrong = "is missing" if link is None else f"holds {link[:80]!r}, which is no short name of a layer"
            yield self._problem(Code.BROKEN_LINK, cache_id, path, trouble or ("is empty" if link == "" else wrong))
            return
        if len(self.by_link[link]) > 1:
            others = ", ".join(sorted(set(self.by_link[link]) - {cache_id}))
            yield self._problem(Code.DUPLICATE_LINK, cache_id, path, f"holds {link}, as that of {others} does")
        short = self.state.root.join(DRIVER, "l", link)
        if link not in self.state.links:
            yield self._problem(Code.MISSING_SHORT_LINK, cache_id, short, f"is missing, though {path} names it")
        elif self.targets[link] != cache_id and len(self.by_link[link]) == 1:
            message = f"leads to {self._shown(link)}, though {path} names it"
            yield self._problem(Code.WRONG_SHORT_LINK, cache_id, short, message)

    def _lower(self, cache_id: CacheId, directory: Directory) -> Iterator[Problem]:
        path, lower = self.state.directory_path(cache_id, "lower"), directory.lower
        trouble = dict(directory.trouble).get("lower")
        expected = self.standing.below.get(cache_id)
        if trouble is None and lower is None:
            if expected:
                yield self._problem(Code.BROKEN_LOWER, cache_id, path, "is missing, though it has layers below it")
            return
        named, wrong = self._resolve((lower or "").split(":"))
        trouble = trouble or ("is empty" if lower == "" else wrong)
        if trouble is None and (len(set(named)) < len(named) or cache_id in named):
            trouble = "names a layer twice"
        if trouble is not None:
            yield self._problem(Code.BROKEN_LOWER, cache_id, path, trouble)
        elif expected is not None and tuple(named) != expected:
            message = f"puts it on {_chain(named)}; by layerdb it stands on {_chain(expected)}"
            yield self._problem(Code.LOWER_ORDER, cache_id, path, message)

    def _resolve(self, entries: Sequence[str]) -> tuple[list[CacheId], str | None]:
        """The directories that entries of ``lower`` name, and what is wrong with one of them."""
        found: list[CacheId] = []
        for entry in entries:
            prefix, _, link = entry.partition("/")
            if prefix != "l" or records.link_id(link) is None:
                return found, f"has an entry that is no short link: {entry[:80]!r}"
            # By who calls itself so: a link that is missing, or leads elsewhere, is a problem of its own.
            claimed = self.by_link.get(link, [])
            target = claimed[0] if len(claimed) == 1 else self.targets.get(link)
            if target is None:
                return found, f"names the short link {link}, which is not there"
            found.append(target)
        return found, None

    def _work(self) -> Iterator[Problem]:
        """A read-write layer needs a work directory; one that is committed does not."""
        for mount in self.state.mounts.values():
            directory = self.state.directories.get(mount.mount_id) if mount.mount_id is not None else None
            if mount.mount_id is None or directory is None or not directory.lower:
                continue
            if directory.names.isdisjoint(("work", "committed")):
                path = self.state.directory_path(mount.mount_id, "work")
                yield self._problem(Code.MISSING_WORK, mount.mount_id, path, "is missing")

    def _shown(self, link: str) -> str:
        target = self.state.links.get(link)
        return "nothing" if target is None else repr(target[:80])

    def _problem(self, code: Code, cache_id: CacheId, path: str, message: str) -> Problem:
        return Problem(code, path, message, self.standing.users_of_directory(cache_id))


def _target(text: str | None) -> CacheId | None:
    match = _LINK_TARGET.fullmatch(text) if text is not None else None
    return records.cache_id(match[1]) if match is not None else None


def _chain(chain: Sequence[CacheId]) -> str:
    """Top first, as the file has it."""
    return (
        " on ".join(cache_id[:12] + ("-init" if cache_id.endswith("-init") else "") for cache_id in chain)
        or "nothing"
    )
