"""Patterns as trees over bytes, and what can be read off them: width, text they cannot match without, a trigger.

A pattern is matched against bytes. It is written for two engines from one tree: Python's ``re`` (with groups)
and hyperscan (without). Every class is spelled out byte by byte, so both mean the same by ``\\s`` or ``.``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

WIDEST: Final = 8192
"""No match is longer than this many bytes: what lies beyond is not looked at. Open patterns end here."""

TRIGGER_WIDTH: Final = 400
"""Hyperscan is given at most about this much of a pattern; the rest is left to the confirmation."""

WIDE_REPEAT: Final = 64

Data: TypeAlias = bytes | bytearray
"""What is searched."""

Mask: TypeAlias = int
"""A set of bytes: bit ``b`` is set when byte ``b`` belongs to it."""


@dataclass(frozen=True, slots=True)
class Class:
    """One byte out of a set."""

    mask: Mask


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    item: Node
    least: int
    most: int | None
    greedy: bool = True


@dataclass(frozen=True, slots=True)
class Group:
    """A capturing group; groups are numbered in the order in which they open, from 1."""

    item: Node
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place between bytes: ``start`` and ``end`` of the text or of a line, a word ``boundary`` or none."""

    kind: str


Node: TypeAlias = Class | Sequence | Choice | Repeat | Group | Anchor

_PYTHON: Final = {
    "start": r"\A",
    "end": r"\Z",
    "line-start": "(?m:^)",
    "line-end": "(?m:$)",
    "boundary": r"\b",
    "no-boundary": r"\B",
}
_HYPERSCAN: Final = _PYTHON | {"start": "^", "end": "$", "line-start": "^", "line-end": "$"}
"""Hyperscan sees several small files in one buffer: for it, a file begins and ends where a line does."""


def python_source(node: Node) -> bytes:
    """The pattern for ``re.compile``, without flags."""
    return _write(node, _PYTHON, capture=True).encode("ascii")


def hyperscan_source(node: Node) -> bytes:
    """The pattern for hyperscan with HS_FLAG_MULTILINE, without groups."""
    return _write(node, _HYPERSCAN, capture=False).encode("ascii")


def _write(node: Node, anchors: dict[str, str], capture: bool) -> str:
    match node:
        case Class(mask):
            return _write_class(mask)
        case Sequence(items):
            return "".join(_write(item, anchors, capture) for item in items)
        case Choice(options):
            return "(?:" + "|".join(_write(option, anchors, capture) for option in options) + ")"
        case Group(item, name):
            opening = "(?:" if not capture else f"(?P<{name}>" if name else "("
            return opening + _write(item, anchors, capture) + ")"
        case Anchor(kind):
            return anchors[kind]
        case Repeat(item, least, most, greedy):
            inner = _write(item, anchors, capture)
            if not isinstance(item, Class | Group | Choice):
                inner = f"(?:{inner})"
            counts = f"{{{least}}}" if most == least else f"{{{least},{'' if most is None else most}}}"
            return inner + counts + ("" if greedy or most == least else "?")


@lru_cache(1024)  # few sets, used over and over
def _write_class(mask: Mask) -> str:
    members = list(bytes_of(mask))
    if len(members) == 1:
        return _write_byte(members[0])
    if len(members) == 256:
        return r"[\x00-\xff]"
    ranges: list[list[int]] = []
    for byte in members:
        if ranges and ranges[-1][1] == byte - 1:
            ranges[-1][1] = byte
        else:
            ranges.append([byte, byte])
    spans = (_write_byte(low) + (f"-{_write_byte(high)}" if high > low else "") for low, high in ranges)
    return "[" + "".join(spans) + "]"


def _write_byte(byte: int) -> str:
    text = chr(byte)
    return text if text.isascii() and text.isalnum() else f"\\x{byte:02x}"


def bytes_of(mask: Mask) -> Iterator[int]:
    """The members of a set, ascending."""
    return (byte for byte in range(256) if mask >> byte & 1)


def width(node: Node) -> tuple[int, int | None]:
    """The least and the greatest number of bytes a match can have; None when nothing limits it."""
    match node:
        case Class():
            return 1, 1
        case Anchor():
            return 0, 0
        case Group(item):
            return width(item)
        case Sequence(items):
            widths = [width(item) for item in items]
            highs = [high for _, high in widths]
            return sum(low for low, _ in widths), None if None in highs else sum(high or 0 for high in highs)
        case Choice(options):
            widths = [width(option) for option in options]
            highs = [high for _, high in widths]
            return min(low for low, _ in widths), None if None in highs else max(high or 0 for high in highs)
        case Repeat(item, least, most):
            low, high = width(item)
            if high == 0 or most == 0:
                return 0, 0
            return low * least, None if most is None or high is None else high * most


def needed_literals(node: Node) -> frozenset[bytes]:
    """Lower-case texts of which every match holds at least one, in any case; empty when none is known."""
    return _literals(node) or frozenset()


def _literals(node: Node) -> frozenset[bytes] | None:
    match node:
        case Class(mask):
            folded = _letter(mask)
            return None if folded is None else frozenset((folded,))
        case Anchor():
            return None
        case Group(item):
            return _literals(item)
        case Repeat(item, least, _):
            return _literals(item) if least else None
        case Choice(options):
            found = [_literals(option) for option in options]
            if any(one is None for one in found):
                return None
            return frozenset().union(*(one for one in found if one is not None))
        case Sequence(items):
            return _literals_in_sequence(items)


def _literals_in_sequence(items: tuple[Node, ...]) -> frozenset[bytes] | None:
    candidates: list[frozenset[bytes]] = []
    run = b""
    for item in _flat(items):
        folded = _letter(item.mask) if isinstance(item, Class) else None
        if folded is not None:
            run += folded
            continue
        if isinstance(item, Anchor):
            continue
        if run:
            candidates.append(frozenset((run,)))
            run = b""
        found = _literals(item)
        if found:
            candidates.append(found)
    if run:
        candidates.append(frozenset((run,)))
    return max(candidates, key=_selectivity, default=None)


def _flat(items: tuple[Node, ...]) -> Iterator[Node]:
    for item in items:
        inner = item.item if isinstance(item, Group) else item
        if isinstance(inner, Sequence):
            yield from _flat(inner.items)
        else:
            yield inner


def _selectivity(literals: frozenset[bytes]) -> tuple[int, int]:
    return min(4, *map(len, literals)), -len(literals)


@lru_cache(1024)
def _letter(mask: Mask) -> bytes | None:
    """The one byte, or the one letter in either case, that the set holds: in lower case."""
    folded = {bytes((byte,)).lower() for byte in bytes_of(mask)} if mask.bit_count() <= 2 else set()
    return folded.pop() if len(folded) == 1 else None


def trigger(node: Node) -> Node:
    """A shorter pattern that matches wherever ``node`` does, beginning at the same byte.

    An open tail (``{20,}``) would make hyperscan report every further byte, and a long body (a private key) is
    slow to compile; neither helps to find the place.
    """
    items = [_opened(item) for item in _flat((node,))]
    kept = _up_to_trigger_width(items)
    while kept and isinstance(last := kept[-1], Repeat) and last.most != last.least:
        kept.pop()
        if last.least:
            kept.append(Repeat(last.item, last.least, last.least))
            break
    shorter = Sequence(tuple(kept))
    literals, whole = needed_literals(shorter), needed_literals(node)
    if not kept or (whole and (not literals or _selectivity(literals)[0] < _selectivity(whole)[0])):
        return node
    return shorter


def _opened(node: Node) -> Node:
    """The node with its wide repetitions open: that is cheap for hyperscan, counting far is not."""
    match node:
        case Repeat(item, least, most, greedy):
            wide = most is not None and most > WIDE_REPEAT and most > least
            return Repeat(_opened(item), least, None if wide else most, greedy)
        case Group(item, name):
            return Group(_opened(item), name)
        case Choice(options):
            return Choice(tuple(map(_opened, options)))
        case Sequence(items):
            return Sequence(tuple(map(_opened, items)))
    return node


def _up_to_trigger_width(items: list[Node]) -> list[Node]:
    kept: list[Node] = []
    total = 0
    for item in items:
        total += width(item)[1] or (TRIGGER_WIDTH if isinstance(item, Repeat) and item.most is None else 0)
        if total > TRIGGER_WIDTH and kept and width(Sequence(tuple(kept)))[0] >= 6:
            return kept
        kept.append(item)
    return kept
