"""A spec's TOML document with its faults: tables and texts taken out of it, each fault placed.

Knows TOML and places, nothing of sweeps: `spec.py` and `tables.py` give the keys their meaning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_core.config import did_you_mean
from orchestrator.spec.keys import Key
from orchestrator.spec.positions import KeyPath, Position, key_text

# What a lookup gives where there is no value, or none that can stand.
MISSING = object()

# Behind everything in the file.
_END = Position(2**31, 0)


@dataclass
class Faults:
    """The faults of one spec, reported in the order of the file."""

    source: str
    positions: Mapping[KeyPath, Position] = field(default_factory=dict)
    found: list[tuple[Position, str]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def add(self, path: KeyPath, text: str, separator: str = ": ") -> None:
        """A fault at a key of the spec (or of `--set`)."""
        self.keys.update(part for part in path if isinstance(part, str))
        if path[:1] == ("--set",):
            self.found.append((_END, f"--set {key_text(path[1:])}{separator}{text}"))
            return
        position = self._nearest(path)
        place = f"{self.source}:{position.line}:{position.column}" if position else self.source
        self.found.append((position or _END, f"{place}: {key_text(path)}{separator}{text}"))

    def copy(self) -> "Faults":
        """The same faults, to which more can be added."""
        return Faults(self.source, self.positions, list(self.found), set(self.keys))

    def add_elsewhere(self, text: str) -> None:
        """A fault in another file, whose place stands in the text."""
        self.found.append((_END, text))

    def lines(self) -> tuple[str, ...]:
        """Each fault once."""
        return tuple(dict.fromkeys(text for _, text in sorted(self.found, key=lambda f: f[0])))

    def _nearest(self, path: KeyPath) -> Position | None:
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path)


@dataclass
class Document:
    """What tomli read, and the faults that were found in it so far."""

    values: dict[str, Any]
    faults: Faults

    def text(self, key: str, default: str) -> str:
        """The text under a key at the top; the default where there is none that can stand."""
        value = self.values.get(key, default)
        if not isinstance(value, str):
            self.faults.add((key,), f"{value!r}: must be text", " = ")
            return default
        if key in self.values and not value.strip():
            self.faults.add((key,), "must not be empty")
            return default
        return value

    def table(self, key: str) -> dict[str, Any]:
        """The table `[key]`; empty where there is none."""
        value = self.values.get(key, {})
        if isinstance(value, dict):
            return value
        self.faults.add((key,), f"must be a table, [{key}]")
        return {}

    def tables(self, key: str) -> list[dict[str, Any]]:
        """The tables `[[key]]`; none where there are none."""
        tables = self.values.get(key, [])
        if isinstance(tables, list) and all(isinstance(table, dict) for table in tables):
            return tables
        self.faults.add((key,), f"must be a list of tables; write [[{key}]]")
        return []

    def known(self, key: str, names: Sequence[str]) -> dict[str, Any]:
        """What the table `[key]` says under these names; every other key is a fault."""
        table = self.table(key)
        for name in table:
            if name not in names:
                self.faults.add((key, name), f"unknown key{did_you_mean(name, names)}")
        return {name: value for name, value in table.items() if name in names}

    def read(self, table: str, keys: Mapping[str, Key]) -> dict[str, Any]:
        """What the table `[table]` gives; a value that cannot stand is left out, and is a fault."""
        given = self.known(table, tuple(keys))
        for name, value in list(given.items()):
            fault = keys[name].fault(value)
            if fault:
                self.faults.add((table, name), f"{value!r}: must be {fault}", " = ")
                del given[name]
        return given

    def refuse_huge_numbers(self) -> None:
        """TOML promises 64 bits; more has no text that Python would print."""
        self._refuse_huge((), self.values)

    def _refuse_huge(self, path: KeyPath, value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in list(items):
            if isinstance(item, dict | list):
                self._refuse_huge((*path, key), item)
            elif type(item) is int and not -(2**63) <= item < 2**63:
                self.faults.add((*path, key), "the number is too large for 64 bits")
                value[key] = 0
