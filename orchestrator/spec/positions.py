"""Where each key of a TOML text stands: line and column, for messages.

Reads positions only; tomli reads the values, but gives no positions. The text must be valid TOML
(https://toml.io/en/v1.0.0); where the scanner cannot follow it stops, and the keys after that have
no position.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

import tomli

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_INLINE_BLANK = re.compile(r"[ \t]*")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}' r"|'''(?:[^']|'(?!''))*'{3,5}" "|" + _QUOTED.pattern,
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


@dataclass(frozen=True, order=True)
class Position:
    """A place in a text, both counted from 1."""

    line: int
    column: int


def key_text(path: KeyPath) -> str:
    """`params.learning_rate[1]` for ("params", "learning_rate", 1)."""
    words = ""
    for part in path:
        if isinstance(part, int):
            words += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else f'"{part}"'
            words += f".{name}" if words else name
    return words


def find_positions(text: str) -> dict[KeyPath, Position]:
    """The position of every key, table header and array element of a TOML text."""
    scanner = _Scanner(text)
    scanner.document()
    line_starts = [0, *(m.end() for m in re.finditer("\n", text))]
    return dict(_as_positions(scanner.offsets, line_starts))


def _as_positions(
    offsets: dict[KeyPath, int], line_starts: list[int]
) -> Iterator[tuple[KeyPath, Position]]:
    for path, offset in offsets.items():
        line = bisect_right(line_starts, offset)
        yield path, Position(line, offset - line_starts[line - 1] + 1)


class _Lost(Exception):
    """The text is not what the scanner expects."""


@dataclass
class _Scanner:
    text: str
    at: int = 0
    offsets: dict[KeyPath, int] = field(default_factory=dict)
    lengths: dict[KeyPath, int] = field(default_factory=dict)

    def document(self) -> None:
        table: KeyPath = ()
        try:
            while self._skip(_BLANK) < len(self.text):
                if self._peek() == "[":
                    table = self._header()
                else:
                    self._pair(table)
        except (_Lost, RecursionError):  # Deep nesting is tomli's to refuse.
            return

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise _Lost
        self.at = found.end()
        return self.at

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _expect(self, sign: str) -> None:
        if not self.text.startswith(sign, self.at):
            raise _Lost
        self.at += len(sign)

    def _note(self, path: KeyPath, offset: int) -> None:
        self.offsets.setdefault(path, offset)

    def _key(self) -> KeyPath:
        parts: list[str] = []
        while True:
            self._skip(_INLINE_BLANK)
            start = self.at
            self._skip(_QUOTED if self._peek() in "\"'" else _BARE_KEY)
            raw = self.text[start : self.at]
            parts.append(tomli.loads(f"k = {raw}")["k"] if raw[0] in "\"'" else raw)
            self._skip(_INLINE_BLANK)
            if self._peek() != ".":
                return tuple(parts)
            self.at += 1

    def _header(self) -> KeyPath:
        start, double = self.at, self.text.startswith("[[", self.at)
        self.at += 1 + double
        path = self._within_arrays(self._key(), double)
        self._expect("]]" if double else "]")
        if double:
            count = self.lengths.get(path, 0)
            self.lengths[path] = count + 1
            self._note(path, start)
            path = (*path, count)
        self._note(path, start)
        return path

    def _within_arrays(self, key: KeyPath, own_array: bool) -> KeyPath:
        """The path with the index of the latest element put in for each array of tables."""
        path: KeyPath = ()
        for number, part in enumerate(key, start=1):
            path = (*path, part)
            if path in self.lengths and not (own_array and number == len(key)):
                path = (*path, self.lengths[path] - 1)
        return path

    def _pair(self, table: KeyPath) -> None:
        self._skip(_INLINE_BLANK)
        start = self.at
        path = (*table, *self._key())
        for depth in range(len(table) + 1, len(path) + 1):
            self._note(path[:depth], start)
        self._expect("=")
        self._skip(_INLINE_BLANK)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        if self._peek() == "[":
            self._array(path)
        elif self._peek() == "{":
            self._inline_table(path)
        else:
            self._skip(_STRING if self._peek() in "\"'" else _SCALAR)

    def _array(self, path: KeyPath) -> None:
        self._expect("[")
        index = 0
        self._skip(_BLANK)
        while self._peek() != "]":
            self._note((*path, index), self.at)
            self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            if self._peek() == ",":
                self.at += 1
                self._skip(_BLANK)
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._expect("{")
        self._skip(_BLANK)
        while self._peek() != "}":
            self._pair(path)
            self._skip(_BLANK)
            if self._peek() == ",":
                self.at += 1
                self._skip(_BLANK)
        self.at += 1
