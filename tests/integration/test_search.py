"""A search served by a real worker: it trains what was submitted, asks, and trains that."""

from orchestrator.queue.store import Store
from tests.queue_kit import WorkerProcess, runs
from tests.unit.orchestrator.plan.test_next_runs import SPEC, folder, submit

__all__ = ["folder"]


def test_a_worker_carries_a_search_to_its_end(folder, tmp_path):
    """Ten settings at submit, two that TPE chose from their results, each trained once."""
    submit(SPEC.format(runs=12) + '[objective]\nmetric = "loss"\ngoal = "min"\n')
    worker = WorkerProcess(tmp_path / "worker.log")
    assert worker.wait() == 0, worker.text
    found = runs()
    assert [str(run.state) for run in found] == ["completed"] * 12
    assert all(run.value == 1 / 3 for run in found)
    assert len(worker.events("suggested")) == 2
    with Store.open(readonly=True) as store:
        assert store.queries.sweep("s").state == "completed"
