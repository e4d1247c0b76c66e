"""Ranking and intervals, against numpy and against numbers worked out by hand."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.leaderboard import (
    Score,
    bootstrap_ci95,
    differing_keys,
    quantile,
    ranking,
    reduce_curve,
)
from orchestrator.run import Objective, Run, RunState

RUN = Run(
    id=1, sweep_id=1, sweep="s", name="r", position=0, priority=0, state=RunState.COMPLETED,
    reason=None, request=None, seed=0, overrides={}, set=(), output_dir="o", cwd="/", tags=(),
    hash=None, attempt=1, deaths=0, not_before=None, update=1, updates_total=1, metrics={},
    wall_s=1.0, exit_code=0, created="", started=None, ended=None,
)  # fmt: skip

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=4)


def score(value, run_id=1, **overrides):
    return Score(replace(RUN, id=run_id, overrides=overrides), value)


@pytest.mark.parametrize(
    ("reduce", "goal", "expected"),
    [
        ("last", "max", 2.0),
        ("best", "max", 5.0),
        ("best", "min", 1.0),
        ("last:2", "max", 1.5),
        ("last:3", "max", 8 / 3),
        ("last:99", "max", 2.75),
    ],
)
def test_a_curve_becomes_one_number(reduce, goal, expected):
    """By hand over 3, 5, 1, 2."""
    objective = Objective("em", goal, reduce)
    assert reduce_curve([3.0, 5.0, 1.0, 2.0], objective) == pytest.approx(expected)


def test_a_curve_without_finite_values_has_no_number():
    """NaN is never best, nor last."""
    assert reduce_curve([], Objective()) is None
    assert reduce_curve([float("nan")], Objective()) is None
    assert reduce_curve([1.0, float("nan")], Objective()) == 1.0
    assert reduce_curve([1.0, float("inf")], Objective(reduce="best")) == 1.0


def test_settings_are_ranked_by_their_mean_over_seeds():
    """A lucky seed does not win; equal means share a rank."""
    scores = [
        score(0.9, 1, lr=1),
        score(0.1, 2, lr=1),
        score(0.6, 3, lr=2),
        score(0.8, 4, lr=2),
        score(0.5, 5, lr=3),
    ]
    rows = ranking(scores, Objective())
    assert [(row.rank, row.params, row.n) for row in rows] == [
        (1, {"lr": 2}, 2),
        (2, {"lr": 1}, 2),
        (2, {"lr": 3}, 1),
    ]
    assert [row.mean for row in rows] == pytest.approx([0.7, 0.5, 0.5])
    assert [s.run.id for s in rows[0].scores] == [3, 4]
    assert [row.params for row in ranking(scores, Objective(goal="min"))][-1] == {"lr": 2}


def test_one_run_has_no_interval_and_two_have_their_own_values():
    """With two values the resampled means are a, (a+b)/2 twice, b; interpolated by hand."""
    assert bootstrap_ci95([0.5]) is None
    # Sorted means 0, 1, 1, 2; the 2.5% point lies at 0.075 of the way from the first.
    assert bootstrap_ci95([0.0, 2.0]) == pytest.approx((0.075, 1.925))


@given(VALUES)
def test_the_interval_of_few_values_is_the_exact_bootstrap(values):
    """All resamples written out, quantiles by numpy."""
    means = [np.mean(sample) for sample in itertools.product(values, repeat=len(values))]
    expected = np.quantile(means, [0.025, 0.975])
    assert bootstrap_ci95(values) == pytest.approx(tuple(expected), abs=1e-9)


def test_the_interval_of_many_values_is_near_the_normal_one():
    """For 40 values of a known spread: mean ± 1.96 standard errors, to a tenth of its width."""
    values = np.random.default_rng(3).normal(10, 2, 40)
    low, high = bootstrap_ci95(list(values))
    half = 1.96 * values.std() / np.sqrt(40)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert bootstrap_ci95(list(values[::-1])) == (low, high)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=9), st.floats(0, 1))
def test_quantiles_are_numpys(values, q):
    """Linear interpolation."""
    assert quantile(sorted(values), q) == pytest.approx(np.quantile(values, q), abs=1e-9)


def test_only_the_keys_that_differ_are_told():
    """A missing key differs from any value."""
    rows = [
        {"a": 1, "b": 2, "c": [1]},
        {"a": 1, "b": 3, "c": [1]},
        {"a": 1, "b": 3, "c": [1], "d": 0},
    ]
    assert differing_keys(rows) == ["b", "d"]
    assert differing_keys([]) == []
