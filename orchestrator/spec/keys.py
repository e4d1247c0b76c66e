"""What one key of a spec can hold: one table for the reader, for messages and for editors; pure.

`fits` understands the part of JSON Schema that single values and lists of them need.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.config import did_you_mean

Schema = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """What a key can hold: as a JSON Schema, and in words for a message.

    The message names the nearest of the `known` names.
    """

    schema: Schema
    words: str
    known: tuple[str, ...] = ()

    def fault(self, value: Any) -> str:
        """What the value must be; empty where it can stand."""
        if fits(value, self.schema):
            return ""
        return self.words + (did_you_mean(value, self.known) if isinstance(value, str) else "")


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a TOML value is what a schema describes; 3.0 is no integer in TOML."""
    return (
        ("type" not in schema or _is_a(value, schema["type"]))
        and ("anyOf" not in schema or any(fits(value, each) for each in schema["anyOf"]))
        and ("enum" not in schema or value in schema["enum"])
        and _within(value, schema)
        and ("pattern" not in schema or re.fullmatch(schema["pattern"], value) is not None)
        and ("items" not in schema or all(fits(item, schema["items"]) for item in value))
    )


def _is_a(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "number":
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, {"string": str, "integer": int, "array": list}[name])


def _within(value: Any, schema: Mapping[str, Any]) -> bool:
    return (
        ("minimum" not in schema or value >= schema["minimum"])
        and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
    )


def one_of(names: tuple[str, ...], words: str = "", default: str | None = None) -> Key:
    """A key that holds one of these names."""
    schema: Schema = {"type": "string", "enum": list(names)}
    if default is not None:
        schema["default"] = default
    return Key(schema, words or f"one of {', '.join(names)}", names)


def count(least: int = 0, default: int | None = None, description: str = "") -> Key:
    """A key that holds a whole number, this or more."""
    schema: Schema = {"type": "integer", "minimum": least}
    if default is not None:
        schema["default"] = default
    if description:
        schema["description"] = description
    return Key(schema, f"a whole number, {least} or more")


def text_like(pattern: str, words: str, default: str | None = None) -> Key:
    """A key that holds a text, all of which matches the pattern (`^...$`, for ECMA's reading)."""
    schema: Schema = {"type": "string", "pattern": pattern}
    if default is not None:
        schema["default"] = default
    return Key(schema, words)
