"""How long the rest takes: what like runs took, with a range; unknown where nothing is like it."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.queue.eta import NOTHING, Parts, Span, Timeline, Work, parts_of
from orchestrator.run import Progress, RunState, Share
from tests.records import a_run

DONE, QUEUED, RUNNING, PAUSED = (
    RunState.COMPLETED, RunState.QUEUED, RunState.RUNNING, RunState.PAUSED,
)  # fmt: skip


def left(work, progress):
    """The seconds that what is left of a sweep will take, alone and in one slot."""
    return Timeline().after(parts_of(work, progress))


def done(kind, *seconds):
    """Completed runs of a kind that took so long."""
    return Share(DONE, kind, len(seconds), len(seconds), sum(seconds))


def queued(kind, n):
    """Runs of a kind that were never started."""
    return Share(QUEUED, kind, n, 0, 0.0)


def test_each_run_takes_what_runs_of_its_kind_took():
    """20 s for one kind, 80 s for another: two of each left make 200 s."""
    work = Work(
        (done("small", 20.0), done("large", 80.0), queued("small", 2), queued("large", 2)), ()
    )
    assert left(work, {}).likely_s == pytest.approx(200.0)


def test_a_running_run_counts_by_its_own_pace():
    """6 of 10 updates are left at 3 s each."""
    run = a_run(kind="a", state=RUNNING)
    work = Work((done("a", 20.0), Share(RUNNING, "a", 1, 0, 0.0)), (run,))
    assert left(work, {1: Progress(4, 10, {}, 3.0)}).likely_s == pytest.approx(18.0)
    # Before its first update it takes what a whole one takes; 4 of 10 done leave 60%.
    assert left(work, {1: Progress()}).likely_s == pytest.approx(20.0)
    assert left(work, {1: Progress(4, 10)}).likely_s == pytest.approx(12.0)


def test_what_was_never_measured_is_unknown():
    """No guess out of nothing, nor out of one other kind; nothing left takes no time."""
    assert left(Work((queued("a", 1),), ()), {}) is None
    assert left(Work((queued("a", 1), done("b", 20.0)), ()), {}) is None
    assert left(Work((done("a", 20.0),), ()), {}) == NOTHING
    # The running run of its kind tells, though none has ended.
    run = a_run(kind="a", state=RUNNING)
    work = Work((Share(RUNNING, "a", 1, 0, 0.0), queued("a", 2)), (run,))
    assert left(work, {1: Progress(5, 10, {}, 2.0)}).likely_s == pytest.approx(10.0 + 2 * 20.0)


def test_a_kind_without_a_measure_lies_between_those_that_have_one():
    """From the cheapest to the dearest of the others."""
    work = Work((done("a", 10.0), done("b", 90.0), queued("c", 1)), ())
    found = left(work, {})
    assert found.likely_s == pytest.approx(50.0)
    assert found.low_s <= 10.0 < 90.0 <= found.high_s


def test_like_runs_of_another_sweep_tell_too():
    """The same base and kind; what the sweep measured itself counts more."""
    assert left(Work((queued("a", 3),), (), similar_runs=(done("a", 40.0),)), {}).likely_s == 120.0
    own = Work((queued("a", 3), done("a", 10.0)), (), similar_runs=(done("a", 40.0),))
    assert left(own, {}).likely_s == pytest.approx(30.0)


def test_a_search_counts_what_it_has_yet_to_choose():
    """Five runs to come at 30 s in the mean; it is not over when nothing is queued."""
    work = Work((done("a", 20.0), done("b", 40.0)), (), to_come=5)
    found = left(work, {})
    assert found.likely_s == pytest.approx(150.0)
    assert found.low_s <= 100.0 < 200.0 <= found.high_s
    assert left(Work((), (), to_come=1), {}) is None


def test_runs_that_train_nothing_take_no_time():
    """Those that a user has put away, and those that share the result of another sweep's run."""
    never = Share(PAUSED, "a", 4, 0, 0.0)
    held = a_run(kind="a", state=PAUSED)
    shares = (done("a", 10.0), never, Share(PAUSED, "a", 1, 0, 0.0), queued("a", 3))
    work = Work(shares, (held,), waiting_duplicates={"a": 2})
    assert left(work, {1: Progress(5, 10)}).likely_s == pytest.approx(10.0)


def test_runs_at_a_rung_may_go_on_or_not():
    """Between nothing and what is left of them."""
    run = a_run(kind="a", state=PAUSED, rung=5)
    work = Work((done("a", 100.0), Share(PAUSED, "a", 1, 0, 0.0)), (run,))
    found = left(work, {1: Progress(5, 10)})
    assert found.low_s == 0.0
    assert found.high_s >= 50.0


def test_the_range_is_as_wide_as_equal_runs_differ():
    """By the formula: 8, 10 and 12 s, a mean of 10 s, four left."""
    shares = (done("a", 8.0, 10.0, 12.0), queued("a", 4))
    found = left(Work(shares, (), sample=[("a", 8.0), ("a", 10.0), ("a", 12.0)]), {})
    # Two degrees of freedom, and the prior of a quarter as a third.
    spread = math.sqrt((0.25**2 + 0.2**2 + 0.2**2) / 3)
    off = 2 * spread * math.sqrt(4 * 10.0**2 + 40.0**2 / 3)
    assert (found.low_s, found.high_s) == (pytest.approx(40.0 - off), pytest.approx(40.0 + off))
    # Runs that never differ make it narrow; a lone one leaves it wide.
    same = replace(Work(shares, ()), sample=[("a", 10.0)] * 60)
    lone = Work((done("a", 10.0), queued("a", 4)), (), sample=[("a", 10.0)])
    widths = [span.high_s - span.low_s for span in (left(same, {}), found, left(lone, {}))]
    assert widths == sorted(widths)


times = st.floats(0.1, 1e6)


@given(st.lists(times, min_size=1, max_size=8), st.lists(times, max_size=8), st.integers(0, 9))
def test_a_range_holds_its_middle_and_is_never_negative(seconds, others, n):
    """Whatever was measured."""
    work = Work(
        (done("a", *seconds), *([done("b", *others)] if others else []), queued("a", n)),
        (),
        sample=[*(("a", s) for s in seconds), *(("b", s) for s in others)],
    )
    found = left(work, {})
    assert 0 <= found.low_s <= found.likely_s * (1 + 1e-9)
    assert found.likely_s <= found.high_s * (1 + 1e-9)
    assert found + NOTHING == Span(found.low_s, found.likely_s, found.high_s)


def alike(n, cost_s, spread=0.0):
    """So many runs that are left, each of which takes so long."""
    return Parts(((n, Span(cost_s, cost_s, cost_s)),), spread, 1)


@pytest.mark.parametrize(
    ("slots", "n", "rounds"), [(2, 4, 2), (2, 5, 3), (4, 3, 1), (8, 1000, 125), (3, 100_000, 33334)]
)
def test_slots_share_equal_runs_in_rounds(slots, n, rounds):
    """Of five runs in two slots the last one trains alone; however many, it is counted at once."""
    assert Timeline([1.0] * slots).after(alike(n, 10.0)).likely_s == pytest.approx(10.0 * rounds)


def test_each_run_goes_to_the_slot_that_is_free_first():
    """By hand: 30, 10, 10, 25 in two slots end at 30 and 45; the next sweep's 20 at 50."""
    costs = tuple((1, Span(c, c, c)) for c in (30.0, 10.0, 10.0, 25.0))
    line = Timeline([1.0, 1.0])
    assert line.after(Parts(costs, 0.0, 1)).likely_s == pytest.approx(45.0)
    assert line.after(alike(1, 20.0)).likely_s == pytest.approx(50.0)
    assert line.after(None) is None
    assert line.after(alike(1, 20.0)) is None


@pytest.mark.parametrize(
    ("speeds", "n", "seconds"), [([2.0, 1.0], 3, 10.0), ([3.0, 1.0], 40_000, 100_000.0)]
)
def test_a_faster_slot_takes_more_of_the_runs(speeds, n, seconds):
    """Three runs of 10 s, by hand: two of them one after the other in the slot of twice the speed;
    40,000 at four runs in 10 s."""
    assert Timeline(speeds).after(alike(n, 10.0)).likely_s == pytest.approx(seconds, rel=1e-3)


def test_what_one_run_may_be_off_matters_less_where_many_share_the_time():
    """By hand: r = 0.1; 16 runs of 10 s in 4 slots are 40 s, off by 2 * 0.1 * sqrt(400 + 1600)."""
    span = Timeline([1.0] * 4).after(alike(16, 10.0, spread=0.1))
    off = 0.2 * math.sqrt(16 * 100 / 4 + 40**2)
    assert (span.low_s, span.high_s) == (pytest.approx(40 - off), pytest.approx(40 + off))
