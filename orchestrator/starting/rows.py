"""A look at a file of rows: which columns it has, and which are the prompt and the answer.

Only the first rows are read; the trainer itself judges all of them (docs/data-and-rewards.md).
"""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError

# What people call them, the likeliest first.
PROMPT_NAMES = ("question", "prompt", "problem", "instruction", "query", "messages", "input")
ANSWER_NAMES = ("answer", "solution", "target", "expected", "label", "output", "response")
_LOOKED_AT = 50
_SHOWN_CHARS = 200


@dataclass(frozen=True)
class RowsFile:
    """The first rows of a file, and the columns that all of them have."""

    path: Path
    rows: tuple[Mapping[str, Any], ...]

    @property
    def columns(self) -> list[str]:
        """The columns that stand in every row that was looked at."""
        return [name for name in self.rows[0] if all(name in row for row in self.rows)]

    def guess(self, names: Sequence[str], other: str | None = None) -> str | None:
        """The column that is likely meant by one of these names; None where none is."""
        free = {name.lower(): name for name in self.columns if name != other}
        return next((free[name] for name in names if name in free), None)

    def shown(self, column: str) -> str:
        """What the first row has there, on one line, cut where it is long."""
        value = self.rows[0][column]
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            value = value[-1].get("content", value)
        text = " ".join(str(value).split())
        return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]} …"


def look(path: Path) -> RowsFile:
    """The first rows of a JSONL or Parquet file; UsageError where there are none to read."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file of rows; name a .jsonl or .parquet file")
    read = {".jsonl": _jsonl, ".parquet": _parquet}.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path}: rows are read from .jsonl and .parquet files")
    rows = tuple(read(path))
    if not rows:
        raise UsageError(f"{path}: holds no rows")
    found = RowsFile(path, rows)
    if not found.columns:
        raise UsageError(f"{path}: its rows have no column in common")
    return found


def _jsonl(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(itertools.islice(file, _LOOKED_AT), start=1):
                if line.strip():
                    yield _row(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: cannot be read: {e}") from None


def _row(line: str, place: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as e:
        raise UsageError(f"{place}: not valid JSON: {e}") from None
    if not isinstance(row, dict) or not row:
        raise UsageError(f"{place}: a row is an object with columns")
    return row


def _parquet(path: Path) -> Iterable[Mapping[str, Any]]:
    # Not at the top: only Parquet needs it.
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        batch = next(file.iter_batches(batch_size=_LOOKED_AT), None)
    except (pyarrow.ArrowException, OSError) as e:
        raise UsageError(f"{path}: cannot be read as Parquet: {e}") from None
    return [] if batch is None else batch.to_pylist()
