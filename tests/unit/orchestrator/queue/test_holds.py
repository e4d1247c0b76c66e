"""What holds a sweep or halts the queue is told by its code: a reason may say anything."""

from dataclasses import replace

import pytest

from orchestrator.errors import NothingAffected
from orchestrator.run import HoldCode, Limits, Outcome, Progress, Verdict
from tests.queue_kit import BOOT, claim, plan_of, planned

LIMITS = Limits(wall_s=1.0, disk_bytes=1)
# Each sentence as it stood for another decision.
SENTENCES = ("limits.wall: a", "limits.disk: b", "frozen: c", "paused")


@pytest.fixture
def sweep(tmp_path, store):
    """A frozen sweep with limits."""
    plan = replace(plan_of(tmp_path, planned("a"), limits=LIMITS), frozen=True)
    return store.submissions.add_sweep("s", lambda name: plan)


@pytest.mark.parametrize("reason", SENTENCES)
@pytest.mark.parametrize(
    ("code", "left", "frozen"),
    [
        (HoldCode.WALL, Limits(disk_bytes=1), True),
        (HoldCode.DISK, Limits(wall_s=1.0), True),
        (HoldCode.CHANGED, LIMITS, False),
        (HoldCode.FAILURES, LIMITS, True),
        (HoldCode.USER, LIMITS, True),
    ],
)
def test_resume_lifts_what_held_the_sweep_whatever_the_reason_says(
    store, sweep, code, left, frozen, reason
):
    """A limit, the freeze, or nothing but the hold."""
    store.holds.hold_sweep(sweep.id, code, reason)
    held = store.queries.sweep("s")
    assert (held.paused, held.hold_code, held.reason) == (True, code, reason)
    store.control.resume_sweep(sweep.id)
    found = store.queries.sweep("s")
    assert (found.limits, found.frozen) == (left, frozen)
    assert (found.paused, found.hold_code, found.reason) == (False, None, None)


def test_pausing_with_any_words_is_the_users_doing(store, sweep):
    """A reason that a user gives is never taken for a limit."""
    store.control.pause_sweep(sweep.id, "limits.wall: I need the machine")
    store.control.resume_sweep(sweep.id)
    assert store.queries.sweep("s").limits == LIMITS


def test_a_halt_knows_whether_a_user_asked_for_it(store, sweep):
    """A GPU that hangs halts the queue until the next boot; a user until resume."""
    hang = Outcome(Verdict.GPU_HANG, "paused")
    store.claims.finish(claim(store)[1], hang, newer_checkpoint=False, progress=Progress())
    assert store.queries.halt_code(BOOT) is HoldCode.GPU_HANG
    assert store.queries.halt_code("the next boot") is None
    store.control.pause_queue("the GPU hangs")
    assert store.queries.halt_code("the next boot") is HoldCode.USER
    with pytest.raises(NothingAffected):
        store.control.pause_queue()
    store.control.resume_queue()
    assert store.queries.halt_code(BOOT) is None
