"""Rows of the database as the records of `run.py`, and values as JSON in them; pure."""

import json
import math
from typing import Any

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
    StopRequest,
    Submitted,
    Sweep,
)

RUN = """
    SELECT r.id, r.sweep_id, s.name AS sweep, r.name, r.position, r.priority, r.state, r.reason,
           r.request, r.seed, r.overrides, r.set_args, r.output_dir, s.cwd, r.tags, r.hash,
           r.attempt, r.deaths, r.not_before, r."update", r.updates_total, r.metrics, r.wall_s,
           r.exit_code, r.created, r.started, r.ended, r.value, r.rung, r.kind,
           r.same_as
    FROM runs r JOIN sweeps s ON s.id = r.sweep_id
"""

ATTEMPT = (
    "SELECT id, run_id, n, host, boot_id, pid, pid_started, checkpoint, result_before, started,"
    " ended, wall_s, exit_code, signal, outcome, reason, evidence, log, changed FROM attempts"
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


def run_of(row: Row) -> Run:
    """A row of RUN."""
    d = dict(row)
    d["state"] = RunState(d["state"])
    d["request"] = d["request"] and StopRequest(d["request"])
    d["overrides"] = json.loads(d["overrides"])
    d["set"] = tuple(json.loads(d.pop("set_args")))
    d["tags"] = tuple(json.loads(d["tags"]))
    d["metrics"] = json.loads(d["metrics"])
    return Run(**d)


def attempt_of(row: Row) -> Attempt:
    """A row of ATTEMPT."""
    return Attempt(**{**dict(row), "changed": tuple(json.loads(row["changed"]))})


def sweep_of(row: Row, counts: dict[RunState, int]) -> Sweep:
    """A row of `sweeps`, with its runs counted by state."""
    retry = json.loads(row["retry"])
    return Sweep(
        id=row["id"],
        name=row["name"],
        priority=row["priority"],
        paused=bool(row["paused"]),
        reason=row["reason"],
        config_text=row["config_text"],
        config_source=row["config_source"],
        spec_text=row["spec_text"],
        cwd=row["cwd"],
        objective=Objective(row["metric"], row["goal"], row["reduce"]),
        limits=Limits(**json.loads(row["limits"])),
        retry=Retry(retry["max"], tuple(retry["on"])),
        created=row["created"],
        counts=counts,
        search=Search(**json.loads(row["search"])),
        to_ask=row["to_ask"],
        stop=json.loads(row["stop"]),
        submitted=_submitted(json.loads(row["submitted"])),
        provenance=row["provenance"] and json.loads(row["provenance"]),
        frozen=bool(row["frozen"]),
        hold_code=row["hold_code"] and HoldCode(row["hold_code"]),
    )


def _submitted(fields: dict[str, Any]) -> Submitted:
    return Submitted(fields.get("source", ""), tuple(fields.get("overrides", ())))
