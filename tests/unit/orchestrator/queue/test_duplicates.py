"""Runs that show another run's result: their values, and that nobody waits for a log."""

import json
from dataclasses import replace

import pytest

from orchestrator.queue.connection import connect
from orchestrator.queue.store import Store
from orchestrator.results import training_log
from orchestrator.run import Objective, Progress
from tests.queue_kit import DONE, claim, plan_of, planned, runs

EM, REWARD = Objective("em"), Objective("reward_mean")


def submit_twice(tmp_path, store):
    """One setting in two sweeps with different objectives; the log of the first one's run."""
    for name, objective in (("a", EM), ("b", REWARD)):
        plan = plan_of(tmp_path, replace(planned(name), identity="the same"), name=name)
        plan = replace(plan, objective=objective)
        store.submissions.add_sweep(name, lambda free, plan=plan: plan)
    folder = runs()[0].folder
    folder.mkdir(parents=True)
    lines = ({"update": 2, "em": 0.5, "split": "test"}, {"update": 2, "reward_mean": 0.25})
    (folder / "training_log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "result.json").write_text("{}")


def finish(store):
    """Train the next run to its end."""
    how = {"newer_checkpoint": True, "progress": Progress(2, 2), "value": 0.5}
    ended = store.claims.finish(claim(store)[1], DONE, **how)
    store.duplicates.read_values(owner_id=ended.id)
    return ended


@pytest.fixture
def others_write(monkeypatch, store):
    """Each log that is read, another process writes to the queue meanwhile; how often."""
    times = []
    read = training_log.read_log

    def read_while_another_writes(folder):
        other = connect(store.path, timeout_s=0.0)
        with other.write():
            times.append(folder)
        other.close()
        return read(folder)

    monkeypatch.setattr(training_log, "read_log", read_while_another_writes)
    return times


def test_no_log_is_read_while_the_queue_is_locked(tmp_path, store, others_write):
    """When an owner ends, and when a sweep with a setting that is done is submitted."""
    submit_twice(tmp_path, store)
    finish(store)
    assert [run.value for run in runs()] == [0.5, 0.25]
    plan = plan_of(tmp_path, replace(planned("c"), identity="the same"), name="c")
    store.submissions.add_sweep("c", lambda free: replace(plan, objective=REWARD))
    assert [run.value for run in runs()] == [0.5, 0.25, 0.25]
    assert len(others_write) == 2


def test_a_value_that_nobody_came_to_read_is_read_by_the_next_worker(tmp_path, store):
    """A worker that dies after its transaction leaves a duplicate without its value."""
    submit_twice(tmp_path, store)
    finish(store)
    db = connect(store.path)
    db.execute("UPDATE runs SET value = NULL WHERE id = 2")
    db.close()
    with Store.open() as fresh:
        fresh.duplicates.read_values()
    assert [run.value for run in runs()] == [0.5, 0.25]
