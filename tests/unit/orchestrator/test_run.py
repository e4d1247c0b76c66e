"""States, their arrows, and the state of a sweep: against docs/architecture.md."""

from datetime import UTC, datetime

import pytest

from orchestrator.run import END_STATES, TRANSITIONS, RunState, stamp, sweep_state

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
# The states of a run as docs/architecture.md draws them.
ARROWS = {
    "queued": {"running", "paused", "cancelled"},
    "running": {"completed", "failed", "pruned", "cancelled", "queued", "paused"},
    "paused": {"queued", "cancelled", "pruned"},
    "failed": {"queued"},
    "completed": set(),
    "pruned": set(),
    "cancelled": {"queued"},
}


def test_arrows_are_those_of_the_documents():
    """Exactly the documented transitions, no more."""
    assert {str(a): {str(b) for b in bs} for a, bs in TRANSITIONS.items()} == ARROWS


def test_end_states_lead_nowhere_but_retry():
    """Of what has ended a failed run can come back, and one that was cancelled."""
    assert {s for s in END_STATES if TRANSITIONS[s]} == {RunState.FAILED, RunState.CANCELLED}


@pytest.mark.parametrize(
    ("counts", "paused", "state"),
    [
        ({}, False, "completed"),
        ({"queued": 2}, False, "queued"),
        ({"queued": 2, "completed": 3}, False, "queued"),
        ({"queued": 2, "running": 1}, False, "running"),
        ({"queued": 2, "running": 1}, True, "running"),
        ({"queued": 2}, True, "paused"),
        ({"paused": 1, "completed": 1}, False, "paused"),
        ({"paused": 1, "queued": 1}, False, "queued"),
        ({"completed": 1, "failed": 1, "cancelled": 1}, False, "completed"),
        ({"failed": 2}, False, "failed"),
        ({"failed": 1, "cancelled": 1}, False, "failed"),
        ({"failed": 1, "pruned": 1}, False, "completed"),
        ({"failed": 1, "queued": 1}, False, "queued"),
        ({"cancelled": 2}, False, "cancelled"),
        ({"cancelled": 2}, True, "cancelled"),
    ],
)
def test_state_of_a_sweep(counts, paused, state):
    """One word for a whole sweep."""
    assert sweep_state({RunState(k): n for k, n in counts.items()}, paused) == state


def test_stamps_sort_as_text():
    """Times in the database are compared as text."""
    assert stamp(NOW) == "2026-01-02T03:04:05.000Z"
    assert stamp(NOW) < stamp(NOW, 0.001) < stamp(NOW, 1) < stamp(NOW, 60)
