"""Statistics against values worked out by hand, by numpy, and by scipy 1.17 (pinned)."""

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
    student_p,
    t_quantile,
    welch_p,
)

VALUES = st.lists(st.floats(-100, 100).map(lambda x: round(x, 3)), min_size=2, max_size=5)


def seeds(values):
    """Values by seed, the same seeds for each setting: pairs."""
    return {f"seed {i}": value for i, value in enumerate(values)}


def apart(values):
    """Values of seeds that no other setting has."""
    return {f"its own {i}": value for i, value in enumerate(values)}


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


def test_students_quantile_is_that_of_the_tables():
    """scipy.stats.t.ppf(0.975, degrees)."""
    for degrees, t in {
        1: 12.7062047,
        2: 4.3026527,
        4: 2.7764451,
        9: 2.2621572,
        299: 1.9679296,
    }.items():
        assert t_quantile(degrees) == pytest.approx(t, abs=1e-7)


def test_an_interval_is_that_of_students_t():
    """By hand: 0.1, 0.3, 0.4 have the mean 4/15 and the standard deviation 0.15275."""
    off = 4.3026527 * 0.1527525 / math.sqrt(3)
    assert interval([0.4, 0.1, 0.3]) == pytest.approx((4 / 15 - off, 4 / 15 + off), abs=1e-6)


def test_too_few_or_too_equal_values_have_no_interval():
    """Two have their range, which covers the mean in half of the cases; equal ones no spread."""
    assert interval([0.4]) is None
    assert interval([0.4, 0.1]) is None
    assert interval([0.5, 0.5, 0.5]) is None
    assert interval([0.1, 0.4, 0.5, 0.9], "iqm") is None
    assert interval([0.1, 0.5, 0.5, 0.5, 0.9], "iqm") is None


def test_the_interval_of_the_interquartile_mean_is_that_of_tukey_and_mclaughlin():
    """By hand, eight values, two cut off at each end: winsorised 3 3 3 4 5 6 6 6, four kept."""
    winsorised = np.array([3, 3, 3, 4, 5, 6, 6, 6])
    error = math.sqrt(((winsorised - winsorised.mean()) ** 2).sum() / (4 * 3))
    off = 4.3026527 * error  # t of two degrees of freedom, one less than theirs.
    found = interval([1, 2, 3, 4, 5, 6, 7, 90], "iqm")
    assert found == pytest.approx((4.5 - off, 4.5 + off), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(VALUES, st.floats(-5, 5))
def test_an_interval_moves_with_its_values(values, shift):
    """And holds the statistic that it is about."""
    found = interval(values)
    moved = interval([value + shift for value in values])
    if found is None:
        assert len(set(values)) == 1 or len(values) < 3
        return
    assert found[0] <= mean(values) <= found[1]
    assert moved == pytest.approx((found[0] + shift, found[1] + shift), abs=1e-6)


DRAWS = 4000


@pytest.mark.parametrize(
    ("n", "statistic"),
    [(n, "mean") for n in (3, 4, 5, 10)] + [(n, "iqm") for n in (5, 8, 12, 20)],
)
def test_what_is_called_a_95_percent_interval_holds_the_truth_in_95_of_100_cases(n, statistic):
    """Normal values around 0. Of 4,000 draws three standard errors are 1 of 100."""
    draws = np.random.default_rng(n).normal(size=(DRAWS, n))
    found = [interval(list(values), statistic) for values in draws]
    assert None not in found
    held = sum(low <= 0 <= high for low, high in found) / DRAWS
    assert held > 0.94
    if statistic == "mean":
        assert held < 0.96


@pytest.mark.parametrize("shares_seeds", [True, False])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_equal_settings_are_told_apart_in_at_most_one_case_of_twenty(n, shares_seeds):
    """Two samples from one normal distribution, with what a seed does to both, or without."""
    generator = np.random.default_rng(11)
    false = 0
    for _ in range(DRAWS):
        seed_effect = generator.normal(size=n) if shares_seeds else np.zeros(n)
        a, b = generator.normal(size=(2, n)) + seed_effect
        second = {f"seed {i if shares_seeds else i + n}": x for i, x in enumerate(b)}
        found = compare_settings({f"seed {i}": x for i, x in enumerate(a)}, second)
        assert found.paired is shares_seeds
        false += found.verdict != "not distinguishable"
    assert false / DRAWS < 0.06


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
    found = compare_settings(seeds(first), apart(second), goal=goal)
    assert found.probability == pytest.approx(probability)
    assert found.verdict == verdict
    assert (found.p is None) == (verdict == "n=1, no interval")


def test_three_equal_seeds_each_cannot_tell_two_settings_apart():
    """Without any spread only the permutations speak: 2 of 20 for three, 2 of 70 for four."""
    for n, p, verdict in ((2, 1 / 3, "not distinguishable"), (3, 0.1, "not distinguishable"),
                          (4, 2 / 70, "first")):  # fmt: skip
        found = compare_settings(seeds([0.5] * n), apart([0.4] * n))
        assert (found.p, found.verdict) == (pytest.approx(p), verdict)
    assert compare_settings(seeds([0.5] * 6), seeds([0.4] * 6)).p == 2 / 64


def test_equal_differences_do_not_spread_by_their_last_bit():
    """One row of a hundred more in each of three seeds; 0.31 - 0.30 is not 0.41 - 0.40."""
    found = compare_settings(seeds([0.31, 0.41, 0.57]), seeds([0.30, 0.40, 0.56]))
    assert (found.p, found.verdict) == (2 / 8, "not distinguishable")


def test_pairing_takes_out_what_a_seed_does_to_both():
    """A difference far below the spread over seeds, but the same in each."""
    second = [0.20, 0.50, 0.35, 0.61]
    first = [value + step for value, step in zip(second, [0.02, 0.03, 0.025, 0.021], strict=True)]
    assert compare_settings(seeds(first), apart(second)).verdict == "not distinguishable"
    paired = compare_settings(seeds(first), seeds(second))
    assert (paired.verdict, paired.probability, paired.paired) == ("first", 1.0, True)
    assert paired.difference == pytest.approx(0.024)


def test_pairing_uses_the_seeds_that_both_have():
    """The others have nothing to be compared with; a single pair says nothing of the spread."""
    first, second = {"0": 0.5, "1": 0.7, "5": 9.9}, {"1": 0.6, "0": 0.3, "2": -9.0}
    assert compare_settings(first, second).difference == pytest.approx(0.15)
    assert compare_settings(first, second).meetings == 2
    alone = compare_settings({"0": 0.5, "1": 0.7}, {"1": 0.6, "2": 0.2})
    assert (alone.paired, alone.meetings) == (False, 4)


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
