"""The text of a `--set` -> a value that fits the field's type, and the way back.

Pure. Which key belongs to which field, and what is said about it, is decided in `resolve.py`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any

import tomli

from grpo_core.config.other_words import OTHER_WORDS

ENV_FILES_ROOT = "GRPO_FILES_ROOT"
"""Names the folder below which a machine that trains for another one has the files of a run."""

_TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "table": dict}
_BARE_KEY = re.compile("[A-Za-z0-9_-]+")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing where no known name is near, nor what others call it."""
    names = list(known)
    near = [other for other in OTHER_WORDS.get(name.lower(), ()) if other in names]
    near = near or get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def named_path(name: str) -> Path:
    """The path that a value of a configuration names, `~` being the user's own folder.

    The folder of a user that there is not stays as it is written: nothing lies there. Where
    GRPO_FILES_ROOT names a folder, an absolute path is looked for below it.
    """
    path = home_path(name)
    root = os.environ.get(ENV_FILES_ROOT)
    return Path(root, *path.parts[1:]) if root and path.is_absolute() else path


def home_path(name: str) -> Path:
    """The same without regard to GRPO_FILES_ROOT: what the name means where it was written."""
    return Path(os.path.expanduser(name))


def nearest_file(path: Path, files: Iterable[Path]) -> Path | None:
    """The file whose name is most like that of the missing `path`; None where there are none."""
    return max(files, key=lambda f: SequenceMatcher(None, f.name, path.name).ratio(), default=None)


def type_label(kind: str) -> str:
    """The type as Python prints it, such as `<class 'int'>`."""
    return str(_TYPES[kind]) if kind in _TYPES else kind


def unquote(text: str) -> str:
    """The text without one matching pair of quotes around it."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _parse_list(text: str) -> Any:
    """A TOML array from its text; ValueError where the text is anything else."""
    table = tomli.loads(f"value = {text}")
    if list(table) != ["value"] or not isinstance(table["value"], list):
        raise ValueError(f"not a list: {text}")
    return table["value"]


def _parse_table(text: str) -> Any:
    """A table as TOML or, as other trainers take it, as JSON; ValueError for anything else."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        document = tomli.loads(f"value = {text}")
    if list(document) != ["value"]:
        raise ValueError(f"not a table: {text}")
    return document["value"]


def parse_text(text: str, kind: str) -> Any:
    """The value that `--set` text stands for; ValueError where it does not fit the type."""
    if kind.startswith("list["):
        return fit(_parse_list(text), kind)
    if kind == "table":
        return fit(_parse_table(text), kind)
    text = unquote(text)
    if kind == "bool":
        word = text.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise ValueError(f"not a boolean: {text}")
    return _TYPES[kind](text)


def fit(value: Any, kind: str) -> Any:
    """A TOML value as the field's type; ValueError where it does not fit.

    An integer fits a float, nothing else is converted.
    """
    if kind.startswith("list["):
        if not isinstance(value, list):
            raise ValueError("not a list")
        return [fit(item, kind[5:-1]) for item in value]
    if kind == "float" and type(value) is int:
        return float(value)
    if type(value) is not _TYPES[kind]:
        raise ValueError(f"not of type {kind}")
    if kind == "table" and _holds_null(value):
        raise ValueError("null is no value of TOML")
    return jsonable(value)


def _holds_null(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_null, value.values() if isinstance(value, dict) else value))
    return value is None


def format_value(value: Any) -> str:
    """The text of `--set` that brings `value` back, to the last bit.

    Strings stand bare unless stripping blanks or quotes would change them; lists and tables as in
    TOML.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return value if unquote(value.strip()) == value else f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        items = (f"{_toml_key(key)} = {toml_value(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    return str(value)


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


def toml_value(value: Any) -> str:
    """As a TOML file has it: like `format_value`, but texts stand in quotes."""
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which TOML wants escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return format_value(value)


def format_override(key: str, value: Any) -> str:
    """`key=value` as `--set` takes it."""
    return f"{key}={format_value(value)}"


def jsonable(value: Any) -> Any:
    """A TOML value as JSON can hold it: dates and times become ISO 8601 text."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [jsonable(v) for v in value]
    return value


def tag_value(text: str) -> Any:
    """A value without a type, as TOML reads it, else its text; `True` and `False` are booleans."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        table = tomli.loads(f"value = {text}")
    except tomli.TOMLDecodeError:
        return unquote(text)
    return jsonable(table["value"]) if list(table) == ["value"] else unquote(text)
