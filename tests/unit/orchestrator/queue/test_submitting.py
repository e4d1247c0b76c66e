"""How runs come into the queue; what is written is read back through a second connection."""

from dataclasses import replace

import pytest

from orchestrator.errors import UsageError
from orchestrator.queue.store import Store
from orchestrator.run import Limits, Retry
from tests.queue_kit import plan_of, planned, runs, submit


def test_sweep_comes_back_as_it_was_submitted(tmp_path, store):
    """Every field of a plan survives, to the last bit of a float."""
    run = planned("a", learning_rate=1e-06, kl_coeff=0.1 + 0.2, use_compile=True, stop="é\n'")
    plan = plan_of(tmp_path, replace(run, tags=("x",), hash="h"), limits=Limits(0, 1.5, 2.5, 7))
    plan = replace(plan, retry=Retry(5, ("lost",)))
    store.submissions.add_sweep("s", lambda name: replace(plan, name=name), priority=3)
    with Store.open(readonly=True) as other:
        sweep = other.queries.sweep("s")
        (found,) = other.queries.runs(sweep.id)
    assert (sweep.config_text, sweep.spec_text) == (plan.config_text, plan.spec_text)
    assert (sweep.limits, sweep.retry, sweep.objective) == (
        plan.limits,
        plan.retry,
        plan.objective,
    )
    assert (found.overrides, found.set, found.tags) == (run.overrides, run.set, ("x",))
    assert (found.priority, found.hash, found.seed) == (3, "h", 0)
    assert found.folder == tmp_path / "out/a"


def test_name_in_use_becomes_name_2(tmp_path, store):
    """The plan is made for the free name, so that folders follow it."""
    names = []

    def make(name):
        names.append(name)
        return plan_of(tmp_path, planned(name), name=name)

    for _ in range(3):
        store.submissions.add_sweep("lr", make)
    assert names == ["lr", "lr-2", "lr-3"]
    assert [s.name for s in store.queries.sweeps(all=True)] == names


def test_names_differ_also_where_the_file_system_ignores_case(store, tmp_path):
    """On a Mac outputs/LR is outputs/lr: their runs would share folders."""

    def make(name):
        return plan_of(tmp_path, planned(name), name=name)

    names = [store.submissions.add_sweep(name, make).name for name in ("lr", "LR", "Lr-2")]
    assert names == ["lr", "LR-2", "Lr-2-2"]


def test_fault_while_making_the_plan_queues_nothing(store):
    """An error in the middle of a submit leaves the queue as it was."""

    def make(name):
        raise ValueError(name)

    with pytest.raises(ValueError, match="lr"):
        store.submissions.add_sweep("lr", make)
    assert store.queries.sweeps(all=True) == []


def test_folder_of_a_waiting_run_is_refused_with_its_owner(tmp_path, store):
    """Two runs that are still to be trained never share a folder, whatever it is called."""
    submit(tmp_path, planned("a"))
    again = replace(planned("a"), output_dir="./out/../out/a")
    with pytest.raises(UsageError, match="belongs to run 1 of sweep s"):
        submit(tmp_path, planned("b"), again, name="t")
    assert [r.name for r in runs()] == ["a"]
    store.control.cancel([1])
    submit(tmp_path, again, name="t")


def test_two_runs_of_one_sweep_in_one_folder_are_refused(tmp_path):
    """Also within a plan."""
    with pytest.raises(UsageError, match="belongs to run a of the same sweep"):
        submit(tmp_path, planned("a"), replace(planned("a"), name="b"))


def test_values_that_json_cannot_say_are_kept_as_words(tmp_path, store):
    """An infinite override does not break the views of other tools."""
    submit(tmp_path, replace(planned("a"), overrides={"x": float("inf"), "y": [float("nan")]}))
    assert store.queries.run(1).overrides == {"x": "inf", "y": ["nan"]}
