"""What a rule would have saved, and whether the best setting had been left."""

import pytest

from orchestrator.run import RunState
from orchestrator.stopping.curves import RunCurve
from orchestrator.stopping.health import HealthRule
from orchestrator.stopping.replay import replay
from orchestrator.stopping.rules import StopRule
from tests.run_curves import DONE, EM, HALVING, median_rule, run


def test_a_replay_says_what_would_have_been_saved():
    """Nine aligned runs of ten updates: 15 + 12 + 20 of 90 updates, by hand."""
    curves = [run(i, [i / 10] * 10, wall_s=100.0) for i in range(9)]
    found = replay(curves, HALVING, EM)
    assert (found.updates, found.saved) == (90, 5 * 7 + 2 * 4)
    assert found.share_saved == pytest.approx(43 / 90)
    assert (found.wall_s, found.saved_s) == (900.0, pytest.approx(430.0))
    assert (found.winner, found.chosen, found.lost) == ("s8", "s8", 0.0)
    assert not found.winner_killed
    assert [d.run for d in found.stopped] == [0, 1, 2, 3, 4, 5, 6]


def test_a_replay_says_where_the_winner_would_have_died():
    """A late starter is behind at the first rung."""
    curves = [run(i, [0.2 + i / 100] * 10) for i in range(4)]
    curves.append(run(9, [0.1] * 5 + [0.9] * 5))
    found = replay(curves, HALVING, EM)
    assert (found.winner, found.chosen) == ("s9", "s3")
    assert found.winner_killed
    assert found.lost == pytest.approx(0.9 - 0.23)


def test_the_median_is_replayed_in_the_order_of_the_sweep():
    """The first three have too few peers; then each meets those before it, and none after it."""
    curves = [run(i, [v] * 10) for i, v in enumerate([0.5, 0.5, 0.5, 0.1, 0.9, 0.2])]
    found = replay(curves, median_rule(), EM)
    assert [(d.run, d.update) for d in found.stopped] == [(3, 3), (5, 3)]
    assert replay(curves[::-1], median_rule(), EM).saved == 0


def test_a_stopped_run_is_seen_by_the_others_only_as_far_as_it_came():
    """Its later values were never logged in the sweep that is replayed."""
    low = [run(i, [0.5] * 10) for i in range(3)]
    late = run(3, [0.1] * 3 + [0.99] * 7)  # Stopped at 3.
    last = run(4, [0.5] * 10)
    found = replay([*low, late, last], median_rule(), EM)
    assert [d.run for d in found.stopped] == [3]
    assert found.winner == "s3"
    assert found.winner_killed


def test_health_is_replayed_with_every_rule():
    """A run that fell ill before a rung is not judged at it."""
    ill = RunCurve(
        0, "s0", [{"update": u, "em": 0.9, "kl": float(u)} for u in range(1, 11)], 10, DONE
    )
    curves = [ill, *(run(i, [i / 10] * 10) for i in (1, 2))]
    for rule, stopped in (("none", {0: 2}), ("median", {0: 2}), ("halving", {0: 2, 1: 3})):
        stop = StopRule(rule, health=(HealthRule("kl", ">", 1.0, 1),))
        found = replay(curves, stop, EM)
        assert {d.run: d.update for d in found.stopped} == stopped
        assert found.saved == sum(10 - update for update in stopped.values())


def test_a_winner_that_ties_with_the_chosen_one_is_no_loss():
    """Stopping one of two equal settings costs nothing."""
    curves = [run(i, [0.1] * 5 + [0.5] * 5) for i in (0, 1)] + [run(2, [0.2] * 5 + [0.5] * 5)]
    found = replay(curves, HALVING, EM)
    assert len(found.stopped) == 2
    assert (found.lost, found.winner_killed) == (0.0, False)


def test_failed_runs_win_nothing_and_an_empty_sweep_saves_nothing():
    """The winner is a setting with completed runs."""
    curves = [run(0, [0.9] * 5, total=10, state=RunState.FAILED), run(1, [0.1] * 10)]
    assert replay(curves, HALVING, EM).winner == "s1"
    empty = replay([], HALVING, EM)
    assert (empty.winner, empty.share_saved, empty.winner_killed) == (None, 0.0, False)
