"""A worker that keeps the stop rule of a sweep, over real child processes and their logs."""

from dataclasses import asdict, replace

import pytest

from orchestrator.queue.store import Store
from orchestrator.run import Objective
from orchestrator.stopping.health import parse_health
from orchestrator.stopping.rules import StopRule
from orchestrator.system.paths import home
from tests.queue_kit import WorkerProcess, attempts, plan_of, planned, runs, updates_logged


def work(tmp_path, rule, *planned_runs, objective=None, slots=1):
    """Queue runs under a stop rule and let a worker serve them; the runs as they end."""
    with Store.open(home().db) as store:
        plan = plan_of(tmp_path, *planned_runs)
        plan = replace(plan, stop=asdict(rule), objective=objective or Objective())
        store.submissions.add_sweep("s", lambda name: replace(plan, name=name))
    worker = WorkerProcess(tmp_path / "worker.log", slots=slots)
    assert worker.wait() == 0, worker.text
    return runs()


def test_a_run_below_the_median_is_pruned(tmp_path):
    """Three runs make the median; the fourth is far below it and ends early, with the reason."""
    gains = (0.4, 0.5, 0.6, 0.1)
    found = work(
        tmp_path,
        StopRule("median"),
        *(planned(f"r{g}", gain=g, updates=50, update_s=0.03) for g in gains),
    )
    assert [str(run.state) for run in found] == ["completed"] * 3 + ["pruned"]
    assert [run.stop_code for run in found] == [None] * 3 + ["median"]
    assert found[3].reason.startswith("median: em ")
    assert "is the median of 3 runs" in found[3].reason
    assert attempts(4)[0].evidence.startswith("update ")
    assert 15 <= found[3].update < 50
    assert found[3].value == 0.1 * found[3].update


def test_a_run_that_is_sick_is_ended_by_its_health_rule(tmp_path):
    """A bound that the user set prunes; what is not finite fails as diverged."""
    rule = StopRule(health=(parse_health("nan", ()), parse_health("em > 2 for 3", ("em",))))
    found = work(
        tmp_path,
        rule,
        planned("bound", gain=0.1, updates=200, update_s=0.03),
        planned("nan", nan_from=5, updates=200, update_s=0.03),
        planned("well", gain=0.01, updates=10),
    )
    assert [str(run.state) for run in found] == ["pruned", "failed", "completed"]
    assert [run.stop_code for run in found] == ["health", "not_finite", None]
    assert found[0].reason.startswith("health: em > 2 for 3")
    assert found[1].reason.startswith("health: nan for 3")
    assert attempts(2)[0].outcome == "diverged"
    assert "loss = nan" in attempts(2)[0].evidence


@pytest.mark.parametrize("slots", [1, 2])
def test_halving_pauses_at_rungs_and_resumes_the_best(tmp_path, slots):
    """Four settings, two after the first rung, one after the second, which trains to the end.

    However many train at a time: a rung waits for all.
    """
    gains = (0.1, 0.4, 0.2, 0.3)
    found = work(
        tmp_path,
        StopRule("halving"),
        *(planned(f"r{g}", gain=g, updates=40, update_s=0.06) for g in gains),
        slots=slots,
    )
    assert [str(run.state) for run in found] == ["pruned", "completed", "pruned", "pruned"]
    assert [run.stop_code for run in found] == ["halving", None, "halving", "halving"]
    assert [run.reason.split(" at ")[-1].split(";")[0] for run in found] == [
        "30% of the run",
        "all updates done",
        "30% of the run",
        "60% of the run",
    ]
    assert "(rung 1, update 12: 480.0%, 360.0%, 240.0%, 120.0%)" in found[0].reason
    assert [a.outcome for a in attempts(2)] == ["held", "held", "completed"]
    assert [len(attempts(run.id)) for run in found] == [1, 3, 1, 2]
    assert all(run.rung is None for run in found)
    for run in found:
        assert updates_logged(run) == list(range(1, run.update + 1))
    assert sum(run.update for run in found) < 0.8 * 4 * 40
