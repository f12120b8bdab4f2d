"""Reads Go's regular expression syntax (RE2, as gitleaks rules use it) into a tree over bytes.

Source of the syntax: https://pkg.go.dev/regexp/syntax. Text is matched as bytes: a character outside ASCII is its
UTF-8 sequence, and ``.`` or a negated class takes one byte of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from layerscope.secrets.pattern import Anchor, Choice, Class, Group, Mask, Node, Repeat, Sequence

MOST_REPEATS: Final = 1000
"""Go refuses a counted repetition above this."""
DEEPEST: Final = 100
ALL: Final[Mask] = (1 << 256) - 1


class PatternError(ValueError):
    """A pattern that cannot be translated, and why."""


def mask_of(members: Iterable[int]) -> Mask:
    """The set that holds the given bytes."""
    mask = 0
    for byte in members:
        mask |= 1 << byte
    return mask


def _span(*pairs: str) -> Mask:
    return mask_of(byte for pair in pairs for byte in range(ord(pair[0]), ord(pair[-1]) + 1))


_NEWLINE: Final = mask_of(b"\n")
_PERL: Final = {"d": _span("09"), "w": _span("09", "AZ", "az", "_"), "s": mask_of(b"\t\n\f\r ")}
_POSIX: Final = {
    "alnum": _span("09", "AZ", "az"),
    "alpha": _span("AZ", "az"),
    "ascii": _span("\x00\x7f"),
    "blank": mask_of(b"\t "),
    "cntrl": _span("\x00\x1f", "\x7f"),
    "digit": _span("09"),
    "graph": _span("!~"),
    "lower": _span("az"),
    "print": _span(" ~"),
    "punct": _span("!/", ":@", "[`", "{~"),
    "space": mask_of(b"\t\n\v\f\r "),
    "upper": _span("AZ"),
    "word": _span("09", "AZ", "az", "_"),
    "xdigit": _span("09", "AF", "af"),
}
_QUOTED: Final = re.compile(r"\\(?:Q(.*?)(?:\\E|\Z)|.)", re.DOTALL)
_CONTROL: Final = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_ANCHORS: Final = {"A": "start", "z": "end", "b": "boundary", "B": "no-boundary"}


def parse(text: str) -> Node:
    """Read one pattern. Raises PatternError that says what cannot be translated, and where."""
    parser = _Parser(_QUOTED.sub(_unquoted, text))
    node = parser.choice()
    if parser.position < len(parser.text):
        raise parser.error("unexpected )")
    return node


def _unquoted(found: re.Match[str]) -> str:
    return found[0] if found[1] is None else re.sub(r"([^\w\s])", r"\\\1", found[1], flags=re.ASCII)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.depth = 0
        self.flags = frozenset[str]()
        self.pending = frozenset[str]()

    def error(self, reason: str) -> PatternError:
        return PatternError(f"{reason} at character {self.position + 1}")

    def peek(self, length: int = 1) -> str:
        return self.text[self.position : self.position + length]

    def take(self, length: int = 1) -> str:
        taken = self.peek(length)
        if len(taken) < length:
            raise self.error("the pattern ends too early")
        self.position += length
        return taken

    def accept(self, expected: str) -> bool:
        if self.text.startswith(expected, self.position):
            self.position += len(expected)
            return True
        return False

    def choice(self) -> Node:
        """Options separated by ``|``, up to the end or a closing parenthesis. Flags set inside end there."""
        flags = self.flags
        options = [self.sequence()]
        while self.accept("|"):
            options.append(self.sequence())
        self.flags = flags
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def sequence(self) -> Node:
        items: list[Node] = []
        while self.position < len(self.text) and self.peek() not in "|)":
            atom = self.atom()
            if atom is not None:
                items.extend(self.repeated(atom))
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def atom(self) -> Node | None:
        start = self.take()
        match start:
            case "(":
                return self.group()
            case "[":
                return self.character_class()
            case ".":
                return Class(ALL if "s" in self.flags else ALL & ~_NEWLINE)
            case "^":
                return Anchor("line-start" if "m" in self.flags else "start")
            case "$":
                return Anchor("line-end" if "m" in self.flags else "end")
            case "\\":
                return self.escape()
            case "*" | "+" | "?":
                raise self.error(f"nothing to repeat before {start}")
        return self.literal(start)

    def literal(self, text: str) -> Node:
        items = tuple(Class(self.folded(1 << byte)) for byte in text.encode("utf-8", "surrogatepass"))
        return items[0] if len(items) == 1 else Sequence(items)

    def folded(self, mask: Mask) -> Mask:
        if "i" not in self.flags:
            return mask
        upper, lower = _POSIX["upper"], _POSIX["lower"]
        return mask | (mask & upper) << 32 | (mask & lower) >> 32

    def repeated(self, atom: Node) -> list[Node]:
        """The atom with the repetition that follows it."""
        counts = self.counts()
        if counts is None:
            return [atom]
        lazy = self.accept("?")
        if self.peek() in {"*", "+", "?"} or self.counts(only_look=True):
            raise self.error("a repetition of a repetition")
        greedy = lazy == ("U" in self.flags)
        if isinstance(atom, Anchor):
            return [atom] if counts[0] else []
        return [Repeat(atom, *counts, greedy)]

    def counts(self, only_look: bool = False) -> tuple[int, int | None] | None:
        position = self.position
        found = self._counts()
        if only_look or found is None:
            self.position = position
        return found

    def _counts(self) -> tuple[int, int | None] | None:
        for sign, counts in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.accept(sign):
                return counts
        if not self.accept("{"):
            return None
        inside, closing, _ = self.text[self.position :].partition("}")
        low, comma, high = inside.partition(",")
        if not closing or not low.isdecimal() or (high and not high.isdecimal()):
            return None  # Go takes such a brace for itself
        self.position += len(inside) + 1
        least, most = int(low), int(high) if high else None if comma else int(low)
        if least > MOST_REPEATS or (most or 0) > MOST_REPEATS or (most is not None and most < least):
            raise self.error(f"invalid repeat count {{{inside}}}")
        return least, most

    def group(self) -> Node | None:
        name, capture = None, True
        if self.accept("?"):
            if self.accept("P<") or self.accept("<"):
                if self.peek() in {"=", "!"}:
                    raise self.error("lookbehind, which Go's syntax does not have")
                name, closing, _ = self.text[self.position :].partition(">")
                if not closing or not name.isidentifier() or not name.isascii():
                    raise self.error("invalid group name")
                self.position += len(name) + 1
            else:
                capture = False
                flags = self.group_flags()
                if flags is not None:
                    self.flags = flags
                    return None
        outer = self.flags
        if not capture:
            self.flags = self.pending
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.error("groups nested too deeply")
        inner = self.choice()
        self.depth -= 1
        self.flags = outer
        if not self.accept(")"):
            raise self.error("missing )")
        return Group(inner, name) if capture else inner

    def group_flags(self) -> frozenset[str] | None:
        """Read ``flags:`` (kept in ``pending`` for the group) or ``flags)``, which holds from here on."""
        flags, on = set(self.flags), True
        while True:
            sign = self.take()
            if sign in "imsU":
                (flags.add if on else flags.discard)(sign)
            elif sign == "-" and on:
                on = False
            elif sign == ":":
                self.pending = frozenset(flags)
                return None
            elif sign == ")":
                return frozenset(flags)
            elif sign in "=!":
                raise self.error("lookahead, which Go's syntax does not have")
            else:
                raise self.error(f"invalid group (?{sign}")

    def escape(self) -> Node:
        sign = self.peek()
        if sign in _ANCHORS:
            self.take()
            return Anchor(_ANCHORS[sign])
        perl = self.perl_class()
        if perl is not None:
            return Class(perl)
        return self.literal(chr(self.escaped_character()))

    def perl_class(self) -> Mask | None:
        sign = self.peek()
        if sign in {"p", "P"}:
            raise self.error(f"Unicode class \\{self.peek(2)}")
        if not sign or sign.lower() not in _PERL:
            return None
        self.take()
        mask = _PERL[sign.lower()]
        return mask if sign.islower() else ALL & ~mask

    def escaped_character(self) -> int:
        sign = self.take()
        if sign in _CONTROL:
            return _CONTROL[sign]
        if sign == "x":
            digits = self.braced() if self.accept("{") else self.take(2)
            try:
                return ord(chr(int(digits, 16)))
            except (ValueError, OverflowError):
                raise self.error("invalid escape \\x") from None
        if sign in "01234567":
            digits = sign
            while len(digits) < 3 and self.peek() and self.peek() in "01234567":
                digits += self.take()
            if sign != "0" and len(digits) == 1:
                raise self.error(f"backreference \\{sign}")
            return int(digits, 8)
        if sign.isascii() and sign.isalnum():
            raise self.error(f"invalid escape \\{sign}")
        return ord(sign)

    def braced(self) -> str:
        inside, closing, _ = self.text[self.position :].partition("}")
        if not closing:
            raise self.error("missing }")
        self.position += len(inside) + 1
        return inside

    def character_class(self) -> Node:
        negated = self.accept("^")
        mask, wide, first = 0, list[int](), True
        while first or self.peek() != "]":
            first = False
            named = self.class_name()
            if named is not None:
                mask |= named
                continue
            low = self.class_character()
            high = low
            if self.peek() == "-" and self.peek(2) not in {"-", "-]"}:
                self.take()
                high = self.class_character()
            if high < low:
                raise self.error("invalid character class range")
            if high > 127 and high - max(low, 128) > 256:
                raise self.error("a large range of characters outside ASCII")
            mask |= mask_of(range(low, min(high, 127) + 1))
            wide += range(max(low, 128), high + 1)
        self.take()
        mask = self.folded(mask)
        if negated:
            return Class(ALL & ~mask)  # a byte of a character outside ASCII is never excluded
        if not wide:
            return Class(mask)
        options = [Class(mask), *(self.literal(chr(character)) for character in wide)]
        return Choice(tuple(options if mask else options[1:]))

    def class_name(self) -> Mask | None:
        """``\\d`` and its like or ``[:alpha:]``, if one comes next."""
        if self.peek(2) == "[:" and ":]" in self.text[self.position :]:
            self.take(2)
            name, _, _ = self.text[self.position :].partition(":]")
            self.position += len(name) + 2
            mask = _POSIX.get(name.removeprefix("^"))
            if mask is None:
                raise self.error(f"unknown class [:{name}:]")
            return ALL & ~mask if name.startswith("^") else mask
        if self.peek() != "\\":
            return None
        self.take()
        perl = self.perl_class()
        if perl is None:
            self.position -= 1
        return perl

    def class_character(self) -> int:
        sign = self.take()
        return self.escaped_character() if sign == "\\" else ord(sign)
