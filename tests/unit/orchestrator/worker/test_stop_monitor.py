"""What the running run is judged by, and what becomes of it."""

import json
from dataclasses import asdict

import pytest

from orchestrator.run import RunState, StopRequest
from orchestrator.stopping.curves import Decision, RunCurve, StopCode
from orchestrator.stopping.health import HealthRule
from orchestrator.stopping.rules import StopRule
from orchestrator.worker import stop_monitor
from orchestrator.worker.stop_monitor import StopMonitor, stop_decision
from tests.records import a_run, a_sweep
from tests.run_curves import EM


def test_health_comes_before_the_median():
    """And works whatever the rule."""
    curve = RunCurve(1, "s", [{"update": u, "kl": 9.0, "em": 0.9} for u in (1, 2)], 4)
    for rule in ("none", "median", "halving"):
        stop = StopRule(rule, health=(HealthRule("kl", ">", 1.0, 2),))
        assert stop_decision(curve, [], stop, EM).reason.startswith("health: kl > 1 for 2")


@pytest.mark.parametrize(
    ("code", "reason", "request_made"),
    [
        (StopCode.NOT_FINITE, "the loss was not a number", StopRequest.FAIL),
        (StopCode.HEALTH, "health: nan_share > 0.5 for 3", StopRequest.PRUNE),
        (StopCode.MEDIAN, "health: nan", StopRequest.PRUNE),
    ],
)
def test_what_is_not_finite_fails_whatever_the_reason_says(
    tmp_path, monkeypatch, code, reason, request_made
):
    """The rule decides whether a run is failed or pruned, not the sentence about it."""
    run = a_run(cwd=str(tmp_path))
    run.folder.mkdir(parents=True)
    (run.folder / "training_log.jsonl").write_text(json.dumps({"update": 1, "loss": 1.0}) + "\n")
    monkeypatch.setattr(
        stop_monitor, "stop_decision", lambda *_: Decision(1, 1, code, reason, "a line")
    )
    halt = StopMonitor(run, a_sweep(), list).look()
    assert (halt.ask, halt.reason, halt.code) == (request_made, reason, code)


def log(run, *lines):
    """Add lines to a run's training log."""
    run.folder.mkdir(parents=True, exist_ok=True)
    with open(run.folder / "training_log.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


@pytest.mark.parametrize("alone", [True, False])
def test_peers_that_train_meanwhile_are_read_again(tmp_path, monkeypatch, alone):
    """Alone a run has peers that stand still, read once; in one slot of several they move on."""
    run, *peers = (
        a_run(id=n, cwd=str(tmp_path), output_dir=f"r{n}", state=RunState.RUNNING, update=None)
        for n in range(1, 4)
    )
    seen = []
    monkeypatch.setattr(
        stop_monitor,
        "stop_decision",
        lambda curve, others, *_: seen.append([other.update for other in others]),
    )
    monkeypatch.setattr(stop_monitor, "_EFFORT", float("inf"))
    sweep = a_sweep(stop=asdict(StopRule("median")))
    monitor = StopMonitor(run, sweep, lambda: [run, *peers], alone)
    for update in (1, 2):
        for each in (run, peers[0]):
            log(each, {"update": update, "em": 0.1})
        monitor.look()
    assert seen == ([[1, 0], [1, 0]] if alone else [[1, 0], [2, 0]])
