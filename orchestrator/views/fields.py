"""The config fields, for `grpo-sweep fields`."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from grpo_core.config import FIELDS, GROUPS, FieldInfo, format_value


def fields_table(names: Sequence[str]) -> Table:
    """Config fields by group."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("field", no_wrap=True)
    table.add_column("default", overflow="ellipsis", max_width=28, no_wrap=True)
    table.add_column("meaning")
    for group in GROUPS:
        members = [info for info in FIELDS.values() if info.group == group and info.name in names]
        if members:
            table.add_row(Text(group, style="bold cyan"), "", "")
        for info in members:
            table.add_row(f"  {info.name}", format_value(info.default), _meaning(info))
    return table


def _meaning(info: FieldInfo) -> str:
    more = [info.allowed, f"in {info.unit}" if info.unit else ""]
    extra = "; ".join(word for word in more if word)
    return f"{info.help} ({extra})" if extra else info.help


def field_shape(info: FieldInfo) -> dict[str, Any]:
    """A field in `fields --json`."""
    return {
        "name": info.name,
        "type": info.type,
        "default": info.default,
        "group": info.group,
        "help": info.help,
        "unit": info.unit or None,
        "choices": list(info.choices) or None,
        "allowed": info.allowed or None,
    }
