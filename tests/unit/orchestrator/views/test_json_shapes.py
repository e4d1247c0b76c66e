"""The JSON that programs read, key by key."""

import json
from dataclasses import replace
from datetime import UTC, datetime

from orchestrator.queue.history import HistoryEvent
from orchestrator.results.illnesses import Illness, IllnessCode
from orchestrator.results.leaderboard import ranking
from orchestrator.results.objective import completed_scores
from orchestrator.results.slowdown import Slowdown
from orchestrator.run import (
    Objective,
    Progress,
    RunState,
)
from orchestrator.views.json_shapes import (
    best_shape,
    run_shape,
    show_shape,
    status_shape,
    submit_shape,
)
from orchestrator.views.overview import overview, progress_of
from orchestrator.views.run_details import RunDetails
from orchestrator.worker.serving import NodeStatus, ServingWorker
from tests.records import an_attempt
from tests.view_kit import RUN, SWEEP, status_of


def keys_of(value):
    """The keys of a JSON document, in order and nested, which is what programs rely on."""
    if isinstance(value, dict):
        return {key: keys_of(item) for key, item in value.items()}
    return [keys_of(value[0])] if isinstance(value, list) and value else None


RUN_KEYS = [
    "id", "sweep", "name", "state", "reason", "overrides", "seed", "attempt", "update",
    "updates_total", "metrics", "output_dir", "started", "ended", "exit_code", "stop_code",
]  # fmt: skip


def test_status_json_is_as_the_design_says():
    """Worker, sweeps with every count, runs."""
    view = overview([status_of(SWEEP, [RUN])])
    recorded = [(RUN.id, json.dumps(run_shape(RUN, progress_of(RUN))))]
    shape = status_shape(None, view, recorded)
    shape["runs"] = [json.loads(run.text) for run in shape["runs"]]
    assert list(shape) == ["worker", "slots", "nodes", "queue", "sweeps", "runs", "warnings"]
    assert list(shape["queue"]) == ["halted", "suspended", "next", "eta_s", "eta_range_s"]
    assert shape["worker"] == {
        "alive": False,
        "pid": None,
        "stopped": False,
        "waits": None,
    }
    assert status_shape(ServingWorker(7, True, "until 22:00"), view, [])["worker"] == {
        "alive": True,
        "pid": 7,
        "stopped": True,
        "waits": "until 22:00",
    }
    worker = ServingWorker(7, nodes=(NodeStatus("mac", "mini", "metal", 2**34, 2),))
    view = replace(view, speeds={"mac": 1.5})
    assert status_shape(worker, view, [])["nodes"] == [
        {
            **{"node": "mac", "host": "mini", "backend": "metal", "memory_bytes": 2**34},
            **{"slots": 2, "speed": 1.5, "away_since": None, "refused": None},
        }
    ]
    assert list(shape["sweeps"][0]) == [
        "id", "name", "state", "counts", "to_ask", "waits_for", "eta_s", "eta_range_s",
    ]  # fmt: skip
    assert shape["sweeps"][0]["counts"] == {
        "queued": 1, "running": 0, "paused": 0, "completed": 1, "pruned": 0, "failed": 0,
        "cancelled": 0,
    }  # fmt: skip
    assert list(shape["runs"][0]) == RUN_KEYS
    assert shape["runs"][0]["state"] == "completed"
    assert shape["runs"][0]["output_dir"] == "/nowhere/o"
    assert shape["runs"][0]["metrics"] == {"em": 0.5}


def test_show_json_is_a_run_with_its_command_and_attempts():
    """Every documented key, in its order."""
    attempt = an_attempt(pid=5, pid_started=1.0, started="t", log="/l")
    details = RunDetails(
        run=RUN, sweep=SWEEP, progress=Progress(), attempts=[attempt], waits_for=["x"],
        history=[HistoryEvent("t", "paused", "asked for")], command=["python"],
        base={"learning_rate": 1e-6}, lives=False, worker=False,
    )  # fmt: skip
    slow = Slowdown(3.0, 900.0, 90.0, datetime(2026, 11, 27, 23, 11, 30, tzinfo=UTC).timestamp())
    ill = Illness(IllnessCode.KL, "2 nats", "a lower learning_rate")
    shape = show_shape(details, [slow, ill])
    keys = ["warnings", "waits_for", "base", "command", "attempts", "history"]
    assert list(shape) == [*RUN_KEYS, *keys]
    assert shape["warnings"] == [
        {"code": "slowed", "text": str(slow), "since": "2026-11-27T23:10:00.000Z"},
        {"code": "kl", "text": "KL runs off: 2 nats; try a lower learning_rate", "since": None},
    ]
    assert [shape[key] for key in keys[1:4]] == [["x"], {"learning_rate": 1e-6}, ["python"]]
    assert shape["history"] == [{"at": "t", "kind": "paused", "text": "asked for"}]
    assert shape["attempts"] == [
        {"n": 1, "host": "h", "node": None, "slot": "0", "pid": 5, "started": "t",
         "ended": None, "exit_code": None,
         "signal": None, "outcome": None, "reason": None, "evidence": None, "log": "/l"}
    ]  # fmt: skip


def test_submit_json_has_the_exact_set_lines():
    """Ids are null in a dry run."""
    assert submit_shape("s", None, [(None, "r", ("a=1",))]) == {
        "sweep": "s",
        "id": None,
        "runs": [{"id": None, "name": "r", "set": ["a=1"]}],
    }


def test_best_json_has_null_where_few_runs_give_no_interval():
    """Rank, params, n, mean, ci95 and the runs behind them."""
    runs = [
        replace(RUN, id=1, seed=0, overrides={"a": 1}, value=0.25),
        replace(RUN, id=2, seed=1, overrides={"a": 1}, value=0.75),
        replace(RUN, id=3, seed=0, overrides={"a": 2}, value=0.25),
        replace(RUN, id=4, state=RunState.FAILED, overrides={"a": 3}),
        replace(RUN, id=5, overrides={"a": 4}),
    ]
    shape = best_shape(Objective(), ranking(completed_scores(runs, Objective()), Objective()))
    assert (shape["objective"], shape["goal"]) == ("em", "max")
    first, second = shape["rows"]
    assert list(first) == ["rank", "params", "n", "mean", "ci95", "range", "runs"]
    assert (first["rank"], first["params"], first["n"], first["mean"]) == (1, {"a": 1}, 2, 0.5)
    # Two values have a range, and no interval that would hold 95%.
    assert (first["ci95"], first["range"]) == (None, [0.25, 0.75])
    assert [run["id"] for run in first["runs"]] == [1, 2]
    assert (second["ci95"], second["n"]) == (None, 1)
