"""Names of sweeps, runs and their folders: what may stand in one, defaults, templates; pure.

A name is a part of a path on the user's disk, so no value that goes into it may lead elsewhere.
When names clash is `expand.py`'s business.
"""

import itertools
import os
import re
import string
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from grpo_core.config import FIELDS, MLXGRPOConfig, did_you_mean, format_value
from orchestrator.numbers import short_number

# A file name may have 255 bytes; `-2` or a suffix of a log may come behind ours.
MAX_NAME_BYTES = 150
# A prompt in a name is told apart by its beginning.
MAX_VALUE_BYTES = 40

# What people say for these fields; every other field goes by its whole name.
SHORT_NAMES = {
    "learning_rate": "lr",
    "num_generations": "g",
    "batch_size": "bs",
    "gradient_accumulation_steps": "acc",
    "num_epochs": "ep",
    "temperature": "t",
    "clip_eps": "clip",
    "kl_coeff": "kl",
    "lora_rank": "r",
    "weight_decay": "wd",
    "seed": "s",
}
# Width and precision of at most two digits: a name, not a page.
_FORMAT_SPEC = re.compile(
    r"(?:[^{}]?[<>=^])?[-+ ]?#?0?\d{0,2}[,_]?(?:\.\d{1,2})?[bcdeEfFgGnosxX%]?"
)


# --- what may stand in a name


def name_fault(name: str) -> str:
    """Why a text cannot be the name of a file or folder of ours; empty where it can."""
    if not name:
        return "must not be empty"
    bad = next((c for c in name if not _file_safe(c)), None)
    if bad is not None:
        return f"{bad!r} cannot stand in a name; use letters, digits and . _ - + = ,"
    if name[0] in ".-":
        return f"a name cannot begin with {name[0]!r}"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"a name can have {MAX_NAME_BYTES} bytes, this has {len(name.encode())}"
    return ""


def sweep_name_fault(name: str) -> str:
    """As `name_fault`; a sweep's name must not read as the number of a run or a range."""
    if re.fullmatch(r"[0-9]+(-[0-9]+)?", name):
        return "reads as the number of a run; put a letter into it"
    return name_fault(name)


def safe_name(text: str) -> str:
    """A text as a part of a name: what cannot stand in one becomes `-`."""
    return re.sub(r"-{2,}", "-", _without_unsafe(text)).strip("-")


def folded(name: str) -> str:
    """The name as a file system sees it that ignores case and normal forms, as macOS does."""
    return unicodedata.normalize("NFC", name).casefold()


def _file_safe(c: str) -> bool:
    # Marks belong to the letters of many scripts.
    return c.isalnum() or c in "._-+=," or unicodedata.category(c) in ("Mn", "Mc")


def _without_unsafe(text: str) -> str:
    return "".join(c if _file_safe(c) else "-" for c in text)


# --- values in names


def value_text(value: Any) -> str:
    """A value as a part of a name: `1e-5` for 1e-05, `a+b` for a list, texts made safe."""
    if isinstance(value, list):
        return "+".join(value_text(item) for item in value) or "none"
    if isinstance(value, float):
        return short_number(value)
    if isinstance(value, str):
        return _cut(safe_name(value), MAX_VALUE_BYTES)
    return format_value(value)


def _cut(text: str, size: int) -> str:
    """At most `size` bytes, whole characters."""
    return text.encode()[:size].decode(errors="ignore")


# --- the default


def default_names(
    keys: Sequence[str],
    rows: Iterable[Mapping[str, Any]],
    alone: str = "run",
    taken: Iterable[str] = (),
) -> list[str]:
    """`lr1e-5-g8-s0`: what differs between runs, short and unique; `alone` where nothing does.

    `rows` hold the values of each run, a key that one does not have is left out of its name; none
    is named as one of `taken`.
    """
    names: list[str] = []
    used = {folded(name) for name in taken}
    for row in rows:
        stem = "-".join(_part(key, row[key]) for key in keys if key in row).lstrip(".-")
        name = free_name(_cut(stem or alone, MAX_NAME_BYTES - 10), used)
        used.add(folded(name))
        names.append(name)
    return names


def _part(key: str, value: Any) -> str:
    if isinstance(value, str):  # Of a path or a repository the last part tells the most.
        value = os.path.basename(value.rstrip("/"))
    text = value_text(value)
    return f"{SHORT_NAMES[key]}{text}" if key in SHORT_NAMES else f"{key}={text}"


def free_name(stem: str, taken: Container[str]) -> str:
    """STEM, STEM-2, STEM-3, ...: the first whose folded form is not taken."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(name for name in names if folded(name) not in taken)


# --- templates


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
            text += _without_unsafe(format(value, format_spec))
        else:
            text += value if name in more else value_text(value)
    return text
