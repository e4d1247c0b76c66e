"""Rows of the database as the records of `run.py`, and values as JSON in them; pure."""

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

from orchestrator.queue.connection import Row
from orchestrator.run import (
    Attempt,
    HoldCode,
    Limits,
    Objective,
    Retry,
    Run,
    RunState,
    Search,
    StopCode,
    StopRequest,
    Submitted,
    Sweep,
)

T = TypeVar("T")

RUN = """
    SELECT r.id, r.sweep_id, s.name AS sweep, r.name, r.position, r.priority, r.state, r.reason,
           r.request, r.seed, r.overrides, r.set_args, r.output_dir, s.cwd, r.tags, r.hash,
           r.attempt, r.deaths, r.not_before, r."update", r.updates_total, r.metrics, r.wall_s,
           r.exit_code, r.created, r.started, r.ended, r.value, r.rung, r.kind,
           r.same_as, r.stop_code, r.slot
    FROM runs r JOIN sweeps s ON s.id = r.sweep_id
"""

ATTEMPT = (
    "SELECT id, run_id, n, host, boot_id, pid, pid_started, checkpoint, result_before, started,"
    " ended, wall_s, exit_code, signal, outcome, reason, evidence, log, changed, slot, token,"
    " node FROM attempts"
)


def dump(value: Any) -> str:
    """JSON that SQLite's functions can read: what is not finite becomes its name."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class _Columns:
    """The columns of a row, as what they hold; those that hold something else are `damaged`.

    A database is open to other programs, and one row must not hide all others.
    """

    def __init__(self, row: Row) -> None:
        self._row = row
        self.damaged: tuple[str, ...] = ()

    def read(self, name: str, parse: Callable[[Any], T], default: Any) -> T:
        """The column as `parse` gives it; the default where it cannot."""
        try:
            return parse(self._row[name])
        except (ValueError, TypeError, LookupError, AttributeError):
            self.damaged += (name,)
            return cast(T, default)


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _texts(text: str) -> tuple[str, ...]:
    value = json.loads(text)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(text)
    return tuple(value)


def run_of(row: Row) -> Run:
    """A row of RUN."""
    d, columns = dict(row), _Columns(row)
    del d["set_args"]
    d["state"] = RunState(d["state"])
    d["request"] = columns.read("request", lambda text: text and StopRequest(text), None)
    d["stop_code"] = columns.read("stop_code", lambda text: text and StopCode(text), None)
    d["overrides"] = columns.read("overrides", _object, {})
    d["set"] = columns.read("set_args", _texts, ())
    d["tags"] = columns.read("tags", _texts, ())
    d["metrics"] = columns.read("metrics", _object, {})
    d["reason"] = _reason(d["reason"], columns)
    return Run(**d, damaged=columns.damaged)


def overrides_in(text: str) -> dict[str, Any]:
    """The overrides that a column holds; none where it is damaged."""
    try:
        return _object(text)
    except ValueError:
        return {}


def _reason(reason: str | None, columns: _Columns) -> str | None:
    if not columns.damaged:
        return reason
    return f"its row in the queue is damaged: {', '.join(columns.damaged)}"


def attempt_of(row: Row) -> Attempt:
    """A row of ATTEMPT."""
    changed = _Columns(row).read("changed", _texts, ())
    return Attempt(**{**dict(row), "changed": changed})


def sweep_of(row: Row, counts: dict[RunState, int]) -> Sweep:
    """A row of `sweeps`, with its runs counted by state."""
    columns = _Columns(row)
    objective = Objective(row["metric"], row["goal"], row["reduce"])
    limits = columns.read("limits", lambda text: Limits(**json.loads(text)), Limits())
    retry = columns.read("retry", _retry, Retry())
    search = columns.read("search", lambda text: Search(**json.loads(text)), Search())
    stop = columns.read("stop", _object, {})
    submitted = columns.read("submitted", _submitted, Submitted())
    provenance = columns.read("provenance", lambda text: text and _object(text), None)
    hold_code = columns.read("hold_code", lambda text: text and HoldCode(text), None)
    return Sweep(
        id=row["id"],
        name=row["name"],
        priority=row["priority"],
        paused=bool(row["paused"]),
        reason=_reason(row["reason"], columns),
        config_text=row["config_text"],
        config_source=row["config_source"],
        spec_text=row["spec_text"],
        cwd=row["cwd"],
        objective=objective,
        limits=limits,
        retry=retry,
        created=row["created"],
        counts=counts,
        search=search,
        to_ask=row["to_ask"],
        stop=stop,
        submitted=submitted,
        provenance=provenance,
        frozen=bool(row["frozen"]),
        hold_code=hold_code,
        damaged=columns.damaged,
    )


def _retry(text: str) -> Retry:
    fields = _object(text)
    return Retry(fields["max"], tuple(fields["on"]))


def _submitted(text: str) -> Submitted:
    fields = _object(text)
    return Submitted(fields.get("source", ""), tuple(fields.get("overrides", ())))
