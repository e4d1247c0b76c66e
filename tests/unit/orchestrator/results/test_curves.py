"""Curves on one grid: what a thinned point and a band stand for, against numpy and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.results.curves import Bins, align, band, only_value, thin


def test_short_curves_stay_as_they_are():
    """Every update is its own point, the evaluation before training among them."""
    thinned = thin([[(0, 0.5), (1, 1.0), (3, 2.0)]], 10)
    found = band(thinned, [0])
    assert thinned.width == 1
    assert (found.updates, found.mean) == ((0, 1, 3), (0.5, 1.0, 2.0))
    assert not found.is_wide


def test_a_point_of_a_long_curve_is_the_mean_of_its_updates():
    """Ten updates on at most four points: three each, the last one alone; by hand."""
    curve = [(update, float(update**2)) for update in range(1, 11)]
    thinned = thin([curve], 4)
    found = band(thinned, [0])
    assert thinned.width == 3
    assert found.updates == (2, 5, 8, 10)
    assert found.mean == pytest.approx(
        ((1 + 4 + 9) / 3, (16 + 25 + 36) / 3, (49 + 64 + 81) / 3, 100)
    )


def test_update_0_is_never_averaged_with_training():
    """What the base model scores is not mixed with what comes after."""
    curve = [(0, 100.0)] + [(update, 1.0) for update in range(1, 101)]
    found = band(thin([curve], 10), [0])
    assert found.updates[0] == 0
    assert found.mean[0] == 100.0
    assert set(found.mean[1:]) == {1.0}


def test_few_evaluations_of_a_long_run_are_not_thinned():
    """Twenty evaluations over 10,000 updates keep their places."""
    curve = [(update, 0.1) for update in range(0, 10_001, 500)]
    assert band(thin([curve], 50), [0]).updates == tuple(range(0, 10_001, 500))


@pytest.mark.parametrize(("n", "low", "high"), [(4, 0.0, 9.0), (5, 1.0, 4.0)])
def test_a_band_is_the_range_of_few_runs_and_the_middle_half_of_many(n, low, high):
    """By hand over 9 4 1 0 and 9 4 2 1 0."""
    values = {4: [9.0, 4.0, 1.0, 0.0], 5: [9.0, 4.0, 2.0, 1.0, 0.0]}[n]
    found = band(thin([[(1, value)] for value in values], 10), range(n))
    assert (found.low, found.high, found.n) == ((low,), (high,), (n,))
    assert found.mean == (pytest.approx(np.mean(values)),)


def test_runs_that_end_early_count_only_where_they_are():
    """The mean goes on over the runs that are left, and `n` says how many."""
    found = band(thin([[(1, 0.0), (2, 0.0)], [(1, 2.0)]], 10), [0, 1])
    assert found.mean == (1.0, 0.0)
    assert found.n == (2, 1)


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), min_size=1, max_size=7),
    st.integers(1, 20),
)
def test_thinning_keeps_the_mean_and_stays_between_the_lowest_and_the_highest(runs, points):
    """For one run the mean over all bins, each by its size, is the mean of the run."""
    curves = [[(update, value) for update, value in enumerate(run, 1)] for run in runs]
    thinned = thin(curves, points)
    assert all(len(run) <= points for run in thinned.runs)
    sizes = [min(thinned.width, len(runs[0]) - i) for i in range(0, len(runs[0]), thinned.width)]
    binned = [thinned.runs[0][i] for i in range(len(sizes))]
    assert np.average(binned, weights=sizes) == pytest.approx(np.mean(runs[0]), abs=1e-6)
    found = band(thinned, range(len(runs)))
    slack = 1e-6
    assert all(low - slack <= high for low, high in zip(found.low, found.high, strict=True))
    flat = [value for run in runs for value in run]
    assert min(found.low) >= min(flat) - slack
    assert max(found.high) <= max(flat) + slack


def test_a_metric_that_never_moves_is_told():
    """So that no empty plot is drawn for it."""
    assert only_value([bins([(1, 0.1), (2, 0.1), (3, 0.1)], 1), bins([(1, 0.1)]), bins([])]) == 0.1
    assert only_value([bins([(1, 0.0), (2, 0.5)])]) is None
    assert only_value([bins([])]) is None


def test_a_mean_ends_where_runs_do():
    """Three runs, of which the worst is pruned at update 4: the two others are another curve."""
    runs = [[(u, float(v)) for u in range(1, n + 1)] for v, n in ((0, 4), (1, 8), (2, 6))]
    found = band(thin(runs, 100), range(3))
    assert found.n == (3, 3, 3, 3, 2, 2, 1, 1)
    assert found.whole == 4
    assert found.mean[:4] == (1.0,) * 4
    assert band(thin(runs[:1], 100), [0]).whole == 4
    # A run that begins later, or logs less often, ends nothing.
    assert band(thin([[(0, 1.0), (2, 1.0)], [(1, 1.0), (2, 1.0)]], 100), range(2)).whole == 3


def bins(curve, most=256):
    """A curve as a run's series keeps it."""
    found = Bins(most)
    for update, value in curve:
        found.add(update, value)
    return found


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(-50, 50)), min_size=32, max_size=120),
    st.lists(st.tuples(st.integers(0, 90), st.integers(-50, 50)), max_size=40),
    st.integers(2, 20),
)
def test_many_values_at_once_make_the_bins_that_one_by_one_make(curve, before, most):
    """In any order, some of them there before; whole numbers, so that all sums are exact."""
    whole, parts = bins(before, most), bins(before, most)
    parts.extend(*zip(*curve, strict=True))
    for update, value in curve:
        whole.add(update, value)
    assert (parts.numbers, parts.means, parts.width) == (whole.numbers, whole.means, whole.width)
    assert (parts.low, parts.high, parts.last) == (whole.low, whole.high, whole.last)


def test_a_log_of_any_length_is_kept_in_bounded_room():
    """Ten updates in at most four bins, four each; update 0 stays alone. By hand."""
    found = bins([(0, 100.0), *((u, float(u)) for u in range(1, 11))], 4)
    assert found.width == 4
    assert found.before == 100.0
    assert [(found.middle(n), m) for n, m in zip(found.numbers, found.means, strict=True)] == [
        (0.0, 100.0), (2.5, 2.5), (6.5, 6.5), (9.5, 9.5),
    ]  # fmt: skip
    assert (found.low, found.high, found.end) == (1.0, 100.0, 9.5)


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=80), min_size=1, max_size=4),
    st.integers(2, 16),
    st.integers(1, 20),
)
def test_runs_of_any_length_meet_on_common_bins(runs, most, points):
    """As if each had been read whole and put into bins of that width."""
    curves = [list(enumerate(run, 1)) for run in runs]
    thinned = align([bins(curve, most) for curve in curves], points)
    assert len({number for run in thinned.runs for number in run}) <= points
    for run, found in zip(runs, thinned.runs, strict=True):
        whole = [run[at : at + thinned.width] for at in range(0, len(run), thinned.width)]
        assert list(found) == [*range(len(whole))]
        assert list(found.values()) == pytest.approx([np.mean(part) for part in whole], abs=1e-6)
