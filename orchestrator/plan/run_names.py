"""Names of runs and their folders: default names by what differs, and templates; pure.

What may stand in a name is decided in `names.py`, when names clash in `runs.py`.
"""

import os
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from grpo_core.config import FIELDS, MLXGRPOConfig, did_you_mean, format_value
from orchestrator.names import (
    MAX_NAME_BYTES,
    cut,
    cut_middle,
    folded,
    free_name,
    safe_name,
    without_unsafe,
)
from orchestrator.text import SHORT_NAMES, short_number

# The beginning of a prompt distinguishes it well enough.
MAX_VALUE_BYTES = 40
# A name stands in tables beside other columns; so has a long value in it.
_NAME_SIZE = 32
_VALUE_SIZE = 20
# Width and precision of at most two digits: a name, not a page.
_FORMAT_SPEC = re.compile(
    r"(?:[^{}]?[<>=^])?[-+ ]?#?0?\d{0,2}[,_]?(?:\.\d{1,2})?[bcdeEfFgGnosxX%]?"
)


def value_text(value: Any) -> str:
    """A value as a part of a name: `1e-5` for 1e-05, `a+b` for a list, texts made safe.

    Of a table `key=value`, joined in the same way.
    """
    if isinstance(value, list):
        return "+".join(value_text(item) for item in value) or "none"
    if isinstance(value, dict):
        parts = (f"{safe_name(key)}={value_text(item)}" for key, item in value.items())
        return "+".join(parts) or "none"
    if isinstance(value, float):
        return short_number(value)
    if isinstance(value, str):
        return cut(safe_name(value), MAX_VALUE_BYTES)
    return format_value(value)


def default_names(
    keys: Sequence[str], rows: Iterable[Mapping[str, Any]], taken: Iterable[str] = ()
) -> list[str]:
    """`lr1e-5-g8-s0`: what differs between runs, short and unique; `run` where nothing does.

    `rows` hold the values of each run, a key that one does not have is left out of its name, and
    one without any but a seed is `base`; none is named as one of `taken`.
    """
    names: list[str] = []
    used = {folded(name) for name in taken}
    for row in rows:
        name = free_name(_stem(keys, row), used)
        used.add(folded(name))
        names.append(name)
    return names


def _stem(keys: Sequence[str], row: Mapping[str, Any]) -> str:
    parts = [_part(key, row[key]) for key in keys if key in row]
    chosen = [key for key in keys if key != "seed"]
    if chosen and not any(key in row for key in chosen):
        parts = ["base", *parts]
    return cut(_joined(parts).lstrip(".-") or "run", MAX_NAME_BYTES - 10)


def _joined(parts: Sequence[str]) -> str:
    """The parts of a name; of a long one those in the middle are left out, whole."""
    left, right = list(parts), list[str]()
    text = "-".join(left)
    while len(text) > _NAME_SIZE and len(left) + len(right) > 2:
        rest = [*left, *right]
        middle = len(rest) // 2
        left, right = rest[:middle], rest[middle + 1 :]
        text = f"{'-'.join(left)}..{'-'.join(right)}"
    return text


def _part(key: str, value: Any) -> str:
    if isinstance(value, str):  # The last part of a path or a repository says the most.
        value = os.path.basename(value.rstrip("/"))
    text = cut_middle(value_text(value), _VALUE_SIZE)
    if isinstance(value, dict) and value:  # Its keys say enough.
        return text
    return f"{SHORT_NAMES[key]}{text}" if key in SHORT_NAMES else f"{key}={text}"


def template_faults(template: str, more: Sequence[str] = ()) -> Iterator[str]:
    """What is wrong with a template; its placeholders are config fields and `more`."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as e:
        yield f"{template!r}: {e}; write {{{{ for a brace itself"
        return
    known = [name for name in (*FIELDS, *more) if name not in ("run_name", "output_dir")]
    for _, name, format_spec, conversion in parts:
        if name is None:
            continue
        if name not in known:
            yield f"unknown placeholder {{{name}}}{did_you_mean(name, known)}"
        elif conversion:
            yield f"{{{name}!{conversion}}}: write {{{name}}} or {{{name}:FORMAT}}"
        elif format_spec:
            fault = _format_fault(name, format_spec)
            if fault:
                yield f"{{{name}:{format_spec}}}: {fault}"


def _format_fault(name: str, format_spec: str) -> str:
    if not _FORMAT_SPEC.fullmatch(format_spec):
        return "this way of writing a value cannot be used"
    try:
        format(FIELDS[name].default if name in FIELDS else "", format_spec)
    except (ValueError, TypeError) as e:
        return str(e)
    return ""


def fill(template: str, config: MLXGRPOConfig, **more: str) -> str:
    """The template with the values of a run; `more` are names already, and stand as they are."""
    text = ""
    for literal, name, format_spec, _ in string.Formatter().parse(template):
        text += literal
        if name is None:
            continue
        value = more[name] if name in more else getattr(config, name)
        if format_spec:
            text += without_unsafe(format(value, format_spec))
        else:
            text += value if name in more else value_text(value)
    return text
