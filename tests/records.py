"""Whole records as the queue would hold them, for tests that need no queue.

Each builder takes the fields that a test is about; the others have a plain value.
"""

from orchestrator.run import Attempt, Limits, Objective, Retry, Run, RunState, Sweep


def a_run(**values):
    """A running run in its first attempt."""
    fields = {
        **dict.fromkeys(("reason", "request", "hash", "not_before", "update", "updates_total")),
        **dict.fromkeys(("exit_code", "started", "ended")),
        **{"id": 1, "sweep_id": 1, "sweep": "s", "name": "a", "position": 0, "priority": 0},
        **{"state": RunState.RUNNING, "seed": 0, "overrides": {}, "set": (), "tags": ()},
        **{"output_dir": "out/a", "cwd": "/nowhere", "attempt": 1, "deaths": 1, "metrics": {}},
        **{"wall_s": 0.0, "created": "2026-01-01T00:00:00.000Z"},
    }
    return Run(**{**fields, **values})


def a_done_run(**values):
    """A run that trained ten updates in twenty seconds and completed."""
    done = {
        **{"state": RunState.COMPLETED, "deaths": 0, "update": 10, "updates_total": 10},
        **{"wall_s": 20.0, "exit_code": 0},
        **{"started": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:00:20Z"},
    }
    return a_run(**{**done, **values})


def an_attempt(**values):
    """The first attempt of run 1, not ended."""
    fields = {
        **dict.fromkeys(("pid", "pid_started", "result_before", "ended", "exit_code", "signal")),
        **dict.fromkeys(("outcome", "reason", "evidence")),
        **{"id": 1, "run_id": 1, "n": 1, "host": "h", "boot_id": "b", "checkpoint": -1},
        **{"started": "2026-01-01T00:00:00Z", "wall_s": 0.0, "log": "/nowhere/1.log"},
    }
    return Attempt(**{**fields, **values})


def a_sweep(**values):
    """A sweep without runs."""
    fields = {
        **{"id": 1, "name": "s", "priority": 0, "paused": False, "reason": None},
        **{"config_text": "", "config_source": "b.toml", "spec_text": "", "cwd": "/nowhere"},
        **{"objective": Objective(), "limits": Limits(), "retry": Retry(), "counts": {}},
        **{"created": "2026-01-01T00:00:00Z"},
    }
    return Sweep(**{**fields, **values})
