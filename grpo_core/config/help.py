"""The fields of a configuration as text for `mlx-grpo --help`, from the one table in `fields.py`.

No mlx is loaded on the way here, so help is there at once.
"""

import textwrap

from grpo_core.config import FIELDS, GROUPS, FieldInfo, format_value

_WIDTH = 100
_INDENT = " " * 6


def fields_help() -> str:
    """Every field by group, each with type, default and meaning."""
    return "\n".join(_group(name) for name in GROUPS)


def _group(group: str) -> str:
    fields = [info for info in FIELDS.values() if info.group == group]
    return "\n".join([f"\n{group}", *map(_field, fields)])


def _field(info: FieldInfo) -> str:
    kind = info.type + (f", {info.unit}" if info.unit else "")
    allowed = f"; {info.allowed}" if info.allowed else ""
    head = f"  {info.name} = {_short(info)}  ({kind}{allowed})"
    lines = textwrap.wrap(head, _WIDTH, subsequent_indent=_INDENT, break_on_hyphens=False)
    return "\n".join([*lines, textwrap.indent(textwrap.fill(info.help, _WIDTH - 6), _INDENT)])


def _short(info: FieldInfo) -> str:
    """The default as --set takes it, on one line."""
    text = format_value(info.default).replace("\n", "\\n")
    return text if info.default != "" else '""'
