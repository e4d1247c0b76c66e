"""What users ask for: what changes, and what is refused."""

from dataclasses import replace

import pytest

from orchestrator.errors import NothingAffected
from orchestrator.queue.connection import Connection, connect
from orchestrator.run import Outcome, Retry, RunState, StopCode, Verdict
from tests.queue_kit import claim, end, planned, runs, states, submit


@pytest.mark.parametrize(
    ("verb", "legal"),
    [
        ("cancel", {"queued", "paused", "running"}),
        ("pause", {"queued", "running"}),
        ("resume", {"paused"}),
        ("retry", {"failed", "cancelled"}),
        ("move_first", {"queued"}),
        ("remove", {"queued", "paused", "completed", "pruned", "failed", "cancelled"}),
    ],
)
@pytest.mark.parametrize("state", [str(s) for s in RunState])
def test_verbs_change_what_they_may_and_nothing_else(tmp_path, store, verb, legal, state):
    """An illegal change says in which state the run is, and changes nothing."""
    submit(tmp_path, planned("a"))
    db = Connection(connect(store.path).raw, store.path)
    db.execute("UPDATE runs SET state = ?", (state,))
    db.close()
    before = store.queries.run(1)
    if state in legal:
        assert len(getattr(store.control, verb)([1])) == 1
        return
    with pytest.raises(NothingAffected, match=f"run 1 is {state}"):
        getattr(store.control, verb)([1])
    assert store.queries.run(1) == before


def test_running_run_is_asked_and_stays_running(tmp_path, store):
    """Only the worker ends a trainer; cancel outranks pause, and asking twice is refused."""
    submit(tmp_path, planned("a"))
    claim(store)
    assert store.control.pause([1])[0].request == "pause"
    (asked,) = store.control.cancel([1])
    assert (asked.state, store.queries.request(1)) == (RunState.RUNNING, "cancel")
    for verb in (store.control.cancel, store.control.pause):
        with pytest.raises(NothingAffected, match="run 1 is running and asked to cancel"):
            verb([1])


def test_some_changed_is_enough(tmp_path, store):
    """Cancelling a sweep of which half is done cancels the other half."""
    submit(tmp_path, planned("a"), planned("b"), planned("c"))
    end(store, claim(store)[1])
    assert [run.id for run in store.control.cancel([1, 2, 3])] == [2, 3]
    assert states() == ["completed", "cancelled", "cancelled"]


def test_a_cancel_can_be_taken_back(tmp_path, store):
    """The run waits again; one that waited for another's result is trained itself now."""
    submit(tmp_path, replace(planned("a"), identity="same"))
    submit(tmp_path, replace(planned("b"), identity="same"), name="t")
    assert store.queries.run(2).same_as == 1
    store.control.cancel([1, 2])
    assert [run.id for run in store.control.retry([1, 2])] == [1, 2]
    assert states() == ["queued", "queued"]
    for _ in range(2):
        end(store, claim(store)[1])
    assert states() == ["completed", "completed"]


def test_no_run_comes_back_into_a_folder_that_is_in_use(tmp_path, store):
    """It stays as it is, and the others of its sweep are queued again."""
    submit(tmp_path, planned("a"), planned("b"))
    store.control.cancel([1, 2])
    submit(tmp_path, planned("a"), name="t")
    with pytest.raises(NothingAffected, match="1 is cancelled, and its folder belongs to run 3"):
        store.control.retry([1])
    assert [run.id for run in store.control.retry([1, 2])] == [2]
    assert states() == ["cancelled", "queued", "queued"]
    store.control.cancel([2, 3])
    assert [run.id for run in store.control.retry([1, 2])] == [1, 2]


def test_of_two_runs_with_one_folder_one_comes_back(tmp_path, store):
    """Neither is live before: the first that is named takes it."""
    for name in ("s", "t"):
        submit(tmp_path, planned("a"), name=name)
        store.control.cancel([len(runs())])
    assert [run.id for run in store.control.retry([1, 2])] == [1]
    assert states() == ["queued", "cancelled"]


def test_a_sweep_with_a_running_run_is_not_forgotten_in_part(tmp_path, store):
    """All of what was named, or nothing."""
    submit(tmp_path, planned("a"), planned("b"))
    claim(store)
    with pytest.raises(NothingAffected, match="run 1 is running; cancel it first; nothing was rem"):
        store.control.remove([1, 2])
    assert states() == ["running", "queued"]


def test_unknown_id_changes_nothing_at_all(tmp_path, store):
    """One bad id among good ones: all or nothing."""
    submit(tmp_path, planned("a"))
    with pytest.raises(NothingAffected, match="run 99: no such run"):
        store.control.cancel([1, 99])
    assert states() == ["queued"]


def test_retry_starts_the_count_of_deaths_anew(tmp_path, store):
    """A failed run gets its full number of tries again, and keeps its attempts."""
    submit(tmp_path, planned("a"), retry=Retry(max=1))
    end(store, claim(store)[1], Outcome(Verdict.CRASH, "words"))
    (run,) = store.control.retry([1])
    assert (str(run.state), run.deaths, run.reason, run.ended) == ("queued", 0, None, None)
    assert claim(store)[1].n == 2


def test_retry_forgets_the_stop_rule_that_ended_a_run(tmp_path, store):
    """And a cancel that came first is the user's, whatever a rule asked for."""
    submit(tmp_path, planned("a"), planned("b"))
    end(store, claim(store)[1], Outcome(Verdict.DIVERGED, "words", stop_code=StopCode.NOT_FINITE))
    assert store.queries.run(1).stop_code == "not_finite"
    assert store.control.retry([1])[0].stop_code is None
    store.control.pause([1])
    _, attempt = claim(store)
    store.control.cancel([2])
    end(store, attempt, Outcome(Verdict.PRUNED, "words", stop_code=StopCode.MEDIAN))
    run = store.queries.run(2)
    assert (str(run.state), run.stop_code) == ("cancelled", None)


def test_removed_runs_take_their_sweep_and_attempts_along(tmp_path, store):
    """Ids are never given out again."""
    submit(tmp_path, planned("a"), planned("b"))
    end(store, claim(store)[1])
    assert [run.name for run in store.control.remove([1, 2])] == ["a", "b"]
    assert store.queries.sweeps(all=True) == store.queries.attempts(1) == []
    assert submit(tmp_path, planned("c")).id == 2
    assert runs()[0].id == 3


def test_pause_and_resume_of_sweep_and_queue(tmp_path, store):
    """What is held is not claimed, and says so when it is held or freed twice."""
    submit(tmp_path, planned("a"))
    store.control.pause_sweep(1)
    with pytest.raises(NothingAffected, match="paused already"):
        store.control.pause_sweep(1)
    assert claim(store) is None
    store.control.resume_sweep(1)
    with pytest.raises(NothingAffected, match="not paused"):
        store.control.resume_sweep(1)
    store.control.pause_queue()
    assert claim(store) is None
    store.control.resume_queue()
    with pytest.raises(NothingAffected, match="not paused"):
        store.control.resume_queue()
    assert claim(store) is not None


def test_pausing_a_slot_asks_its_run_alone(tmp_path, store):
    """It checkpoints and is queued again; whoever names no slot that there is hears which are."""
    submit(tmp_path, *map(planned, "ab"))
    (first, _), (second, _) = claim(store, "0"), claim(store, "3")
    assert [run.id for run in store.control.pause_slot("3", ())] == [second.id]
    assert [store.queries.request(run.id) for run in (first, second)] == [None, "stop"]
    assert store.queries.paused_slots() == {"3": "asked for"}
    for slot, words in (
        ("3", "slot 3 is paused already"),
        ("1", "slot 1: no such slot; there are 0, 3"),
    ):
        with pytest.raises(NothingAffected, match=words):
            store.control.pause_slot(slot, ())
    store.control.resume_slot("3")
    with pytest.raises(NothingAffected, match="slot 3 is not paused"):
        store.control.resume_slot("3")


def test_pausing_a_node_asks_what_runs_in_all_its_slots(tmp_path, store):
    """One name for all; a slot of another node that begins alike goes on."""
    submit(tmp_path, *map(planned, "abcd"))
    slots = ("mac/0", "mac/1", "mac2/0", "0")
    ours = [claim(store, slot)[0].id for slot in slots][:2]
    assert [run.id for run in store.control.pause_slot("mac", ("mac",))] == ours
    assert [store.queries.request(n) for n in (1, 2, 3, 4)] == ["stop", "stop", None, None]
    with pytest.raises(NothingAffected, match="slot mac/0 is paused with its node: resume --slot"):
        store.control.resume_slot("mac/0")


def test_pausing_the_queue_asks_what_runs_in_every_slot(tmp_path, store):
    """All of them, with one command."""
    submit(tmp_path, *map(planned, "ab"))
    found = [claim(store, slot)[0].id for slot in ("0", "1")]
    assert [run.id for run in store.control.pause_queue()] == found
    assert [store.queries.request(run_id) for run_id in found] == ["stop", "stop"]


def test_without_a_worker_there_is_no_slot_to_pause(store):
    """It would stay paused until a worker has it, and nobody would remember."""
    with pytest.raises(NothingAffected, match="no worker runs"):
        store.control.pause_slot("0", ())
