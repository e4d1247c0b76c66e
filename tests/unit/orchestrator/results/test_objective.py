"""What a run is worth and which setting it has, worked out by hand."""

import pytest

from orchestrator.results.objective import reduce_curve
from orchestrator.run import Objective


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
