"""What a worker takes and records: the order, attempts, failures in a row, halts."""

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.queue.claims import _CLAIM, LeftOut
from orchestrator.queue.connection import connect
from orchestrator.queue.store import Store
from orchestrator.run import HoldCode, Limits, Outcome, Progress, Retry, Verdict, stamp
from tests.queue_kit import (
    BOOT,
    DONE,
    claim,
    end,
    failed,
    nothing_before,
    plan_of,
    planned,
    states,
    submit,
)


def test_order_is_priority_then_sweep_then_position(tmp_path, store):
    """First come, first served, but for what somebody put first."""
    submit(tmp_path, planned("a"), planned("b"))
    with Store.open() as other:
        plan = plan_of(tmp_path, planned("c"), planned("d"), name="t")
        other.submissions.add_sweep("t", lambda name: plan, priority=1)
    store.control.move_first([2])
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
    asked = {"now": "", "horizon": "", "boot_id": "", "left_out": "[1]", "slot": "0"}
    asked |= {"left_sweeps": "[7]", "left_kinds": "[]", "node": None}
    plan = db.read(f"EXPLAIN QUERY PLAN {_CLAIM}", asked)
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
    assert store.queries.run(1) == done
    assert (done.update, done.metrics, done.exit_code, done.wall_s) == (7, {"em": 0.5}, 0, 2.0)
    assert store.queries.attempts(1)[0].outcome == "completed"


def test_a_report_counts_only_with_the_token_of_its_attempt(tmp_path, store):
    """A node that comes back late, or holds an older attempt, changes nothing."""
    submit(tmp_path, planned("a"), retry=Retry(max=9))
    _, first = claim(store)
    end(store, first, Outcome(Verdict.INTERRUPTED, "given away"))
    _, second = claim(store)
    assert first.token != second.token
    for late in (first, replace(second, token=first.token), replace(second, token="")):
        store.claims.started(late, 4711, 1.0)
        store.claims.tick(late, 99.0)
        assert end(store, late) is None
    now = store.queries.attempts(1)[1]
    assert (now.pid, now.wall_s, now.ended) == (None, 0.0, None)
    assert end(store, second).state == "completed"


def test_a_slot_leaves_out_what_does_not_fit_it(tmp_path, store):
    """Single runs, a sweep, all of a kind: looked at once, and the others go on in their order."""
    submit(tmp_path, planned("a"), planned("b", num_generations=8), planned("c"), name="s")
    submit(tmp_path, planned("d"), planned("e"), name="t")
    kinds = {run.name: run.kind for run in store.queries.runs()}
    left_out, asked = LeftOut(runs={1}, kinds={kinds["b"]}), []

    def fits(run):
        asked.append(run.name)
        if run.sweep == "t":
            return True
        left_out.sweeps.add(run.sweep_id)
        return False

    run, attempt = store.claims.claim(
        *("there", "other boot", nothing_before, "mac/0"), node="mac", left_out=left_out, fits=fits
    )
    assert (run.name, asked) == ("d", ["c", "d"])
    assert (attempt.host, attempt.boot_id) == ("there", "other boot")
    assert (attempt.slot, attempt.node) == ("mac/0", "mac")
    assert claim(store)[0].name == "a"


def test_a_queue_knows_which_attempts_it_waits_for(tmp_path, store):
    """Not for one that has ended, or whose run was removed; those of a copy are not its own."""
    submit(tmp_path, planned("a"), planned("b"), retry=Retry(max=9))
    _, first = claim(store)
    assert store.queries.is_wanted(1, 1, first.token) is True
    assert store.queries.is_wanted(1, 1, "drawn by another") is None
    assert store.queries.is_wanted(1, 2, "drawn by another") is None
    assert store.queries.is_wanted(3, 1, "drawn by another") is None
    assert store.queries.is_wanted(2**70, 1, "drawn by another") is None
    assert store.queries.is_wanted(1, 2**63, "drawn by another") is None
    end(store, first)
    assert store.queries.is_wanted(1, 1, first.token) is False
    store.control.remove([1])
    assert store.queries.is_wanted(1, 1, first.token) is False


def test_a_gpu_that_hangs_halts_its_node_until_that_was_started_anew(tmp_path, store):
    """All slots of the node, and nothing else: the queue goes on everywhere else."""
    submit(tmp_path, *(planned(name) for name in "abc"), retry=Retry(max=9))
    on_mac = (nothing_before, "mac/0", (), "mac")
    _, attempt = store.claims.claim("there", "boot-1", *on_mac)
    end(store, attempt, Outcome(Verdict.GPU_HANG, "the GPU hangs"))
    assert store.queries.halted(BOOT) is None
    assert store.queries.paused_slots() == {"mac": "the GPU hangs"}
    assert store.claims.claim("there", "boot-1", nothing_before, "mac/1", (), "mac") is None
    store.holds.node_started("mac", "boot-1")
    assert store.claims.claim("there", "boot-1", *on_mac) is None
    assert claim(store) is not None
    store.holds.node_started("mac", "boot-2")
    assert store.claims.claim("there", "boot-2", *on_mac) is not None


def test_a_pause_of_the_user_outlives_the_gpu_that_hung(tmp_path, store):
    """Who paused the node wants it for himself, whatever was wrong with it besides."""
    submit(tmp_path, planned("a"), planned("b"), retry=Retry(max=9))
    _, attempt = store.claims.claim("there", "boot-1", nothing_before, "mac/0", (), "mac")
    store.control.pause_slot("mac", ["mac", "mac/0"])
    end(store, attempt, Outcome(Verdict.GPU_HANG, "the GPU hangs"))
    store.holds.node_started("mac", "boot-2")
    assert list(store.queries.paused_slots()) == ["mac"]


def test_time_trained_is_noted_until_the_end(tmp_path, store):
    """A note that comes late does not change what was recorded."""
    submit(tmp_path, planned("a"))
    _, attempt = claim(store)
    store.claims.tick(attempt, 1.5)
    assert store.queries.attempts(1)[0].wall_s == 1.5
    end(store, attempt)
    store.claims.tick(attempt, 99.0)
    assert store.queries.attempts(1)[0].wall_s == store.queries.run(1).wall_s == 2.0


def test_back_off_is_waited_for_and_others_go_first(tmp_path, store):
    """A crashed run comes back after its back-off; meanwhile the next one trains."""
    submit(tmp_path, planned("a"), planned("b"), retry=Retry(max=9))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    clock = [now]
    timed = Store(connect(store.path), lambda: clock[0])
    end(timed, claim(timed)[1], Outcome(Verdict.CRASH, "words"))
    assert timed.queries.run(1).not_before == stamp(now, 1)
    assert claim(timed)[0].name == "b"
    end(timed, timed.queries.attempts(2)[0])
    assert claim(timed) is None
    assert timed.queries.waiting(BOOT).ready_at == stamp(now, 1)
    clock[0] = now + timedelta(seconds=1)
    assert claim(timed)[0].name == "a"
    timed.close()


def test_waiting_for_the_hub_uses_up_no_other_tries(tmp_path, store):
    """A death fills no limit that is lower than its own: six waits, then each of two crashes."""
    submit(tmp_path, planned("a"), retry=Retry(max=2))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    clock = [now]
    timed = Store(connect(store.path), lambda: clock[0])

    def die(verdict):
        clock[0] += timedelta(hours=1)
        return end(timed, claim(timed)[1], Outcome(Verdict(verdict), "words"))

    for _ in range(6):
        assert die("hub_away").state == "queued"
    run = die("crash")
    assert (run.state, run.not_before) == ("queued", stamp(clock[0], 1))
    assert die("hub_away").state == "queued"
    run = die("lost")
    assert run.state == "failed"
    assert run.reason == "2 deaths in a row without a newer checkpoint; the last: words"
    timed.close()


def test_deaths_before_a_newer_checkpoint_or_a_retry_are_forgotten(tmp_path, store):
    """What counts is the row that the run's own count says, not all attempts that it ever made."""
    submit(tmp_path, planned("a"), planned("b"), retry=Retry(max=2))
    clock = [datetime(2026, 1, 1, tzinfo=UTC)]
    timed = Store(connect(store.path), lambda: clock[0])

    def die(newer=False):
        clock[0] += timedelta(hours=1)
        crash = Outcome(Verdict.CRASH, "words")
        run, attempt = claim(timed)
        assert run.name == "a"
        return end(timed, attempt, crash, newer).state

    assert [die(), die(newer=True), die(), die()] == ["queued", "queued", "queued", "failed"]
    timed.control.retry([1])
    assert [die(), die()] == ["queued", "failed"]
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
        assert not store.queries.sweep("s").paused
    end(store, claim(store)[1], failed("oom"))
    sweep = store.queries.sweep("s")
    assert (sweep.paused, sweep.state) == (True, "paused")
    assert claim(store) is None
    assert store.queries.waiting(BOOT).ready_at is None
    store.control.resume_sweep(sweep.id)
    end(store, claim(store)[1], failed("oom"))
    assert not store.queries.sweep("s").paused


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
    assert store.queries.halted(BOOT) == "the GPU hangs"
    assert store.queries.halted("next") is None
    assert store.claims.claim("host", "next", nothing_before) is not None


def test_two_resets_in_a_row_halt_the_queue(tmp_path, store):
    """Of whichever runs; an attempt that ended otherwise starts the count anew."""
    submit(tmp_path, *(planned(f"r{i}") for i in range(4)))
    reset = Outcome(Verdict.GPU_RESET, "another command broke the GPU")
    for outcome in (reset, DONE, reset):
        end(store, claim(store)[1], outcome)
        assert store.queries.halted(BOOT) is None
    end(store, claim(store)[1], reset)
    assert store.queries.halted(BOOT) is not None
    assert store.queries.halt_code(BOOT) is HoldCode.GPU_HANG


def test_reset_before_a_reboot_does_not_count(tmp_path, store):
    """The machine was started anew between the two."""
    submit(tmp_path, planned("a"), planned("b"))
    reset = Outcome(Verdict.GPU_RESET, "another command broke the GPU")
    end(store, claim(store)[1], reset)
    end(store, store.claims.claim("host", "next", nothing_before)[1], reset)
    assert store.queries.halted("next") is None


def test_sweep_waits_for_the_one_it_comes_after(tmp_path, store):
    """Nothing of it starts while the other has something left to do."""
    submit(tmp_path, planned("a"))
    plan = plan_of(tmp_path, planned("b"), name="t")
    store.submissions.add_sweep("t", lambda name: plan, priority=9, after=1)
    _, attempt = claim(store)
    assert attempt.run_id == 1
    end(store, attempt, failed())
    assert claim(store)[0].name == "b"


def test_a_slot_has_one_run_at_a_time_and_none_while_it_is_paused(tmp_path, store):
    """The database holds it, too: whatever a program does, no slot has two."""
    submit(tmp_path, *map(planned, "abcd"))
    assert [claim(store, slot)[0].name for slot in ("0", "1")] == ["a", "b"]
    assert claim(store, "0") is None
    store.control.pause_slot("2", ["2"])
    assert claim(store, "2") is None
    assert claim(store, "GPU-7f")[0].name == "c"
    with pytest.raises(sqlite3.IntegrityError), store._db.write():
        store._db.raw.execute("UPDATE runs SET slot = '0' WHERE id = 2")
    store.control.resume_slot("2")
    assert claim(store, "2")[0].name == "d"


def test_what_another_slot_has_prepared_is_left_to_it(tmp_path, store):
    """Unless nothing else is there: a slot is not kept idle for it."""
    submit(tmp_path, *map(planned, "ab"))
    assert store.claims.coming(BOOT).name == "a"
    assert store.claims.coming(BOOT, [1]).name == "b"
    assert claim(store, "0", rather_not=[1])[0].name == "b"
    assert claim(store, "1", rather_not=[1])[0].name == "a"


def test_what_a_sweep_has_trained_counts_what_trains_now(tmp_path, store):
    """Ended attempts, and those in other slots as far as they are noted; one's own is left out."""
    submit(tmp_path, *map(planned, "abc"))
    end(store, claim(store)[1])
    (_, first), (_, second) = claim(store, "0"), claim(store, "1")
    store.claims.tick(first, 5.0)
    store.claims.tick(second, 7.0)
    assert store.queries.trained_s(1) == 2.0 + 5.0 + 7.0
    assert store.queries.trained_s(1, but=first) == 2.0 + 7.0
    end(store, first)
    assert store.queries.trained_s(1, but=first) == 2.0 + 2.0 + 7.0


def test_the_trainers_of_all_slots_are_known_while_they_train(tmp_path, store):
    """Not one that has no pid yet, and none that has ended."""
    submit(tmp_path, *map(planned, "abc"))
    (_, first), (_, second), _ = (claim(store, slot) for slot in "012")
    store.claims.started(first, 71, 1.0)
    store.claims.started(second, 72, 1.0)
    assert store.queries.trainer_pids() == [71, 72]
    end(store, first)
    assert store.queries.trainer_pids() == [72]


def test_two_resets_of_the_gpu_are_two_in_a_row_only_in_one_slot(tmp_path, store):
    """Each device by itself: one reset on each of two is no GPU that must be restarted."""
    submit(tmp_path, *map(planned, "abc"), retry=Retry(max=9))
    reset = failed("gpu_reset")
    (_, first), (_, second) = claim(store, "0"), claim(store, "1")
    end(store, first, reset)
    end(store, second, reset)
    assert store.queries.halted(BOOT) is None
    end(store, claim(store, "1")[1], reset)
    assert "reset twice in a row" in store.queries.halted(BOOT)
