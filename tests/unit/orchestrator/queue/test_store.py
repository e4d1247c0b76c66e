"""The queue's operations; what is written is read back through a second connection."""

import re
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.errors import NothingAffected, QueueError, UsageError
from orchestrator.queue.connection import Connection, connect
from orchestrator.queue.status_queries import StatusQueries
from orchestrator.queue.store import _CLAIM, Store
from orchestrator.run import Limits, Outcome, Progress, Retry, RunState, Verdict, stamp
from orchestrator.views.overview import gather
from tests.queue_kit import nothing_before, plan_of, planned, runs, states, submit

BOOT = "boot"
DONE = Outcome(Verdict.COMPLETED, "completed", "result.json: completed", 0)
OOM = Outcome(Verdict.OOM, "out of memory", "bad_alloc", 4)
STOPPED = Outcome(Verdict.INTERRUPTED, "the worker was stopped", None, 75)


@pytest.fixture
def store():
    """The queue of this test's home."""
    with Store.open() as opened:
        yield opened


def claim(store):
    """The run and attempt that are claimed next, or None."""
    return store.claim("host", BOOT, nothing_before)


def end(store, attempt, outcome=DONE, newer=False, progress=None):
    """Record the end of an attempt."""
    return store.finish(
        attempt, outcome, newer_checkpoint=newer, progress=progress or Progress(), wall_s=2.0
    )


def failed(verdict="oom"):
    """An outcome that is not repeated."""
    return Outcome(Verdict(verdict), "words", "a line", 4)


# --- submit


def test_sweep_comes_back_as_it_was_submitted(tmp_path, store):
    """Every field of a plan survives, to the last bit of a float."""
    run = planned("a", learning_rate=1e-06, kl_coeff=0.1 + 0.2, use_compile=True, stop="é\n'")
    plan = plan_of(tmp_path, replace(run, tags=("x",), hash="h"), limits=Limits(0, 1.5, 2.5, 7))
    plan = replace(plan, retry=Retry(5, ("lost",)))
    store.add_sweep("s", lambda name: replace(plan, name=name), priority=3)
    with Store.open(readonly=True) as other:
        sweep = other.sweep("s")
        (found,) = other.runs(sweep.id)
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
        store.add_sweep("lr", make)
    assert names == ["lr", "lr-2", "lr-3"]
    assert [s.name for s in store.sweeps(all=True)] == names


def test_names_differ_also_where_the_file_system_ignores_case(store, tmp_path):
    """On a Mac outputs/LR is outputs/lr: their runs would share folders."""

    def make(name):
        return plan_of(tmp_path, planned(name), name=name)

    names = [store.add_sweep(name, make).name for name in ("lr", "LR", "Lr-2")]
    assert names == ["lr", "LR-2", "Lr-2-2"]


def test_fault_while_making_the_plan_queues_nothing(store):
    """An error in the middle of a submit leaves the queue as it was."""

    def make(name):
        raise ValueError(name)

    with pytest.raises(ValueError, match="lr"):
        store.add_sweep("lr", make)
    assert store.sweeps(all=True) == []


def test_folder_of_a_waiting_run_is_refused_with_its_owner(tmp_path, store):
    """Two runs that are still to be trained never share a folder, whatever it is called."""
    submit(tmp_path, planned("a"))
    again = replace(planned("a"), output_dir="./out/../out/a")
    with pytest.raises(UsageError, match="belongs to run 1 of sweep s"):
        submit(tmp_path, planned("b"), again, name="t")
    assert [r.name for r in runs()] == ["a"]
    store.cancel([1])
    submit(tmp_path, again, name="t")


def test_two_runs_of_one_sweep_in_one_folder_are_refused(tmp_path):
    """Also within a plan."""
    with pytest.raises(UsageError, match="belongs to run a of the same sweep"):
        submit(tmp_path, planned("a"), replace(planned("a"), name="b"))


def test_values_that_json_cannot_say_are_kept_as_words(tmp_path, store):
    """An infinite override does not break the views of other tools."""
    submit(tmp_path, replace(planned("a"), overrides={"x": float("inf"), "y": [float("nan")]}))
    assert store.run(1).overrides == {"x": "inf", "y": ["nan"]}


# --- opening


def test_opening_changes_no_state(tmp_path):
    """A run that is marked running stays so, however often the queue is opened."""
    submit(tmp_path, planned("a"))
    with Store.open() as first:
        claim(first)
    for readonly in (True, False):
        with Store.open(readonly=readonly):
            assert states() == ["running"]


def test_reading_a_queue_that_was_never_made_makes_nothing(tmp_path):
    """A missing file reads as an empty queue, and stays missing."""
    path = tmp_path / "none" / "queue.db"
    with Store.open(path, readonly=True) as store:
        assert store.sweeps(all=True) == store.runs() == []
        with pytest.raises(NothingAffected, match="the queue holds no sweep"):
            store.sweep("@")
    assert not path.parent.exists()


# --- claim and finish


def test_order_is_priority_then_sweep_then_position(tmp_path, store):
    """First come, first served, but for what somebody put first."""
    submit(tmp_path, planned("a"), planned("b"))
    with Store.open() as other:
        plan = plan_of(tmp_path, planned("c"), planned("d"), name="t")
        other.add_sweep("t", lambda name: plan, priority=1)
    store.move_first([2])
    order = []
    while claimed := claim(store):
        order.append(claimed[0].name)
        end(store, claimed[1])
    assert order == ["b", "c", "d", "a"]


def test_second_claim_finds_nothing_while_one_runs(tmp_path, store):
    """One run at a time, seen from another connection."""
    submit(tmp_path, planned("a"), planned("b"))
    assert claim(store) is not None
    with Store.open() as other:
        assert claim(other) is None


def test_claim_uses_its_index_and_sorts_nothing(tmp_path, store):
    """What a claim costs does not grow with what is finished."""
    db = connect(store.path)
    plan = db.read(f"EXPLAIN QUERY PLAN {_CLAIM}", {"now": "", "horizon": "", "boot_id": ""})
    steps = [row["detail"] for row in plan]
    db.close()
    assert any("USING INDEX runs_waiting" in step for step in steps)
    assert not any("TEMP B-TREE" in step for step in steps)
    assert not any(step in ("SCAN runs", "SCAN sweeps", "SCAN h") for step in steps)


def test_attempt_counts_as_a_death_until_its_end_is_known(tmp_path, store):
    """Counted before the launch: one that takes the machine down is counted too."""
    submit(tmp_path, planned("a"))
    run, attempt = claim(store)
    assert (run.deaths, run.attempt) == (1, 1)
    assert end(store, attempt).deaths == 0


def test_attempt_is_finished_once(tmp_path, store):
    """Whoever comes second changes nothing."""
    submit(tmp_path, planned("a"))
    _, attempt = claim(store)
    done = end(store, attempt, progress=Progress(7, 7, {"em": 0.5}))
    assert end(store, attempt, failed()) is None
    assert store.run(1) == done
    assert (done.update, done.metrics, done.exit_code, done.wall_s) == (7, {"em": 0.5}, 0, 2.0)
    assert store.attempts(1)[0].outcome == "completed"


def test_time_trained_is_noted_until_the_end(tmp_path, store):
    """A note that comes late does not change what was recorded."""
    submit(tmp_path, planned("a"))
    _, attempt = claim(store)
    store.tick(attempt, 1.5)
    assert store.attempts(1)[0].wall_s == 1.5
    end(store, attempt)
    store.tick(attempt, 99.0)
    assert store.attempts(1)[0].wall_s == store.run(1).wall_s == 2.0


def test_back_off_is_waited_for_and_others_go_first(tmp_path, store):
    """A crashed run comes back after its back-off; meanwhile the next one trains."""
    submit(tmp_path, planned("a"), planned("b"), retry=Retry(max=9))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    clock = [now]
    timed = Store(connect(store.path), lambda: clock[0])
    end(timed, claim(timed)[1], Outcome(Verdict.CRASH, "words"))
    assert timed.run(1).not_before == stamp(now, 1)
    assert claim(timed)[0].name == "b"
    end(timed, timed.attempts(2)[0])
    assert claim(timed) is None
    assert timed.waiting(BOOT).ready_at == stamp(now, 1)
    clock[0] = now + timedelta(seconds=1)
    assert claim(timed)[0].name == "a"
    timed.close()


def test_clock_set_back_does_not_make_a_back_off_endless(tmp_path, store):
    """A back-off that lies further ahead than any can is over."""
    submit(tmp_path, planned("a"), retry=Retry(max=9))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    clock = [now]
    timed = Store(connect(store.path), lambda: clock[0])
    end(timed, claim(timed)[1], Outcome(Verdict.CRASH, "words"))
    clock[0] = now - timedelta(days=1)
    assert claim(timed) is not None
    timed.close()


def test_failures_must_be_in_a_row_and_alike_to_hold_a_sweep(tmp_path, store):
    """A success between, or another verdict, starts the count anew."""
    submit(tmp_path, *(planned(f"r{i}") for i in range(9)), limits=Limits(max_failures=2))
    for outcome in (failed("oom"), failed("data"), DONE, failed("data"), failed("oom")):
        end(store, claim(store)[1], outcome)
        assert not store.sweep("s").paused
    end(store, claim(store)[1], failed("oom"))
    sweep = store.sweep("s")
    assert (sweep.paused, sweep.state) == (True, "paused")
    assert claim(store) is None
    assert store.waiting(BOOT).ready_at is None
    store.resume_sweep(sweep.id)
    end(store, claim(store)[1], failed("oom"))
    assert not store.sweep("s").paused


def test_max_failures_0_is_no_limit(tmp_path, store):
    """Off is off."""
    submit(tmp_path, *(planned(f"r{i}") for i in range(5)), limits=Limits(max_failures=0))
    while claimed := claim(store):
        end(store, claimed[1], failed())
    assert states() == ["failed"] * 5


def test_halted_queue_opens_with_the_next_boot(tmp_path, store):
    """A GPU that hangs holds everything, until the machine was restarted."""
    submit(tmp_path, planned("a"))
    end(store, claim(store)[1], Outcome(Verdict.GPU_HANG, "the GPU hangs"), newer=True)
    assert claim(store) is None
    assert store.halted(BOOT) == "the GPU hangs"
    assert store.halted("next") is None
    assert store.claim("host", "next", nothing_before) is not None


def test_sweep_waits_for_the_one_it_comes_after(tmp_path, store):
    """Nothing of it starts while the other has something left to do."""
    submit(tmp_path, planned("a"))
    plan = plan_of(tmp_path, planned("b"), name="t")
    store.add_sweep("t", lambda name: plan, priority=9, after=1)
    _, attempt = claim(store)
    assert attempt.run_id == 1
    end(store, attempt, failed())
    assert claim(store)[0].name == "b"


# --- control


@pytest.mark.parametrize(
    ("verb", "legal"),
    [
        ("cancel", {"queued", "paused", "running"}),
        ("pause", {"queued", "running"}),
        ("resume", {"paused"}),
        ("retry", {"failed"}),
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
    before = store.run(1)
    if state in legal:
        assert len(getattr(store, verb)([1])) == 1
        return
    with pytest.raises(NothingAffected, match=f"run 1 is {state}"):
        getattr(store, verb)([1])
    assert store.run(1) == before


def test_running_run_is_asked_and_stays_running(tmp_path, store):
    """Only the worker ends a trainer; cancel outranks pause, and asking twice is refused."""
    submit(tmp_path, planned("a"))
    claim(store)
    assert store.pause([1])[0].request == "pause"
    (asked,) = store.cancel([1])
    assert (asked.state, store.request(1)) == (RunState.RUNNING, "cancel")
    for verb in (store.cancel, store.pause):
        with pytest.raises(NothingAffected, match="run 1 is running and asked to cancel"):
            verb([1])


def test_some_changed_is_enough(tmp_path, store):
    """Cancelling a sweep of which half is done cancels the other half."""
    submit(tmp_path, planned("a"), planned("b"), planned("c"))
    end(store, claim(store)[1])
    assert [run.id for run in store.cancel([1, 2, 3])] == [2, 3]
    assert states() == ["completed", "cancelled", "cancelled"]


def test_unknown_id_changes_nothing_at_all(tmp_path, store):
    """One bad id among good ones: all or nothing."""
    submit(tmp_path, planned("a"))
    with pytest.raises(NothingAffected, match="run 99: no such run"):
        store.cancel([1, 99])
    assert states() == ["queued"]


def test_retry_starts_the_count_of_deaths_anew(tmp_path, store):
    """A failed run gets its full number of tries again, and keeps its attempts."""
    submit(tmp_path, planned("a"), retry=Retry(max=1))
    end(store, claim(store)[1], Outcome(Verdict.CRASH, "words"))
    (run,) = store.retry([1])
    assert (str(run.state), run.deaths, run.reason, run.ended) == ("queued", 0, None, None)
    assert claim(store)[1].n == 2


def test_removed_runs_take_their_sweep_and_attempts_along(tmp_path, store):
    """Ids are never given out again."""
    submit(tmp_path, planned("a"), planned("b"))
    end(store, claim(store)[1])
    assert [run.name for run in store.remove([1, 2])] == ["a", "b"]
    assert store.sweeps(all=True) == store.attempts(1) == []
    assert submit(tmp_path, planned("c")).id == 2
    assert runs()[0].id == 3


def test_pause_and_resume_of_sweep_and_queue(tmp_path, store):
    """What is held is not claimed, and says so when it is held or freed twice."""
    submit(tmp_path, planned("a"))
    store.pause_sweep(1)
    with pytest.raises(NothingAffected, match="paused already"):
        store.pause_sweep(1)
    assert claim(store) is None
    store.resume_sweep(1)
    with pytest.raises(NothingAffected, match="not paused"):
        store.resume_sweep(1)
    store.pause_queue()
    assert claim(store) is None
    store.resume_queue()
    with pytest.raises(NothingAffected, match="not paused"):
        store.resume_queue()
    assert claim(store) is not None


# --- reads


def test_references_to_runs(tmp_path, store):
    """An id, a range, a sweep's name, the latest sweep, the one before."""
    submit(tmp_path, planned("a"), planned("b"))
    submit(tmp_path, planned("c"), planned("d"), planned("e"), name="t")
    found = {ref: [r.id for r in store.find_runs(ref)] for ref in ("2", "2-4", "s", "@", "@~1")}
    assert found == {"2": [2], "2-4": [2, 3, 4], "s": [1, 2], "@": [3, 4, 5], "@~1": [1, 2]}


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("9", "run 9: no such run"),
        ("7-9", "7-9: no run has an id in this range"),
        ("lr-swep", "no such sweep; did you mean lr-sweep"),
        ("@~1", "no such sweep"),
        ("99999999999999999999", "no such sweep"),
        ("", "no such sweep"),
    ],
)
def test_references_to_nothing(tmp_path, store, ref, words):
    """Each is told, with the nearest name where there is one."""
    submit(tmp_path, planned("a"), name="lr-sweep")
    with pytest.raises(NothingAffected, match=words):
        store.find_runs(ref)


def test_unfinished_and_latest_sweeps_are_shown(tmp_path, store):
    """An old sweep that still waits is shown however many came after it."""
    submit(tmp_path, planned("old"), name="old")
    for i in range(4):
        name = f"s{i}"
        submit(tmp_path, planned(name), name=name)
        store.cancel([runs()[-1].id])
    assert [s.name for s in store.sweeps(latest=2)] == ["old", "s2", "s3"]
    assert len(store.sweeps(all=True)) == 5


def test_locked_database_is_said_and_nothing_is_lost(tmp_path, store):
    """Another program that holds the file: a clear word after the time-out."""
    submit(tmp_path, planned("a"))
    with (
        connect(store.path).write(),
        Store.open(timeout_s=0.05) as other,
        pytest.raises(QueueError, match=r"queue\.db: locked by another program \(waited 0.05 s\)"),
    ):
        other.cancel([1])
    assert states() == ["queued"]


def test_backup_is_whole_and_never_overwrites(tmp_path, store):
    """A copy made while the queue is in use opens as a queue of its own."""
    submit(tmp_path, planned("a"))
    claim(store)
    target = tmp_path / "backup.db"
    store.backup(target)
    assert target.stat().st_mode & 0o777 == 0o600
    with Store.open(target) as copy:
        assert [str(r.state) for r in copy.runs()] == ["running"]
    with pytest.raises(UsageError, match=r"backup\.db: exists"):
        store.backup(target)


def test_reader_is_not_blocked_by_a_long_submit(tmp_path, store):
    """`status` answers while somebody else's submit is still being made."""
    submit(tmp_path, planned("a"))
    making, go_on = threading.Event(), threading.Event()

    def make(name):
        making.set()
        assert go_on.wait(30)
        return plan_of(tmp_path, planned("b"), name=name)

    def add():
        with Store.open() as mine:
            mine.add_sweep("t", make)

    thread = threading.Thread(target=add)
    thread.start()
    assert making.wait(30)
    assert states() == ["queued"]
    go_on.set()
    thread.join(30)
    assert states() == ["queued", "queued"]


# --- counts that the database keeps


def counted(store):
    """The totals as counted anew from the runs."""
    sql = "SELECT sweep_id, state, kind, count(*), sum(wall_s > 0), sum(wall_s) FROM runs"
    return {tuple(row) for row in store._db.read(f"{sql} GROUP BY 1, 2, 3")}


def kept(store):
    """The totals as the database keeps them."""
    return {tuple(row) for row in store._db.read("SELECT * FROM totals WHERE n > 0")}


def test_counts_that_the_database_keeps_are_those_of_its_runs(tmp_path):
    """After everything that a run can go through, and for kinds that differ."""
    runs = [planned(f"r{i}", num_generations=(2, 8)[i % 2], kl_coeff=0.1 * i) for i in range(8)]
    submit(tmp_path, *runs)
    submit(tmp_path, planned("z", updates=2), name="other")
    with Store.open() as store:
        for outcome in (DONE, OOM, STOPPED):
            _, attempt = store.claim("h", "b", nothing_before)
            store.finish(attempt, outcome, newer_checkpoint=True, progress=Progress(), wall_s=2.5)
        store.cancel([4, 5])
        store.pause([6])
        store.retry([2])
        assert kept(store) == counted(store)
        assert {share.kind for share in store.shares(1)} == {
            share[2] for share in counted(store) if share[0] == 1
        }
        # g = 2 without KL, g = 2 with, g = 8 with: what a run costs, and no more.
        assert len({share.kind for share in store.shares(1)}) == 3
        assert store.trained_s(1) == 7.5
        store.remove([1, 4, 9])
        assert kept(store) == counted(store)
        assert [share.n for share in store.shares(2)] == []


def test_telling_runs_are_those_that_a_person_looks_for(tmp_path):
    """What runs and failed first, a third for what ended last, then what waits; all, if it fits."""
    submit(tmp_path, *(planned(f"r{i}") for i in range(20)))
    with Store.open() as store:
        for outcome in (DONE, DONE, OOM, DONE):
            _, attempt = store.claim("h", "b", nothing_before)
            store.finish(attempt, outcome, newer_checkpoint=False, progress=Progress())
        store.claim("h", "b", nothing_before)
        store.pause([20])
    with StatusQueries.open() as look:
        assert [run.id for run in look.summary_rows(1, 5)] == [3, 4, 5, 6, 20]
        assert [run.id for run in look.summary_rows(1, 6)] == [2, 3, 4, 5, 6, 20]
        assert [run.id for run in look.summary_rows(1, 2)] == [3, 5]
        assert look.summary_rows(1, 0) == []
        with Store.open() as store:
            store.cancel(range(6, 20))
        assert [run.id for run in look.summary_rows(1, 6)] == [3, 5, 17, 18, 19, 20]
        assert len(look.summary_rows(1, 100)) == 20
        assert [run.id for run in look.begun(1)] == [5]


def test_a_status_reads_only_what_it_shows(tmp_path):
    """Each question of a status finds its rows by an index, whatever the queue holds."""
    submit(tmp_path, *(planned(f"r{i}") for i in range(4)))
    asked = []
    with StatusQueries.open(readonly=True) as store:
        store._db.raw.set_trace_callback(asked.append)
        for sweep in store.sweeps():
            gather(store, [sweep], 12)
        store._db.raw.set_trace_callback(None)
        assert len(asked) > 8
        plans = [
            (sql, row["detail"])
            for sql in asked
            for row in store._db.read(f"EXPLAIN QUERY PLAN {sql}")
        ]
    # By the sweep alone, through the index of its positions, means every run that it has.
    # (What comes next is read in the order of its index, three rows of it.)
    walks = re.compile(
        r"SCAN r\b(?! USING INDEX runs_waiting)|SCAN runs|TEMP B-TREE"
        r"|autoindex_runs_1 \(sweep_id=\?\)$"
    )
    assert [plan for plan in plans if walks.search(plan[1])] == []
