"""The runs of a sweep as data for other programs: CSV, JSON lines and Parquet, a row a run.

A JSON line nests `overrides` and `metrics`; CSV and Parquet have the same fields flat, with the
dotted names that pandas.json_normalize gives them. Nothing is rounded, and nothing is left out.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.results.objective import run_value
from orchestrator.run import Objective, Progress, Run

Record = dict[str, Any]

# With these a formula begins.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def record(run: Run, progress: Progress, objective: Objective) -> Record:
    """A run with all that is known of it; what is unknown is None."""
    return {
        "id": run.id,
        "sweep": run.sweep,
        "name": run.name,
        "state": str(run.state),
        "reason": run.reason,
        "seed": run.seed,
        "tags": list(run.tags),
        "value": run_value(run, objective),
        "update": progress.update,
        "updates_total": progress.updates_total,
        "attempt": run.attempt,
        "wall_s": run.wall_s,
        "started": run.started,
        "ended": run.ended,
        "exit_code": run.exit_code,
        "stop_code": run.stop_code,
        "output_dir": str(run.folder),
        "overrides": run.overrides,
        "metrics": progress.metrics,
    }


def flat(of: Record) -> Record:
    """The record with `overrides.KEY` and `metrics.KEY` in place of the two objects."""
    cells: Record = {}
    for name, value in of.items():
        if name in ("overrides", "metrics"):
            cells |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            cells[name] = value
    return cells


def columns(rows: Iterable[Record]) -> list[str]:
    """Every column of some flat rows: what all have first, then overrides, then metrics."""
    names = dict.fromkeys(name for row in rows for name in row)
    order = {"overrides": 1, "metrics": 2}
    return sorted(names, key=lambda name: order.get(name.partition(".")[0], 0))


# --- formats


def to_jsonl(records: Iterable[Record]) -> bytes:
    """A JSON object a line."""
    lines = (json.dumps(each, ensure_ascii=False, allow_nan=False) + "\n" for each in records)
    return "".join(lines).encode()


def to_csv(records: Iterable[Record]) -> bytes:
    """RFC 4180 with a header; what is unknown is empty, lists and booleans are as in JSON.

    A text that a spreadsheet would take for a formula gets a `'` before it.
    """
    rows = [flat(each) for each in records]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns(rows), restval="")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    # A spreadsheet would compute it when the file is opened.
    return f"'{value}" if value.startswith(_FORMULA) else value


def to_parquet(records: Iterable[Record]) -> bytes:
    """Columns of booleans, 64-bit integers, floats or texts; UsageError without pyarrow.

    A column that mixes kinds, or holds lists, is the JSON of its values as text.
    """
    try:
        # Not at the top: an optional package that only Parquet needs.
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise UsageError(f"Parquet needs pyarrow ({e}); get it with: pip install pyarrow") from None
    rows = [flat(each) for each in records]
    arrays = {name: _typed([row.get(name) for row in rows]) for name in columns(rows)}
    table = pyarrow.table(
        {name: pyarrow.array(values, type=kind) for name, (values, kind) in arrays.items()}
    )
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def _typed(values: Sequence[Any]) -> tuple[list[Any], str]:
    """The values as one of Parquet's types, and the name of it."""
    known = [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    if kinds == {bool}:
        return list(values), "bool"
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in known):
        return list(values), "int64"
    # A float holds every whole number up to 2 ** 53.
    if kinds in ({float}, {int, float}) and all(
        isinstance(value, float) or abs(value) <= 2**53 for value in known
    ):
        return [None if value is None else float(value) for value in values], "float64"
    if kinds <= {str}:
        return list(values), "string"
    texts = [None if v is None else json.dumps(v, ensure_ascii=False) for v in values]
    return texts, "string"
