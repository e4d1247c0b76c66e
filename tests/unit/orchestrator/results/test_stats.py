"""Statistics against values worked out by hand, by numpy, and by scipy 1.17 (pinned)."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.results.stats import (
    best_so_far,
    compare_settings,
    interval,
    iqm,
    mean,
    paired_p,
    quantile,
    stratified_interval,
    student_p,
    tail,
    welch_p,
)

VALUES = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=5)


def seeds(values):
    return dict(enumerate(values))


# --- summaries


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0], 1.0),
        ([1.0, 2.0, 9.0], 4.0),  # Fewer than four: the mean.
        ([0.0, 1.0, 3.0, 100.0], 2.0),  # One left out at each end.
        ([100.0, 3.0, 1.0, 0.0, 2.0], 2.0),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 80.0], 4.5),  # Two at each end.
    ],
)
def test_the_interquartile_mean_leaves_out_a_quarter_at_each_end(values, expected):
    """By hand; a lucky seed does not make a setting good."""
    assert iqm(values) == expected


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_and_means_are_those_of_numpy(values, q):
    """Linear interpolation, numpy's default."""
    assert quantile(sorted(values), q) == pytest.approx(np.quantile(values, q), rel=1e-9, abs=1e-9)
    assert mean(values) == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9)


# --- intervals


def test_the_tails_are_those_of_hesterberg():
    """Phi(-sqrt(n / (n - 1)) * t) with scipy's t and Phi; 2.5% for many values."""
    expected = {
        3: 6.83414e-08,
        4: 1.190307e-04,
        5: 9.541006e-04,
        10: 8.550639e-03,
        10_000: 0.02498041,
    }
    for n, share in expected.items():
        assert tail(n) == pytest.approx(share, rel=1e-5)
    assert [tail(n) for n in range(2, 20)] == sorted(tail(n) for n in range(2, 20))


def test_one_value_has_no_interval():
    """And three have their range, which is all that they can say."""
    assert interval([0.4]) is None
    assert interval([0.4, 0.1, 0.3]) == pytest.approx((0.1, 0.4), abs=1e-5)
    assert interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


@given(VALUES)
def test_up_to_five_values_every_resample_counts(values):
    """Against numpy over all n ** n resamples."""
    means = np.array(list(itertools.product(values, repeat=len(values)))).mean(axis=1)
    q = tail(len(values))
    expected = np.quantile(means, [q, 1 - q])
    assert interval(values) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-9)


def test_more_values_are_resampled_the_same_way_every_time():
    """In whatever order they come, and close to numpy's own bootstrap."""
    values = [0.31, 0.35, 0.28, 0.40, 0.33, 0.37, 0.30, 0.36]
    found = interval(values)
    assert found == interval(values[::-1])
    draws = np.random.default_rng(0).choice(values, (200_000, 8)).mean(axis=1)
    q = tail(8)
    assert found == pytest.approx(tuple(np.quantile(draws, [q, 1 - q])), abs=2e-3)


@settings(max_examples=30, deadline=None)
@given(VALUES, st.floats(-5, 5))
def test_an_interval_moves_with_its_values(values, shift):
    """And holds the statistic that it is about."""
    low, high = interval(values)
    assert low - 1e-9 <= mean(values) <= high + 1e-9
    moved = interval([value + shift for value in values])
    assert moved == pytest.approx((low + shift, high + shift), abs=1e-6)


def test_an_interval_of_another_statistic():
    """The interquartile mean of five values: the middle three of each resample."""
    values = [0.30, 0.31, 0.29, 0.32, 0.90]
    resamples = np.sort(list(itertools.product(values, repeat=5)), axis=1)
    expected = np.quantile(resamples[:, 1:4].mean(axis=1), [tail(5), 1 - tail(5)])
    assert interval(values, iqm) == pytest.approx(tuple(expected))


def test_groups_are_resampled_within_themselves():
    """Two groups far apart: no resample mixes them, so the difference keeps its sign."""
    groups = [[0.1, 0.2], [0.8, 0.9]]
    low, high = stratified_interval(groups, lambda s: mean(s[1]) - mean(s[0]))
    assert (low, high) == pytest.approx((0.6, 0.8), abs=1e-9)
    assert stratified_interval([[0.1, 0.2], [0.8]], lambda s: s[0][0]) is None


def test_the_interval_covers_as_often_as_it_says():
    """Normal values around 0: 92% for five seeds, as the docstring of `interval` says."""
    draws = np.random.default_rng(3).normal(size=(400, 5))
    held = sum(low <= 0 <= high for low, high in (interval(list(values)) for values in draws))
    assert 0.89 < held / 400 < 0.97


# --- one against another


@pytest.mark.parametrize(
    ("t", "degrees", "expected"),
    [
        (1, 1, 0.5),
        (2.776, 4, 0.05002277831997642),
        (-0.5, 3.7, 0.6453356333199318),
        (5, 10, 0.0005373336027564527),
        (12, 2, 0.00687293367715846),
        (0, 7, 1.0),
    ],
)
def test_students_t_is_that_of_scipy(t, degrees, expected):
    """2 * scipy.stats.t.sf(|t|, degrees)."""
    assert student_p(t, degrees) == pytest.approx(expected, rel=1e-8)


def test_the_tests_are_those_of_scipy():
    """ttest_ind(equal_var=False) and ttest_rel of the first three."""
    a, b = [0.61, 0.58, 0.64], [0.50, 0.55, 0.41, 0.52]
    assert welch_p(a, b) == pytest.approx(0.024400019903924527, rel=1e-9)
    assert paired_p([x - y for x, y in zip(a, b, strict=False)]) == pytest.approx(
        0.1678561853410409, rel=1e-9
    )


@pytest.mark.parametrize(
    ("first", "second", "goal", "probability", "verdict"),
    [
        ([0.61, 0.58, 0.64], [0.50, 0.55, 0.41, 0.52], "max", 1.0, "first"),
        ([0.61, 0.58, 0.64], [0.50, 0.55, 0.41, 0.52], "min", 0.0, "second"),
        ([0.50, 0.55, 0.41, 0.52], [0.61, 0.58, 0.64], "max", 0.0, "second"),
        ([0.5, 0.6, 0.4], [0.5, 0.55, 0.3], "max", 5.5 / 9, "not distinguishable"),
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5], "max", 0.5, "not distinguishable"),
        ([0.9], [0.1, 0.2], "max", 1.0, "n=1, no interval"),
    ],
)
def test_a_verdict_and_the_probability_of_improvement(first, second, goal, probability, verdict):
    """Wins over all pairs, ties half, by hand; better only where chance is below 5%."""
    found = compare_settings(seeds(first), seeds(second), goal=goal)
    assert found.probability == pytest.approx(probability)
    assert found.verdict == verdict
    assert (found.p is None) == (verdict == "n=1, no interval")


def test_three_equal_seeds_each_cannot_tell_two_settings_apart():
    """Without any spread only the permutations speak: 2 of 20 for three, 2 of 70 for four."""
    for n, p, verdict in ((2, 1 / 3, "not distinguishable"), (3, 0.1, "not distinguishable"),
                          (4, 2 / 70, "first")):  # fmt: skip
        found = compare_settings(seeds([0.5] * n), seeds([0.4] * n))
        assert (found.p, found.verdict) == (pytest.approx(p), verdict)
    assert compare_settings(seeds([0.5] * 6), seeds([0.4] * 6), paired=True).p == 2 / 64


def test_pairing_takes_out_what_a_seed_does_to_both():
    """A difference far below the spread over seeds, but the same in each."""
    second = [0.20, 0.50, 0.35, 0.61]
    first = [value + step for value, step in zip(second, [0.02, 0.03, 0.025, 0.021], strict=True)]
    assert compare_settings(seeds(first), seeds(second)).verdict == "not distinguishable"
    paired = compare_settings(seeds(first), seeds(second), paired=True)
    assert (paired.verdict, paired.probability, paired.paired) == ("first", 1.0, True)
    assert paired.difference == pytest.approx(0.024)


def test_pairing_uses_the_seeds_that_both_have():
    """The others have nothing to be compared with."""
    found = compare_settings({0: 0.5, 1: 0.7, 5: 9.9}, {1: 0.6, 0: 0.3, 2: -9.0}, paired=True)
    assert found.difference == pytest.approx(0.15)
    with pytest.raises(ValueError, match="no seed in common"):
        compare_settings({0: 0.5}, {1: 0.5}, paired=True)


def test_the_interval_of_the_probability_holds_it():
    """By hand for two runs each: any resample has the first ahead or level."""
    found = compare_settings(seeds([0.4, 0.6]), seeds([0.4, 0.2]))
    assert found.probability == 3.5 / 4
    assert found.probability_ci95 == pytest.approx((0.5, 1.0), abs=1e-6)


def test_equal_settings_are_told_apart_in_one_case_of_twenty():
    """Two samples of three from one normal distribution: at most 5% false verdicts."""
    draws = np.random.default_rng(11).normal(size=(1000, 2, 3))
    false = sum(welch_p(list(a), list(b)) < 0.05 for a, b in draws)
    assert false / 1000 < 0.065


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([0.9, 0.91, 0.92], [0.1, 0.12, 0.11], "the first is better (p = "),
        ([0.5, 0.6], [0.5, 0.7], "not distinguishable (p = 0."),
        ([0.5], [0.5], "n=1, no interval"),
    ],
)
def test_a_comparison_says_what_it_found(first, second, words):
    """In the words that the user reads."""
    assert str(compare_settings(seeds(first), seeds(second))).startswith(words)


# --- over time


def test_the_best_so_far_is_told_against_the_hours_spent():
    """Failed runs spend hours too, and nothing is best before the first value."""
    runs = [(1.0, None), (0.5, 0.3), (0.5, 0.2), (2.0, math.nan), (1.0, 0.6)]
    assert best_so_far(runs) == [(1.5, 0.3), (2.0, 0.3), (4.0, 0.3), (5.0, 0.6)]
    assert best_so_far(runs, "min") == [(1.5, 0.3), (2.0, 0.2), (4.0, 0.2), (5.0, 0.2)]
    assert best_so_far([(1.0, None)]) == []
