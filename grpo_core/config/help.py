"""The text of `mlx-grpo --help`: every field by group, from the one table in `fields.py`.

No mlx is loaded on the way here, so help is there at once.
"""

import argparse
import textwrap

from grpo_core import __version__
from grpo_core.config import DEFAULT_CONFIG, ENV_CONFIG, FIELDS, GROUPS, FieldInfo, format_value
from grpo_core.errors import ExitCode

_EPILOG = f"""\
The file is --config, else ${ENV_CONFIG}, else {DEFAULT_CONFIG}. Each --set goes over it, in order:

  mlx-grpo --config configs/default.toml --set learning_rate=5e-7 --set num_generations=32

Exit codes: {ExitCode.COMPLETED} completed, {ExitCode.CONFIG} config, {ExitCode.DATA} data, \
model or reward, {ExitCode.OUT_OF_MEMORY} out of memory, {ExitCode.GPU_FAULT} GPU fault,
{ExitCode.DIVERGED} diverged, {ExitCode.DISK_FULL} disk full, {ExitCode.INTERRUPTED} interrupted \
(the same command goes on).

Fields, each with its default:
"""

_WIDTH = 100
_INDENT = " " * 6


def make_parser() -> argparse.ArgumentParser:
    """The command line of the trainer."""
    parser = argparse.ArgumentParser(
        prog="mlx-grpo",
        description="Trains one GRPO run on MLX.",
        epilog=_EPILOG + "\n".join(_group(name) for name in GROUPS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="TOML file with the run's fields")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="override a field")
    add("--strict", action="store_true", help="every warning of the configuration is an error")
    add("--no-wait", action="store_true", help="exit 75 where the GPU or the folder is in use")
    add("--prewarm", action="store_true", help="prepare, then wait for a line `go` on stdin")
    add("--dry-run", action="store_true", help="resolve, check and estimate; train nothing")
    add("--version", action="version", version=f"mlx-grpo {__version__}")
    return parser


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
