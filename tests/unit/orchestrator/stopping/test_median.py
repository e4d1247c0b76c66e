"""The median rule: who ends, and who has too little to be judged by."""

import pytest

from orchestrator.run import Objective, RunState
from orchestrator.stopping.median import below_median
from tests.run_curves import EM, median_rule, run


def test_a_run_below_the_median_of_its_peers_is_stopped():
    """Its best value so far against theirs at the same update; four others, by hand."""
    peers = [run(i, [0.1, 0.2, 0.3, last]) for i, last in enumerate([0.4, 0.5, 0.6, 0.7])]
    peers[3] = run(3, [0.3, 0.4, 0.5, 0.7])
    curve = run(9, [0.1, 0.25, 0.2], total=4, state=RunState.RUNNING)
    decision = below_median(curve, peers, median_rule(), EM)
    assert decision.update == 3
    assert decision.reason == "median: em 25.0% at best, 30.0% is the median of 4 runs at update 3"
    assert decision.evidence == "update 3: others 30.0%, 30.0%, 30.0%, 50.0%"


@pytest.mark.parametrize(
    ("values", "peers", "more"),
    [
        ([0.1], 4, {}),  # Within the warm-up: 1 of 4 updates.
        ([0.1, 0.3, 0.2], 4, {}),  # As good as the median once.
        ([0.1, 0.1, 0.1], 2, {}),  # Too few others.
        ([], 4, {}),  # Nothing evaluated yet.
        ([0.1, 0.1, 0.1], 4, {"warmup": 0.9}),
    ],
)
def test_without_evidence_a_run_goes_on(values, peers, more):
    """Warm-up, a good moment, too few peers, no value."""
    others = [run(i, [0.1, 0.2, 0.3, 0.4]) for i in range(peers)]
    curve = run(9, values, total=4, state=RunState.RUNNING)
    assert below_median(curve, others, median_rule(**more), EM) is None


def test_only_runs_that_came_as_far_are_peers():
    """A run stopped earlier says nothing about now; one of another length is met at its share."""
    short = [run(i, [0.9, 0.9], total=4) for i in range(3)]
    curve = run(9, [0.1, 0.1, 0.1], total=4, state=RunState.RUNNING)
    assert below_median(curve, short, median_rule(), EM) is None
    longer = [run(i, [0.0] * 5 + [0.2] * 3) for i in range(3)]  # At 3/4 of 8 updates: 0.2.
    assert below_median(curve, longer, median_rule(), EM).reason.startswith(
        "median: em 10.0% at best, 20.0% is"
    )
    assert below_median(run(9, [0.1, 0.1], total=4), longer, median_rule(), EM) is None


def test_goal_min_turns_the_median_round():
    """A loss above the median is the bad one."""
    peers = [run(i, [0.5, 0.4, 0.3]) for i in range(3)]
    assert (
        below_median(run(9, [0.5, 0.5]), peers, median_rule(), Objective("em", "min")) is not None
    )
    assert below_median(run(9, [0.5, 0.3]), peers, median_rule(), Objective("em", "min")) is None
